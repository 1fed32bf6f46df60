"""Protobuf's wire format: numbers both ways, fields as protobuf reads them, InvalidRequest and no more for damage."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfs.errors import InvalidRequest
from stfs.protocols import wire

EDGES = [0, 1, 127, 128, 16383, 16384, 2**31 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
NUMBERS = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1), st.integers(0, 300))


def fields(data):
    return list(wire.fields(data, (0, len(data))))


@given(st.lists(NUMBERS, max_size=50))
def test_packed_numbers_come_back(values):
    packed = wire.pack_varints(np.array(values, np.uint64))
    assert packed == b"".join(wire.encode_varint(value) for value in values)
    assert wire.unpack_varints(packed, (0, len(packed))).tolist() == values
    assert wire.unpack_varints(b"\xff" + packed + b"\xff", (1, len(packed) + 1)).tolist() == values


@given(NUMBERS)
def test_a_number_is_read_where_it_stands(value):
    data = b"\xff\xff" + wire.encode_varint(value) + b"\x01"
    assert wire.varint(data, 2, len(data)) == (value, len(data) - 1)


def test_negative_numbers_have_ten_bytes():
    assert wire.encode_varint(-1) == b"\xff" * 9 + b"\x01"
    assert wire.signed(wire.varint(wire.encode_varint(-7), 0, 10)[0]) == -7
    assert wire.pack_varints(np.array([-1], np.int64).view(np.uint64)) == b"\xff" * 9 + b"\x01"


def test_overlong_numbers_are_numbers():
    """As protobuf has it: 1 may be written with zeros behind it."""
    assert wire.varint(b"\x81\x80\x00", 0, 3) == (1, 3)
    assert wire.unpack_varints(b"\x81\x80\x00\x05", (0, 4)).tolist() == [1, 5]


def test_fields_tell_where_their_content_lies():
    data = (
        wire.encode_number(1, 300)
        + wire.encode_bytes(2, b"abc")
        + bytes([3 << 3 | wire.FIXED32, 1, 2, 3, 4])
        + bytes([4 << 3 | wire.FIXED64, *range(8)])
    )
    assert fields(data) == [(1, 0, 300, 3), (2, 2, 5, 8), (3, 5, 9, 13), (4, 1, 14, 22)]


def test_groups_are_passed_over():
    inner = wire.encode_varint(9 << 3 | 3) + wire.encode_bytes(1, b"xy") + wire.encode_varint(9 << 3 | 4)
    group = wire.encode_varint(8 << 3 | 3) + inner + wire.encode_number(2, 7) + wire.encode_varint(8 << 3 | 4)
    assert [number for number, *_ in fields(group + wire.encode_number(1, 5))] == [1]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x00\x01", "field number 0"),
        (b"\x0f", "wire type 7"),
        (b"\x0c", "wire type 4"),
        (b"\x0a\x05abc", "cut short"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "cut short"),
        (b"\x0d\x01\x02", "cut short"),
        (b"\x08", "cut short"),
        (b"\x08\x80", "cut short"),
        (b"\x08" + b"\x80" * 11, "over ten bytes"),
        (b"\xff\xff\xff\xff\xff\xff\x01\x00", "field number"),
        (b"\x43\x08\x01", "group"),
        (b"\x43" * 200, "group"),
        (b"\x43\x4c", "group"),
    ],
)
def test_what_is_no_message_is_told(data, problem):
    with pytest.raises(InvalidRequest, match=problem):
        fields(data)


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_no_bytes_raise_anything_else(data):
    for read in (fields, lambda data: wire.unpack_varints(data, (0, len(data)))):
        with contextlib.suppress(InvalidRequest):
            assert read(data) is not None


def test_fixed_numbers_are_a_view():
    data = b"x" + np.array([1.5, -2.0], "<f4").tobytes()
    assert wire.unpack_fixed(data, (1, 9), np.dtype("<f4")).tolist() == [1.5, -2.0]
    with pytest.raises(InvalidRequest, match="4-byte numbers has 7 bytes"):
        wire.unpack_fixed(data, (1, 8), np.dtype("<f4"))
