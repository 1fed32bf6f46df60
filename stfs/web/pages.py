"""``GET /``: the page for people. Shows what is served; needs no script."""

from __future__ import annotations

import shlex
from math import prod
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from stfs import __version__, codec
from stfs.context import Context
from stfs.lifecycle.record import ModelStatus
from stfs.protocols import stfs
from stfs.signature import zeros
from stfs.web.key import CONTEXT
from stfs.web.models import detail

MAX_EXAMPLE_VALUES = 1000
"""A longer example shows nothing that a person would read."""

HERE = Path(__file__).parent

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def duration(seconds: float) -> str:
    """``42 s``, ``5 min``, ``3 h``, ``12 d``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


_templates.filters["duration"] = duration


async def index(request: web.Request) -> web.Response:
    """Models, their versions and states, their signatures, and a request to copy."""
    context = request.app[CONTEXT]
    url = f"{request.scheme}://{request.host}"
    models = [_model(context, status, url) for status in context.manager.status()]
    page = _templates.get_template("index.html").render(
        models=models, version=__version__, ready=context.ready(), url=url
    )
    # The page changes with every version swap, and a cached one would show what is no longer true.
    return web.Response(text=page, content_type="text/html", headers={"Cache-Control": "no-store"})


def _model(context: Context, status: ModelStatus, url: str) -> dict[str, Any]:
    return {
        "status": status,
        "detail": detail(context, status),
        "curl": example_curl(context, status.name, url),
    }


def example_curl(context: Context, name: str, url: str) -> str | None:
    """A curl line that a shell takes as it stands, for the model's default signature.

    The values are zeros: right in name, dtype and shape, so that the answer is an answer. ``None`` while no version is
    served, or if it would be too long to read.
    """
    if not context.registry.serving().get(name):
        return None
    with context.registry.acquire(name) as handle:
        signature = handle.model.signature(None)
    if sum(prod(size or 1 for size in spec.shape or ()) for spec in signature.inputs) > MAX_EXAMPLE_VALUES:
        return None
    data = stfs.encode(zeros(signature.inputs, 1)).decode()
    who = "" if name == context.default_model() else f'"model_name": {codec.encode_string(name).decode()}, '
    command = ["curl", "-H", "Content-Type: application/json", "-d", f'{{{who}"data": {data}}}', f"{url}/"]
    if context.config.enable_auth:
        command[1:1] = ["-u", context.config.auth_username]
    if context.config.enable_ssl:
        command[1:1] = ["-k"]
    return shlex.join(command)
