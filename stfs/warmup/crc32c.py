"""CRC-32C (Castagnoli; RFC 3720, appendix B.4), as TFRecord files use it. Numpy only.

A cyclic redundancy check is linear over bits: the value of two pieces put together follows from the values of each. So
a large input is cut into pieces of equal length that are worked on side by side, a byte of each at a time, and their
values are then joined in pairs.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

_POLYNOMIAL = 0x82F63B78  # reflected
_ALL_ONES = 0xFFFFFFFF
_PIECE_BYTES = 256
_PIECE_BITS = 8  # of its length

Words = npt.NDArray[np.uint32]


def crc32c(data: bytes) -> int:
    """The checksum of ``data``, without TFRecord's mask."""
    state = _ALL_ONES
    at = 0
    while (pieces := (len(data) - at) // _PIECE_BYTES) >= 4:
        doublings = pieces.bit_length() - 1
        end = at + (_PIECE_BYTES << doublings)
        whole = np.frombuffer(data, np.uint8, end - at, at).reshape(1 << doublings, _PIECE_BYTES)
        carried = _apply(_skipping(_PIECE_BITS + doublings), np.array([state], np.uint32))
        state = int(carried[0]) ^ _joined(_values(whole))
        at = end
    table = _table().tolist()
    for byte in data[at:]:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ _ALL_ONES


def _values(pieces: npt.NDArray[np.uint8]) -> Words:
    """The value of each row, beginning from 0."""
    table = _table()
    state = np.zeros(len(pieces), np.uint32)
    for column in np.ascontiguousarray(pieces.T):
        state = table[(state ^ column) & 0xFF] ^ (state >> np.uint32(8))
    return state


def _joined(values: Words) -> int:
    """The value of all rows one after the other; there are a power of two of them."""
    doublings = _PIECE_BITS
    while len(values) > 1:
        values = _apply(_skipping(doublings), values[0::2]) ^ values[1::2]
        doublings += 1
    return int(values[0])


def _apply(operator: Words, values: Words) -> Words:
    """A linear operator, given by what it makes of each of the 32 bits."""
    out = np.zeros_like(values)
    for bit in range(32):
        out ^= operator[bit] * (values >> np.uint32(bit) & np.uint32(1))
    return out


@cache
def _skipping(doublings: int) -> Words:
    """What ``2 ** doublings`` bytes of zero make of a value."""
    if doublings == 0:
        bits = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
        stepped: Words = _table()[bits & np.uint32(0xFF)] ^ (bits >> np.uint32(8))
        return stepped
    half = _skipping(doublings - 1)
    return _apply(half, half)


@cache
def _table() -> Words:
    """What a byte makes of a value of 0."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = (values >> np.uint32(1)) ^ (values & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return values
