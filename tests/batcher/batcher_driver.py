"""A batcher without threads or time: a test says when the loop turns, when the model works and what the clock shows."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from itertools import count
from typing import Any

import numpy as np

from stfs.batcher.batcher import Batcher, BatchRecord
from stfs.batcher.places import Instance
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Entry
from stfs.errors import RequestError
from stfs.signature import Tensors


class FakeTimer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class FakeLoop:
    """As much of an event loop as a batcher uses. Never runs anything unless told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.ready: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._numbers = count()

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def call_soon(self, call: Callable[..., None], *args: Any, context: Any = None) -> None:
        self.ready.append(lambda: call(*args))

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> FakeTimer:
        assert delay_s > 0
        timer = FakeTimer(lambda: call(*args))
        heapq.heappush(self._timers, (self.now_s + delay_s, next(self._numbers), timer))
        return timer

    def turn(self) -> None:
        """What is ready now; what that makes ready has to wait for the next turn."""
        for _ in range(len(self.ready)):
            self.ready.popleft()()

    def advance(self, seconds: float) -> None:
        """Let time pass, firing each timer at its time."""
        end_s = self.now_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            due_s, _, timer = heapq.heappop(self._timers)
            self.now_s = max(self.now_s, due_s)
            if timer.call is not None:
                timer.call()
        self.now_s = end_s

    @property
    def armed(self) -> int:
        return sum(timer.call is not None for _, _, timer in self._timers)


class Asked:
    """A request and all that it was told."""

    def __init__(self, inputs: Tensors) -> None:
        self.inputs = inputs
        self.told: list[tuple[Tensors | None, RequestError | None]] = []
        self.entry: Entry | None = None

    def __call__(self, outputs: Tensors | None, error: RequestError | None) -> None:
        self.told.append((outputs, error))

    @property
    def outputs(self) -> Tensors:
        ((outputs, error),) = self.told
        assert error is None
        assert outputs is not None
        return outputs

    @property
    def error(self) -> RequestError:
        ((outputs, error),) = self.told
        assert outputs is None
        assert error is not None
        return error


class Driver:
    """A batcher over ``run``, driven by hand. ``batches`` holds the inputs of every run, ``records`` one for each.

    With ``ups`` it has an instance for each, which is up when that says so; every second may run twice at once.
    """

    def __init__(
        self,
        run: Callable[[Tensors], Tensors],
        policy: BatchPolicy | None = None,
        merge: bool = True,
        row_bytes: int | None = None,
        ups: Sequence[Callable[[], bool]] = (),
        **more: Any,
    ) -> None:
        self.loop = FakeLoop()
        self.clock_ahead_s = 0.0  # of the loop's
        self.jobs: deque[Callable[[], None]] = deque()
        self.batches: list[Tensors] = []
        self.records: list[BatchRecord] = []
        self.refused: list[str] = []
        self.run = run
        self._closings: list[Coroutine[Any, Any, None]] = []
        self.batcher = Batcher(
            self._run,
            policy or BatchPolicy(),
            name="m/1",
            merge=merge,
            loop=self.loop,  # type: ignore[arg-type]
            clock=lambda: self.loop.now_s + self.clock_ahead_s,
            observer=self.records.append,
            start=self.jobs.append,
            instances=[Instance(self._run, is_up, concurrent=bool(i % 2)) for i, is_up in enumerate(ups)],
            row_bytes=row_bytes,
            on_refused=self.refused.append,
            **more,
        )

    def _run(self, inputs: Tensors) -> Tensors:
        self.batches.append(inputs)
        return self.run(inputs)

    def ask(self, rows: Any, deadline_s: float | None = None, priority: int = 0) -> Asked:
        """Submit rows (anything that makes an array) as input ``x``; ``deadline_s`` counts from now."""
        array = rows if isinstance(rows, np.ndarray) else np.array(rows, np.float64)
        asked = Asked({"x": array})
        due_s = None if deadline_s is None else self.loop.now_s + deadline_s
        count = len(array) if array.ndim else 1
        asked.entry = self.batcher.submit(asked.inputs, count, asked, due_s, priority=priority)
        return asked

    def launch(self) -> None:
        """Turn the loop until a batch has left; company that one turn brings holds it for another."""
        for _ in range(10):
            if self.jobs:
                return
            self.loop.turn()
        raise AssertionError("no batch has left")

    def work(self, which: int = 0) -> None:
        """Let the model work off a batch in flight, the first unless said; its outcome waits for the loop."""
        job = self.jobs[which]
        del self.jobs[which]
        job()

    def settle(self) -> None:
        """Turn the loop and let the model work until there is nothing to do."""
        while self.loop.ready or self.jobs:
            self.loop.turn()
            if self.jobs:
                self.work()

    def close(self) -> asyncio.Future[None]:
        """Begin to close; the future is done when a caller that waits would go on."""
        closing = self.batcher.close()
        self._closings.append(closing)  # the collector would take an unfinished one for cancelled
        waited_for: asyncio.Future[None] = closing.send(None)
        return waited_for
