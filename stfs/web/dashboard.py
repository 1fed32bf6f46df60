"""The dashboard's addresses: pages, the stream of numbers, the files, and the one change that has no call elsewhere.

Models are loaded and unloaded by the Open Inference Protocol's repository calls (``web.oip``); labels over HTTP only
here: ``POST /dashboard/models/NAME/labels`` with ``{"labels": {"stable": 2}}``, all of the model's labels at once.
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from stfs import errors
from stfs.protocols import stfs
from stfs.web import kserve1, live, pages
from stfs.web.assets import ASSETS, Assets
from stfs.web.infer import read_body
from stfs.web.key import CONTEXT

MAX_LABELS_BYTES = 64 << 10

MAX_LABEL_CHARACTERS = 100


def add_routes(app: web.Application) -> None:
    """All of it. Needs :data:`CONTEXT` in the application."""
    assets = app[ASSETS] = Assets(pages.HERE / "static")
    live.add_routes(app)
    app.add_routes(
        [
            web.get("/", kserve1.root if app[CONTEXT].config.dialect == "kserve" else pages.index),
            web.get("/dashboard", pages.index),
            web.get("/dashboard/models/{name}", pages.model),
            web.post("/dashboard/models/{name}/labels", label),
            web.get("/dashboard/assets/{key}/{name}", assets.handle),
            web.get("/json_inference", pages.form),
            web.get("/image_inference", pages.form),
            web.get("/generate_clients", pages.form),
        ]
    )


async def label(request: web.Request) -> web.Response:
    """Replace a model's labels. The answer is what they are now; errors are ``{"error": ...}``.

    The body must be declared as JSON: a page of another origin cannot send that without this server's leave, though
    the browser would add the user's credentials.
    """
    context = request.app[CONTEXT]
    try:
        if request.content_type != "application/json":
            raise errors.UnsupportedMediaType("send the labels with Content-Type: application/json")
        limit_bytes = min(MAX_LABELS_BYTES, context.config.max_request_bytes)
        labels = _labels(bytes(await read_body(request, limit_bytes, None)))
        await context.repository.label(request.match_info["name"], labels)
    except errors.RequestError as error:
        status = 404 if isinstance(error, errors.NotFound) else stfs.status_of(error)
        return web.json_response({"error": str(error)}, status=status)
    return web.json_response({"labels": labels})


def _labels(body: bytes) -> dict[str, int]:
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidRequest(f"the body is not JSON: {error}") from None
    labels = told.get("labels") if isinstance(told, dict) else None
    if not isinstance(labels, dict):
        raise errors.InvalidRequest('the body must be {"labels": {"LABEL": VERSION, ...}}')
    for name, version in labels.items():
        if not 0 < len(name) <= MAX_LABEL_CHARACTERS or "/" in name or any(ord(c) < 32 for c in name):
            shown = name[:MAX_LABEL_CHARACTERS]
            raise errors.InvalidRequest(f"the label {shown!r} will not do: it stands in addresses")
        if type(version) is not int or version < 0:
            raise errors.InvalidRequest(f"the version of label {name!r} must be a whole number, not {version!r}")
    return labels
