"""What carrying one request has in common over HTTP and gRPC: counting it, timing it, telling what went wrong.

Must not live here: how bytes become tensors (``protocols``), how bytes travel (``web``, ``rpc``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from stfs.batcher.queue import Journey as Journey  # for the rooms that carry, which know no batcher
from stfs.context import Context, Lease
from stfs.errors import InvalidRequest, ModelFailed, RequestError, Unavailable
from stfs.signature import Signature, Tensors

log = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 1000

REQUEST_ID = "X-Request-Id"

ECHOED = (REQUEST_ID, "traceparent")
"""What a client calls its request by comes back with the answer (``traceparent`` is of W3C Trace Context)."""

MAX_ECHOED_CHARACTERS = 512

_VISIBLE = re.compile(r"[\x21-\x7e]+")

ASKS_TIMING = "X-Server-Timing"
"""The header or metadata by which a client asks to be told how long the steps took."""


ASKS_PRIORITY = "X-Request-Priority"
"""The header or metadata by which a client, or what stands before it, asks for a level of priority."""


def server_timing(lease: Lease, journey: Journey) -> str:
    """The value of a ``Server-Timing`` header (W3C Server Timing); durations in milliseconds."""
    rows = f'batch;desc="rows={journey.rows} position={journey.position}"'
    spans = {"decode": lease.decode_s, "queue": journey.queue_s, "run": journey.run_s, "encode": lease.encode_s}
    told = [f"{name};dur={seconds * 1e3:.3f}" for name, seconds in spans.items()]
    cache = [f'cache;desc="{journey.cache}"'] if journey.cache else []
    return ", ".join([*told[:2], *cache, rows, *told[2:]])


@contextmanager
def counted(context: Context, lease: Lease, dialect: str, request_id: str | None = None) -> Iterator[None]:
    """Around one request: counts it once, whatever happens, and lets its model go at the end.

    What is not foreseen is logged, and raised as :class:`ModelFailed`. The log tells the request's id, if it has one.
    """
    started_s = time.monotonic()
    outcome = "ok"
    try:
        yield
    except RequestError as error:
        outcome = snake_case(type(error).__name__)
        log_failure(error, dialect, request_id)
        raise
    except asyncio.CancelledError:
        outcome = "cancelled"
        raise
    except Exception as error:
        outcome = "internal"
        log.exception("a request of dialect %s failed%s", dialect, called(request_id))
        raise ModelFailed(f"{type(error).__name__}: {error}") from error
    finally:
        record(context, lease, dialect, outcome, time.monotonic() - started_s)
        lease.release()


def record(context: Context, lease: Lease, dialect: str, outcome: str, seconds: float) -> None:
    """Count one answered request under the model that it held, if any."""
    served = lease.served
    name, version = (served.name, str(served.version)) if served is not None else ("-", "-")
    context.metrics.record_request(name, version, dialect, outcome, seconds, lease.decode_s, lease.encode_s)


async def infer(
    lease: Lease, signature: Signature, inputs: Tensors, deadline_s: float | None, journey: Journey | None = None
) -> Tensors:
    """The outputs of the model that ``lease`` holds; see :meth:`stfs.model.Model.infer`."""
    model = lease.model
    assert model is not None, "a decoded request holds its model"
    return await model.infer(signature, inputs, deadline_s, journey, lease.priority, lease.client)


def tell(error: RequestError, lease: Lease) -> str:
    """The error's text for the client, with the model's name where one was found; bounded."""
    text = str(error)
    served = lease.served
    if served is not None and isinstance(error, InvalidRequest | ModelFailed) and not text.startswith("model "):
        text = f'model "{served.name}" version {served.version}: {text}'
    if len(text) > MAX_ERROR_CHARACTERS:  # texts quote what the client sent
        text = text[:MAX_ERROR_CHARACTERS] + "..."
    return text


def retry_after_s(error: RequestError) -> int | None:
    """Whole seconds after which the same request may be answered; ``None`` where waiting does not help."""
    if not isinstance(error, Unavailable):
        return None
    return max(1, math.ceil(error.retry_after_s))


def asked_priority(asked: str | None) -> int:
    """What a request's :data:`ASKS_PRIORITY` says; 0 if it is not there. Raises :class:`InvalidRequest`."""
    if asked is None:
        return 0
    if not (asked.isascii() and asked.isdigit() and len(asked) <= 19):
        raise InvalidRequest(
            f"{ASKS_PRIORITY} must be a whole number, 1 for the highest level or 0 for the default, not {asked[:40]!r}"
        )
    return int(asked)


def deadline(limit_s: float, asked_ms: float | None, now_s: float) -> float | None:
    """When a request expires: the server's limit (0: none) or what the client asked for, whichever is sooner."""
    bound_s = min(limit_s or math.inf, math.inf if asked_ms is None else asked_ms / 1e3)
    return None if math.isinf(bound_s) else now_s + bound_s


def sooner(deadline_s: float | None, lease: Lease, started_s: float) -> float | None:
    """The deadline, or the one that the request's body has asked for if that is sooner."""
    if lease.timeout_s is None:
        return deadline_s
    asked_s = started_s + lease.timeout_s
    return asked_s if deadline_s is None else min(asked_s, deadline_s)


def served_headers(lease: Lease) -> Mapping[str, str]:
    """Which version answered, for an answer's headers or metadata; empty if none was found."""
    return {} if lease.served is None else {"X-Served-Model-Version": str(lease.served.version)}


def echoed(headers: Mapping[str, str]) -> dict[str, str]:
    """What of the request's headers (names in any case, if ``headers`` takes them so) comes back with the answer."""
    return {name: value for name in ECHOED if (value := headers.get(name)) is not None and is_sane(value)}


def is_sane(value: str) -> bool:
    """Whether a client may call its request so: visible ASCII without spaces, of a bounded length."""
    return len(value) <= MAX_ECHOED_CHARACTERS and _VISIBLE.fullmatch(value) is not None


def gives_ids(context: Context) -> bool:
    """Whether requests whose clients give them no id are given one: where something is kept of each of them."""
    return context.config.access_log != "off" or context.tracing is not None


def make_request_id() -> str:
    """32 hexadecimal digits at random, as a trace id has them."""
    return secrets.token_hex(16)


def called(request_id: str | None) -> str:
    """What a line of the log says besides, of a request with this id."""
    return "" if request_id is None else f" ({REQUEST_ID}: {request_id})"


def log_failure(error: RequestError, dialect: str, request_id: str | None) -> None:
    """Log whose request it was that the model failed at; the model's own words are logged with its batch."""
    if request_id is not None and isinstance(error, ModelFailed):
        log.error("a request of dialect %s failed%s: %s", dialect, called(request_id), error)


def snake_case(name: str) -> str:
    """``VersionNotFound`` as ``version_not_found``, for the outcome label."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
