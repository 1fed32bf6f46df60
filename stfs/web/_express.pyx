# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
# distutils: language=c++
"""The express lane of the hot path: the plainest requests, from the bytes of a connection into a batch and back.

A request is plain if its head is one that ``hot`` takes and asks for nothing more, its body is one of ``plainbody.hpp``'s,
and its model has a lane (``stfs.batcher._lane``). Its numbers are parsed where the model will read them, and all answers
of a group are written in one loop. Whatever is otherwise in the least is left to ``hot`` untouched, so that every
refusal, and every odd answer, is worded there. Answers are the same bytes.

Imported by ``stfs.web.hot`` only, which does without where this is not compiled. Event-loop thread. The slots of
aiohttp's handler are read and set where they lie in the object; :func:`fits` says whether they are there.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy

cimport numpy as cnp

from stfs.batcher._lane cimport Group, Lane, Member

import logging

from stfs import codec, errors
from stfs.context import Lease
from stfs.metrics import SECONDS
from stfs.protocols.oip_datatypes import datatype_of
from stfs.web.access_log import CLIENT_CLOSED
from stfs.web.hot import HotHandler
from stfs.web.infer import STFS as STFS_DIALECT
from stfs.web.oip import OIP as OIP_DIALECT
from stfs.web.tfserving import TFSERVING

cnp.import_array()

log = logging.getLogger("stfs.web")

cdef extern from "headscan.hpp" namespace "stfs::http" nogil:
    cdef enum Verdict "stfs::http::Verdict":
        WHOLE "stfs::http::WHOLE"
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

cdef extern from "scanner.hpp" namespace "stfs" nogil:
    cdef enum Fault "stfs::Fault":
        FULL "stfs::FULL"
    cdef struct Error:
        Fault fault
    cdef cppclass Scanner:
        const char* begin
        const char* end
        Error error

cdef extern from "plainbody.hpp" namespace "stfs" nogil:
    cdef enum Form "stfs::Form":
        NO_FORM "stfs::NO_FORM"
        INSTANCES "stfs::INSTANCES"
        INPUTS "stfs::INPUTS"
        STFS_NAMED "stfs::STFS_NAMED"
        STFS_BARE "stfs::STFS_BARE"
        OIP_INPUTS "stfs::OIP_INPUTS"
    cdef cppclass PlainBody:
        const char* model
        int64_t model_size
        int64_t version
        const char* input
        int64_t input_size
        const char* datatype
        int64_t datatype_size
        int64_t shape[8]
        int ndim
        const char* data
    Form plain_predict(Scanner&, const char*, PlainBody&)
    Form plain_stfs(Scanner&, const char*, PlainBody&)
    Form plain_oip(Scanner&, const char*, PlainBody&)
    bint plain_end(Scanner&, const char*, Form)

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
    cdef enum Options "stfs::Options":
        INTEGRAL_FLOATS "stfs::INTEGRAL_FLOATS"
    cdef cppclass Nest:
        Nest()
        int rank
        int64_t filled
        int64_t size[33]
    const char* parse(Dtype, Scanner&, const char*, Nest&, void*, int64_t, int)

cdef extern from "encode.hpp" namespace "stfs":
    cdef cppclass Out:
        Out()
        const char* data()
        size_t size()
        void advance(const char*)
        void put(const char*, size_t) except +
    bint write_array(Out&, Dtype, const char*&, const Py_ssize_t*, int, bint, bint) except +

cdef extern from *:
    """
    #include <structmember.h>
    // Where the slot of this descriptor lies in an object; 0 if it is no descriptor of a slot.
    static Py_ssize_t stfs_slot_offset(PyObject* descriptor) {
        if (Py_TYPE(descriptor) != &PyMemberDescr_Type) return 0;
        const PyMemberDef* member = ((PyMemberDescrObject*)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? member->offset : 0;
    }
    static inline PyObject* stfs_slot(PyObject* object, Py_ssize_t offset) {
        return *(PyObject**)((char*)object + offset);
    }
    static inline void stfs_set_slot(PyObject* object, Py_ssize_t offset, PyObject* value) {
        PyObject** slot = (PyObject**)((char*)object + offset);
        PyObject* old = *slot;
        Py_INCREF(value);
        *slot = value;
        Py_XDECREF(old);
    }
    static inline char* stfs_digits(char* o, Py_ssize_t n) {
        char text[24];
        int i = 24;
        do text[--i] = (char)('0' + n % 10); while (n /= 10);
        memcpy(o, text + i, 24 - i);
        return o + 24 - i;
    }
    """
    Py_ssize_t slot_offset "stfs_slot_offset"(object)
    PyObject* slot "stfs_slot"(object, Py_ssize_t)
    void set_slot "stfs_set_slot"(object, Py_ssize_t, object)
    char* digits "stfs_digits"(char*, Py_ssize_t)

cdef enum:
    TAKEN = 1
    REFUSED = 0  # one whole request, which is for somebody else
    NOT_WHOLE = 2

cdef enum:
    MOST_BODY_BYTES = 1 << 17  # a longer one is worth more steps, and the interpreter lock
    MOST_ROW_BYTES = 1 << 14  # an output of larger rows is for the general path, which may write it on a thread
    MOST_TARGETS = 256  # clients can name what they like, so the memory is emptied when it is full
    BUCKETS = 16

cdef double bounds[BUCKETS]
for _bucket, _bound in enumerate(SECONDS):
    bounds[_bucket] = _bound
cdef int bounds_count = len(SECONDS)
if bounds_count >= BUCKETS:
    raise ImportError("more buckets than are counted here")

NAMES = (
    "transport",
    "_waiter",
    "_messages",
    "_force_close",
    "_close",
    "_request_in_progress",
    "_handler_waiter",
    "_request_count",
    "_keepalive_timeout",
    "_next_keepalive_close_time",
    "_paused",
    "_reading_paused",
    "_buffer_paused",
    "_accept",
    "_held",
    "_hot_paused",
    "_stock",
    "_ticket",
)
cdef Py_ssize_t _offsets[32]
for _place, _name in enumerate(NAMES):
    _offsets[_place] = slot_offset(getattr(HotHandler, _name, None))
    if not _offsets[_place]:
        raise ImportError(f"aiohttp's handler has no slot {_name}")
cdef Py_ssize_t TRANSPORT = _offsets[0]
cdef Py_ssize_t WAITER = _offsets[1]
cdef Py_ssize_t MESSAGES = _offsets[2]
cdef Py_ssize_t FORCE_CLOSE = _offsets[3]
cdef Py_ssize_t CLOSE = _offsets[4]
cdef Py_ssize_t IN_PROGRESS = _offsets[5]
cdef Py_ssize_t HANDLER_WAITER = _offsets[6]
cdef Py_ssize_t REQUEST_COUNT = _offsets[7]
cdef Py_ssize_t KEEPALIVE_TIMEOUT = _offsets[8]
cdef Py_ssize_t KEEPALIVE_CLOSE = _offsets[9]
cdef Py_ssize_t PAUSED = _offsets[10]
cdef Py_ssize_t READING_PAUSED = _offsets[11]
cdef Py_ssize_t BUFFER_PAUSED = _offsets[12]
cdef Py_ssize_t ACCEPT = _offsets[13]
cdef Py_ssize_t HELD = _offsets[14]
cdef Py_ssize_t HOT_PAUSED = _offsets[15]
cdef Py_ssize_t STOCK = _offsets[16]
cdef Py_ssize_t TICKET = _offsets[17]


cdef int code_of(cnp.dtype dtype):
    """The core's name for a dtype of numbers in native order; -1 for any other."""
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
    return B8 if kind == c"b" else -1


cdef bint is_same(const char* text, int64_t size, bytes known):
    return size == PyBytes_GET_SIZE(known) and memcmp(text, PyBytes_AS_STRING(known), size) == 0


cdef class Hold:
    """The hold that a group has on its model's version, shared by the parts that it is cut into."""

    cdef object handle
    cdef Py_ssize_t uses

    def __cinit__(self, handle):
        self.handle = handle
        self.uses = 1

    def share(self):
        self.uses += 1
        return self

    cdef release(self):
        self.uses -= 1
        if not self.uses:
            self.handle.release()


cdef class Target:
    """Where plain requests of one address, form, model name and version lead, until what is published changes."""

    cdef Form form
    cdef bytes model  # as the body names it; empty if it does not
    cdef int64_t version
    cdef object published
    cdef object models
    cdef Lane lane  # None: nowhere
    cdef object dialect
    cdef object encode
    cdef object served
    cdef Dtype code
    cdef int options
    cdef bytes input_name
    cdef bytes datatype
    cdef bytes head  # of an answer, up to the value of Content-Length
    cdef tuple outputs_key
    cdef list columns
    cdef bytes closing


cdef class Address:
    """One spelling of a path. ``dialect`` is ``None`` if no plain request goes there."""

    cdef bytes path
    cdef object dialect
    cdef object name
    cdef object version
    cdef Target recent
    cdef dict targets


cdef class Column:
    """One output of a group, as far as it has been written. ``shape`` is a row's but for its first place."""

    cdef Dtype code
    cdef const char* data
    cdef Py_ssize_t shape[33]
    cdef int ndim
    cdef Py_ssize_t row_bytes
    cdef Py_ssize_t row_elements
    cdef bytes opening
    cdef bytes sizes  # where the answer tells the shape: what stands between the rows and the data


cdef class Express:
    """What the express lanes of one server share."""

    cdef readonly Py_ssize_t taken
    cdef object hot
    cdef object context
    cdef object registry
    cdef object reply
    cdef object loop
    cdef Address latest
    cdef dict addresses
    cdef Py_ssize_t limit_bytes
    cdef Py_ssize_t compress_over_bytes

    def __init__(self, hot):
        self.hot = hot
        self.context = hot.context
        self.registry = hot.context.registry
        self.reply = self.answer
        self.addresses = {}
        self.limit_bytes = min(hot.limit_bytes, MOST_BODY_BYTES)
        self.compress_over_bytes = hot.compress_over_bytes

    # -- in

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
        if not lane.join(group, rows, handler, target, self.reply, arrived_s, lane.now_s() - arrived_s):
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
        if lane is not None and code_of(lane.dtype) >= 0 and list(inputs) == [lane.name]:
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

    # -- out

    def answer(self, Group group not None, outputs, error, outcomes):
        """A group's reply: every owner that is still there is answered, whatever happens to another's answer."""
        cdef Py_ssize_t i = 0, stop, row = 0, k
        cdef Py_ssize_t count = PyList_GET_SIZE(group.owners)
        try:
            if outcomes is not None:
                for i in range(count):
                    one_outputs, one_error = outcomes[i]
                    self.answer_one(group, i, one_outputs, one_error)
            elif outputs is None:
                for i in range(count):
                    self.answer_one(group, i, None, error)
            else:
                while i < count:
                    stop = i + 1
                    while stop < count and PyList_GET_ITEM(group.tags, stop) == PyList_GET_ITEM(group.tags, i):
                        stop += 1
                    self.answer_run(group, i, stop, row, outputs)
                    for k in range(i, stop):
                        row += group.members[k].rows
                    i = stop
        finally:
            (<Hold>group.held).release()

    cdef answer_one(self, Group group, Py_ssize_t i, outputs, error):
        """By the general hot path: an error, or outputs that are not written here."""
        handler = group.owners[i]
        if handler is None:
            return
        group.owners[i] = None
        try:
            self.hand_over(handler, group, i)
            handler._reply(outputs, error)
        except Exception:
            log.exception("an answer was not written")

    cdef hand_over(self, handler, Group group, Py_ssize_t i):
        """Let the handler go on as if it had decoded and submitted the request itself. The group keeps the model."""
        cdef Target target = <Target>group.tags[i]
        lease = Lease(self.context)
        lease.served = target.served
        lease.decode_s = group.members[i].decode_s
        handler._lease = lease
        handler._dialect = target.dialect
        handler._encode = target.encode
        handler._echo = b""
        handler._started_s = group.members[i].arrived_s

    cdef answer_run(self, Group group, Py_ssize_t begin, Py_ssize_t stop, Py_ssize_t row, outputs):
        """Requests of one target, whose rows are those of ``outputs`` from ``row`` on."""
        cdef Target target = <Target>PyList_GET_ITEM(group.tags, begin)
        cdef list columns = self.columns_of(target, outputs, group.rows, row)
        cdef Py_ssize_t i, size, bucket
        cdef Py_ssize_t counts[BUCKETS]
        cdef double began_s, now_s, took_s, seconds = 0.0, decode_s = 0.0
        cdef Out out
        cdef bytes tail, response
        cdef list responses
        cdef char* o
        cdef object loop, close_s, handler
        if columns is None:
            for i in range(begin, stop):
                size = group.members[i].rows
                self.answer_one(group, i, {name: array[row:row + size] for name, array in outputs.items()}, None)
                row += size
            return
        began_s = group.lane.now_s()
        tail = self.hot.tail()
        responses = []
        for i in range(begin, stop):
            write_body(out, target, columns, group.members[i].rows)
            size = out.size()
            if size > self.compress_over_bytes:
                response = PyBytes_FromStringAndSize(out.data(), size)
            else:
                response = whole(target.head, tail, out)
            responses.append((response, size > self.compress_over_bytes) if size > self.compress_over_bytes else response)
            out.advance(out.data())
        now_s = group.lane.now_s()
        for bucket in range(BUCKETS):
            counts[bucket] = 0
        encode_s = now_s - began_s
        close_s = None
        for i in range(begin, stop):
            handler = <object>PyList_GET_ITEM(group.owners, i)
            if handler is None:
                continue
            made = <object>PyList_GET_ITEM(responses, i - begin)
            if type(made) is tuple:
                self.answer_large(group, i, made[0])
                continue
            group.owners[i] = None
            took_s = now_s - group.members[i].arrived_s
            bucket = 0
            while bucket < bounds_count and took_s > bounds[bucket]:
                bucket += 1
            counts[bucket] += 1
            seconds += took_s
            decode_s += group.members[i].decode_s
            try:
                if close_s is None:
                    close_s = handler._loop.time() + handler._keepalive_timeout
                    handler._manager.requests_count += stop - begin
                self.finish(handler, made, close_s)
            except Exception:
                log.exception("an answer was not written")
        took = [counts[bucket] for bucket in range(bounds_count + 1)]
        self.context.metrics.record_answered(
            target.served.name, str(target.served.version), target.dialect.name, took, seconds, decode_s, encode_s
        )

    cdef answer_large(self, Group group, Py_ssize_t i, bytes body):
        """An answer that is worth compressing, if the client takes it so."""
        handler = group.owners[i]
        group.owners[i] = None
        try:
            self.hand_over(handler, group, i)
            handler._encode = lambda outputs: body
            handler._reply({}, None)
        except Exception:
            log.exception("an answer was not written")

    cdef finish(self, object handler, bytes response, object close_s):
        cdef PyObject* transport = slot(handler, TRANSPORT)
        cdef PyObject* waiter
        if <object>transport is not None:
            (<object>transport).write(response)
        set_slot(handler, KEEPALIVE_CLOSE, close_s)
        set_slot(handler, TICKET, None)
        set_slot(handler, IN_PROGRESS, False)
        waiter = slot(handler, HANDLER_WAITER)
        if <object>waiter is not None and not (<object>waiter).done():
            (<object>waiter).set_result(None)  # a shutdown waits for the request in flight
        if <object>slot(handler, HELD) or <object>slot(handler, HOT_PAUSED) is not False:
            handler._go_on()

    cdef list columns_of(self, Target target, outputs, Py_ssize_t rows, Py_ssize_t row):
        """The outputs made ready to be written from ``row`` on; ``None`` if they are for the dialect's own encoder."""
        cdef cnp.ndarray array
        cdef Column column
        cdef int code, i
        cdef Py_ssize_t elements
        if len(outputs) != 1 and (target.form == INSTANCES or target.form == INPUTS or not outputs):
            return None
        told = []
        for name, value in outputs.items():
            if type(value) is not cnp.ndarray:
                return None
            array = value
            if not (cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_ISALIGNED(array)):
                return None
            if cnp.PyArray_NDIM(array) == 0 or cnp.PyArray_DIM(array, 0) != rows or code_of(array.dtype) < 0:
                return None
            told.append((name, array.dtype, value.shape[1:]))
        key = tuple(told)
        if key != target.outputs_key:
            self.open_columns(target, key)
        if target.columns is None:
            return None
        for column, value in zip(target.columns, outputs.values()):
            column.data = <const char*>cnp.PyArray_DATA(value) + row * column.row_bytes
        return target.columns

    cdef open_columns(self, Target target, tuple key):
        """What stands around the outputs of answers of these names, dtypes and shapes."""
        cdef Column column
        cdef int i
        target.outputs_key = key
        target.columns = None
        columns = []
        if target.form == INSTANCES or target.form == INPUTS:
            opening = b'{"predictions":' if target.form == INSTANCES else b'{"outputs":'
            target.closing = b"}"
        elif target.form == OIP_INPUTS:
            named = codec.encode_string(target.served.name), target.served.version
            opening = b'{"model_name":%b,"model_version":"%d","outputs":[' % named
            target.closing = b"}]}"
        else:
            opening = b"{"
            target.closing = b"}"
        for name, dtype, shape in key:
            column = Column()
            column.code = <Dtype>code_of(dtype)
            column.ndim = 1 + len(shape)
            column.row_elements = 1
            for i, size in enumerate(shape):
                column.shape[i + 1] = size
                column.row_elements *= size
            column.row_bytes = column.row_elements * dtype.itemsize
            if column.row_bytes > MOST_ROW_BYTES:
                return
            if target.form == OIP_INPUTS:
                if column.code == F16:
                    return  # JSON has no form for it: the dialect says so
                said = codec.encode_string(name), datatype_of(dtype).encode()
                column.opening = opening + b'{"name":%b,"datatype":"%b","shape":[' % said
                column.sizes = b"".join([b",%d" % size for size in shape]) + b'],"data":'
                opening = b"},"
            elif target.form == INSTANCES or target.form == INPUTS:
                column.opening = opening
            else:
                column.opening = opening + codec.encode_string(name) + b":"
                opening = b","
            columns.append(column)
        target.columns = columns

    # -- away

    cdef leave(self, object handler, Group group):
        """The client has gone: its request is counted, and not worked out if it has not begun to be."""
        cdef Py_ssize_t i = group.index_of(handler)
        if i >= 0:
            self.hand_over(handler, group, i)
            if group.leave(handler):
                (<Hold>group.held).release()
            handler._logged = None
            handler._end("cancelled", CLIENT_CLOSED)


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


cdef write_body(Out& out, Target target, list columns, Py_ssize_t rows):
    """The body of an answer of the next ``rows`` rows."""
    cdef Column column
    cdef Py_ssize_t i, flat
    cdef char number[24]
    cdef bint tfs = target.form == INSTANCES or target.form == INPUTS
    for i in range(PyList_GET_SIZE(columns)):
        column = <Column>PyList_GET_ITEM(columns, i)
        out.put(PyBytes_AS_STRING(column.opening), PyBytes_GET_SIZE(column.opening))
        if target.form == OIP_INPUTS:
            out.put(number, digits(number, rows) - number)
            out.put(PyBytes_AS_STRING(column.sizes), PyBytes_GET_SIZE(column.sizes))
            flat = rows * column.row_elements
            write_array(out, column.code, column.data, &flat, 1, False, False)
        else:
            column.shape[0] = rows
            write_array(out, column.code, column.data, column.shape, column.ndim, tfs, False)
    out.put(PyBytes_AS_STRING(target.closing), PyBytes_GET_SIZE(target.closing))


cdef bytes whole(bytes head, bytes tail, Out& body):
    """A response in one object: ``head``, the length of the body, ``tail``, the body."""
    cdef char number[24]
    cdef Py_ssize_t length = digits(number, body.size()) - number
    cdef Py_ssize_t first = PyBytes_GET_SIZE(head), last = PyBytes_GET_SIZE(tail)
    cdef bytes made = PyBytes_FromStringAndSize(NULL, first + length + last + body.size())
    cdef char* o = PyBytes_AS_STRING(made)
    memcpy(o, PyBytes_AS_STRING(head), first)
    memcpy(o + first, number, length)
    memcpy(o + first + length, PyBytes_AS_STRING(tail), last)
    memcpy(o + first + length + last, body.data(), body.size())
    return made


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
            (<Express>self._express).leave(self, ticket)
        HotHandler.connection_lost(self, exc)


cdef Py_ssize_t EXPRESS = slot_offset(ExpressHandler._express)
