"""The batcher itself in made time: an event loop whose clock jumps to what happens next. Nothing is waited for."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any


class Timer:
    """What a loop gives for a call that is to come."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """As much of an event loop as batchers use. Time passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.ready: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.timers: list[tuple[float, int, Timer]] = []
        self._number = 0

    def time(self) -> float:
        return self.now_s

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise AssertionError(f"the loop was told of {context}")

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def call_soon(self, call: Callable[..., None], *args: Any, context: Any = None) -> None:
        self.ready.append((call, args))

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> Timer:
        assert delay_s > 0, f"a timer of {delay_s} s"
        timer = Timer((lambda: call(*args)) if args else call)
        self._number += 1
        heapq.heappush(self.timers, (self.now_s + delay_s, self._number, timer))
        return timer

    def call_at(self, when_s: float, call: Callable[..., None], *args: Any) -> Timer:
        return self.call_later(max(when_s - self.now_s, 1e-9), call, *args)

    def turn(self) -> None:
        """What is ready now; what that makes ready has to wait for the next turn."""
        ready = self.ready
        for _ in range(len(ready)):
            call, args = ready.popleft()
            call(*args)

    def advance(self, seconds: float) -> None:
        """Let time pass; each timer at its time, and nothing else."""
        end_s = self.now_s + seconds
        timers = self.timers
        while timers and timers[0][0] <= end_s:
            due_s, _, timer = heapq.heappop(timers)
            if timer.call is not None:
                self.now_s = max(self.now_s, due_s)
                call, timer.call = timer.call, None
                call()
        self.now_s = end_s

    def run(self) -> None:
        """Until nothing is left to come; after each timer what it made ready."""
        timers = self.timers
        while True:
            while self.ready:
                self.turn()
            if not timers:
                return
            due_s, _, timer = heapq.heappop(timers)
            if timer.call is not None:
                self.now_s = max(self.now_s, due_s)
                call, timer.call = timer.call, None
                call()
