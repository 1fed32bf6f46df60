"""What stands before every handler: credentials, pages of other origins, and errors of aiohttp's own in our form.

Who may do what is ``stfs.access``'s to say.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from stfs.access.door import Refusal, Why
from stfs.access.origins import Origins
from stfs.access.scopes import EVERY_SCOPE, Scope, http_scope
from stfs.carry import called
from stfs.config import ServerConfig
from stfs.context import Context
from stfs.web.key import CONTEXT
from stfs.web.request_ids import request_id

log = logging.getLogger("stfs.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHALLENGES = ('Basic realm="stfs", charset="UTF-8"', 'Bearer realm="stfs"')

FOREIGN = (
    "pages of other origins may not change what is served: list this one in --cors_origins, "
    "or send the request from no browser"
)

_CHANGES_NOTHING = ("GET", "HEAD", "OPTIONS")


ORIGINS = web.AppKey("stfs_origins", Origins)


def prepare(app: web.Application, config: ServerConfig) -> None:
    """Give the application what :data:`guard` needs, and every answer its cross-origin headers, streams included."""
    origins = app[ORIGINS] = Origins(config.enable_cors, config.cors_origins)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        for name, value in (origins.fixed() | origins.allowing(request.headers.get("Origin"))).items():
            response.headers.add(name, value)

    app.on_response_prepare.append(add_headers)


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Check credentials, then call the handler."""
    origins = request.app[ORIGINS]
    if request.method == "OPTIONS" and origins.enabled and "Access-Control-Request-Method" in request.headers:
        origin, asked = request.headers.get("Origin"), request.headers.get("Access-Control-Request-Headers")
        return web.Response(status=204, headers=origins.preflight(origin, asked))
    if (refusal := await _refusal(request, request.app[CONTEXT], origins)) is not None:
        return refusal
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _in_our_form(request, error)
    except Exception:
        log.exception("%s %s failed%s", request.method, request.path, called(request_id(request)))
        return _error(500, "the server failed on this request; its log has the details")


async def _refusal(request: web.Request, context: Context, origins: Origins) -> web.Response | None:
    """Why the request goes no further, if it does not."""
    if context.door is None and request.method in _CHANGES_NOTHING:
        return None
    needs = http_scope(request.method, request.rel_url.raw_path, context.config.metrics_path)
    if request.match_info.http_exception is not None:
        # No such address, or not by this method. Whoever has any scope may hear that, and nobody else.
        needs = EVERY_SCOPE
    if context.door is not None:
        given = request.headers.getall("Authorization", [])
        one = given[0].encode(errors="surrogateescape") if len(given) == 1 else None
        if (refusal := await context.door.refusal(one, request.remote, needs)) is not None:
            return _refused(refusal)
    if needs is Scope.ADMIN and request.method not in _CHANGES_NOTHING and origins.is_foreign(request.headers):
        return _error(403, FOREIGN)
    return None


def _refused(refusal: Refusal) -> web.Response:
    """The answer to who is not let in."""
    match refusal.why:
        case Why.CREDENTIALS:
            response = web.Response(status=401, text=refusal.text)
            for challenge in CHALLENGES:
                response.headers.add("WWW-Authenticate", challenge)
        case Why.SCOPE:
            response = _error(403, refusal.text)
        case Why.TRIES:
            response = _error(429, refusal.text)
            response.headers["Retry-After"] = str(refusal.retry_after_s)
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
