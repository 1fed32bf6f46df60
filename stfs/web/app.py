"""The aiohttp application: which address leads to which handler, and nothing else."""

from __future__ import annotations

from aiohttp import web

from stfs.web import infer, metrics, models, pages
from stfs.web.context import CONTEXT, Context
from stfs.web.guard import guard


def make_app(context: Context) -> web.Application:
    """An application that serves from ``context``."""
    app = web.Application(client_max_size=context.config.max_request_bytes, middlewares=[guard])
    app[CONTEXT] = context
    app[metrics.REGISTRY] = metrics.make_registry(context)
    app.add_routes(
        [
            web.post("/", infer.infer_stfs),
            web.get("/", pages.index),
            web.get("/health", models.health),
            web.get("/ready", models.ready),
            web.get("/metrics", metrics.metrics),
            web.get("/v1/models", models.list_models),
            web.route("*", "/{path:(?i:v1)(?:/.*)?}", models.v1),
            web.static("/static", pages.HERE / "static"),
        ]
    )
    return app
