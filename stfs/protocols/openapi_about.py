"""The calls that tell of models and of the server, and those that manage models, as OpenAPI path items: a table.

Must not live here: calls that run a model (``openapi_calls``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stfs.clients import languages
from stfs.errors import NotFound, RequestError
from stfs.protocols import oip, stfs, tfserving
from stfs.protocols.openapi_parts import JSON, StatusOf, error_responses

_STFS, _TFSERVING, _OIP, _SERVER = "STFS", "TensorFlow Serving", "Open Inference Protocol", "Server"

_OBJECT = {"type": "object"}
_LIST = {"type": "array"}
_EXTENSION = {"type": "object", "properties": {"parameters": {"type": "object"}}}


@dataclass(frozen=True, slots=True)
class _Call:
    """``answer`` is a schema for JSON, a content type for text, ``None`` for an empty body.

    ``or_answer`` is another that it may have. ``asks`` is the schema of a body that may be left out, unless
    ``must_ask``; ``query`` has schemas of parameters by name; ``fails`` gives statuses of errors, told as
    ``{"error"}``.
    """

    id: str
    tag: str
    summary: str
    answer: dict[str, Any] | str | None = None
    method: str = "get"
    asks: dict[str, Any] | None = None
    fails: StatusOf | None = None
    not_ready: int | None = None
    or_answer: dict[str, Any] | None = None
    query: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    must_ask: bool = False


_STATUS = {
    "type": "object",
    "properties": {"model_version_status": {"type": "array", "items": _OBJECT}},
    "required": ["model_version_status"],
}
_TENSORS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        },
        "required": ["name", "datatype", "shape"],
    },
}
_METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "versions": {"type": "array", "items": {"type": "string"}},
        "platform": {"type": "string"},
        "inputs": _TENSORS,
        "outputs": _TENSORS,
    },
    "required": ["name", "platform", "inputs", "outputs"],
}
_STATISTICS = {
    "type": "object",
    "properties": {"model_stats": {"type": "array", "items": _OBJECT}},
    "required": ["model_stats"],
}

_LABELS = {
    "type": "object",
    "properties": {"labels": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}},
    "required": ["labels"],
}
_WHICH = {
    "version": {"type": "string", "pattern": "^([0-9]{1,18})?$", "description": "The latest if not given."},
    "signature_name": {"type": "string", "description": "The model's default if not given."},
}
_LANGUAGES = [name for one in languages.LANGUAGES for name in (one.name, *one.aliases)]

STREAM = "text/event-stream"
"""Of an answer that does not end by itself."""

_M, _V = "/models/{model}", "/versions/{version}"


def _label_status(error: RequestError) -> int:
    return 404 if isinstance(error, NotFound) else stfs.status_of(error)


CALLS: dict[str, _Call] = {
    "/health": _Call("health", _SERVER, "The process lives", "text/plain"),
    "/ready": _Call("ready", _SERVER, "Requests should be sent here", "text/plain", not_ready=503),
    "/metrics": _Call("metrics", _SERVER, "Metrics in Prometheus' text format", "text/plain"),
    "/openapi.json": _Call("openapi", _SERVER, "This document", _OBJECT),
    "/docs": _Call("docs", _SERVER, "This document as a page", "text/html"),
    "/v1/models": _Call("list_models", _STFS, "Details of every model", _LIST),
    "/live": _Call(
        "live",
        _SERVER,
        "The dashboard's numbers, each second",
        STREAM,
        fails=lambda error: 404 if isinstance(error, NotFound) else 503,
        query={"model": {"type": "string", "description": "The whole server if not given."}},
    ),
    "/dashboard": _Call("dashboard", _SERVER, "The page of the whole server", "text/html"),
    "/dashboard" + _M: _Call("model_page", _SERVER, "The page of a model", "text/html", fails=lambda _: 404),
    "/dashboard" + _M + "/labels": _Call(
        "label", _SERVER, "Replace a model's labels", _LABELS, "post", _LABELS, _label_status, must_ask=True
    ),
    "/json_inference": _Call("json_page", _SERVER, "The page that sends JSON", "text/html"),
    "/image_inference": _Call("image_page", _SERVER, "The page that sends images", "text/html"),
    "/generate_clients": _Call("clients_page", _SERVER, "The page of client programs", "text/html"),
    "/v1" + _M + "/gen_json": _Call(
        "gen_json", _STFS, "An example body for POST /", _OBJECT, fails=tfserving.status_of, query=_WHICH
    ),
    "/v1" + _M + "/gen_client": _Call(
        "gen_client",
        _STFS,
        "A program that calls the model; without a language, those that there are",
        "text/plain",
        fails=tfserving.status_of,
        or_answer=_OBJECT,
        query={"language": {"enum": _LANGUAGES}, **_WHICH},
    ),
    "/v1" + _M: _Call("tf_status", _TFSERVING, "States of the versions", _STATUS, fails=tfserving.status_of),
    "/v1" + _M + _V: _Call("tf_version_status", _TFSERVING, "State", _STATUS, fails=tfserving.status_of),
    "/v1" + _M + "/metadata": _Call("tf_metadata", _TFSERVING, "Signatures", _OBJECT, fails=tfserving.status_of),
    "/v1" + _M + _V + "/metadata": _Call(
        "tf_version_metadata", _TFSERVING, "Signatures of one version", _OBJECT, fails=tfserving.status_of
    ),
    "/v2": _Call("oip_server", _OIP, "Name, version and extensions of the server", _OBJECT),
    "/v2/health/live": _Call("oip_live", _OIP, "The process lives"),
    "/v2/health/ready": _Call("oip_ready", _OIP, "Requests should be sent here", not_ready=400),
    "/v2" + _M: _Call("oip_metadata", _OIP, "Inputs and outputs", _METADATA, fails=oip.status_of),
    "/v2" + _M + _V: _Call(
        "oip_version_metadata", _OIP, "Inputs and outputs of one version", _METADATA, fails=oip.status_of
    ),
    "/v2" + _M + "/ready": _Call("oip_model_ready", _OIP, "It serves", not_ready=400),
    "/v2" + _M + _V + "/ready": _Call("oip_version_ready", _OIP, "That version serves", not_ready=400),
    "/v2" + _M + "/config": _Call("oip_config", _OIP, "Triton's configuration", _OBJECT, fails=oip.status_of),
    "/v2" + _M + _V + "/config": _Call(
        "oip_version_config", _OIP, "Triton's configuration of one version", _OBJECT, fails=oip.status_of
    ),
    "/v2/models/stats": _Call("oip_statistics", _OIP, "Statistics of every model", _STATISTICS),
    "/v2" + _M + "/stats": _Call("oip_model_statistics", _OIP, "Statistics", _STATISTICS, fails=oip.status_of),
    "/v2" + _M + _V + "/stats": _Call(
        "oip_version_statistics", _OIP, "Statistics of one version", _STATISTICS, fails=oip.status_of
    ),
    "/v2/repository/index": _Call(
        "oip_index",
        _OIP,
        "The models that could be loaded, and their states",
        _LIST,
        "post",
        {"type": "object", "properties": {"ready": {"type": "boolean"}}},
        oip.status_of,
    ),
    "/v2/repository" + _M + "/load": _Call(
        "oip_load", _OIP, "Load a model", None, "post", _EXTENSION, fails=oip.status_of
    ),
    "/v2/repository" + _M + "/unload": _Call(
        "oip_unload", _OIP, "Unload a model", None, "post", _EXTENSION, fails=oip.status_of
    ),
}
"""Every address that is not a model's own, ``{model}`` and ``{version}`` standing for names."""


