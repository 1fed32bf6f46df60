"""``tensorflow.TensorProto`` to numpy and back, straight from and to its bytes.

Both ways a tensor may be sent are read: its bytes (``tensor_content``) or typed values (``float_val``, ...), of which
fewer than the shape asks for stand for the last one repeated, as ``Tensor::FromProto`` of TensorFlow has it. Kept
stricter than there: more values than the shape holds are refused, not cut off, and so is an integer that its type
cannot hold. Field numbers are those of ``tensorflow/core/framework/tensor.proto`` and ``types.proto``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest
from stfs.protocols import wire
from stfs.protocols.wire import LEN, VARINT, Span
from stfs.signature import MAX_FILLED, STRING, Array

_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
_HALF, _FLOAT, _DOUBLE, _INT, _STRING, _INT64, _BOOL, _UINT32, _UINT64 = 13, 5, 6, 7, 8, 10, 11, 16, 17

_FLOAT32, _FLOAT64 = np.dtype("<f4"), np.dtype("<f8")


class Kind(NamedTuple):
    """One of TensorFlow's dtypes: its number, its name, numpy's, and the field that holds its values."""

    number: int
    name: str
    dtype: np.dtype[Any]
    field: int


BFLOAT16 = Kind(14, "DT_BFLOAT16", np.dtype("float32"), _HALF)
"""Numpy has none, so it becomes float32, which holds each of its values."""

KINDS = (
    Kind(1, "DT_FLOAT", np.dtype("float32"), _FLOAT),
    Kind(2, "DT_DOUBLE", np.dtype("float64"), _DOUBLE),
    Kind(3, "DT_INT32", np.dtype("int32"), _INT),
    Kind(4, "DT_UINT8", np.dtype("uint8"), _INT),
    Kind(5, "DT_INT16", np.dtype("int16"), _INT),
    Kind(6, "DT_INT8", np.dtype("int8"), _INT),
    Kind(7, "DT_STRING", STRING, _STRING),
    Kind(9, "DT_INT64", np.dtype("int64"), _INT64),
    Kind(10, "DT_BOOL", np.dtype("bool"), _BOOL),
    Kind(17, "DT_UINT16", np.dtype("uint16"), _INT),
    Kind(19, "DT_HALF", np.dtype("float16"), _HALF),
    Kind(22, "DT_UINT32", np.dtype("uint32"), _UINT32),
    Kind(23, "DT_UINT64", np.dtype("uint64"), _UINT64),
)
_BY_NUMBER: Mapping[int, Kind] = {kind.number: kind for kind in (*KINDS, BFLOAT16)}
_BY_DTYPE: Mapping[np.dtype[Any], Kind] = {kind.dtype: kind for kind in KINDS}
_WIRE_DTYPES: Mapping[int, np.dtype[Any]] = {_FLOAT: _FLOAT32, _DOUBLE: _FLOAT64}


def kind_of(dtype: np.dtype[Any]) -> Kind | None:
    """TensorFlow's dtype for numpy's, if there is one."""
    return _BY_DTYPE.get(dtype)


class Budget:
    """What the tensors of one request may hold beyond what it sent: values that a shape asks for and nobody wrote."""

    __slots__ = ("left",)

    def __init__(self, left: int = MAX_FILLED) -> None:
        self.left = left

    def spend(self, count: int) -> None:
        """Raises :class:`InvalidRequest` when it is used up."""
        self.left -= count
        if self.left < 0:
            raise InvalidRequest(f"over {MAX_FILLED} values are left to be filled in: send them, or fewer at a time")


def decode(data: bytes, spans: Sequence[Span], name: str, budget: Budget) -> Array:
    """The tensor whose message stands at ``spans``, one after the other; ``name`` is for errors.

    The array is new, C-contiguous and in native byte order. Raises :class:`stfs.errors.InvalidRequest`.
    """
    number = 0
    shapes: list[Span] = []
    content: Span | None = None
    values: list[tuple[int, int, int, int]] = []
    for span in spans:
        for field in wire.fields(data, span):
            which, wire_type, begin, end = field
            if which == _DTYPE and wire_type == VARINT:
                number = wire.signed(begin)
            elif which == _SHAPE and wire_type == LEN:
                shapes.append((begin, end))
            elif which == _CONTENT and wire_type == LEN:
                content = (begin, end)
            else:
                values.append(field)
    kind = _BY_NUMBER.get(number)
    if kind is None:
        raise InvalidInput(
            name, f"dtype number {number} is none that is served; see tensorflow/core/framework/types.proto"
        )
    shape = _shape(data, shapes, name)
    count = math.prod(shape)
    if not count:
        budget.spend(math.prod(size for size in shape if size))
        found = _from_values(data, values, kind, name)
        if found.size or (content is not None and content[0] < content[1]):
            raise InvalidInput(name, f"values for shape {list(shape)}, which has none")
    elif content is not None and content[0] < content[1]:
        found = _from_content(data, content, kind, count, name)
    else:
        found = _filled(_from_values(data, values, kind, name), kind, count, name, budget)
    try:
        return found.reshape(shape)
    except ValueError as error:  # too many dimensions, or sizes of which numpy cannot tell the product
        raise InvalidInput(name, f"shape with {len(shape)} dimensions: {error}") from None


def encode(array: Array) -> bytes:
    """The message, with typed values, as TensorFlow Serving answers. Raises :class:`TypeError` for another dtype."""
    kind = _BY_DTYPE.get(array.dtype)
    if kind is None:
        raise TypeError(f"TensorFlow has no dtype for {array.dtype}")
    dims = b"".join([wire.encode_bytes(2, wire.encode_number(1, size)) for size in array.shape])
    head = wire.encode_number(_DTYPE, kind.number) + wire.encode_bytes(_SHAPE, dims)
    if not array.size:
        return head
    if kind.field == _STRING:
        return head + wire.encode_strings(_STRING, array.ravel().tolist())
    return head + wire.encode_bytes(kind.field, _packed(array, kind))


def _packed(array: Array, kind: Kind) -> bytes:
    if (dtype := _WIRE_DTYPES.get(kind.field)) is not None:
        return array.astype(dtype, copy=False).tobytes()
    if kind.field == _HALF:
        array = np.ascontiguousarray(array).view(np.uint16)
    elif array.dtype.kind == "i":
        array = array.astype(np.int64).view(np.uint64)  # a negative number has all ten bytes, even an int32
    return wire.pack_varints(array.astype(np.uint64, copy=False).ravel())


def _shape(data: bytes, spans: Sequence[Span], name: str) -> tuple[int, ...]:
    """``TensorShapeProto``: each field 2 is a dimension with its size in field 1; field 3 leaves the rank open."""
    sizes: list[int] = []
    for span in spans:
        for which, wire_type, begin, end in wire.fields(data, span):
            if which == 2 and wire_type == LEN:
                size = 0
                for inner, inner_type, value, _ in wire.fields(data, (begin, end)):
                    if inner == 1 and inner_type == VARINT:
                        size = wire.signed(value)
                if size < 0:
                    raise InvalidInput(
                        name, f"dimension {len(sizes)} of its shape is {size}: give the sizes that it has"
                    )
                sizes.append(size)
            elif which == 3 and wire_type == VARINT and begin:
                raise InvalidInput(name, "its shape has an unknown rank: give the sizes that it has")
    return tuple(sizes)


def _from_content(data: bytes, span: Span, kind: Kind, count: int, name: str) -> Array:
    if kind.field == _STRING:
        return _strings_of_content(data, span, count, name)
    item_bytes = 2 if kind is BFLOAT16 else kind.dtype.itemsize
    have = span[1] - span[0]
    if have != count * item_bytes:
        raise InvalidInput(
            name, f"tensor_content has {have} bytes where {count} elements of {kind.name} have {count * item_bytes}"
        )
    if kind is BFLOAT16:
        return _widen(wire.unpack_fixed(data, span, np.dtype("<u2")))
    array = wire.unpack_fixed(data, span, kind.dtype.newbyteorder("<"))
    if kind.dtype.kind == "b":  # any other byte would be a bool that is neither
        return np.not_equal(array.view(np.uint8), 0)
    return array.astype(kind.dtype)  # a copy: aligned, writable, and not holding on to the request


def _strings_of_content(data: bytes, span: Span, count: int, name: str) -> Array:
    """All lengths as varints, then all the bytes (``EncodeStringList`` of TensorFlow)."""
    at, end = span
    if count > end - at:
        raise InvalidInput(name, f"tensor_content has {end - at} bytes, too few for {count} strings")
    lengths: list[int] = []
    for _ in range(count):
        length, at = wire.varint(data, at, end)
        lengths.append(length)
    if sum(lengths) != end - at:
        raise InvalidInput(name, f"tensor_content tells of {sum(lengths)} bytes of strings and has {end - at}")
    array = np.empty(count, STRING)
    for index, length in enumerate(lengths):
        array[index] = data[at : at + length]
        at += length
    return array


def _from_values(data: bytes, values: Sequence[tuple[int, int, int, int]], kind: Kind, name: str) -> Array:
    """What the field of this kind holds; packed arrays and single values may alternate."""
    if kind.field == _STRING:
        strings = [data[begin:end] for which, wire_type, begin, end in values if which == _STRING and wire_type == LEN]
        array = np.empty(len(strings), STRING)
        array[:] = strings
        return array
    if (fixed := _WIRE_DTYPES.get(kind.field)) is not None:
        single_type = wire.FIXED32 if fixed is _FLOAT32 else wire.FIXED64
        parts = [
            wire.unpack_fixed(data, (begin, end), fixed)
            for which, wire_type, begin, end in values
            if which == kind.field and wire_type in (LEN, single_type)
        ]
        return np.concatenate(parts).astype(kind.dtype, copy=False) if parts else np.empty(0, kind.dtype)
    numbers = wire.gather_varints(data, [each for each in values if each[0] == kind.field])
    return _CAST[kind.field](numbers, kind, name)


def _as_ints(numbers: wire.Uint64s, kind: Kind, name: str) -> Array:
    """``int_val`` is an int32 whatever the type that it stands for."""
    whole = numbers.astype(np.uint32).view(np.int32)
    if kind.dtype == np.int32:
        return whole
    narrow = whole.astype(kind.dtype)
    if not np.array_equal(narrow, whole):
        raise InvalidInput(name, f"a value of int_val is out of range for {kind.name}")
    return narrow


def _as_halves(numbers: wire.Uint64s, kind: Kind, name: str) -> Array:
    """``half_val`` holds the 16 bits of each number in an int32."""
    if numbers.size and int(numbers.max()) > 0xFFFF:
        raise InvalidInput(name, "a value of half_val has more than 16 bits")
    bits = numbers.astype(np.uint16)
    return _widen(bits) if kind is BFLOAT16 else bits.view(np.float16)


def _widen(bits: Array) -> Array:
    """Bfloat16 is the upper half of float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


_CAST: Mapping[int, Callable[[wire.Uint64s, Kind, str], Array]] = {
    _INT: _as_ints,
    _HALF: _as_halves,
    _INT64: lambda numbers, _, __: numbers.view(np.int64),
    _UINT64: lambda numbers, _, __: numbers,
    _UINT32: lambda numbers, _, __: numbers.astype(np.uint32),
    _BOOL: lambda numbers, _, __: numbers != 0,
}


def _filled(found: Array, kind: Kind, count: int, name: str, budget: Budget) -> Array:
    """As many values as the shape holds: the last one again, or zeros if there is none."""
    have = found.size
    if have == count:
        return found
    if have > count:
        raise InvalidInput(name, f"{have} values of {kind.name} where its shape holds {count}")
    budget.spend(count - have)
    array = np.empty(count, kind.dtype)
    array.fill(found[-1] if have else (b"" if kind.field == _STRING else 0))  # np.full would cut a string's last zeros
    array[:have] = found
    return array
