"""Typed values of the Open Inference Protocol over gRPC: the fields of ``InferTensorContents`` to numpy.

Must not live here: the messages around them (``oip_pb``), raw values (``oip_binary``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest
from stfs.protocols import wire
from stfs.protocols.oip_datatypes import datatype_of
from stfs.protocols.wire import FIXED32, FIXED64, LEN, Field, Span
from stfs.signature import STRING, Array, TensorSpec

MAX_FIELDS = 1 << 16
"""The most fields of a message that are no texts; numbers come packed, so that nobody needs more. Reading them holds up
the event loop, and a large message could be made of nothing else."""

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


def few(fields: Iterable[Field]) -> Iterator[Field]:
    """``fields``, unless they are over :data:`MAX_FIELDS`: then :class:`InvalidRequest`."""
    for count, one in enumerate(fields):
        if count >= MAX_FIELDS:
            raise InvalidRequest(f"a message has over {MAX_FIELDS} fields: send numbers packed, or raw_input_contents")
        yield one


def read_contents(data: bytes, contents: Sequence[Span], spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """The values as an array of one dimension and of ``spec``'s dtype, aligned.

    ``contents`` is where the messages are that hold them. Raises :class:`InvalidInput` unless there are as many values
    as ``shape`` has, in the place for their type.
    """
    count = prod(shape)
    datatype = datatype_of(spec.dtype)
    own = PLACES.get(spec.dtype)
    if own is None:
        raise InvalidInput(spec.name, f"{datatype} has no typed contents: send raw_input_contents")
    if not contents and count:
        raise InvalidInput(spec.name, "it has no data: send raw_input_contents or contents")
    values = _own_values(data, contents, own, spec)
    array = _texts(data, values, spec, count) if own == _BYTES else _numbers(data, list(few(values)), own, spec)
    if array.size != count:
        raise InvalidInput(spec.name, f"shape {list(shape)} has {count} elements, but {NAMES[own]} has {array.size}")
    return array


def _own_values(data: bytes, contents: Sequence[Span], own: int, spec: TensorSpec) -> Iterator[Field]:
    """The fields that hold values of this type. Raises :class:`InvalidInput` for values of another."""
    for span in contents:
        for one in wire.fields(data, span):
            number, kind, begin, end = one
            if number == own:
                yield one
            elif number in NAMES and (kind != LEN or begin < end or number == _BYTES):  # an empty text is a value
                datatype = datatype_of(spec.dtype)
                raise InvalidInput(spec.name, f"{datatype} stands in {NAMES[own]}, not in {NAMES[number]}")


def _texts(data: bytes, values: Iterable[Field], spec: TensorSpec, count: int) -> Array:
    texts: list[bytes] = []
    for _, kind, begin, end in values:
        if kind == LEN:
            texts.append(data[begin:end])
            if len(texts) > count:
                raise InvalidInput(spec.name, f"its shape has {count} elements, but {NAMES[_BYTES]} has more")
    array = np.empty(len(texts), STRING)
    array[:] = texts
    return array


def _numbers(data: bytes, values: Sequence[Field], own: int, spec: TensorSpec) -> Array:
    """As numpy holds them; no Python object is made of a number that is packed, as all of them are."""
    if spec.dtype.kind == "f":
        single = FIXED32 if spec.dtype.itemsize == 4 else FIXED64
        fixed = spec.dtype.newbyteorder("<")
        parts = [
            wire.unpack_fixed(data, (begin, end), fixed) for _, kind, begin, end in values if kind in (LEN, single)
        ]
        return np.concatenate(parts).astype(spec.dtype, copy=False) if parts else np.empty(0, spec.dtype)
    numbers = wire.gather_varints(data, values)
    if spec.dtype.kind == "b":
        flags: Array = numbers != 0
        return flags
    if spec.dtype.itemsize == 8:
        return numbers.view(spec.dtype)
    whole = numbers.astype(np.uint32)
    held = whole.view(np.int32) if spec.dtype.kind == "i" else whole
    narrow = held.astype(spec.dtype)
    if narrow.itemsize < held.itemsize and not np.array_equal(narrow, held):
        raise InvalidInput(spec.name, f"a value of {NAMES[own]} is out of range for {datatype_of(spec.dtype)}")
    return narrow
