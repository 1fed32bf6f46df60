"""Under which key the application holds its :class:`stfs.context.Context`."""

from aiohttp import web

from stfs.context import Context

CONTEXT = web.AppKey("stfs", Context)
