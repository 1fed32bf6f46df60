"""Everything under ``/v1``: TensorFlow Serving's REST API, and what it means on a listener of another dialect.

Owns the addresses and what carries each of them; bodies are made and read in ``stfs.protocols``. The listener's dialect
(the option ``dialect``) decides ``GET /v1/models`` and ``GET /v1/models/NAME``, for which three systems have three
answers, and on ``kserve`` the form of predictions. All else is the same on every listener.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from stfs import errors
from stfs.context import Context, Lease
from stfs.protocols import tfserving, tfserving_examples, tfserving_results, tfserving_status
from stfs.signature import Signature, Tensors
from stfs.web import kserve1, models
from stfs.web.infer import Dialect, Encode, answer, error_response
from stfs.web.key import CONTEXT

_WHICH = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
PREDICT_PATH = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_WHICH}:(?P<verb>predict|classify|regress)", re.IGNORECASE | re.ASCII
)
"""The addresses that take a POST, whatever their case, as they stand in the request (not decoded)."""

STATUS_PATH = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_WHICH}(?P<metadata>/metadata)?", re.IGNORECASE | re.ASCII)
"""The addresses that take a GET. Without a name they are not malformed, in TensorFlow Serving's eyes."""

_VERSION_END = 1 << 63
_VERSION_DIGITS = 19


class _VersionTooLargeError(Exception):
    """No such number; TensorFlow Serving's answer to it has an empty body."""


def _decode_predict(body: bytes | memoryview, lease: Lease) -> tuple[Signature, Tensors, Encode]:
    signature, inputs, rows = tfserving.decode_predict(body, lease)
    return signature, inputs, lambda outputs: tfserving.encode_predict(outputs, rows=rows)


def _decode_classify(body: bytes | memoryview, lease: Lease) -> tuple[Signature, Tensors, Encode]:
    examples = tfserving_examples.decode_examples(body, "classify")
    signature = tfserving_results.classify_signature(lease, examples.signature_name)
    rows = len(examples.serialized)
    inputs = {tfserving_results.INPUTS: examples.serialized}
    return signature, inputs, lambda outputs: tfserving_results.encode_classifications(outputs, rows)


def _decode_regress(body: bytes | memoryview, lease: Lease) -> tuple[Signature, Tensors, Encode]:
    examples = tfserving_examples.decode_examples(body, "regress")
    signature = tfserving_results.regress_signature(lease, examples.signature_name)
    rows = len(examples.serialized)
    inputs = {tfserving_results.INPUTS: examples.serialized}
    return signature, inputs, lambda outputs: tfserving_results.encode_regressions(outputs, rows)


TFSERVING = Dialect("tfserving", _decode_predict, tfserving.encode_error, tfserving.status_of)
_BY_VERB = {
    "predict": TFSERVING,
    "classify": Dialect("tfserving", _decode_classify, tfserving.encode_error, tfserving.status_of),
    "regress": Dialect("tfserving", _decode_regress, tfserving.encode_error, tfserving.status_of),
}


def dialect_of(listener: str, verb: str) -> Dialect:
    """What a POST with that verb (in any case) speaks on a listener of that dialect."""
    verb = verb.lower()
    return kserve1.KSERVE if listener == "kserve" and verb == "predict" else _BY_VERB[verb]


async def v1(request: web.Request) -> web.StreamResponse:
    """Answer any request under ``/v1``."""
    context, path = request.app[CONTEXT], request.rel_url.raw_path
    listener = context.config.dialect
    try:
        if request.method == "POST" and (match := PREDICT_PATH.fullmatch(path)) is not None:
            return await _infer(request, dialect_of(listener, match["verb"]), match)
        if request.method in ("GET", "HEAD") and (match := STATUS_PATH.fullmatch(path)) is not None:
            return _tell(context, match)
        if listener == "kserve" and request.method == "POST" and kserve1.EXPLAIN_PATH.fullmatch(path) is not None:
            return kserve1.explain()
        raise errors.InvalidRequest(f"Malformed request: {request.method} {path}")
    except _VersionTooLargeError:
        return web.Response(status=400, content_type="application/json")
    except errors.RequestError as error:
        dialect = kserve1.KSERVE if listener == "kserve" else TFSERVING
        return error_response(dialect, error, Lease(context))


async def _infer(request: web.Request, dialect: Dialect, match: re.Match[str]) -> web.Response:
    context = request.app[CONTEXT]
    name = unquote(match["name"])
    try:
        version = _version(context, name, match)
    except errors.RequestError as error:
        return await answer(request, dialect, Lease(context, name), error)
    return await answer(request, dialect, Lease(context, name, version))


def _tell(context: Context, match: re.Match[str]) -> web.Response:
    """What a GET asks for: the list of models, or one model's detail, status or metadata."""
    listener = context.config.dialect
    is_whole = match["version"] is None and match["label"] is None and match["metadata"] is None
    if match["name"] is None:
        if listener == "tfserving" or not is_whole:
            raise errors.InvalidRequest("Missing model name in request.")
        return kserve1.list_models(context) if listener == "kserve" else models.list_models(context)
    name = unquote(match["name"])
    if is_whole and listener == "kserve":
        return kserve1.ready(context, name)
    version = _version(context, name, match)
    if match["metadata"] is not None:
        return _metadata(context, name, version)
    return _status(context, name, version, detailed=is_whole and listener == "stfs")


def _version(context: Context, name: str, match: re.Match[str]) -> int | None:
    """The version that the address names, by number or label; ``None`` for the latest.

    Raises :class:`_VersionTooLargeError`, and :class:`InvalidRequest` for a label that the model has not, or that of a
    model that is not here.
    """
    if match["version"] is not None:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > _VERSION_DIGITS or int(digits) >= _VERSION_END:
            raise _VersionTooLargeError
        return int(digits)
    if match["label"] is None:
        return None
    label = unquote(match["label"])
    version = context.registry.labels(name).get(label)
    if version is None:
        raise errors.InvalidRequest(f"Unrecognized servable version label: {label}")
    return version


def _status(context: Context, name: str, version: int | None, *, detailed: bool) -> web.Response:
    status = next((s for s in context.manager.status() if s.name == name), None)
    found = [] if status is None else [v for v in status.versions if version in (None, v.version)]
    if status is not None and detailed:
        return _json(models.detail(context, status))
    if not found:
        which = "any versions" if version is None else f"version {version}"
        raise errors.NotFound(f"Could not find {which} of model {name}", name, version)
    return _json(tfserving_status.encode_status([(v.version, v.state.name, v.error) for v in found]))


def _metadata(context: Context, name: str, version: int | None) -> web.Response:
    with context.registry.acquire(name, version) as handle:
        body = tfserving_status.encode_metadata(handle.name, handle.version, handle.model.signatures)
    return web.Response(body=body, content_type="application/json")


def _json(value: Any) -> web.Response:
    return web.Response(body=json.dumps(value, indent=1).encode(), content_type="application/json")
