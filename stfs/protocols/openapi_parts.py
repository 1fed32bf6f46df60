"""What OpenAPI operations of several dialects have in common: headers, bodies, answers, errors.

Must not live here: how a tensor is described (``openapi_schema``), any one dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stfs import errors
from stfs.protocols.openapi_schema import Schema
from stfs.signature import Signature, Tensors

JSON = "application/json"

_WRONG: tuple[tuple[errors.RequestError, str], ...] = (
    (errors.InvalidRequest(""), "The request is wrong: malformed, mistyped or misshaped; the text says where."),
    (errors.ModelNotFound(""), "Nothing of that name or version is served here."),
    (errors.TooLarge(""), "The body is over the server's limit."),
    (errors.UnsupportedEncoding(""), "The body is compressed in a way that is not known here."),
    (errors.Overloaded(""), "Not now: the queue is full, or the model is loading. See Retry-After."),
    (errors.ShareExceeded(""), "You have more than your share of the queue (--client_share). See Retry-After."),
    (errors.DeadlineExceeded(""), "The request's deadline passed before its answer was ready."),
    (errors.ModelFailed(""), "The model raised, or returned what it did not promise."),
)


HEADERS = [
    {
        "name": "X-Request-Timeout-Ms",
        "in": "header",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
        "description": "Milliseconds after which the answer is of no use.",
    },
    {
        "name": "X-Request-Id",
        "in": "header",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "description": "What you call this request; it comes back with the answer and stands in the access log.",
    },
]


@dataclass(frozen=True, slots=True)
class Asked:
    """A signature and inputs that it answers, for its example."""

    signature: Signature
    inputs: Tensors
    is_default: bool


StatusOf = Callable[[errors.RequestError], int]


def error_responses(status_of: StatusOf) -> dict[str, Any]:
    """A response for each status that the dialect's table gives."""
    told: dict[str, list[str]] = {}
    for error, meaning in _WRONG:
        told.setdefault(str(status_of(error)), []).append(meaning)
    return {status: _failure(" ".join(meanings)) for status, meanings in sorted(told.items())}


def _failure(description: str) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}


def answered(schema: Schema, description: str = "The outputs.") -> dict[str, Any]:
    """A response 200 of JSON."""
    return {"200": {"description": description, "content": {JSON: {"schema": schema}}}}


def object_of(title: str, properties: Mapping[str, Schema], required: list[str]) -> Schema:
    """An object; the title, if any, is what a page calls it among others."""
    schema: Schema = {"type": "object", "properties": dict(properties), "required": required}
    return {"title": title, **schema} if title else schema


def any_of(schemas: list[Schema]) -> Schema:
    """Whatever fits one of them; that one itself where they are all the same."""
    distinct = [schema for index, schema in enumerate(schemas) if schema not in schemas[:index]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct} if distinct else {}


def body_of(schema: Schema, examples: Mapping[str, Any]) -> dict[str, Any]:
    """A body of JSON that must be sent; ``examples`` are Example Objects by name."""
    content: dict[str, Any] = {"schema": schema}
    if examples:
        content["examples"] = dict(examples)
    return {"required": True, "content": {JSON: content}}
