"""The OpenAPI document as a function of signatures: what the validator says of it, and what it says of tensors."""

import json

import jsonschema
import numpy as np
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from stfs.protocols.openapi import Served, Server, document
from stfs.protocols.openapi_schema import MAX_EXAMPLE_VALUES, element, example, nested, tensor
from stfs.signature import CLASSIFY, STRING, Signature, TensorSpec, zeros

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)


def spec(name="x", dtype=FLOAT, shape=(None, 3), **more):
    return TensorSpec(name, np.dtype(dtype), shape, **more)


def signature(*inputs, name="serving_default", outputs=None, **more):
    outputs = (spec("y"),) if outputs is None else outputs
    return Signature(name, inputs or (spec(),), outputs, batchable=True, **more)


def served(*signatures, name="m", version=1, labels=()):
    return Served(name, version, labels, signatures[0].name, {one.name: one for one in signatures})


def made(*versions, **server):
    told = document(versions, lambda signature: zeros(signature.inputs, 1), Server("1.2.3", "m", **server))
    told = json.loads(json.dumps(told, allow_nan=False))
    OpenAPIV31SpecValidator(told).validate()
    return told


def body_schema(told, path):
    return told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def fits(schema, value):
    return jsonschema.Draft202012Validator(schema).is_valid(value)


