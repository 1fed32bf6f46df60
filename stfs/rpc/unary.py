"""Carrying one call of one request and one answer: metadata, deadlines, counting, errors as gRPC statuses.

A dialect's pure functions make the bytes; ``stfs.carry`` holds what HTTP does the same way. Requests and answers are
bytes here, so that no message object is made of a tensor.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from stfs.access.client import client_of
from stfs.carry import (
    ASKS_PRIORITY,
    ASKS_TIMING,
    REQUEST_ID,
    Journey,
    asked_priority,
    called,
    counted,
    deadline,
    echoed,
    gives_ids,
    is_sane,
    make_request_id,
    retry_after_s,
    served_headers,
    server_timing,
    tell,
)
from stfs.context import Context, Lease
from stfs.errors import ModelFailed, RequestError, TooLarge
from stfs.rpc.peers import address_of
from stfs.rpc.traced import CANCELLED, begin, end
from stfs.tracing import Trace

log = logging.getLogger("stfs.rpc")

STATUS_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

PUSHBACK = "grpc-retry-pushback-ms"
"""By this metadata a server tells a client that retries how long to wait (gRPC proposal A6)."""

Metadata = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the carrying needs of a dialect. ``name`` is its label in the metrics; statuses are numbers of gRPC's."""

    name: str
    status_of: Callable[[RequestError], int]


@dataclass(slots=True)
class Call:
    """One call being served. ``deadline_s`` is in seconds of ``time.monotonic``; ``journey`` is there if wanted."""

    context: Context
    lease: Lease
    deadline_s: float | None
    journey: Journey | None
    metadata: Metadata
    request_id: str | None
    trace: Trace | None

    @property
    def says_priority(self) -> bool:
        """Whether the metadata asks for a level, which then beats what the message says."""
        return ASKS_PRIORITY.lower() in self.metadata

    def heed(self) -> None:
        """Take the level of priority that the metadata asks for. Raises :class:`stfs.errors.InvalidRequest`."""
        self.lease.priority = asked_priority(self.metadata.get(ASKS_PRIORITY.lower()))

    def trailing(self) -> tuple[tuple[str, str], ...]:
        """What the answer's trailing metadata tells: who answered, the client's own marks, times if it asked."""
        told = {**served_headers(self.lease), **echoed(_AnyCase(self.metadata))}
        if self.request_id is not None:
            told[REQUEST_ID] = self.request_id
        if self.journey is not None and ASKS_TIMING.lower() in self.metadata:
            told["Server-Timing"] = server_timing(self.lease, self.journey)
        return tuple((name.lower(), value) for name, value in told.items())


Work = Callable[[Call, bytes], Awaitable[bytes]]


def open_call(context: Context, rpc: Any, method: str | None = None) -> Call:
    """The call that ``rpc``, gRPC's context of it, is of. Its lease is the caller's to release.

    ``method``, if it is an inference, is what its trace is called by; see :func:`traced`.
    """
    started_s = time.monotonic()
    metadata = {name: value for name, value in rpc.invocation_metadata() if isinstance(value, str)}
    left_s = rpc.time_remaining()
    limit_s = context.config.grpc_request_timeout_s
    if limit_s is None:
        limit_s = context.config.request_timeout_s
    expires_s = deadline(limit_s, None if left_s is None else left_s * 1e3, started_s)
    request_id = metadata.get(REQUEST_ID.lower())
    if request_id is None or not is_sane(request_id):
        request_id = make_request_id() if gives_ids(context) else None
    trace = None
    if context.tracing is not None and method is not None:
        trace = begin(context.tracing, method, rpc.peer(), metadata, request_id, started_s)
    if trace is not None:
        journey: Journey | None = trace.journey
    else:
        journey = Journey() if ASKS_TIMING.lower() in metadata else None
    lease = Lease(context)
    if (share := context.config.client_share) != "off":
        shown = metadata.get("authorization")
        known = None if shown is None else shown.encode(errors="surrogateescape")
        lease.client = client_of(share, context.door, known, address_of(rpc.peer()))
    return Call(context, lease, expires_s, journey, metadata, request_id, trace)


@contextmanager
def traced(call: Call, method: str, dialect: Dialect) -> Iterator[None]:
    """Around the work of an inference whose answer is written last: ends its trace, if it has one."""
    trace = call.trace
    if trace is None:
        yield
        return
    try:
        yield
    except RequestError as error:
        end(trace, method, dialect.status_of(error), dialect.name, call.lease, error)
        raise
    except asyncio.CancelledError as gone:
        end(trace, method, CANCELLED, dialect.name, call.lease, gone)
        raise
    trace.encoded_s = time.monotonic()
    end(trace, method, 0, dialect.name, call.lease, None)


def unary(context: Context, dialect: Dialect, work: Work, inference: str | None = None) -> grpc.RpcMethodHandler:
    """A handler that answers with what ``work`` makes of the request.

    ``work`` holds its model by the call's lease, which is released here, and raises :class:`RequestError` for whatever
    goes wrong. ``inference``, the method's whole name (``SERVICE/METHOD``), says that it is to be counted among the
    requests of its model, and traced. A client that cancels or
    whose deadline passes cancels ``work``, which withdraws its request from the batcher.
    """

    async def handle(body: bytes, rpc: Any) -> bytes:
        call = open_call(context, rpc, inference)
        try:
            with counted_call(call, dialect, inference):
                check_size(context, body)
                call.heed()
                answer = await work(call, body)
        except RequestError as error:
            await refuse(rpc, dialect, call, error)
        rpc.set_trailing_metadata(call.trailing())
        return answer

    return grpc.unary_unary_rpc_method_handler(handle)


async def refuse(rpc: Any, dialect: Dialect, call: Call, error: RequestError) -> NoReturn:
    """End the call with the error's status and text. Raises what gRPC ends a call by."""
    metadata = call.trailing()
    if (wait_s := retry_after_s(error)) is not None:
        metadata += ((PUSHBACK, str(wait_s * 1000)),)
    code = STATUS_CODES[dialect.status_of(error)]
    if log.isEnabledFor(logging.DEBUG):
        log.debug("%s %s %s", dialect.name, code.name, " ".join(f"{name}={value}" for name, value in metadata))
    await rpc.abort(code, tell(error, call.lease), metadata)
    raise AssertionError("abort does not return")


def check_size(context: Context, body: bytes) -> None:
    """Raise :class:`TooLarge` for a message over the limit; gRPC itself does so first for what it has not unpacked."""
    limit_bytes = context.config.max_request_bytes
    if len(body) > limit_bytes:
        raise TooLarge(f"the message is over the limit of {limit_bytes} bytes; send less or raise --max_request_bytes")


@contextmanager
def counted_call(call: Call, dialect: Dialect, inference: str | None) -> Iterator[None]:
    """Around the work of a call, whose lease it releases: counts and traces an inference."""
    if inference is None:
        with _uncounted(call):
            yield
    else:
        with (
            traced(call, inference, dialect),
            counted(call.context, call.lease, dialect.name, call.request_id),
        ):
            yield


@contextmanager
def _uncounted(call: Call) -> Iterator[None]:
    """As :func:`stfs.carry.counted`, for calls that are no inference."""
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        log.exception("a call failed%s", called(call.request_id))
        raise ModelFailed(f"{type(error).__name__}: {error}") from error
    finally:
        call.lease.release()


class _AnyCase(dict[str, str]):
    """Metadata, whose names are in lower case, to be asked by the spelling that HTTP has."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)
