"""HTTP between clients and a front process: inferences are answered here, everything else by the main process.

What is passed on goes as it came, and so does its answer, as it is being made: nothing is kept.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict
from yarl import URL

from stfs.context import Context
from stfs.front.inside import REMOTE, SCHEME
from stfs.web import infer, oip, tfserving
from stfs.web.app import make_runner
from stfs.web.guard import ORIGINS, guard
from stfs.web.oip import V2_INFER
from stfs.web.tfserving import PREDICT_PATH

log = logging.getLogger("stfs.front")

_OF_ONE_CONNECTION = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "proxy-connection"}
)
"""Headers that do not go on to the next connection (RFC 9110, 7.6.1)."""


class _ToMain(aiohttp.BaseConnector):
    """Connections to the main process: one end of a socket pair each, whose other end it is given."""

    def __init__(self, hand_over: Callable[[socket.socket], None]) -> None:
        super().__init__(limit=0)
        self._hand_over = hand_over

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:  # noqa: ASYNC109
        ours, theirs = socket.socketpair()
        with theirs:
            self._hand_over(theirs)
        ours.setblocking(False)
        _, protocol = await self._loop.create_connection(self._factory, sock=ours)
        return protocol


class Outside:
    """The application of a front. ``hand_over`` gives the main process a copy of a socket."""

    def __init__(self, context: Context, hand_over: Callable[[socket.socket], None]) -> None:
        self._context = context
        self._hand_over = hand_over
        self._session: aiohttp.ClientSession | None = None

    def make_runner(self) -> web.AppRunner:
        """What serves it, with the hot path where that is wanted. Raises :class:`stfs.errors.ConfigError`."""
        return make_runner(self._context, self._add_routes)

    def _add_routes(self, app: web.Application) -> None:
        async def session(_: web.Application) -> Any:
            self._session = aiohttp.ClientSession(
                connector=_ToMain(self._hand_over),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
            yield
            await self._session.close()

        app.cleanup_ctx.append(session)
        app.add_routes(
            [
                web.post("/", self._stfs),
                web.post("/{path:(?i:v1)/.*}", self._v1),
                web.post("/{path:v2/.*}", self._v2),
                web.route("*", "/{path:(?s:.*)}", self._pass_on),
            ]
        )

    async def _stfs(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/json" and "Content-Type" in request.headers:
            return await self._pass_on(request)  # a form of images, perhaps
        return await guard(request, infer.infer_stfs)

    async def _v1(self, request: web.Request) -> web.StreamResponse:
        if PREDICT_PATH.fullmatch(request.rel_url.raw_path) is None:
            return await self._pass_on(request)
        return await guard(request, tfserving.v1)

    async def _v2(self, request: web.Request) -> web.StreamResponse:
        if V2_INFER.fullmatch(request.rel_url.raw_path) is None:
            return await self._pass_on(request)
        return await guard(request, oip.v2)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """Have the main process answer."""
        assert self._session is not None, "the application has begun"
        target = request.rel_url
        url = URL.build(
            scheme="http", host="main", path=target.raw_path, query_string=target.raw_query_string, encoded=True
        )
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in _OF_ONE_CONNECTION
        )
        for name in (REMOTE, SCHEME):
            headers.popall(name, None)
        headers[REMOTE], headers[SCHEME] = request.remote or "", request.scheme
        try:
            answered = self._session.request(
                request.method,
                url,
                headers=headers,
                data=request.content if request.body_exists else None,
                allow_redirects=False,
            )
            async with answered as answer:
                return await _relay(request, answer)
        except (aiohttp.ClientError, OSError) as error:
            if request.transport is None or request.transport.is_closing():
                raise
            log.warning("the main process did not answer %s %s: %s", request.method, request.path, error)
            body = json.dumps({"error": "the server is too busy to answer this now"}).encode()
            return web.Response(status=503, body=body, content_type="application/json", headers={"Retry-After": "1"})


async def _relay(request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    # These are added to every answer of this process, as they were in the main one.
    origins = request.app[ORIGINS]
    ours = set((origins.fixed() | origins.allowing(request.headers.get("Origin"))).items())
    for name, value in answer.headers.items():
        if name.lower() not in _OF_ONE_CONNECTION and (name, value) not in ours:
            response.headers.add(name, value)
    if answer.headers.get("Connection", "").lower() == "close":
        response.force_close()
    await response.prepare(request)
    try:
        async for piece in answer.content.iter_any():
            await response.write(piece)
    except aiohttp.ClientError as error:
        # Too late to say so: an answer that ends early is broken off, as it would be by the main process's own end.
        log.debug("the main process broke off its answer: %s", error)
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response
