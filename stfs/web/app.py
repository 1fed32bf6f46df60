"""The aiohttp application: which address leads to which handler, and what runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from stfs.context import Context
from stfs.web import clients, dashboard, hot, images, metrics, metrics_tfserving, models, oip, openapi, pages, tfserving
from stfs.web.access_log import AccessLog, logging_middleware, open_log
from stfs.web.guard import guard, prepare
from stfs.web.hot_shared import HotPath
from stfs.web.key import CONTEXT
from stfs.web.off_loop import OFF_LOOP, OffLoop
from stfs.web.request_ids import add_ids

log = logging.getLogger("stfs.web")


AddRoutes = Callable[[web.Application], None]


def make_app(
    context: Context, access_log: AccessLog | None = None, add_routes: AddRoutes | None = None
) -> web.Application:
    """An application that serves from ``context``; ``access_log`` is closed with it.

    ``add_routes`` adds others in the place of those of this server; it sees to it itself that they are guarded.
    """
    middlewares = [guard] if add_routes is None else []
    if access_log is not None:
        middlewares.insert(0, logging_middleware(access_log))
    app = web.Application(client_max_size=context.config.max_request_bytes, middlewares=middlewares)
    if access_log is not None:

        async def close_log(_: web.Application) -> None:
            await asyncio.get_running_loop().run_in_executor(None, access_log.close)

        app.on_cleanup.append(close_log)
    app[CONTEXT] = context
    prepare(app, context.config)
    add_ids(app, context)
    off_loop = app[OFF_LOOP] = OffLoop()

    async def end_threads(_: web.Application) -> None:
        off_loop.close()

    app.on_cleanup.append(end_threads)
    if add_routes is not None:
        add_routes(app)
        return app
    images.add_pool(app, context.config)
    app[metrics.REGISTRY] = metrics.make_registry(context)
    if context.config.metrics_path:
        app.add_routes([web.get(context.config.metrics_path, metrics_tfserving.metrics)])
    app.add_routes(
        [
            web.post("/", images.post),
            web.get("/health", models.health),
            web.get("/ready", models.ready),
            web.get("/metrics", metrics.metrics),
            web.route("*", "/{path:(?i:v1)(?:/.*)?}", tfserving.v1),
            web.route("*", "/{path:v2(?:/.*)?}", oip.v2),
            web.static("/static", pages.HERE / "static"),
        ]
    )
    dashboard.add_routes(app)
    clients.add_routes(app)
    openapi.add_routes(app)
    return app


def runner_options(context: Context) -> dict[str, Any]:
    """How aiohttp is to serve an application of ours."""
    # A handler is cancelled when its client goes away, which withdraws its request from the queue.
    return {
        "auto_decompress": False,  # a small body could become a large one before anybody has looked at its size
        "logger": _aiohttp_log(),
        "access_log": None,
        "handler_cancellation": True,
        "shutdown_timeout": context.config.shutdown_timeout_s,
    }


def make_runner(context: Context, add_routes: AddRoutes | None = None) -> web.AppRunner:
    """What serves the application, with the hot path before it where that is wanted and possible."""
    options = runner_options(context)
    access_log = open_log(context.config)
    app = make_app(context, access_log, add_routes)
    if not context.config.hot_path or context.tracing is not None:  # only the stock path is traced
        return web.AppRunner(app, **options)
    if (problem := hot.fits()) is not None:
        log.info("requests take aiohttp's own path, and not the hot one: %s", problem)
        return web.AppRunner(app, **options)
    return hot.HotRunner(app, HotPath(context, access_log, app[OFF_LOOP]), **options)


def _aiohttp_log() -> logging.Logger:
    """Aiohttp's own log without tracebacks for what any client can cause by sending what is not HTTP."""
    logger = logging.getLogger("stfs.web.aiohttp")
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)
