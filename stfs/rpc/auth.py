"""Credentials over gRPC: the ``authorization`` metadata of every call, looked at before its message is read.

Who may do what is ``stfs.access``'s to say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio

from stfs.access.door import Door, Refusal, Why
from stfs.access.scopes import Scope, rpc_scope
from stfs.rpc.peers import address_of
from stfs.rpc.unary import PUSHBACK

CODES = {
    Why.CREDENTIALS: grpc.StatusCode.UNAUTHENTICATED,
    Why.SCOPE: grpc.StatusCode.PERMISSION_DENIED,
    Why.TRIES: grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio comes without types
    """Refuses every call, of whatever service, that does not come with credentials that allow it."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[grpc.RpcMethodHandler | None]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler | None:
        """See :class:`grpc.aio.ServerInterceptor`."""
        method, needs = handler_call_details.method, rpc_scope(handler_call_details.method)
        given = _authorization(handler_call_details.invocation_metadata)
        handler = await continuation(handler_call_details)
        if not needs or self._door.lets_in(given, needs):
            return handler
        # The client's address is known to a handler only, and one of streams does not wait for a message.
        return grpc.stream_stream_rpc_method_handler(self._looking_first(given, needs, handler, method))

    def _looking_first(
        self, given: bytes | None, needs: Scope, handler: grpc.RpcMethodHandler | None, method: str
    ) -> Callable[[AsyncIterator[bytes], Any], Awaitable[None]]:
        async def handle(requests: AsyncIterator[bytes], rpc: Any) -> None:
            refusal = await self._door.refusal(given, address_of(rpc.peer()), needs)
            if refusal is not None:
                await _refuse(rpc, refusal)
            if handler is None:
                await rpc.abort(grpc.StatusCode.UNIMPLEMENTED, f"no method {method[:200]} here")
            await _carry(handler, requests, rpc)

        return handle


async def _carry(handler: Any, requests: AsyncIterator[bytes], rpc: Any) -> None:
    """Have a handler of any kind answer a call that was taken as one of streams: on the wire they are the same."""
    asked: Any = requests
    if not handler.request_streaming:
        asked = await rpc.read()
        if asked is grpc.aio.EOF:
            await rpc.abort(grpc.StatusCode.INTERNAL, "the call has no message")
    kind = ("stream" if handler.request_streaming else "unary", "stream" if handler.response_streaming else "unary")
    answer = getattr(handler, "_".join(kind))(asked, rpc)
    if hasattr(answer, "__aiter__"):
        async for message in answer:
            await rpc.write(message)
        return
    message = await answer
    if not handler.response_streaming:
        await rpc.write(message)


async def _refuse(rpc: Any, refusal: Refusal) -> None:
    metadata = ((PUSHBACK, str(refusal.retry_after_s * 1000)),) if refusal.retry_after_s else ()
    await rpc.abort(CODES[refusal.why], refusal.text, metadata)


def _authorization(metadata: Sequence[tuple[str, str | bytes]]) -> bytes | None:
    given = [value for name, value in metadata if name == "authorization"]
    if len(given) != 1:
        return None
    return given[0].encode(errors="surrogateescape") if isinstance(given[0], str) else given[0]
