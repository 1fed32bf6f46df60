// Floats as JSON text in the two styles that codec_py/write.py defines, met byte for byte.
//
// Which digits are shortest.hpp's and rounded.hpp's to say; here they are laid out. Knows no array and no Python object.
#pragma once
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "digits.hpp"
#include "number.hpp"
#include "rounded.hpp"
#include "shortest.hpp"

namespace stfs {

// Digits as text, in whole words: `first` and then eight or sixteen more.
struct DigitText {
    uint64_t first;
    uint64_t next;
    uint64_t last;  // unused by floats of 32 bits
    int count;      // without the zeros at the end
};

// `digits` has as many digits as F can need: nine, or seventeen for a double.
template <class F>
inline DigitText digit_text(uint64_t digits) {
    DigitText text;
    if constexpr (sizeof(F) == 8) {
        const auto nine = static_cast<uint32_t>(digits / 100000000);
        const uint64_t last = eight_bytes(static_cast<uint32_t>(digits - static_cast<uint64_t>(nine) * 100000000));
        const uint32_t first = nine / 100000000;
        const uint64_t next = eight_bytes(nine - first * 100000000);
        text.count = last != 0 ? 17 - (__builtin_clzll(last) >> 3) : 9 - (__builtin_clzll(next | 1) >> 3) - (next == 0);
        text.first = first;
        text.next = next | ASCII_ZEROS;
        text.last = last | ASCII_ZEROS;
    } else {
        const auto n = static_cast<uint32_t>(digits);
        const uint32_t first = n / 100000000;
        const uint64_t next = eight_bytes(n - first * 100000000);
        text.first = first;
        text.count = 9 - (__builtin_clzll(next | 1) >> 3) - (next == 0);
        text.next = next | ASCII_ZEROS;
        text.last = 0;
    }
    text.first += '0';
    return text;
}

// Digits that stand before the point in greater number than a word holds, or have zeros behind them.
template <class F>
__attribute__((noinline)) char* lay_out_wide(const DigitText& d, int exponent, char* o) {
    char digits[40];
    std::memset(digits, '0', sizeof digits);
    digits[0] = static_cast<char>(d.first);
    store8(digits + 1, d.next);
    if constexpr (sizeof(F) == 8) store8(digits + 9, d.last);
    const int whole = exponent + 1;
    std::memcpy(o, digits, 24);
    o[whole] = '.';
    std::memcpy(o + whole + 1, digits + whole, 16);
    return o + whole + 1 + (d.count > whole ? d.count - whole : 1);
}

// Digits in place if -4 <= exponent < high, with high at most 17; else with an exponent of two digits or more: 12.5,
// 100.0, 1e-07.
template <class F>
inline char* lay_out(uint64_t digits, int exponent, int high, char* o) {
    constexpr bool wide = sizeof(F) == 8;
    const DigitText d = digit_text<F>(digits);
    if (exponent < 0 && exponent >= -4) {
        std::memcpy(o, "0.000000", 8);
        o += 1 - exponent;
        *o = static_cast<char>(d.first);
        store8(o + 1, d.next);
        if constexpr (wide) store8(o + 9, d.last);
        return o + d.count;
    }
    if (exponent >= 0 && exponent < high) {
        if (__builtin_expect(exponent > 7, 0)) return lay_out_wide<F>(d, exponent, o);
        *o = static_cast<char>(d.first);
        store8(o + 1, d.next);
        o[exponent + 1] = '.';
        store8(o + exponent + 2, d.next >> (8 * exponent));
        if constexpr (wide) store8(o + 10, d.last);
        return o + 1 + (d.count > exponent + 1 ? d.count : exponent + 2);
    }
    o[0] = static_cast<char>(d.first);
    o[1] = '.';
    store8(o + 2, d.next);
    if constexpr (wide) store8(o + 10, d.last);
    o += d.count + (d.count > 1);
    o[0] = 'e';
    o[1] = exponent < 0 ? '-' : '+';
    const int size = exponent < 0 ? -exponent : exponent;
    if (size >= 100) return write_whole(static_cast<uint64_t>(size), o + 2);
    o[2] = static_cast<char>('0' + size / 10);
    o[3] = static_cast<char>('0' + size % 10);
    return o + 4;
}

// printf's %.{precision}g, with .0 if nothing else says that it is a float.
inline char* general(double x, int precision, char* o) {
    char* end = std::to_chars(o, o + MAX_NUMBER_BYTES, x, std::chars_format::general, precision).ptr;
    for (char* p = o; p < end; ++p) {
        if (*p == '.' || *p == 'e') return end;
    }
    *end++ = '.';
    *end++ = '0';
    return end;
}

inline char* write_not_finite(double x, char* o) {
    const char* text = x != x ? "NaN" : x < 0 ? "-Infinity" : "Infinity";
    const size_t length = std::strlen(text);
    std::memcpy(o, text, length);
    return o + length;
}

inline double as_value(double x) { return x; }
inline float as_value(float x) { return x; }
inline float as_value(half x) { return static_cast<float>(from_half(x)); }
inline float magnitude(float x) { return std::fabs(x); }
inline double magnitude(double x) { return std::fabs(x); }
inline half magnitude(half x) { return half{static_cast<uint16_t>(x.bits & 0x7FFF)}; }

// What is to be written for one number: FULL_DIGITS digits, the exponent of the first, and lay_out's `high`. Or, for an
// exponent, one of these: the digits are a whole number; the number needs the standard library; it is not finite.
struct Told {
    enum : int { WHOLE = 1000, EXACTLY, NOT_FINITE };
    uint64_t digits;
    int exponent;
    int high;
};

template <class F>
STFS_INLINE Told tell_shortest(F x) {
    constexpr int full = FULL_DIGITS<F>;
    const Decimal d = shortest(x);
    constexpr int fewest = sizeof(F) == 8 ? 16 : 7;  // that normal numbers have
    if (__builtin_expect(d.digits < POW10_WHOLE[fewest - 1], 0)) {
        const int count = digit_count(d.digits);
        return Told{d.digits * POW10_WHOLE[full - count], d.exponent + count - 1, 16};
    }
    if constexpr (sizeof(F) == 8) {
        const uint64_t lacks = d.digits < POW10_WHOLE[full - 1];  // a mask, since a branch on it is a coin's toss
        const uint64_t digits = d.digits + (9 * d.digits & (UINT64_C(0) - lacks));
        return Told{digits, d.exponent + full - 1 - static_cast<int>(lacks), 16};
    } else {
        const int count = fewest + (d.digits >= POW10_WHOLE[fewest]) + (d.digits >= POW10_WHOLE[fewest + 1]);
        return Told{d.digits * POW10_WHOLE[full - count], d.exponent + count - 1, 16};
    }
}

template <class F>
STFS_INLINE Told tell_tfs(F x) {
    Rounded r;
    if (!(x >= std::numeric_limits<F>::min()) || !rounded(x, false, r)) return Told{0, Told::EXACTLY, 0};
    return Told{r.digits, r.exponent, r.precision};
}

// Six digits always tell a half.
STFS_INLINE Told tell_tfs(half h) {
    Rounded r;
    if (!rounded(as_value(h), true, r)) return Told{0, Told::EXACTLY, 0};
    return Told{r.digits, r.exponent, 6};
}

template <class F>
STFS_INLINE Told tell(F x, bool tfs) {
    using Value = std::conditional_t<sizeof(F) == 8, double, float>;
    using Integer = std::conditional_t<sizeof(F) == 8, int64_t, int32_t>;
    const Value value = std::fabs(as_value(x));
    if (__builtin_expect(!(value <= std::numeric_limits<Value>::max()), 0)) return Told{0, Told::NOT_FINITE, 0};
    // Whole numbers that every style writes digit for digit, because a neighbour of theirs is a whole number too.
    constexpr Value most = sizeof(F) == 2 ? Value(2048) : sizeof(F) == 4 ? Value(16777216) : Value(999999999999999);
    if (value <= (tfs ? Value(999999) : most) && value == static_cast<Value>(static_cast<Integer>(value))) {
        return Told{static_cast<uint64_t>(static_cast<Integer>(value)), Told::WHOLE, 0};
    }
    return tfs ? tell_tfs(magnitude(x)) : tell_shortest(magnitude(x));
}

// What rounded.hpp cannot tell, and subnormal numbers.
template <class F>
__attribute__((noinline)) char* write_tfs_exactly(F x, char* o) {
    const double value = as_value(x);
    char* end = general(value, 6, o);
    if constexpr (sizeof(F) > 2) {
        double back = 0;
        std::from_chars(o, end, back);
        if (static_cast<F>(back) != x) end = general(value, FULL_DIGITS<F>, o);
    }
    return end;
}

// Writes at o, which has MAX_NUMBER_BYTES of room, and gives the end.
template <class F>
STFS_INLINE char* write_told(const Told& told, F x, char* o) {
    if (told.exponent == Told::NOT_FINITE) return write_not_finite(as_value(x), o);
    *o = '-';
    o += std::signbit(as_value(x));
    if (told.exponent >= Told::WHOLE) {
        if (told.exponent == Told::EXACTLY) return write_tfs_exactly(magnitude(x), o);
        o = write_whole(told.digits, o);
        std::memcpy(o, ".0", 2);
        return o + 2;
    }
    return lay_out<F>(told.digits, told.exponent, told.high, o);
}

// Writes `count` floats, at most FLOATS_AT_ONCE, with commas between them: first what to say of all of them, then the
// saying, because either alone is short enough for a processor to work on several numbers at the same time.
constexpr int FLOATS_AT_ONCE = 16;

template <class F, bool TFS>
char* write_floats(const F* x, int count, char* o) {
    Told told[FLOATS_AT_ONCE];
    for (int i = 0; i < count; ++i) told[i] = tell(x[i], TFS);
    for (int i = 0; i < count; ++i) {
        o = write_told(told[i], x[i], o);
        *o++ = ',';
    }
    return o - 1;
}

template <class F>
inline char* write_float(F x, bool tfs, char* o) {
    return tfs ? write_floats<F, true>(&x, 1, o) : write_floats<F, false>(&x, 1, o);
}

}  // namespace stfs