_ON_LISTENER: dict[str, dict[str, _Call]] = {
    "stfs": {},
    "tfserving": {"/v1/models": _Call("list_models", _TFSERVING, "Refused: it needs a name", fails=lambda _: 400)},
    "kserve": {
        "/v1/models": _Call(
            "list_models",
            _TFSERVING,
            "Names of the models",
            {"type": "object", "properties": {"models": {"type": "array"}}, "required": ["models"]},
        ),
        "/v1" + _M: _Call(
            "kserve_ready",
            _TFSERVING,
            "It is ready",
            {"type": "object", "properties": {"name": {"type": "string"}, "ready": {"const": True}}},
            fails=tfserving.status_of,
        ),
    },
}
"""What listeners of the three dialects answer differently."""


def path_items(
    models: Sequence[str], versions: Sequence[int], listener: str, labels: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """A path item for each of :data:`CALLS`; the parameters allow what is served.

    ``labels`` are pairs of a model's name and a label of it, both as they stand in an address.
    """
    names: dict[str, Any] = {"type": "string", "enum": list(models)} if models else {"type": "string"}
    numbers: dict[str, Any] = {"type": "string", "pattern": "^[0-9]{1,18}$"}
    if versions:
        numbers = {"type": "string", "enum": sorted({str(number) for number in versions})}
    calls = CALLS | _ON_LISTENER[listener]
    schemas = {"model": names, "version": numbers}
    for number, (model, label) in enumerate(labels):
        path = f"/v1/models/{model}/labels/{label}"
        fails = tfserving.status_of
        calls[path] = _Call(f"tf_label_status_{number}", _TFSERVING, "State by label", _STATUS, fails=fails)
        calls[path + "/metadata"] = _Call(
            f"tf_label_metadata_{number}", _TFSERVING, "Signatures by label", _OBJECT, fails=fails
        )
    return {path: {call.method: _operation(path, call, schemas)} for path, call in calls.items()}


def _operation(path: str, call: _Call, schemas: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {"200": _answer(call.answer)}
    if call.or_answer is not None:
        responses["200"]["content"][JSON] = {"schema": call.or_answer}
    if call.not_ready is not None:
        responses[str(call.not_ready)] = {**_answer(call.answer), "description": "Not so."}
    if call.fails is not None:
        responses |= error_responses(call.fails)
    told: dict[str, Any] = {"operationId": call.id, "tags": [call.tag], "summary": call.summary, "responses": responses}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name, schema in schemas.items()
        if f"{{{name}}}" in path
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in call.query.items()]
    if parameters:
        told["parameters"] = parameters
    if call.asks is not None:
        told["requestBody"] = {"required": call.must_ask, "content": {JSON: {"schema": call.asks}}}
    return told


def _answer(answer: dict[str, Any] | str | None) -> dict[str, Any]:
    if answer is None:
        return {"description": "Yes; the body is empty."}
    if isinstance(answer, str):
        return {"description": "Yes.", "content": {answer: {"schema": {"type": "string"}}}}
    return {"description": "What is asked for.", "content": {JSON: {"schema": answer}}}
