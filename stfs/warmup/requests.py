"""``PredictionLog``, a recorded request of TensorFlow Serving, made into what a model is run on. Pure: bytes in.

Field numbers are those of ``tensorflow_serving/apis/prediction_log.proto``; the requests inside are read as gRPC's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stfs.errors import InvalidRequest
from stfs.protocols import tfserving_inference_pb, tfserving_pb, wire
from stfs.protocols.tfserving_results import INPUTS, classify_signature, regress_signature
from stfs.protocols.wire import LEN, Span
from stfs.signature import CLASSIFY, REGRESS, Signature, Tensors

_CLASSIFY, _REGRESS, _MULTI_INFERENCE, _SESSION_RUN, _PREDICT, _PREDICT_STREAMED = 2, 3, 4, 5, 6, 7
_NAMES: Mapping[int, str] = {_SESSION_RUN: "session_run_log", _PREDICT_STREAMED: "predict_streamed_log"}

_ANY_MODEL = wire.encode_bytes(1, wire.encode_bytes(1, b"-"))
"""A ``model_spec`` to be merged with the request's own: which model it was recorded of does not matter."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One run. ``signature_name`` is ``None`` for the model's default; ``method_name`` is empty for Predict."""

    signature_name: str | None
    inputs: Tensors
    method_name: str = ""

    def signature(self, named: Callable[[str | None], Signature]) -> Signature:
        """The signature to run. Raises :class:`stfs.errors.SignatureNotFound` if there is none, or none that fits."""
        choose = {CLASSIFY: classify_signature, REGRESS: regress_signature}.get(self.method_name)
        if choose is None:
            return named(self.signature_name)
        return choose(lambda _, __, name: named(name), self.signature_name)


def decode(record: bytes) -> tuple[Recorded, ...]:
    """The runs that a serialized ``PredictionLog`` stands for; none for a log that holds no request.

    Raises :class:`InvalidRequest` for bytes that are none, and for kinds of log that no model is warmed up by.
    """
    chosen = 0
    logs: list[Span] = []
    for number, kind, begin, end in wire.fields(record, (0, len(record))):
        if kind != LEN or not _CLASSIFY <= number <= _PREDICT_STREAMED:
            continue
        if number != chosen:  # they are one choice, of which the last one stands; the same again is merged
            chosen, logs = number, []
        logs.append((begin, end))
    if not chosen:
        return ()
    read = _READERS.get(chosen)
    if read is None:
        raise InvalidRequest(f"Unsupported log_type for warmup: {_NAMES[chosen]}")
    return read(b"".join([_request(record, log) for log in logs]))


def _predict(request: bytes) -> tuple[Recorded, ...]:
    decoded = tfserving_pb.decode_predict(_ANY_MODEL + request)
    return (Recorded(decoded.spec.signature_name or None, decoded.inputs),)


def _classify(request: bytes) -> tuple[Recorded, ...]:
    return _examples(request, CLASSIFY)


def _regress(request: bytes) -> tuple[Recorded, ...]:
    return _examples(request, REGRESS)


def _examples(request: bytes, method_name: str) -> tuple[Recorded, ...]:
    decoded = tfserving_inference_pb.decode_examples(_ANY_MODEL + request)
    return (Recorded(decoded.spec.signature_name or None, {INPUTS: decoded.serialized}, method_name),)


def _multi_inference(request: bytes) -> tuple[Recorded, ...]:
    decoded = tfserving_inference_pb.decode_multi(request)
    inputs = {INPUTS: decoded.serialized}
    return tuple(Recorded(task.spec.signature_name or None, inputs, task.method_name) for task in decoded.tasks)


_READERS: Mapping[int, Callable[[bytes], tuple[Recorded, ...]]] = {
    _CLASSIFY: _classify,
    _REGRESS: _regress,
    _MULTI_INFERENCE: _multi_inference,
    _PREDICT: _predict,
}


def _request(record: bytes, log: Span) -> bytes:
    """Field 1 of any log. Its answer, in field 2, is not looked at."""
    parts = [record[begin:end] for number, kind, begin, end in wire.fields(record, log) if (number, kind) == (1, LEN)]
    return b"".join(parts)
