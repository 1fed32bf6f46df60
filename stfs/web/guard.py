"""What stands before every handler: credentials, cross-origin headers, and errors of aiohttp's own in our form."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from stfs.carry import credentials_fit
from stfs.web.key import CONTEXT

log = logging.getLogger("stfs.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OPEN_PATHS = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
"""Probes ask these; they tell nothing and need no credentials."""

NEED_AUTH = "Need basic auth to request the resources"


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check credentials, call the handler, add cross-origin headers."""
    config = request.app[CONTEXT].config
    if request.method == "OPTIONS" and config.enable_cors and "Access-Control-Request-Method" in request.headers:
        response: web.StreamResponse = web.Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, OPTIONS"
        response.headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "*")
    elif (
        config.enable_auth
        and request.path not in OPEN_PATHS
        and not credentials_fit(config, request.headers.get("Authorization"))
    ):
        response = web.Response(
            status=401, text=NEED_AUTH, headers={"WWW-Authenticate": 'Basic realm="stfs", charset="UTF-8"'}
        )
    else:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = _in_our_form(request, error)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            response = _error(500, "the server failed on this request; its log has the details")
    if config.enable_cors:
        response.headers["Access-Control-Allow-Origin"] = "*"
    return response


def _in_our_form(request: web.Request, error: web.HTTPException) -> web.Response:
    """Aiohttp's own refusals (no such page, wrong method) as ``{"error": ...}``."""
    text = f"{request.method} {request.path}: {error.reason}"
    if isinstance(error, web.HTTPMethodNotAllowed):
        text += f"; allowed here: {', '.join(sorted(error.allowed_methods))}"
    response = _error(error.status, text)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _error(status: int, text: str) -> web.Response:
    return web.Response(body=json.dumps({"error": text}).encode(), status=status, content_type="application/json")
