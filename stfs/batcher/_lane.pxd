# What a compiled module of a room below may do with a lane without making objects of numbers.

cimport numpy as cnp


cdef struct Member:
    double arrived_s
    double decode_s
    Py_ssize_t rows


cdef class Group:
    cdef readonly Lane lane
    cdef cnp.ndarray slot
    cdef readonly Py_ssize_t first_row
    cdef readonly Py_ssize_t rows
    cdef readonly list owners
    cdef readonly list tags
    cdef Member* members
    cdef readonly object key
    cdef public object queue
    cdef readonly object journey
    cdef public object held
    cdef object reply
    cdef bint over
    cdef bint is_part

    cdef Py_ssize_t index_of(self, object owner)


cdef class Lane:
    cdef object batcher
    cdef object queue
    cdef object adaptive
    cdef object clock
    cdef public bint told  # the batcher will look at the queue, so a request more is no news
    cdef bint watched
    cdef bint overlaps  # a batch leaves beside another once it is full, so each request may be news
    cdef readonly object key
    cdef readonly str name
    cdef readonly object dtype
    cdef readonly tuple row_shape
    cdef Py_ssize_t sizes[8]  # the row's
    cdef int dims
    cdef Py_ssize_t row_elements
    cdef Py_ssize_t row_bytes
    cdef Py_ssize_t capacity_rows
    cdef public Py_ssize_t max_enqueued_rows  # up to which newcomers may queue now
    cdef Group newest
    cdef list pool

    cdef double now_s(self)
    cdef Group growing(self)
    cdef Group fresh(self)
    cdef char* room(self, Group group, Py_ssize_t* rows)
    cdef bint join(
        self, Group group, Py_ssize_t rows, object owner, object tag, object reply, double arrived_s, double decode_s
    ) except -1
