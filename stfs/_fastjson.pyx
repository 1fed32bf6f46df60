# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=False
# distutils: language=c++
"""JSON text to numpy arrays and back, compiled. Same names, results and errors as ``codec_py``.

Owns the policies above the C++ core in ``native/``: where numbers are written and how that memory grows, when the
interpreter lock is let go, which Python error a fault becomes. The words of the errors are ``codec_py.text``'s.
Imported by ``codec.py`` only.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_Occurred
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from libcpp.vector cimport vector

cimport numpy as cnp

from stfs.native.encode cimport (
    Out,
    Source,
    most_bytes,
    write_array,
    write_array_nogil,
    write_rows,
    write_rows_nogil,
    write_string,
)
from stfs.native.scanner cimport (
    FULL,
    KIND_BAD,
    NOT_INTEGER,
    OUT_OF_RANGE,
    PYTHON_ERROR,
    SYNTAX,
    TOO_FEW,
    TOO_MANY,
    UNEXPECTED,
    WRONG_KIND,
    Error,
    Kind,
    NumberToken,
    Scanner,
    StringToken,
    to_double,
    unescape,
)
from stfs.native.tensor cimport INTEGRAL_FLOATS, LITERALS, NULLABLE, STR, Dtype, Nest, code_of, parse

import numpy as np

from stfs.codec_py.text import (
    not_integer,
    out_of_range,
    too_few,
    too_many,
    unexpected,
    unsupported_dtype,
    wrong_kind,
)
from stfs.codec_py.write import unsupported_dtype as unwritable_dtype
from stfs.codec_py.write import unsupported_element
from stfs.errors import BadElement, MalformedJson

cnp.import_array()

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    int _PyBytes_Resize(PyObject**, Py_ssize_t) except -1

cdef extern from "numpy/arrayobject.h":
    PyTypeObject PyArray_Type
    object array_of "PyArray_NewFromDescr"(
        PyTypeObject*, cnp.PyArray_Descr*, int, const cnp.npy_intp*, const cnp.npy_intp*, void*, int, PyObject*
    )

cdef enum:
    # 4 KiB on the stack take a small tensor without asking for memory before its size is known.
    SCRATCH_WORDS = 512
    # Strings are objects, so reading them holds the interpreter lock, but no longer than this at a time.
    STEP_ELEMENTS = 256
    STEP_BYTES = 1 << 18
    # Below this many elements, letting the interpreter lock go costs more than it gives.
    UNLOCKED_ELEMENTS = 1024


# By Dtype, since a division costs as much as reading a number.
cdef int64_t[12] SCRATCH_ELEMENTS = [2048, 1024, 512, 4096, 2048, 1024, 512, 4096, 2048, 1024, 512, 4096]


# -- dtypes

cdef int readable_dtype(cnp.dtype dtype) except -1:
    cdef int code = code_of(dtype)
    if code < 0:
        raise unsupported_dtype(dtype)
    return code


# -- faults

cdef bytes head(Scanner& s, const char* p):
    return p[:min(3, s.end - p)]


cdef tuple path_of(Nest* nest, int depth):
    return tuple([nest.count[i] for i in range(depth)])


cdef object malformed(Scanner& s):
    cdef Error* e = &s.error
    if e.fault == UNEXPECTED:
        return unexpected(e.what.decode(), head(s, e.at), e.at - s.begin)
    return MalformedJson(e.what.decode(), e.at - s.begin)


cdef int fail(Scanner& s, Nest* nest, cnp.dtype dtype) except -1:
    """Raise what a tensor that does not read has to say."""
    if s.error.fault == PYTHON_ERROR:
        return -1  # already set
    raise element_fault(s, nest, dtype)


cdef object element_fault(Scanner& s, Nest* nest, cnp.dtype dtype):
    cdef Error* e = &s.error
    cdef Py_ssize_t offset = e.at - s.begin
    if e.fault == UNEXPECTED or e.fault == SYNTAX:
        return malformed(s)
    path = path_of(nest, e.depth)
    if e.fault == WRONG_KIND:
        return wrong_kind(e.what.decode(), e.found.decode(), offset, path)
    if e.fault == NOT_INTEGER:
        return not_integer(e.at[:e.end - e.at], offset, path)
    if e.fault == OUT_OF_RANGE:
        return out_of_range(e.at[:e.end - e.at], dtype, offset, path)
    if e.fault == TOO_FEW:
        return too_few(e.have, e.want, offset, path)
    if e.fault == TOO_MANY:
        return too_many(e.want, offset, path)
    return BadElement(e.what.decode(), offset, path)


# -- memory for elements

cdef inline int reading(bint integral_floats, bint nullable, bint literals) noexcept:
    return INTEGRAL_FLOATS * integral_floats | NULLABLE * nullable | LITERALS * literals


cdef void drop_objects(PyObject** objects, int64_t count) noexcept:
    for i in range(count):
        Py_DECREF(<object>objects[i])


cdef class Column:
    """See ``codec_py.read.Column``."""

    cdef cnp.dtype dtype
    cdef int code
    cdef int options
    cdef Nest nest
    cdef char* data
    cdef int64_t capacity
    cdef Py_ssize_t itemsize

    def __cinit__(self, dtype, *, bint integral_floats=False, bint nullable=False, bint literals=False):
        self.dtype = np.dtype(dtype)
        self.code = readable_dtype(self.dtype)
        self.options = reading(integral_floats, nullable, literals)
        self.nest = Nest(1)
        self.itemsize = self.dtype.itemsize

    def __dealloc__(self):
        if self.data != NULL and self.code == STR:
            drop_objects(<PyObject**>self.data, self.nest.filled)
        free(self.data)

    def __len__(self):
        return self.nest.count[0]

    def array(self):
        cdef cnp.npy_intp shape[33]
        cdef int ndim = max(1, self.nest.rank)
        shape[0] = self.nest.count[0]
        for i in range(1, ndim):
            shape[i] = self.nest.size[i]
        return new_array(ndim, shape, self.dtype, self.code, self.data, self.nest.filled, False)

    cdef int grow(self) except -1:
        cdef int64_t capacity = max(64, 2 * self.capacity)
        cdef char* data = <char*>realloc(self.data, capacity * self.itemsize)
        if data == NULL:
            raise MemoryError
        self.data = data
        self.capacity = capacity
        return 0


cdef object new_array(
    int ndim, cnp.npy_intp* shape, cnp.dtype dtype, int code, const char* data, int64_t count, bint give_references
):
    """A new array of these elements; with ``give_references`` it takes over the objects' references."""
    Py_INCREF(dtype)  # a reference that is taken over
    cdef cnp.ndarray array = array_of(
        &PyArray_Type, <cnp.PyArray_Descr*><PyObject*>dtype, ndim, shape, NULL, NULL, 0, NULL
    )
    cdef PyObject** old = <PyObject**>cnp.PyArray_DATA(array)
    cdef PyObject** new = <PyObject**>data
    if code != STR:
        memcpy(cnp.PyArray_DATA(array), data, count * dtype.itemsize)
        return array
    for i in range(count):
        if not give_references:
            Py_INCREF(<object>new[i])
        if old[i] != NULL:
            Py_DECREF(<object>old[i])
        old[i] = new[i]
    return array


