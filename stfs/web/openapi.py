"""``GET /openapi.json`` and ``GET /docs``: the interface described, for tools and for people.

The page's script and style are Swagger UI's, from the installed package ``swagger-ui-py``; none come from elsewhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from aiohttp import web

from stfs import __version__
from stfs.access.scopes import OPEN_PATHS
from stfs.context import Context
from stfs.protocols.openapi import Served, Server, document
from stfs.signature import zeros
from stfs.web.key import CONTEXT
from stfs.web.pages import HERE, docs_missing

INSTALL = 'pip install "stfs[docs]"'
IN_CLONE = '.venv/bin/pip install -c constraints.txt ".[docs]"'

_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}

_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
"""Swagger UI writes styles into its elements; scripts come from this server only."""


class _Described:
    """The document but for the server's address, as JSON text; made anew when what is served changes. Loop thread."""

    def __init__(self) -> None:
        self._made_of: object = None
        self._rest = b""
        self._making = asyncio.Lock()  # for many may ask at once, and one making of it is enough

    async def body(self, context: Context, url: str) -> bytes:
        """The document for a client that knows the server as ``url``."""
        async with self._making:
            # Signatures are compared too, for a version may be replaced under its number; while they are the same
            # objects that costs next to nothing.
            made_of = served, server = _served(context), _server(context)
            if made_of != self._made_of:
                work = partial(_text, served, server)  # on a thread: thousands of columns take a second
                self._rest = await asyncio.get_running_loop().run_in_executor(None, work)
                self._made_of = made_of
        return b'{"servers": ' + json.dumps([{"url": url}]).encode() + b", " + self._rest


def _text(served: Sequence[Served], server: Server) -> bytes:
    """The document without its opening brace."""
    told = document(served, lambda signature: zeros(signature.inputs, 1), server)
    return json.dumps(told, ensure_ascii=False, allow_nan=False).encode()[1:]


DESCRIBED = web.AppKey("stfs_openapi", _Described)


def add_routes(app: web.Application) -> None:
    """The document, its page, and what the page is made of."""
    app[DESCRIBED] = _Described()
    app.add_routes([web.get("/openapi.json", openapi), web.get("/docs", docs), web.get("/docs/assets/{name}", asset)])


async def openapi(request: web.Request) -> web.Response:
    """The document, with the address under which this client knows the server."""
    url = f"{request.scheme}://{request.host}"
    body = await request.app[DESCRIBED].body(request.app[CONTEXT], url)
    headers = {"Cache-Control": "no-cache", "Vary": "Host"}
    return web.Response(body=body, content_type="application/json", headers=headers)


async def docs(request: web.Request) -> web.StreamResponse:
    """The page; where its package is not installed, how to install it."""
    if _assets() is None:
        return await docs_missing(request, INSTALL, IN_CLONE)
    return web.FileResponse(HERE / "static" / "docs.html", headers={"Content-Security-Policy": _POLICY})


async def asset(request: web.Request) -> web.StreamResponse:
    """One of Swagger UI's files that the page needs."""
    name, folder = request.match_info["name"], _assets()
    if folder is None or name not in _ASSETS:
        raise web.HTTPNotFound
    headers = {"Content-Type": _ASSETS[name], "Cache-Control": "max-age=3600"}
    return web.FileResponse(folder / name, headers=headers)


def _assets() -> Path | None:
    """The folder of Swagger UI's files; ``None`` where its package is not installed. Found without importing it."""
    spec = find_spec("swagger_ui")
    places = spec.submodule_search_locations if spec is not None else None
    folder = Path(next(iter(places))) / "static" if places else None
    return folder if folder is not None and all((folder / name).is_file() for name in _ASSETS) else None


def _server(context: Context) -> Server:
    config = context.config
    return Server(
        __version__,
        context.default_model(),
        config.dialect,
        config.metrics_path,
        open_paths=OPEN_PATHS if config.enable_auth else None,
    )


def _served(context: Context) -> list[Served]:
    found: list[Served] = []
    for name, versions in context.registry.serving().items():
        labels = context.registry.labels(name)
        for version in versions:
            here = tuple(sorted(label for label, number in labels.items() if number == version))
            with context.registry.acquire(name, version) as handle:
                model = handle.model
                found.append(Served(name, version, here, model.default_signature, model.signatures))
    return found
