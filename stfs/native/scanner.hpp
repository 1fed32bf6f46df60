// The lexical half of the JSON reader: white space, literals, strings, numbers, and where they go wrong (RFC 8259).
//
// Functions take a position and give the next one, or nullptr with `error` set; they never allocate and never touch a
// Python object, so they run without the interpreter lock. What a fault is called, in words, is said in codec_py/text.py.
// Numbers' values live in number.hpp; nothing here knows about tensors.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// The number path is one loop's body; left to itself the compiler calls it, and spills the token, once an element.
#define STFS_INLINE __attribute__((always_inline)) inline

namespace stfs {

enum Fault : int {
    NONE = 0,
    FULL,          // the destination is full; give another and go on
    PYTHON_ERROR,  // a Python exception is already set
    UNEXPECTED,    // malformed: `what` was expected at `at`
    SYNTAX,        // malformed: `what`
    WRONG_KIND,    // element: `what` was expected, `found` is there
    NOT_INTEGER,   // element: the number `at`..`end`
    OUT_OF_RANGE,  // element: the number `at`..`end`
    TOO_FEW,       // element: a list of `have` elements beside lists of `want`
    TOO_MANY,      // element: a list of more than `want` elements
    BAD_ELEMENT,   // element: `what`
};

struct Error {
    Fault fault = NONE;
    const char* what = nullptr;
    const char* found = nullptr;
    const char* at = nullptr;
    const char* end = nullptr;
    int64_t have = 0;
    int64_t want = 0;
    int depth = 0;  // how many of the tensor's indices the path has
};

enum Kind : int { OBJECT, ARRAY, STRING, NUMBER, BOOL, NULL_, BAD };

struct StringToken {
    const char* start;  // after the opening quote
    const char* stop;   // at the closing quote
    bool escaped;
};

struct NumberToken {
    const char* start = nullptr;
    const char* stop = nullptr;
    uint64_t mantissa = 0;  // every digit, modulo 2^64: exact up to 19 digits
    int64_t exponent = 0;   // value = mantissa * 10^exponent; clamped far outside a double's range
    int64_t digits = 0;
    bool negative = false;
    bool integral = true;  // neither fraction nor exponent
};

constexpr int MAX_VALUE_DEPTH = 128;
constexpr int64_t MAX_INTEGER_DIGITS = 4300;  // Python's own limit, and for its reason: int() is quadratic

inline bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') <= 9; }

inline int hex_value(char c) {
    if (is_digit(c)) return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Four hexadecimal digits at q, or -1.
inline int hex4(const char* q, const char* end) {
    if (end - q < 4) return -1;
    int value = 0;
    for (int i = 0; i < 4; ++i) {
        int h = hex_value(q[i]);
        if (h < 0) return -1;
        value = value * 16 + h;
    }
    return value;
}

// The eight bytes at q, the first in the lowest byte.
inline uint64_t load8(const char* q) {
    uint64_t chunk;
    std::memcpy(&chunk, q, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    chunk = __builtin_bswap64(chunk);
#endif
    return chunk;
}

constexpr uint64_t ONES = 0x0101010101010101u;
constexpr uint64_t HIGHS = 0x80 * ONES;

constexpr uint64_t POW10_INT[9] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

// The number that eight digits (0..9, the first in the lowest byte) spell: pairs, fours, then all eight at once.
inline uint64_t eight_digits(uint64_t v) {
    constexpr uint64_t mask = 0x000000FF000000FFu;
    v = v * 10 + (v >> 8);
    return ((v & mask) * (100 + (UINT64_C(1000000) << 32)) + ((v >> 16) & mask) * (1 + (UINT64_C(10000) << 32))) >> 32;
}

// Appends the run of digits at q to the mantissa, eight at a time, and gives its end.
STFS_INLINE const char* digit_run(const char* q, const char* end, uint64_t& mantissa) {
    while (end - q >= 8) {
        uint64_t chunk = load8(q) ^ ('0' * ONES);
        // A byte of 0..9 leaves its high bit clear; carries only disturb bytes above the first that is not a digit.
        uint64_t other = ((chunk + 0x76 * ONES) | chunk) & HIGHS;
        if (other == 0) {
            mantissa = mantissa * 100000000 + eight_digits(chunk);
            q += 8;
            continue;
        }
        int n = __builtin_ctzll(other) >> 3;
        if (n == 0) return q;
        mantissa = mantissa * POW10_INT[n] + eight_digits(chunk << (64 - 8 * n));
        return q + n;
    }
    for (; q < end && is_digit(*q); ++q) mantissa = mantissa * 10 + static_cast<uint64_t>(*q - '0');
    return q;
}

// The length of the well-formed UTF-8 sequence (RFC 3629) of two bytes or more at q, or 0.
inline int utf8_sequence(const char* q, const char* end) {
    auto byte = [&](int i) { return static_cast<unsigned char>(q[i]); };
    auto tail = [&](int i) { return (byte(i) & 0xC0) == 0x80; };
    unsigned char lead = byte(0);
    ptrdiff_t left = end - q;
    if (lead < 0xC2) return 0;
    if (lead < 0xE0) return left >= 2 && tail(1) ? 2 : 0;
    if (lead < 0xF0) {
        if (left < 3 || !tail(1) || !tail(2)) return 0;
        if (lead == 0xE0 && byte(1) < 0xA0) return 0;   // overlong
        if (lead == 0xED && byte(1) >= 0xA0) return 0;  // a surrogate
        return 3;
    }
    if (lead > 0xF4 || left < 4 || !tail(1) || !tail(2) || !tail(3)) return 0;
    if (lead == 0xF0 && byte(1) < 0x90) return 0;
    if (lead == 0xF4 && byte(1) >= 0x90) return 0;
    return 4;
}

// The first byte of q..end that is not plain in a JSON string: a quote, a backslash, a control or a non-ASCII byte.
inline const char* plain_run(const char* q, const char* end) {
#if defined(__SSE2__)
    while (end - q >= 16) {
        const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
        // Bytes above 127 are negative here, so below a blank like the controls.
        const __m128i below = _mm_cmplt_epi8(c, _mm_set1_epi8(0x20));
        const __m128i quote = _mm_cmpeq_epi8(c, _mm_set1_epi8('"')), slash = _mm_cmpeq_epi8(c, _mm_set1_epi8('\\'));
        const int hit = _mm_movemask_epi8(_mm_or_si128(below, _mm_or_si128(quote, slash)));
        if (hit) return q + __builtin_ctz(static_cast<unsigned>(hit));
        q += 16;
    }
#endif
    while (end - q >= 8) {
        uint64_t c = load8(q);
        uint64_t quote = c ^ ('"' * ONES), slash = c ^ ('\\' * ONES);
        // Each term flags bytes exactly up to its first hit; borrows only disturb the bytes after it.
        uint64_t hit = (((quote - ONES) & ~quote) | ((slash - ONES) & ~slash) | ((c - 0x20 * ONES) & ~c) | c) & HIGHS;
        if (hit) return q + (__builtin_ctzll(hit) >> 3);
        q += 8;
    }
    for (; q < end; ++q) {
        auto c = static_cast<unsigned char>(*q);
        if (c == '"' || c == '\\' || c < 0x20 || c >= 0x80) return q;
    }
    return q;
}

struct Scanner {
    const char* begin = nullptr;
    const char* end = nullptr;
    Error error;

    // -- faults

    std::nullptr_t unexpected(const char* wanted, const char* at) {
        error = Error{};
        error.fault = UNEXPECTED;
        error.what = wanted;
        error.at = at;
        return nullptr;
    }

    std::nullptr_t syntax(const char* problem, const char* at) {
        unexpected(problem, at);
        error.fault = SYNTAX;
        return nullptr;
    }

    // -- tokens

    const char* space(const char* p) const {
        // Nothing below a blank but white space, and nothing above: one comparison in the usual case.
        while (p < end && static_cast<unsigned char>(*p) <= ' ' && is_space(*p)) ++p;
        return p;
    }

    bool at(const char* p, char c) const { return p < end && *p == c; }

    const char* word(const char* p, const char* text, size_t length, const char* problem) {
        if (static_cast<size_t>(end - p) < length || std::memcmp(p, text, length) != 0) return syntax(problem, p);
        return p + length;
    }

    bool at_minus_infinity(const char* p) const { return at(p, '-') && at(p + 1, 'I'); }

    // true, false, null, NaN, Infinity or -Infinity, by its first letter; p is at one of those.
    const char* literal(const char* p) {
        switch (*p) {
            case 't': return word(p, "true", 4, "bad literal, expected true");
            case 'f': return word(p, "false", 5, "bad literal, expected false");
            case 'n': return word(p, "null", 4, "bad literal, expected null");
            case 'N': return word(p, "NaN", 3, "bad literal, expected NaN");
            case 'I': return word(p, "Infinity", 8, "bad literal, expected Infinity");
            default: return word(p, "-Infinity", 9, "bad literal, expected -Infinity");
        }
    }

    // What begins at p. BAD, with the error set, if nothing can.
    Kind kind(const char* p) {
        if (p < end) {
            switch (*p) {
                case '{': return OBJECT;
                case '[': return ARRAY;
                case '"': return STRING;
                case 't': case 'f': return literal(p) ? BOOL : BAD;
                case 'n': return literal(p) ? NULL_ : BAD;
                case 'N': case 'I': return literal(p) ? NUMBER : BAD;
                case '-': return !at_minus_infinity(p) || literal(p) ? NUMBER : BAD;
                default:
                    if (is_digit(*p)) return NUMBER;
            }
        }
        unexpected("a value", p);
        return BAD;
    }

    // The string whose opening quote is at p: checked to the end, not decoded.
    const char* string(const char* p, StringToken& token) {
        token.start = p + 1;
        token.escaped = false;
        const char* q = p + 1;
        for (;;) {
            q = plain_run(q, end);
            if (q == end) return syntax("a string is not closed", end);
            auto c = static_cast<unsigned char>(*q);
            if (c == '"') {
                token.stop = q;
                return q + 1;
            }
            if (c >= 0x80) {
                int length = utf8_sequence(q, end);
                if (length == 0) return syntax("a string is not UTF-8", q);
                q += length;
            } else if (c == '\\') {
                token.escaped = true;
                q = escape(q);
                if (!q) return nullptr;
            } else {
                return syntax("a control character in a string", q);
            }
        }
    }

    // The number at p, grammar and digits; p is at a digit or a minus sign.
    STFS_INLINE const char* number(const char* p, NumberToken& token) {
        token.start = p;
        token.negative = *p == '-';
        if (token.negative) ++p;
        if (!(p < end && is_digit(*p))) return unexpected("a digit", p);
        uint64_t mantissa = static_cast<uint64_t>(*p - '0');
        const char* q = p + 1;
        if (q < end && is_digit(*q)) {
            if (mantissa == 0) return syntax("a number cannot begin with 0", p);
            q = digit_run(q, end, mantissa);
        }
        token.digits = q - p;
        token.exponent = 0;
        token.integral = true;
        if (q < end && *q == '.') {
            const char* fraction = ++q;
            q = digit_run(q, end, mantissa);
            if (q == fraction) return unexpected("a digit", q);
            token.digits += q - fraction;
            token.exponent = fraction - q;
            token.integral = false;
        }
        if (q < end && (*q | 0x20) == 'e') {
            ++q;
            bool negative = q < end && *q == '-';
            if (q < end && (*q == '-' || *q == '+')) ++q;
            const char* first = q;
            int64_t exponent = 0;
            for (; q < end && is_digit(*q); ++q) {
                if (exponent < 1000000) exponent = exponent * 10 + (*q - '0');
            }
            if (q == first) return unexpected("a digit", q);
            token.exponent += negative ? -exponent : exponent;
            token.integral = false;
        }
        token.mantissa = mantissa;
        token.stop = q;
        return q;
    }

    // Any value at p, checked and forgotten.
    const char* skip(const char* p, int depth = 0) {
        Kind k = kind(p);
        switch (k) {
            case BAD: return nullptr;
            case OBJECT:
            case ARRAY: break;
            case STRING: {
                StringToken token;
                return string(p, token);
            }
            case NUMBER: {
                if (!is_digit(*p) && (*p != '-' || at_minus_infinity(p))) return literal(p);
                NumberToken token;
                const char* q = number(p, token);
                if (q && token.integral && token.digits > MAX_INTEGER_DIGITS) {
                    return syntax("an integer of more than 4300 digits", p);
                }
                return q;
            }
            default: return literal(p);
        }
        if (depth == MAX_VALUE_DEPTH) return syntax("nested deeper than 128", p);
        char close = k == OBJECT ? '}' : ']';
        p = space(p + 1);
        if (at(p, close)) return p + 1;
        for (;;) {
            if (k == OBJECT) {
                StringToken token;
                p = key(p, token);
                if (!p) return nullptr;
            }
            p = skip(p, depth + 1);
            if (!p) return nullptr;
            p = space(p);
            if (at(p, close)) return p + 1;
            if (!at(p, ',')) return unexpected(k == OBJECT ? "',' or '}'" : "',' or ']'", p);
            p = space(p + 1);
        }
    }

    // A key, its colon, and the white space after it.
    const char* key(const char* p, StringToken& token) {
        if (!at(p, '"')) return unexpected("a key in double quotes", p);
        p = string(p, token);
        if (!p) return nullptr;
        p = space(p);
        if (!at(p, ':')) return unexpected("':'", p);
        return space(p + 1);
    }

  private:
    // The end of the escape whose backslash is at q.
    const char* escape(const char* q) {
        if (q + 1 == end) return syntax("a string is not closed", end);
        if (q[1] != 'u') {
            if (!std::memchr("\"\\/bfnrt", q[1], 8)) return syntax("an unknown escape in a string", q);
            return q + 2;
        }
        int unit = hex4(q + 2, end);
        if (unit < 0) return syntax("expected four hexadecimal digits after \\u", q);
        if (unit < 0xD800 || unit > 0xDFFF) return q + 6;
        if (unit < 0xDC00 && at(q + 6, '\\') && at(q + 7, 'u')) {
            int low = hex4(q + 8, end);
            if (low >= 0xDC00 && low <= 0xDFFF) return q + 12;
        }
        return syntax("half a surrogate pair in a string", q);
    }
};

// Writes a checked string's UTF-8 without its escapes; `out` has room for stop - start bytes. Gives the length.
inline size_t unescape(const StringToken& token, char* out) {
    char* o = out;
    const char* q = token.start;
    while (q < token.stop) {
        if (*q != '\\') {
            *o++ = *q++;
            continue;
        }
        char c = q[1];
        q += 2;
        switch (c) {
            case 'b': *o++ = '\b'; continue;
            case 'f': *o++ = '\f'; continue;
            case 'n': *o++ = '\n'; continue;
            case 'r': *o++ = '\r'; continue;
            case 't': *o++ = '\t'; continue;
            case 'u': break;
            default: *o++ = c; continue;
        }
        auto code = static_cast<uint32_t>(hex4(q, token.stop));
        q += 4;
        if (code >= 0xD800 && code <= 0xDFFF) {
            code = 0x10000 + ((code - 0xD800) << 10) + (static_cast<uint32_t>(hex4(q + 2, token.stop)) - 0xDC00);
            q += 6;
        }
        auto put = [&](uint32_t byte) { *o++ = static_cast<char>(byte); };
        if (code < 0x80) {
            put(code);
        } else if (code < 0x800) {
            put(0xC0 | code >> 6);
            put(0x80 | (code & 0x3F));
        } else if (code < 0x10000) {
            put(0xE0 | code >> 12);
            put(0x80 | (code >> 6 & 0x3F));
            put(0x80 | (code & 0x3F));
        } else {
            put(0xF0 | code >> 18);
            put(0x80 | (code >> 12 & 0x3F));
            put(0x80 | (code >> 6 & 0x3F));
            put(0x80 | (code & 0x3F));
        }
    }
    return static_cast<size_t>(o - out);
}

}  // namespace stfs
