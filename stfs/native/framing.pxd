# See framing.hpp.

from libc.stdint cimport int64_t

from stfs.native.headscan cimport Verdict

cdef extern from "framing.hpp" namespace "stfs::http" nogil:
    cdef struct Frame "stfs::http::Frame":
        int64_t body_at
        int64_t length
        bint chunked
    Verdict scan_frame(const char* start, int64_t size, Frame& frame)
    cdef enum Place "stfs::http::Chunks::Place":
        DONE "stfs::http::Chunks::DONE"
        LOST "stfs::http::Chunks::LOST"
    cdef cppclass Chunks:
        Place place
        const char* follow(const char* p, const char* end)
