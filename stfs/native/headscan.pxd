# See headscan.hpp.

from libc.stdint cimport int64_t

cdef extern from "headscan.hpp" namespace "stfs::http" nogil:
    cdef enum Verdict "stfs::http::Verdict":
        OTHER "stfs::http::OTHER"
        WHOLE "stfs::http::WHOLE"
        HEAD_SHORT "stfs::http::HEAD_SHORT"
        BODY_SHORT "stfs::http::BODY_SHORT"
    cdef struct Span:
        int64_t at
        int64_t size
    cdef cppclass Head "stfs::http::Head":
        bint is_post
        bint asks_more
        Span path
        Span content_type
        Span authorization
        Span accept_encoding
        Span request_id
        Span traceparent
        Span inference_header
        int64_t body_at
        int64_t total
    Verdict scan_head(const char* start, int64_t size, Head& head)
