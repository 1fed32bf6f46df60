"""TensorFlow Serving's PredictionService: which method is answered by what, but for metadata (``tfserving_models``)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import grpc

from stfs.carry import infer
from stfs.context import Context
from stfs.errors import InvalidRequest, NotFound, SignatureNotFound
from stfs.protocols import tfserving_inference_pb, tfserving_pb
from stfs.protocols.request import Resolver
from stfs.protocols.tfserving_pb import ModelSpec
from stfs.protocols.tfserving_results import INPUTS, classify_signature, regress_signature
from stfs.rpc.tfserving_models import DIALECT, get_model_metadata, model_service, version_of
from stfs.rpc.unary import Call, unary
from stfs.signature import CLASSIFY, Array, Signature, Tensors

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

Choose = Callable[[Resolver, str | None], Signature]


def services(context: Context) -> Mapping[str, Mapping[str, grpc.RpcMethodHandler]]:
    """The handlers of each method, by service."""
    inferences = {
        "Predict": _predict,
        "Classify": _classify,
        "Regress": _regress,
        "MultiInference": _multi_inference,
    }
    return {
        PREDICTION_SERVICE: {
            **{
                name: unary(context, DIALECT, work, f"{PREDICTION_SERVICE}/{name}") for name, work in inferences.items()
            },
            "GetModelMetadata": unary(context, DIALECT, get_model_metadata),
        },
        MODEL_SERVICE: model_service(context),
    }


async def _predict(call: Call, body: bytes) -> bytes:
    started_s = time.monotonic()
    request = tfserving_pb.decode_predict(body)
    spec, version = request.spec, version_of(call, request.spec)
    try:
        signature = call.lease(spec.name, version, spec.signature_name or None)
    except NotFound as error:
        raise spec.not_found(error, version) from None
    chosen = request.chosen_outputs(signature)
    call.lease.decode_s = time.monotonic() - started_s
    outputs = await infer(call.lease, signature, request.inputs, call.deadline_s, call.journey)
    encoding_s = time.monotonic()
    answer = tfserving_pb.encode_predict(spec.name, _served(call), signature.name, outputs, chosen)
    call.lease.encode_s = time.monotonic() - encoding_s
    return answer


async def _classify(call: Call, body: bytes) -> bytes:
    spec, outputs, rows = await _on_examples(call, body, classify_signature)
    return tfserving_inference_pb.encode_classification(spec, outputs, rows)


async def _regress(call: Call, body: bytes) -> bytes:
    spec, outputs, rows = await _on_examples(call, body, regress_signature)
    return tfserving_inference_pb.encode_regression(spec, outputs, rows)


async def _on_examples(call: Call, body: bytes, choose: Choose) -> tuple[bytes, Tensors, int]:
    """The encoded ``ModelSpec`` of the answer, the model's outputs, and of how many examples they are."""
    request = tfserving_inference_pb.decode_examples(body)
    signature = _chosen(call, request.spec, choose)
    outputs = await infer(call.lease, signature, {INPUTS: request.serialized}, call.deadline_s, call.journey)
    return _answered(call, request.spec, signature), outputs, len(request.serialized)


async def _multi_inference(call: Call, body: bytes) -> bytes:
    request = tfserving_inference_pb.decode_multi(body)
    signatures = [
        # No turn of the loop lies between these, so that all find the same version.
        _chosen(call, task.spec, classify_signature if task.method_name == CLASSIFY else regress_signature)
        for task in request.tasks
    ]
    inputs: Mapping[str, Array] = {INPUTS: request.serialized}
    answers = await asyncio.gather(
        *(infer(call.lease, signature, dict(inputs), call.deadline_s) for signature in signatures),
        return_exceptions=True,  # the model is held until the last of them has ended
    )
    parts: list[tuple[str, bytes, Tensors]] = []
    for task, signature, outputs in zip(request.tasks, signatures, answers, strict=True):
        if isinstance(outputs, BaseException):
            raise outputs
        parts.append((task.method_name, _answered(call, task.spec, signature), outputs))
    return tfserving_inference_pb.encode_multi(parts, len(request.serialized))


def _chosen(call: Call, spec: ModelSpec, choose: Choose) -> Signature:
    """Hold the model and give its signature that classifies or regresses."""
    version = version_of(call, spec)
    try:
        return choose(lambda _, __, name: call.lease(spec.name, version, name), spec.signature_name or None)
    except SignatureNotFound as error:
        raise InvalidRequest(str(error)) from None  # so TensorFlow Serving has it, other than for Predict
    except NotFound as error:
        raise spec.not_found(error, version) from None


def _answered(call: Call, spec: ModelSpec, signature: Signature) -> bytes:
    return tfserving_pb.encode_spec(spec.name, _served(call), signature.name)


def _served(call: Call) -> int:
    """The version that the call holds."""
    served = call.lease.served
    assert served is not None, "an answered request has held its model"
    return served.version
