// printf's %.6g, %.9g and %.17g of normal numbers, as digits: correctly rounded, ties to even.
//
// One product with a power of ten gives all the digits and what is left of the next ones as a fixed-point number. The
// power is rounded down, so the product is too small by less than a known amount; whatever that could change is refused
// and left to the standard library. Powers of ten that are exact leave no doubt, which matters for ties: only numbers of
// few binary digits have them, and those are common.
#pragma once
#include <cstdint>
#include <limits>

#include "digits.hpp"
#include "number.hpp"
#include "powers_of_ten.hpp"
#include "shortest.hpp"

namespace stfs {

// How a float is told in full: as many digits as always suffice.
template <class F>
constexpr int FULL_DIGITS = sizeof(F) == 8 ? 17 : 9;

struct Rounded {
    uint64_t digits;  // FULL_DIGITS<F> of them, the first not 0; zeros stand where the precision ends
    int exponent;     // of the first digit
    int precision;
};

// Whether the first six digits, as a decimal, read back to x. q6 has six digits; the value is q6 * 10^power.
template <class F>
inline bool reads_back(uint64_t q6, int power, F x, bool& known) {
    known = power >= -22 && power <= 22;
    if (!known) return false;
    auto back = static_cast<double>(static_cast<int64_t>(q6));
    back = power < 0 ? back / POW10[-power] : back * POW10[power];
    return static_cast<F>(back) == x;
}

// x > 0 is normal. Six digits if `six` or if those read back to x, else all; false if this cannot tell, which is seldom.
template <class F>
inline bool rounded(F x, bool six, Rounded& result) {
    using Format = stfs::Format<F>;
    using Bits = typename Format::Bits;
    constexpr int full = FULL_DIGITS<F>;
    constexpr uint64_t unit = POW10_WHOLE[full - 6];
    const Bits bits = bits_of(x);
    constexpr Bits hidden = Bits{1} << Format::fraction_bits;
    const Bits c = (bits & (hidden - 1)) | hidden;
    const int q = Format::least_exponent - 1 + static_cast<int>(bits >> Format::fraction_bits);

    // The decimal exponent: that of the power of two below x, or one more if a power of ten lies between them and x is
    // not below it.
    const int exponent2 = q + Format::fraction_bits;
    int exponent = log10_of_pow2(exponent2);
    const Power& next = power_of_ten(exponent + 1);
    constexpr int spare = 63 - Format::fraction_bits;
    const bool inexact = (next.high << (64 - spare)) != 0 || next.low > 1;
    exponent += log2_of_pow10(exponent + 1) == exponent2 && c >= (next.high >> spare) + inexact;

    const int k = full - 1 - exponent;
    const int h = q + log2_of_pow10(k) + 1;
    const Power& g = power_of_ten(k);
    const Scaled v = scaled(g, c, h);
    const bool exact = k >= 0 && k <= 27;
    constexpr uint64_t doubt = sizeof(F) == 8 ? 2 : UINT64_C(1) << 31;  // what the fraction lacks is less

    const uint64_t q6 = v.whole / unit;
    const uint64_t after = v.whole - q6 * unit;
    // Half the distance between neighbours of x in units of the last digit, and something for what the fraction hides.
    const uint64_t reach = (g.high >> 1 >> (64 - h)) + 2;
    if (six || after - (reach + 1) >= unit - (2 * reach + 1)) {
        if (!exact && after == unit / 2 - 1 && v.fraction >= UINT64_C(0) - doubt) return false;
        const uint64_t up = (after > unit / 2) | ((after == unit / 2) & ((v.fraction != 0) | !exact | ((q6 & 1) != 0)));
        bool known = true;
        const bool same = six || reads_back(q6 + up, exponent - 5, x, known);
        if (!known) return false;
        if (same) {
            const bool longer = q6 + up == 1000000;
            result = Rounded{longer ? POW10_WHOLE[full - 1] : (q6 + up) * unit, exponent + longer, 6};
            return true;
        }
    }
    constexpr uint64_t half_one = UINT64_C(1) << 63;
    uint64_t up = v.fraction >> 63;
    if (__builtin_expect(v.fraction - (half_one - doubt) <= doubt, 0)) {
        if (exact) {
            up = v.fraction == half_one ? v.whole & 1 : 0;
        } else if (v.fraction < half_one) {
            return false;
        }
    }
    result = Rounded{v.whole + up, exponent, full};
    if (__builtin_expect(result.digits == POW10_WHOLE[full], 0)) {
        result.digits = POW10_WHOLE[full - 1];
        ++result.exponent;
    }
    return true;
}

}  // namespace stfs
