"""Inference over HTTP: reads the body, lets a dialect decode and encode, times and counts the request."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from stfs import errors
from stfs.access.client import client_of
from stfs.carry import (
    ASKS_PRIORITY,
    ASKS_TIMING,
    Journey,
    asked_priority,
    counted,
    deadline,
    echoed,
    infer,
    retry_after_s,
    served_headers,
    server_timing,
    sooner,
    tell,
)
from stfs.context import Context, Lease
from stfs.protocols import stfs
from stfs.protocols.request import Payload
from stfs.signature import Signature, Tensors
from stfs.web import compression
from stfs.web.access_log import CARRIED, CLIENT_CLOSED, Carried
from stfs.web.key import CONTEXT
from stfs.web.off_loop import OFF_LOOP, OFF_LOOP_BYTES, is_for_thread, is_large
from stfs.web.request_ids import request_id
from stfs.web.traced import begin, end

log = logging.getLogger("stfs.web")

Encode = Callable[[Tensors], bytes | Payload]
Decode = Callable[[Any, Lease], tuple[Signature, Tensors, Encode]]
"""From the body: ``bytes``, or for a dialect that ``looks`` also a ``memoryview``."""

LATE_BODY = "the deadline passed before the body had arrived"

Read = Callable[[bytes | memoryview, Lease, float | None], Awaitable[tuple[Signature, Tensors, Encode]]]
"""As :data:`Decode`, on the loop, with the deadline in seconds of ``time.monotonic`` or ``None``."""

COMPRESSIBLE = "application/json"
"""Raw tensors hardly become smaller, and trying would take longer than everything else."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the carrying needs of a dialect. ``name`` is its label in the metrics.

    ``looks`` says that it takes a view of the body as well, and leaves tensors where they lie: nobody may change what
    the view shows, from then on.
    """

    name: str
    decode: Decode
    encode_error: Callable[[errors.RequestError, str], bytes]
    status_of: Callable[[errors.RequestError], int]
    looks: bool = False


def _decode_stfs(body: bytes | memoryview, lease: Lease) -> tuple[Signature, Tensors, Encode]:
    signature, inputs = stfs.decode(body, lease)
    return signature, inputs, stfs.encode


STFS = Dialect("stfs", _decode_stfs, stfs.encode_error, stfs.status_of)


async def infer_stfs(request: web.Request) -> web.Response:
    """``POST /``."""
    lease = Lease(request.app[CONTEXT])
    if request.content_type != "application/json" and "Content-Type" in request.headers:
        refusal = errors.UnsupportedMediaType(f'got "{request.content_type}": send Content-Type: application/json')
        return await answer(request, STFS, lease, refusal)
    return await answer(request, STFS, lease)


async def answer(
    request: web.Request,
    dialect: Dialect,
    lease: Lease,
    refusal: errors.RequestError | None = None,
    read: Read | None = None,
) -> web.Response:
    """Carry one request through; every way out is an answer in the dialect's form, counted once.

    ``read`` makes tensors of a body that the dialect's own ``decode`` does not take.
    """
    context = request.app[CONTEXT]
    started_s = time.monotonic()
    carried: Carried | None = None
    if context.config.access_log != "off":
        carried = request[CARRIED] = Carried(dialect.name, lease)
    trace = begin(context.tracing, request, started_s) if context.tracing is not None else None
    journey = trace.journey if trace is not None else Journey() if ASKS_TIMING in request.headers else None
    failure: errors.RequestError | None = None
    try:
        with counted(context, lease, dialect.name, request_id(request)):
            if refusal is not None:
                raise refusal
            deadline_s = deadline(context.config.request_timeout_s, _asked_timeout_ms(request), started_s)
            body = await read_body(request, context.config.max_request_bytes, deadline_s)
            decoding_s = time.monotonic()
            if trace is not None:
                trace.decoding_s = decoding_s
            if read is not None:
                signature, inputs, encode = await read(body, lease, deadline_s)
            elif is_for_thread(len(body), dialect.looks):
                signature, inputs, encode = await request.app[OFF_LOOP].decode(dialect.decode, body, lease)
            else:
                signature, inputs, encode = dialect.decode(body, lease)
            lease.decode_s = time.monotonic() - decoding_s
            if (share := context.config.client_share) != "off":
                given = request.headers.get("Authorization")
                shown = None if given is None else given.encode(errors="surrogateescape")
                lease.client = client_of(share, context.door, shown, request.remote)
            if (asked := request.headers.get(ASKS_PRIORITY)) is not None:  # it beats what the body says
                lease.priority = asked_priority(asked)
            if carried is not None:
                carried.count(signature, inputs)
            deadline_s = sooner(deadline_s, lease, started_s)
            outputs = await infer(lease, signature, inputs, deadline_s, journey)
            encoding_s = time.monotonic()
            if is_large(outputs):
                payload = await request.app[OFF_LOOP].start(encode, outputs)
            else:
                payload = encode(outputs)
            lease.encode_s = time.monotonic() - encoding_s
            if trace is not None:
                trace.encoded_s = encoding_s + lease.encode_s
    except asyncio.CancelledError as gone:
        if trace is not None:
            end(trace, request, CLIENT_CLOSED, dialect.name, lease, gone)
        raise
    except errors.RequestError as error:
        failure = error
        response = error_response(dialect, error, lease)
    else:
        response = await _success(request, context, payload if isinstance(payload, Payload) else Payload(payload))
    if journey is not None and ASKS_TIMING in request.headers:
        response.headers["Server-Timing"] = server_timing(lease, journey)
    response.headers.update(served_headers(lease))
    response.headers.update(echoed(request.headers))
    if trace is not None:
        end(trace, request, response.status, dialect.name, lease, failure)
    if log.isEnabledFor(logging.DEBUG):
        log_request(request.method, request.path, response.status, request.headers)
    return response


async def read_body(request: web.Request, limit_bytes: int, deadline_s: float | None) -> bytes | memoryview:
    """The whole body, decompressed if it came compressed; perhaps a view of memory that nobody writes to any more.

    Raises :class:`stfs.errors.TooLarge`, before reading where the length is announced;
    :class:`stfs.errors.DeadlineExceeded` if it does not arrive in time; :class:`stfs.errors.InvalidRequest` if its
    compression or its framing is broken.
    """
    if (request.content_length or 0) > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        async with asyncio.timeout(None if deadline_s is None else deadline_s - time.monotonic()):
            body = await _gather(request, limit_bytes)
    except TimeoutError:
        raise errors.DeadlineExceeded(LATE_BODY) from None
    except web.RequestPayloadError as error:
        raise errors.InvalidRequest(f"the body is broken: {error}") from None
    coding = request.headers.get("Content-Encoding")
    if coding is None:
        return body
    # On a thread: a small body may become a large one, so its own size does not tell how long this takes.
    return await asyncio.get_running_loop().run_in_executor(None, compression.decompress, coding, body, limit_bytes)


async def _gather(request: web.Request, limit_bytes: int) -> bytes | memoryview:
    """The body as it came. ``Request.read`` would copy it once more when it is all here, which takes as long again."""
    body = bytearray()
    async for piece in request.content.iter_any():
        body += piece
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(body) if len(body) < OFF_LOOP_BYTES else memoryview(body).toreadonly()


def _too_large(limit_bytes: int) -> errors.TooLarge:
    return errors.TooLarge(
        f"the body is over the limit of {limit_bytes} bytes; send less at a time or raise --max_request_bytes"
    )


async def _success(request: web.Request, context: Context, payload: Payload) -> web.Response:
    body, headers = payload.body, dict(payload.headers)
    limit = context.config.compress_over_bytes
    if limit and len(body) > limit and payload.content_type == compression.COMPRESSIBLE:
        headers["Vary"] = "Accept-Encoding"
        coding = compression.choose(request.headers.get("Accept-Encoding", ""))
        if coding is not None:
            body = await asyncio.get_running_loop().run_in_executor(None, compression.compress, coding, body)
            headers["Content-Encoding"] = coding
    return web.Response(body=body, content_type=payload.content_type, headers=headers)


def error_response(dialect: Dialect, error: errors.RequestError, lease: Lease) -> web.Response:
    """The error in the dialect's form."""
    status, body, headers = error_parts(dialect, error, lease)
    response = web.Response(body=body, status=status, headers=headers, content_type="application/json")
    if isinstance(error, errors.TooLarge):
        response.force_close()  # the rest of the body is still on its way
    return response


