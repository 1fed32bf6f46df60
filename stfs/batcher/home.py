"""The event loop that a batcher belongs to: :class:`Home`. Must not live here: threads, timers of anybody."""

from __future__ import annotations

import asyncio

from stfs.batcher.queue import Entry
from stfs.errors import RequestError
from stfs.signature import Tensors


class Home:
    """``given`` is the loop, or ``None``: the one that runs when it is first asked for."""

    __slots__ = ("given",)

    def __init__(self, given: asyncio.AbstractEventLoop | None) -> None:
        self.given = given

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop. The first time on its own thread, unless it was given."""
        if self.given is None:
            self.given = asyncio.get_running_loop()
        return self.given

    def answer(self, entry: Entry, outputs: Tensors | None, error: RequestError | None) -> None:
        """Answer one of several: what a reply raises to end the process keeps no other from its answer."""
        try:
            entry.answer(outputs, error)
        except BaseException as end:
            self.raise_later(end)

    def raise_later(self, end: BaseException) -> None:
        """A reply asks the process to end. That may wait for a turn of its own; the other answers may not."""
        self.loop.call_soon(_raise, end)


def _raise(error: BaseException) -> None:
    raise error
