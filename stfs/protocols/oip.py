"""The Open Inference Protocol, version 2, over REST, with Triton's binary, classification and parameters extensions.

Source: ``kserve/open-inference-protocol`` and Triton's ``docs/protocol``. A body is JSON, or JSON of a length that a
header tells followed by the raw tensors that it speaks of, or (length 0) one raw tensor alone. Tensors are read by the
datatype that the request declares, which must be the model's.

Must not live here: how raw elements lie (``oip_binary``), what is told of models (``oip_metadata``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfs import codec, errors
from stfs.codec import Reader
from stfs.protocols.oip_binary import write_raw
from stfs.protocols.oip_classification import classes
from stfs.protocols.oip_datatypes import datatype_of
from stfs.protocols.oip_inputs import LENGTH_HEADER, RawTensors, raw_input, read_inputs
from stfs.protocols.oip_parameters import read_flag, read_integer, read_parameters
from stfs.protocols.request import Payload, Resolver, read_text, require_object
from stfs.signature import Array, Signature, Tensors

__all__ = ["LENGTH_HEADER", "Request", "Wanted", "decode", "encode", "encode_error", "error_text", "status_of"]

_FP16 = np.dtype(np.float16)


@dataclass(frozen=True, slots=True)
class Wanted:
    """How one output is to be told: raw or as JSON, whole or as its ``classification`` highest values (0: whole)."""

    name: str
    binary: bool | None = None
    classification: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded request. ``inputs`` have the signature's dtypes; their shapes are not yet checked against it.

    ``wanted`` is empty for all outputs, each then ``binary`` or not. ``timeout_us`` and ``priority`` (1 is the highest
    level) are 0 where none was asked for; ``id`` is ``None`` where none was sent.
    """

    signature: Signature
    inputs: Tensors
    id: str | None = None
    wanted: tuple[Wanted, ...] = ()
    binary: bool = False
    timeout_us: int = 0
    priority: int = 0

    def told(self, names: Iterable[str]) -> Iterable[Wanted]:
        """How each of the outputs ``names`` is to be told: those that are wanted, or all where none is named."""
        if not self.wanted:
            return [Wanted(name) for name in names]
        there = set(names)
        return [one for one in self.wanted if one.name in there]

    def is_binary(self, one: Wanted) -> bool:
        """Whether that output is to be told raw: what is said of it beats what is said of the request."""
        return self.binary if one.binary is None else one.binary


def status_of(error: errors.RequestError) -> int:
    """The HTTP status of an error, as Triton maps its codes; a model or version that is not there is 400."""
    match error:
        case errors.TooLarge():
            return 413
        case errors.UnsupportedEncoding():
            return 501
        case errors.InvalidRequest() | errors.NotFound():
            return 400
        case errors.ShareExceeded():
            return 429
        case errors.Unavailable() | errors.DeadlineExceeded():
            return 503
        case _:
            return 500


def encode_error(error: errors.RequestError, text: str) -> bytes:
    """``{"error": text}``, with Triton's opening where a model or version is not there."""
    return b'{"error":' + codec.encode_string(error_text(error, text)) + b"}"


def error_text(error: errors.RequestError, text: str) -> str:
    """``text`` with Triton's opening where a model or version is not there."""
    if isinstance(error, errors.ModelNotFound | errors.VersionNotFound) and error.model:
        return f"Request for unknown model: '{error.model}' is not found; {text}"
    return text


def decode(body: bytes | memoryview, resolve: Resolver, json_bytes: int | None = None) -> Request:
    """What ``body`` asks for. ``json_bytes`` is the value of :data:`LENGTH_HEADER`, ``None`` where it was not sent.

    Arrays may be views of ``body``, which nobody may change then. Raises :class:`stfs.errors.InvalidRequest` for
    anything wrong in the body and what ``resolve`` raises.
    """
    signature = resolve(None, None, None)
    if json_bytes == 0:
        return Request(signature, raw_input(body, signature), binary=True)
    if json_bytes is not None and json_bytes > len(body):
        raise errors.InvalidRequest(f"{LENGTH_HEADER} is {json_bytes}, but the body has {len(body)} bytes")
    text = body if json_bytes is None else bytes(body[:json_bytes])
    tensors = RawTensors(body, json_bytes)
    reader = Reader(text)
    require_object(reader)
    request_id: str | None = None
    inputs: Tensors | None = None
    wanted: tuple[Wanted, ...] | None = None
    parameters: Mapping[str, object] = {}
    while (key := reader.next_key()) is not None:
        if key == "inputs":
            if inputs is not None:
                raise errors.InvalidRequest('"inputs" stands twice in the body')
            inputs = read_inputs(reader, text, tensors, signature)
        elif key == "outputs":
            wanted = _read_outputs(reader, signature)
        elif key == "id":
            request_id = read_text(reader, key)
        elif key == "parameters":
            parameters = read_parameters(reader, ("binary_data_output", "timeout", "priority", "sequence_id"))
        else:
            reader.skip()
    reader.end()
    if inputs is None:
        raise errors.InvalidRequest('"inputs" is missing; send {"inputs": [{"name", "shape", "datatype", "data"}]}')
    tensors.end()
    if parameters.get("sequence_id") not in (None, 0, ""):
        raise errors.InvalidRequest('"sequence_id": models here keep no state between requests')
    timeout_us = read_integer(parameters, "timeout") or 0
    priority = read_integer(parameters, "priority", 64) or 0
    binary = read_flag(parameters, "binary_data_output") or False
    request = Request(signature, inputs, request_id, wanted or (), binary, timeout_us, priority)
    for spec in signature.outputs:
        if spec.dtype == _FP16:  # told before the model has run for nothing
            for one in request.told([spec.name]):
                _check_writable(one, spec.dtype, one.classification > 0 or request.is_binary(one))
    return request


