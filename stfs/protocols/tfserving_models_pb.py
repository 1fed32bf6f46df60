"""TensorFlow Serving's gRPC dialect: what is served, and changing it, as bytes.

Source: ``apis/get_model_metadata.proto``, ``get_model_status.proto``, ``model_management.proto`` of tensorflow/serving
and ``meta_graph.proto`` of TensorFlow. ``ModelServerConfig`` itself is read by ``stfs.model_server``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stfs.errors import InvalidRequest
from stfs.protocols import tensor_pb, wire
from stfs.protocols.tfserving_pb import OK, UNKNOWN, ModelSpec, decode_spec, encode_spec
from stfs.protocols.wire import LEN, Span
from stfs.signature import Signature, TensorSpec

SIGNATURE_DEF = "signature_def"
_SIGNATURE_DEF_MAP = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

_STATES: Mapping[str, int] = {"START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50}


def decode_metadata_request(data: bytes) -> ModelSpec:
    """``GetModelMetadataRequest``. Raises :class:`InvalidRequest`, also for any field but ``signature_def``."""
    specs: list[Span] = []
    asked: list[str] = []
    for number, kind, begin, end in wire.fields(data, (0, len(data))):
        if number == 1 and kind == LEN:
            specs.append((begin, end))
        elif number == 2 and kind == LEN:
            asked.append(wire.text(data, (begin, end), "metadata_field"))
    if not specs:
        raise InvalidRequest("Missing ModelSpec")
    if not asked:
        raise InvalidRequest("GetModelMetadataRequest must specify at least one metadata_field")
    for name in asked:
        if name != SIGNATURE_DEF:
            raise InvalidRequest(f"Metadata field {name[:100]} is not supported")
    return decode_spec(data, specs)


def encode_metadata(name: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """``GetModelMetadataResponse``: every signature, in a ``SignatureDefMap`` packed as ``Any``."""
    told = b"".join(_entry(1, key, _signature_def(signature)) for key, signature in sorted(signatures.items()))
    packed = wire.encode_bytes(1, _SIGNATURE_DEF_MAP.encode()) + wire.encode_bytes(2, told)
    return wire.encode_bytes(1, encode_spec(name, version)) + _entry(2, SIGNATURE_DEF, packed)


def decode_status_request(data: bytes) -> ModelSpec:
    """``GetModelStatusRequest``. Raises :class:`InvalidRequest`."""
    return decode_spec(
        data,
        [(begin, end) for number, kind, begin, end in wire.fields(data, (0, len(data))) if (number, kind) == (1, LEN)],
    )


def encode_status(versions: Iterable[tuple[int, str, str]]) -> bytes:
    """``GetModelStatusResponse`` of ``(version, state, error)`` triples."""
    return b"".join(
        [
            wire.encode_bytes(
                1,
                wire.encode_number(1, version)
                + wire.encode_number(2, _STATES[state])
                + wire.encode_bytes(3, _status(UNKNOWN if error else OK, error)),
            )
            for version, state, error in versions
        ]
    )


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """A decoded ``ReloadConfigRequest``: the bytes of its ``ModelServerConfig``, and names of metrics to tell of."""

    config: bytes
    metric_names: tuple[str, ...]


def decode_reload(data: bytes) -> ReloadRequest:
    """Raises :class:`InvalidRequest`; what is in the configuration is not looked at."""
    config = b""
    names: list[str] = []
    for number, kind, begin, end in wire.fields(data, (0, len(data))):
        if number == 1 and kind == LEN:
            config += data[begin:end]  # written one after the other is merged
        elif number == 2 and kind == LEN:
            names.append(wire.text(data, (begin, end), "metric_names"))
    return ReloadRequest(config, tuple(names))


def encode_reloaded(metric_names: Sequence[str]) -> bytes:
    """``ReloadConfigResponse`` of success. TensorFlow Serving's metrics are not kept here, so none has increased."""
    # The increase is one of a choice, so its zero is written: that is how it is told from not being there.
    metrics = [
        wire.encode_bytes(2, wire.encode_bytes(1, name.encode()) + bytes((2 << 3, 0)))
        for name in dict.fromkeys(metric_names)
    ]
    return wire.encode_bytes(1, _status(OK, "")) + b"".join(metrics)


def _status(code: int, message: str) -> bytes:
    """``StatusProto``."""
    return wire.encode_number(1, code) + (wire.encode_bytes(2, message.encode()) if message else b"")


def _signature_def(signature: Signature) -> bytes:
    inputs = b"".join([_entry(1, spec.name, _tensor_info(spec)) for spec in signature.inputs])
    outputs = b"".join([_entry(2, spec.name, _tensor_info(spec)) for spec in signature.outputs])
    return inputs + outputs + (wire.encode_bytes(3, signature.method_name.encode()) if signature.method_name else b"")


def _tensor_info(spec: TensorSpec) -> bytes:
    """``TensorInfo``: -1 is an open dimension. A graph that names its tensors otherwise is told of by its names."""
    kind = tensor_pb.kind_of(spec.dtype)
    if spec.shape is None:
        shape = wire.encode_number(3, 1)
    else:
        shape = b"".join(
            [wire.encode_bytes(2, wire.encode_number(1, -1 if size is None else size)) for size in spec.shape]
        )
    return (
        wire.encode_bytes(1, (spec.graph_name or f"{spec.name}:0").encode())
        + wire.encode_number(2, 0 if kind is None else kind.number)
        + wire.encode_bytes(3, shape)
    )


def _entry(number: int, key: str, value: bytes) -> bytes:
    """An entry of a map from strings to messages."""
    return wire.encode_bytes(number, wire.encode_bytes(1, key.encode()) + wire.encode_bytes(2, value))
