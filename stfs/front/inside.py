"""HTTP between a front process and the main one, on the main side: what is not an inference is answered here.

The application is the one that serves alone; a front hands over sockets that it speaks HTTP on, so there is no address
that anybody else could connect to. Answers tell of the whole server: before a request is looked at, every front has
handed over what it has counted, and before it is answered, every front serves what it has changed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from stfs.context import Context
from stfs.web.app import make_app, runner_options

log = logging.getLogger("stfs.front")

REMOTE, SCHEME = "X-Stfs-Remote", "X-Stfs-Scheme"
"""Where the request came from and how; said by the front, which lets no client say them."""

PROBES = frozenset({"/health", "/ready", "/v2/health/live", "/v2/health/ready"})
"""They tell nothing that fronts would have to be asked for."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Inside:
    """Serves the application on sockets that fronts hand over. Event-loop thread.

    ``sync`` returns when every front has caught up; ``is_stale`` says whether one certainly has not.
    """

    def __init__(self, context: Context, sync: Callable[[], Awaitable[None]], is_stale: Callable[[], bool]) -> None:
        @web.middleware
        async def from_front(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path in PROBES:
                return await handler(request)
            told = {key: value for key, value in (("remote", REMOTE), ("scheme", SCHEME)) if value in request.headers}
            request = request.clone(**{key: request.headers[value] for key, value in told.items()})  # type: ignore[arg-type]
            await sync()
            try:
                return await handler(request)
            finally:
                if is_stale():
                    await sync()

        app = make_app(context)
        app.middlewares.insert(0, from_front)
        self._runner = web.AppRunner(app, **runner_options(context))
        self._accepting: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Be ready for sockets."""
        await self._runner.setup()

    def adopt(self, sock: socket.socket) -> None:
        """Serve on this socket, which is this object's from now on."""
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._accept(sock))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    async def _accept(self, sock: socket.socket) -> None:
        server = self._runner.server
        if server is None:
            sock.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(server, sock)
        except OSError as error:
            log.debug("a front has hung up: %s", error)

    async def stop(self) -> None:
        """Close every connection, after the requests in flight, within the time for it."""
        await self._runner.cleanup()
