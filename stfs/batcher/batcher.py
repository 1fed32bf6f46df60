"""The batcher: gathers requests on the event loop, runs them in batches on threads of its own, answers each once.

This file is what others see of it, and the way in. Everything here happens on the event-loop thread. Must not live
here: how batches leave and come home (``dispatch``), the decision when (``policy``), what those are told who are
refused (``refusals``), levels (``level_entry``), runs that hang (``run_watch``), how its threads end (``ending``).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stfs.batcher.adaptive import Adaptive
from stfs.batcher.asking import answer_of
from stfs.batcher.batch import batch_key
from stfs.batcher.clients import ClientQueue
from stfs.batcher.cost import Cost
from stfs.batcher.dispatch import Dispatcher
from stfs.batcher.due import Due
from stfs.batcher.ending import Ending
from stfs.batcher.home import Home
from stfs.batcher.lanes import Lanes
from stfs.batcher.large import LargeEntry
from stfs.batcher.level_entry import LevelEntry
from stfs.batcher.levels import LevelQueue
from stfs.batcher.places import Instance, Places
from stfs.batcher.policy import BatchPolicy, Slots, admits, for_rows
from stfs.batcher.queue import Entry, Journey, Queue, Reply
from stfs.batcher.refusals import Refusals
from stfs.batcher.run_watch import RunWatch
from stfs.batcher.runner import BatchRecord, Run, Runner
from stfs.batcher.shapes import Padding
from stfs.batcher.slots import Share
from stfs.batcher.thread import Job
from stfs.batcher.weighed import WeighedQueue, size_of
from stfs.errors import DeadlineExceeded, Unavailable
from stfs.signature import Tensors

if TYPE_CHECKING:
    from stfs.batcher._lane import Lane

__all__ = ["BatchRecord", "Batcher"]


class Batcher:
    """Requests of one signature of one model version, in batches.

    ``run`` is blocking and is called by threads of the batcher's own, each of which starts with the first batch that
    needs it: one thread, and as many as ``in_flight`` says where one device is known to overlap that many runs (a batch
    beside another is a full one then). With ``instances`` they are run in the place of ``run``, a thread and one batch
    at a time each, and whichever is free takes what there is. A run is given
    arrays ``[P, ...]`` and must give arrays ``[P, ...]``, each row made from the same row of the inputs. It must not
    keep or change its inputs: they may be the caller's own arrays.
    After ``run_timeout_s`` seconds (0: never) a run is given up: its batch is told :class:`RunTimedOut` at once and a
    new thread takes its place; the run's result is dropped when it comes home.
    With ``merge`` false (rows do not stack) each request is a run of its own and counts as one row.
    ``loop`` is the running loop of the first request unless given. ``clock`` gives seconds on any thread; deadlines
    are moments of it. ``observer`` is called on the event-loop thread, once for every run of the model, and must not
    block. ``start`` runs a job off the loop, in the place of the threads. A test may give its own; it is not stopped.
    ``cost`` is what runs take, as measured when the model was loaded, if it was. ``row_bytes`` is what a row's inputs
    hold, if that is the same for all; if not, each request's bytes are counted where they are bounded. ``on_refused``
    is told of each request that was refused for want of room or time, and why: ``full``, ``bytes``, ``late``,
    ``displaced`` or ``share``; as ``observer``. ``share`` is its part in run slots that models have in common; it is
    left when the batcher is closed. ``padding`` lets requests of unlike length share a batch.
    """

    def __init__(
        self,
        run: Run,
        policy: BatchPolicy,
        *,
        name: str,
        merge: bool = True,
        loop: asyncio.AbstractEventLoop | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: Callable[[BatchRecord], None] | None = None,
        start: Callable[[Job], None] | None = None,
        cost: Cost | None = None,
        instances: Sequence[Instance] = (),
        in_flight: int = 1,
        run_timeout_s: float = 0.0,
        row_bytes: int | None = None,
        on_refused: Callable[[str], None] | None = None,
        share: Share | None = None,
        padding: Padding | None = None,
    ) -> None:
        ways = tuple(instances) or (Instance(run),) * max(1, in_flight)
        slots = Slots(len(ways), len(ways) if instances else 1)
        learns = merge and policy.adaptive and not policy.batch_timeout_s and not policy.preferred_batch_sizes
        adaptive = Adaptive(policy.max_batch_size, cost, *slots) if learns else None
        if not merge:
            row_bytes = None
        policy, bounding_bytes = for_rows(policy, merge, row_bytes)
        self.name = name
        self.policy = policy
        self.clock = clock
        self._merge = merge
        self._key = batch_key if padding is None else padding.key
        self._clients = ClientQueue() if policy.shares_clients else None
        needs_levels = policy.has_levels or policy.bounds_levels or policy.latency_slo_s < math.inf
        levels = self._clients if self._clients is not None else LevelQueue() if needs_levels else None
        weighs = levels is None and policy.max_enqueued_bytes and not row_bytes
        self._weighed = WeighedQueue() if weighs else None
        self.queue: Queue = levels or self._weighed or Queue()  # all are true
        self.home = Home(loop)
        self.places = Places(ways, lambda run: Runner(run, policy, name, merge, clock, padding), name)
        self.dispatcher = Dispatcher(
            name,
            policy,
            self.queue,
            self.places,
            slots,
            self.home,
            self,
            clock=clock,
            adaptive=adaptive,
            share=share,
            start=start,
            observer=observer,
        )
        self._watch = self.dispatcher.watch = RunWatch(
            name,
            run_timeout_s,
            self.places,
            self.home,
            clock,
            settle=self.dispatcher.settle,
            out_of_threads=self._turn_away,
            came_home=self._one_came_home,
        )
        self._refusals = Refusals(name, policy, self.queue, self.dispatcher, bounding_bytes, on_refused)
        self._levels = None if levels is None else LevelEntry(policy, levels, self._refusals, self.home, clock)
        self._deadlines = Due(self.home, clock, self._answer_late)
        self._ending = Ending(name, self.places, self.home)
        self._lanes = Lanes()
        self.overlaps = slots.most > slots.eager
        """Whether a batch may leave beside another once it is full, so that what is queued meanwhile matters."""
        self.closing = False
        """Whether requests are turned away, be it for good or while too many runs hang."""
        self.joined = self.dispatcher.joined
        """To be told of a request that has just been queued. Need not be while nothing would follow from it."""

    @property
    def adaptive(self) -> Adaptive | None:
        """What learns when batches had better leave, if anything does."""
        return self.dispatcher.adaptive

    @property
    def limit_rows(self) -> int:
        """Rows that one run may take: ``max_batch_size``, or what fits into memory if that is less."""
        return self.dispatcher.fits.least_rows

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the model."""
        return self.queue.rows

    @property
    def in_flight_rows(self) -> int:
        """Rows that the model is working on, without padding."""
        return self.dispatcher.in_flight_rows

    @property
    def in_flight_batches(self) -> int:
        """Batches that the model is working on."""
        return self.dispatcher.in_flight_batches

    @property
    def hangs(self) -> bool:
        """Whether a run that was given up has not come home, so that what it runs may not be freed."""
        return self.places.stuck > 0

    @property
    def all_home(self) -> asyncio.Event:
        """Set once it is closed and no run of it hangs any more, so that what it ran can be freed."""
        return self._ending.all_home

    # In

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
        """Queue one request; ``reply`` is called once, on the event-loop thread and never from inside this call.

        ``inputs``: arrays ``[rows, ...]``, not to be changed until the reply (of any shape if not ``merge``).
        ``rows``: more than ``max_batch_size`` are run in pieces and joined again; a request of 0 rows runs by itself,
        and what the model makes of it is its answer. ``deadline_s``: a moment of the batcher's clock. ``journey`` is
        filled in before the reply. ``priority``: the level that it asks for, see :func:`admission.level_of`.
        ``client``: who asks, where clients share the queue.

        ``reply(outputs, None)``: arrays ``[rows, ...]``. They are views of the rows of this request alone in arrays
        that several requests share: they are the receiver's, who copies what is kept for long, since a view keeps
        the whole batch alive. A model that passes its input on may answer with ``inputs`` themselves.
        ``reply(None, error)``: :class:`InvalidRequest` if the model blames the request, :class:`ModelFailed` if it
        failed at this request alone, :class:`DeadlineExceeded` as soon as the deadline passes, running or not; any
        other :class:`RequestError` that ``run`` raised, as it is; :class:`Overloaded` if it cannot be in time, has
        waited for too long, or has made room for a request of a higher level.

        Raises, and queues nothing: :class:`Unavailable` once closing and while too many runs hang,
        :class:`DeadlineExceeded` if the deadline has passed, :class:`Overloaded` if the queue is full,
        :class:`InvalidInput` if an input does not have ``rows`` rows, :class:`InvalidRequest` for a level that is not
        there.
        """
        if self.closing:
            raise self._turned_away()
        now_s = self.clock()
        if deadline_s is not None and deadline_s <= now_s:
            raise DeadlineExceeded(f"the deadline passed {now_s - deadline_s:.3f} s before {self.name} was asked")
        if not self._merge:
            rows, key = 1, None
        else:
            key = self._key(inputs, rows)
            if not rows:
                key = object()  # its own lane: no rows are no company
        queue, policy, levels = self.queue, self.policy, self._levels
        if self._clients is not None:
            self._refusals.look_at_share(self._clients, client, now_s)
        came_back = False
        most = policy.max_enqueued_rows
        if (promises := self._refusals.promises) is not None:
            came_back, most = self._refusals.look_for_promise(promises, inputs, now_s)
        size_bytes = 0
        if levels is None:
            if not admits(most, queue.rows, rows):
                raise self._refusals.full(inputs, rows, now_s)
            if self._weighed is not None:
                size_bytes = self._weigh(self._weighed, inputs, rows, most, now_s)
        if journey is not None:
            self.dispatcher.anybody_asks = True
        wanted_s = now_s + policy.latency_slo_s  # infinite, as a rule
        if deadline_s is not None and deadline_s < wanted_s:
            wanted_s = deadline_s
        if rows <= policy.max_batch_size:
            entry = Entry(inputs, rows, key, reply, now_s, wanted_s, journey)
            if levels is not None:
                levels.enter((entry,), inputs, priority, came_back, client, now_s)
            elif self._weighed is not None:
                entry.size_bytes = size_bytes
            queue.append(entry)
        else:
            entry = LargeEntry(inputs, rows, key, reply, now_s, wanted_s, journey)
            pieces = entry.cut(policy.max_batch_size)
            if levels is not None:
                levels.enter(pieces, inputs, priority, came_back, client, now_s)
            for piece in pieces:
                if self._weighed is not None:
                    piece.size_bytes = size_of(piece.inputs)
                queue.append(piece)
        if deadline_s is not None:
            self._deadlines.add(entry, deadline_s)
        self.joined(now_s, rows)
        return entry

    def lane(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> Lane | None:
        """Where plain requests of one input can be written in place; see ``_lane``. The same one each time.

        ``None`` if rows do not stack, if answers are wanted by some time, if each request is looked at before it queues
        (levels, bounds of their own, bytes), or if it is not compiled in.
        """
        is_plain = self._levels is None and self._weighed is None
        return self._lanes.of(self, name, dtype, row_shape) if self._merge and is_plain else None

    async def infer(
        self,
        inputs: Tensors,
        rows: int,
        deadline_s: float | None = None,
        journey: Journey | None = None,
        priority: int = 0,
        client: Hashable = None,
    ) -> Tensors:
        """:meth:`submit`, and wait: returns the answer or raises the error. Cancelling the task cancels the request."""
        return await answer_of(
            self.home.loop,
            lambda reply: self.submit(inputs, rows, reply, deadline_s, journey, priority, client),
        )

    def _weigh(self, queue: WeighedQueue, inputs: Tensors, rows: int, most: int, now_s: float) -> int:
        """The bytes of a request; raises :class:`Overloaded` if the queue has no room for them."""
        size_bytes, most_bytes = size_of(inputs), self.policy.max_enqueued_bytes
        if not queue.admits(most_bytes, size_bytes, self.policy.max_enqueued_rows - most):
            raise self._refusals.bytes_full(inputs, rows, queue.bytes, size_bytes, now_s)
        return size_bytes

    def _turned_away(self) -> Unavailable:
        return Unavailable(f"{self.name} is shutting down") if self._ending.begun else self._watch.problem()

    # What the dispatcher asks

    def before_step(self, now_s: float) -> None:
        """See to those who wait: who is late, who has waited too long, who may come back now."""
        for lane in self._lanes.made:
            lane.told = False
        self._deadlines.look(now_s)
        if self._levels is not None and self._levels.patience is not None:
            self._levels.patience.look(now_s)
        if (promises := self._refusals.promises) is not None:
            self._lanes.leave_room(self._refusals.rows_for_newcomers(promises, now_s))

    def refuse_late(self, entry: Entry, now_s: float) -> None:
        """Answer a request that cannot be in time while there is still time to ask elsewhere, or to come back."""
        self.home.answer(entry, None, self._refusals.late(entry, now_s))

    def nothing_left(self) -> None:
        """Closing, and all are answered."""
        self.dispatcher.stop()
        self._deadlines.stop()
        if self._levels is not None and self._levels.patience is not None:
            self._levels.patience.stop()
        if self.dispatcher.share is not None:
            self.dispatcher.share.leave()
        self._ending.end()

    def _answer_late(self, entry: Entry, now_s: float) -> None:
        waited_s = now_s - entry.arrived_s
        late = DeadlineExceeded(f"the deadline passed after {waited_s:.3f} s without an answer from {self.name}")
        entry.answer(None, late)

    # Runs that hang

    def _turn_away(self) -> None:
        """None may wait for a thread that may never come: refuse what is queued, and what comes, until one is back."""
        self.closing = True
        for lane in self._lanes.made:
            lane.told = False
        while (entry := self.queue.oldest()) is not None:
            self.home.answer(entry, None, self._turned_away())

    def _one_came_home(self) -> None:
        self._ending.came_home()
        if not self._ending.begun:
            self.closing = self.places.is_out_of_threads
        self.dispatcher.step()

    # End

    async def close(self) -> None:
        """Refuse new requests, answer all that were taken, end the thread; returns when that is done.

        May be called more than once, and cancelled: the closing goes on. It takes as long as the model does; a caller
        in a hurry gives up waiting, and the thread, a daemon, does not keep the process alive.
        """
        ending = self._ending
        if ending.closed is None:
            ending.closed = self.home.loop.create_future()
            self.closing = self.dispatcher.draining = True
            self.dispatcher.step()
        await asyncio.shield(ending.closed)
