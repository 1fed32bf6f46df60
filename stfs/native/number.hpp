// What a number token is worth: doubles exactly as Python's float(text), integers exactly, halves rounded once.
//
// Grammar is scanner.hpp's; which tensor takes what is tensor.hpp's.
#pragma once
#include <Python.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "powers_of_ten.hpp"
#include "scanner.hpp"

namespace stfs {

constexpr double POW10[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

// mantissa * 10^exponent, correctly rounded; false if this cannot tell, which is seldom. The mantissa is not 0.
//
// Daniel Lemire, "Number Parsing at a Gigabyte per Second" (2021): the product with a power of ten of 128 bits has the
// digits of the result and some more, and a bounded error, which seldom reaches those that matter. Here a tie, or a
// number that is subnormal or overflows, is not told either.
STFS_INLINE bool through_product(uint64_t mantissa, int64_t exponent, double& value) {
    if (exponent < LEAST_POWER || exponent > 308) return false;
    const auto k = static_cast<int>(exponent);
    const Power& g = power_of_ten(k);
    const int zeros = __builtin_clzll(mantissa);
    mantissa <<= zeros;
    const uint128 product = static_cast<uint128>(mantissa) * g.high;
    auto high = static_cast<uint64_t>(product >> 64);
    // The power's low half can add one to `high`, which matters only if it carries out of the bits below the half bit; and
    // with none of those set there may be a tie.
    const int top = static_cast<int>(high >> 63);
    const int shift = 9 + top;
    const uint64_t below = (UINT64_C(1) << shift) - 1;
    if (__builtin_expect(((high + 1) & below) <= 1, 0)) {
        const auto low = static_cast<uint64_t>(product);
        const uint64_t sum = low + static_cast<uint64_t>(static_cast<uint128>(mantissa) * (g.low - 1) >> 64);
        high += sum < low;
        // Now the value is too small by less than 2 in the last place of `sum`.
        if (sum >= UINT64_C(0) - 2 || static_cast<int>(high >> 63) != top) return false;
        if ((high & below) == 0 && sum == 0 && (high >> shift & 1) != 0) return false;
    }
    const uint64_t halves = high >> shift;
    const int biased = log2_of_pow10(k) + 63 - zeros + top + 1023;
    if (biased < 1 || biased > 2045) return false;
    // The leading bit adds one to the exponent, and so does a fraction that rounds up to the next power of two.
    const uint64_t bits = (static_cast<uint64_t>(biased - 1) << 52) + (halves >> 1) + (halves & 1);
    std::memcpy(&value, &bits, 8);
    return true;
}

// The text's value by Python's own conversion: for what overflows, underflows or is absurdly long. Takes the lock.
inline double python_double(const char* start, const char* stop) {
    std::string text(start, stop);
    PyGILState_STATE state = PyGILState_Ensure();
    double value = PyOS_string_to_double(text.c_str(), nullptr, nullptr);
    PyGILState_Release(state);
    return value;
}

// mantissa * 10^exponent as Python rounds it; false if this cannot tell.
STFS_INLINE bool to_double(uint64_t mantissa, int64_t exponent, double& value) {
    if (mantissa <= (UINT64_C(1) << 53) && exponent >= -22 && exponent <= 22) {
        // Both operands are exact doubles, so the one operation rounds correctly [Clinger 1990].
        value = static_cast<double>(static_cast<int64_t>(mantissa));
        value = exponent < 0 ? value / POW10[-exponent] : value * POW10[exponent];
        return true;
    }
    return through_product(mantissa, exponent, value);
}

// Python's float(text), to the bit: infinity if it overflows.
STFS_INLINE double to_double(const NumberToken& t) {
    if (t.digits <= 19) {
        double value = 0.0;
        if (t.mantissa != 0 && !to_double(t.mantissa, t.exponent, value)) goto general;
        return t.negative ? -value : value;
    }
general:
    // from_chars clamps exponents; a text this short cannot hold enough zeros for that to show.
    if (t.stop - t.start <= 1000) {
        double value;
        auto result = std::from_chars(t.start, t.stop, value);
        if (result.ec == std::errc() && result.ptr == t.stop) return value;
    }
    return python_double(t.start, t.stop);
}

// An integer token as T; false if it is out of range.
template <class T>
STFS_INLINE bool to_integer(const NumberToken& t, T& out) {
    constexpr uint64_t max = static_cast<uint64_t>(std::numeric_limits<T>::max());
    if (t.digits > 19) {
        // 20 digits fit 64 bits only if they begin with 1 and did not wrap around.
        const char* first = t.start + t.negative;
        if (t.digits > 20 || *first != '1' || t.mantissa < UINT64_C(10000000000000000000)) return false;
    }
    if (!t.negative) {
        if (t.mantissa > max) return false;
        out = static_cast<T>(t.mantissa);
        return true;
    }
    if (t.mantissa > (std::numeric_limits<T>::is_signed ? max + 1 : 0)) return false;
    out = static_cast<T>(UINT64_C(0) - t.mantissa);
    return true;
}

// A finite integral double as T; false if it is out of range.
template <class T>
inline bool to_integer(double value, T& out) {
    // max + 1 is a power of two, so exact as a double where max itself may not be.
    double above = std::ldexp(1.0, std::numeric_limits<T>::digits);
    if (value >= above || value < (std::numeric_limits<T>::is_signed ? -above : 0.0)) return false;
    out = static_cast<T>(value);
    return true;
}

// IEEE 754 binary16, as its bits.
struct half {
    uint16_t bits;
};

inline half to_half(double value) {
    uint64_t bits;
    std::memcpy(&bits, &value, 8);
    auto sign = static_cast<uint16_t>(bits >> 48 & 0x8000);
    double size = std::fabs(value);
    uint64_t rounded;
    if (size != size) {
        rounded = 0x7E00;
    } else if (size >= 65520.0) {
        rounded = 0x7C00;
    } else if (size < 0x1p-14) {
        rounded = static_cast<uint64_t>(std::nearbyint(size * 0x1p24));
    } else {
        bits &= 0x7FFFFFFFFFFFFFFF;
        rounded = (bits >> 42) - (UINT64_C(1008) << 10);  // from an exponent bias of 1023 to one of 15
        uint64_t rest = bits & ((UINT64_C(1) << 42) - 1), tie = UINT64_C(1) << 41;
        rounded += rest > tie || (rest == tie && (rounded & 1) != 0);
    }
    return half{static_cast<uint16_t>(sign | rounded)};
}

inline double from_half(half h) {
    // The bits where a float has them, its exponent put right by a product, which is exact.
    const uint32_t bits = static_cast<uint32_t>(h.bits & 0x7FFF) << 13;
    float size;
    std::memcpy(&size, &bits, 4);
    size *= 0x1p112f;
    if (size >= 0x1p16f) {
        size = h.bits & 0x3FF ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    }
    return static_cast<double>(h.bits & 0x8000 ? -size : size);
}

}  // namespace stfs
