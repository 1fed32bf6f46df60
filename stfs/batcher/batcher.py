"""The batcher: gathers requests on the event loop, runs them in batches on threads of its own, answers each once.

Everything here happens on the event-loop thread, except :meth:`Batcher._work`. For each batch one call crosses over in
each direction. Must not live here: the decision when a batch leaves (``policy``), how rows are stacked (``batch``),
where batches run (``places``), what happens when a run fails (``runner``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stfs.batcher.adaptive import Adaptive, Cost
from stfs.batcher.admission import (
    DELAYED,
    PROMISED,
    USUAL,
    Full,
    Newcomer,
    is_promised,
    level_of,
    level_of_rank,
    make_room,
    queue_of,
    rank_of,
)
from stfs.batcher.batch import batch_key
from stfs.batcher.clients import ClientQueue
from stfs.batcher.deadlines import Deadlines
from stfs.batcher.fits import Fits
from stfs.batcher.fitting import limited
from stfs.batcher.large import LargeEntry
from stfs.batcher.levels import LevelQueue
from stfs.batcher.places import Instance, Place, Places
from stfs.batcher.policy import ROUNDING_S, BatchPolicy, Drain, Load, Slots, admits, are_stragglers, decide, gathers
from stfs.batcher.promises import Promises
from stfs.batcher.queue import Entry, Journey, Queue, Reply, Together
from stfs.batcher.runner import Batch, BatchRecord, Outcome, Outcomes, Run, Runner
from stfs.batcher.shapes import Padding
from stfs.batcher.slots import Share
from stfs.batcher.thread import Job
from stfs.batcher.weighed import WeighedQueue, size_of
from stfs.errors import DeadlineExceeded, ModelFailed, Overloaded, RequestError, RunTimedOut, ShareExceeded, Unavailable
from stfs.signature import Tensors

if TYPE_CHECKING:
    from stfs.batcher._lane import Lane

_Lane: type[Lane] | None
try:
    from stfs.batcher._lane import Lane as _Lane
except ImportError:
    _Lane = None

__all__ = ["BatchRecord", "Batcher"]

log = logging.getLogger(__name__)

TICK_S = 0.001
"""Event loops round their timers to milliseconds: a shorter one would fire early and spin until it is due."""


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
        self._slots = Slots(len(ways), len(ways) if instances else 1)
        self._most, self._eager = self._slots
        learns = merge and policy.adaptive and not policy.batch_timeout_s and not policy.preferred_batch_sizes
        self.adaptive = Adaptive(policy.max_batch_size, cost, *self._slots) if learns else None
        if not merge:
            policy = replace(
                policy, max_batch_size=1, batch_timeout_s=0.0, allowed_batch_sizes=(), preferred_batch_sizes=()
            )
            row_bytes = None
        self._row_bytes = 0  # of a row, where rows are bounded by them
        if row_bytes and policy.max_enqueued_bytes:
            rows = max(policy.max_enqueued_bytes // row_bytes, 1)
            if rows < policy.max_enqueued_rows:
                policy = replace(policy, max_enqueued_rows=rows)
                self._row_bytes = row_bytes
        counts_bytes = policy.max_enqueued_bytes and not row_bytes
        needs_levels = policy.has_levels or policy.bounds_levels or policy.latency_slo_s < math.inf
        self._clients = ClientQueue() if policy.shares_clients else None
        self._levels = self._clients if self._clients is not None else LevelQueue() if needs_levels else None
        self.name = name
        self.policy = policy
        self._merge = merge
        self._key = batch_key if padding is None else padding.key
        self.clock = clock
        # What this thread is at work for, in the seconds of the clock; nothing where a test makes the time.
        self._work_clock = time.thread_time if clock is time.monotonic else _no_work
        self._finished_work_s = 0.0
        self._observer = observer
        self._on_refused = on_refused
        self.places = Places(ways, lambda run: Runner(run, policy, name, merge, clock, padding), name)
        self._run_timeout_s = run_timeout_s
        self._share = share
        if share is not None:
            share.step = self._step
        self._start = start
        self._given_loop = loop
        self._weighed = WeighedQueue() if counts_bytes and self._levels is None else None
        self.queue: Queue = self._levels or self._weighed or Queue()  # all are true
        self._deadlines = Deadlines()
        self._patience = Deadlines() if policy.bounds_levels else None  # until when a request may wait to leave
        self._drain = Drain()
        self._promises: Promises | None = None  # from the first refusal on
        self.in_flight_batches = 0
        self._in_flight_rows = 0
        self._busy_since_s = 0.0  # or since the last batch came home
        self._anybody_asks = False  # for its journey, so far
        self.woken = False
        self._rows_seen = self._looks = 0
        self._wait_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Future[None] | None = None
        self._threads_left: int | None = None  # that have yet to end, once nothing else is left
        self.all_home = asyncio.Event()
        """Set once it is closed and no run of it hangs any more, so that what it ran can be freed."""
        self.closing = False
        """Whether requests are turned away, be it for good or while too many runs hang."""
        self._lanes: dict[Hashable, Lane | None] = {}
        self._fits = Fits(policy, name)

    @property
    def limit_rows(self) -> int:
        """Rows that one run may take: ``max_batch_size``, or what fits into memory if that is less."""
        return self._fits.least_rows

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the model."""
        return self.queue.rows

    @property
    def in_flight_rows(self) -> int:
        """Rows that the model is working on, without padding."""
        return self._in_flight_rows

    @property
    def hangs(self) -> bool:
        """Whether a run that was given up has not come home, so that what it runs may not be freed."""
        return self.places.stuck > 0

    @property
    def overlaps(self) -> bool:
        """Whether a batch may leave beside another once it is full, so that what is queued meanwhile matters."""
        return self._most > self._eager

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._given_loop is None:
            self._given_loop = asyncio.get_running_loop()
        return self._given_loop

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
            self._look_at_share(self._clients, client, now_s)
        came_back = False
        most = policy.max_enqueued_rows
        if self._promises is not None:
            came_back, most = self._look_for_promise(self._promises, inputs, rows, now_s)
        size_bytes = 0
        if levels is None:
            if not admits(most, queue.rows, rows):
                raise self._overloaded(inputs, rows, now_s)
            if self._weighed is not None:
                size_bytes = self._weigh(self._weighed, inputs, rows, most, now_s)
        if journey is not None:
            self._anybody_asks = True
        wanted_s = now_s + policy.latency_slo_s  # infinite, as a rule
        if deadline_s is not None and deadline_s < wanted_s:
            wanted_s = deadline_s
        if rows <= policy.max_batch_size:
            entry = Entry(inputs, rows, key, reply, now_s, wanted_s, journey)
            if levels is not None:
                self._enter(levels, (entry,), inputs, priority, came_back, client, now_s)
            elif self._weighed is not None:
                entry.size_bytes = size_bytes
            queue.append(entry)
        else:
            entry = LargeEntry(inputs, rows, key, reply, now_s, wanted_s, journey)
            pieces = entry.cut(policy.max_batch_size)
            if levels is not None:
                self._enter(levels, pieces, inputs, priority, came_back, client, now_s)
            for piece in pieces:
                if self._weighed is not None:
                    piece.size_bytes = size_of(piece.inputs)
                queue.append(piece)
        if deadline_s is not None and self._deadlines.add(entry, deadline_s):
            self._watch_deadlines()
        self.joined(now_s, rows)
        return entry

    def joined(self, now_s: float, rows: int) -> None:
        """A request of ``rows`` rows has just been queued. Need not be told while nothing would follow from it."""
        adaptive = self.adaptive
        if adaptive is not None and adaptive.watches:
            try:
                adaptive.arrived(now_s, rows, self.queue.rows + self._in_flight_rows)
            except Exception:
                self._forget_what_was_learnt()
        in_flight = self.in_flight_batches
        if not self.woken and (
            in_flight < self._eager or (in_flight < self._most and self.queue.rows >= self.policy.max_batch_size)
        ):
            # Not at once: what else arrives in this turn of the loop, off other connections, joins the batch.
            self._wake_soon(1)

    def lane(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> Lane | None:
        """Where plain requests of one input can be written in place; see ``_lane``. The same one each time.

        ``None`` if rows do not stack, if answers are wanted by some time, if each request is looked at before it queues
        (levels, bounds of their own, bytes), or if it is not compiled in.
        """
        if (
            _Lane is None
            or not self._merge
            or self.queue.__class__ is not Queue
            or self.policy.latency_slo_s < math.inf
        ):
            return None
        key = (name, dtype, row_shape)
        if key not in self._lanes:
            try:
                self._lanes[key] = _Lane(self, name, dtype, row_shape, key)
            except ValueError:
                self._lanes[key] = None
        return self._lanes[key]

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
        future: asyncio.Future[Outcome] = self._loop.create_future()

        def reply(outputs: Tensors | None, error: RequestError | None) -> None:
            if not future.done():
                future.set_result((outputs, error))

        entry = self.submit(inputs, rows, reply, deadline_s, journey, priority, client)
        try:
            outputs, error = await future
        finally:
            entry.cancel()  # does nothing unless this task was cancelled
        if error is not None:
            raise error
        assert outputs is not None
        return outputs

    def _overloaded(self, inputs: Tensors, rows: int, now_s: float) -> Overloaded:
        queued, size_bytes = self.queue.rows, self._row_bytes
        if size_bytes:
            limit = f"{self.policy.max_enqueued_bytes} allowed (max_enqueued_bytes)"
            problem = f"has {queued * size_bytes} bytes queued of {limit}, no room for {rows * size_bytes} more"
            return self._refusal("bytes", problem, inputs, rows, now_s)
        held = f"{queued} rows queued of {self.policy.max_enqueued_rows} allowed"
        return self._refusal("full", f"has {held}, no room for {rows} more", inputs, rows, now_s)

    def _weigh(self, queue: WeighedQueue, inputs: Tensors, rows: int, most: int, now_s: float) -> int:
        """The bytes of a request; raises :class:`Overloaded` if the queue has no room for them."""
        size_bytes, most_bytes = size_of(inputs), self.policy.max_enqueued_bytes
        if not queue.admits(most_bytes, size_bytes, self.policy.max_enqueued_rows - most):
            limit = f"{most_bytes} allowed (max_enqueued_bytes)"
            problem = f"has {queue.bytes} bytes queued of {limit}, no room for {size_bytes} more"
            raise self._refusal("bytes", problem, inputs, rows, now_s)
        return size_bytes

    def _look_at_share(self, clients: ClientQueue, client: Hashable, now_s: float) -> None:
        """Raise :class:`ShareExceeded` for a client that has more than its share of a queue that is filling up."""
        excess = clients.excess(client, self.policy.max_enqueued_rows)
        if excess is not None:
            held, others = excess
            self._count_refusal("share")
            running_s = now_s - self._busy_since_s if self.in_flight_batches else 0.0
            raise ShareExceeded(
                f"{self.name} has {clients.rows} rows queued, {held} of them this client's: more than its own share "
                f"beside {others} other{'s'[: others > 1]} (client_share)",
                self._drain.retry_after_s(held, running_s),
            )

    def _count_refusal(self, reason: str) -> None:
        if self._on_refused is not None:
            try:
                self._on_refused(reason)
            except Exception:
                log.exception("%s: the observer of refusals raised", self.name)

    def _refusal(self, reason: str, problem: str, inputs: Tensors, rows: int, now_s: float) -> Overloaded:
        """What to tell a request that is refused, which is counted, and when it had better come back."""
        self._count_refusal(reason)
        running_s = now_s - self._busy_since_s if self.in_flight_batches else 0.0
        retry_s = self._drain.retry_after_s(self.queue.rows, running_s)
        rate = self._drain.rate
        if self.adaptive is not None:
            rate = max(rate, self.adaptive.full_rate)
        if rate:
            if self._promises is None:
                self._promises = Promises()
            try:
                retry_s = self._promises.book(now_s, inputs, rows or 1, rate, self.policy.max_batch_size, retry_s)
            except Exception:
                log.exception("%s: inputs that cannot be told from others; nothing is promised for them", self.name)
        return Overloaded(f"{self.name} {problem}", retry_s)

    def _look_for_promise(self, promises: Promises, inputs: Tensors, rows: int, now_s: float) -> tuple[bool, int]:
        """Whether a request comes back as it was told to, and up to how many queued rows it may join.

        Newcomers leave room for those who may come now.
        """
        most = self.policy.max_enqueued_rows
        left = max(most - promises.advance(now_s), most // 2)
        if promises.due_rows and self.queue.rows:
            try:
                if promises.keep(inputs):
                    return True, most
            except Exception:
                log.exception("%s: inputs that cannot be told from others", self.name)
        return False, left

    def _leave_room(self, promises: Promises, now_s: float) -> None:
        """Lanes are for newcomers: who is not let in there goes through :meth:`submit`, where the others are known."""
        most = self.policy.max_enqueued_rows
        left = max(most - promises.advance(now_s), most // 2)
        for lane in self._lanes.values():
            if lane is not None:
                lane.max_enqueued_rows = left

    # Levels, and bounds of their own

    def _enter(
        self,
        levels: LevelQueue,
        pieces: Sequence[Entry],
        inputs: Tensors,
        priority: int,
        came_back: bool,
        client: Hashable,
        now_s: float,
    ) -> None:
        """Find the pieces of a request their place, and make room for them; they are queued by the caller."""
        policy = self.policy
        level = level_of(policy, priority)
        rank = rank_of(level, PROMISED if came_back else USUAL)
        for piece in pieces:
            piece.rank = rank
            piece.client = client
            piece.size_bytes = size_of(piece.inputs)
        rows, size_bytes = sum([piece.rows or 1 for piece in pieces]), sum([piece.size_bytes for piece in pieces])
        room = make_room(policy, levels, Newcomer(level, rows, len(pieces), size_bytes, came_back))
        if isinstance(room, Full):
            raise self._refusal(room.reason, room.problem, inputs, rows, now_s)
        for entry in room:
            levels.discard(entry)
            # Not at once: its client may have more to ask, and this is in the middle of another's request.
            self._loop.call_soon(self._send_off, entry, "displaced", "has no room left beside requests that go first")
        limits = queue_of(policy, level)
        if self._patience is not None and limits.timeout_s < math.inf:
            # If the first piece leaves in time, the whole has.
            for piece in pieces if limits.action == "delay" else pieces[:1]:
                if self._patience.add(piece, now_s + limits.timeout_s):
                    self._watch_deadlines()

    def _lose_patience(self, levels: LevelQueue, patience: Deadlines, now_s: float) -> None:
        """What has waited too long is refused, or waits behind the others of its level from now on."""
        while (entry := patience.pop(now_s)) is not None:
            if entry.queue is None:
                continue  # its batch has left
            level = level_of_rank(entry.rank)
            limits = queue_of(self.policy, level)
            if limits.action == "delay":
                levels.move(entry, rank_of(level, DELAYED))
            else:
                problem = f"had no run for this request within {limits.timeout_s * 1e3:g} ms (queue_timeout_ms)"
                try:
                    self._send_off(entry, "late", problem)
                except BaseException as end:
                    self._raise_later(end)

    def _send_off(self, entry: Entry, reason: str, problem: str) -> None:
        if not entry.answered:  # a piece of a request that was turned away by another of its pieces
            entry.answer(None, self._refusal(reason, problem, entry.inputs, entry.rows, self.clock()))

    def _turned_away(self) -> Unavailable:
        if self._closed is not None:
            return Unavailable(f"{self.name} is shutting down")
        limit_s = self._run_timeout_s
        told = f"{self.name}: {self.places.stuck} runs are stuck, each for more than run_timeout_s ({limit_s:g} s)"
        return Unavailable(told, limit_s)

    # To the model and back

    def _wake(self) -> None:
        """Leave the loop another turn if the last one brought company: more may have come in while it was read."""
        rows = self.queue.rows
        if gathers(self.policy, rows, self._rows_seen, self._looks):
            self._rows_seen = rows
            self._looks += 1
            self._loop.call_soon(self._wake)
            return
        self.woken = False
        self._step()

    def _wake_soon(self, rows_seen: int) -> None:
        """Look at the queue at the end of this turn, when it has more rows than these perhaps again."""
        if not self.woken:
            self.woken = True
            self._rows_seen = rows_seen
            self._looks = 0
            self._loop.call_soon(self._wake)

    def _step(self) -> None:
        """Do what the policy says for this moment: launch, wait, or, closing with nothing left, end."""
        for lane in self._lanes.values():
            if lane is not None:
                lane.told = False
        now_s = self.clock()
        self._answer_late(now_s)
        if self._promises is not None:
            self._leave_room(self._promises, now_s)
        if self._share is not None and self._waits_for_others(self._share):
            return
        if self.adaptive is not None and self._closed is None:
            self._step_adaptive(self.adaptive, now_s)
            return
        while True:
            oldest = self.queue.oldest()
            waited_s = now_s - oldest.arrived_s if oldest is not None else 0.0
            if waited_s < 0:
                waited_s = math.inf  # the clock has gone back: nobody is kept waiting until it has caught up
            load = Load(self.queue.rows, waited_s, self.in_flight_batches, self._closed is not None)
            policy = self.policy
            if self._fits and (fitting_rows := self._fits.rows(oldest, now_s)):
                policy = limited(policy, fitting_rows)
            step = decide(policy, load, self._slots)
            if not (step.take_rows and self._launch(step.take_rows, step.reason, waited_s, now_s)):
                break
            if self.in_flight_batches >= self._most:
                return
        if oldest is None:
            if self._closed is not None and not self.in_flight_batches:
                self._end()
        elif not step.take_rows and step.wait_s < math.inf and self._wait_timer is None:
            self._wait_timer = self._loop.call_later(max(step.wait_s, TICK_S), self._on_wait)

    def _waits_for_others(self, share: Share) -> bool:
        """Whether a batch could leave but for the runs of other models; then this is called again when it may."""
        wants_to_run = self.in_flight_batches < self._most and self.queue.oldest() is not None
        return wants_to_run and not share.admits()

    def _step_adaptive(self, adaptive: Adaptive, now_s: float) -> None:
        if not (self.in_flight_batches or adaptive.watches):
            adaptive.worked_s = self._work_clock() - self._finished_work_s
        queue, levels = self.queue, self._levels
        while (oldest := queue.oldest()) is not None:
            # Those who came back, and higher levels, go before others that may have less time.
            urgent = oldest if levels is None else levels.most_urgent() or oldest
            try:
                wants = adaptive.decide(
                    now_s,
                    queue.rows,
                    self.in_flight_batches,
                    urgent.deadline_s,
                    promised=levels is not None and is_promised(urgent.rank),
                )
            except Exception:
                self._forget_what_was_learnt()
                self._step()
                return
            waited_s = now_s - oldest.arrived_s
            if waited_s < 0 and 0 < wants.wait_s < math.inf:  # by a clock that has gone back, nobody waits for company
                wants = wants._replace(take_rows=wants.take_rows or self.policy.max_batch_size)
            if wants.take_rows:
                is_on_its_way = self._launch(wants.take_rows, wants.reason or "idle", waited_s, now_s)
                if is_on_its_way and self.in_flight_batches < self._most:
                    continue
            elif wants.refuse:
                self._refuse(urgent, now_s)
                continue
            elif wants.wait_s < math.inf:
                # What arrived meanwhile may have changed for how long it is worth waiting.
                if self._wait_timer is not None:
                    self._wait_timer.cancel()
                self._wait_timer = self._loop.call_later(max(wants.wait_s, TICK_S), self._on_wait)
            return

    def _forget_what_was_learnt(self) -> None:
        """A fault in the policy must not keep anybody waiting: from here on batches leave as they do without it."""
        log.exception("%s: the adaptive policy failed; batches leave as soon as the model is free", self.name)
        self.adaptive = None

    def _refuse(self, entry: Entry, now_s: float) -> None:
        """Answer a request that cannot be in time while there is still time to ask elsewhere, or to come back."""
        left_s = max(entry.deadline_s - now_s, 0.0)
        queued = self.queue.rows
        problem = f"cannot answer within the {left_s:.3f} s that are left, with {queued} rows queued"
        try:
            entry.answer(None, self._refusal("late", problem, entry.inputs, entry.rows, now_s))
        except BaseException as end:
            self._raise_later(end)

    def _on_wait(self) -> None:
        self._wait_timer = None
        self._step()

    def _launch(self, take_rows: int, reason: str, waited_s: float, now_s: float) -> bool:
        """Let a batch leave; false if it has to wait for a place, or for other models' runs."""
        if self._share is not None and not self._share.admits():
            return False
        place = self.places.take()
        if place is None:
            return False
        if self._wait_timer is not None:
            self._wait_timer.cancel()
            self._wait_timer = None
        limit_rows = self._fits.rows(self.queue.oldest(), now_s) if self._fits else 0
        entries, full = self.queue.take(min(take_rows, limit_rows) if limit_rows else take_rows)
        waited_s = waited_s if 0 <= waited_s < math.inf else 0.0  # by a clock that has gone back
        batch = Batch(entries, waited_s, "full" if full else reason, now_s, limit_rows)
        if not self.in_flight_batches:
            self._busy_since_s = now_s
        self.in_flight_batches += 1
        self._in_flight_rows += batch.rows
        if self._share is not None:
            batch.grant = self._share.began(now_s)
        if self._run_timeout_s:
            self._watch_run(place, batch, self._run_timeout_s)
        try:
            (self._start or place.thread)(partial(self._work, place, batch))
        except Exception as error:  # no thread to be had, for one
            self._loop.call_soon(self._finish, place, batch, self._lost(batch, error), [])
        return True

    def _work(self, place: Place, batch: Batch) -> None:
        """The place's thread: run the batch and send the outcomes home. Never raises."""
        try:
            outcomes, records = place.runner(batch)
        except BaseException as error:
            outcomes, records = self._lost(batch, error), []
        try:
            self._loop.call_soon_threadsafe(self._finish, place, batch, outcomes, records)
        except RuntimeError:
            log.debug("%s: the event loop closed during a run; nobody is left to answer", self.name)
            place.thread.stop()

    def _lost(self, batch: Batch, error: BaseException) -> Outcomes:
        log.critical("%s: a batch failed in the batcher itself", self.name, exc_info=error)
        return [(None, ModelFailed(f"{self.name} failed: {type(error).__name__}: {error}")) for _ in batch.entries]

    def _finish(self, place: Place, batch: Batch, outcomes: Outcomes, records: list[BatchRecord]) -> None:
        if batch.given_up:
            self._came_home(place)
            return
        if batch.timer is not None:
            batch.timer.cancel()
        self.places.give_back(place)
        self._settle(batch, outcomes, records)

    def _settle(self, batch: Batch, outcomes: Outcomes, records: list[BatchRecord]) -> None:
        """The batch is over: see to the next one, answer, tell."""
        now_s = self.clock()
        self.in_flight_batches -= 1
        self._in_flight_rows -= batch.rows
        launched_s = batch.launched_s
        if self._share is not None and batch.grant is not None:
            self._share.ended(batch.grant, now_s)
            if records and batch.grant.waited_s:
                records[0] = replace(records[0], slot_wait_s=batch.grant.waited_s)
        # Of batches side by side each counts the time since the last one, so that the sum is the time that it took.
        self._drain = self._drain.after(batch.rows or 1, now_s - self._busy_since_s)
        self._busy_since_s = now_s
        adaptive = self.adaptive
        if adaptive is not None:
            # Retries of a batch that failed say nothing about what a run costs.
            rows = records[0].padded_rows if len(records) == 1 and not records[0].failed else 0
            self._finished_work_s = self._work_clock()
            try:
                adaptive.finished(now_s, rows, now_s - launched_s, self.queue.rows + self._in_flight_rows)
            except Exception:
                self._forget_what_was_learnt()
        if self._fits or len(records) > 1:
            self._fits.learn(batch, records, now_s)
        # First the next batch, then the answers to this one: the model works while they are written. But where a run is
        # hardly longer than that, a few stragglers had better go with those who ask again once they are answered.
        runs_are_cheap = adaptive is not None and not adaptive.watches
        if runs_are_cheap and not self.closing and are_stragglers(self.queue.rows, batch.rows):
            self._wake_soon(0)
        else:
            self._step()
        if self._anybody_asks:
            _tell_journeys(batch, now_s)
        for entry, outcome in zip(batch.entries, outcomes, strict=True):
            try:
                if isinstance(outcome, list):
                    entry.answer_each(outcome)
                else:
                    entry.answer(*outcome)
            except BaseException as end:
                self._raise_later(end)
        if self._observer is not None:
            for record in records:
                try:
                    self._observer(record)
                except Exception:
                    log.exception("%s: the observer of batches raised", self.name)

    # Runs that hang

    def _watch_run(self, place: Place, batch: Batch, left_s: float) -> None:
        batch.timer = self._loop.call_later(max(left_s, TICK_S), self._on_run_timeout, place, batch)

    def _on_run_timeout(self, place: Place, batch: Batch) -> None:
        """Give the batch up, unless its last run has not had its time: those of a batch that fails are many."""
        now_s = self.clock()
        left_s = batch.began_s + self._run_timeout_s - now_s
        if left_s > ROUNDING_S:
            self._watch_run(place, batch, left_s)
            return
        batch.given_up = True
        self.places.give_up(place)
        problem = f"{self.name}: a run took longer than run_timeout_s ({self._run_timeout_s:g} s) and was given up"
        log.error("%s; %d runs are stuck", problem, self.places.stuck)
        if self.places.is_out_of_threads:
            self._turn_away()
        requests = sum([entry.requests for entry in batch.entries])
        run_s = now_s - batch.began_s
        record = BatchRecord(batch.rows, batch.rows, requests, batch.queue_wait_s, run_s, batch.reason, True, True)
        self._settle(batch, [(None, RunTimedOut(problem))] * len(batch.entries), [record])

    def _came_home(self, place: Place) -> None:
        """A run that was given up has returned. What it gave goes nowhere."""
        self.places.came_home(place)
        log.warning("%s: a run that was given up has returned; %d are stuck", self.name, self.places.stuck)
        if self._threads_left is not None and not self.places.stuck:
            self.all_home.set()
        if self._closed is None:
            self.closing = self.places.is_out_of_threads
        self._step()

    def _turn_away(self) -> None:
        """None may wait for a thread that may never come: refuse what is queued, and what comes, until one is back."""
        self.closing = True
        for lane in self._lanes.values():
            if lane is not None:
                lane.told = False
        while (entry := self.queue.oldest()) is not None:
            try:
                entry.answer(None, self._turned_away())
            except BaseException as end:
                self._raise_later(end)

    def _raise_later(self, end: BaseException) -> None:
        # A reply asks the process to end. That may wait for a turn of its own; the other answers may not.
        self._loop.call_soon(_raise, end)

    # Deadlines

    def _watch_deadlines(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        next_s = self._deadlines.next_s()
        if self._patience is not None and (ends_s := self._patience.next_s()) is not None:
            next_s = ends_s if next_s is None else min(next_s, ends_s)
        if next_s is not None:
            self._deadline_timer = self._loop.call_later(max(next_s - self.clock(), TICK_S), self._on_deadline)

    def _on_deadline(self) -> None:
        self._answer_late(self.clock())
        self._watch_deadlines()

    def _answer_late(self, now_s: float) -> None:
        while (entry := self._deadlines.pop(now_s)) is not None:
            waited_s = now_s - entry.arrived_s
            late = DeadlineExceeded(f"the deadline passed after {waited_s:.3f} s without an answer from {self.name}")
            try:
                entry.answer(None, late)
            except BaseException as end:
                self._raise_later(end)
        if self._patience is not None and self._levels is not None:
            self._lose_patience(self._levels, self._patience, now_s)

    # End

    async def close(self) -> None:
        """Refuse new requests, answer all that were taken, end the thread; returns when that is done.

        May be called more than once, and cancelled: the closing goes on. It takes as long as the model does; a caller
        in a hurry gives up waiting, and the thread, a daemon, does not keep the process alive.
        """
        if self._closed is None:
            self._closed = self._loop.create_future()
            self.closing = True
            self._step()
        await asyncio.shield(self._closed)

    def _end(self) -> None:
        """Nothing is left. May come twice, if a wake was still due when closing began; the second changes nothing."""
        for timer in (self._wait_timer, self._deadline_timer):
            if timer is not None:
                timer.cancel()
        if self._share is not None:
            self._share.leave()
        if self._threads_left is not None:
            return
        if not self.places.stuck:
            self.all_home.set()
        started = [place for place in self.places if place.thread.started]
        self._threads_left = len(started)
        for place in started:
            # Telling is the thread's last act, so that joining it takes no time.
            place.thread(partial(self._tell_ended, place))
            place.thread.stop()
        if not started:
            self._loop.call_soon(self._ended)

    def _tell_ended(self, place: Place) -> None:
        """The place's thread."""
        try:
            self._loop.call_soon_threadsafe(self._one_ended, place)
        except RuntimeError:
            log.debug("%s: the event loop closed before the batcher had", self.name)

    def _one_ended(self, place: Place) -> None:
        place.thread.join()
        assert self._threads_left is not None, "told to end"
        self._threads_left -= 1
        if not self._threads_left:
            self._ended()

    def _ended(self) -> None:
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)


def _tell_journeys(batch: Batch, now_s: float) -> None:
    position = 0
    launched_s = batch.launched_s
    together = Together(batch.rows, batch.reason, launched_s, now_s)
    for entry in batch.entries:
        if (journey := entry.journey) is not None:
            together.journeys.append(journey)
            journey.together = together
            journey.queue_s, journey.run_s = launched_s - entry.arrived_s, now_s - launched_s
            journey.rows, journey.position = batch.rows, position
        position += entry.rows


def _no_work() -> float:
    return 0.0


def _raise(error: BaseException) -> None:
    raise error
