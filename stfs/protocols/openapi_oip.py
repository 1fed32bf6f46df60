"""The call of the Open Inference Protocol that runs a model, as an OpenAPI operation.

Must not live here: which addresses there are (``openapi``), how a tensor is described (``openapi_schema``).
"""

from __future__ import annotations

from typing import Any

from stfs.protocols import oip
from stfs.protocols.oip_datatypes import datatype_of
from stfs.protocols.openapi_parts import HEADERS, Asked, answered, any_of, body_of, error_responses, object_of
from stfs.protocols.openapi_schema import Schema, element, example, is_worth_showing, may_be_left_out
from stfs.signature import TensorSpec

BINARY = "application/octet-stream"


def oip_call(asked: Asked) -> dict[str, Any]:
    """``/infer``: JSON, or JSON followed by raw tensors. It knows one signature, the model's default."""
    signature = asked.signature
    by_json = all(datatype_of(spec.dtype) != "FP16" for spec in (*signature.inputs, *signature.outputs))
    required = sum(not may_be_left_out(spec) for spec in signature.inputs)
    inputs: Schema = {
        "type": "array",
        "items": any_of([_oip_input(spec) for spec in signature.inputs]),
        "minItems": required,
        "maxItems": len(signature.inputs),
    }
    names = [spec.name for spec in signature.outputs]
    output: Schema = object_of("", {"name": {"enum": names}, "parameters": {"type": "object"}}, ["name"])
    body = object_of(
        "",
        {
            "id": {"type": "string"},
            "inputs": inputs,
            "outputs": {"type": "array", "items": output},
            "parameters": {"type": "object"},
        },
        ["inputs"],
    )
    examples: dict[str, Any] = {}
    if by_json and is_worth_showing(asked.inputs):
        entries = [
            {
                "name": spec.name,
                "shape": list(asked.inputs[spec.name].shape),
                "datatype": datatype_of(spec.dtype),
                "data": example(asked.inputs[spec.name].reshape(-1)),
            }
            for spec in signature.inputs
        ]
        examples["one row"] = {"value": {"id": "1", "inputs": entries}}
    request = body_of(body, examples)
    request["content"][BINARY] = {
        "schema": {"type": "string", "format": "binary"},
    }
    told: dict[str, Schema] = {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": any_of([_oip_output(spec) for spec in signature.outputs])},
    }
    answers = answered(object_of("", told, ["model_name", "model_version", "outputs"]))
    answers["200"]["content"][BINARY] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "summary": "Infer",
        "tags": ["Open Inference Protocol"],
        "description": "The binary form is the JSON, whose length the header Inference-Header-Content-Length tells, "
        "followed by the raw tensors in the order of the inputs, little-endian.",
        "parameters": [
            {
                "name": oip.LENGTH_HEADER,
                "in": "header",
                "schema": {"type": "integer", "minimum": 0},
                "description": "Bytes of the JSON part, in a body that has a binary part.",
            },
            *HEADERS,
        ],
        "requestBody": request,
        "responses": answers | error_responses(oip.status_of),
    }


def _oip_input(spec: TensorSpec) -> Schema:
    shape: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    if spec.shape is not None:
        sizes = [{"type": "integer", "minimum": 0} if size is None else {"const": size} for size in spec.shape]
        shape = {"type": "array", "minItems": len(sizes), "maxItems": len(sizes)}
        if sizes:
            shape["prefixItems"] = sizes
    parameters = {"type": "object", "properties": {"binary_data_size": {"type": "integer", "minimum": 0}}}
    data = {"type": "array", "items": {"anyOf": [element(spec), {"type": "array"}]}}
    return object_of(
        "",
        {
            "name": {"const": spec.name},
            "shape": shape,
            "datatype": {"const": datatype_of(spec.dtype)},
            "parameters": parameters,
            "data": {**data, "description": f"{spec.describe_shape()} in row-major order, flat or nested."},
        },
        ["name", "shape", "datatype"],
    )


def _oip_output(spec: TensorSpec) -> Schema:
    # Classes are told as BYTES, whatever the output is of.
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    properties: dict[str, Schema] = {
        "name": {"const": spec.name},
        "shape": sizes,
        "datatype": {"enum": list(dict.fromkeys([datatype_of(spec.dtype), "BYTES"]))},
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    }
    return object_of("", properties, ["name", "shape", "datatype"])
