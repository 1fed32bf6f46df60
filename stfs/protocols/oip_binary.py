"""Tensors of the Open Inference Protocol as raw bytes: little-endian, row-major, without padding.

For the binary extension over HTTP and the raw contents over gRPC. No Python object is made of a number; of a text one
is, since that is how texts are held inside. Must not live here: where in a request the bytes stand.
"""

from __future__ import annotations

import sys
from struct import Struct

import numpy as np

from stfs.errors import InvalidInput
from stfs.signature import STRING, Array, TensorSpec

_LENGTH = Struct("<I")

_IS_LITTLE = sys.byteorder == "little"


def byte_size(spec: TensorSpec, count: int) -> int | None:
    """How many bytes ``count`` elements take; ``None`` for texts, whose bytes tell."""
    return None if spec.dtype == STRING else count * spec.dtype.itemsize


def read_raw(data: bytes | memoryview, start: int, size: int, spec: TensorSpec, count: int) -> Array:
    """``count`` elements of ``spec``'s dtype from ``size`` bytes at ``start``, as an array of one dimension.

    A view of ``data`` wherever that is aligned for the dtype (compiled frameworks may crash on what is not), else one
    copy. Raises :class:`InvalidInput` if the size is not that of ``count`` elements.
    """
    if spec.dtype == STRING:
        return _read_texts(memoryview(data)[start : start + size], spec, count)
    if size != count * spec.dtype.itemsize:
        raise InvalidInput(
            spec.name, f"{count} elements of {spec.dtype_name} take {count * spec.dtype.itemsize} bytes, got {size}"
        )
    if spec.dtype.kind == "b":
        # Whatever is not 0 is true: numpy must not be given a truth value that is neither 0 nor 1.
        return np.frombuffer(data, np.uint8, count, start).astype(np.bool_)
    if _IS_LITTLE:
        array = np.frombuffer(data, spec.dtype, count, start)
        return array if array.flags.aligned else array.copy()
    return np.frombuffer(data, spec.dtype.newbyteorder("<"), count, start).astype(spec.dtype)


def _read_texts(data: memoryview, spec: TensorSpec, count: int) -> Array:
    """Each element is its length, four bytes, and then so many bytes."""
    size = len(data)
    if 4 * count > size:  # before anything of that size is made
        raise InvalidInput(spec.name, f"{count} elements of BYTES take {4 * count} bytes at least, got {size}")
    array = np.empty(count, STRING)
    blob = bytes(data)
    at = 0
    unpack = _LENGTH.unpack_from
    for index in range(count):
        start = at + 4
        if start > size:
            raise _cut_short(spec, index, count, size)
        at = start + unpack(blob, at)[0]
        if at > size:
            raise _cut_short(spec, index, count, size)
        array[index] = blob[start:at]
    if at != size:
        raise InvalidInput(spec.name, f"its {count} elements end at byte {at} of {size}")
    return array


def _cut_short(spec: TensorSpec, index: int, count: int, size: int) -> InvalidInput:
    return InvalidInput(spec.name, f"its {size} bytes are cut short in element {index} of {count}")


def write_raw(array: Array) -> bytes | memoryview:
    """The array's elements; a view of it where it lies in memory as it travels."""
    if array.dtype.kind in "OSU":
        parts: list[bytes] = []
        for element in array.ravel().tolist():
            text = element if isinstance(element, bytes) else str(element).encode()
            parts += (_LENGTH.pack(len(text)), text)
        return b"".join(parts)
    flat: Array = np.ascontiguousarray(array).reshape(-1)
    if not _IS_LITTLE:
        flat = flat.astype(flat.dtype.newbyteorder("<"))
    return flat.view(np.uint8).data
