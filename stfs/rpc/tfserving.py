"""TensorFlow Serving's gRPC services: which method is answered by what."""

from __future__ import annotations

import time
from collections.abc import Mapping

import grpc

from stfs.carry import infer
from stfs.context import Context
from stfs.errors import NotFound
from stfs.protocols import tfserving_pb
from stfs.protocols.tfserving_pb import ModelSpec
from stfs.rpc.unary import Call, Dialect, unary
from stfs.signature import Signature

DIALECT = Dialect("tfserving_grpc", tfserving_pb.status_of)

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"


def services(context: Context) -> Mapping[str, Mapping[str, grpc.RpcMethodHandler]]:
    """The handlers of each method, by service."""
    return {PREDICTION_SERVICE: {"Predict": unary(context, DIALECT, _predict)}}


def acquire(call: Call, spec: ModelSpec) -> Signature:
    """Hold the model that ``spec`` means and give its signature. Raises what TensorFlow Serving would."""
    version = spec.version
    if spec.label is not None:
        version = call.context.registry.version_of(spec.name, spec.label)
    try:
        return call.lease(spec.name, version, spec.signature_name or None)
    except NotFound as error:
        raise spec.not_found(error, version) from None


async def _predict(call: Call, body: bytes) -> bytes:
    started_s = time.monotonic()
    request = tfserving_pb.decode_predict(body)
    signature = acquire(call, request.spec)
    chosen = request.chosen_outputs(signature)
    call.lease.decode_s = time.monotonic() - started_s
    outputs = await infer(call.lease, signature, request.inputs, call.deadline_s, call.timing)
    served = call.lease.served
    assert served is not None, "an answered request has held its model"
    encoding_s = time.monotonic()
    answer = tfserving_pb.encode_predict(request.spec, served.version, signature.name, outputs, chosen)
    call.lease.encode_s = time.monotonic() - encoding_s
    return answer
