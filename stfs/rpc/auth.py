"""Basic authentication over gRPC: the ``authorization`` metadata of every call, before its message is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from stfs.carry import credentials_fit
from stfs.config import ServerConfig
from stfs.rpc import health

NEED_AUTH = "Need basic auth to request the resources"

OPEN = f"/{health.NAME}/"
"""Probes ask these methods; they tell nothing and need no credentials, as over HTTP."""


class BasicAuth(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio comes without types
    """Refuses every call, of whatever service, that does not come with the configured name and password."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler:
        """See :class:`grpc.aio.ServerInterceptor`."""
        if not handler_call_details.method.startswith(OPEN):
            given = [value for name, value in handler_call_details.invocation_metadata if name == "authorization"]
            if len(given) != 1 or not credentials_fit(self._config, given[0]):
                return grpc.stream_stream_rpc_method_handler(_refuse)  # which does not wait for a message
        return await continuation(handler_call_details)


async def _refuse(_: Any, rpc: Any) -> None:
    await rpc.abort(grpc.StatusCode.UNAUTHENTICATED, NEED_AUTH)
