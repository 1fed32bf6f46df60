"""Loads, asks and closes one model again and again: ``python -m conformance.cycles PLATFORM MODEL ANSWERS COUNT``.

Prints the resident set of this process after each cycle, in kilobytes, as a JSON list. It is a process of its own, so
that nothing but the model moves the figure; a platform that lives in a worker process loads right here.
"""

import ctypes
import gc
import json
import os
import pickle
import sys
from pathlib import Path

from stfs import platforms
from stfs.platforms.base import LoadOptions


def resident_kilobytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4


def trim() -> None:
    """Give freed memory back to the kernel, as far as glibc has it in hand: what stays is what is held."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def main(name: str, path: Path, answers: Path, count: int) -> None:
    inputs, _ = pickle.loads(answers.read_bytes())
    figures = []
    for _ in range(count):
        servable = platforms.find(name).load(path, LoadOptions(threads=1))
        signature = servable.signatures[servable.default_signature]
        servable.run(signature.name, signature.bind(inputs))
        servable.close()
        del servable
        trim()
        figures.append(resident_kilobytes())
    print(json.dumps(figures), flush=True)
    os._exit(0)  # how a JVM and an interpreter end together is not what is measured


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
