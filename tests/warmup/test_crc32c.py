import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_logs import reference_crc32c

from stfs.warmup.crc32c import crc32c


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (b"\x00" * 32, 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_the_published_values(data, value):
    """RFC 3720, B.4, and the check value of the catalogue of CRCs."""
    assert crc32c(data) == value


@given(st.binary(max_size=64), st.integers(0, 5000))
def test_any_length_as_bit_by_bit(pattern, length):
    data = (pattern or b"\x00") * (length // max(1, len(pattern)) + 1)
    assert crc32c(data[:length]) == reference_crc32c(data[:length])


@pytest.mark.parametrize("length", [1023, 1024, 1025, 1 << 16, (1 << 16) + 255])
def test_where_pieces_begin(length):
    data = bytes(i * 7 + (i >> 8) & 0xFF for i in range(length))
    assert crc32c(data) == reference_crc32c(data)
    assert crc32c(data[:-1] + bytes((data[-1] ^ 1,))) != crc32c(data)
