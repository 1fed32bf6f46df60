// What a number token is worth: doubles exactly as Python's float(text), integers exactly, halves rounded once.
//
// Grammar is scanner.hpp's; which tensor takes what is tensor.hpp's.
#pragma once
#include <Python.h>

#include <cfloat>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "scanner.hpp"

namespace stfs {

constexpr double POW10[23] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                              1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

#if LDBL_MANT_DIG == 64
constexpr long double POW10_LONG[28] = {1e0L,  1e1L,  1e2L,  1e3L,  1e4L,  1e5L,  1e6L,  1e7L,  1e8L,  1e9L,
                                        1e10L, 1e11L, 1e12L, 1e13L, 1e14L, 1e15L, 1e16L, 1e17L, 1e18L, 1e19L,
                                        1e20L, 1e21L, 1e22L, 1e23L, 1e24L, 1e25L, 1e26L, 1e27L};

// mantissa * 10^exponent through the 64-bit mantissa of an x87 register; false if that cannot tell.
//
// Both operands are exact, so the result is the true value rounded to 64 bits. Rounding it again to 53 bits is right
// unless it lies exactly on a tie between two doubles, where the true value may be on either side.
STFS_INLINE bool through_long_double(uint64_t mantissa, int64_t exponent, double& value) {
    if (exponent < -27 || exponent > 27) return false;
    long double x = static_cast<long double>(mantissa);
    x = exponent < 0 ? x / POW10_LONG[-exponent] : x * POW10_LONG[exponent];
    uint64_t bits;
    std::memcpy(&bits, &x, 8);
    if ((bits & 0x7FF) == 0x400) return false;
    value = static_cast<double>(x);
    return true;
}
#else
inline bool through_long_double(uint64_t, int64_t, double&) { return false; }
#endif

// The text's value by Python's own conversion: for what overflows, underflows or is absurdly long. Takes the lock.
inline double python_double(const char* start, const char* stop) {
    std::string text(start, stop);
    PyGILState_STATE state = PyGILState_Ensure();
    double value = PyOS_string_to_double(text.c_str(), nullptr, nullptr);
    PyGILState_Release(state);
    return value;
}

// Python's float(text), to the bit: infinity if it overflows.
STFS_INLINE double to_double(const NumberToken& t) {
    if (t.digits <= 19) {
        double value;
        if (t.mantissa == 0) {
            value = 0.0;
        } else if (t.mantissa <= (UINT64_C(1) << 53) && t.exponent >= -22 && t.exponent <= 22) {
            // Both operands are exact doubles, so the one operation rounds correctly [Clinger 1990].
            value = static_cast<double>(t.mantissa);
            value = t.exponent < 0 ? value / POW10[-t.exponent] : value * POW10[t.exponent];
        } else if (!through_long_double(t.mantissa, t.exponent, value)) {
            goto general;
        }
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
