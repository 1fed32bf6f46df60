"""``GET /v1/models/NAME/gen_json`` and ``gen_client``: an example request, and a program that makes it.

Owns the addresses and their query parameters; programs are made in ``stfs.clients``. Whoever may infer may ask.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from aiohttp import web

from stfs import errors
from stfs.clients import languages
from stfs.clients.call import Call, json_body, make_call
from stfs.clients.render import render
from stfs.context import Context, Lease
from stfs.web.infer import error_response
from stfs.web.key import CONTEXT
from stfs.web.tfserving import TFSERVING

MAX_VERSION_DIGITS = 18
"""Longer numbers are no versions, which have 63 bits."""

_HEADERS = {"Cache-Control": "no-cache", "Vary": "Host", "X-Content-Type-Options": "nosniff"}
"""What a program says changes with what is served, and it quotes files, so no browser is to take it for a page."""


def add_routes(app: web.Application) -> None:
    """Both addresses. Needs :data:`CONTEXT` in the application."""
    app.add_routes(
        [
            web.get("/v1/models/{name:[^/]+}/gen_json", gen_json),
            web.get("/v1/models/{name:[^/]+}/gen_client", gen_client),
        ]
    )


async def gen_json(request: web.Request) -> web.Response:
    """The body of an example request for ``POST /``. Query parameters: ``version``, ``signature_name``."""
    try:
        _refuse_unknown(request, ("version", "signature_name"))
        text = await _on_thread(json_body, _call(request))
    except errors.RequestError as error:
        return _failed(request, error)
    return web.Response(text=text, content_type="application/json", headers=_HEADERS)


async def gen_client(request: web.Request) -> web.Response:
    """The source of a client in ``language``; without that parameter, the languages that there are, as JSON."""
    try:
        _refuse_unknown(request, ("language", "version", "signature_name"))
        call = _call(request)
        if "language" not in request.query:
            return web.Response(text=_languages(), content_type="application/json", headers=_HEADERS)
        language = languages.find(request.query["language"])
        text = await _on_thread(lambda call: render(language, call), call)
    except errors.RequestError as error:
        return _failed(request, error)
    kind = "application/json" if language.file.endswith(".json") else "text/plain"
    headers = {**_HEADERS, "Content-Disposition": f'inline; filename="{language.file}"'}
    return web.Response(text=text, content_type=kind, headers=headers)


def _refuse_unknown(request: web.Request, known: tuple[str, ...]) -> None:
    for name in request.query:
        if name not in known:
            raise errors.InvalidRequest(f"unknown query parameter {name[:100]!r}; there are {', '.join(known)}")


async def _on_thread(work: Callable[[Call], str], call: Call) -> str:
    """Thousands of inputs, or millions of values, take too long for the loop."""
    return await asyncio.get_running_loop().run_in_executor(None, work, call)


def _call(request: web.Request) -> Call:
    """What is asked for, on the server as this client addresses it. Raises :class:`stfs.errors.RequestError`."""
    context: Context = request.app[CONTEXT]
    version = _version(request.query.get("version", ""))
    with context.registry.acquire(request.match_info["name"], version) as handle:
        model = handle.model
        signature = model.signature(request.query.get("signature_name"))
        return make_call(
            f"{request.scheme}://{request.host}",
            handle.name,
            handle.version,
            signature,
            model.platform,
            is_default=signature.name == model.default_signature,
            auth=context.config.enable_auth,
        )


def _version(text: str) -> int | None:
    """``None`` for the latest."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_VERSION_DIGITS):
        raise errors.InvalidRequest(f"version must be a whole number, not {text[:100]!r}")
    return int(text)


def _languages() -> str:
    told = [{"name": one.name, "aliases": one.aliases, "file": one.file} for one in languages.LANGUAGES]
    return json.dumps({"languages": told}, indent=1)


def _failed(request: web.Request, error: errors.RequestError) -> web.Response:
    return error_response(TFSERVING, error, Lease(request.app[CONTEXT]))
