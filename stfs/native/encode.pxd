# See encode.hpp. What writes arrays of numbers may do so without the interpreter lock: the names with `nogil`.

from libc.stdint cimport int64_t

from stfs.native.tensor cimport Dtype

cdef extern from "encode.hpp" namespace "stfs":
    cdef cppclass Out:
        Out()
        const char* data()
        size_t size()
        void borrow(char*, size_t)
        void advance(const char*)
        void put(const char*, size_t) except +
    cdef struct Source:
        Dtype dtype
        const char* data
        const Py_ssize_t* shape
        int ndim
        bint b64
        const char* prefix
        size_t prefix_bytes
    size_t most_bytes(const Source&, Py_ssize_t)
    int64_t write_rows(Out&, Source*, size_t, Py_ssize_t, bint) except +
    int64_t write_rows_nogil "write_rows"(Out&, Source*, size_t, Py_ssize_t, bint) except + nogil
    bint write_array(Out&, Dtype, const char*&, const Py_ssize_t*, int, bint, bint) except +
    bint write_array_nogil "write_array"(
        Out&, Dtype, const char*&, const Py_ssize_t*, int, bint, bint
    ) except + nogil
    bint write_string(Out&, const char*, size_t) except +
