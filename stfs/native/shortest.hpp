// The shortest decimal that reads back to a binary floating-point number, and of those the one nearest to it.
//
// Raffaello Giulietti, "The Schubfach way to render doubles" (2020): a number and the two ends of what rounds to it are
// scaled by one power of ten, so that the interval holds one or a few whole numbers and at most one multiple of ten; the
// products are rounded to odd, which keeps every comparison with a multiple of a quarter exact. Names are the paper's
// where they help.
//
// Most numbers take a shorter way to the same answer. The product itself, as a whole number and a fraction of 64 bits, and
// half the distance to the next number say where the ends of the interval are but for a known error; only where that could
// matter, or an end or a tie is met exactly, the three exact products are made. Which candidate is taken is said without
// branches, since on real data each of them is a coin's toss.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "digits.hpp"
#include "number.hpp"
#include "powers_of_ten.hpp"

namespace stfs {

// digits * 10^exponent; the digits may end in zeros.
struct Decimal {
    uint64_t digits;
    int exponent;
};

// floor(log10(2^q)) and floor(log10(3/4 * 2^q)); right for |q| < 1500.
inline int log10_of_pow2(int q) { return (q * 1262611) >> 22; }
inline int log10_of_three_quarters_pow2(int q) { return (q * 1262611 - 524031) >> 22; }

// IEEE 754's interchange formats: x = fraction * 2^exponent.
template <class F>
struct Format;
template <>
struct Format<half> {
    using Bits = uint16_t;
    static constexpr int fraction_bits = 10, least_exponent = -24, exponent_mask = 0x1F;
};
template <>
struct Format<float> {
    using Bits = uint32_t;
    static constexpr int fraction_bits = 23, least_exponent = -149, exponent_mask = 0xFF;
};
template <>
struct Format<double> {
    using Bits = uint64_t;
    static constexpr int fraction_bits = 52, least_exponent = -1074, exponent_mask = 0x7FF;
};

template <class F>
inline typename Format<F>::Bits bits_of(F x) {
    typename Format<F>::Bits bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// cp * g / 2^64 or, for a double, / 2^128, rounded to odd.
inline uint64_t scaled_to_odd(const Power& g, uint32_t cp) {
    const uint128 product = static_cast<uint128>(g.high + 1) * cp;  // the paper's g of 64 bits
    const auto whole = static_cast<uint32_t>(product >> 64);
    return whole | (static_cast<uint32_t>(product >> 32) > 1);
}
inline uint64_t scaled_to_odd(const Power& g, uint64_t cp) {
    const uint64_t carried = static_cast<uint64_t>(static_cast<uint128>(g.low) * cp >> 64);
    const uint128 product = static_cast<uint128>(g.high) * cp + carried;
    return static_cast<uint64_t>(product >> 64) | (static_cast<uint64_t>(product) > 1);
}

// x is finite, not zero, and its sign is not looked at.
template <class F>
__attribute__((noinline)) Decimal shortest_exactly(F x) {
    using Format = stfs::Format<F>;
    using Word = std::conditional_t<sizeof(F) == 8, uint64_t, uint32_t>;
    const Word bits = bits_of(x);
    constexpr Word hidden = Word{1} << Format::fraction_bits;
    const Word fraction = bits & (hidden - 1);
    const int biased = static_cast<int>(bits >> Format::fraction_bits) & Format::exponent_mask;
    const Word c = biased == 0 ? fraction : fraction | hidden;
    const int q = Format::least_exponent - 1 + (biased == 0 ? 1 : biased);
    const bool uneven = fraction == 0 && biased > 1;  // a power of two: the numbers below lie half as far apart
    const uint64_t out = c & 1;                       // the ends of the interval belong to it if c is even
    const int k = uneven ? log10_of_three_quarters_pow2(q) : log10_of_pow2(q);
    const int h = q + log2_of_pow10(-k) + 1;
    const Power& g = power_of_ten(-k);
    const uint64_t v = scaled_to_odd(g, static_cast<Word>((4 * c) << h));  // in quarters of 10^k
    const uint64_t left = scaled_to_odd(g, static_cast<Word>((4 * c - (uneven ? 1 : 2)) << h));
    const uint64_t right = scaled_to_odd(g, static_cast<Word>((4 * c + 2) << h));
    const uint64_t s = v >> 2;
    const uint64_t tens = s / 10;
    const bool lower_ten = left + out <= 40 * tens;
    const bool upper_ten = 40 * tens + 40 + out <= right;
    uint64_t nearest = (v + 1 + (s & 1)) >> 2;  // of s and s + 1; a tie goes to the even one
    if (__builtin_expect(uneven, 0)) {
        const bool lower = left + out <= 4 * s, upper = 4 * s + 4 + out <= right;
        if (lower != upper) nearest = s + upper;
    }
    const uint64_t ten = 10 * (tens + upper_ten);
    const uint64_t shorter = UINT64_C(0) - static_cast<uint64_t>((lower_ten != upper_ten) & (s >= 10));
    return Decimal{nearest ^ ((nearest ^ ten) & shorter), k};
}

// c * 2^q * 10^k, where g stands for 10^k and h = q + log2_of_pow10(k) + 1, as a whole number and its fraction in units of
// 2^-64. It is too small by less than c << h of those for a float, by less than two for a double, and right if 10^k is
// exact in the bits that are used.
struct Scaled {
    uint64_t whole;
    uint64_t fraction;
};
inline Scaled scaled(const Power& g, uint32_t c, int h) {
    const uint128 product = static_cast<uint128>(g.high) * (c << h);
    return Scaled{static_cast<uint64_t>(product >> 64), static_cast<uint64_t>(product)};
}
inline Scaled scaled(const Power& g, uint64_t c, int h) {
    const uint64_t cp = c << h;
    const uint64_t carried = static_cast<uint64_t>(static_cast<uint128>(g.low - 1) * cp >> 64);
    const uint128 product = static_cast<uint128>(g.high) * cp + carried;
    return Scaled{static_cast<uint64_t>(product >> 64), static_cast<uint64_t>(product)};
}

// Whether (1 or 0) a and b, in units of 2^-60, differ by no more than the doubt about either: c << h is under 2^28 here.
template <class F>
inline int too_near(uint64_t a, uint64_t b) {
    constexpr uint64_t doubt = sizeof(F) == 8 ? 4 : UINT64_C(1) << 25;
    return a - b + 2 * doubt <= 4 * doubt;
}

template <class F>
inline Decimal shortest(F x) {
    using Format = stfs::Format<F>;
    using Word = std::conditional_t<sizeof(F) == 8, uint64_t, uint32_t>;
    const Word bits = bits_of(x);
    constexpr Word hidden = Word{1} << Format::fraction_bits;
    const Word fraction = bits & (hidden - 1);
    const int biased = static_cast<int>(bits >> Format::fraction_bits) & Format::exponent_mask;
    const int q = Format::least_exponent - 1 + biased;
    const int k = log10_of_pow2(q);
    const int h = q + log2_of_pow10(-k) + 1;
    const Power& g = power_of_ten(-k);
    const Scaled v = scaled(g, fraction | hidden, h);
    constexpr uint64_t unit = UINT64_C(1) << 60;
    const uint64_t reach = g.high >> (5 - h);  // half the distance between neighbours of x
    // The interval reaches less than five to either side, so only the nearer multiple of ten can lie in it.
    const uint64_t ten_below = v.whole / 10 * 10;
    const uint64_t above = (v.whole - ten_below) * unit + (v.fraction >> 4);
    const uint64_t up = UINT64_C(0) - static_cast<uint64_t>(above > 5 * unit);  // masks: see above
    const uint64_t distance = (above ^ up) + (up & (10 * unit + 1));
    const int unsure = too_near<F>(distance, reach) | too_near<F>(v.fraction >> 4, unit / 2);
    if (__builtin_expect(unsure | (fraction == 0) | (biased == 0), 0)) return shortest_exactly(x);
    const uint64_t nearest = v.whole + (v.fraction >> 63);
    const uint64_t shorter = UINT64_C(0) - static_cast<uint64_t>(distance < reach);
    return Decimal{nearest ^ ((nearest ^ (ten_below + (up & 10))) & shorter), k};
}

}  // namespace stfs
