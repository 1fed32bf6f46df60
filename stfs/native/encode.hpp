// Arrays to JSON text in a growing buffer: numbers without the interpreter lock, strings with it.
//
// The layout of a number is codec_py/write.py's definition, met byte for byte. Knows no dialect.
#pragma once
#include <Python.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#include "base64.hpp"
#include "digits.hpp"
#include "float_text.hpp"
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
        if (owned_) std::free(data_);
    }

    // Write here first, and nowhere else if it is enough; it stays the caller's. Nothing may have been written yet.
    void borrow(char* data, size_t bytes) {
        data_ = data;
        capacity_ = bytes;
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

    // Let others have the interpreter lock for a moment, where so much has been written that they may be waiting for it.
    void breathe() {
        if (size_ - breathed_ < (1 << 18)) return;
        breathed_ = size_;
        PyEval_RestoreThread(PyEval_SaveThread());
    }

  private:
    void grow(size_t bytes) {
        size_t capacity = capacity_ * 2 > size_ + bytes ? capacity_ * 2 : size_ + bytes;
        auto* data = static_cast<char*>(std::realloc(owned_ ? data_ : nullptr, capacity));
        if (!data) throw std::bad_alloc();
        if (!owned_) std::memcpy(data, data_, size_);
        owned_ = true;
        data_ = data;
        capacity_ = capacity;
    }

    char small_[4096];
    char* data_ = small_;
    size_t size_ = 0;
    size_t breathed_ = 0;
    size_t capacity_ = sizeof small_;
    bool owned_ = false;
};

// -- numbers: each writes at o, which has MAX_NUMBER_BYTES of room, and gives the end

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
    return write_integer(x, o);
}

// `count` numbers, at most FLOATS_AT_ONCE, with commas between them.
template <class T>
inline char* write_numbers(const T* x, Py_ssize_t count, bool tfs, char* o) {
    if constexpr (std::is_arithmetic_v<T> && !std::is_floating_point_v<T>) {
        for (Py_ssize_t i = 0; i < count; ++i) {
            o = write_number(x[i], tfs, o);
            *o++ = ',';
        }
        return o - 1;
    } else {
        const auto some = static_cast<int>(count);
        return tfs ? write_floats<T, true>(x, some, o) : write_floats<T, false>(x, some, o);
    }
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
            out.breathe();
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
            constexpr Py_ssize_t step = FLOATS_AT_ONCE;
            for (Py_ssize_t i = 0; i < count; i += step) {
                const Py_ssize_t some = count - i < step ? count - i : step;
                char* o = out.room(static_cast<size_t>(some + 1) * MAX_NUMBER_BYTES);
                if (i) *o++ = ',';
                out.advance(write_numbers(p, some, tfs, o));
                p += some;
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

// An array to be written as it lies, or as one of the columns of a table: then its rows follow its name.
struct Source {
    Dtype dtype;
    const char* data;
    const Py_ssize_t* shape;
    int ndim;
    bool b64;
    const char* prefix;  // what stands before each row: a bracket or comma, the name, a colon
    size_t prefix_bytes;
};

// No less than the text of an array of numbers takes, with the slack that its writing needs.
inline size_t most_bytes(const Source& source, Py_ssize_t elements) {
    constexpr size_t longest[] = {13, 16, 25, 5, 7, 12, 21, 4, 6, 11, 21, 6};  // by Dtype, with a comma
    size_t lists = 1, bytes = static_cast<size_t>(elements) * longest[source.dtype];
    for (int level = 0; level < source.ndim; ++level) {
        bytes += 3 * lists;
        lists *= static_cast<size_t>(source.shape[level]);
    }
    return bytes + (FLOATS_AT_ONCE + 2) * MAX_NUMBER_BYTES;
}

// Writes a table as a list of objects, moving every column's `data` past it. -1, or the column that holds an object of
// which write_array says false.
inline int64_t write_rows(Out& out, Source* columns, size_t count, Py_ssize_t rows, bool tfs) {
    out.put('[');
    for (Py_ssize_t row = 0; row < rows; ++row) {
        if (row) out.put(',');
        for (size_t i = 0; i < count; ++i) {
            Source& c = columns[i];
            out.put(c.prefix, c.prefix_bytes);
            if (!write_array(out, c.dtype, c.data, c.shape + 1, c.ndim - 1, tfs, c.b64)) return static_cast<int64_t>(i);
        }
        out.put('}');
    }
    out.put(']');
    return -1;
}

}  // namespace stfs
