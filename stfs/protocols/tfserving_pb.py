"""TensorFlow Serving's gRPC dialect: ``PredictRequest`` and ``PredictResponse`` as bytes, and its table of statuses.

They are read and written without protobuf's own runtime: no object is made of an element, and no message class is
registered that could meet TensorFlow's in the same process. Source: ``tensorflow_serving/apis/predict.proto`` and
``model.proto``; the wording of errors follows ``servables/tensorflow/predict_util.cc`` and ``core/basic_manager.cc``.
Examples and models are in ``tfserving_inference_pb`` and ``tfserving_models_pb``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stfs import errors
from stfs.protocols import tensor_pb, wire
from stfs.protocols.wire import LEN, VARINT, Span
from stfs.signature import Array, Signature, Tensors

DEFAULT_SIGNATURE = "serving_default"

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = range(6)
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, INTERNAL, UNAVAILABLE = 8, 9, 13, 14
"""Numbers of ``google.rpc.Code``, which gRPC shares."""


class FailedPrecondition(errors.RequestError):
    """What the server is asked to do needs something done before; the message says what."""


class NotBecomeAvailable(errors.RequestError):
    """Models that the server was told to serve do not."""


def status_of(error: errors.RequestError) -> int:
    """The gRPC status of an error."""
    match error:
        case FailedPrecondition():
            return FAILED_PRECONDITION
        case NotBecomeAvailable():
            return UNKNOWN
        case errors.TooLarge() | errors.OutOfMemory() | errors.ShareExceeded():
            return RESOURCE_EXHAUSTED
        case errors.InvalidRequest():
            return INVALID_ARGUMENT
        case errors.SignatureNotFound():
            return FAILED_PRECONDITION
        case errors.NotFound():
            return NOT_FOUND
        case errors.Unavailable():
            return UNAVAILABLE
        case errors.DeadlineExceeded():
            return DEADLINE_EXCEEDED
        case _:
            return INTERNAL


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model a request means. At most one of ``version`` and ``label`` is given."""

    name: str
    version: int | None = None
    label: str | None = None
    signature_name: str = ""

    def describe(self, version: int | None) -> str:
        """The servable asked for, as TensorFlow Serving words it, a label having been made a version."""
        return f"Latest({self.name})" if version is None else f"Specific({self.name}, {version})"

    def not_found(self, error: errors.NotFound, version: int | None) -> errors.NotFound:
        """``error`` as TensorFlow Serving opens it, with what is there instead after it."""
        if isinstance(error, errors.SignatureNotFound):
            name = self.signature_name or DEFAULT_SIGNATURE
            return errors.SignatureNotFound(f'Serving signature key "{name}" not found. {error}')
        return type(error)(f"Servable not found for request: {self.describe(version)}; {error}")


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """A decoded ``PredictRequest``; the tensors are not yet held against a signature."""

    spec: ModelSpec
    inputs: Tensors
    output_filter: tuple[str, ...] = ()

    def chosen_outputs(self, signature: Signature) -> tuple[str, ...] | None:
        """The outputs asked for; ``None`` for all. Raises :class:`InvalidRequest` for one that there is not."""
        if not self.output_filter:
            return None
        known = {spec.name for spec in signature.outputs}
        seen: set[str] = set()
        for name in self.output_filter:
            if name not in known:
                told = ",".join(sorted(known))
                raise errors.InvalidRequest(
                    f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{told}}}."
                )
            if name in seen:
                raise errors.InvalidRequest(f"duplicate output tensor alias: {name}")
            seen.add(name)
        return self.output_filter


def decode_predict(data: bytes) -> PredictRequest:
    """Raises :class:`stfs.errors.InvalidRequest` for anything wrong in the bytes or in a tensor.

    As protobuf has it: fields come in any order, a message that stands twice is merged, of two entries of a map the
    last one counts, unknown fields are passed over.
    """
    specs: list[Span] = []
    entries: dict[str, list[Span]] = {}
    wanted: list[str] = []
    for number, kind, begin, end in wire.fields(data, (0, len(data))):
        if kind != LEN:
            continue
        if number == 1:
            specs.append((begin, end))
        elif number == 2:
            name, values = _map_entry(data, (begin, end))
            entries[name] = values
        elif number == 3:
            wanted.append(wire.text(data, (begin, end), "output_filter"))
    spec = decode_spec(data, specs)
    budget = tensor_pb.Budget()
    inputs = {name: tensor_pb.decode(data, values, name, budget) for name, values in entries.items()}
    return PredictRequest(spec, inputs, tuple(wanted))


def encode_predict(
    name: str,
    version: int,
    signature_name: str,
    outputs: Mapping[str, Array],
    chosen: Sequence[str] | None = None,
) -> bytes:
    """``PredictResponse``: what of ``outputs`` is ``chosen`` (``None``: all), and what of the model has answered."""
    keys: Iterable[str] = outputs if chosen is None else chosen
    parts = [
        wire.encode_bytes(1, wire.encode_bytes(1, key.encode()) + wire.encode_bytes(2, tensor_pb.encode(outputs[key])))
        for key in keys
    ]
    parts.append(wire.encode_bytes(2, encode_spec(name, version, signature_name)))
    return b"".join(parts)


def decode_spec(data: bytes, spans: Sequence[Span]) -> ModelSpec:
    """``ModelSpec``. Raises :class:`InvalidRequest`, also if it is not there or names no model."""
    if not spans:
        raise errors.InvalidRequest("Missing ModelSpec")
    name = signature_name = ""
    version: int | None = None
    label: str | None = None
    for span in spans:
        for number, kind, begin, end in wire.fields(data, span):
            if kind != LEN:
                continue
            if number == 1:
                name = wire.text(data, (begin, end), "model_spec.name")
            elif number == 2:  # Int64Value; it and the label are one choice, of which the last one stands
                label, version = None, version or 0
                for inner, inner_kind, value, _ in wire.fields(data, (begin, end)):
                    if inner == 1 and inner_kind == VARINT:
                        version = wire.signed(value)
            elif number == 3:
                signature_name = wire.text(data, (begin, end), "model_spec.signature_name")
            elif number == 4:
                label, version = wire.text(data, (begin, end), "model_spec.version_label"), None
    if not name:
        raise errors.InvalidRequest("ModelSpec has no name specified.")
    return ModelSpec(name, version, label, signature_name)


def encode_spec(name: str, version: int, signature_name: str = "") -> bytes:
    """``ModelSpec`` of an answer."""
    told = wire.encode_bytes(1, name.encode()) + wire.encode_bytes(2, wire.encode_number(1, version))
    return told + (wire.encode_bytes(3, signature_name.encode()) if signature_name else b"")


def _map_entry(data: bytes, span: Span) -> tuple[str, list[Span]]:
    name, values = "", []
    for number, kind, begin, end in wire.fields(data, span):
        if number == 1 and kind == LEN:
            name = wire.text(data, (begin, end), "an input's name")
        elif number == 2 and kind == LEN:
            values.append((begin, end))
    return name, values
