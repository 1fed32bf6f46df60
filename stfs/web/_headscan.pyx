# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: language=c++
"""Is this buffer one plain HTTP/1.1 request, and where are its parts? Where does one that is not plain end?

Nothing else. See ``native/headscan.hpp`` and ``native/framing.hpp``.

Imported by ``stfs.web.hot`` only, which does without where this is not compiled.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from stfs.native.framing cimport DONE, LOST, Chunks, scan_frame
from stfs.native.framing cimport Frame as CFrame

from stfs.native.headscan cimport BODY_SHORT as _BODY_SHORT
from stfs.native.headscan cimport HEAD_SHORT as _HEAD_SHORT
from stfs.native.headscan cimport OTHER as _OTHER
from stfs.native.headscan cimport WHOLE as _WHOLE
from stfs.native.headscan cimport Head as CHead
from stfs.native.headscan cimport Span, scan_head

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


cdef class Frame:
    """Where one message ends that is handed on piece by piece."""

    cdef readonly bint done
    cdef bytes head  # what has come of it; None once it is whole
    cdef bint chunked
    cdef Py_ssize_t left
    cdef Chunks chunks

    def __cinit__(self):
        self.head = b""

    def take(self, bytes data not None) -> int:
        """How many of the next bytes belong to the message; it is ``done`` if they are its last.

        -1 if it cannot be told where it ends: this object is of no more use. Not to be called once it is done.
        """
        cdef const char* start = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), at = 0
        cdef CFrame frame
        cdef bytes head
        if self.head is not None:
            head = self.head + data if self.head else data
            verdict = scan_frame(PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head), frame)
            if verdict == _OTHER:
                return -1
            if verdict == _HEAD_SHORT:
                self.head = head
                return size
            at = frame.body_at - PyBytes_GET_SIZE(self.head)
            self.head = None
            self.chunked = frame.chunked
            self.left = frame.length
        if self.chunked:
            at = self.chunks.follow(start + at, start + size) - start
            self.done = self.chunks.place == DONE
            return -1 if self.chunks.place == LOST else at
        if size - at < self.left:
            self.left -= size - at
            return size
        self.done = True
        return at + self.left


cdef bytes _part(const char* start, Span span):
    return None if span.at < 0 else PyBytes_FromStringAndSize(start + span.at, span.size)
