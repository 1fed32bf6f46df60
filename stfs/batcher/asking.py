"""Waiting in a coroutine for what is answered by a call: :func:`answer_of`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from stfs.batcher.queue import Reply
from stfs.errors import RequestError
from stfs.signature import Tensors


class Asked(Protocol):
    """A request that is under way."""

    def cancel(self) -> None:
        """Take it back. Must do nothing once it has been answered."""


async def answer_of(loop: asyncio.AbstractEventLoop, submit: Callable[[Reply], Asked]) -> Tensors:
    """What ``submit`` has its reply called with: the answer is returned, the error raised.

    Cancelling the task cancels the request. Raises what ``submit`` raises.
    """
    future: asyncio.Future[tuple[Tensors | None, RequestError | None]] = loop.create_future()

    def reply(outputs: Tensors | None, error: RequestError | None) -> None:
        if not future.done():
            future.set_result((outputs, error))

    asked = submit(reply)
    try:
        outputs, error = await future
    finally:
        asked.cancel()  # does nothing unless this task was cancelled
    if error is not None:
        raise error
    assert outputs is not None
    return outputs