def encode(request: Request, outputs: Mapping[str, Array], model_name: str, version: int) -> bytes | Payload:
    """The answer: JSON, or JSON and raw tensors if any output is wanted so. Floats in their shortest round-trip form.

    Raises :class:`stfs.errors.InvalidRequest` for an output that cannot be told as it is wanted.
    """
    told: list[bytes] = []
    raw: list[bytes | memoryview] = []
    for one in request.told(outputs):
        array = outputs[one.name]
        if one.classification:
            array = classes(one.name, array, one.classification, rows=request.signature.batchable)
        binary = request.is_binary(one)
        _check_writable(one, array.dtype, binary)
        shape = b",".join([b"%d" % size for size in array.shape])
        parts = codec.encode_string(one.name), datatype_of(array.dtype).encode(), shape
        if binary:
            raw.append(write_raw(array))
            rest = b'"parameters":{"binary_data_size":%d}' % len(raw[-1])
        else:
            rest = b'"data":' + codec.encode(array.reshape(-1))
        told.append(b'{"name":%b,"datatype":"%b","shape":[%b],%b}' % (*parts, rest))
    named = b"" if request.id is None else b'"id":' + codec.encode_string(request.id) + b","
    model = codec.encode_string(model_name)
    text = b'{%b"model_name":%b,"model_version":"%d","outputs":[%b]}' % (named, model, version, b",".join(told))
    if not raw:
        return text
    return Payload(b"".join((text, *raw)), "application/octet-stream", {LENGTH_HEADER: str(len(text))})


def _read_outputs(reader: Reader, signature: Signature) -> tuple[Wanted, ...]:
    if (kind := reader.kind()) != "array":
        raise errors.InvalidRequest(f'"outputs" must be a list, not {kind}')
    known = [spec.name for spec in signature.outputs]
    wanted: dict[str, Wanted] = {}
    reader.enter_array()
    while reader.next_item():
        if (kind := reader.kind()) != "object":
            raise errors.InvalidRequest(f'"outputs" [{len(wanted)}] must be an object, not {kind}')
        one = _read_output(reader)
        if one.name not in known:
            there = ", ".join(f'"{name}"' for name in known)
            raise errors.InvalidRequest(f'unknown output "{one.name[:100]}"; this model gives {there}')
        if one.name in wanted:
            raise errors.InvalidRequest(f'output "{one.name}" stands twice in the request')
        wanted[one.name] = one
    return tuple(wanted.values())


def _read_output(reader: Reader) -> Wanted:
    name: str | None = None
    parameters: Mapping[str, object] = {}
    reader.enter_object()
    while (key := reader.next_key()) is not None:
        if key == "name":
            name = read_text(reader, key)
        elif key == "parameters":
            parameters = read_parameters(reader, ("binary_data", "classification", "shared_memory_region"))
        else:
            reader.skip()
    if name is None:
        raise errors.InvalidRequest('one of the "outputs" has no "name"')
    if "shared_memory_region" in parameters:
        raise errors.InvalidRequest(f'output "{name[:100]}": shared memory is not supported here')
    return Wanted(name, read_flag(parameters, "binary_data"), read_integer(parameters, "classification") or 0)


def _check_writable(one: Wanted, dtype: np.dtype[Any], binary: bool) -> None:
    if dtype == _FP16 and not binary:
        raise errors.InvalidRequest(f'output "{one.name}" is FP16, which JSON has no form for: ask for binary_data')
    if dtype.kind not in "biufOSU":
        raise errors.ModelFailed(f'output "{one.name}" is of {dtype}, which the protocol has no datatype for')