# -- the cursor

KINDS = ("object", "array", "string", "number", "bool", "null")


@cython.final
@cython.freelist(8)
cdef class Reader:
    """See ``codec_py.read.Reader``. Large tensors are read with the interpreter lock released."""

    cdef bytes owner
    cdef Py_buffer view
    cdef bint held
    cdef Scanner s
    cdef const char* p
    cdef bint fresh

    def __cinit__(self, body):
        if type(body) is bytes:
            self.owner = <bytes>body  # which costs less than asking for a buffer
            self.s.begin = PyBytes_AS_STRING(self.owner)
            self.s.end = self.s.begin + len(self.owner)
        else:
            PyObject_GetBuffer(body, &self.view, PyBUF_SIMPLE)
            self.held = True
            self.s.begin = <const char*>self.view.buf
            self.s.end = self.s.begin + self.view.len
        self.p = self.s.begin
        self.fresh = False

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    @property
    def position(self):
        return self.p - self.s.begin

    def seek(self, Py_ssize_t position):
        if not 0 <= position <= self.s.end - self.s.begin:
            raise ValueError(f"position {position} is outside a body of {self.s.end - self.s.begin} bytes")
        cdef const char* q = self.s.begin + position
        self.p = q
        while q > self.s.begin and (q - 1)[0] in b" \n\r\t":
            q -= 1
        self.fresh = q > self.s.begin and (q - 1)[0] in b"[{"

    def kind(self):
        cdef Kind kind = self.s.kind(self.s.space(self.p))
        if kind == KIND_BAD:
            raise malformed(self.s)
        return KINDS[<int>kind]

    def enter_object(self):
        self.enter(c"{", b"'{'")

    def enter_array(self):
        self.enter(c"[", b"'['")

    def next_key(self):
        cdef StringToken token
        cdef const char* q = self.next(c"}", b"',' or '}'")
        if q == NULL:
            return None
        q = self.s.key(q, token)
        if q == NULL:
            raise malformed(self.s)
        key = decode_string(token)
        self.p = q
        self.fresh = False
        return key

    def next_item(self):
        cdef const char* q = self.next(c"]", b"',' or ']'")
        if q == NULL:
            return False
        self.p = q
        self.fresh = False
        return True

    def value(self):
        cdef const char* p = self.s.space(self.p)
        cdef const char* q = self.s.skip(p)
        if q == NULL:
            raise malformed(self.s)
        made = build(self.s, &p)
        self.p = q
        self.fresh = False
        return made

    def skip(self):
        cdef const char* q = self.s.space(self.p)
        if self.s.end - q < STEP_BYTES:
            q = self.s.skip(q)
        else:
            with nogil:
                q = self.s.skip(q)
        if q == NULL:
            raise malformed(self.s)
        self.p = q
        self.fresh = False

    def tensor(self, dtype, *, bint integral_floats=False, bint nullable=False, bint literals=False):
        cdef cnp.dtype descr = dtype if isinstance(dtype, cnp.dtype) else np.dtype(dtype)
        cdef Dtype code = <Dtype>readable_dtype(descr)
        cdef int options = reading(integral_floats, nullable, literals)
        cdef Nest nest
        cdef double scratch[SCRATCH_WORDS]
        cdef const char* q = self.s.space(self.p)
        cdef const char* first = q
        if code == STR:
            return self.strings(descr, options)
        q = parse(code, self.s, q, nest, scratch, SCRATCH_ELEMENTS[<int>code], options)
        if q != NULL:
            made = new_array(max(0, nest.rank), shape_of(&nest), descr, code, <char*>scratch, nest.filled, False)
        elif self.s.error.fault != FULL:
            fail(self.s, &nest, descr)
        else:
            made = self.large(descr, code, &nest, first, <char*>scratch, options)
            q = self.s.error.at
        self.p = q
        self.fresh = False
        return made

    def append(self, Column column not None):
        cdef Nest* nest = &column.nest
        cdef Dtype code = <Dtype>column.code
        cdef const char* q = self.s.space(self.p)
        q = parse(
            code, self.s, q, nest[0], column.data, min(column.capacity, nest.filled + UNLOCKED_ELEMENTS), column.options
        )
        while q == NULL:
            if self.s.error.fault != FULL:
                fail(self.s, nest, column.dtype)
            q = self.s.error.at
            if nest.filled == column.capacity:
                column.grow()
            if code == STR:
                q = parse(
                    STR, self.s, q, nest[0], column.data, min(column.capacity, nest.filled + STEP_ELEMENTS),
                    column.options,
                )
                with nogil:
                    pass  # others may be waiting for the interpreter lock
            else:
                with nogil:
                    q = parse(code, self.s, q, nest[0], column.data, column.capacity, column.options)
        nest.count[0] += 1
        self.p = q
        self.fresh = False

    def end(self):
        cdef const char* q = self.s.space(self.p)
        if q != self.s.end:
            self.s.unexpected(b"the end of the body", q)
            raise malformed(self.s)
        self.p = q

    cdef int enter(self, char bracket, const char* wanted) except -1:
        cdef const char* q = self.s.space(self.p)
        if not self.s.at(q, bracket):
            self.s.unexpected(wanted, q)
            raise malformed(self.s)
        self.p = q + 1
        self.fresh = True
        return 0

    cdef const char* next(self, char close, const char* wanted) except? NULL:
        """Past the comma, if one is due, to the next member; NULL if the container has ended and is left."""
        cdef const char* q = self.s.space(self.p)
        if self.s.at(q, close):
            self.p = q + 1
            self.fresh = False
            return NULL
        if not self.fresh:
            if not self.s.at(q, c","):
                self.s.unexpected(wanted, q)
                raise malformed(self.s)
            q = self.s.space(q + 1)
        return q

    cdef object large(
        self, cnp.dtype dtype, Dtype code, Nest* nest, const char* first, char* scratch, int options
    ):
        """Go on with a tensor that has filled the scratch; its end is left in ``error.at``."""
        cdef const char* q = self.s.error.at
        cdef Py_ssize_t itemsize = dtype.itemsize
        cdef const char* data = scratch
        cdef void* destination
        cdef cnp.npy_intp capacity
        cdef cnp.ndarray array = None, grown
        while True:
            # By the bytes that an element has taken so far; at the most one for every two bytes that are left. Memory
            # that is asked for and not touched costs next to nothing, and is given back in place.
            capacity = <cnp.npy_intp>(1.1 * nest.filled * <double>(self.s.end - first) / <double>(q - first)) + 64
            if array is not None:
                capacity = max(capacity, 2 * nest.filled)
            capacity = min(capacity, nest.filled + (self.s.end - q) // 2 + 1)
            grown = cnp.PyArray_EMPTY(1, &capacity, dtype.type_num, 0)
            destination = cnp.PyArray_DATA(grown)
            memcpy(destination, data, nest.filled * itemsize)
            array = grown
            data = <const char*>destination
            with nogil:
                q = parse(code, self.s, q, nest[0], destination, capacity, options)
            if q != NULL:
                break
            if self.s.error.fault != FULL:
                fail(self.s, nest, dtype)
            q = self.s.error.at
        array.resize([nest.size[i] for i in range(nest.rank)], refcheck=False)
        self.s.error.at = q
        return array

    cdef object strings(self, cnp.dtype dtype, int options):
        cdef Column column = Column(dtype)
        cdef Nest* nest = &column.nest
        nest[0] = Nest(0)
        cdef const char* q = self.s.space(self.p)
        cdef const char* breathed = q
        while True:
            q = parse(STR, self.s, q, nest[0], column.data, min(column.capacity, nest.filled + STEP_ELEMENTS), options)
            if q != NULL:
                break
            if self.s.error.fault != FULL:
                fail(self.s, nest, dtype)
            q = self.s.error.at
            if nest.filled == column.capacity:
                column.grow()
            if q - breathed > STEP_BYTES:
                breathed = q
                with nogil:
                    pass  # others may be waiting for the interpreter lock
        made = new_array(nest.rank, shape_of(nest), dtype, STR, column.data, nest.filled, True)
        nest.filled = 0
        self.p = q
        self.fresh = False
        return made


cdef cnp.npy_intp* shape_of(Nest* nest) noexcept:
    return <cnp.npy_intp*>&nest.size[0]


# -- any value

cdef str decode_string(const StringToken& token):
    cdef Py_ssize_t length = token.stop - token.start
    cdef bytes plain
    if not token.escaped:
        return PyUnicode_DecodeUTF8(token.start, length, NULL)
    plain = PyBytes_FromStringAndSize(NULL, length)
    length = unescape(token, PyBytes_AS_STRING(plain))
    return PyUnicode_DecodeUTF8(PyBytes_AS_STRING(plain), length, NULL)


cdef object build(Scanner& s, const char** at):
    """The value at ``at``, which has been checked; moves ``at`` past it."""
    cdef const char* p = at[0]
    cdef char c = p[0]
    cdef StringToken text
    cdef NumberToken number
    if c == c'"':
        at[0] = s.string(p, text)
        return decode_string(text)
    if c == c"{":
        members = {}
        p = s.space(p + 1)
        while p[0] != c"}":
            p = s.key(p, text)
            key = decode_string(text)
            members[key] = build(s, &p)
            p = s.space(p)
            if p[0] == c",":
                p = s.space(p + 1)
        at[0] = p + 1
        return members
    if c == c"[":
        items = []
        p = s.space(p + 1)
        while p[0] != c"]":
            items.append(build(s, &p))
            p = s.space(p)
            if p[0] == c",":
                p = s.space(p + 1)
        at[0] = p + 1
        return items
    if c in b"tfnNI" or s.at_minus_infinity(p):
        at[0] = p + (5 if c == c"f" else 3 if c == c"N" else 8 if c == c"I" else 9 if c == c"-" else 4)
        return {
            c"t": True, c"f": False, c"n": None, c"N": float("nan"), c"I": float("inf"), c"-": float("-inf")
        }[c]
    at[0] = s.number(p, number)
    if not number.integral:
        return to_double(number)
    if number.digits <= 18:
        return -<int64_t>number.mantissa if number.negative else <int64_t>number.mantissa
    return int(p[:number.stop - p])


# -- the way back

cdef class Prepared:
    """An array made ready for the core: contiguous, native, of a dtype that it writes."""

    cdef cnp.ndarray array
    cdef int code
    cdef bint b64
    cdef bytes prefix

    def __cinit__(self, cnp.ndarray array not None, bint b64, bytes prefix=b""):
        cdef cnp.ndarray ready = array
        self.code = ready_code(ready)
        if self.code < 0:
            if ready.dtype.kind in "SU":
                ready = ready.astype(object)
            if not ready.dtype.isnative:
                ready = ready.astype(ready.dtype.newbyteorder("="))
            if code_of(ready.dtype) < 0:
                raise unwritable_dtype(array.dtype)
            ready = ready.copy(order="C")
            self.code = ready_code(ready)
        self.array = ready
        self.b64 = b64
        self.prefix = prefix

    cdef Source source(self) noexcept:
        cdef Source source
        source.dtype = <Dtype>self.code
        source.data = <const char*>cnp.PyArray_DATA(self.array)
        source.shape = <const Py_ssize_t*>cnp.PyArray_DIMS(self.array)
        source.ndim = cnp.PyArray_NDIM(self.array)
        source.b64 = self.b64
        source.prefix = PyBytes_AS_STRING(self.prefix)
        source.prefix_bytes = len(self.prefix)
        return source


cdef inline int ready_code(cnp.ndarray array) except -2:
    """The core's name for the dtype of an array that the core can write as it lies; -1 for any other array."""
    if not cnp.PyArray_IS_C_CONTIGUOUS(array) or not cnp.PyArray_ISALIGNED(array):
        return -1
    return code_of(array.descr)


cdef inline bint is_tfs(style) except -1:
    if style is SHORTEST:  # literals are one object, so this is seldom the slower way
        return False
    if style is TFS or style == TFS:
        return True
    if style == SHORTEST:
        return False
    raise ValueError(f"unknown style {style!r}")


SHORTEST = "shortest"
TFS = "tfs"


cdef int refuse(Source* source) except -1:
    """Raise what the object that the core has stopped at is refused for."""
    if PyErr_Occurred() == NULL:
        raise unsupported_element(<object>(<PyObject**>source.data)[0])
    return -1


def encode(cnp.ndarray array not None, *, style=SHORTEST, bint b64=False):
    """See ``codec_py.write.encode``. Large numeric arrays are written with the interpreter lock released."""
    cdef bint tfs = is_tfs(style)
    cdef int code = ready_code(array)
    cdef Prepared prepared
    if code < 0:
        prepared = Prepared(array, b64)
        array = prepared.array
        code = prepared.code
    cdef Source source
    source.dtype = <Dtype>code
    source.data = <const char*>cnp.PyArray_DATA(array)
    source.shape = <const Py_ssize_t*>cnp.PyArray_DIMS(array)
    source.ndim = cnp.PyArray_NDIM(array)
    source.b64 = b64
    cdef Out out
    cdef Py_ssize_t elements = cnp.PyArray_SIZE(array)
    cdef PyObject* made = NULL
    cdef bint written
    if code == STR or elements < UNLOCKED_ELEMENTS:
        if not write_array(out, source.dtype, source.data, source.shape, source.ndim, tfs, b64):
            refuse(&source)
        return PyBytes_FromStringAndSize(out.data(), out.size())
    # Written where it stays, into as much as it can take at the most. What is not touched costs next to nothing, and is
    # given back in place.
    cdef Py_ssize_t room = most_bytes(source, elements)
    made = new_bytes(NULL, room)
    try:
        out.borrow(PyBytes_AS_STRING(<object>made), room)
        with nogil:
            write_array_nogil(out, source.dtype, source.data, source.shape, source.ndim, tfs, b64)
        if out.data() != PyBytes_AS_STRING(<object>made):
            return PyBytes_FromStringAndSize(out.data(), out.size())
        _PyBytes_Resize(&made, out.size())
        return <object>made
    finally:
        Py_XDECREF(made)


def encode_rows(columns, *, style=SHORTEST, b64_names=()):
    """See ``codec_py.write.encode_rows``. Large numeric tables are written with the interpreter lock released."""
    cdef bint tfs = is_tfs(style)
    cdef Out out
    cdef vector[Source] sources
    cdef Prepared one
    cdef Py_ssize_t rows = -1, elements = 0
    cdef bint objects = False
    cdef int64_t stopped
    prepared = []
    for name, array in columns.items():
        if array.ndim == 0 or rows not in (-1, array.shape[0]):
            raise ValueError("columns differ in their number of rows, or have none")
        rows = array.shape[0]
    for name, array in columns.items():
        one = Prepared(array, name in b64_names, (b"," if prepared else b"{") + encode_string(name) + b":")
        prepared.append(one)
        sources.push_back(one.source())
        objects = objects or one.code == STR
        elements += cnp.PyArray_SIZE(one.array)
    if objects or elements < UNLOCKED_ELEMENTS:
        stopped = write_rows(out, sources.data(), sources.size(), rows, tfs)
    else:
        with nogil:
            stopped = write_rows_nogil(out, sources.data(), sources.size(), rows, tfs)
    if stopped >= 0:
        refuse(&sources[stopped])
    return PyBytes_FromStringAndSize(out.data(), out.size())


def encode_string(str text not None):
    """See ``codec_py.write.encode_string``."""
    cdef bytes plain = text.encode("utf-8", "replace")
    cdef Out out
    write_string(out, PyBytes_AS_STRING(plain), len(plain))
    return PyBytes_FromStringAndSize(out.data(), out.size())
