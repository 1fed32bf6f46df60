// Arrays to JSON text in a growing buffer: numbers without the interpreter lock, strings with it.
//
// The layout of a number is codec_py/write.py's definition, met byte for byte. Knows no dialect.
#pragma once
#include <Python.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#include "base64.hpp"
#include "number.hpp"
#include "scanner.hpp"
#include "tensor.hpp"

namespace stfs {

// Text being written. The first kilobytes lie on the stack, so that small answers allocate once.
class Out {
  public:
    Out() = default;
    Out(const Out&) = delete;
    Out& operator=(const Out&) = delete;
    ~Out() {
        if (data_ != small_) std::free(data_);
    }

    const char* data() const { return data_; }
    size_t size() const { return size_; }

    // Room for `bytes` more; write there and say `advance`. Throws std::bad_alloc.
    char* room(size_t bytes) {
        if (capacity_ - size_ < bytes) grow(bytes);
        return data_ + size_;
    }
    void advance(const char* to) { size_ = static_cast<size_t>(to - data_); }
    void put(char c) {
        *room(1) = c;
        ++size_;
    }
    void put(const char* text, size_t length) {
        std::memcpy(room(length), text, length);
        size_ += length;
    }

  private:
    void grow(size_t bytes) {
        size_t capacity = capacity_ * 2 > size_ + bytes ? capacity_ * 2 : size_ + bytes;
        auto* data = static_cast<char*>(std::realloc(data_ == small_ ? nullptr : data_, capacity));
        if (!data) throw std::bad_alloc();
        if (data_ == small_) std::memcpy(data, small_, size_);
        data_ = data;
        capacity_ = capacity;
    }

