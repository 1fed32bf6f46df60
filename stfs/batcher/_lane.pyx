# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
# distutils: language=c++
"""Requests of the plainest kind, gathered in place: their rows are written where the model will read them.

A :class:`Lane` belongs to one batcher whose signature has one input of numbers of a known row shape. What parses a
request writes its rows behind those of the last one, into a slot ``[capacity, ...row]``. The requests of one slot are a
:class:`Group`: one entry of the batcher's queue, whose rows grow while it is the last one there. Nothing is stacked: the
model is given ``slot[:n]``. A request in a group counts, is cancelled, is run again and fails as one of its own would.

Everything here is for the event-loop thread; told otherwise where it is not so. Must not live here: wire formats, what a
request's owner is, when a batch leaves.
"""

cimport numpy as cnp
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

import time

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int, timespec*)

MOST_SLOT_BYTES = 1 << 22
"""Rows beyond this wait in another slot; a batch may be of several."""

MOST_SLOT_ROWS = 4096

cdef enum:
    SLOTS_KEPT = 4
    MOST_DIMENSIONS = 8


cdef class Group:
    """Requests whose rows lie one after another in one slot: what a :class:`stfs.batcher.queue.Entry` is to others.

    ``owners`` holds who asked, ``None`` for one who has gone; ``tags`` what the owner's room says of each request.
    ``held`` is whatever must be released when the last of them is answered; parts of a group share it (``share``).
    It grows only while it is the last in the queue, and is sealed when it is taken.
    """

    def __cinit__(self, Lane lane, cnp.ndarray slot):
        self.lane = lane
        self.slot = slot
        self.key = lane.key
        self.owners = []
        self.tags = []
        self.members = <Member*>malloc(lane.capacity_rows * sizeof(Member))
        if self.members == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.members)

    @property
    def requests(self):
        """How many requests it is made of, those whose owners have gone included."""
        return PyList_GET_SIZE(self.owners)

    @property
    def arrived_s(self):
        """When the oldest of them came."""
        return self.members[0].arrived_s

    @property
    def deadline_s(self):
        return INFINITY

    @property
    def inputs(self):
        """The rows, ``[rows, ...]``: a view of the slot. No more may be added from then on."""
        return {self.lane.name: self.slot[self.first_row:self.first_row + self.rows]}

    @property
    def answered(self):
        """Whether nobody waits for it any more. Any thread."""
        return self.over or self.owners.count(None) == PyList_GET_SIZE(self.owners)

    def part(self, Py_ssize_t limit_rows, *, bint least_one):
        """Its first requests, of ``limit_rows`` rows at most, taken out as a group of their own.

        ``None`` if it is one request, or if not even the first fits; with ``least_one`` that one does.
        """
        cdef Py_ssize_t requests = PyList_GET_SIZE(self.owners)
        cdef Py_ssize_t count = 0, rows = 0
        cdef Group part
        while count < requests - 1 and (rows + self.members[count].rows <= limit_rows or (least_one and not count)):
            rows += self.members[count].rows
            count += 1
        if not count:
            return None
        part = Group(self.lane, self.slot)
        part.first_row = self.first_row
        part.rows = rows
        part.reply = self.reply
        part.held = self.held.share()
        part.is_part = True
        part.owners += self.owners[:count]
        part.tags += self.tags[:count]
        memmove(part.members, self.members, count * sizeof(Member))
        del self.owners[:count]
        del self.tags[:count]
        memmove(self.members, self.members + count, (requests - count) * sizeof(Member))
        self.first_row += rows
        self.rows -= rows
        return part

    def alone(self, inputs):
        """Its requests as entries of their own, whose rows are views of ``inputs``, its own. The model's thread."""
        cdef Py_ssize_t start = 0, i
        made = []
        ((name, array),) = inputs.items()
        for i in range(PyList_GET_SIZE(self.owners)):
            stop = start + self.members[i].rows
            made.append(Alone(self, i, self.members[i].rows, {name: array[start:stop]}))
            start = stop
        return made

    cdef Py_ssize_t index_of(self, object owner):
        cdef Py_ssize_t i
        for i in range(PyList_GET_SIZE(self.owners)):
            if PyList_GET_ITEM(self.owners, i) == <PyObject*>owner:
                return i
        return -1

    def leave(self, owner):
        """``owner`` has gone: its rows are dropped if they are still queued, and its answer in any case.

        True if that leaves nothing of the group: it is out of the queue, and will not be answered.
        """
        cdef Py_ssize_t i = self.index_of(owner), after, rows, at, k
        cdef char* data
        if i < 0:
            return False
        if self.queue is None:
            self.owners[i] = None
            return False
        rows = self.members[i].rows
        if PyList_GET_SIZE(self.owners) == 1:
            self.queue.discard(self)
            self.end()
            return True
        at = self.first_row
        for k in range(i):
            at += self.members[k].rows
        after = self.first_row + self.rows - at - rows
        data = <char*>cnp.PyArray_DATA(self.slot) + at * self.lane.row_bytes
        memmove(data, data + rows * self.lane.row_bytes, after * self.lane.row_bytes)
        del self.owners[i]
        del self.tags[i]
        memmove(self.members + i, self.members + i + 1, (PyList_GET_SIZE(self.owners) - i) * sizeof(Member))
        self.rows -= rows
        self.queue.rows -= rows
        return False

    def answer(self, outputs, error):
        """Answer all of its requests, once: ``outputs`` are ``[rows, ...]``, or the error is everybody's."""
        self.tell(outputs, error, None)

    def answer_each(self, outcomes):
        """Answer each request by its own outcome, outputs or error."""
        self.tell(None, None, outcomes)

    def tell(self, outputs, error, outcomes):
        if self.over:
            return
        if self.queue is not None:
            self.queue.discard(self)
        self.over = True
        try:
            self.reply(self, outputs, error, outcomes)
        finally:
            self.end()

    def end(self):
        self.over = True
        if not self.is_part:
            self.lane.give_back(self.slot)
        if self.lane.newest is self:
            self.lane.newest = None


