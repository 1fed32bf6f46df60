"""Reading TFRecord files: records of any bytes, each with two checksums. What the records hold is not known here.

A record is its length (uint64), a masked CRC-32C of those eight bytes, its bytes, and a masked CRC-32C of them; all
little-endian. See ``tensorflow/core/lib/io/record_reader.cc`` and https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stfs.errors import LoadFailed
from stfs.warmup.crc32c import crc32c

_HEAD = struct.Struct("<QI")
_LENGTH = struct.Struct("<Q")
_CHECK = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8


def records(path: Path) -> Iterator[bytes]:
    """Each record of the file, in order. Blocking.

    Raises :class:`LoadFailed`, naming the file and the byte, for what is cut short or does not fit its checksum.
    """
    try:
        with path.open("rb") as file:
            size_bytes = os.fstat(file.fileno()).st_size
            while file.tell() < size_bytes:
                yield _record(file, path, size_bytes)
    except OSError as error:
        raise LoadFailed(f"{path}: {error.strerror or error}") from None


def masked(checksum: int) -> int:
    """The checksum as it is stored: a checksum of data that holds checksums would be a weak one."""
    return ((checksum >> 15 | checksum << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _record(file: BinaryIO, path: Path, size_bytes: int) -> bytes:
    at = file.tell()
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise _broken(path, at, "it is cut short")
    length, check = _HEAD.unpack(head)
    if masked(crc32c(head[: _LENGTH.size])) != check:
        raise _broken(path, at, "the checksum of its length is wrong")
    if length > size_bytes - file.tell() - _CHECK.size:  # before any memory is taken for it
        raise _broken(path, at, f"it has {length} bytes, and the file ends before")
    data = file.read(length)
    (check,) = _CHECK.unpack(file.read(_CHECK.size))
    if masked(crc32c(data)) != check:
        raise _broken(path, at, "its checksum is wrong")
    return data


def _broken(path: Path, at: int, problem: str) -> LoadFailed:
    return LoadFailed(
        f"{path}: the record at byte {at}: {problem}. Please verify your warmup data is in TFRecord format."
    )
