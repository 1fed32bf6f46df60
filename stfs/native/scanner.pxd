# See scanner.hpp and number.hpp.

from libc.stdint cimport int64_t, uint64_t

cdef extern from "scanner.hpp" namespace "stfs" nogil:
    cdef enum Fault "stfs::Fault":
        FULL "stfs::FULL"
        PYTHON_ERROR "stfs::PYTHON_ERROR"
        UNEXPECTED "stfs::UNEXPECTED"
        SYNTAX "stfs::SYNTAX"
        WRONG_KIND "stfs::WRONG_KIND"
        NOT_INTEGER "stfs::NOT_INTEGER"
        OUT_OF_RANGE "stfs::OUT_OF_RANGE"
        TOO_FEW "stfs::TOO_FEW"
        TOO_MANY "stfs::TOO_MANY"
    cdef enum Kind "stfs::Kind":
        KIND_OBJECT "stfs::OBJECT"
        KIND_ARRAY "stfs::ARRAY"
        KIND_STRING "stfs::STRING"
        KIND_NUMBER "stfs::NUMBER"
        KIND_BOOL "stfs::BOOL"
        KIND_NULL "stfs::NULL_"
        KIND_BAD "stfs::BAD"
    cdef struct Error:
        Fault fault
        const char* what
        const char* found
        const char* at
        const char* end
        int64_t have
        int64_t want
        int depth
    cdef struct StringToken:
        const char* start
        const char* stop
        bint escaped
    cdef struct NumberToken:
        const char* start
        const char* stop
        uint64_t mantissa
        int64_t digits
        bint negative
        bint integral
    cdef cppclass Scanner:
        const char* begin
        const char* end
        Error error
        const char* space(const char*)
        bint at(const char*, char)
        void* unexpected(const char*, const char*)
        bint at_minus_infinity(const char*)
        Kind kind(const char*)
        const char* string(const char*, StringToken&)
        const char* number(const char*, NumberToken&)
        const char* key(const char*, StringToken&)
        const char* skip(const char*)
    size_t unescape(const StringToken&, char*)

cdef extern from "number.hpp" namespace "stfs" nogil:
    double to_double(const NumberToken&)
