"""The Open Inference Protocol over gRPC: ``ModelInferRequest`` and its answers as bytes, and the table of statuses.

These messages carry the tensors, so they are read and written straight from and to bytes; the others, which are small,
are in ``oip_messages``. Source: ``grpc_predict_v2.proto`` of the protocol, ``grpc_service.proto`` of Triton, whose
behaviour is kept where the protocol leaves a choice: answers are raw whatever the request was. Kept stricter than
there: an integer that its type cannot hold is refused, not cut to it.

Must not live here: how raw elements (``oip_binary``) and typed ones (``oip_contents``) lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from struct import unpack_from
from typing import NamedTuple

from stfs import errors
from stfs.errors import InvalidInput, InvalidRequest
from stfs.protocols import wire
from stfs.protocols.oip import Request, Wanted
from stfs.protocols.oip_binary import read_raw, write_raw
from stfs.protocols.oip_classification import classes
from stfs.protocols.oip_contents import few, read_contents
from stfs.protocols.oip_datatypes import check_datatype, datatype_of
from stfs.protocols.oip_inputs import MAX_DIMENSIONS
from stfs.protocols.oip_parameters import read_integer
from stfs.protocols.wire import FIXED64, LEN, VARINT, Span
from stfs.signature import Array, Signature, Tensors

INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 3, 4, 5, 8, 13, 14
"""Numbers of ``google.rpc.Code``, which gRPC shares."""

FINAL = "triton_final_response"
"""The parameter by which each answer of a stream tells that its request has no other to come."""

_TOO_LARGE = 1 << 56  # elements: numpy refuses shapes near 2^63 bytes, even of empty arrays


def status_of(error: errors.RequestError) -> int:
    """The gRPC status of an error, as Triton maps its codes."""
    match error:
        case errors.TooLarge() | errors.OutOfMemory() | errors.ShareExceeded():
            return RESOURCE_EXHAUSTED
        case errors.InvalidRequest() | errors.SignatureNotFound():
            return INVALID_ARGUMENT
        case errors.NotFound():
            return NOT_FOUND
        case errors.Unavailable():
            return UNAVAILABLE
        case errors.DeadlineExceeded():
            return DEADLINE_EXCEEDED
        case _:
            return INTERNAL


@dataclass(slots=True)
class Message:
    """A ``ModelInferRequest`` of which only what is small has been read; the rest are places in ``data``."""

    data: bytes
    model_name: str = ""
    model_version: str = ""
    id: str = ""
    parameters: dict[str, object] = field(default_factory=dict)
    inputs: list[Span] = field(default_factory=list)
    outputs: list[Span] = field(default_factory=list)
    raw: list[Span] = field(default_factory=list)


def scan(data: bytes) -> Message:
    """What the message is about and where its tensors lie. Raises :class:`InvalidRequest` for what is no message."""
    found = Message(data)
    for number, kind, begin, end in few(wire.fields(data, (0, len(data)))):
        if kind != LEN:
            continue
        if number == 7:
            found.raw.append((begin, end))
        elif number == 5:
            found.inputs.append((begin, end))
        elif number == 6:
            found.outputs.append((begin, end))
        elif number == 1:
            found.model_name = wire.text(data, (begin, end), "model_name")
        elif number == 2:
            found.model_version = wire.text(data, (begin, end), "model_version")
        elif number == 3:
            found.id = wire.text(data, (begin, end), "id")
        elif number == 4:
            _read_parameter(data, (begin, end), found.parameters)
    return found


def decode(message: Message, signature: Signature) -> Request:
    """The request that ``message`` makes of a model with ``signature``.

    Arrays may be views of the message's data. Raises :class:`InvalidRequest`.
    """
    if message.parameters.get("sequence_id") not in (None, 0, ""):
        raise InvalidRequest('"sequence_id": models here keep no state between requests')
    return Request(
        signature,
        _read_inputs(message, signature),
        message.id or None,
        _read_outputs(message, signature),
        binary=True,
        timeout_us=read_integer(message.parameters, "timeout") or 0,
        priority=read_integer(message.parameters, "priority", 64) or 0,
    )


def encode(request: Request, outputs: Mapping[str, Array], model_name: str, version: int) -> bytes:
    """``ModelInferResponse``. Raises :class:`InvalidRequest` for an output that cannot be told as it is wanted."""
    return b"".join(_answer(request, outputs, model_name, version))


def encode_streamed(request: Request, outputs: Mapping[str, Array], model_name: str, version: int) -> bytes:
    """``ModelStreamInferResponse`` with the same, told to be the request's last."""
    parts = [*_answer(request, outputs, model_name, version), _FINAL]
    size = sum(map(len, parts))
    return b"".join((_INFER_RESPONSE, wire.encode_varint(size), *parts))


