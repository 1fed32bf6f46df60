"""Entries for which a moment comes, by one timer: :class:`Due`. Event-loop thread.

Must not live here: which moment that is, and what comes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from stfs.batcher.deadlines import Deadlines
from stfs.batcher.home import Home
from stfs.batcher.queue import Entry

TICK_S = 0.001
"""Event loops round their timers to milliseconds: a shorter one would fire early and spin until it is due."""


class Due:
    """``act`` is called with each entry that still waits when its moment has come, and with the time."""

    __slots__ = ("_act", "_clock", "_home", "_table", "_timer")

    def __init__(self, home: Home, clock: Callable[[], float], act: Callable[[Entry, float], None]) -> None:
        self._home = home
        self._clock = clock
        self._act = act
        self._table = Deadlines()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, entry: Entry, at_s: float) -> None:
        """Watch ``entry`` until ``at_s``, in seconds of the clock."""
        if self._table.add(entry, at_s):
            self._arm()

    def look(self, now_s: float) -> None:
        """Act on those whose moment has come; the timer may be late, or the clock ahead of it."""
        while (entry := self._table.pop(now_s)) is not None:
            try:
                self._act(entry, now_s)
            except BaseException as end:
                self._home.raise_later(end)

    def stop(self) -> None:
        """Nobody is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.stop()
        next_s = self._table.next_s()
        if next_s is not None:
            self._timer = self._home.loop.call_later(max(next_s - self._clock(), TICK_S), self._on_time)

    def _on_time(self) -> None:
        self.look(self._clock())
        self._arm()
