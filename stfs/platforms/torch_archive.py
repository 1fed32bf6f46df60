"""What a PyTorch file is, told from its zip listing and a few bytes. Imports no torch, runs and unpickles nothing.

All of PyTorch's formats are zip files with one folder inside: TorchScript has ``code/``, ``torch.export`` has
``models/*.json``, an AOTInductor package has ``data/aotinductor/``, and what ``torch.save`` writes has ``data.pkl``
only. Before version 1.6 ``torch.save`` wrote bare pickles.
"""

from __future__ import annotations

import enum
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_LISTING_BYTES = 64 << 20
MOST_READ_BYTES = 64 << 20
PICKLE_BYTES = 1 << 20
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How ``torch.save`` began its files before it wrote zip files: a pickle of its magic number."""
EXPORT = (
    "export it with torch.jit.script(model).save('model.pt') "
    "or torch.export.save(torch.export.export(model, args), 'model.pt2')"
)
PLAIN_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Kind(enum.Enum):
    """What wrote a file."""

    TORCHSCRIPT = "torch.jit.save"
    EXPORT = "torch.export.save"
    AOTI = "torch._inductor.aoti_compile_and_package"
    PICKLED = "torch.save"
    UNKNOWN = "something else"


def kind_of(file: Path) -> Kind:
    """What wrote ``file``; ``UNKNOWN`` also for one that cannot be read. Never raises."""
    names = listing(file)
    if not names:
        return Kind.PICKLED if _begins(file, (LEGACY, *PLAIN_PICKLE)) else Kind.UNKNOWN
    inside = {name.partition("/")[2] for name in names} | set(names)
    if any("data/aotinductor/" in name and name.endswith(".so") for name in inside):
        return Kind.AOTI
    if "serialized_exported_program.json" in inside or any(
        name.startswith("models/") and name.endswith(".json") for name in inside
    ):
        return Kind.EXPORT
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return Kind.TORCHSCRIPT
    return Kind.PICKLED if "data.pkl" in inside else Kind.UNKNOWN


def refusal(file: Path, kind: Kind) -> str:
    """Why a file of a ``kind`` that cannot be served is not, and what to do; begins with the path."""
    if kind is Kind.UNKNOWN:
        return f"{file}: is no PyTorch file, or is cut short: there is no zip directory at its end"
    first = _first_class(file)
    if not first or first.startswith(("collections.", "torch.", "numpy.")):
        return (
            f"{file}: holds weights without the model that they belong to: load them into it in Python, then {EXPORT}"
        )
    return f"{file}: holds a pickled {first}, which would run any code as it loads, and needs that class: {EXPORT}"


def listing(file: Path) -> Sequence[str]:
    """The names in the zip file; empty if it is none, is cut short, or lists more than can be a model's."""
    try:
        with file.open("rb") as opened:
            size = _listing_bytes(opened)
            if size is None or size > MOST_LISTING_BYTES:
                return ()
            with zipfile.ZipFile(opened) as archive:
                return archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, struct.error, NotImplementedError):
        return ()


def read_texts(file: Path, suffix: str, within: str = "") -> dict[str, str]:
    """The files inside whose names end in ``suffix`` and have ``within``, each of at most 64 MiB. Never raises."""
    texts = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(suffix) and within in entry.filename and entry.file_size <= MOST_READ_BYTES:
                    texts[entry.filename] = archive.read(entry).decode(errors="replace")
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError):
        return texts
    return texts


def read_jsons(file: Path, suffix: str, within: str = "") -> list[Any]:
    """The same, parsed; what is not JSON is left out."""
    found = []
    for text in read_texts(file, suffix, within).values():
        try:
            found.append(json.loads(text))
        except ValueError:
            continue
    return found


def _begins(file: Path, starts: Sequence[bytes]) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(16).startswith(tuple(starts))
    except OSError:
        return False


def _listing_bytes(opened: io.BufferedReader) -> int | None:
    """The size of the central directory, from the record at the end (APPNOTE.TXT 4.3.14 to 4.3.16)."""
    end = opened.seek(0, io.SEEK_END)
    start = max(0, end - 66_000)
    opened.seek(start)
    tail = opened.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        return None
    (size,) = struct.unpack_from("<I", tail, at + 12)
    if size == 0xFFFFFFFF and at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        opened.seek(struct.unpack_from("<Q", tail, at - 12)[0])
        (size,) = struct.unpack_from("<Q", opened.read(56), 40)
    return int(size)


def _first_class(file: Path) -> str:
    """The first class that the file's pickle names, dotted; empty if none is found. Only walks the opcodes."""
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(name) as opened:
                data = opened.read(PICKLE_BYTES)
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, RuntimeError, NotImplementedError):
        return ""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                return ".".join(strings[-2:])
            if isinstance(argument, str):
                strings.append(argument)
    except Exception:  # not a pickle after all, or cut
        return ""
    return ""
