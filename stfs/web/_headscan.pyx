# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: language=c++
"""Is this buffer one plain HTTP/1.1 request, and where are its parts? Nothing else. See ``native/headscan.hpp``.

Imported by ``stfs.web.hot`` only, which does without where this is not compiled.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t

cdef extern from "headscan.hpp" namespace "stfs::http" nogil:
    cdef enum Verdict "stfs::http::Verdict":
        _OTHER "stfs::http::OTHER"
        _WHOLE "stfs::http::WHOLE"
        _HEAD_SHORT "stfs::http::HEAD_SHORT"
        _BODY_SHORT "stfs::http::BODY_SHORT"
    cdef struct Span:
        int64_t at
        int64_t size
    cdef cppclass CHead "stfs::http::Head":
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
    Verdict scan_head(const char* start, int64_t size, CHead& head)

OTHER = <int>_OTHER
WHOLE = <int>_WHOLE
HEAD_SHORT = <int>_HEAD_SHORT
BODY_SHORT = <int>_BODY_SHORT


cdef class Head:
    """The parts of the request that the last :meth:`scan` found. Reused: read it before the next scan."""

    cdef readonly bint is_post
    cdef readonly bint asks_more
    cdef readonly bytes path
    cdef readonly bytes content_type
    cdef readonly bytes authorization
    cdef readonly bytes accept_encoding
    cdef readonly bytes request_id
    cdef readonly bytes traceparent
    cdef readonly bytes inference_header
    cdef readonly Py_ssize_t body_at
    cdef readonly Py_ssize_t total

    def scan(self, data) -> int:
        """What ``data`` begins with.

        ``WHOLE``: one request, ``total`` bytes long; more may follow. ``BODY_SHORT``: the head is all there, the body
        is not. ``HEAD_SHORT``: so far plain, the head goes on. ``OTHER``: for the stock parser. The parts are set for
        the first two; those that are values of headers are ``None`` where the header is missing.
        """
        cdef Py_buffer view
        cdef CHead head
        cdef const char* start
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            start = <const char*>view.buf
            verdict = scan_head(start, view.len, head)
            if verdict == _WHOLE or verdict == _BODY_SHORT:
                self.is_post = head.is_post
                self.asks_more = head.asks_more
                self.path = _part(start, head.path)
                self.content_type = _part(start, head.content_type)
                self.authorization = _part(start, head.authorization)
                self.accept_encoding = _part(start, head.accept_encoding)
                self.request_id = _part(start, head.request_id)
                self.traceparent = _part(start, head.traceparent)
                self.inference_header = _part(start, head.inference_header)
                self.body_at = head.body_at
                self.total = head.total
            return <int>verdict
        finally:
            PyBuffer_Release(&view)


cdef bytes _part(const char* start, Span span):
    return None if span.at < 0 else PyBytes_FromStringAndSize(start + span.at, span.size)