cdef class Alone:
    """One request of a group that has failed as a whole, to be run by itself. The model's thread."""

    cdef Group group
    cdef Py_ssize_t index
    cdef readonly Py_ssize_t rows
    cdef readonly object inputs

    requests = 1

    def __cinit__(self, Group group, Py_ssize_t index, Py_ssize_t rows, inputs):
        self.group = group
        self.index = index
        self.rows = rows
        self.inputs = inputs

    @property
    def answered(self):
        return self.group.owners[self.index] is None


cdef class Lane:
    """See the module. ``row_shape`` holds sizes; ``dtype`` is one of numbers or booleans, in native byte order.

    Made by :meth:`stfs.batcher.batcher.Batcher.lane`. Raises :class:`ValueError` for rows that are too large, or empty.
    """

    def __init__(self, batcher, str name, cnp.dtype dtype, tuple row_shape, key):
        cdef Py_ssize_t elements = 1
        if len(row_shape) > MOST_DIMENSIONS:
            raise ValueError(f"rows of {len(row_shape)} dimensions are not for a lane")
        self.dims = len(row_shape)
        for i, size in enumerate(row_shape):
            self.sizes[i] = size
            elements *= size
        self.batcher = batcher
        self.queue = batcher.queue
        self.adaptive = batcher.adaptive
        self.overlaps = batcher.overlaps
        self.watched = self.overlaps
        self.clock = None if batcher.clock is time.monotonic else batcher.clock
        self.name = name
        self.dtype = dtype
        self.row_shape = row_shape
        self.key = key
        self.row_elements = elements
        self.row_bytes = elements * dtype.itemsize
        if not 0 < self.row_bytes <= MOST_SLOT_BYTES // 2:
            raise ValueError(f"rows of {self.row_bytes} bytes are not for a lane")
        policy = batcher.policy
        self.capacity_rows = min(policy.max_batch_size, MOST_SLOT_ROWS, MOST_SLOT_BYTES // self.row_bytes)
        self.max_enqueued_rows = policy.max_enqueued_rows
        self.pool = []

    @property
    def capacity(self):
        """Rows of a slot."""
        return self.capacity_rows

    @property
    def kept(self):
        """Slots that wait to be used again."""
        return len(self.pool)

    def submit(self, array, owner, held, reply):
        """Let a request wait whose rows are ``array``; false, and nothing done, if it is for :meth:`Batcher.submit`.

        For tests and whoever has an array; the web parses into the slot itself. ``reply(group, outputs, error,
        outcomes)`` is called once for a whole group; ``held`` becomes the group's if this request begins one.
        """
        cdef Py_ssize_t rows = len(array), free_rows
        ready = np.ascontiguousarray(array, self.dtype)
        if ready.shape[1:] != self.row_shape or not rows:
            raise ValueError(f"rows of shape {self.row_shape} are for this lane, not {ready.shape[1:]}")
        cdef Group group = self.growing()
        if group is None:
            group = self.fresh()
        cdef char* at = self.room(group, &free_rows)
        if free_rows < rows:
            if rows > self.capacity_rows:
                return False
            group = self.fresh()
            at = self.room(group, &free_rows)
        memmove(at, cnp.PyArray_DATA(ready), rows * self.row_bytes)
        begins = not PyList_GET_SIZE(group.owners)
        if not self.join(group, rows, owner, None, reply, self.now_s(), 0.0):
            return False
        if begins:
            group.held = held
        return True

    cdef double now_s(self):
        """The batcher's clock."""
        cdef timespec now
        if self.clock is not None:
            return self.clock()
        clock_gettime(CLOCK_MONOTONIC, &now)
        return now.tv_sec + now.tv_nsec * 1e-9

    cdef Group growing(self):
        """The group that may still grow, or one that nobody has joined yet; ``None`` if there is none."""
        cdef Group group = self.newest
        if group is None:
            return None
        if PyList_GET_SIZE(group.owners):
            # Behind anybody else's entry it would overtake; and once it has left the queue it is the model's.
            if group.queue is None or self.queue.newest is not group:
                return None
            if group.first_row + group.rows == self.capacity_rows:
                return None
        return group

    cdef Group fresh(self):
        """A group of nobody yet, in a slot that nobody can see any more."""
        cdef Py_ssize_t i
        cdef Group group = self.newest
        if group is not None and not PyList_GET_SIZE(group.owners):
            return group
        cdef object slot = None
        for i in range(PyList_GET_SIZE(self.pool)):
            # A view anywhere, in an answer or in a model, refers to the slot.
            if Py_REFCNT(PyList_GET_ITEM(self.pool, i)) == 1:
                slot = self.pool.pop(i)
                break
        if slot is None:
            slot = np.empty((self.capacity_rows, *self.row_shape), self.dtype)
        self.newest = Group(self, slot)
        return self.newest

    cdef char* room(self, Group group, Py_ssize_t* rows):
        """Where the next request's rows go, and how many there is room for."""
        cdef Py_ssize_t end = group.first_row + group.rows
        rows[0] = self.capacity_rows - end
        return <char*>cnp.PyArray_DATA(group.slot) + end * self.row_bytes

    cdef bint join(
        self, Group group, Py_ssize_t rows, object owner, object tag, object reply, double arrived_s, double decode_s
    ) except -1:
        """The rows that were written into the group's :meth:`room` are a request; false if the batcher takes none."""
        cdef Py_ssize_t queued = self.queue.rows
        cdef Py_ssize_t requests = PyList_GET_SIZE(group.owners)
        cdef Member* member = &group.members[requests]
        if (queued and queued + rows > self.max_enqueued_rows) or (not self.told and self.batcher.closing):
            return False
        member.arrived_s = arrived_s
        member.decode_s = decode_s
        member.rows = rows
        group.owners.append(owner)
        group.tags.append(tag)
        group.rows += rows
        if requests:
            self.queue.rows = queued + rows
        else:
            group.reply = reply
            self.queue.append(group)
        if self.watched or not self.told:
            self.batcher.joined(arrived_s, rows)
            self.told = True
            self.watched = self.overlaps or (self.adaptive is not None and self.adaptive.watches)
        return True

    def give_back(self, slot):
        """The slot of a group that has ended; it is used again when nobody can see it."""
        if len(self.pool) < SLOTS_KEPT:
            self.pool.append(slot)
