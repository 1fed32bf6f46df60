// Nested JSON arrays into a caller's flat buffer, in one pass, the shape found on the way.
//
// `parse` writes to a destination of a given capacity and stops with FULL when it needs more; called again with another
// destination it goes on where it stopped. So a growing buffer, a column of rows and a slot of a batch are all policies
// above it, and it owns no memory. Number dtypes run without the interpreter lock; strings make Python objects and need it.
#pragma once
#include <Python.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "base64.hpp"
#include "number.hpp"
#include "scanner.hpp"

namespace stfs {

constexpr int MAX_TENSOR_DEPTH = 32;

// The state of one tensor being read. Sizes are -1 until the first list of their level has closed; the rank is -1 until
// the first leaf or the first empty list. With `base` 1 the tensor's first index is not a list in the text but counts
// calls: a column whose rows lie apart. Only `opened` levels hold anything, since most tensors have few and small ones
// should not pay for more.
struct Nest {
    int base = 0;
    int depth = 0;
    int rank = -1;
    int opened;
    int64_t filled = 0;
    int64_t count[MAX_TENSOR_DEPTH + 1];
    int64_t size[MAX_TENSOR_DEPTH + 1];
    const char* start[MAX_TENSOR_DEPTH + 1];

    explicit Nest(int base_depth = 0) : base(base_depth), depth(base_depth), opened(base_depth) {
        for (int level = 0; level < base_depth; ++level) {
            count[level] = 0;
            size[level] = -1;
        }
    }
};

// What else may stand for an element: 11.0 for an integer; null for a float or a string, and NaN for a string; the text of
// a number or a boolean for a string.
enum Options : int { INTEGRAL_FLOATS = 1, NULLABLE = 2, LITERALS = 4 };

enum Dtype : int { F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, B8, STR };

inline std::nullptr_t wrong_kind(Scanner& s, const char* wanted, const char* p, int depth) {
    static const char* const names[] = {"an object", "a list", "a string", "a number", "a boolean", "null"};
    Kind k = s.kind(p);
    if (k == BAD) return nullptr;
    s.unexpected(wanted, p);
    s.error.fault = WRONG_KIND;
    s.error.found = names[k];
    s.error.depth = depth;
    return nullptr;
}

inline std::nullptr_t bad_element(Scanner& s, Fault fault, const char* what, const char* p, const char* stop, int depth) {
    s.unexpected(what, p);
    s.error.fault = fault;
    s.error.end = stop;
    s.error.depth = depth;
    return nullptr;
}

// -- leaves: one element at p (p < end), written to out; the next position, or nullptr with the error set

inline void store(double value, double& out) { out = value; }
inline void store(double value, float& out) { out = static_cast<float>(value); }
inline void store(double value, half& out) { out = to_half(value); }
inline bool overflowed(double stored) { return std::isinf(stored); }
inline bool overflowed(float stored) { return std::isinf(stored); }
inline bool overflowed(half stored) { return (stored.bits & 0x7FFF) == 0x7C00; }

template <class F>
struct FloatLeaf {
    using T = F;
    static constexpr const char* wanted = "a number";
    STFS_INLINE static const char* read(Scanner& s, const char* p, T& out, int depth, int options) {
        if (is_digit(*p) || (*p == '-' && !s.at_minus_infinity(p))) {
            NumberToken token;
            const char* q = s.number(p, token);
            if (!q) return nullptr;
            store(to_double(token), out);
            if (overflowed(out)) return bad_element(s, OUT_OF_RANGE, nullptr, p, q, depth);
            return q;
        }
        return literal(s, p, out, depth, options);
    }

  private:
    // Kept out of the loop over numbers, which is the tighter for it.
    __attribute__((noinline)) static const char* literal(Scanner& s, const char* p, T& out, int depth, int options) {
        const bool missing = *p == 'n' && options & NULLABLE;
        if (*p != 'N' && *p != 'I' && *p != '-' && !missing) return wrong_kind(s, wanted, p, depth);
        const char* q = s.literal(p);
        if (!q) return nullptr;
        constexpr double inf = std::numeric_limits<double>::infinity();
        store(*p == 'N' || missing ? std::numeric_limits<double>::quiet_NaN() : *p == '-' ? -inf : inf, out);
        return q;
    }
};

template <class I>
struct IntLeaf {
    using T = I;
    static constexpr const char* wanted = "an integer";
    STFS_INLINE static const char* read(Scanner& s, const char* p, T& out, int depth, int options) {
        if (is_digit(*p) || (*p == '-' && !s.at_minus_infinity(p))) {
            NumberToken token;
            const char* q = s.number(p, token);
            if (!q) return nullptr;
            if (token.integral) {
                if (!to_integer(token, out)) return bad_element(s, OUT_OF_RANGE, nullptr, p, q, depth);
                return q;
            }
            double value = options & INTEGRAL_FLOATS ? to_double(token) : 0.5;
            if (value != std::floor(value)) return bad_element(s, NOT_INTEGER, nullptr, p, q, depth);
            if (!to_integer(value, out)) return bad_element(s, OUT_OF_RANGE, nullptr, p, q, depth);
            return q;
        }
        if (*p != 'N' && *p != 'I' && *p != '-') return wrong_kind(s, wanted, p, depth);
        const char* q = s.literal(p);
        return q ? bad_element(s, NOT_INTEGER, nullptr, p, q, depth) : nullptr;
    }
};

struct BoolLeaf {
    using T = bool;
    static constexpr const char* wanted = "true or false";
    STFS_INLINE static const char* read(Scanner& s, const char* p, T& out, int depth, int) {
        if (*p != 't' && *p != 'f') return wrong_kind(s, wanted, p, depth);
        out = *p == 't';
        return s.literal(p);
    }
};

struct StringLeaf {
    using T = PyObject*;
    static constexpr const char* wanted = "a string";

