"""KServe's V1 protocol on a listener of that dialect: what it answers where TensorFlow Serving answers otherwise.

Which address leads here is ``web.tfserving``'s to say; bodies are ``stfs.protocols.kserve1``'s.
"""

from __future__ import annotations

import re

from aiohttp import web

from stfs import errors
from stfs.context import Context, Lease
from stfs.protocols import kserve1
from stfs.signature import Signature, Tensors
from stfs.web import pages
from stfs.web.infer import Dialect, Encode

EXPLAIN_PATH = re.compile(r"/v1/models/[^/:]+:explain", re.IGNORECASE | re.ASCII)


def _decode(body: bytes | memoryview, lease: Lease) -> tuple[Signature, Tensors, Encode]:
    signature, inputs = kserve1.decode(body, lease)
    return signature, inputs, kserve1.encode


KSERVE = Dialect("kserve", _decode, kserve1.encode_error, kserve1.status_of)


async def root(request: web.Request) -> web.Response:
    """``GET /``: KServe's sign of life for programs, the page for people, who say that they read HTML."""
    if "text/html" in request.headers.get("Accept", ""):
        return await pages.index(request)
    return web.Response(body=kserve1.ALIVE, content_type="application/json")


def list_models(context: Context) -> web.Response:
    """``GET /v1/models``: the names of the models, whether they are ready or not."""
    names = [status.name for status in context.manager.status()]
    return web.Response(body=kserve1.encode_models(names), content_type="application/json")


def ready(context: Context, name: str) -> web.Response:
    """``GET /v1/models/NAME``. Raises :class:`ModelNotFound`, and :class:`Unavailable` while no version is served."""
    if name not in context.registry.serving():
        if any(status.name == name for status in context.manager.status()):
            raise kserve1.not_ready(name)
        raise errors.ModelNotFound(f'no model "{name}"', name)
    return web.Response(body=kserve1.encode_ready(name), content_type="application/json")


def explain() -> web.Response:
    """``POST /v1/models/NAME:explain``: there are no explainers here, as in a KServe predictor that has none."""
    return web.Response(body=kserve1.NO_EXPLAINER, status=501, content_type="application/json")
