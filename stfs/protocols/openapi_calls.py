"""The calls of STFS and TensorFlow Serving's REST API that run a model, as OpenAPI operations.

Must not live here: which addresses there are (``openapi``), how a tensor is described (``openapi_schema``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stfs.images.plan import DEPTHS
from stfs.protocols import stfs, tfserving
from stfs.protocols.openapi_parts import HEADERS, Asked, answered, any_of, body_of, error_responses, object_of
from stfs.protocols.openapi_schema import (
    Schema,
    by_name,
    element,
    example,
    is_worth_showing,
    row,
    takes_rows,
    tensor,
)
from stfs.protocols.stfs_form import IMAGE_FIELDS
from stfs.signature import CLASSIFY, REGRESS, Signature, Tensors

_FILES = {"contentType": "image/jpeg, image/png, image/webp, image/bmp, image/gif"}
_FILE_LIST = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
_FORM: Schema = {
    "type": "object",
    "properties": {
        **{name: {**_FILE_LIST, "description": "Files, a row each, in their order."} for name in IMAGE_FIELDS},
        "model_name": {"type": "string"},
        "model_version": {"type": "string", "pattern": "^[0-9]{1,18}$", "description": "The latest if not given."},
        "signature_name": {"type": "string"},
        "channel_layout": {"enum": list(DEPTHS)},
        "shape": {
            "type": "string",
            "pattern": "^[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}){1,3}$",
            "description": "Height and width, or more of the shape, where the model leaves it open.",
        },
        "base64_decode": {
            "enum": ["true", "false"],
            "description": "Whether a model of strings gets the files' bytes.",
        },
        "data": {"type": "string", "contentMediaType": "application/json", "description": "The other inputs."},
    },
    "additionalProperties": _FILE_LIST | {"description": "Files for the input of that name."},
}


def stfs_call(served: Mapping[str, list[Asked]], default: str) -> dict[str, Any]:
    """``POST /`` over every model that is served; ``default`` is the one that a body need not name."""
    bodies: list[Schema] = []
    answers: list[Schema] = []
    examples: dict[str, Any] = {}
    for model, signatures in served.items():
        for asked in signatures:
            bodies.append(_stfs_body(model, asked, is_default=model == default))
            answers.append(_outputs(asked.signature))
            if is_worth_showing(asked.inputs):
                data = {name: example(array) for name, array in asked.inputs.items()}
                value = {"model_name": model, "signature_name": asked.signature.name, "data": data}
                examples[f"{model}, {asked.signature.name}"] = {"value": value}
    body = body_of(any_of(bodies), examples)
    body["content"]["multipart/form-data"] = {"schema": _FORM, "encoding": dict.fromkeys(IMAGE_FIELDS, _FILES)}
    return {
        "operationId": "stfs_infer",
        "tags": ["STFS"],
        "parameters": HEADERS,
        "summary": "Run any model",
        "description": "`data` also takes tables: a list of row objects, a list of rows, or columns by name. A form "
        "sends image files to a model that takes images.",
        "requestBody": body,
        "responses": answered(any_of(answers)) | error_responses(stfs.status_of),
    }


def _stfs_body(model: str, asked: Asked, *, is_default: bool) -> Schema:
    signature = asked.signature
    forms: list[Schema] = [by_name(signature.inputs, {spec.name: tensor(spec) for spec in signature.inputs})]
    if len(signature.inputs) == 1:
        forms.append(tensor(signature.inputs[0]))
    if signature.columns:
        cells = {name: element(spec) for name, spec in signature.columns.items()}
        required = [name for name, spec in signature.columns.items() if not spec.nullable]
        row_object = {"type": "object", "properties": cells, "required": required}
        forms.append({"type": "array", "items": row_object, "minItems": 1})
    required = ["data"] if is_default else ["model_name", "data"]
    return {
        "title": f"{model}, {signature.name}",
        "type": "object",
        "properties": {
            "model_name": {"const": model},
            "model_version": {"type": ["integer", "string", "null"], "description": "The latest if not given."},
            "signature_name": {"const": signature.name},
            "data": any_of(forms),
        },
        "required": required if asked.is_default else [*required, "signature_name"],
    }


def tfserving_calls(signatures: list[Asked], listener: str) -> dict[str, dict[str, Any]]:
    """By verb: ``predict``, and ``classify`` and ``regress`` where a signature is meant for them."""
    methods = {asked.signature.method_name for asked in signatures}
    calls = {"predict": _predict(signatures, only_rows=listener == "kserve")}
    for verb, method in (("classify", CLASSIFY), ("regress", REGRESS)):
        if method in methods:
            calls[verb] = _examples(verb, [a.signature.name for a in signatures if a.signature.method_name == method])
    return calls


def _examples(verb: str, names: list[str]) -> dict[str, Any]:
    properties: dict[str, Schema] = {
        "signature_name": {"enum": names},
        "context": {"type": "object", "description": "Features that all the examples have."},
        "examples": {"type": "array", "minItems": 1, "items": {"type": "object", "description": "Features by name."}},
    }
    answer = object_of("", {"results": {"type": "array"}}, ["results"])
    return {
        "summary": f"{verb.capitalize()} examples",
        "tags": ["TensorFlow Serving"],
        "parameters": HEADERS,
        "requestBody": body_of(object_of("", properties, ["examples"]), {}),
        "responses": answered(answer) | error_responses(tfserving.status_of),
    }


def _predict(signatures: list[Asked], *, only_rows: bool) -> dict[str, Any]:
    """Rows (``instances``) or columns (``inputs``)."""
    bodies: list[Schema] = []
    examples: dict[str, Any] = {}
    for asked in signatures:
        signature, inputs = asked.signature, asked.inputs
        named = {"signature_name": {"const": signature.name}}
        always = [] if asked.is_default else ["signature_name"]
        said = {"signature_name": signature.name}
        shown = is_worth_showing(inputs)
        if takes_rows(signature):
            title = f"{signature.name}, rows"
            instances = {"type": "array", "minItems": 1, "items": any_of(_rows(signature))}
            bodies.append(object_of(title, {**named, "instances": instances}, [*always, "instances"]))
            if shown and signature.batchable:
                examples[title] = {"value": {**said, "instances": _example_rows(inputs)}}
        if only_rows:
            continue
        title = f"{signature.name}, columns"
        columns = any_of(_columns(signature))
        bodies.append(object_of(title, {**named, "inputs": columns}, [*always, "inputs"]))
        if shown:
            examples[title] = {"value": {**said, "inputs": {name: example(array) for name, array in inputs.items()}}}
    rows = object_of("rows", {"predictions": {"type": "array"}}, ["predictions"])
    columns_told = [
        tensor(asked.signature.outputs[0], is_answer=True)
        if len(asked.signature.outputs) == 1
        else _outputs(asked.signature)
        for asked in signatures
    ]
    whole = object_of("columns", {"outputs": any_of(columns_told)}, ["outputs"])
    return {
        "summary": "Predict",
        "tags": ["TensorFlow Serving"],
        "parameters": HEADERS,
        "requestBody": body_of(any_of(bodies), examples),
        "responses": answered(rows if only_rows else any_of([rows, whole])) | error_responses(tfserving.status_of),
    }


def _rows(signature: Signature) -> list[Schema]:
    forms: list[Schema] = []
    if len(signature.inputs) == 1:
        forms.append(row(signature.inputs[0]))
    forms.append(by_name(signature.inputs, {spec.name: row(spec) for spec in signature.inputs}, strict=True))
    return forms


def _columns(signature: Signature) -> list[Schema]:
    named = by_name(signature.inputs, {spec.name: tensor(spec) for spec in signature.inputs})
    return [tensor(signature.inputs[0]), named] if len(signature.inputs) == 1 else [named]


def _example_rows(inputs: Tensors) -> list[Any]:
    columns = {name: example(array) for name, array in inputs.items()}
    count = min(len(column) for column in columns.values())
    if len(columns) == 1:
        return list(next(iter(columns.values())))
    return [{name: column[index] for name, column in columns.items()} for index in range(count)]


def _outputs(signature: Signature) -> Schema:
    properties = {spec.name: tensor(spec, is_answer=True) for spec in signature.outputs}
    return object_of(signature.name, properties, list(properties))
