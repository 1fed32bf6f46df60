"""What a generated client sends and where: the model of the templates. Pure.

Must not live here: how a language writes it (``literals``, ``languages``), how the signature was found.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any
from urllib.parse import urlsplit

from stfs.clients.example import Filled, example, has_base64, is_called_image
from stfs.errors import InvalidInput, InvalidRequest
from stfs.images.options import ImageOptions
from stfs.images.plan import Asked, make_plan
from stfs.signature import CLASSIFY, REGRESS, STRING, Signature

MAX_JSON_VALUES = 4_000_000
"""Values that an example in JSON may have."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request for a prediction.

    ``url`` is where it is posted to; ``body`` a JSON object whose leaves may be :class:`Filled`; ``auth`` says that the
    server asks for credentials, which are never part of a call.

    ``form`` is for a model that takes an image and nothing else: the fields, by name, of a form that asks the same of
    an image file, but for the file, which goes into the field ``image``. ``None`` for other models.
    """

    url: str
    body: Mapping[str, Any]
    auth: bool = False
    form: Mapping[str, str] | None = None

    @property
    def tls(self) -> bool:
        """Whether the server speaks HTTPS."""
        return self.url.startswith("https:")


def make_call(
    url: str,
    model_name: str,
    model_version: int,
    signature: Signature,
    platform: str,
    *,
    is_default: bool,
    auth: bool = False,
) -> Call:
    """The call of ``signature``, of a model of ``platform``, on the server at ``url``.

    ``is_default`` says that a request need not name the signature. Raises :class:`InvalidRequest` for what is no
    ``http`` or ``https`` address of a server.
    """
    body: dict[str, Any] = {"model_name": model_name, "model_version": model_version}
    if not is_default:
        body["signature_name"] = signature.name
    data = example(signature, platform)
    form = None
    if takes_image(signature):
        form = {key: str(value) for key, value in body.items()}
        if has_base64(data) and not signature.inputs[0].name.endswith("_bytes"):
            form["base64_decode"] = "true"  # bytes, as in the example; of inputs that are called so the server knows it
    return Call(server_url(url) + "/", body | {"data": data}, auth, form)


def takes_image(signature: Signature) -> bool:
    """Whether an image file is all that a request needs: one input, which by its name or its shape is for images."""
    if len(signature.inputs) != 1:
        return False
    (spec,) = signature.inputs
    if spec.dtype == STRING:
        is_records = signature.method_name in (CLASSIFY, REGRESS)
        return not is_records and (is_called_image(spec) or spec.name.endswith("_bytes"))
    if len(spec.shape or ()) < 4 and not is_called_image(spec):  # of three dimensions, most are series of rows
        return False
    try:
        make_plan(spec, ImageOptions(), Asked())
    except (InvalidInput, InvalidRequest):
        return False
    return True


def server_url(url: str) -> str:
    """``url`` without a ``/`` at its end. Raises :class:`InvalidRequest` if it is no address of a server."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        fits = False
    if not fits or not url.isascii() or not url.isprintable() or " " in url or "?" in url or "#" in url or "@" in url:
        raise InvalidRequest(f"{url[:200]!r} is no address of a server: give one such as http://127.0.0.1:8500")
    return url.rstrip("/")


def json_body(call: Call) -> str:
    """The whole body as JSON text, an input a line.

    Raises :class:`InvalidRequest` if that has more than ``MAX_JSON_VALUES`` values: a program can make it anyway.
    """
    values = sum(prod(v.shape) for v in call.body["data"].values() if isinstance(v, Filled))
    if values > MAX_JSON_VALUES:
        raise InvalidRequest(f"the example would have {values} values: ask for a client, which makes them itself")
    data = ",\n".join(f"    {json.dumps(name)}: {_json(value)}" for name, value in call.body["data"].items())
    lines = [f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in call.body.items() if key != "data"]
    return "{\n" + "".join(lines) + '  "data": {\n' + data + "\n  }\n}\n"


def _json(value: Any) -> str:
    if not isinstance(value, Filled):
        return json.dumps(value)
    text = json.dumps(value.value)
    for size in reversed(value.shape):
        text = "[" + ", ".join([text] * size) + "]"
    return text
