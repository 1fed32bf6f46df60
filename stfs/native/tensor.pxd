# See tensor.hpp.

cimport numpy as cnp
from libc.stdint cimport int64_t

from stfs.native.scanner cimport Scanner

cdef extern from "tensor.hpp" namespace "stfs" nogil:
    cdef enum Dtype "stfs::Dtype":
        F16 "stfs::F16"
        F32 "stfs::F32"
        F64 "stfs::F64"
        I8 "stfs::I8"
        I16 "stfs::I16"
        I32 "stfs::I32"
        I64 "stfs::I64"
        U8 "stfs::U8"
        U16 "stfs::U16"
        U32 "stfs::U32"
        U64 "stfs::U64"
        B8 "stfs::B8"
        STR "stfs::STR"
    cdef enum Options "stfs::Options":
        INTEGRAL_FLOATS "stfs::INTEGRAL_FLOATS"
        NULLABLE "stfs::NULLABLE"
        LITERALS "stfs::LITERALS"
    cdef cppclass Nest:
        Nest()
        Nest(int)
        int base
        int rank
        int64_t filled
        int64_t count[33]
        int64_t size[33]
    const char* parse(Dtype, Scanner&, const char*, Nest&, void*, int64_t, int)


# The core's name for a dtype of numbers or objects in native order; -1 for any other. Who asks has imported numpy's API:
# without it the size of a dtype is read from the wrong place.
cdef inline int code_of(cnp.dtype dtype) noexcept:
    cdef char kind = dtype.kind
    cdef Py_ssize_t size = dtype.itemsize
    if not cnp.PyArray_ISNBO(dtype.byteorder):
        return -1
    if kind == c"f":
        return F32 if size == 4 else F64 if size == 8 else F16 if size == 2 else -1
    if kind == c"i":
        return I8 if size == 1 else I16 if size == 2 else I32 if size == 4 else I64
    if kind == c"u":
        return U8 if size == 1 else U16 if size == 2 else U32 if size == 4 else U64
    if kind == c"b":
        return B8
    return STR if kind == c"O" else -1
