# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=False
# distutils: language=c++
"""The express lane's way out: the answers of a group, written in one loop.

Numbers are written by the C++ core, head and body in one object. What has another form, every error, and whatever is
large enough for a thread is handed to ``hot``, connection by connection. Answers are the same bytes.

Event-loop thread. Imported by ``stfs.web._express`` only. Must not live here: how requests come in.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.string cimport memcpy

cimport numpy as cnp

from stfs.batcher._lane cimport Group
from stfs.native.encode cimport Out, write_array
from stfs.native.plainbody cimport INPUTS, INSTANCES, OIP_INPUTS
from stfs.native.tensor cimport F16, STR, Dtype, code_of
from stfs.web._slots cimport find_slot, set_slot, slot

import logging

from stfs import codec
from stfs.context import Lease
from stfs.metrics import SECONDS
from stfs.protocols.oip_datatypes import datatype_of
from stfs.web.access_log import CLIENT_CLOSED
from stfs.web.hot import HotHandler
from stfs.web.off_loop import OFF_LOOP_ELEMENTS

cnp.import_array()

log = logging.getLogger("stfs.web")

cdef extern from *:
    """
    static inline char* stfs_digits(char* o, Py_ssize_t n) {
        char text[24];
        int i = 24;
        do text[--i] = (char)('0' + n % 10); while (n /= 10);
        memcpy(o, text + i, 24 - i);
        return o + 24 - i;
    }
    """
    char* digits "stfs_digits"(char*, Py_ssize_t)

cdef enum:
    MOST_ROW_BYTES = 1 << 14  # an output of larger rows is for the general path
    BUCKETS = 16

cdef Py_ssize_t MOST_ELEMENTS = OFF_LOOP_ELEMENTS

cdef double bounds[BUCKETS]
for _bucket, _bound in enumerate(SECONDS):
    bounds[_bucket] = _bound
cdef int bounds_count = len(SECONDS)
if bounds_count >= BUCKETS:
    raise ImportError("more buckets than are counted here")

cdef Py_ssize_t TRANSPORT = find_slot(HotHandler, "transport")
cdef Py_ssize_t IN_PROGRESS = find_slot(HotHandler, "_request_in_progress")
cdef Py_ssize_t HANDLER_WAITER = find_slot(HotHandler, "_handler_waiter")
cdef Py_ssize_t KEEPALIVE_CLOSE = find_slot(HotHandler, "_next_keepalive_close_time")
cdef Py_ssize_t HELD = find_slot(HotHandler, "_held")
cdef Py_ssize_t HOT_PAUSED = find_slot(HotHandler, "_hot_paused")
cdef Py_ssize_t TICKET = find_slot(HotHandler, "_ticket")


cdef class Hold:
    """The hold that a group has on its model's version, shared by the parts that it is cut into."""

    def __cinit__(self, handle):
        self.handle = handle
        self.uses = 1

    def share(self):
        self.uses += 1
        return self

    cpdef release(self):
        self.uses -= 1
        if not self.uses:
            self.handle.release()


cdef class Template:
    """What the answers to requests of one sort have in common; a request's tag in its group.

    ``head`` is that of an answer up to the value of Content-Length. ``columns`` are the outputs that ``outputs_key``
    tells of, ``None`` if they are for the dialect's own encoder.
    """


cdef class Column:
    """One output of a group. ``shape`` is a row's but for its first place."""

    cdef Dtype code
    cdef const char* data
    cdef Py_ssize_t shape[33]
    cdef int ndim
    cdef Py_ssize_t row_bytes
    cdef Py_ssize_t row_elements
    cdef bytes opening
    cdef bytes sizes  # where the answer tells the shape: what stands between the rows and the data


