"""The small messages of the Open Inference Protocol's gRPC service, from bytes to dictionaries and back.

A message is told by a table of its fields, and its value is a dictionary by the fields' names, so that what is told
over HTTP as JSON (``oip_metadata``) is told over gRPC as it is. Source: ``grpc_service.proto`` and
``model_config.proto`` of Triton; of the latter only what is told here. No classes are generated: those that a client's
package brings along would meet them in protobuf's registry, which takes each name once.

Must not live here: messages that carry tensors (``oip_pb``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from stfs.protocols import wire
from stfs.protocols.wire import LEN, VARINT

Table: TypeAlias = "Mapping[str, Field]"


class Field(NamedTuple):
    """A field: its number; ``str``, ``bytes``, ``bool``, ``int``, the names of an enum's values, or a message's table.

    A map is a repeated message of ``key`` and ``value``; its value here is a dictionary.
    """

    number: int
    kind: type | Sequence[str] | Table
    repeated: bool = False
    is_map: bool = False


def write(table: Table, value: Mapping[str, Any]) -> bytes:
    """The message. Fields that ``value`` lacks, or that hold nothing, are left out; ``KeyError`` for one unknown."""
    return b"".join([_write_field(table[name], item) for name, item in value.items()])


def _write_field(field: Field, value: Any) -> bytes:
    number, kind, repeated, is_map = field
    if is_map:
        value = [{"key": key, "value": item} for key, item in value.items()]
    if isinstance(kind, Mapping):
        return b"".join([wire.encode_bytes(number, write(kind, item)) for item in (value if repeated else [value])])
    if repeated and kind is int:
        packed = wire.pack_varints(np.array(value, np.int64).view(np.uint64))
        return wire.encode_bytes(number, packed) if packed else b""
    if repeated:
        return wire.encode_strings(number, [item.encode() for item in value])
    if kind is str:
        return wire.encode_bytes(number, value.encode(errors="replace")) if value else b""
    if isinstance(kind, Sequence):
        return wire.encode_number(number, kind.index(value))
    return wire.encode_number(number, int(value))


def read(table: Table, data: bytes) -> dict[str, Any]:
    """The value of each of the table's fields, empty where it was not sent: of single fields and of maps, as requests
    have them. Raises :class:`stfs.errors.InvalidRequest` for what is no message.
    """
    return _read(table, data, (0, len(data)))


def _read(table: Table, data: bytes, span: wire.Span) -> dict[str, Any]:
    by_number = {field.number: name for name, field in table.items()}
    found: dict[str, Any] = {name: _nothing(field) for name, field in table.items()}
    for number, wire_type, begin, end in wire.fields(data, span):
        if (name := by_number.get(number)) is None:
            continue
        kind = table[name].kind
        if wire_type == VARINT and kind in (bool, int):
            found[name] = bool(begin) if kind is bool else wire.signed(begin)
        elif wire_type != LEN:
            continue
        elif isinstance(kind, Mapping):
            inner = _read(kind, data, (begin, end))
            if table[name].is_map:
                found[name][inner["key"]] = inner["value"]
            else:
                found[name] = inner
        elif kind is str:
            found[name] = wire.text(data, (begin, end), name)
        elif kind is bytes:
            found[name] = data[begin:end]
    return found


def _nothing(field: Field) -> Any:
    if field.is_map:
        return {}
    return field.kind() if isinstance(field.kind, type) else None


def _map_of(number: int, value: type | Table) -> Field:
    return Field(number, {"key": Field(1, str), "value": Field(2, value)}, repeated=True, is_map=True)


def _strings(*names: str) -> Table:
    return {name: Field(number, str) for number, name in enumerate(names, 1)}


LIVE: Table = {"live": Field(1, bool)}
READY: Table = {"ready": Field(1, bool)}

MODEL = _strings("name", "version")
"""``ModelReadyRequest``, ``ModelMetadataRequest``, ``ModelConfigRequest`` and ``ModelStatisticsRequest``."""

SERVER_METADATA: Table = {**_strings("name", "version"), "extensions": Field(3, str, repeated=True)}

_TENSOR_METADATA: Table = {**_strings("name", "datatype"), "shape": Field(3, int, repeated=True)}
MODEL_METADATA: Table = {
    "name": Field(1, str),
    "versions": Field(2, str, repeated=True),
    "platform": Field(3, str),
    "inputs": Field(4, _TENSOR_METADATA, repeated=True),
    "outputs": Field(5, _TENSOR_METADATA, repeated=True),
}

_DATA_TYPES = (
    *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64"),
    *("TYPE_INT8", "TYPE_INT16", "TYPE_INT32", "TYPE_INT64"),
    *("TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
)
_INPUT: Table = {
    "name": Field(1, str),
    "data_type": Field(2, _DATA_TYPES),
    "format": Field(3, ("FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW")),
    "dims": Field(4, int, repeated=True),
    "is_shape_tensor": Field(6, bool),
    "allow_ragged_batch": Field(7, bool),
    "optional": Field(8, bool),
}
_OUTPUT: Table = {
    "name": Field(1, str),
    "data_type": Field(2, _DATA_TYPES),
    "dims": Field(3, int, repeated=True),
    "label_filename": Field(4, str),
    "is_shape_tensor": Field(6, bool),
}
_INSTANCE_GROUP: Table = {
    "name": Field(1, str),
    "kind": Field(4, ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")),
    "count": Field(2, int),
    "gpus": Field(3, int, repeated=True),
    "passive": Field(7, bool),
}
_VERSION_POLICY: Table = {
    "latest": Field(1, {"num_versions": Field(1, int)}),
    "all": Field(2, {}),
    "specific": Field(3, {"versions": Field(1, int, repeated=True)}),
}
_QUEUE_POLICY: Table = {
    "timeout_action": Field(1, ("REJECT", "DELAY")),
    "default_timeout_microseconds": Field(2, int),
    "allow_timeout_override": Field(3, bool),
    "max_queue_size": Field(4, int),
}
_DYNAMIC_BATCHING: Table = {
    "preferred_batch_size": Field(1, int, repeated=True),
    "max_queue_delay_microseconds": Field(2, int),
    "preserve_ordering": Field(3, bool),
    "priority_levels": Field(4, int),
    "default_priority_level": Field(5, int),
    "default_queue_policy": Field(6, _QUEUE_POLICY),
    "priority_queue_policy": Field(
        7, {"key": Field(1, int), "value": Field(2, _QUEUE_POLICY)}, repeated=True, is_map=True
    ),
}
MODEL_CONFIG: Table = {
    "config": Field(
        1,
        {
            "name": Field(1, str),
            "platform": Field(2, str),
            "version_policy": Field(3, _VERSION_POLICY),
            "max_batch_size": Field(4, int),
            "input": Field(5, _INPUT, repeated=True),
            "output": Field(6, _OUTPUT, repeated=True),
            "instance_group": Field(7, _INSTANCE_GROUP, repeated=True),
            "dynamic_batching": Field(11, _DYNAMIC_BATCHING),
            "optimization": Field(12, {"cuda": Field(3, {"graphs": Field(1, bool)})}),
            "parameters": _map_of(14, {"string_value": Field(1, str)}),
            "backend": Field(17, str),
            "response_cache": Field(24, {"enable": Field(1, bool)}),
        },
    )
}

_DURATION: Table = {"count": Field(1, int), "ns": Field(2, int)}
_INFER_STATISTICS: Table = {
    name: Field(number, _DURATION)
    for number, name in enumerate(
        (
            *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"),
            *("cache_hit", "cache_miss"),
        ),
        1,
    )
}
_BATCH_STATISTICS: Table = {
    "batch_size": Field(1, int),
    "compute_input": Field(2, _DURATION),
    "compute_infer": Field(3, _DURATION),
    "compute_output": Field(4, _DURATION),
}
MODEL_STATISTICS: Table = {
    "model_stats": Field(
        1,
        {
            "name": Field(1, str),
            "version": Field(2, str),
            "last_inference": Field(3, int),
            "inference_count": Field(4, int),
            "execution_count": Field(5, int),
            "inference_stats": Field(6, _INFER_STATISTICS),
            "batch_stats": Field(7, _BATCH_STATISTICS, repeated=True),
            "memory_usage": Field(
                8, {"type": Field(1, str), "id": Field(2, int), "byte_size": Field(3, int)}, repeated=True
            ),
        },
        repeated=True,
    )
}

INDEX_REQUEST: Table = {"repository_name": Field(1, str), "ready": Field(2, bool)}
INDEX: Table = {"models": Field(1, _strings("name", "version", "state", "reason"), repeated=True)}

CHANGE: Table = {
    "repository_name": Field(1, str),
    "model_name": Field(2, str),
    "parameters": _map_of(3, {"string_param": Field(3, str)}),
}
"""``RepositoryModelLoadRequest`` and ``RepositoryModelUnloadRequest``; of their parameters only text means anything."""
