"""``grpc.health.v1.Health``: whether the server, or one of its services, answers. Needs no credentials.

Its two messages have one field each, so they are read and written here. See
https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from stfs.errors import InvalidRequest
from stfs.protocols import wire

NAME = "grpc.health.v1.Health"

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
"""``HealthCheckResponse.ServingStatus``."""


class Health:
    """Tells one status for the server (``""``) and each of ``services``. For the event-loop thread."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", NAME, *services))
        self._serving = False
        self._ended = False
        self._changed = asyncio.Event()

    def tell(self, serving: bool) -> None:
        """The status from now on; those who watch are told."""
        self._serving = serving
        self._wake()

    def end(self) -> None:
        """No longer serving, and nobody watches any more: a call that never ends would hold up the shutdown."""
        self._ended = True
        self.tell(False)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service."""
        return grpc.method_handlers_generic_handler(
            NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self._check),
                "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return SERVICE_UNKNOWN
        return SERVING if self._serving else NOT_SERVING

    async def _check(self, body: bytes, rpc: Any) -> bytes:
        service = await _service(body, rpc)
        status = self._status(service)
        if status == SERVICE_UNKNOWN:
            await rpc.abort(grpc.StatusCode.NOT_FOUND, f"no service {service[:200]!r} here")
        return wire.encode_number(1, status)

    async def _watch(self, body: bytes, rpc: Any) -> AsyncIterator[bytes]:
        service = await _service(body, rpc)
        told = None
        while True:
            changed = self._changed
            if (status := self._status(service)) != told:
                told = status
                yield wire.encode_number(1, status)
            if self._ended:
                return
            await changed.wait()


async def _service(body: bytes, rpc: Any) -> str:
    """The name that a ``HealthCheckRequest`` asks for; ends the call if it is no such message."""
    name = ""
    try:
        for number, kind, begin, end in wire.fields(body, (0, len(body))):
            if number == 1 and kind == wire.LEN:
                name = wire.text(body, (begin, end), "service")
    except InvalidRequest as error:
        await rpc.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
    return name
