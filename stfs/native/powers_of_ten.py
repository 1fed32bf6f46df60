"""Writes ``powers_of_ten.hpp``: ``python stfs/native/powers_of_ten.py > stfs/native/powers_of_ten.hpp``.

Exact integer arithmetic, so the table is right by construction; a test writes it again and compares.
"""

LEAST, MOST = -342, 342
"""Down to 1e-342 a number of 19 digits may still be a double, and 1e+342 is asked for by the smallest doubles."""

HEAD = """\
// Powers of ten in 128 bits, written by powers_of_ten.py: do not edit.
//
// 10^k lies in [g - 1, g) * 2^(floor(log2(10^k)) - 127), where g, of 128 bits, is high * 2^64 + low. It is g - 1 times
// that exactly for 0 <= k <= 55, and for no other.
#pragma once
#include <cstdint>

namespace stfs {

struct Power {
    uint64_t high;
    uint64_t low;
};

constexpr int LEAST_POWER = %d;
constexpr int MOST_POWER = %d;

inline constexpr Power POWERS[MOST_POWER - LEAST_POWER + 1] = {
"""

TAIL = """\
};

inline const Power& power_of_ten(int k) { return POWERS[k - LEAST_POWER]; }

// floor(log2(10^k)); right for |k| < 1200.
inline int log2_of_pow10(int k) { return (k * 1741647) >> 19; }

// What a product of a power's half has room in.
__extension__ typedef unsigned __int128 uint128;

}  // namespace stfs
"""


def power(k: int) -> tuple[int, int]:
    """The two halves of g for 10^k: floor(10^k / 2^(floor(log2(10^k)) - 127)) + 1."""
    if k >= 0:
        exact = 10**k
        bits = exact.bit_length()
        g = (exact << (128 - bits) if bits <= 128 else exact >> (bits - 128)) + 1
    else:
        g = (1 << (10**-k).bit_length() - 1 + 128) // 10**-k + 1
    # Other code takes the high half, as it stands, for that of the power rounded down.
    if g.bit_length() != 128 or g & (1 << 64) - 1 == 0:
        raise AssertionError(f"10^{k} has no such form")
    return g >> 64, g & (1 << 64) - 1


def header() -> str:
    """The text of ``powers_of_ten.hpp``."""
    rows = [
        f"    {{0x{high:016x}, 0x{low:016x}}},  // {k}\n" for k in range(LEAST, MOST + 1) for high, low in [power(k)]
    ]
    return HEAD % (LEAST, MOST) + "".join(rows) + TAIL


if __name__ == "__main__":
    print(header(), end="")
