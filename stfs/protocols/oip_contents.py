"""Typed values of the Open Inference Protocol over gRPC: the fields of ``InferTensorContents`` to numpy.

Must not live here: the messages around them (``oip_pb``), raw values (``oip_binary``).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from stfs.errors import InvalidInput
from stfs.protocols import wire
from stfs.protocols.oip_datatypes import datatype_of
from stfs.protocols.wire import FIXED32, FIXED64, LEN, VARINT
from stfs.signature import STRING, Array, TensorSpec

Fields = list[tuple[int, int, int, int]]
"""Fields of a message as :func:`stfs.protocols.wire.fields` tells them."""

NAMES = {
    1: "bool_contents",
    2: "int_contents",
    3: "int64_contents",
    4: "uint_contents",
    5: "uint64_contents",
    6: "fp32_contents",
    7: "fp64_contents",
    8: "bytes_contents",
}

_BYTES = 8

PLACES: Mapping[np.dtype[Any], int] = {
    np.dtype(np.bool_): 1,
    np.dtype(np.int8): 2,
    np.dtype(np.int16): 2,
    np.dtype(np.int32): 2,
    np.dtype(np.int64): 3,
    np.dtype(np.uint8): 4,
    np.dtype(np.uint16): 4,
    np.dtype(np.uint32): 4,
    np.dtype(np.uint64): 5,
    np.dtype(np.float32): 6,
    np.dtype(np.float64): 7,
    STRING: _BYTES,
}
"""Where values of each type stand if they are not raw; FP16 has no such place."""


def read_contents(data: bytes, contents: Fields, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """The values as an array of one dimension and of ``spec``'s dtype, aligned; ``contents`` are all fields there are.

    Raises :class:`InvalidInput` unless there are as many as ``shape`` has, in the place for their type.
    """
    count = prod(shape)
    datatype = datatype_of(spec.dtype)
    own = PLACES.get(spec.dtype)
    if own is None:
        raise InvalidInput(spec.name, f"{datatype} has no typed contents: send raw_input_contents")
    for number, kind, begin, end in contents:
        is_empty = kind == LEN and begin == end and number != _BYTES  # of which an empty one is an element
        if number != own and number in NAMES and not is_empty:
            raise InvalidInput(spec.name, f"{datatype} stands in {NAMES[own]}, not in {NAMES[number]}")
    if not contents and count:
        raise InvalidInput(spec.name, "it has no data: send raw_input_contents or contents")
    array = _values(data, contents, own, spec)
    if array.size != count:
        raise InvalidInput(spec.name, f"shape {list(shape)} has {count} elements, but {NAMES[own]} has {array.size}")
    return array


def _values(data: bytes, values: Fields, own: int, spec: TensorSpec) -> Array:
    """As numpy holds them, aligned; no Python object is made of a number that is packed, as all of them are."""
    if own == _BYTES:
        texts = [data[begin:end] for number, kind, begin, end in values if number == own and kind == LEN]
        array = np.empty(len(texts), STRING)
        array[:] = texts
        return array
    if spec.dtype.kind == "f":
        single = FIXED32 if own == 6 else FIXED64
        fixed = spec.dtype.newbyteorder("<")
        parts = [
            wire.unpack_fixed(data, (begin, end), fixed)
            for number, kind, begin, end in values
            if number == own and kind in (LEN, single)
        ]
        return np.concatenate(parts).astype(spec.dtype, copy=False) if parts else np.empty(0, spec.dtype)
    numbers = read_varints(data, values, own)
    if own == 1:
        flags: Array = numbers != 0
        return flags
    if own == 3:
        return numbers.view(np.int64)
    if own == 5:
        return numbers
    whole = numbers.astype(np.uint32)
    held = whole.view(np.int32) if own == 2 else whole
    narrow = held.astype(spec.dtype)
    if narrow.itemsize < held.itemsize and not np.array_equal(narrow, held):
        raise InvalidInput(spec.name, f"a value of {NAMES[own]} is out of range for {datatype_of(spec.dtype)}")
    return narrow


def read_varints(data: bytes, values: Fields, field_number: int) -> wire.Uint64s:
    """The numbers of a repeated field, in packed arrays, one by one, or both."""
    parts: list[wire.Uint64s] = []
    singles: list[int] = []  # numbers that follow one another
    for number, kind, begin, end in values:
        if number != field_number:
            continue
        if kind == VARINT:
            singles.append(begin)
        elif kind == LEN:
            if singles:
                parts.append(np.array(singles, np.uint64))
                singles = []
            parts.append(wire.unpack_varints(data, (begin, end)))
    if singles:
        parts.append(np.array(singles, np.uint64))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)
