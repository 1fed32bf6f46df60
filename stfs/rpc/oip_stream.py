"""``ModelStreamInfer``: many requests over one call, answered in the order in which they came.

Several are in flight at once, so that those of one stream share batches. A request that fails is answered by a message
that says so, and the stream goes on; with the metadata ``triton_grpc_error: true`` it ends the stream instead. All as
in Triton (``stream_infer_handler.cc``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from stfs.carry import tell
from stfs.context import Context
from stfs.errors import RequestError
from stfs.protocols import oip_pb
from stfs.rpc.oip import DIALECT, INFERENCE_SERVICE, answer
from stfs.rpc.unary import Call, check_size, counted_call, open_call, refuse

log = logging.getLogger("stfs.rpc")

MAX_IN_FLIGHT = 128
"""Requests of one stream that are read and not yet answered; a client that sends more waits (gRPC's flow control)."""

STREAM = f"{INFERENCE_SERVICE}/ModelStreamInfer"
"""Each request of a stream is counted and traced as a call of this."""

ENDS_ON_ERROR = "triton_grpc_error"

SHUTTING_DOWN = "the server is shutting down: requests that were not answered can be sent to another one"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes back for one request: a message, and the error that it tells of if there is one."""

    body: bytes
    call: Call
    error: RequestError | None = None


Tasks = asyncio.Queue["asyncio.Task[_Answer] | None"]


class Streams:
    """The handler of ``ModelStreamInfer``. For the event-loop thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Read no more requests: streams end when what they have read is answered, for clients may hold them open."""
        self._ending.set()

    def methods(self) -> Mapping[str, grpc.RpcMethodHandler]:
        """The method by its name."""
        return {"ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream)}

    async def _stream(self, requests: AsyncIterator[bytes], rpc: Any) -> None:
        tasks: Tasks = asyncio.Queue()
        room = asyncio.Semaphore(MAX_IN_FLIGHT)
        started: set[asyncio.Task[_Answer]] = set()

        def start(body: bytes) -> asyncio.Task[_Answer]:
            task = asyncio.create_task(_answer(self._context, body, open_call(self._context, rpc, STREAM)))
            started.add(task)
            task.add_done_callback(started.discard)
            return task

        reader = asyncio.create_task(_read(requests, start, room, tasks))
        ending = asyncio.create_task(_cancel_when(self._ending, reader))
        ends_on_error = dict(rpc.invocation_metadata()).get(ENDS_ON_ERROR) == "true"
        try:
            while (task := await tasks.get()) is not None:
                told = await task
                if told.error is not None and ends_on_error:
                    await refuse(rpc, DIALECT, told.call, told.error)
                await rpc.write(told.body)
                room.release()
            if self._ending.is_set():
                await rpc.abort(grpc.StatusCode.UNAVAILABLE, SHUTTING_DOWN)
        finally:
            left: list[asyncio.Task[Any]] = [reader, ending, *started]
            for one in left:
                one.cancel()
            await asyncio.gather(*left, return_exceptions=True)


async def _read(
    requests: AsyncIterator[bytes],
    start: Callable[[bytes], asyncio.Task[_Answer]],
    room: asyncio.Semaphore,
    tasks: Tasks,
) -> None:
    try:
        await room.acquire()
        async for body in requests:
            tasks.put_nowait(start(body))
            await room.acquire()
    except Exception as error:
        log.debug("a stream broke off: %s", error)  # its client has gone, or sent what gRPC has answered by itself
    finally:
        tasks.put_nowait(None)


async def _cancel_when(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    await event.wait()
    task.cancel()


async def _answer(context: Context, body: bytes, call: Call) -> _Answer:
    """The answer to one request, an error or not."""
    message: oip_pb.Message | None = None
    started_s = time.monotonic()
    try:
        with counted_call(call, DIALECT, STREAM):
            check_size(context, body)
            call.heed()
            message = oip_pb.scan(body)
            return _Answer(await answer(call, message, started_s, oip_pb.encode_streamed), call)
    except RequestError as error:
        return _Answer(oip_pb.encode_stream_error(tell(error, call.lease), message), call, error)