    STFS_INLINE static const char* read(Scanner& s, const char* p, T& out, int depth, int options) {
        StringToken token;
        if (*p == '"') {
            const char* q = s.string(p, token);
            if (!q) return nullptr;
            out = text(token);
            return out ? q : python_error(s);
        }
        if (*p != '{') return other(s, p, out, depth, options);
        const char* q = s.space(p + 1);
        if (s.at(q, '}')) return wrong_kind(s, wanted, p, depth);
        q = s.key(q, token);
        if (!q) return nullptr;
        if (!is_b64(token)) return wrong_kind(s, wanted, p, depth);
        if (!s.at(q, '"')) return wrong_kind(s, "base64 text", q, depth);
        const char* quote = q;
        out = decoded_at_once(s, quote, q);
        if (!out) q = PyErr_Occurred() ? python_error(s) : s.string(quote, token);
        if (!q) return nullptr;
        q = s.space(q);
        if (!s.at(q, '}')) {
            Py_CLEAR(out);
            if (s.at(q, ',')) return bad_element(s, BAD_ELEMENT, "\"b64\" must be the object's only key", p, q, depth);
            return s.unexpected("',' or '}'", q);
        }
        if (!out) out = decoded(token);
        if (out) return q + 1;
        if (PyErr_Occurred()) return python_error(s);
        return bad_element(s, BAD_ELEMENT, "the text is not base64", quote, q, depth);
    }

  private:
    // Neither a string nor an object: a missing element, or a literal that stands for its own text.
    static const char* other(Scanner& s, const char* p, T& out, int depth, int options) {
        const bool missing = options & NULLABLE && (*p == 'n' || *p == 'N');
        if (!missing && !(options & LITERALS && *p != 'n' && *p != '[')) return wrong_kind(s, wanted, p, depth);
        NumberToken token;
        const char* q = nullptr;
        if (is_digit(*p) || (*p == '-' && !s.at_minus_infinity(p))) {
            q = s.number(p, token);
        } else if (s.kind(p) != BAD) {
            q = s.literal(p);
        }
        if (!q) return nullptr;
        out = PyBytes_FromStringAndSize(p, missing ? 0 : q - p);
        return out ? q : python_error(s);
    }

    static std::nullptr_t python_error(Scanner& s) {
        s.error = Error{};
        s.error.fault = PYTHON_ERROR;
        return nullptr;
    }

    static PyObject* text(const StringToken& token) {
        PyObject* bytes = PyBytes_FromStringAndSize(token.escaped ? nullptr : token.start, token.stop - token.start);
        if (bytes && token.escaped) {
            size_t length = unescape(token, PyBytes_AS_STRING(bytes));
            _PyBytes_Resize(&bytes, static_cast<Py_ssize_t>(length));
        }
        return bytes;
    }

    static bool is_b64(const StringToken& token) {
        char key[18];  // three characters take at most 18 bytes to write
        if (token.stop - token.start > 18) return false;
        return unescape(token, key) == 3 && std::memcmp(key, "b64", 3) == 0;
    }

    // The base64 text whose opening quote is at p, read without a look at it as a string: what is base64 needs no other
    // check. nullptr without a Python exception: it has to be looked at.
    static PyObject* decoded_at_once(Scanner& s, const char* p, const char*& after) {
        const void* quote = std::memchr(p + 1, '"', static_cast<size_t>(s.end - p - 1));
        if (!quote) return nullptr;
        const StringToken token{p + 1, static_cast<const char*>(quote), false};
        after = token.stop + 1;
        return decoded(token);
    }

