"""What a trace tells of a request over HTTP, by OpenTelemetry's semantic conventions for HTTP servers (1.23 and later).

Must not live here: spans and where they go (``stfs.tracing``).
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from stfs.carry import snake_case
from stfs.context import Lease
from stfs.tracing import Trace, Tracing
from stfs.web.request_ids import request_id


def begin(tracing: Tracing, request: web.Request, started_s: float) -> Trace | None:
    """The trace of a request, ``None`` if it is not one of those that are traced. To be ended by :func:`end`."""
    told: dict[str, str | int] = {
        "http.request.method": request.method,
        "url.path": request.rel_url.raw_path,
        "url.scheme": request.scheme,
        "network.protocol.version": f"{request.version.major}.{request.version.minor}",
    }
    for name, value in (
        ("client.address", request.remote),
        ("user_agent.original", request.headers.get("User-Agent")),
        ("http.request.header.x-request-id", request_id(request)),
    ):
        if value is not None:
            told[name] = value
    return tracing.begin(request.method, request.headers, started_s, told)


def end(
    trace: Trace, request: web.Request, status: int, dialect: str, lease: Lease, failure: BaseException | None
) -> None:
    """The request has been answered with ``status``."""
    told: dict[str, str | int] = {"http.response.status_code": status, "stfs.dialect": dialect}
    name = request.method
    if (served := lease.served) is not None:
        # Only addresses that lead to a model name the span, since others are clients' inventions and without number.
        name = f"{request.method} {request.rel_url.raw_path}"
        told |= {"stfs.model.name": served.name, "stfs.model.version": served.version}
    cancelled = isinstance(failure, asyncio.CancelledError)
    failed = snake_case(type(failure).__name__) if failure is not None and (cancelled or status >= 500) else None
    trace.end(name, lease.decode_s, lease.encode_s, told, failed)
