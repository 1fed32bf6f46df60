"""The small messages of the protocol's gRPC service, against the classes that protobuf has of Triton's own files."""

import json
from collections.abc import Mapping

import numpy as np
import pytest
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as service

from stfs.errors import InvalidRequest
from stfs.metrics import Metrics
from stfs.protocols import oip_messages as messages
from stfs.protocols import oip_metadata
from stfs.signature import STRING, Signature, TensorSpec

TABLES = [
    ("ServerLiveResponse", messages.LIVE),
    ("ServerReadyResponse", messages.READY),
    ("ModelReadyResponse", messages.READY),
    ("ModelReadyRequest", messages.MODEL),
    ("ModelMetadataRequest", messages.MODEL),
    ("ModelConfigRequest", messages.MODEL),
    ("ModelStatisticsRequest", messages.MODEL),
    ("ServerMetadataResponse", messages.SERVER_METADATA),
    ("ModelMetadataResponse", messages.MODEL_METADATA),
    ("ModelConfigResponse", messages.MODEL_CONFIG),
    ("ModelStatisticsResponse", messages.MODEL_STATISTICS),
    ("RepositoryIndexRequest", messages.INDEX_REQUEST),
    ("RepositoryIndexResponse", messages.INDEX),
    ("RepositoryModelLoadRequest", messages.CHANGE),
    ("RepositoryModelUnloadRequest", messages.CHANGE),
]

INTEGERS = {"TYPE_INT32", "TYPE_INT64", "TYPE_UINT32", "TYPE_UINT64"}


def type_name(field):
    kinds = type(field)
    return next(name for name in dir(kinds) if name.startswith("TYPE_") and getattr(kinds, name) == field.type)


def compare(table, descriptor, *, whole):
    there = {field.name: field for field in descriptor.fields}
    assert table.keys() <= there.keys(), descriptor.full_name
    if whole:
        assert table.keys() == there.keys(), descriptor.full_name
    for name, field in table.items():
        real = there[name]
        where = f"{descriptor.full_name}.{name}"
        assert (field.number, field.repeated) == (real.number, real.is_repeated), where
        if isinstance(field.kind, Mapping):
            assert field.is_map == real.message_type.GetOptions().map_entry, where
            compare(field.kind, real.message_type, whole=False)
        elif isinstance(field.kind, tuple):
            assert list(field.kind) == [value.name for value in real.enum_type.values], where
            assert [value.number for value in real.enum_type.values] == list(range(len(field.kind))), where
        else:
            expected = {str: {"TYPE_STRING"}, bool: {"TYPE_BOOL"}, int: INTEGERS}[field.kind]
            assert type_name(real) in expected, where


@pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])
def test_tables_have_the_numbers_and_types_of_the_public_files(name, table):
    compare(table, getattr(service, name).DESCRIPTOR, whole=True)


PATIENCE = {
    "timeout_action": "DELAY",
    "default_timeout_microseconds": 2500,
    "allow_timeout_override": True,
    "max_queue_size": 7,
}
BATCHING = {
    "preferred_batch_size": [4, 300],
    "max_queue_delay_microseconds": 2500,
    "preserve_ordering": False,
    "priority_levels": 3,
    "default_priority_level": 2,
    "default_queue_policy": {**PATIENCE, "timeout_action": "REJECT"},
    "priority_queue_policy": {"1": PATIENCE, "3": PATIENCE},
}
SIGNATURE = Signature(
    "serving_default",
    (
        TensorSpec("x", np.dtype(np.float32), (None, 3)),
        TensorSpec("text", STRING, (None,), nullable=True),
        TensorSpec("any", np.dtype(np.int8), None),
    ),
    (TensorSpec("half", np.dtype(np.float16), (None, 2, None)), TensorSpec("flag", np.dtype(np.bool_), (None,))),
    batchable=True,
)


def statistics():
    metrics = Metrics(clock=lambda: 1_700_000_000.25)
    metrics.record_request("m", "3", "oip_grpc", "ok", 0.5, 0.125, 0.25)
    metrics.record_request("m", "3", "oip_grpc", "invalid_input", 0.5)
    for rows in (1, 300, 300):
        metrics.record_batch("m", "3", rows=rows, padded=0, queue_s=2.0, run_s=1.5, reason="idle", failed=False)
    return metrics.statistics("m", "3")


@pytest.mark.parametrize(
    ("name", "table", "value"),
    [
        ("ServerMetadataResponse", messages.SERVER_METADATA, oip_metadata.server_metadata("stfs", "1.2")),
        (
            "ModelMetadataResponse",
            messages.MODEL_METADATA,
            oip_metadata.model_metadata("m", [1, 20], "onnx", SIGNATURE),
        ),
        *(
            (
                "ModelConfigResponse",
                messages.MODEL_CONFIG,
                {
                    "config": oip_metadata.model_config("m", "onnx", SIGNATURE, policy, 300, BATCHING)
                    | {"response_cache": {"enable": True}}
                },
            )
            for policy in ({"latest": {"num_versions": 2}}, {"all": {}}, {"specific": {"versions": [3, 400]}})
        ),
        (
            "ModelStatisticsResponse",
            messages.MODEL_STATISTICS,
            {"model_stats": [oip_metadata.model_statistics("m", 3, statistics())]},
        ),
        (
            "RepositoryIndexResponse",
            messages.INDEX,
            {"models": [{"name": "m", "version": "", "state": "UNAVAILABLE", "reason": "é"}, {"name": "n"}]},
        ),
        ("ModelReadyResponse", messages.READY, {"ready": True}),
        ("ModelReadyResponse", messages.READY, {"ready": False}),
    ],
)
def test_what_is_written_is_what_the_json_form_says(name, table, value):
    kind = getattr(service, name)
    assert kind.FromString(messages.write(table, value)) == json_format.Parse(json.dumps(value), kind())


def test_requests_are_read():
    load = service.RepositoryModelLoadRequest(repository_name="r", model_name="é")
    load.parameters["config"].string_param = "{}"
    load.parameters["file:1/model.onnx"].bytes_param = b"\x00"
    assert messages.read(messages.CHANGE, load.SerializeToString()) == {
        "repository_name": "r",
        "model_name": "é",
        "parameters": {"config": {"string_param": "{}"}, "file:1/model.onnx": {"string_param": ""}},
    }
    index = service.RepositoryIndexRequest(ready=True).SerializeToString()
    assert messages.read(messages.INDEX_REQUEST, index) == {"repository_name": "", "ready": True}
    assert messages.read(messages.MODEL, b"") == {"name": "", "version": ""}


def test_unknown_fields_are_passed_over():
    data = service.ModelReadyRequest(name="m").SerializeToString() + b"\xfa\x07\x03abc\x88\x08\x01"
    assert messages.read(messages.MODEL, data) == {"name": "m", "version": ""}


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x00\x00", b"\xff" * 11])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(InvalidRequest):
        messages.read(messages.MODEL, data)


def test_a_field_that_no_table_has_is_a_mistake_of_ours():
    with pytest.raises(KeyError):
        messages.write(messages.READY, {"redy": True})
