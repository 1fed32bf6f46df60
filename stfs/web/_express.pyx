# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
# distutils: language=c++
"""The express lane of the hot path: the plainest requests, from the bytes of a connection into a batch.

A request is plain if its head is one that ``hot`` takes and asks for nothing more, its body is one of ``plainbody.hpp``'s,
and its model has a lane (``stfs.batcher._lane``). Its numbers are parsed where the model will read them; the answers
are ``_express_answers``'s. Whatever is otherwise in the least is left to ``hot`` untouched, so that every refusal is
worded there.

Imported by ``stfs.web.hot`` only, which does without where this is not compiled, or where aiohttp's handler is another.
Event-loop thread.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport memcmp

cimport numpy as cnp

from stfs.batcher._lane cimport Group, Lane
from stfs.native.headscan cimport WHOLE, Head, scan_head
from stfs.native.plainbody cimport (
    NO_FORM,
    OIP_INPUTS,
    STFS_BARE,
    STFS_NAMED,
    Form,
    PlainBody,
    plain_end,
    plain_oip,
    plain_predict,
    plain_stfs,
)
from stfs.native.scanner cimport FULL, Scanner
from stfs.native.tensor cimport INTEGRAL_FLOATS, STR, Dtype, Nest, code_of, parse
from stfs.web._express_answers cimport Answers, Hold, Template
from stfs.web._slots cimport find_slot, set_slot, slot

import logging

from stfs import errors
from stfs.context import Lease
from stfs.protocols.oip_datatypes import datatype_of
from stfs.web.hot import HotHandler
from stfs.web.infer import STFS as STFS_DIALECT
from stfs.web.oip import OIP as OIP_DIALECT
from stfs.web.tfserving import TFSERVING

cnp.import_array()

log = logging.getLogger("stfs.web")

cdef enum:
    TAKEN = 1
    REFUSED = 0  # one whole request, which is for somebody else
    NOT_WHOLE = 2

cdef enum:
    MOST_BODY_BYTES = 1 << 17  # a longer one is worth more steps, and the interpreter lock
    MOST_TARGETS = 256  # clients can name what they like, so the memory is emptied when it is full

cdef Py_ssize_t WAITER = find_slot(HotHandler, "_waiter")
cdef Py_ssize_t MESSAGES = find_slot(HotHandler, "_messages")
cdef Py_ssize_t FORCE_CLOSE = find_slot(HotHandler, "_force_close")
cdef Py_ssize_t CLOSE = find_slot(HotHandler, "_close")
cdef Py_ssize_t IN_PROGRESS = find_slot(HotHandler, "_request_in_progress")
cdef Py_ssize_t REQUEST_COUNT = find_slot(HotHandler, "_request_count")
cdef Py_ssize_t PAUSED = find_slot(HotHandler, "_paused")
cdef Py_ssize_t READING_PAUSED = find_slot(HotHandler, "_reading_paused")
cdef Py_ssize_t BUFFER_PAUSED = find_slot(HotHandler, "_buffer_paused")
cdef Py_ssize_t ACCEPT = find_slot(HotHandler, "_accept")
cdef Py_ssize_t HELD = find_slot(HotHandler, "_held")
cdef Py_ssize_t STOCK = find_slot(HotHandler, "_stock")
cdef Py_ssize_t TICKET = find_slot(HotHandler, "_ticket")


cdef bint is_same(const char* text, int64_t size, bytes known):
    return size == PyBytes_GET_SIZE(known) and memcmp(text, PyBytes_AS_STRING(known), size) == 0


cdef class Target(Template):
    """Where plain requests of one address, form, model name and version lead, until what is published changes."""

    cdef bytes model  # as the body names it; empty if it does not
    cdef int64_t version
    cdef object published
    cdef object models
    cdef Lane lane  # None: nowhere
    cdef Dtype code
    cdef int options
    cdef bytes input_name
    cdef bytes datatype


cdef class Address:
    """One spelling of a path. ``dialect`` is ``None`` if no plain request goes there."""

    cdef bytes path
    cdef object dialect
    cdef object name
    cdef object version
    cdef Target recent
    cdef dict targets


cdef class Express:
    """What the express lanes of one server share."""

    cdef readonly Py_ssize_t taken
    cdef object hot
    cdef object context
    cdef object registry
    cdef Answers answers
    cdef Address latest
    cdef dict addresses
    cdef Py_ssize_t limit_bytes

    def __init__(self, hot):
        self.hot = hot
        self.context = hot.context
        self.registry = hot.context.registry
        self.answers = Answers(hot)
        self.addresses = {}
        self.limit_bytes = min(hot.limit_bytes, MOST_BODY_BYTES)

    cdef int take(self, object handler, object data) except -1:
        """Let the request wait for its model: ``TAKEN``. Otherwise nothing has been done."""
        cdef Py_buffer view
        try:
            if PyBytes_CheckExact(data):
                return self.take_from(handler, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            try:
                return self.take_from(handler, <const char*>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
        except Exception:
            # Not foreseen: the general path has the message from its beginning.
            log.exception("the express lane failed")
            return REFUSED

    cdef int take_from(self, object handler, const char* start, Py_ssize_t size) except -1:
        cdef Head head
        cdef Address address
        if scan_head(start, size, head) != WHOLE or head.total != size:
            return NOT_WHOLE
        if not head.is_post or head.asks_more or head.request_id.at >= 0 or head.traceparent.at >= 0:
            return REFUSED
        if head.total - head.body_at > self.limit_bytes or not stock_is_idle(handler):
            return REFUSED
        address = self.latest
        if address is None or not is_same(start + head.path.at, head.path.size, address.path):
            address = self.find(start[head.path.at:head.path.at + head.path.size])
        if address.dialect is None:
            return REFUSED
        return self.read(handler, address, head, start)

    cdef Address find(self, bytes path):
        cdef Address address = self.addresses.get(path)
        if address is None:
            if len(self.addresses) >= MOST_TARGETS:
                self.addresses.clear()
            address = self.addresses[path] = Address()
            address.path = path
            address.targets = {}
            route = self.hot.route(path)
            if route is not None and route[0] in (TFSERVING, STFS_DIALECT, OIP_DIALECT):
                address.dialect, address.name, address.version = route
        self.latest = address
        return address

    cdef int read(self, object handler, Address address, Head& head, const char* start) except -1:
        cdef Scanner s
        cdef PlainBody body
        cdef Form form
        cdef Target target
        cdef Lane lane
        cdef Group group
        cdef Nest nest
        cdef double arrived_s
        cdef Py_ssize_t free_rows, rows
        cdef char* room
        cdef const char* end
        s.begin = start + head.body_at
        s.end = start + head.total
        if address.dialect is TFSERVING:
            form = plain_predict(s, s.begin, body)
        elif address.dialect is OIP_DIALECT:
            if head.inference_header.at >= 0:
                return REFUSED
            form = plain_oip(s, s.begin, body)
        else:
            if head.content_type.at >= 0 and not (
                head.content_type.size == 16 and memcmp(start + head.content_type.at, b"application/json", 16) == 0
            ):
                return REFUSED
            form = plain_stfs(s, s.begin, body)
        if form == NO_FORM:
            return REFUSED
        target = address.recent
        if target is None or target.form != form or target.version != body.version or not is_same(
            body.model, body.model_size, target.model
        ):
            target = self.look_up(address, form, body)
        if target is None or not self.is_current(target):
            target = self.make_target(address, form, body, s)
        if target is None or target.lane is None:
            return REFUSED
        lane = target.lane
        arrived_s = lane.now_s()
        if body.input != NULL and not is_same(body.input, body.input_size, target.input_name):
            return REFUSED
        if form == OIP_INPUTS and not is_same(body.datatype, body.datatype_size, target.datatype):
            return REFUSED
        group = lane.growing()
        if group is None:
            group = lane.fresh()
        room = lane.room(group, &free_rows)
        end = parse(target.code, s, body.data, nest, room, free_rows * lane.row_elements, target.options)
        if end == NULL and s.error.fault == FULL and free_rows < lane.capacity_rows:
            group = lane.fresh()
            room = lane.room(group, &free_rows)
            nest = Nest()
            end = parse(target.code, s, body.data, nest, room, free_rows * lane.row_elements, target.options)
        if end == NULL or not plain_end(s, end, form):
            return REFUSED
        rows = rows_of(lane, form, nest, body)
        if rows <= 0:
            return REFUSED
        if not lane.join(group, rows, handler, target, self.answers.reply, arrived_s, lane.now_s() - arrived_s):
            return REFUSED
        if group.held is None:
            group.held = Hold(self.registry.acquire(target.served.name, target.served.version))
        set_slot(handler, TICKET, group)
        set_slot(handler, IN_PROGRESS, True)
        if head.accept_encoding.at >= 0:
            set_slot(handler, ACCEPT, start[head.accept_encoding.at:head.accept_encoding.at + head.accept_encoding.size])
        else:
            set_slot(handler, ACCEPT, None)
        self.taken += 1
        return TAKEN

    cdef bint is_current(self, Target target) except -1:
        """Whether the registry, and the choice of the default model, are as they were when it was made."""
        if self.registry.published is not target.published:
            return False
        return target.models is None or self.context.models() is target.models

    cdef Target look_up(self, Address address, Form form, PlainBody& body):
        model = body.model[:body.model_size] if body.model != NULL else b""
        address.recent = address.targets.get((<int>form, model, body.version))
        return address.recent

    cdef Target make_target(self, Address address, Form form, PlainBody& body, Scanner& s):
        """Found by the dialect's own decoder, from this very body; ``None`` if that refuses it."""
        cdef Target target = Target()
        cdef bytes text = s.begin[:s.end - s.begin]
        if not ends_plainly(s, form, body):
            return None  # what is said behind the data is of this request alone, and may name another model
        target.form = form
        target.model = body.model[:body.model_size] if body.model != NULL else b""
        target.version = body.version
        target.published = self.registry.published
        names_none = address.name is None and body.model == NULL
        target.models = self.context.models() if names_none else None
        lease = Lease(self.context, address.name, address.version)
        try:
            signature, inputs, target.encode = address.dialect.decode(text, lease)
            lane = lease.model.lane(signature)
        except errors.RequestError:
            return None
        finally:
            lease.release()
        target.dialect = address.dialect
        target.served = lease.served
        if lane is not None and 0 <= code_of(lane.dtype) < STR and list(inputs) == [lane.name]:
            if form != OIP_INPUTS or lane.dtype.kind != "f" or lane.dtype.itemsize > 2:
                target.lane = lane
                target.code = <Dtype>code_of(lane.dtype)
                target.input_name = lane.name.encode()
                target.datatype = datatype_of(lane.dtype).encode()
        target.options = INTEGRAL_FLOATS if form == STFS_NAMED or form == STFS_BARE else 0
        target.head = self.hot.opening(target.served.version)
        if len(address.targets) >= MOST_TARGETS:
            address.targets.clear()
        address.targets[(<int>form, target.model, target.version)] = address.recent = target
        return target


