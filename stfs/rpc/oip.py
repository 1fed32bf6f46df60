"""``inference.GRPCInferenceService``: the Open Inference Protocol with Triton's calls; which is answered by what.

Streams are ``oip_stream``'s, bytes are ``stfs.protocols``', what is told of models is ``stfs.oip_served``'s.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc

from stfs import __version__
from stfs.carry import infer, sooner
from stfs.context import Context, Lease
from stfs.errors import InvalidRequest, NotFound, Unavailable
from stfs.oip_served import told_config, told_metadata, told_statistics
from stfs.protocols import oip_messages as messages
from stfs.protocols import oip_metadata, oip_pb
from stfs.protocols.oip import Request, error_text
from stfs.protocols.request import parse_version
from stfs.rpc.unary import Call, Dialect, unary
from stfs.signature import Signature, Tensors

DIALECT = Dialect("oip_grpc", oip_pb.status_of)

INFERENCE_SERVICE = "inference.GRPCInferenceService"

NO_SHARED_MEMORY = "shared memory is not supported here: send tensors in the request"
NO_TRACE_SETTINGS = "tracing settings are not supported here: send traceparent as metadata"
NO_LOG_SETTINGS = "logging settings cannot be changed over the wire: start the server with --log_level"

Encode = Callable[[Request, Tensors, str, int], bytes]


def unary_methods(context: Context) -> Mapping[str, grpc.RpcMethodHandler]:
    """The handlers of every method but the stream."""
    told: Mapping[str, Callable[[Call, bytes], Awaitable[bytes]]] = {
        "ServerLive": _server_live,
        "ServerReady": _server_ready,
        "ModelReady": _model_ready,
        "ServerMetadata": _server_metadata,
        "ModelMetadata": _model_metadata,
        "ModelConfig": _model_config,
        "ModelStatistics": _model_statistics,
        "RepositoryIndex": _index,
        "RepositoryModelLoad": _load,
        "RepositoryModelUnload": _unload,
        "SystemSharedMemoryStatus": _nothing,
        "SystemSharedMemoryUnregister": _nothing,
        "CudaSharedMemoryStatus": _nothing,
        "CudaSharedMemoryUnregister": _nothing,
    }
    return {
        "ModelInfer": unary(context, DIALECT, _infer, f"{INFERENCE_SERVICE}/ModelInfer"),
        **{name: unary(context, DIALECT, work) for name, work in told.items()},
        "SystemSharedMemoryRegister": _not_here(NO_SHARED_MEMORY),
        "CudaSharedMemoryRegister": _not_here(NO_SHARED_MEMORY),
        "TraceSetting": _not_here(NO_TRACE_SETTINGS),
        "LogSettings": _not_here(NO_LOG_SETTINGS),
    }


async def answer(call: Call, message: oip_pb.Message, started_s: float, encode: Encode) -> bytes:
    """The answer to one request, written by ``encode``. Leaves the model held by the call's lease.

    ``started_s``, of ``time.monotonic``, is when reading it began. Raises :class:`stfs.errors.RequestError`.
    """
    lease = call.lease
    if not message.model_name:
        raise InvalidRequest("model_name is missing")
    signature = acquire(lease, message.model_name, message.model_version)
    request = oip_pb.decode(message, signature)
    if request.timeout_us:
        lease.timeout_s = request.timeout_us / 1e6
    if not call.says_priority:
        lease.priority = request.priority
    lease.decode_s = time.monotonic() - started_s
    deadline_s = sooner(call.deadline_s, lease, started_s)
    outputs = await infer(lease, signature, request.inputs, deadline_s, call.journey)
    served = lease.served
    assert served is not None, "an answered request has held its model"
    encoding_s = time.monotonic()
    told = encode(request, outputs, served.name, served.version)
    lease.encode_s = time.monotonic() - encoding_s
    return told


def acquire(lease: Lease, name: str, version: str) -> Signature:
    """Hold that model, its latest version for ``""``, and give its default signature. Raises what Triton would."""
    try:
        return lease(name, parse_version(version) if version else None, None)
    except NotFound as error:
        raise type(error)(error_text(error, str(error)), error.model, error.version) from None


async def _infer(call: Call, body: bytes) -> bytes:
    started_s = time.monotonic()
    return await answer(call, oip_pb.scan(body), started_s, oip_pb.encode)


async def _server_live(call: Call, body: bytes) -> bytes:
    return messages.write(messages.LIVE, {"live": True})


async def _server_ready(call: Call, body: bytes) -> bytes:
    return messages.write(messages.READY, {"ready": call.context.ready()})


async def _model_ready(call: Call, body: bytes) -> bytes:
    """A model that is not there is not ready; that is no error, as in Triton."""
    asked = messages.read(messages.MODEL, body)
    try:
        _hold(call, asked)
    except (NotFound, Unavailable):
        return messages.write(messages.READY, {"ready": False})
    return messages.write(messages.READY, {"ready": True})


async def _server_metadata(call: Call, body: bytes) -> bytes:
    return messages.write(messages.SERVER_METADATA, oip_metadata.server_metadata("stfs", __version__))


async def _model_metadata(call: Call, body: bytes) -> bytes:
    _hold(call, messages.read(messages.MODEL, body))
    return messages.write(messages.MODEL_METADATA, told_metadata(call.context, call.lease))


async def _model_config(call: Call, body: bytes) -> bytes:
    _hold(call, messages.read(messages.MODEL, body))
    return messages.write(messages.MODEL_CONFIG, {"config": told_config(call.context, call.lease)})


async def _model_statistics(call: Call, body: bytes) -> bytes:
    asked = messages.read(messages.MODEL, body)
    name, version = asked["name"] or None, asked["version"]
    if name is not None:
        _hold(call, asked)
    number = parse_version(version) if version else None
    return messages.write(messages.MODEL_STATISTICS, told_statistics(call.context, name, number))


def _hold(call: Call, asked: Mapping[str, Any]) -> None:
    if not asked["name"]:
        raise InvalidRequest("the model's name is missing")
    acquire(call.lease, asked["name"], asked["version"])


async def _index(call: Call, body: bytes) -> bytes:
    asked = messages.read(messages.INDEX_REQUEST, body)
    entries = [
        {
            "name": entry.name,
            "version": "" if entry.version is None else str(entry.version),
            "state": entry.state,
            "reason": entry.reason,
        }
        for entry in call.context.repository.index(ready=asked["ready"])
    ]
    return messages.write(messages.INDEX, {"models": entries})


async def _load(call: Call, body: bytes) -> bytes:
    asked = messages.read(messages.CHANGE, body)
    given = asked["parameters"]
    if (unknown := next((key for key in given if key != "config"), None)) is not None:
        why = "files cannot be sent, models are read from where they lie" if unknown.startswith("file:") else "unknown"
        raise InvalidRequest(f'the parameter "{unknown[:60]}": {why}; "config" can be set')
    override = (given["config"] or {"string_param": ""})["string_param"] if given else None
    await _changing(asked["model_name"], lambda name: call.context.repository.load(name, override))
    return b""


async def _unload(call: Call, body: bytes) -> bytes:
    asked = messages.read(messages.CHANGE, body)  # unload_dependents: no model here depends on another
    await _changing(asked["model_name"], call.context.repository.unload)
    return b""


async def _changing(name: str, change: Callable[[str], Awaitable[None]]) -> None:
    try:
        await change(name)
    except NotFound as error:
        raise type(error)(error_text(error, str(error)), error.model, error.version) from None


async def _nothing(call: Call, body: bytes) -> bytes:
    """There are no regions of shared memory; to forget them all is done at once."""
    return b""


def _not_here(why: str) -> grpc.RpcMethodHandler:
    async def refuse(_: bytes, rpc: Any) -> None:
        await rpc.abort(grpc.StatusCode.UNIMPLEMENTED, why)

    return grpc.unary_unary_rpc_method_handler(refuse)
