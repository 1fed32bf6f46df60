"""The HTTP interface as an OpenAPI 3.1 document, made from the signatures that are served.

Source: https://spec.openapis.org/oas/v3.1.1. A pure function of values; which models are served, and under which
address the client knows the server, is the caller's to say.

Must not live here: how tensors (``openapi_schema``), inference (``openapi_calls``) and the other calls
(``openapi_about``) are described.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from stfs.protocols.openapi_about import path_items
from stfs.protocols.openapi_calls import stfs_call, tfserving_calls
from stfs.protocols.openapi_oip import oip_call
from stfs.protocols.openapi_parts import Asked
from stfs.signature import Signature, Tensors

OPENAPI = "3.1.0"
"""What most tools know; 3.1.1 clarifies its prose and changes no meaning."""

_ERROR = {
    "type": "object",
    "description": "What went wrong, in one line.",
    "properties": {"error": {"type": "string"}, "detail": {"type": "string"}},
    "required": ["error"],
}

_TAGS = {
    "STFS": "Names as keys, any form of table.",
    "TensorFlow Serving": "The REST API of TensorFlow Serving: rows or columns.",
    "Open Inference Protocol": "Version 2 (KServe), with Triton's extensions.",
    "Server": "Health, metrics, pages.",
}


@dataclass(frozen=True, slots=True)
class Served:
    """One version of a model; ``labels`` are the version's. Two of them are equal if they are described alike."""

    name: str
    version: int
    labels: tuple[str, ...]
    default_signature: str
    signatures: Mapping[str, Signature]

    def asked(self, example: Callable[[Signature], Tensors]) -> list[Asked]:
        """The signatures with an example each, the default first."""
        first = self.default_signature
        names = [first, *(name for name in sorted(self.signatures) if name != first)]
        return [Asked(self.signatures[name], example(self.signatures[name]), name == first) for name in names]


@dataclass(frozen=True, slots=True)
class Server:
    """What else the document depends on.

    ``default_model`` is the one that a body of the STFS dialect need not name. ``listener`` is ``stfs``, ``tfserving``
    or ``kserve``: whose answers a few addresses give. ``metrics_path`` is a further address of metrics, or empty.
    ``open_paths`` need no credentials where the others do; ``None`` if no path does.
    """

    version: str
    default_model: str
    listener: str = "stfs"
    metrics_path: str = ""
    open_paths: frozenset[str] | None = None


def document(served: Sequence[Served], example: Callable[[Signature], Tensors], server: Server) -> dict[str, Any]:
    """Everything but ``servers``. Each model's versions stand in ascending order.

    ``example`` gives inputs that a signature answers.
    """
    latest = {one.name: one for one in served}
    asked = {(one.name, one.version): one.asked(example) for one in served}
    paths: dict[str, Any] = {"/": {"get": _text("page", "What is served, for people", "text/html")}}
    if latest:
        paths["/"]["post"] = stfs_call(
            {name: asked[name, one.version] for name, one in latest.items()}, server.default_model
        )
    ids = _Ids()
    for one in served:
        calls = asked[one.name, one.version]
        name = quote(one.name, safe="")
        whiches = ["", f"/versions/{one.version}"] if one is latest[one.name] else [f"/versions/{one.version}"]
        labels = [f"/labels/{quote(label, safe='')}" for label in one.labels]
        by_verb, infer = tfserving_calls(calls, server.listener), oip_call(calls[0])
        for which in (*whiches, *labels):
            for verb, call in by_verb.items():
                paths[f"/v1/models/{name}{which}:{verb}"] = _post(call, ids, f"tf_{verb}_{name}{which}")
        for which in whiches:
            paths[f"/v2/models/{name}{which}/infer"] = _post(infer, ids, f"oip_infer_{name}{which}")
    by_label = [(quote(one.name, safe=""), quote(label, safe="")) for one in served for label in one.labels]
    paths |= path_items(list(latest), [one.version for one in served], server.listener, by_label)
    if server.metrics_path:
        paths[server.metrics_path] = {"get": _text("tf_metrics", "Metrics by TensorFlow Serving's names", "text/plain")}
    told: dict[str, Any] = {
        "openapi": OPENAPI,
        "info": {
            "title": "stfs",
            "version": server.version,
            "summary": "Trained models, served",
            "description": "Every model answers in three dialects: STFS, TensorFlow Serving's REST API and the Open "
            "Inference Protocol. In all of them a float that is no number is written `NaN`, `Infinity` or "
            "`-Infinity`, which those protocols' own servers do, though JSON does not know it.",
        },
        "tags": [
            {"name": name, "description": text}
            for name, text in _TAGS.items()
            if name != "KServe" or server.listener == "kserve"
        ],
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }
    if server.open_paths is not None:
        _ask_for_credentials(told, server.open_paths)
    return told


def _post(call: dict[str, Any], ids: _Ids, wanted_id: str) -> dict[str, Any]:
    return {"post": {"operationId": ids.give(wanted_id), **call}}


def _text(operation_id: str, summary: str, content_type: str) -> dict[str, Any]:
    answer = {"200": {"description": "Text.", "content": {content_type: {"schema": {"type": "string"}}}}}
    return {"operationId": operation_id, "tags": ["Server"], "summary": summary, "responses": answer}


def _ask_for_credentials(told: dict[str, Any], open_paths: Container[str]) -> None:
    """In place: every call needs them but those of ``open_paths``."""
    told["security"] = [{"basic": []}, {"bearer": []}]
    told["components"] |= {
        "securitySchemes": {name: {"type": "http", "scheme": name} for name in ("basic", "bearer")},
        "responses": {
            "Unauthorized": {
                "description": "The credentials are missing or wrong.",
                "headers": {"WWW-Authenticate": {"schema": {"type": "string"}}},
                "content": {"text/plain": {"schema": {"type": "string"}}},
            },
            "Forbidden": _refusal("The user has not the scope that this needs."),
            "TooManyTries": _refusal("Too many wrong credentials have come from the client's address; wait.")
            | {"headers": {"Retry-After": {"schema": {"type": "integer"}}}},
        },
    }
    for path, item in told["paths"].items():
        for operation in item.values():
            if path in open_paths:
                operation["security"] = []
            else:
                for status, name in (("401", "Unauthorized"), ("403", "Forbidden"), ("429", "TooManyTries")):
                    operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}


def _refusal(description: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": description, "content": content}


@dataclass(slots=True)
class _Ids:
    """Operation ids for generated clients: letters, digits and underscores, each once."""

    taken: set[str] = field(default_factory=set)

    def give(self, wanted: str) -> str:
        """``wanted``, or as near to it as can be."""
        base = re.sub(r"\W+", "_", wanted, flags=re.ASCII)
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name