def error_parts(dialect: Dialect, error: errors.RequestError, lease: Lease) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and extra headers of an error, told with the model's name where a model was found."""
    headers: dict[str, str] = {}
    if (wait_s := retry_after_s(error)) is not None:
        headers["Retry-After"] = str(wait_s)
    if isinstance(error, errors.UnsupportedEncoding):
        headers["Accept-Encoding"] = compression.ACCEPTED  # RFC 9110, 12.5.3
    return dialect.status_of(error), dialect.encode_error(error, tell(error, lease)), headers


def log_request(method: str, path: str, status: int, headers: Mapping[str, str]) -> None:
    """One line a request, with what its client calls it, for whoever follows a request through several systems."""
    log.debug("%s %s %d %s", method, path, status, " ".join(f"{k}={v}" for k, v in echoed(headers).items()))


def _asked_timeout_ms(request: web.Request) -> int | None:
    """The client's ``X-Request-Timeout-Ms``."""
    asked = request.headers.get("X-Request-Timeout-Ms")
    if asked is None:
        return None
    if not (asked.isascii() and asked.isdigit() and 0 < len(asked) <= 12):
        raise errors.InvalidRequest(
            f"X-Request-Timeout-Ms must be a whole number of milliseconds, 1 or more, not {asked[:40]!r}"
        )
    if (asked_ms := int(asked)) == 0:
        raise errors.DeadlineExceeded("X-Request-Timeout-Ms is 0, so the time for an answer is up")
    return asked_ms
