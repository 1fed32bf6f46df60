"""KServe's V1 inference protocol: ``{"instances": rows}`` in, ``{"predictions": rows}`` out, and what is ready.

It is TensorFlow Serving's row form with other words around it: ``inputs`` is another name for ``instances``, numbers
have as many digits as they need. Source: ``kserve/protocol/rest/v1_endpoints.py`` and ``kserve/model.py`` of KServe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stfs import codec, errors
from stfs.protocols import tfserving
from stfs.protocols.request import Resolver
from stfs.signature import Array, Signature, Tensors

ROW_KEYS = frozenset({"instances", "inputs"})

ALIVE = b'{"status":"alive"}'
"""The answer to ``GET /``."""

NO_EXPLAINER = b'{"error":"explain is not supported: this server predicts only"}'
"""The answer to ``POST /v1/models/NAME:explain``, with status 501."""


def status_of(error: errors.RequestError) -> int:
    """The HTTP status of an error: TensorFlow Serving's, which KServe's are a part of."""
    return tfserving.status_of(error)


def encode_error(error: errors.RequestError, text: str) -> bytes:
    """``{"error": text}``, in KServe's words for what is not there or not ready."""
    if isinstance(error, errors.ModelNotFound) and error.model:
        text = f"Model with name {error.model[: len(text)]} does not exist."
    return b'{"error":' + codec.encode_string(text) + b"}"


def decode(body: bytes | memoryview, resolve: Resolver) -> tuple[Signature, Tensors]:
    """The signature and the inputs; see :func:`stfs.protocols.tfserving.decode_predict`."""
    signature, inputs, _ = tfserving.decode_predict(body, resolve, ROW_KEYS)
    return signature, inputs


def encode(outputs: Mapping[str, Array]) -> bytes:
    """``{"predictions": [...]}``; an object for each row where there are several outputs.

    Raises :class:`stfs.errors.InvalidRequest` if the outputs do not share a first dimension.
    """
    return b'{"predictions":' + tfserving.encode_rows(outputs, "shortest") + b"}"


def encode_models(names: Iterable[str]) -> bytes:
    """The answer to ``GET /v1/models``."""
    return b'{"models":[' + b",".join(codec.encode_string(name) for name in names) + b"]}"


def encode_ready(name: str) -> bytes:
    """The answer to ``GET /v1/models/NAME`` for a model that is ready; one that is not is an error."""
    return b'{"name":' + codec.encode_string(name) + b',"ready":true}'


def not_ready(name: str) -> errors.Unavailable:
    """The error for a model that is known and serves no version."""
    return errors.Unavailable(f"Model with name {name} is not ready.")
