"""Tells whose pickle a file is, by its first bytes. Loads nothing and runs nothing of what the pickle says.

Several frameworks save their models as ``.pkl`` and ``.joblib``. The class of the outermost object decides: a
scikit-learn pipeline that holds an XGBoost model is scikit-learn's.
"""

from __future__ import annotations

import bz2
import lzma
import pickletools
import zlib
from functools import lru_cache
from pathlib import Path

PICKLES = (".joblib", ".pkl", ".pickle")
BOOSTERS = frozenset({"catboost", "lightgbm", "xgboost"})
"""Packages that have a platform of their own for the pickles of their classes."""

_HEAD_BYTES = 64 << 10
"""A class is named in the first few dozen bytes of its pickle; its state comes after."""

# What pickle protocols 0 and 1 name before the class itself, and what only wraps the object that follows.
_PLUMBING = frozenset({"copyreg", "copy_reg"})
_BUILT_IN = frozenset({"builtins", "__builtin__"})
_SILENT = frozenset({"PROTO", "FRAME", "MARK", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "EMPTY_TUPLE", "NEWOBJ"})
_TEXT = frozenset(
    {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
)


def pickle_owner(file: Path) -> str | None:
    """The package whose class the pickle in ``file`` holds (``xgboost``, ``sklearn``); ``None`` if that is not seen.

    Reads at most 64 KiB, compressed by joblib or not, and remembers the answer for as long as the file stays the same.
    Never raises.
    """
    try:
        status = file.stat()
        return _owner(file, status.st_mtime_ns, status.st_size)
    except OSError:
        return None


@lru_cache(maxsize=256)
def _owner(file: Path, mtime_ns: int, size_bytes: int) -> str | None:
    with file.open("rb") as stream:
        module = outermost_module(_plain(stream.read(_HEAD_BYTES)))
    return module.partition(".")[0] if module else None


def outermost_module(head: bytes) -> str | None:
    """The module of the class of a pickle's outermost object; ``None`` if it is no class, or ``head`` no pickle.

    A tuple passes for its first member, for pickles write members first; whoever loads it will see.
    """
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name in _TEXT:
                texts.append(str(argument))
            elif opcode.name in ("GLOBAL", "STACK_GLOBAL"):
                module = str(argument).partition(" ")[0] if opcode.name == "GLOBAL" else texts[-2]
                if module not in _PLUMBING:
                    return None if module in _BUILT_IN else module
            elif opcode.name not in _SILENT:
                return None
    except Exception:  # whatever lies there, it is no pickle whose class can be told
        return None
    return None


def _plain(head: bytes) -> bytes:
    """The first bytes of what joblib's compressors wrote; ``head`` itself if it was none of them."""
    try:
        if head.startswith((b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")):
            return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(head, _HEAD_BYTES)
        if head.startswith(b"BZh"):
            return bz2.BZ2Decompressor().decompress(head, _HEAD_BYTES)
        if head.startswith((b"\xfd7zXZ", b"\x5d\x00\x00")):
            return lzma.LZMADecompressor().decompress(head, _HEAD_BYTES)
    except (zlib.error, OSError, ValueError, EOFError, lzma.LZMAError):
        return b""
    return head
