"""A batcher that answers equal requests once: from a cache, or all that are under way at a time from one run.

Equal requests wait for one *flight*, which is an entry of the batcher like any other and belongs to none of them. So
each keeps its own deadline and may be cancelled without the others noticing: a flight is taken back when nobody waits
for it any more, unless the model has it in hand already. What fails, fails for all that wait, since they asked the
same, and is asked anew by the next: errors are not kept. Where it was refused for what it had waited, those who came
later are given a run of their own.

For the event-loop thread; digests of large inputs and copies of large answers are made on others. Must not live here:
what is kept and for how long (``cache``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

from stfs.batcher.admission import level_of
from stfs.batcher.batcher import Batcher
from stfs.batcher.cache import ResponseCache, digest, kept
from stfs.batcher.large import LargeEntry
from stfs.batcher.queue import Entry, Journey, Reply
from stfs.errors import DeadlineExceeded, ModelFailed, Overloaded, RequestError
from stfs.signature import STRING, Tensors

if TYPE_CHECKING:
    from stfs.batcher._lane import Lane

HIT, MISS, SHARED = "hit", "miss", "shared"
"""What became of a request: answered from the cache, run, or answered by the run of an equal one."""

AWAY_BYTES = 1 << 18
"""Inputs of this size and over are digested on a thread, and answers copied there: on the loop each would take a third
of a millisecond."""

AWAY_STRINGS = 1 << 12
"""As many strings are, whatever their size."""


FlightKey = tuple[bytes, int]
"""Digest and level: who is let past others is not to wait with those who are not."""


class Waiter(Entry):
    """A request that waits for a flight. Never queued itself."""

    __slots__ = ("flight",)

    def __init__(self, reply: Reply, arrived_s: float, deadline_s: float | None, journey: Journey | None) -> None:
        super().__init__({}, 0, None, reply, arrived_s, math.inf if deadline_s is None else deadline_s, journey)
        self.flight: Flight | None = None

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        super().cancel()
        self._leave()

    def answer(self, outputs: Tensors | None, error: RequestError | None) -> None:
        """As any entry; one that is answered early (it is late) lets its flight go."""
        flight, self.flight = self.flight, None
        super().answer(outputs, error)
        if flight is not None:
            flight.left()

    def _leave(self) -> None:
        flight, self.flight = self.flight, None
        if flight is not None:
            flight.left()


class Flight:
    """One run for all who ask the same, at the same level, meanwhile. ``entry`` is its place in the queue."""

    __slots__ = ("_batcher", "_left", "entry", "inputs", "key", "rows", "waiters")

    entry: Entry

    def __init__(self, batcher: SharingBatcher, key: FlightKey, inputs: Tensors, rows: int) -> None:
        self._batcher = batcher
        self._left = 0
        self.key = key
        self.inputs = inputs
        self.rows = rows
        self.waiters: list[Waiter] = []

    def join(self, waiter: Waiter) -> None:
        """``waiter`` is answered when this comes home, unless it is before."""
        waiter.flight = self
        self.waiters.append(waiter)

    def left(self) -> None:
        """One of those who waited does not any more. If it was the last, nothing is begun for nobody."""
        self._left += 1
        is_begun = self.entry.queue is None and not isinstance(self.entry, LargeEntry)
        if self._left == len(self.waiters) and not is_begun:
            self.entry.cancel()
            self._batcher.forget(self)

    def home(self, outputs: Tensors | None, error: RequestError | None) -> None:
        """The reply of ``entry``."""
        self._batcher.landed(self, outputs, error)


class SharingBatcher(Batcher):
    """As :class:`Batcher`, whose parameters it takes, but equal requests share an answer.

    ``place`` is what all its requests ask for (a signature's name), where ``cache`` is shared with others. Without a
    ``cache`` only requests that are under way at the same time do. ``counted`` is told of each request what became of
    it (:data:`HIT`, :data:`MISS`, :data:`SHARED`) and of each eviction (``"evicted"``), with how many.

    It shares nothing before ``is_open`` is set, so that a model is warmed up by runs.
    """

    def __init__(
        self, *args: Any, place: str, cache: ResponseCache | None, counted: Callable[[str, int], None], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.is_open = False
        self._place = place
        self._cache = cache
        self._counted = counted
        self._flights: dict[FlightKey, Flight] = {}

    def submit(
        self,
        inputs: Tensors,
        rows: int,
        reply: Reply,
        deadline_s: float | None = None,
        journey: Journey | None = None,
        priority: int = 0,
        client: Hashable = None,
    ) -> Entry:
        """As :meth:`Batcher.submit`. The arrays of an answer may be others' too, and then are read-only.

        With large inputs a full queue is told by the reply.
        """
        if not self.is_open or self._ending.begun:
            return super().submit(inputs, rows, reply, deadline_s, journey, priority, client)
        now_s = self.clock()
        if deadline_s is not None and deadline_s <= now_s:
            raise DeadlineExceeded(f"the deadline passed {now_s - deadline_s:.3f} s before {self.name} was asked")
        # The level that is meant: who names the default shares with who names none, and one that is not there is
        # refused whatever is kept.
        priority = level_of(self.policy, priority)
        waiter = Waiter(reply, now_s, deadline_s, journey)
        waiter.client = client
        if _is_large(inputs):
            self._digest_away(waiter, inputs, rows, priority)
        else:
            self._look_up(waiter, inputs, rows, (digest(self._place, inputs), priority))
        if deadline_s is not None:
            self._deadlines.add(waiter, deadline_s)
        return waiter

    def lane(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> Lane | None:
        """None: a lane's requests are run as one, and this looks at each of them."""
        return None

    def _digest_away(self, waiter: Waiter, inputs: Tensors, rows: int, priority: int) -> None:
        digested = self.home.loop.run_in_executor(None, digest, self._place, inputs)

        def look_up(future: asyncio.Future[bytes]) -> None:
            if future.cancelled() or waiter.answered:
                return
            try:
                self._look_up(waiter, inputs, rows, (future.result(), priority))
            except RequestError as error:
                waiter.answer(None, error)
            except Exception as error:
                waiter.answer(None, ModelFailed(f"{self.name}: {type(error).__name__}: {error}"))

        digested.add_done_callback(look_up)

    def _look_up(self, waiter: Waiter, inputs: Tensors, rows: int, key: FlightKey) -> None:
        if self._cache is not None and (outputs := self._cache.get(key[0])) is not None:
            self._tell(waiter, HIT)
            self.home.loop.call_soon(waiter.answer, outputs, None)
            return
        flight = self._flights.get(key)
        if flight is None:
            flight = self._begin(Flight(self, key, inputs, rows), waiter.journey, waiter.client)
            self._tell(waiter, MISS)
        else:
            if waiter.journey is not None and flight.entry.journey is None:
                flight.entry.journey = Journey()
                self.dispatcher.anybody_asks = True
            self._tell(waiter, SHARED)
        flight.join(waiter)

    def _begin(self, flight: Flight, journey: Journey | None, client: Hashable) -> Flight:
        """Queue a flight. Without a deadline: those are the requests' own, and it may turn out to be for several.

        It counts as that of the ``client`` who was the first to ask.
        """
        flight.entry = super().submit(flight.inputs, flight.rows, flight.home, None, journey, flight.key[1], client)
        self._flights[flight.key] = flight
        return flight

    def _tell(self, waiter: Waiter, what: str) -> None:
        self._counted(what, 1)
        if waiter.journey is not None:
            waiter.journey.cache = what

    def forget(self, flight: Flight) -> None:
        """``flight`` is not to be joined any more."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def landed(self, flight: Flight, outputs: Tensors | None, error: RequestError | None) -> None:
        """``flight`` has come home: answer all that wait for it, and keep the answer."""
        self.forget(flight)
        waiting = [waiter for waiter in flight.waiters if not waiter.answered]
        if isinstance(error, Overloaded):
            waiting = self._try_again(flight, waiting)
        if outputs is not None and (self._cache is not None or len(waiting) > 1):
            outputs = _read_only(outputs)
        for waiter in waiting:
            waiter.flight = None
            if waiter.journey is not None and flight.entry.journey is not None:
                _travelled_along(waiter.journey, flight.entry.journey, waiter.arrived_s)
            self.home.answer(waiter, outputs if outputs is None else dict(outputs), error)
        if outputs is not None and self._cache is not None:
            self._keep(self._cache, flight.key[0], outputs)

    def _try_again(self, flight: Flight, waiting: list[Waiter]) -> list[Waiter]:
        """After a refusal, for those who came later and so have not waited for too long; once, for then all have.

        Returns those who are to be told of it.
        """
        later = [waiter for waiter in waiting if waiter.arrived_s > flight.entry.arrived_s]
        if not later:
            return waiting
        # Whose the inputs are will be told now, and may write to them from then on.
        own = {name: array.copy() for name, array in flight.inputs.items()}
        try:
            again = self._begin(Flight(self, flight.key, own, flight.rows), later[0].journey, later[0].client)
        except RequestError:  # there is no room now either
            return waiting
        for waiter in later:
            again.join(waiter)
        return [waiter for waiter in waiting if waiter.flight is flight]

    def _keep(self, cache: ResponseCache, key: bytes, outputs: Tensors) -> None:
        def put(own: Tensors) -> None:
            evictions = cache.evictions
            cache.put(key, own)
            if cache.evictions > evictions:
                self._counted("evicted", cache.evictions - evictions)

        if not _is_large(outputs):
            put(kept(outputs))
            return

        def copied(future: asyncio.Future[Tensors]) -> None:
            # There may have been no memory for it; and what was copied for too long is nobody's any more.
            if not future.cancelled() and future.exception() is None and not self.closing:
                put(future.result())

        self.home.loop.run_in_executor(None, kept, outputs).add_done_callback(copied)

    async def close(self) -> None:
        """As :meth:`Batcher.close`; what was kept is forgotten."""
        await super().close()
        if self._cache is not None:
            self._cache.clear()


def _is_large(tensors: Tensors) -> bool:
    size = 0
    for array in tensors.values():
        if array.dtype != STRING:
            size += array.nbytes
        elif array.size < AWAY_STRINGS:
            size += sum(map(len, array.ravel().tolist()))
        else:
            return True
    return size >= AWAY_BYTES


def _read_only(outputs: Tensors) -> Tensors:
    """Views of ``outputs`` for several receivers, none of whom can write to what the others read."""
    views: Tensors = {}
    for name, array in outputs.items():
        views[name] = view = array.view()
        view.flags.writeable = False
    return views


def _travelled_along(journey: Journey, flight: Journey, arrived_s: float) -> None:
    """What became of a request that shared a flight, as its own journey tells it."""
    together = flight.together
    if together is None or journey is flight:
        return
    journey.together = together
    together.journeys.append(journey)
    journey.rows, journey.position = flight.rows, flight.position
    boarded_s = max(together.launched_s, arrived_s)
    journey.queue_s, journey.run_s = boarded_s - arrived_s, together.finished_s - boarded_s