cdef bint stock_is_idle(object handler) except -1:
    """See ``HotHandler._stock_is_idle``. A waiter that is done has a message, or belongs to a connection that closes."""
    cdef PyObject* waiter = slot(handler, WAITER)
    if <object>waiter is None:
        return <object>slot(handler, REQUEST_COUNT) == 0
    if <object>slot(handler, BUFFER_PAUSED) is not False or <object>slot(handler, READING_PAUSED) is not False:
        return False
    return not <object>slot(handler, MESSAGES)


cdef Py_ssize_t rows_of(Lane lane, Form form, Nest& nest, PlainBody& body):
    """The rows that were read, if they have the lane's shape; -1 if not."""
    cdef int i
    if form == OIP_INPUTS:  # its data may be flat: the shape is told beside it
        if body.ndim != lane.dims + 1:
            return -1
        for i in range(lane.dims):
            if body.shape[i + 1] != lane.sizes[i]:
                return -1
        if body.shape[0] > lane.capacity_rows or nest.filled != body.shape[0] * lane.row_elements:
            return -1
        return body.shape[0]
    if nest.rank != lane.dims + 1:
        return -1
    for i in range(lane.dims):
        if nest.size[i + 1] != lane.sizes[i]:
            return -1
    return nest.size[0]


cdef bint ends_plainly(Scanner& s, Form form, PlainBody& body):
    """Whether nothing but the ends of a plain body stands behind its data."""
    cdef const char* at = body.data
    cdef Py_ssize_t depth = 0
    while at < s.end:
        if at[0] == c'"':
            return False
        depth += (at[0] == c"[") - (at[0] == c"]")
        at += 1
        if not depth:
            return plain_end(s, at, form)
    return False