def encode_stream_error(text: str, message: Message | None) -> bytes:
    """``ModelStreamInferResponse`` that tells why a request has no answer, and which it was if that could be read."""
    told = _FINAL
    if message is not None:
        told = _head(message.model_name, message.model_version, message.id) + _FINAL
    return wire.encode_bytes(1, text.encode(errors="replace")) + wire.encode_bytes(2, told)


_INFER_RESPONSE = wire.encode_varint(2 << 3 | LEN)
_FINAL = wire.encode_bytes(4, wire.encode_bytes(1, FINAL.encode()) + wire.encode_bytes(2, wire.encode_number(1, 1)))


def _head(model_name: str, version: str, request_id: str) -> bytes:
    told = wire.encode_bytes(1, model_name.encode()) + wire.encode_bytes(2, version.encode())
    return told + wire.encode_bytes(3, request_id.encode()) if request_id else told


def _answer(request: Request, outputs: Mapping[str, Array], model_name: str, version: int) -> list[bytes | memoryview]:
    told: list[bytes | memoryview] = [_head(model_name, str(version), request.id or "")]
    raw: list[bytes | memoryview] = []
    for one in request.told(outputs):
        array = outputs[one.name]
        if one.classification:
            array = classes(one.name, array, one.classification, rows=request.signature.batchable)
        datatype = datatype_of(array.dtype)
        if datatype == "INVALID":
            raise errors.ModelFailed(f'output "{one.name}" is of {array.dtype}, which the protocol has no datatype for')
        content = write_raw(array)
        told.append(_output(one.name, datatype, array.shape))
        raw += (_RAW_CONTENT + wire.encode_varint(len(content)), content)
    return told + raw


