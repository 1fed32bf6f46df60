"""The UBJSON reader on bytes made by hand after the specification; XGBoost's own files are read in its tests."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from stfs.platforms.ubjson import loads


def text(value: str) -> bytes:
    return b"L" + struct.pack(">q", len(value.encode())) + value.encode()


DOCUMENT = (
    b"{"
    + (text("numbers") + b"[$d#L" + struct.pack(">q", 3) + struct.pack(">3f", 1.5, -2.0, 0.25))
    + (text("counted") + b"[#i\x02" + b"i\xff" + b"U\xff")
    + (text("open") + b"[" + b"I\x01\x00" + b"S" + text("é") + b"T" + b"F" + b"Z" + b"]")
    + (
        text("more")
        + b"{"
        + b"i\x01a"
        + b"D"
        + struct.pack(">d", 0.1)
        + b"i\x01b"
        + b"l"
        + struct.pack(">i", -7)
        + b"}"
    )
    + b"}"
)


def test_every_kind_of_value():
    value = loads(DOCUMENT)
    np.testing.assert_array_equal(value.pop("numbers"), np.array([1.5, -2.0, 0.25], np.float32))
    assert value == {
        "counted": [-1, 255],
        "open": [256, "é", True, False, None],
        "more": {"a": 0.1, "b": -7},
    }


def test_whatever_is_cut_off_is_missed():
    for size in range(len(DOCUMENT)):
        with pytest.raises(ValueError, match="too soon"):
            loads(DOCUMENT[:size])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (DOCUMENT + b"}", "1 bytes follow the end"),
        (b"?", "unknown mark"),
        (b"[#i\xff", "a negative length"),
        (b"[#L" + struct.pack(">q", 1 << 60), "too soon"),
        (b"[$d#L" + struct.pack(">q", 1 << 60), "too soon"),
        (b"[$S#i\x01", "unknown kind of array"),
        (b"Sd\0\0\0\0", "a length was expected"),
        (b"[" * 100 + b"]" * 100, "nested too deep"),
    ],
)
def test_what_is_wrong_is_told(data, problem):
    with pytest.raises(ValueError, match=problem):
        loads(data)
