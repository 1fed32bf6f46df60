"""The Open Inference Protocol over HTTP, with Triton's extensions: everything under ``/v2``.

Owns the addresses and what carries each of them. Bodies are ``stfs.protocols.oip``'s, the repository is
``stfs.repository``'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from stfs import __version__, errors
from stfs.context import Lease
from stfs.oip_served import told_config, told_metadata, told_statistics
from stfs.protocols import oip, oip_metadata
from stfs.protocols.request import Payload, parse_version
from stfs.signature import Signature, Tensors
from stfs.web.infer import Dialect, Encode, answer, error_response, read_body
from stfs.web.key import CONTEXT

V2_INFER = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")
"""The address of an inference, as it stands in the request (not decoded)."""

MAX_CONTROL_BYTES = 1 << 20
"""A request to the repository is no larger."""


@lru_cache(maxsize=1024)  # clients of one model send few lengths; the hot path makes no dialect a request
def dialect(length: bytes | None) -> Dialect | None:
    """The protocol for bodies whose JSON part is as long as the value of :data:`stfs.protocols.oip.LENGTH_HEADER` says.

    ``None`` for a value that is no length.
    """
    if length is not None and not (length.isdigit() and len(length) <= 12):
        return None
    json_bytes = None if length is None else int(length)

    def decode(body: bytes | memoryview, lease: Lease) -> tuple[Signature, Tensors, Encode]:
        asked = oip.decode(body, lease, json_bytes)
        served = lease.served
        assert served is not None, "a decoded request holds its model"
        name, version = served.name, served.version
        if asked.timeout_us:
            lease.timeout_s = asked.timeout_us / 1e6
        lease.priority = asked.priority

        def encode(outputs: Tensors) -> bytes | Payload:
            return oip.encode(asked, outputs, name, version)

        return asked.signature, asked.inputs, encode

    return Dialect("oip", decode, oip.encode_error, oip.status_of, looks=json_bytes is not None)


def _plain() -> Dialect:
    made = dialect(None)
    assert made is not None, "no length is not a wrong one"
    return made


OIP = _plain()


async def v2(request: web.Request) -> web.StreamResponse:
    """Everything under ``/v2``. Errors of every kind are ``{"error": ...}``."""
    path = request.rel_url.raw_path
    method = "GET" if request.method == "HEAD" else request.method
    for pattern, methods in _ADDRESSES:
        if (match := pattern.fullmatch(path)) is None:
            continue
        if method not in methods:
            allowed = ", ".join(methods)
            response = _json({"error": f"{request.method} {path}: use {allowed}"}, 405)
            response.headers["Allow"] = allowed
            return response
        named = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
        lease = Lease(request.app[CONTEXT], named.get("name"))
        try:
            return await methods[method](request, lease, named)
        except errors.RequestError as error:
            return error_response(OIP, error, lease)
        finally:
            lease.release()
    return _json({"error": f"{request.method} {path}: no such address"}, 404)


Handler = Callable[[web.Request, Lease, Mapping[str, str]], Awaitable[web.StreamResponse]]


async def _infer(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    context = request.app[CONTEXT]
    length = request.headers.get(oip.LENGTH_HEADER)
    try:
        lease = Lease(context, named["name"], _version(named))
        if (spoken := dialect(None if length is None else length.encode())) is None:
            raise errors.InvalidRequest(f"{oip.LENGTH_HEADER} must be a number of bytes, not {length!r}")
    except errors.InvalidRequest as error:
        return await answer(request, OIP, Lease(context, named["name"]), error)
    return await answer(request, spoken, lease)


def _version(named: Mapping[str, str]) -> int | None:
    return parse_version(named["version"], "version") if "version" in named else None


async def _live(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    return _health(request, {"live": True}, True)


async def _ready(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    ready = request.app[CONTEXT].ready()
    return _health(request, {"ready": ready}, ready)


async def _model_ready(request: web.Request, lease: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    version = _version(named)
    try:
        lease(None, version, None)
        ready = True
    except (errors.NotFound, errors.Unavailable):
        ready = False
    return _health(request, {"name": named["name"], "ready": ready}, ready)


def _health(request: web.Request, told: Mapping[str, Any], good: bool) -> web.Response:
    """The status is the answer, and the body empty, as Triton's is. KServe's client wants one, and says ``Accept``."""
    status = 200 if good else 400
    return _json(told, status) if "Accept" in request.headers else web.Response(status=status)


async def _server_metadata(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    return _json(oip_metadata.server_metadata("stfs", __version__))


async def _model_metadata(request: web.Request, lease: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    lease(None, _version(named), None)
    return _json(told_metadata(request.app[CONTEXT], lease))


async def _model_config(request: web.Request, lease: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    lease(None, _version(named), None)
    return _json(told_config(request.app[CONTEXT], lease))


async def _model_statistics(request: web.Request, lease: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    version = _version(named)
    lease(None, version, None)
    return _json(told_statistics(request.app[CONTEXT], named["name"], version))


async def _statistics(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    return _json(told_statistics(request.app[CONTEXT], None, None))


async def _index(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    ready = (await _control(request)).get("ready", False)
    if not isinstance(ready, bool):
        raise errors.InvalidRequest('"ready" must be true or false')
    return _json(
        [
            {"name": entry.name}
            | ({} if entry.version is None else {"version": str(entry.version)})
            | {"state": entry.state}
            | ({"reason": entry.reason} if entry.reason else {})
            for entry in request.app[CONTEXT].repository.index(ready=ready)
        ]
    )


async def _load(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    parameters = (await _control(request)).get("parameters", {})
    if not isinstance(parameters, dict):
        raise errors.InvalidRequest('"parameters" must be an object')
    if (unknown := next((key for key in parameters if key != "config"), None)) is not None:
        why = "files cannot be sent, models are read from where they lie" if unknown.startswith("file:") else "unknown"
        raise errors.InvalidRequest(f'the parameter "{unknown[:60]}": {why}; "config" can be set')
    override = parameters.get("config")
    if not isinstance(override, str | None):
        raise errors.InvalidRequest('the parameter "config" must be a string that holds JSON')
    await request.app[CONTEXT].repository.load(named["name"], override)
    return web.Response()


async def _unload(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    await _control(request)  # unload_dependents: no model here depends on another
    await request.app[CONTEXT].repository.unload(named["name"])
    return web.Response()


async def _control(request: web.Request) -> dict[str, Any]:
    """The body of a request to the repository: a small JSON object, or nothing."""
    limit_bytes = min(MAX_CONTROL_BYTES, request.app[CONTEXT].config.max_request_bytes)
    body = bytes(await read_body(request, limit_bytes, None))
    if not body.strip():
        return {}
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidRequest(f"the body is not JSON: {error}") from None
    if not isinstance(told, dict):
        raise errors.InvalidRequest("the body must be a JSON object")
    return told


async def _none(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    """The regions of shared memory, of which there are none; to forget them all is done at once."""
    return _json([])


async def _not_here(request: web.Request, _: Lease, named: Mapping[str, str]) -> web.StreamResponse:
    what = re.sub(r"^/v2/(?:models/[^/]+/)?|/.*$", "", request.rel_url.raw_path)
    told = {
        "trace": "tracing settings are not supported here: send a traceparent header",
        "logging": "logging settings cannot be changed over the wire: start the server with --log_level",
    }.get(what, "shared memory is not supported here: send tensors in the request")
    return _json({"error": told}, 501)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), status=status, content_type="application/json")


_MODEL = r"/v2/models/(?P<name>[^/]+)"
_VERSION = r"(?:/versions/(?P<version>[^/]+))?"
_REPOSITORY = r"/v2/repository(?:/[^/]+)?"
_MEMORY = r"/v2/(?:system|cuda)sharedmemory"

_BY_ADDRESS: dict[str, dict[str, Handler]] = {
    V2_INFER.pattern: {"POST": _infer},
    r"/v2/?": {"GET": _server_metadata},
    r"/v2/health/live": {"GET": _live},
    r"/v2/health/ready": {"GET": _ready},
    r"/v2/models/stats": {"GET": _statistics},
    _MODEL + _VERSION: {"GET": _model_metadata},
    _MODEL + _VERSION + "/ready": {"GET": _model_ready},
    _MODEL + _VERSION + "/config": {"GET": _model_config},
    _MODEL + _VERSION + "/stats": {"GET": _model_statistics},
    _REPOSITORY + "/index": {"POST": _index},
    _REPOSITORY + r"/models/(?P<name>[^/]+)/load": {"POST": _load},
    _REPOSITORY + r"/models/(?P<name>[^/]+)/unload": {"POST": _unload},
    _MEMORY + r"(?:/region/[^/]+)?/status": {"GET": _none},
    _MEMORY + r"(?:/region/[^/]+)?/unregister": {"POST": _none},
    _MEMORY + r"/region/[^/]+/register": {"POST": _not_here},
    r"/v2/(?:models/[^/]+/)?trace/setting": {"GET": _not_here, "POST": _not_here},
    r"/v2/logging": {"GET": _not_here, "POST": _not_here},
}

_ADDRESSES = [(re.compile(pattern), methods) for pattern, methods in _BY_ADDRESS.items()]
