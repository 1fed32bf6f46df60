"""Tensors as bytes within a record. Owns their layout; knows no ring and no request.

Each tensor is a head (dtype, rank, bytes of data, dimensions), padding, its data, padding: head and data begin at a
multiple of 16 bytes from the start of the record. Data are

* numbers and booleans: their bytes in C order and the machine's byte order;
* strings: n + 1 offsets as int64, then the bytes of all elements, back to back.

Names are not told: both sides know the order of a signature's tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from math import prod
from struct import Struct
from typing import Any

import numpy as np

from stfs.front.ring import UNIT_BYTES, Piece
from stfs.signature import STRING, Array

_TEXT = 0
_DTYPES = [STRING] + [np.dtype(code) for code in "?bBhHiIlLefdFD"]  # the place in this list is the code that is told
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_INT64 = np.dtype(np.int64)

_HEAD = Struct("=IHHQ")  # dtype, rank, nothing, bytes of data
_DIMENSIONS = [Struct(f"={rank}q") for rank in range(65)]  # numpy has 64 at most
_FULL_HEADS = [Struct(f"=IHHQ{rank}q{-(16 + 8 * rank) % UNIT_BYTES}x") for rank in range(65)]
_PADDING = [bytes(-size % UNIT_BYTES) for size in range(UNIT_BYTES)]


def pack(arrays: Iterable[Array], pieces: list[Any]) -> int:
    """Append the bytes of ``arrays`` to ``pieces``, from a multiple of 16 on; how many bytes that are, another such.

    The arrays are appended as they are where they can be: they must not change before the pieces are put together.
    Raises :class:`TypeError` for a dtype that cannot be told.
    """
    total = 0
    for array in arrays:
        code = _CODES.get(array.dtype)
        if code is None:
            array, code = _native(array)
        head = _FULL_HEADS[array.ndim]
        if code == _TEXT:
            ends, text = _flatten(array)
            size = ends.nbytes + len(text)
            pieces.append(head.pack(code, array.ndim, 0, size, *array.shape))
            pieces.append(ends)
            pieces.append(text)
        else:
            size = array.nbytes
            pieces.append(head.pack(code, array.ndim, 0, size, *array.shape))
            if size:
                pieces.append(array if array.flags.c_contiguous else np.ascontiguousarray(array))
        pieces.append(_PADDING[size % UNIT_BYTES])
        total += head.size + size + -size % UNIT_BYTES
    return total


def size_of(arrays: Iterable[Array]) -> int:
    """About the bytes of these arrays; strings count for little, since only looking at each of them would tell."""
    return sum([array.nbytes for array in arrays])


def unpack(data: bytearray, at: int, count: int) -> tuple[list[Array], int]:
    """The ``count`` tensors from byte ``at`` on, numbers as views of ``data``, and the first byte behind them.

    Raises :class:`ValueError`, or whatever numpy raises, for what is no tensor.
    """
    arrays: list[Array] = []
    for _ in range(count):
        code, rank, _, size = _HEAD.unpack_from(data, at)
        shape = _DIMENSIONS[rank].unpack_from(data, at + 16)
        at += _FULL_HEADS[rank].size
        if code == _TEXT:
            arrays.append(_strings(data, at, size, shape))
        else:
            array: Array = np.ndarray(shape, _DTYPES[code], data, at)
            if array.nbytes != size:
                raise ValueError(f"a tensor of {array.nbytes} bytes has {size}")
            arrays.append(array)
        at += size + -size % UNIT_BYTES
    return arrays, at


def _native(array: Array) -> tuple[Array, int]:
    """In the machine's byte order, or in the dtype of which this one is another name."""
    dtype = array.dtype.newbyteorder("=")
    code = next((code for code, known in enumerate(_DTYPES) if known == dtype), None)
    if code is None:
        raise TypeError(f"dtype {array.dtype} cannot go between processes")
    return array.astype(_DTYPES[code]), code


def _flatten(array: Array) -> tuple[Array, bytes]:
    flat: list[bytes] = array.ravel().tolist()
    ends = np.zeros(len(flat) + 1, _INT64)
    np.cumsum([len(value) for value in flat], out=ends[1:])
    return ends, b"".join(flat)


def _strings(data: bytearray, at: int, size: int, shape: tuple[int, ...]) -> Array:
    count = prod(shape)
    ends: Array = np.ndarray((count + 1,), _INT64, data, at)
    text = bytes(data[at + ends.nbytes : at + size])
    strings = np.empty(count, STRING)
    strings[:] = [text[first:last] for first, last in pairwise(ends.tolist())]
    return strings.reshape(shape)


__all__ = ["Piece", "pack", "size_of", "unpack"]