MODELS = {
    "plain": signature(),
    "fixed": signature(spec(shape=(2, 3))),
    "scalar": signature(spec(shape=())),
    "unknown rank": signature(spec(shape=None)),
    "columns": signature(spec("age", LONG, (None,)), spec("sex", STRING, (None,), values=("f", "m"), nullable=True)),
    "features": signature(spec("x", FLOAT, (None, 2), columns=("a", "b"), nullable=True)),
    "half": signature(spec("x", np.float16)),
    "odd names": signature(spec('a "quoted"/name{x}'), name="sig ä/#"),
    "categories of numbers": signature(spec("x", LONG, (None,), values=("1", "2"))),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_document_of_any_signature_is_valid_and_its_examples_fit_their_schemas(name):
    told = made(served(MODELS[name]))
    shown = 0
    for item in told["paths"].values():
        for operation in item.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for one in content.get("examples", {}).values():
                jsonschema.validate(one["value"], content["schema"], jsonschema.Draft202012Validator)
                shown += 1
    assert shown >= (1 if name == "half" else 3)


def test_nothing_served_is_a_document_too():
    told = made()
    assert "post" not in told["paths"]["/"]
    assert "/v2/health/ready" in told["paths"]


def test_every_model_version_and_label_has_its_addresses_and_the_names_are_quoted():
    one = signature()
    told = made(
        served(one, name="a b"), served(one, name="a b", version=2, labels=("best/one",)), served(one, name="c")
    )
    predict = {path for path in told["paths"] if path.endswith(":predict")}
    assert predict == {
        "/v1/models/a%20b:predict",
        "/v1/models/a%20b/versions/1:predict",
        "/v1/models/a%20b/versions/2:predict",
        "/v1/models/a%20b/labels/best%2Fone:predict",
        "/v1/models/c:predict",
        "/v1/models/c/versions/1:predict",
    }
    infer = {path for path in told["paths"] if path.endswith("/infer")}
    assert infer == {
        path.replace("/v1/", "/v2/").replace(":predict", "/infer") for path in predict if "labels" not in path
    }
    ids = [operation["operationId"] for item in told["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    assert told["paths"]["/v2/models/{model}"]["get"]["parameters"][0]["schema"]["enum"] == ["a b", "c"]


def test_operation_ids_that_would_be_the_same_are_told_apart():
    told = made(served(signature(), name="a b"), served(signature(), name="a-b"))
    ids = [operation["operationId"] for item in told["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("shape", "right", "wrong"),
    [
        ((None, 2), [[1, 2.5]], [[1, 2, 3]]),
        ((None, 2), [[1, 2], [3, 4]], [1, 2]),
        ((3,), [1, 2, 3], [1, 2]),
        ((), 1.5, [1.5]),
        (None, [[1]], "text"),
    ],
)
def test_shapes_are_arrays_nested_by_rank(shape, right, wrong):
    schema = tensor(spec(shape=shape))
    assert fits(schema, right)
    assert not fits(schema, wrong)


@pytest.mark.parametrize(
    ("dtype", "right", "wrong"),
    [
        (np.int8, -128, 128),
        (np.uint8, 255, -1),
        (np.int64, -(1 << 63), 1 << 63),
        (np.uint64, (1 << 64) - 1, 1 << 64),
        (np.int32, 7, 1.5),
        (np.float32, 1.5, 1e39),
        (np.float16, 65504, 65505),
        (np.float64, 1e300, "1"),
        (np.bool_, True, 1),
        (STRING, "text", 1),
        (STRING, {"b64": "AA=="}, {"b64": "AA==", "x": 1}),
    ],
)
def test_elements_of_every_dtype(dtype, right, wrong):
    schema = element(spec(dtype=dtype))
    assert fits(schema, right)
    assert not fits(schema, wrong)
    assert not fits(schema, None)


def test_a_missing_value_is_null_where_the_input_allows_it_and_never_in_an_answer():
    for dtype in (FLOAT, STRING):
        assert fits(element(spec(dtype=dtype, nullable=True)), None)
        assert not fits(element(spec(dtype=dtype, nullable=True), is_answer=True), None)


def test_a_category_lists_its_values():
    assert element(spec(dtype=STRING, values=("f", "m"), nullable=True)) == {"enum": ["f", "m", None]}
    assert element(spec(dtype=LONG, values=("1", "2"))) == {"enum": [1, 2]}


def test_columns_that_may_be_missing_are_not_required():
    told = made(served(MODELS["columns"]))
    schema = body_schema(told, "/")
    assert fits(schema, {"data": {"age": [1]}})
    assert not fits(schema, {"data": {"sex": ["f"]}})
    assert fits(schema, {"data": [{"age": 1, "sex": "m"}]})
    assert fits(body_schema(told, "/v1/models/m:predict"), {"instances": [{"age": 1, "sex": None}]})
    assert not fits(body_schema(told, "/v1/models/m:predict"), {"instances": [{"age": 1, "sex": "x"}]})


def test_a_model_that_is_not_the_default_is_named_and_so_is_its_signature():
    told = made(served(signature(), signature(name="other")), served(signature(), name="n"))
    schema = body_schema(told, "/")
    row = {"x": [[1, 2, 3]]}
    assert fits(schema, {"data": row})
    assert fits(schema, {"model_name": "n", "data": row})
    assert fits(schema, {"signature_name": "other", "data": row})
    assert not fits(schema, {"model_name": "elsewhere", "data": row})


def test_the_open_inference_protocol_names_datatypes_and_shapes():
    schema = body_schema(made(served(signature())), "/v2/models/m/infer")
    right = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    assert fits(schema, {"inputs": [right]})
    for wrong in ({"datatype": "INT8"}, {"shape": [1, 4]}, {"shape": [3]}, {"name": "z"}, {"shape": [-1, 3]}):
        assert not fits(schema, {"inputs": [right | wrong]}), wrong
    assert not fits(schema, {"inputs": []})
    assert not fits(schema, {"inputs": [right, right]})


def test_half_floats_have_no_json_example_where_json_has_no_form_for_them():
    content = made(served(MODELS["half"]))["paths"]["/v2/models/m/infer"]["post"]["requestBody"]["content"]
    assert "examples" not in content["application/json"]
    assert "application/octet-stream" in content


def test_examples_that_nobody_would_read_are_left_out():
    told = made(served(signature(spec(shape=(None, MAX_EXAMPLE_VALUES + 1)))))
    contents = [
        operation["requestBody"]["content"]["application/json"]
        for path, item in told["paths"].items()
        for operation in item.values()
        if path in ("/", "/v1/models/m:predict", "/v2/models/m/infer") and "requestBody" in operation
    ]
    assert len(contents) == 3
    assert not any("examples" in content for content in contents)


def test_every_dialect_tells_the_statuses_of_its_own_table():
    paths = made(served(signature()))["paths"]
    assert set(paths["/"]["post"]["responses"]) == {"200", "400", "413", "415", "429", "500", "503", "504"}
    assert "404" in paths["/v1/models/m:predict"]["post"]["responses"]
    assert set(paths["/v2/models/m/infer"]["post"]["responses"]) == {"200", "400", "413", "429", "500", "501", "503"}
    assert "400" in paths["/v2/models/{model}/ready"]["get"]["responses"]


def test_credentials_are_asked_for_where_they_are_needed():
    told = made(served(signature()), open_paths=frozenset({"/health"}))
    assert told["security"] == [{"basic": []}, {"bearer": []}]
    assert told["components"]["securitySchemes"]["basic"] == {"type": "http", "scheme": "basic"}
    assert told["paths"]["/health"]["get"]["security"] == []
    assert "401" not in told["paths"]["/health"]["get"]["responses"]
    assert {"401", "403", "429"} <= told["paths"]["/"]["post"]["responses"].keys()
    assert "security" not in made(served(signature()))


def test_a_signature_for_examples_has_its_verb():
    paths = made(served(signature(), signature(name="c", method_name=CLASSIFY)))["paths"]
    assert fits(body_schema({"paths": paths}, "/v1/models/m:classify"), {"signature_name": "c", "examples": [{"a": 1}]})
    assert "/v1/models/m:regress" not in paths


def test_listeners_of_other_dialects_tell_their_own_answers():
    told = made(served(signature()), listener="kserve")
    assert not fits(body_schema(told, "/v1/models/m:predict"), {"outputs": [[1, 2, 3]]})
    assert told["paths"]["/v1/models/{model}"]["get"]["operationId"] == "kserve_ready"
    told = made(served(signature()), listener="tfserving", metrics_path="/monitoring/prometheus/metrics")
    assert set(told["paths"]["/v1/models"]["get"]["responses"]) >= {"400"}
    assert "/monitoring/prometheus/metrics" in told["paths"]


def test_what_is_no_text_is_shown_as_base64():
    array = np.empty(2, STRING)
    array[:] = [b"text", b"\xff"]
    assert example(array) == ["text", {"b64": "/w=="}]
    assert example(np.array([1.5, np.nan])) == [1.5, None]


def test_an_unknown_rank_takes_any_nesting():
    assert nested({"type": "integer"}, None) == {"anyOf": [{"type": "integer"}, {"type": "array"}]}
