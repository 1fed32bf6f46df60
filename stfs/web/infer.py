"""Inference over HTTP: reads the body, lets a dialect decode and encode, times and counts the request."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from stfs import errors
from stfs.protocols import stfs, tfserving
from stfs.signature import Signature, Tensors
from stfs.web.context import CONTEXT, Context, Lease

log = logging.getLogger("stfs.web")

MAX_ERROR_CHARACTERS = 1000

Encode = Callable[[Tensors], bytes]
Decode = Callable[[bytes, Lease], tuple[Signature, Tensors, Encode]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the carrying needs of a dialect. ``name`` is its label in the metrics."""

    name: str
    decode: Decode
    encode_error: Callable[[errors.RequestError, str], bytes]
    status_of: Callable[[errors.RequestError], int]


def _decode_stfs(body: bytes, lease: Lease) -> tuple[Signature, Tensors, Encode]:
    signature, inputs = stfs.decode(body, lease)
    return signature, inputs, stfs.encode


def _decode_tfserving(body: bytes, lease: Lease) -> tuple[Signature, Tensors, Encode]:
    signature, inputs, rows = tfserving.decode_predict(body, lease)
    return signature, inputs, lambda outputs: tfserving.encode_predict(outputs, rows=rows)


STFS = Dialect("stfs", _decode_stfs, stfs.encode_error, stfs.status_of)
TFSERVING = Dialect("tfserving", _decode_tfserving, tfserving.encode_error, tfserving.status_of)


async def infer_stfs(request: web.Request) -> web.Response:
    """``POST /``."""
    lease = Lease(request.app[CONTEXT])
    if request.content_type != "application/json" and "Content-Type" in request.headers:
        refusal = errors.UnsupportedMediaType(f'got "{request.content_type}": send Content-Type: application/json')
        return await _answer(request, STFS, lease, refusal)
    return await _answer(request, STFS, lease)


async def infer_tfserving(request: web.Request, name: str, version: int | None) -> web.Response:
    """``POST /v1/models/NAME[/versions/N]:predict``. The Content-Type is not looked at, as in TensorFlow Serving."""
    return await _answer(request, TFSERVING, Lease(request.app[CONTEXT], name, version))


async def _answer(
    request: web.Request, dialect: Dialect, lease: Lease, refusal: errors.RequestError | None = None
) -> web.Response:
    """Carry one request through; every way out is an answer in the dialect's form, counted once."""
    context = request.app[CONTEXT]
    started = time.monotonic()
    outcome = "cancelled"
    try:
        if refusal is not None:
            raise refusal
        deadline_s = _deadline(request, context, started)
        body = await read_body(request, context.config.max_request_bytes, deadline_s)
        signature, inputs, encode = dialect.decode(body, lease)
        model = lease.model
        assert model is not None, "a decoded request holds its model"
        outputs = await model.infer(signature, inputs, deadline_s)
        payload = encode(outputs)
        outcome = "ok"
        return web.Response(body=payload, content_type="application/json")
    except errors.RequestError as error:
        outcome = snake_case(type(error).__name__)
        return error_response(dialect, error, lease)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        log.exception("%s %s failed", request.method, request.rel_url)
        outcome = "internal"
        return error_response(dialect, errors.ModelFailed(f"{type(error).__name__}: {error}"), lease)
    finally:
        held = lease.model
        name, version = (held.name, str(held.version)) if held is not None else ("-", "-")
        lease.release()
        context.metrics.record_request(name, version, dialect.name, outcome, time.monotonic() - started)


async def read_body(request: web.Request, limit_bytes: int, deadline_s: float | None) -> bytes:
    """The whole body, as it was sent.

    Raises :class:`stfs.errors.TooLarge`, before reading where the length is announced;
    :class:`stfs.errors.DeadlineExceeded` if it does not arrive in time; :class:`stfs.errors.InvalidRequest` if it is
    compressed or its framing is broken.
    """
    if (coding := request.headers.get("Content-Encoding", "identity").lower()) != "identity":
        raise errors.InvalidRequest(f"Content-Encoding {coding!r} is not taken here: send the body as it is")
    if (request.content_length or 0) <= limit_bytes:
        try:
            async with asyncio.timeout(None if deadline_s is None else deadline_s - time.monotonic()):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            pass
        except TimeoutError:
            raise errors.DeadlineExceeded("the deadline passed before the body had arrived") from None
        except web.RequestPayloadError as error:
            raise errors.InvalidRequest(f"the body is broken: {error}") from None
    raise errors.TooLarge(
        f"the body is over the limit of {limit_bytes} bytes; send less at a time or raise --max_request_bytes"
    )


def error_response(dialect: Dialect, error: errors.RequestError, lease: Lease) -> web.Response:
    """The error in the dialect's form."""
    status, body, headers = error_parts(dialect, error, lease)
    response = web.Response(body=body, status=status, headers=headers, content_type="application/json")
    if isinstance(error, errors.TooLarge):
        response.force_close()  # the rest of the body is still on its way
    return response


def error_parts(dialect: Dialect, error: errors.RequestError, lease: Lease) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and extra headers of an error, told with the model's name where a model was found."""
    text = str(error)
    blames = isinstance(error, errors.InvalidRequest | errors.ModelFailed)
    if lease.model is not None and blames and not text.startswith("model "):
        text = f'model "{lease.model.name}" version {lease.model.version}: {text}'
    if len(text) > MAX_ERROR_CHARACTERS:  # texts quote what the client sent
        text = text[:MAX_ERROR_CHARACTERS] + "..."
    headers: dict[str, str] = {}
    if isinstance(error, errors.Unavailable):
        wait_s = error.retry_after_s if isinstance(error, errors.Overloaded) else 1.0
        headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
    return dialect.status_of(error), dialect.encode_error(error, text), headers


def _deadline(request: web.Request, context: Context, now_s: float) -> float | None:
    """When the request expires: the server's limit or the client's ``X-Request-Timeout-Ms``, whichever is sooner."""
    limit_s = context.config.request_timeout_s or math.inf
    if (asked := request.headers.get("X-Request-Timeout-Ms")) is not None:
        if not (asked.isascii() and asked.isdigit() and 0 < len(asked) <= 12):
            raise errors.InvalidRequest(f"X-Request-Timeout-Ms must be a whole number of milliseconds, not {asked!r}")
        limit_s = min(limit_s, int(asked) / 1e3)
    return None if math.isinf(limit_s) else now_s + limit_s


def snake_case(name: str) -> str:
    """``VersionNotFound`` as ``version_not_found``, for the outcome label."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