@lru_cache(maxsize=1024)  # models answer in few shapes
def _output(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    """An ``InferOutputTensor`` whose values are elsewhere."""
    sizes = b"".join([wire.encode_varint(size) for size in shape])
    told = wire.encode_bytes(1, name.encode()) + wire.encode_bytes(2, datatype.encode())
    return wire.encode_bytes(5, told + wire.encode_bytes(3, sizes) if sizes else told)


_RAW_CONTENT = wire.encode_varint(6 << 3 | LEN)


class _Entry(NamedTuple):
    """An ``InferInputTensor``; ``contents`` is where its ``InferTensorContents`` are."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    in_shared_memory: bool
    contents: Sequence[Span]


def _read_inputs(message: Message, signature: Signature) -> Tensors:
    data, raw = message.data, message.raw
    if raw and len(raw) != len(message.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs: "
            "send one for each, in their order"
        )
    inputs: Tensors = {}
    for place, (begin, end) in enumerate(message.inputs):
        if raw and end - begin <= _MAX_KEPT_BYTES:
            entry = _entry_seen(data[begin:end])
        else:
            entry = _read_entry(data, (begin, end))
        spec = signature.input(entry.name)
        if spec.name in inputs:
            raise InvalidInput(spec.name, "stands twice in the request")
        if entry.in_shared_memory:
            raise InvalidInput(spec.name, "shared memory is not supported here: send the data")
        check_datatype(spec, entry.datatype)
        shape = entry.shape
        if raw:
            if any(begin < end for begin, end in entry.contents):
                raise InvalidInput(spec.name, "send either its contents or raw_input_contents, not both")
            first, last = raw[place]
            array = read_raw(data, first, last - first, spec, prod(shape))
        else:
            array = read_contents(data, entry.contents, spec, shape)
        # One value a row may also be sent as a table of one column.
        is_table = spec.is_column and len(shape) == 2 and shape[1] == 1
        inputs[spec.name] = array.reshape(shape[:1] if is_table else shape)
    return inputs


_MAX_KEPT_BYTES = 256


@lru_cache(maxsize=1024)
def _entry_seen(data: bytes) -> _Entry:
    """:func:`_read_entry` of an entry whose values are elsewhere: clients send the same few over and over."""
    return _read_entry(data, (0, len(data)))


def _read_entry(data: bytes, span: Span) -> _Entry:
    name: str | None = None
    datatype = ""
    sizes: list[int] = []
    parameters: dict[str, object] = {}
    contents: list[Span] = []
    for number, kind, begin, end in few(wire.fields(data, span)):
        if number == 3 and kind == VARINT:
            sizes.append(wire.signed(begin))
        elif kind != LEN:
            continue
        elif number == 1:
            name = wire.text(data, (begin, end), "an input's name")
        elif number == 2:
            datatype = wire.text(data, (begin, end), "an input's datatype")
        elif number == 3:
            while begin < end and len(sizes) <= MAX_DIMENSIONS:
                size, begin = wire.varint(data, begin, end)
                sizes.append(wire.signed(size))
        elif number == 4:
            _read_parameter(data, (begin, end), parameters)
        elif number == 5:
            contents.append((begin, end))
    if name is None:
        raise InvalidRequest("one of the inputs has no name")
    return _Entry(name, datatype, _checked(sizes, name), "shared_memory_region" in parameters, contents)


def _checked(sizes: list[int], name: str) -> tuple[int, ...]:
    if len(sizes) > MAX_DIMENSIONS:
        raise InvalidInput(name[:100], f"its shape has over {MAX_DIMENSIONS} sizes")
    if any(size < 0 for size in sizes):
        raise InvalidInput(name[:100], f"shape {sizes} has a negative size: give the sizes that it has")
    if prod(size or 1 for size in sizes) >= _TOO_LARGE:
        raise InvalidInput(name[:100], f"shape {sizes} is larger than any array")
    return tuple(sizes)


def _read_outputs(message: Message, signature: Signature) -> tuple[Wanted, ...]:
    known = [spec.name for spec in signature.outputs]
    wanted: dict[str, Wanted] = {}
    for span in message.outputs:
        name = ""
        parameters: dict[str, object] = {}
        for number, kind, begin, end in few(wire.fields(message.data, span)):
            if number == 1 and kind == LEN:
                name = wire.text(message.data, (begin, end), "an output's name")
            elif number == 2 and kind == LEN:
                _read_parameter(message.data, (begin, end), parameters)
        if name not in known:
            there = ", ".join(f'"{one}"' for one in known)
            raise InvalidRequest(f'unknown output "{name[:100]}"; this model gives {there}')
        if name in wanted:
            raise InvalidRequest(f'output "{name}" stands twice in the request')
        if "shared_memory_region" in parameters:
            raise InvalidRequest(f'output "{name}": shared memory is not supported here')
        wanted[name] = Wanted(name, None, read_integer(parameters, "classification") or 0)
    return tuple(wanted.values())


def _read_parameter(data: bytes, span: Span, into: dict[str, object]) -> None:
    """One entry of a map of ``InferParameter``. Of an entry, or a choice, that stands twice the last one counts."""
    key = ""
    value: object = None
    for number, kind, begin, end in few(wire.fields(data, span)):
        if kind != LEN:
            continue
        if number == 1:
            key = wire.text(data, (begin, end), "a parameter's name")
        elif number == 2:
            for choice, inner, first, last in few(wire.fields(data, (begin, end))):
                if inner == VARINT and choice in (1, 2, 5):
                    value = bool(first) if choice == 1 else wire.signed(first) if choice == 2 else first
                elif inner == LEN and choice == 3:
                    value = wire.text(data, (first, last), f'the parameter "{key[:40]}"')
                elif inner == FIXED64 and choice == 4:
                    value = unpack_from("<d", data, first)[0]
    into[key] = value
