"""What a measured time depends on, as digests: the model's files, the machine with its software, what was asked for.

Blocking; any thread. Must not live here: what is kept by these names.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stfs.platforms.base import all_cores, usable_cores

PIECE_BYTES = 1 << 20

MAX_HASHED_BYTES = 4 << 30
"""Larger models go by the sizes and times of their files alone: to read all of one would take longer than timing it."""

THREADS_TOLD_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


def digest(value: Any) -> str:
    """Of anything that JSON can tell; what it cannot goes by its ``str``."""
    return _hex(hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=16))


def fingerprint(path: Path) -> tuple[str, int]:
    """A digest of where the files at ``path`` are and when each was changed, and their bytes in all.

    By the inode and its change time too: archives and images for containers give every file the same date.
    Raises :class:`OSError`.
    """
    told: list[Any] = [str(path.absolute())]
    total = 0
    for file in _files(path):
        found = file.stat()
        told.append((str(file), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
        total += found.st_size
    return digest(told), total


def contents(path: Path) -> str:
    """A digest of the files at ``path``: their names below it, and their bytes. Raises :class:`OSError`."""
    hashed = hashlib.blake2b(digest_size=16)
    for file in _files(path):
        name = file.relative_to(path).as_posix().encode()
        with file.open("rb") as opened:
            hashed.update(b"%d:%b:%d:" % (len(name), name, os.fstat(opened.fileno()).st_size))
            while piece := opened.read(PIECE_BYTES):
                hashed.update(piece)
    return _hex(hashed)


def machine(runtime: str) -> str:
    """A digest of the processors that runs may use, of Python, and of ``runtime``, which names framework and device."""
    return digest(
        {
            "processor": _processor(),
            "cores": [all_cores(), usable_cores()],
            "gpus": sorted(_gpus()),
            "system": [platform.machine(), platform.system()],
            "python": sys.version,
            "numpy": np.__version__,
            "runtime": runtime,
            "threads": [os.environ.get(name) for name in THREADS_TOLD_BY],
        }
    )


def _files(path: Path) -> Iterator[Path]:
    """``path`` itself if it is a file, else every file below it, in an order of their own names."""
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path, followlinks=False):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if file.is_file():
                yield file


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("model name", "Hardware", "CPU part")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _gpus() -> Iterator[str]:
    """Models of NVIDIA's, as their driver tells them."""
    for file in Path("/proc/driver/nvidia/gpus").glob("*/information"):
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        yield from (line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def _hex(hashed: Any) -> str:
    return str(hashed.hexdigest())