    // nullptr without a Python exception: the text is not base64.
    static PyObject* decoded(const StringToken& token) {
        const char* start = token.start;
        auto length = static_cast<size_t>(token.stop - start);
        std::string plain;
        if (token.escaped) {
            plain.resize(length);
            length = unescape(token, plain.data());
            start = plain.data();
        }
        ptrdiff_t bytes_length = base64_plan(start, length);
        if (bytes_length < 0) return nullptr;
        PyObject* bytes = PyBytes_FromStringAndSize(nullptr, bytes_length);
        if (bytes && !base64_decode(start, length, reinterpret_cast<unsigned char*>(PyBytes_AS_STRING(bytes)))) {
            Py_CLEAR(bytes);
        }
        return bytes;
    }
};

// -- the nesting

// Reads the value at p into out[n.filled] onwards; the position after it, or nullptr with the error set. FULL leaves in
// error.at the position to go on from. A nest that failed otherwise is spent.
template <class Leaf>
const char* parse_as(Scanner& s, const char* p, Nest& n, typename Leaf::T* out, int64_t capacity, int options) {
    int depth = n.depth;
    int64_t filled = n.filled;
    struct Save {  // however it ends, the nest knows where it stopped and which elements are written
        Nest& nest;
        int& depth;
        int64_t& filled;
        ~Save() {
            nest.depth = depth;
            nest.filled = filled;
        }
    } save{n, depth, filled};
    for (;;) {
        p = s.space(p);
        if (s.at(p, '[')) {
            if (depth == n.rank) return wrong_kind(s, Leaf::wanted, p, depth);
            if (depth == MAX_TENSOR_DEPTH) return s.syntax("a tensor nested deeper than 32", p);
            n.start[depth] = p;
            n.count[depth] = 0;
            if (depth == n.opened) {
                n.size[depth] = -1;
                ++n.opened;
            }
            ++depth;
            p = s.space(p + 1);
            if (!s.at(p, ']')) {
                if (n.size[depth - 1] == 0) goto too_many;
                continue;
            }
            if (n.rank < 0) n.rank = depth;
        } else {
            if (depth < n.rank) return wrong_kind(s, "a list", p, depth);
            n.rank = depth;
            bool listed = depth > n.base;
            int64_t index = listed ? n.count[depth - 1] : 0;
            const int64_t size = listed ? n.size[depth - 1] : -1;
            for (;;) {  // a run of leaves; a list among them is for the leaf to refuse
                if (filled == capacity || p == s.end) {
                    if (listed) n.count[depth - 1] = index;
                    if (p == s.end) return s.unexpected("a value", p);
                    return bad_element(s, FULL, nullptr, p, p, depth);
                }
                const char* q = Leaf::read(s, p, out[filled], depth, options);
                if (!q) {
                    if (listed) n.count[depth - 1] = index;
                    return nullptr;
                }
                ++filled;
                if (!listed) return q;
                ++index;
                p = s.space(q);
                if (!s.at(p, ',')) break;
                if (index == size) goto too_many;
                p = s.space(p + 1);
            }
            n.count[depth - 1] = index;
        }
        for (;;) {  // p is where the list should end, and then perhaps the lists around it
            if (!s.at(p, ']')) return s.unexpected("',' or ']'", p);
            int64_t& size = n.size[--depth];
            if (size < 0) size = n.count[depth];
            if (n.count[depth] != size) {
                bad_element(s, TOO_FEW, nullptr, n.start[depth], p, depth);
                s.error.have = n.count[depth];
                s.error.want = size;
                return nullptr;
            }
            ++p;
            if (depth == n.base) return p;
            ++n.count[depth - 1];
            p = s.space(p);
            if (s.at(p, ',')) {
                if (n.count[depth - 1] == n.size[depth - 1]) goto too_many;
                ++p;
                break;
            }
        }
    }
too_many:
    --depth;
    bad_element(s, TOO_MANY, nullptr, n.start[depth], p, depth);
    s.error.want = n.size[depth];
    return nullptr;
}

inline const char* parse(Dtype dtype, Scanner& s, const char* p, Nest& n, void* out, int64_t capacity, int options) {
    auto as = [&](auto leaf) {
        using Leaf = decltype(leaf);
        return parse_as<Leaf>(s, p, n, static_cast<typename Leaf::T*>(out), capacity, options);
    };
    switch (dtype) {
        case F16: return as(FloatLeaf<half>{});
        case F32: return as(FloatLeaf<float>{});
        case F64: return as(FloatLeaf<double>{});
        case I8: return as(IntLeaf<int8_t>{});
        case I16: return as(IntLeaf<int16_t>{});
        case I32: return as(IntLeaf<int32_t>{});
        case I64: return as(IntLeaf<int64_t>{});
        case U8: return as(IntLeaf<uint8_t>{});
        case U16: return as(IntLeaf<uint16_t>{});
        case U32: return as(IntLeaf<uint32_t>{});
        case U64: return as(IntLeaf<uint64_t>{});
        case B8: return as(BoolLeaf{});
        default: return as(StringLeaf{});
    }
}

}  // namespace stfs