    char small_[4096];
    char* data_ = small_;
    size_t size_ = 0;
    size_t capacity_ = sizeof small_;
};

// The longest number has 24; the rest is slack for copies of a fixed size, which cost less than exact ones.
constexpr size_t MAX_NUMBER_BYTES = 48;
constexpr size_t COPY_BYTES = 20;

// -- numbers: each writes at o, which has MAX_NUMBER_BYTES of room, and gives the end

struct Decimal {
    char digits[2 * COPY_BYTES];  // at most 17 of them
    int count;
    int exponent;  // of the first digit
};

// The shortest digits that read back to x > 0 as an F.
template <class F>
inline Decimal shortest_digits(F x) {
    char text[MAX_NUMBER_BYTES];
    char* end = std::to_chars(text, text + sizeof text, x, std::chars_format::scientific).ptr;
    Decimal d;
    d.digits[0] = text[0];
    d.count = 1;
    char* p = text + 1;
    if (*p == '.') {
        for (++p; *p != 'e'; ++p) d.digits[d.count++] = *p;
    }
    bool negative = p[1] == '-';
    d.exponent = 0;
    for (p += 2; p < end; ++p) d.exponent = d.exponent * 10 + (*p - '0');
    if (negative) d.exponent = -d.exponent;
    return d;
}

// A half's shortest digits: five always suffice. A decimal midway between two is tried both ways, since below a power
// of two the halves lie closer than above it and only the larger one may read back.
inline Decimal shortest_digits(half h) {
    double x = from_half(h);
    for (int precision = 0;; ++precision) {
        for (double near : {x, std::nextafter(x, 1e9)}) {
            char text[MAX_NUMBER_BYTES];
            char* end = std::to_chars(text, text + sizeof text, near, std::chars_format::scientific, precision).ptr;
            double back = 0;
            std::from_chars(text, end, back);
            if (to_half(back).bits == h.bits || precision == 4) return shortest_digits(back);
        }
    }
}

constexpr uint64_t power_of_ten(int n) { return n == 0 ? 1 : 10 * power_of_ten(n - 1); }

#if LDBL_MANT_DIG == 64
// Correctly rounded digits of a normal x > 0 through one x87 operation: false if that cannot tell, which is seldom.
//
// With `tfs` six digits if those read back to x, else nine (17 for a double); without, the fewest of six to nine that do,
// which are the shortest, because the nearest decimal of a length reads back if any does. That needs halves of an ulp on
// both sides to be equal, so a power of two is refused. The scaled value is off by at most half a unit in 2^64, and
// everything nearer to a tie than that is refused as well.
template <class F>
inline bool quick_digits(F x, bool tfs, Decimal& d, int& precision) {
    constexpr int most = sizeof(F) == 8 ? 17 : 9;
    constexpr double doubt = sizeof(F) == 8 ? 0.02 : 1e-9;
    constexpr int fraction_bits = std::numeric_limits<F>::digits - 1;
    uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof x);
    if (!(x >= std::numeric_limits<F>::min()) || (bits & ((UINT64_C(1) << fraction_bits) - 1)) == 0) return false;
    int exponent2 = static_cast<int>(bits >> fraction_bits) - (std::numeric_limits<F>::max_exponent - 1);
    int exponent = exponent2 * 1233 >> 12;  // of ten: exact or one too small
    int scale = most - 1 - exponent;
    if (scale < -26 || scale > 26) return false;
    long double top = POW10_LONG[most];
    long double scaled = scale < 0 ? x / POW10_LONG[-scale] : x * POW10_LONG[scale];
    if (scaled >= top) {
        --scale;
        scaled = scale < 0 ? x / POW10_LONG[-scale] : x * POW10_LONG[scale];
    }
    if (scaled >= top || scaled < POW10_LONG[most - 1]) return false;
    auto whole = static_cast<uint64_t>(llrintl(scaled));
    auto rest = static_cast<double>(scaled - static_cast<long double>(whole));  // -0.5 to 0.5
    // 1: these are the digits; 0: they do not read back; -1: a doubt.
    auto attempt = [&](auto constant) {
        constexpr int p = decltype(constant)::value;
        constexpr uint64_t unit = power_of_ten(most - p);
        uint64_t q = whole / unit;
        if constexpr (p == most) {
            if (0.5 - std::fabs(rest) < doubt) return -1;
        } else {
            double past_tie = static_cast<double>(static_cast<int64_t>(whole - q * unit)) + rest - 0.5 * unit;
            if (std::fabs(past_tie) < doubt) return -1;
            q += past_tie > 0;
            int shift = most - p - scale;
            if (shift < -22 || shift > 22) return -1;
            auto back = static_cast<double>(static_cast<int64_t>(q));
            back = shift < 0 ? back / POW10[-shift] : back * POW10[shift];
            if (static_cast<F>(back) != x) return 0;
        }
        char* end = std::to_chars(d.digits, d.digits + sizeof d.digits, q).ptr;
        d.exponent = static_cast<int>(end - d.digits) - 1 + (most - p) - scale;
        while (end[-1] == '0') --end;
        d.count = static_cast<int>(end - d.digits);
        precision = p;
        return 1;
    };
    int outcome = attempt(std::integral_constant<int, 6>{});
    if constexpr (most == 9) {
        if (outcome == 0 && !tfs) outcome = attempt(std::integral_constant<int, 7>{});
        if (outcome == 0 && !tfs) outcome = attempt(std::integral_constant<int, 8>{});
    }
    if (outcome == 0) outcome = attempt(std::integral_constant<int, most>{});
    return outcome == 1;
}
#else
template <class F>
inline bool quick_digits(F, bool, Decimal&, int&) {
    return false;
}
#endif

