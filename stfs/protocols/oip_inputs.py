"""Inputs of an Open Inference Protocol request: entries with JSON data, raw tensors behind the JSON, a raw one alone.

Must not live here: the rest of the body (``oip``), how raw elements lie (``oip_binary``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from stfs.codec import Reader
from stfs.errors import BadElement, InvalidInput, InvalidRequest
from stfs.protocols.oip_binary import read_raw
from stfs.protocols.oip_datatypes import check_datatype
from stfs.protocols.oip_parameters import read_integer, read_parameters
from stfs.protocols.request import read_tensor, read_text
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec

LENGTH_HEADER = "Inference-Header-Content-Length"

MAX_DIMENSIONS = 32

_SIZES = np.dtype(np.int64)
_TOO_LARGE = 1 << 56  # elements: numpy refuses shapes near 2^63 bytes, even of empty arrays


class RawTensors:
    """The raw tensors behind the JSON part of ``body``, handed out in order.

    ``json_bytes`` is the length of the JSON part, ``None`` where there is nothing but JSON.
    """

    __slots__ = ("_body", "_position", "_there")

    def __init__(self, body: bytes | memoryview, json_bytes: int | None) -> None:
        self._body = body
        self._position = len(body) if json_bytes is None else json_bytes
        self._there = json_bytes is not None

    def take(self, spec: TensorSpec, size: int, count: int) -> Array:
        """The next ``size`` bytes as ``count`` elements; perhaps a view of the body."""
        start = self._position
        left = len(self._body) - start
        if not self._there:
            raise InvalidInput(
                spec.name, f'"binary_data_size" needs the header {LENGTH_HEADER}, the length of the JSON part'
            )
        if size > left:
            raise InvalidInput(spec.name, f'"binary_data_size" is {size}, but only {left} bytes of the body are left')
        self._position = start + size
        return read_raw(self._body, start, size, spec, count)

    def end(self) -> None:
        """Raise :class:`InvalidRequest` if bytes are left that no input has taken."""
        if left := len(self._body) - self._position:
            raise InvalidRequest(
                f'the binary sizes do not add up: {left} bytes of the body belong to no input\'s "binary_data_size"'
            )


def read_inputs(reader: Reader, text: bytes | memoryview, tensors: RawTensors, signature: Signature) -> Tensors:
    """The list at the cursor of a reader of ``text``; arrays of the signature's dtypes and the shapes declared.

    Raises :class:`InvalidRequest`.
    """
    if (kind := reader.kind()) != "array":
        raise InvalidRequest(f'"inputs" must be a list, not {kind}')
    inputs: Tensors = {}
    reader.enter_array()
    while reader.next_item():
        if (kind := reader.kind()) != "object":
            raise InvalidRequest(f'"inputs" [{len(inputs)}] must be an object, not {kind}')
        entry = _read_entry(reader, signature, len(inputs))
        if entry.spec.name in inputs:
            raise InvalidInput(entry.spec.name, "stands twice in the request")
        inputs[entry.spec.name] = _array(entry, text, tensors)
    return inputs


def raw_input(body: bytes | memoryview, signature: Signature) -> Tensors:
    """``body`` as the only input: one row, its one open dimension as long as the bytes make it; a text is the body.

    Raises :class:`InvalidRequest` where that does not tell the shape.
    """
    if len(signature.inputs) != 1:
        raise InvalidRequest(
            f"a raw request ({LENGTH_HEADER}: 0) is for models of one input, this one takes {signature.input_names()}"
        )
    spec = signature.inputs[0]
    sizes = [] if spec.shape is None else list(spec.shape)
    if signature.batchable and sizes:
        sizes[0] = 1
    if spec.shape is None or sizes.count(None) > 1:
        raise InvalidInput(spec.name, f"a raw request does not tell its shape, which is {spec.describe_shape()}")
    known = prod(size for size in sizes if size is not None)
    if spec.dtype == STRING:
        shape = tuple(1 if size is None else size for size in sizes)
        if known != 1:
            raise InvalidInput(spec.name, f"a raw request is one text, but its shape is {spec.describe_shape()}")
        whole = np.empty(1, STRING)
        whole[0] = bytes(body)
        return {spec.name: whole.reshape(shape)}
    row_bytes = known * spec.dtype.itemsize
    if row_bytes == 0 or len(body) % row_bytes:
        raise InvalidInput(
            spec.name, f"{len(body)} bytes are no row of {spec.dtype_name} of shape {spec.describe_shape()}"
        )
    shape = tuple(len(body) // row_bytes if size is None else size for size in sizes)
    return {spec.name: read_raw(body, 0, len(body), spec, prod(shape)).reshape(shape)}


@dataclass(slots=True)
class _Entry:
    """One entry of ``inputs``. ``data`` is set where name and datatype stood before it, else its place is known."""

    spec: TensorSpec
    shape: tuple[int, ...]
    data_at: int
    data: Array | None
    parameters: Mapping[str, object] = field(default_factory=dict)


def _read_entry(reader: Reader, signature: Signature, place: int) -> _Entry:
    spec: TensorSpec | None = None
    datatype: str | None = None
    shape: tuple[int, ...] | None = None
    data_at = -1
    data: Array | None = None
    parameters: Mapping[str, object] = {}
    seen: set[str] = set()
    reader.enter_object()
    while (key := reader.next_key()) is not None:
        if key not in _KEYS:
            reader.skip()
            continue
        if key in seen:
            raise InvalidRequest(f'"inputs" [{place}]: "{key}" stands twice')
        seen.add(key)
        if key == "name":
            spec = signature.input(_text(reader, key, place))
        elif key == "datatype":
            datatype = _text(reader, key, place)
        elif key == "shape":
            shape = _read_shape(reader, place)
        elif key == "parameters":
            parameters = read_parameters(reader, ("binary_data_size", "shared_memory_region"))
        else:
            data_at = reader.position
            if spec is None or datatype is None:
                reader.skip()
            else:
                check_datatype(spec, datatype)
                data = _read_data(reader, spec)
    if spec is None or datatype is None or shape is None:
        lacking = "name" if spec is None else "datatype" if datatype is None else "shape"
        raise InvalidRequest(f'"inputs" [{place}] has no "{lacking}"')
    check_datatype(spec, datatype)
    return _Entry(spec, shape, data_at, data, parameters)


_KEYS = frozenset({"name", "datatype", "shape", "parameters", "data"})


def _array(entry: _Entry, text: bytes | memoryview, tensors: RawTensors) -> Array:
    spec, count = entry.spec, prod(entry.shape)
    if "shared_memory_region" in entry.parameters:
        raise InvalidInput(spec.name, "shared memory is not supported here: send the data")
    size = read_integer(entry.parameters, "binary_data_size")
    if (size is None) == (entry.data_at < 0):
        both = 'send either "data" or "binary_data_size", not both'
        raise InvalidInput(spec.name, '"data" is missing, and "binary_data_size" too' if size is None else both)
    if size is not None:
        array = tensors.take(spec, size, count)
    else:
        if entry.data is None:
            again = Reader(text)
            again.seek(entry.data_at)
            entry.data = _read_data(again, spec)
        array = entry.data
        if array.size != count:
            raise InvalidInput(
                spec.name, f"shape {list(entry.shape)} has {count} elements, but the data has {array.size}"
            )
    # One value a row may also be sent as a table of one column.
    is_table = spec.is_column and len(entry.shape) == 2 and entry.shape[1] == 1
    return array.reshape(entry.shape[:1] if is_table else entry.shape)


def _read_data(reader: Reader, spec: TensorSpec) -> Array:
    """Nested or flat: the elements in row-major order are what counts, as in Triton."""
    if (kind := reader.kind()) != "array":
        raise InvalidInput(spec.name, f'"data" must be a list, not {kind}')
    if spec.dtype == np.float16:
        raise InvalidInput(spec.name, "FP16 has no form in JSON: send it as binary data")
    return read_tensor(reader, spec, integral_floats=False)


def _text(reader: Reader, key: str, place: int) -> str:
    if (value := read_text(reader, key)) is None:
        raise InvalidRequest(f'"inputs" [{place}]: "{key}" must be a string, not null')
    return value


def _read_shape(reader: Reader, place: int) -> tuple[int, ...]:
    """Through the tensor parser, which makes no object of each element of a list that may be as long as the body."""
    try:
        sizes = reader.tensor(_SIZES)
    except BadElement as fault:
        raise InvalidRequest(f'"inputs" [{place}]: "shape" {fault}') from None
    if sizes.ndim != 1 or len(sizes) > MAX_DIMENSIONS:
        raise InvalidRequest(f'"inputs" [{place}]: "shape" must be a list of at most {MAX_DIMENSIONS} sizes')
    shape = tuple(sizes.tolist())
    if any(size < 0 for size in shape):
        raise InvalidRequest(f'"inputs" [{place}]: shape {list(shape)} has a negative size')
    if prod(size or 1 for size in shape) >= _TOO_LARGE:
        raise InvalidRequest(f'"inputs" [{place}]: shape {list(shape)} is larger than any array')
    return shape
