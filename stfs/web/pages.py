"""The pages for people, as HTML: the overview at ``/``, a page for each model, and the seed's three forms.

Each tells what was true when it was asked for, so that it is worth something without scripts; what moves comes from
``web.live``. Where the pages' scripts and styles lie is ``web.assets``' to say, which address leads to which page
``web.dashboard``'s.
"""

from __future__ import annotations

import shlex
from math import prod
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from aiohttp import web

from stfs import __version__, codec
from stfs.context import Context
from stfs.lifecycle.policy import All, Latest, State, VersionPolicy
from stfs.lifecycle.record import VersionStatus
from stfs.protocols import stfs
from stfs.signature import STRING, Signature, zeros
from stfs.web.assets import ASSETS, CHARTS
from stfs.web.key import CONTEXT
from stfs.web.models import detail

MAX_EXAMPLE_VALUES = 1000
"""A longer example shows nothing that a person would read."""

HERE = Path(__file__).parent

HEADERS = {
    # The page changes with every version swap, and a cached one would show what is no longer true.
    "Cache-Control": "no-store",
    # Whatever a model calls itself, nothing but this server's own files runs, and no other page shows this one.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

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


def tone(version: VersionStatus) -> str:
    """The class of a badge that tells the version's state."""
    if version.error:
        return "bad"
    return {"AVAILABLE": "good", "LOADING": "wait", "UNLOADING": "wait", "START": "wait"}.get(version.state.name, "")


def policy_words(policy: VersionPolicy) -> str:
    """``the latest version``, ``versions 1, 3``, ..."""
    match policy:
        case Latest(1):
            return "the latest version"
        case Latest(n):
            return f"the latest {n} versions"
        case All():
            return "all versions"
    versions = sorted(policy.versions)
    return f"version{'s'[: len(versions) > 1]} {', '.join(map(str, versions))} only"


_templates.filters["duration"] = duration
_templates.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
_templates.globals["tone"] = tone


async def index(request: web.Request) -> web.Response:
    """The overview: numbers of the whole server, and its models with their versions and states."""
    context = request.app[CONTEXT]
    statuses = context.manager.status()
    models = [
        {
            "status": status,
            # One that has ended as it was meant to is told on its model's page only.
            "versions": [v for v in status.versions if v.error or v.state is not State.END],
            "platform": _platform(context, status.name),
            "href": href(status.name),
        }
        for status in statuses
    ]
    lines = (example_curl(context, status.name, _url(request)) for status in statuses)
    curl = next((line for line in lines if line is not None), None)
    return _page(request, "index.html", {"live": True}, live=True, charts=True, models=models, curl=curl)


async def model(request: web.Request) -> web.Response:
    """Everything about one model. 404 for one that is not configured."""
    context, name = request.app[CONTEXT], request.match_info["name"]
    status = next((status for status in context.manager.status() if status.name == name), None)
    config = next((config for config in context.models() if config.name == name), None)
    if status is None or config is None:
        raise web.HTTPNotFound(reason="no such model")
    explicit = context.config.model_control == "explicit"
    return _page(
        request,
        "model.html",
        {"live": True, "model": name, "explicit": explicit, "models": _models(context, only=name)},
        live=True,
        charts=True,
        status=status,
        detail=detail(context, status),
        policy=policy_words(config.version_policy),
        explicit=explicit,
        takes_images=_takes_images(context, name),
        curl=example_curl(context, name, _url(request)),
    )


async def form(request: web.Request) -> web.Response:
    """One of the seed's forms, by its address."""
    context = request.app[CONTEXT]
    return _page(request, f"{request.path.strip('/')}.html", {"models": _models(context)}, live=False, charts=False)


async def docs_missing(request: web.Request, install: str, in_clone: str) -> web.Response:
    """What stands in the place of the interface's page where that cannot be shown: the commands that change it."""
    return _page(
        request, "docs_missing.html", {}, http_status=501, live=False, charts=False, install=install, in_clone=in_clone
    )


def _page(
    request: web.Request, template: str, data: dict[str, Any], http_status: int = 200, **values: Any
) -> web.Response:
    """``data`` is what the page's scripts are told, ``http_status`` that of the answer."""
    assets = request.app[ASSETS]
    values["charts"] = values["charts"] and CHARTS in assets
    # KServe's clients own the root of a listener of that dialect, but for those who read HTML.
    text = _templates.get_template(template).render(
        **values,
        data={**data, "charts": values["charts"]},
        asset=assets.address,
        home="/",
        here="/" if request.path == "/dashboard" else request.path,
        version=__version__,
    )
    return web.Response(text=text, status=http_status, content_type="text/html", headers=HEADERS)


def href(name: str) -> str:
    """The address of a model's page."""
    return f"/dashboard/models/{quote(name, safe='')}"


def _url(request: web.Request) -> str:
    return f"{request.scheme}://{request.host}"


def _platform(context: Context, name: str) -> str:
    if context.registry.serving().get(name):
        with context.registry.acquire(name) as handle:
            return handle.model.platform
    return next((config.platform or "" for config in context.models() if config.name == name), "")


def _models(context: Context, only: str | None = None) -> list[dict[str, Any]]:
    """What the forms let people choose from."""
    found = []
    for name, versions in context.registry.serving().items():
        if only not in (None, name):
            continue
        with context.registry.acquire(name) as handle:
            default, signatures = handle.model.default_signature, sorted(handle.model.signatures)
        signatures.sort(key=lambda signature: signature != default)
        found.append({"name": name, "versions": versions[::-1], "signatures": signatures})
    return found


def _takes_images(context: Context, name: str) -> bool:
    """Whether a picture may mean something to a signature: an input of strings, or of rows, columns and channels."""
    if not context.registry.serving().get(name):
        return False
    with context.registry.acquire(name) as handle:
        return any(_looks_like_images(signature) for signature in handle.model.signatures.values())


def _looks_like_images(signature: Signature) -> bool:
    return any(
        len(spec.shape or ()) >= 3 or (spec.dtype == STRING and len(signature.inputs) == 1) for spec in signature.inputs
    )


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
        command[1:1] = ["-u", context.config.auth_username if context.config.auth_by_password else "NAME"]
    if context.config.enable_ssl:
        command[1:1] = ["-k"]
    return shlex.join(command)