// Digits in place if `low <= exponent < high`, else with an exponent of two digits or more: 12.5, 100.0, 1e-07.
inline char* lay_out(const Decimal& d, int low, int high, char* o) {
    auto copy = [&](int from, int to) {
        std::memcpy(o, d.digits + from, COPY_BYTES);
        o += to - from;
    };
    auto zeros = [&](int n) {
        std::memset(o, '0', 16);  // n is never more: the layout with an exponent sees to that
        o += n;
    };
    if (d.exponent < low || d.exponent >= high) {
        copy(0, 1);
        if (d.count > 1) {
            *o++ = '.';
            copy(1, d.count);
        }
        *o++ = 'e';
        *o++ = d.exponent < 0 ? '-' : '+';
        int size = d.exponent < 0 ? -d.exponent : d.exponent;
        if (size < 10) *o++ = '0';
        return std::to_chars(o, o + 4, size).ptr;
    }
    int whole = d.exponent + 1;
    if (whole <= 0) {
        zeros(1);
        *o++ = '.';
        zeros(-whole);
        copy(0, d.count);
    } else if (d.count <= whole) {
        copy(0, d.count);
        zeros(whole - d.count);
        *o++ = '.';
        zeros(1);
    } else {
        copy(0, whole);
        *o++ = '.';
        copy(whole, d.count);
    }
    return o;
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

inline double as_double(double x) { return x; }
inline double as_double(float x) { return x; }
inline double as_double(half x) { return from_half(x); }
inline float magnitude(float x) { return std::fabs(x); }
inline double magnitude(double x) { return std::fabs(x); }
inline half magnitude(half x) { return half{static_cast<uint16_t>(x.bits & 0x7FFF)}; }

template <class F>
inline char* write_tfs(F size, double value, char* o) {
    if constexpr (std::is_same_v<F, half>) {
        return general(value, 6, o);  // six digits always tell a half
    } else {
        constexpr int full = sizeof(F) == 8 ? 17 : 9;
        Decimal quick;
        int precision;
        if (quick_digits(size, true, quick, precision)) return lay_out(quick, -4, precision, o);
        if (value >= static_cast<double>(std::numeric_limits<F>::min())) {
            // Among normal numbers at most one decimal of six digits reads back to x, and the shortest one is it.
            Decimal d = shortest_digits(size);
            return d.count <= 6 ? lay_out(d, -4, 6, o) : general(value, full, o);
        }
        char* end = general(value, 6, o);
        double back = 0;
        std::from_chars(o, end, back);
        return static_cast<F>(back) == size ? end : general(value, full, o);
    }
}

template <class F>
inline char* write_float(F x, bool tfs, char* o) {
    double value = as_double(x);
    if (value != value) {
        std::memcpy(o, "NaN", 3);
        return o + 3;
    }
    if (std::signbit(value)) *o++ = '-';
    value = std::fabs(value);
    if (std::isinf(value)) {
        std::memcpy(o, "Infinity", 8);
        return o + 8;
    }
    // Whole numbers that every style writes digit for digit, because a neighbour of theirs is a whole number too.
    double plain = tfs ? 999999.0 : sizeof(F) == 2 ? 2048.0 : sizeof(F) == 4 ? 16777216.0 : 999999999999999.0;
    if (value <= plain && value == static_cast<double>(static_cast<int64_t>(value))) {
        char* end = std::to_chars(o, o + 20, static_cast<int64_t>(value)).ptr;
        *end++ = '.';
        *end++ = '0';
        return end;
    }
    if (tfs) return write_tfs(magnitude(x), value, o);
    if constexpr (std::is_same_v<F, float>) {
        Decimal quick;
        int precision;
        if (quick_digits(magnitude(x), false, quick, precision)) return lay_out(quick, -4, 16, o);
    }
    return lay_out(shortest_digits(magnitude(x)), -4, 16, o);
}

inline char* write_number(double x, bool tfs, char* o) { return write_float(x, tfs, o); }
inline char* write_number(float x, bool tfs, char* o) { return write_float(x, tfs, o); }
inline char* write_number(half x, bool tfs, char* o) { return write_float(x, tfs, o); }
inline char* write_number(bool x, bool, char* o) {
    static constexpr char words[2][9] = {"false   ", "true    "};
    std::memcpy(o, words[x], 8);  // no branch, since bools are hard to predict
    return o + 5 - x;
}
template <class I, class = std::enable_if_t<std::is_integral_v<I>>>
inline char* write_number(I x, bool, char* o) {
    return std::to_chars(o, o + MAX_NUMBER_BYTES, x).ptr;
}

// -- strings; these need the interpreter lock

// A JSON string, or false, having written nothing that counts, if the bytes are not UTF-8.
inline bool write_string(Out& out, const char* text, size_t length) {
    size_t before = out.size();
    const char* end = text + length;
    out.put('"');
    while (text < end) {
        const char* q = plain_run(text, end);
        while (q < end && static_cast<unsigned char>(*q) >= 0x80) {
            int n = utf8_sequence(q, end);
            if (n == 0) {
                out.advance(out.data() + before);
                return false;
            }
            q = plain_run(q + n, end);
        }
        out.put(text, static_cast<size_t>(q - text));
        if (q == end) break;
        static const char short_from[] = "\"\\\b\f\n\r\t", short_to[] = "\"\\bfnrt";
        out.put('\\');
        if (const void* hit = std::memchr(short_from, *q, 7)) {
            out.put(short_to[static_cast<const char*>(hit) - short_from]);
        } else {
            const char* hex = "0123456789abcdef";
            char unit[] = {'u', '0', '0', hex[*q >> 4 & 15], hex[*q & 15]};
            out.put(unit, sizeof unit);
        }
        text = q + 1;
    }
    out.put('"');
    return true;
}

inline void write_bytes(Out& out, const char* text, size_t length, bool b64) {
    if (!b64 && write_string(out, text, length)) return;
    out.put("{\"b64\":\"", 8);
    char* o = out.room((length + 2) / 3 * 4);
    out.advance(base64_encode(reinterpret_cast<const unsigned char*>(text), length, o));
    out.put("\"}", 2);
}

// bytes or str; false with nothing written for anything else, or with a Python exception set.
inline bool write_object(Out& out, PyObject* element, bool b64) {
    if (PyBytes_Check(element)) {
        write_bytes(out, PyBytes_AS_STRING(element), static_cast<size_t>(PyBytes_GET_SIZE(element)), b64);
        return true;
    }
    if (!PyUnicode_Check(element)) return false;
    PyObject* bytes = PyUnicode_AsEncodedString(element, "utf-8", "replace");
    if (!bytes) return false;
    struct Release {
        PyObject* object;
        ~Release() { Py_DECREF(object); }
    } release{bytes};
    write_bytes(out, PyBytes_AS_STRING(bytes), static_cast<size_t>(PyBytes_GET_SIZE(bytes)), b64);
    return true;
}

// -- nesting

template <class T>
struct Writer {
    Out& out;
    bool tfs;
    bool b64;
    const T* p;

    bool one() {
        if constexpr (std::is_same_v<T, PyObject*>) {
            if (!write_object(out, *p, b64)) return false;
        } else {
            out.advance(write_number(*p, tfs, out.room(MAX_NUMBER_BYTES)));
        }
        ++p;
        return true;
    }

    // The elements of an innermost list, with room made for many at a time.
    bool list(Py_ssize_t count) {
        if constexpr (std::is_same_v<T, PyObject*>) {
            for (Py_ssize_t i = 0; i < count; ++i) {
                if (i) out.put(',');
                if (!one()) return false;
            }
        } else {
            constexpr Py_ssize_t step = 32;
            for (Py_ssize_t i = 0; i < count; i += step) {
                Py_ssize_t stop = count - i < step ? count : i + step;
                char* o = out.room(static_cast<size_t>(stop - i) * (MAX_NUMBER_BYTES + 1));
                for (Py_ssize_t j = i; j < stop; ++j) {
                    if (j) *o++ = ',';
                    o = write_number(*p++, tfs, o);
                }
                out.advance(o);
            }
        }
        return true;
    }

    bool nest(const Py_ssize_t* shape, int ndim) {
        if (ndim == 0) return one();
        out.put('[');
        if (ndim == 1) {
            if (!list(*shape)) return false;
        } else {
            for (Py_ssize_t i = 0; i < *shape; ++i) {
                if (i) out.put(',');
                if (!nest(shape + 1, ndim - 1)) return false;
            }
        }
        out.put(']');
        return true;
    }
};

// Writes the C-contiguous elements from `data` on, in `ndim` dimensions, and moves `data` past them. False if an object
// is neither bytes nor str (`data` is left at it) or a Python exception is set.
inline bool write_array(Out& out, Dtype dtype, const char*& data, const Py_ssize_t* shape, int ndim, bool tfs, bool b64) {
    auto as = [&](auto zero) {
        using T = decltype(zero);
        Writer<T> writer{out, tfs, b64, reinterpret_cast<const T*>(data)};
        bool ok = writer.nest(shape, ndim);
        data = reinterpret_cast<const char*>(writer.p);
        return ok;
    };
    switch (dtype) {
        case F16: return as(half{});
        case F32: return as(float{});
        case F64: return as(double{});
        case I8: return as(int8_t{});
        case I16: return as(int16_t{});
        case I32: return as(int32_t{});
        case I64: return as(int64_t{});
        case U8: return as(uint8_t{});
        case U16: return as(uint16_t{});
        case U32: return as(uint32_t{});
        case U64: return as(uint64_t{});
        case B8: return as(bool{});
        default: return as(static_cast<PyObject*>(nullptr));
    }
}

}  // namespace stfs
