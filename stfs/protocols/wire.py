"""Protobuf's wire format over bytes and numpy: fields, varints, packed arrays. No messages, and no protobuf needed.

Readers never copy a field: they say where in ``data`` it lies. What is wrong in the bytes is an
:class:`stfs.errors.InvalidRequest` and nothing else. See https://protobuf.dev/programming-guides/encoding. Must not
live here: what the fields of any message mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stfs.errors import InvalidRequest

VARINT, FIXED64, LEN, FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, int]
"""One occurrence of a field, as :func:`fields` tells it: number, wire type, and two numbers for its content."""

_START_GROUP, _END_GROUP = 3, 4

MAX_VARINT_BYTES = 10
MAX_GROUP_DEPTH = 100
_MASK64 = (1 << 64) - 1

Span = tuple[int, int]
"""From and to where in the data a field's content lies."""

Uint64s = npt.NDArray[np.uint64]


def fields(data: bytes, span: Span) -> Iterator[Field]:
    """Each field of the message at ``span``: number, wire type, and two numbers that tell its content.

    These are where it begins and ends, or for ``VARINT`` its value (unsigned, 64 bits) and where it ends. Groups, which
    no message here has, are passed over. Raises :class:`InvalidRequest` for what is no protobuf message.
    """
    at, end = span
    while at < end:
        tag, at = varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if not number or tag >> 32:
            raise _broken(f"field number {number}")
        if kind == LEN:
            size, at = varint(data, at, end)
            stop = at + size
        elif kind == VARINT:
            value, at = varint(data, at, end)
            yield number, VARINT, value, at
            continue
        elif kind == FIXED32:
            stop = at + 4
        elif kind == FIXED64:
            stop = at + 8
        elif kind == _START_GROUP:
            at = _past_group(data, at, end, number)
            continue
        else:
            raise _broken(f"wire type {kind}")
        if stop > end:
            raise _broken(f"field {number} is cut short")
        yield number, kind, at, stop
        at = stop


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The unsigned 64-bit value at ``at``, and where it ends."""
    if at < end and data[at] < 0x80:
        return data[at], at + 1
    value = shift = 0
    for index in range(at, min(end, at + MAX_VARINT_BYTES)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, index + 1
        shift += 7
    raise _broken("a number is cut short" if end - at < MAX_VARINT_BYTES else "a number has over ten bytes")


def signed(value: int) -> int:
    """An ``int64`` or ``int32`` from the unsigned value that stands on the wire."""
    return value - (1 << 64) if value >> 63 else value


def text(data: bytes, span: Span, what: str) -> str:
    """A ``string`` field, which must be UTF-8."""
    try:
        return data[span[0] : span[1]].decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{what} is not UTF-8") from None


def unpack_varints(data: bytes, span: Span) -> Uint64s:
    """The values of a packed array of varints, unsigned: for an ``int32`` the low 32 bits count."""
    raw = np.frombuffer(data, np.uint8, span[1] - span[0], span[0])
    if not raw.size:
        return np.empty(0, np.uint64)
    is_last = raw < 0x80
    if not is_last[-1]:
        raise _broken("a packed array is cut short")
    ends = np.flatnonzero(is_last)
    if ends.size == raw.size:
        return raw.astype(np.uint64)
    starts = np.empty_like(ends)
    starts[0] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    lengths = ends - starts + 1
    longest = int(lengths.max())
    if longest > MAX_VARINT_BYTES:
        raise _broken("a number has over ten bytes")
    values = (raw[starts] & 0x7F).astype(np.uint64)
    live = np.arange(ends.size)
    for place in range(1, longest):  # as many steps as the longest number has bytes, whatever their count
        live = live[lengths[live] > place]
        values[live] |= (raw[starts[live] + place] & 0x7F).astype(np.uint64) << np.uint64(7 * place)
    return values


def gather_varints(data: bytes, occurrences: Iterable[Field]) -> Uint64s:
    """The numbers of a repeated varint field, whether they came in packed arrays, one by one, or both, in order."""
    parts: list[Uint64s] = []
    singles: list[int] = []  # numbers that follow one another
    for _, wire_type, begin, end in occurrences:
        if wire_type == VARINT:
            singles.append(begin)
        elif wire_type == LEN:
            if singles:
                parts.append(np.array(singles, np.uint64))
                singles = []
            parts.append(unpack_varints(data, (begin, end)))
    if singles:
        parts.append(np.array(singles, np.uint64))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def pack_varints(values: Uint64s) -> bytes:
    """The other way round; signed numbers come as their two's complement in 64 bits."""
    if not values.size:
        return b""
    largest = int(values.max())
    if largest < 0x80:
        return values.astype(np.uint8).tobytes()
    longest = (largest.bit_length() + 6) // 7
    lengths = np.ones(values.size, np.int64)
    for place in range(1, longest):
        lengths += values >= np.uint64(1 << 7 * place)
    ends = np.cumsum(lengths)
    out = np.empty(int(ends[-1]), np.uint8)
    starts = ends - lengths
    live = np.arange(values.size)
    for place in range(longest):
        live = live[lengths[live] > place]
        bits = (values[live] >> np.uint64(7 * place)).astype(np.uint8) & np.uint8(0x7F)
        more = (lengths[live] > place + 1).astype(np.uint8) << np.uint8(7)
        out[starts[live] + place] = bits | more
    return out.tobytes()


def unpack_fixed(data: bytes, span: Span, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A packed array of ``fixed32`` or ``fixed64``, ``float`` or ``double``: a read-only view of ``data``."""
    size = span[1] - span[0]
    if size % dtype.itemsize:
        raise _broken(f"a packed array of {dtype.itemsize}-byte numbers has {size} bytes")
    return np.frombuffer(data, dtype, size // dtype.itemsize, span[0])


def encode_varint(value: int) -> bytes:
    """A number; a negative one as its two's complement in 64 bits."""
    value &= _MASK64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_number(number: int, value: int) -> bytes:
    """A varint field; nothing for 0, which proto3 does not write."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value) if value else b""


def encode_bytes(number: int, content: bytes) -> bytes:
    """A string, bytes, message or packed array, empty or not."""
    return encode_varint(number << 3 | LEN) + encode_varint(len(content)) + content


def encode_strings(number: int, values: Sequence[bytes]) -> bytes:
    """A repeated field of strings."""
    tag = encode_varint(number << 3 | LEN)
    return b"".join([part for value in values for part in (tag, encode_varint(len(value)), value)])


def _past_group(data: bytes, at: int, end: int, number: int) -> int:
    """Where the group that begins at ``at`` ends."""
    open_groups = [number]
    while at < end:
        tag, at = varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _START_GROUP:
            open_groups.append(number)
            if len(open_groups) > MAX_GROUP_DEPTH:
                break
        elif kind == _END_GROUP:
            if open_groups.pop() != number:
                break
            if not open_groups:
                return at
        elif kind == VARINT:
            _, at = varint(data, at, end)
        elif kind == LEN:
            size, at = varint(data, at, end)
            at += size
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            break
    raise _broken("a group does not end where it should")


def _broken(problem: str) -> InvalidRequest:
    return InvalidRequest(f"the message is no valid protobuf: {problem}")
