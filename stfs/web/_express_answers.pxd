# What the reading half of the express lane knows of the writing half: where an answer goes, and what is due with it.

from stfs.batcher._lane cimport Group
from stfs.native.plainbody cimport Form


cdef class Hold:
    cdef object handle
    cdef Py_ssize_t uses

    cpdef release(self)


cdef class Template:
    cdef Form form
    cdef object dialect
    cdef object encode
    cdef object served
    cdef bytes head
    cdef tuple outputs_key
    cdef list columns
    cdef bytes closing


cdef class Answers:
    cdef readonly object reply
    cdef object hot
    cdef object context
    cdef Py_ssize_t compress_over_bytes

    cdef leave(self, object handler, Group group)
    cdef answer_one(self, Group group, Py_ssize_t i, outputs, error)
    cdef hand_over(self, handler, Group group, Py_ssize_t i)
    cdef answer_run(self, Group group, Py_ssize_t begin, Py_ssize_t stop, Py_ssize_t row, outputs)
    cdef answer_written(self, Group group, Py_ssize_t i, bytes body)
    cdef finish(self, object handler, bytes response, object close_s)
