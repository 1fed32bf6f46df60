"""Reads MXNet's ``.params`` files: names and dense tensors. Trusts no number in them, and loads no library.

MXNet's own reader runs beyond its memory on a damaged file and takes the process with it. The layout, all of it little
endian, as ``NDArray::Save`` of MXNet 0.x and 1.x writes it::

    uint64 0x112, uint64 0, uint64 count, count tensors, uint64 count, count names: uint64 length, bytes

    tensor: uint32 0xF993FAC9 or 0xF993FACA, int32 storage (0: dense), int32 ndim, int64 dims
            or uint32 0xF993FAC8, uint32 ndim, int64 dims
            or, before those, uint32 ndim, uint32 dims
            then, unless it has no shape: int32 device, int32 device's number, int32 type, the elements in C order
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed
from stfs.signature import Array

DTYPES = tuple(np.dtype(t) for t in ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"))
"""In the order of MXNet's type flags, ``mshadow/base.h``."""
FILE, TENSOR_V1, TENSOR_V2, TENSOR_V3 = 0x112, 0xF993FAC8, 0xF993FAC9, 0xF993FACA
MOST_DIMS = 32
MOST_NAME_BYTES = 4096


def read_params(file: Path) -> dict[str, Array]:
    """The tensors by name (``arg:fc1_weight``, ``aux:bn_moving_mean``), read-only views of the file's content.

    Raises :class:`LoadFailed` naming the file, and the byte that was wrong.
    """
    try:
        content = np.fromfile(file, np.uint8)
    except OSError as error:
        raise LoadFailed(f"{file}: cannot be read: {error.strerror}") from None
    content.flags.writeable = False
    reader = _Reader(content)
    try:
        return _tensors(reader)
    except _DamagedError as error:
        raise LoadFailed(f"{file}: does not load as parameters of MXNet, at byte {reader.at}: {error}") from None


class _DamagedError(Exception):
    """What is wrong, where the reader stands."""


class _Reader:
    """Takes numbers and elements off the front of a file's content; ``at`` counts bytes."""

    def __init__(self, content: Array) -> None:
        self._content = content
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that have not been taken."""
        return len(self._content) - self.at

    def take(self, form: str) -> tuple[Any, ...]:
        """Numbers in :mod:`struct`'s form, little endian."""
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form)).tobytes())

    def bytes(self, count: int) -> Array:
        """A view of the next ``count`` bytes."""
        if count > self.left:
            raise _DamagedError(f"the file ends {count - self.left} bytes too early")
        self.at += count
        return self._content[self.at - count : self.at]


def _tensors(reader: _Reader) -> dict[str, Array]:
    if reader.left < 8 or reader.take("Q")[0] != FILE:
        reader.at = 0
        raise _DamagedError("it does not begin as they do")
    _, count = reader.take("QQ")
    tensors = []
    for _ in range(count):  # each takes bytes of the file, so a wrong count ends at the file's end
        tensors.append(_tensor(reader))
    (named,) = reader.take("Q")
    if named != count:
        raise _DamagedError(f"it holds {count} tensors and {named} names")
    names = [_name(reader) for _ in range(named)]
    return {name: tensor for name, tensor in zip(names, tensors, strict=True) if tensor is not None}


def _tensor(reader: _Reader) -> Array | None:
    """``None`` for a tensor without a shape, which holds nothing."""
    (kind,) = reader.take("I")
    if kind in (TENSOR_V2, TENSOR_V3):
        storage, ndim = reader.take("ii")
        if storage != 0:
            raise _DamagedError("a tensor is sparse, which is not served")
        form, empty = "q", 0 if kind == TENSOR_V2 else -1
    elif kind == TENSOR_V1:
        (ndim,), form, empty = reader.take("I"), "q", 0
    else:
        ndim, form, empty = kind, "I", 0
    if ndim == empty:
        return None
    if not 0 < ndim <= MOST_DIMS:
        raise _DamagedError(f"a tensor has {ndim} dimensions")
    shape = reader.take(f"{ndim}{form}")
    _, _, flag = reader.take("iii")
    if any(dim <= 0 for dim in shape):
        raise _DamagedError(f"a tensor has the shape {list(shape)}")
    if not 0 <= flag < len(DTYPES):
        raise _DamagedError(f"a tensor is of MXNet's type {flag}, which numpy does not have")
    dtype = DTYPES[flag]
    items = 1
    for dim in shape:
        items *= dim
    values: Array = reader.bytes(items * dtype.itemsize).view(dtype).reshape(shape)
    return values


def _name(reader: _Reader) -> str:
    (length,) = reader.take("Q")
    if length > MOST_NAME_BYTES:
        raise _DamagedError(f"a name has {length} bytes")
    try:
        return reader.bytes(length).tobytes().decode()
    except UnicodeDecodeError:
        raise _DamagedError("a name is not text") from None