cdef class Answers:
    """Writes the answers of one server's groups. ``reply`` is what a group is given to be answered by."""

    def __init__(self, hot):
        self.hot = hot
        self.context = hot.context
        self.reply = self.answer
        self.compress_over_bytes = hot.compress_over_bytes

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
        """Let the handler go on as if it had decoded and submitted the request itself."""
        cdef Template template = <Template>group.tags[i]
        lease = Lease(self.context)
        lease.served = template.served
        lease._handle = (<Hold>group.held).share()
        lease.decode_s = group.members[i].decode_s
        handler._lease = lease
        handler._dialect = template.dialect
        handler._encode = template.encode
        handler._echo = b""
        handler._started_s = group.members[i].arrived_s

    cdef answer_run(self, Group group, Py_ssize_t begin, Py_ssize_t stop, Py_ssize_t row, outputs):
        """Requests of one template, whose rows are those of ``outputs`` from ``row`` on."""
        cdef Template template = <Template>PyList_GET_ITEM(group.tags, begin)
        cdef list columns = columns_of(template, outputs, group.rows)
        cdef Py_ssize_t i, rows, bucket, row_elements = 0
        cdef Py_ssize_t counts[BUCKETS]
        cdef double began_s, now_s, took_s, seconds = 0.0, decode_s = 0.0
        cdef Out out
        cdef bytes tail
        cdef list responses
        cdef object close_s, handler
        if columns is None:
            for i in range(begin, stop):
                rows = group.members[i].rows
                self.answer_one(group, i, rows_of(outputs, row, rows), None)
                row += rows
            return
        for column in columns:
            row_elements += (<Column>column).row_elements
        began_s = group.lane.now_s()
        tail = self.hot.tail()
        responses = []
        for i in range(begin, stop):
            rows = group.members[i].rows
            if rows * row_elements >= MOST_ELEMENTS:
                responses.append(rows_of(outputs, row, rows))
            else:
                write_body(out, template, columns, row, rows)
                if <Py_ssize_t>out.size() > self.compress_over_bytes:
                    responses.append((PyBytes_FromStringAndSize(out.data(), out.size()),))
                else:
                    responses.append(whole(template.head, tail, out))
                out.advance(out.data())
            row += rows
        now_s = group.lane.now_s()
        for bucket in range(BUCKETS):
            counts[bucket] = 0
        close_s = None
        for i in range(begin, stop):
            handler = <object>PyList_GET_ITEM(group.owners, i)
            if handler is None:
                continue
            made = <object>PyList_GET_ITEM(responses, i - begin)
            if type(made) is not bytes:
                if type(made) is tuple:
                    self.answer_written(group, i, made[0])
                else:
                    self.answer_one(group, i, made, None)
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
            template.served.name, str(template.served.version), template.dialect.name, took, seconds, decode_s,
            now_s - began_s,
        )

    cdef answer_written(self, Group group, Py_ssize_t i, bytes body):
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

    cdef leave(self, object handler, Group group):
        """The client has gone: its request is counted, and not worked out if it has not begun to be."""
        cdef Py_ssize_t i = group.index_of(handler)
        if i >= 0:
            self.hand_over(handler, group, i)
            if group.leave(handler):
                (<Hold>group.held).release()
            handler._logged = None
            handler._end("cancelled", CLIENT_CLOSED)


cdef dict rows_of(outputs, Py_ssize_t row, Py_ssize_t rows):
    return {name: array[row:row + rows] for name, array in outputs.items()}


cdef list columns_of(Template template, outputs, Py_ssize_t rows):
    """The outputs made ready to be written; ``None`` if they are for the dialect's own encoder."""
    cdef cnp.ndarray array
    cdef Column column
    if len(outputs) != 1 and (template.form == INSTANCES or template.form == INPUTS or not outputs):
        return None
    told = []
    for name, value in outputs.items():
        if type(value) is not cnp.ndarray:
            return None
        array = value
        if not (cnp.PyArray_IS_C_CONTIGUOUS(array) and cnp.PyArray_ISALIGNED(array)):
            return None
        if cnp.PyArray_NDIM(array) == 0 or cnp.PyArray_DIM(array, 0) != rows or not 0 <= code_of(array.dtype) < STR:
            return None
        told.append((name, array.dtype, value.shape[1:]))
    key = tuple(told)
    if key != template.outputs_key:
        open_columns(template, key)
    if template.columns is None:
        return None
    for column, value in zip(template.columns, outputs.values()):
        column.data = <const char*>cnp.PyArray_DATA(value)
    return template.columns


cdef open_columns(Template template, tuple key):
    """What stands around the outputs of answers of these names, dtypes and shapes."""
    cdef Column column
    template.outputs_key = key
    template.columns = None
    columns = []
    if template.form == INSTANCES or template.form == INPUTS:
        opening = b'{"predictions":' if template.form == INSTANCES else b'{"outputs":'
        template.closing = b"}"
    elif template.form == OIP_INPUTS:
        named = codec.encode_string(template.served.name), template.served.version
        opening = b'{"model_name":%b,"model_version":"%d","outputs":[' % named
        template.closing = b"}]}"
    else:
        opening = b"{"
        template.closing = b"}"
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
        if template.form == OIP_INPUTS:
            if column.code == F16:
                return  # JSON has no form for it: the dialect says so
            said = codec.encode_string(name), datatype_of(dtype).encode()
            column.opening = opening + b'{"name":%b,"datatype":"%b","shape":[' % said
            column.sizes = b"".join([b",%d" % size for size in shape]) + b'],"data":'
            opening = b"},"
        elif template.form == INSTANCES or template.form == INPUTS:
            column.opening = opening
        else:
            column.opening = opening + codec.encode_string(name) + b":"
            opening = b","
        columns.append(column)
    template.columns = columns


cdef write_body(Out& out, Template template, list columns, Py_ssize_t row, Py_ssize_t rows):
    """The body of an answer of the ``rows`` rows from ``row`` on."""
    cdef Column column
    cdef Py_ssize_t i, flat
    cdef char number[24]
    cdef const char* data
    cdef bint tfs = template.form == INSTANCES or template.form == INPUTS
    for i in range(PyList_GET_SIZE(columns)):
        column = <Column>PyList_GET_ITEM(columns, i)
        data = column.data + row * column.row_bytes
        out.put(PyBytes_AS_STRING(column.opening), PyBytes_GET_SIZE(column.opening))
        if template.form == OIP_INPUTS:
            out.put(number, digits(number, rows) - number)
            out.put(PyBytes_AS_STRING(column.sizes), PyBytes_GET_SIZE(column.sizes))
            flat = rows * column.row_elements
            write_array(out, column.code, data, &flat, 1, False, False)
        else:
            column.shape[0] = rows
            write_array(out, column.code, data, column.shape, column.ndim, tfs, False)
    out.put(PyBytes_AS_STRING(template.closing), PyBytes_GET_SIZE(template.closing))


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