class ExpressHandler(HotHandler):
    """A connection whose requests are tried on the express lane first. A request in flight there has its group for a
    ticket."""

    __slots__ = ("_express", "_tried")

    def __init__(self, express, hot, *args, **kwargs):
        HotHandler.__init__(self, hot, *args, **kwargs)
        self._express = express
        self._tried = False

    def data_received(self, data):
        cdef int verdict
        if (
            <object>slot(self, TICKET) is None
            and <object>slot(self, STOCK) is False
            and <object>slot(self, PAUSED) is False
            and <object>slot(self, CLOSE) is False
            and <object>slot(self, FORCE_CLOSE) is False
            and not <object>slot(self, HELD)
            and data
        ):
            verdict = (<Express>slot(self, EXPRESS)).take(self, data)
            if verdict == TAKEN:
                return
            self._tried = verdict == REFUSED
            HotHandler.data_received(self, data)
            self._tried = False
        else:
            HotHandler.data_received(self, data)

    def _try_hot(self, message, head):
        if not self._tried and (<Express>self._express).take(self, message) == TAKEN:
            return True
        return HotHandler._try_hot(self, message, head)

    def connection_lost(self, exc):
        ticket = self._ticket
        if type(ticket) is Group:
            (<Express>self._express).answers.leave(self, ticket)
        HotHandler.connection_lost(self, exc)


cdef Py_ssize_t EXPRESS = find_slot(ExpressHandler, "_express")
