"""Lets batches leave and sees them home: :class:`Dispatcher`, the part of a batcher that the model's threads know.

Everything here happens on the event-loop thread, except :meth:`Dispatcher._work`. For each batch one call crosses over
in each direction. Must not live here: the decision when a batch leaves (``policy``, ``adaptive``), where it runs
(``places``), what happens when a run fails (``runner``), what those are told who are refused (``refusals``).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from stfs.batcher.adaptive import Adaptive
from stfs.batcher.admission import is_promised
from stfs.batcher.due import TICK_S
from stfs.batcher.fits import Fits
from stfs.batcher.fitting import limited
from stfs.batcher.home import Home
from stfs.batcher.levels import LevelQueue
from stfs.batcher.places import Place, Places
from stfs.batcher.policy import BatchPolicy, Drain, Load, Slots, are_stragglers, decide, gathers
from stfs.batcher.queue import Entry, Queue, tell_journeys
from stfs.batcher.run_watch import RunWatch
from stfs.batcher.runner import Batch, BatchRecord, Outcomes
from stfs.batcher.slots import Share
from stfs.batcher.thread import Job
from stfs.errors import ModelFailed

log = logging.getLogger(__name__)


class Front(Protocol):
    """Whoever queues the requests, as far as they are dispatched."""

    def before_step(self, now_s: float) -> None:
        """See to those who wait, before it is decided whether a batch leaves."""

    def refuse_late(self, entry: Entry, now_s: float) -> None:
        """Answer a queued entry that cannot be in time, so that it leaves the queue. Must not raise."""

    def nothing_left(self) -> None:
        """It drains, and nothing is queued or in flight. May be called more than once."""


class Dispatcher:
    """From ``queue`` to ``places``. What it takes is told at :class:`stfs.batcher.batcher.Batcher`, or made of it."""

    watch: RunWatch
    """Set once, by whoever makes this."""

    def __init__(
        self,
        name: str,
        policy: BatchPolicy,
        queue: Queue,
        places: Places,
        slots: Slots,
        home: Home,
        front: Front,
        *,
        clock: Callable[[], float],
        adaptive: Adaptive | None,
        share: Share | None,
        start: Callable[[Job], None] | None,
        observer: Callable[[BatchRecord], None] | None,
    ) -> None:
        self._name = name
        self._policy = policy
        self._queue = queue
        self._levels = queue if isinstance(queue, LevelQueue) else None
        self._places = places
        self._slots = slots
        self._most, self._eager = slots
        self._home = home
        self._front = front
        self._clock = clock
        # What this thread is at work for, in the seconds of the clock; nothing where a test makes the time.
        self._work_clock = time.thread_time if clock is time.monotonic else _no_work
        self._finished_work_s = 0.0
        self.adaptive = adaptive
        self.share = share
        if share is not None:
            share.step = self.step
        self.start = start
        self.observer = observer
        self.fits = Fits(policy, name)
        self.in_flight_batches = 0
        self.in_flight_rows = 0
        self.woken = False
        self.draining = False
        """Whether nobody is waited for any more, since nobody may come."""
        self.anybody_asks = False
        """Whether any request so far has asked for its journey."""
        self._drain = Drain()
        self._busy_since_s = 0.0  # or since the last batch came home
        self._rows_seen = self._looks = 0
        self._wait_timer: asyncio.TimerHandle | None = None

    def retry_after_s(self, rows: int, now_s: float) -> float:
        """Seconds until so many rows will have left, if things go on as they did."""
        return self._drain.retry_after_s(rows, now_s - self._busy_since_s if self.in_flight_batches else 0.0)

    def full_rate(self) -> float:
        """Rows a second with full batches; 0 while nothing is known."""
        rate = self._drain.rate
        return rate if self.adaptive is None else max(rate, self.adaptive.full_rate)

    def joined(self, now_s: float, rows: int) -> None:
        """A request of ``rows`` rows has just been queued. Need not be told while nothing would follow from it."""
        adaptive = self.adaptive
        if adaptive is not None and adaptive.watches:
            try:
                adaptive.arrived(now_s, rows, self._queue.rows + self.in_flight_rows)
            except Exception:
                self._forget_what_was_learnt()
        in_flight = self.in_flight_batches
        if not self.woken and (
            in_flight < self._eager or (in_flight < self._most and self._queue.rows >= self._policy.max_batch_size)
        ):
            # Not at once: what else arrives in this turn of the loop, off other connections, joins the batch.
            self._wake_soon(1)

    def _wake(self) -> None:
        """Leave the loop another turn if the last one brought company: more may have come in while it was read."""
        rows = self._queue.rows
        if gathers(self._policy, rows, self._rows_seen, self._looks):
            self._rows_seen = rows
            self._looks += 1
            self._home.loop.call_soon(self._wake)
            return
        self.woken = False
        self.step()

    def _wake_soon(self, rows_seen: int) -> None:
        """Look at the queue at the end of this turn, when it has more rows than these perhaps again."""
        if not self.woken:
            self.woken = True
            self._rows_seen = rows_seen
            self._looks = 0
            self._home.loop.call_soon(self._wake)

    def step(self) -> None:
        """Do what the policy says for this moment: launch, wait, or, closing with nothing left, end."""
        now_s = self._clock()
        self._front.before_step(now_s)
        if self.share is not None and self._waits_for_others(self.share):
            return
        if self.adaptive is not None and not self.draining:
            self._step_adaptive(self.adaptive, now_s)
            return
        while True:
            oldest = self._queue.oldest()
            waited_s = now_s - oldest.arrived_s if oldest is not None else 0.0
            if waited_s < 0:
                waited_s = math.inf  # the clock has gone back: nobody is kept waiting until it has caught up
            load = Load(self._queue.rows, waited_s, self.in_flight_batches, self.draining)
            policy = self._policy
            if self.fits.known and (fitting_rows := self.fits.rows(oldest, now_s)):
                policy = limited(policy, fitting_rows)
            step = decide(policy, load, self._slots)
            if not (step.take_rows and self._launch(step.take_rows, step.reason, waited_s, now_s)):
                break
            if self.in_flight_batches >= self._most:
                return
        if oldest is None:
            if self.draining and not self.in_flight_batches:
                self._front.nothing_left()
        elif not step.take_rows and step.wait_s < math.inf and self._wait_timer is None:
            self._wait_timer = self._home.loop.call_later(max(step.wait_s, TICK_S), self._on_wait)

    def _waits_for_others(self, share: Share) -> bool:
        """Whether a batch could leave but for the runs of other models; then this is called again when it may."""
        wants_to_run = self.in_flight_batches < self._most and self._queue.oldest() is not None
        return wants_to_run and not share.admits()

    def _step_adaptive(self, adaptive: Adaptive, now_s: float) -> None:
        if not (self.in_flight_batches or adaptive.watches):
            adaptive.worked_s = self._work_clock() - self._finished_work_s
        queue, levels = self._queue, self._levels
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
                self.step()
                return
            waited_s = now_s - oldest.arrived_s
            if waited_s < 0 and 0 < wants.wait_s < math.inf:  # by a clock that has gone back, nobody waits for company
                wants = wants._replace(take_rows=wants.take_rows or self._policy.max_batch_size)
            if wants.take_rows:
                is_on_its_way = self._launch(wants.take_rows, wants.reason or "idle", waited_s, now_s)
                if is_on_its_way and self.in_flight_batches < self._most:
                    continue
            elif wants.refuse:
                self._front.refuse_late(urgent, now_s)
                continue
            elif wants.wait_s < math.inf:
                # What arrived meanwhile may have changed for how long it is worth waiting.
                if self._wait_timer is not None:
                    self._wait_timer.cancel()
                self._wait_timer = self._home.loop.call_later(max(wants.wait_s, TICK_S), self._on_wait)
            return

    def _forget_what_was_learnt(self) -> None:
        """A fault in the policy must not keep anybody waiting: from here on batches leave as they do without it."""
        log.exception("%s: the adaptive policy failed; batches leave as soon as the model is free", self._name)
        self.adaptive = None

    def _on_wait(self) -> None:
        self._wait_timer = None
        self.step()

    def _launch(self, take_rows: int, reason: str, waited_s: float, now_s: float) -> bool:
        """Let a batch leave; false if it has to wait for a place, or for other models' runs."""
        if self.share is not None and not self.share.admits():
            return False
        place = self._places.take()
        if place is None:
            return False
        if self._wait_timer is not None:
            self._wait_timer.cancel()
            self._wait_timer = None
        limit_rows = self.fits.rows(self._queue.oldest(), now_s) if self.fits.known else 0
        entries, full = self._queue.take(min(take_rows, limit_rows) if limit_rows else take_rows)
        waited_s = waited_s if 0 <= waited_s < math.inf else 0.0  # by a clock that has gone back
        batch = Batch(entries, waited_s, "full" if full else reason, now_s, limit_rows)
        if not self.in_flight_batches:
            self._busy_since_s = now_s
        self.in_flight_batches += 1
        self.in_flight_rows += batch.rows
        try:
            if self.share is not None:
                batch.grant = self.share.began(now_s)
            if self.watch.limit_s:
                self.watch.begin(place, batch)
            (self.start or place.thread)(partial(self._work, place, batch))
        except Exception as error:  # no thread to be had, for one
            self._home.loop.call_soon(self._finish, place, batch, self._lost(batch, error), [])
        return True

    def _work(self, place: Place, batch: Batch) -> None:
        """The place's thread: run the batch and send the outcomes home. Never raises."""
        try:
            outcomes, records = place.runner(batch)
        except BaseException as error:
            outcomes, records = self._lost(batch, error), []
        try:
            self._home.loop.call_soon_threadsafe(self._finish, place, batch, outcomes, records)
        except RuntimeError:
            log.debug("%s: the event loop closed during a run; nobody is left to answer", self._name)
            place.thread.stop()

    def _lost(self, batch: Batch, error: BaseException) -> Outcomes:
        log.critical("%s: a batch failed in the batcher itself", self._name, exc_info=error)
        return [(None, ModelFailed(f"{self._name} failed: {type(error).__name__}: {error}")) for _ in batch.entries]

    def _finish(self, place: Place, batch: Batch, outcomes: Outcomes, records: list[BatchRecord]) -> None:
        if batch.given_up:
            self.watch.came_home(place)
            return
        if batch.timer is not None:
            batch.timer.cancel()
        self._places.give_back(place)
        self.settle(batch, outcomes, records)

    def settle(self, batch: Batch, outcomes: Outcomes, records: list[BatchRecord]) -> None:
        """The batch is over: see to the next one, answer, tell."""
        now_s = self._clock()
        self.in_flight_batches -= 1
        self.in_flight_rows -= batch.rows
        # First the next batch, then the answers to this one: the model works while they are written.
        try:
            self._go_on(batch, records, now_s)
        except Exception:
            log.exception("%s: a fault of the batcher's own after a batch; its answers are given", self._name)
            self._wake_soon(0)
        if self.anybody_asks:
            tell_journeys(batch.entries, batch.rows, batch.reason, batch.launched_s, now_s)
        for entry, outcome in zip(batch.entries, outcomes, strict=True):
            try:
                if isinstance(outcome, list):
                    entry.answer_each(outcome)
                else:
                    entry.answer(*outcome)
            except BaseException as end:
                self._home.raise_later(end)
        if self.observer is not None:
            for record in records:
                try:
                    self.observer(record)
                except Exception:
                    log.exception("%s: the observer of batches raised", self._name)

    def _go_on(self, batch: Batch, records: list[BatchRecord], now_s: float) -> None:
        """Let others run, learn from the batch that is over, and look whether the next one leaves."""
        if self.share is not None and batch.grant is not None:
            self.share.ended(batch.grant, now_s)
            if records and batch.grant.waited_s:
                records[0] = records[0]._replace(slot_wait_s=batch.grant.waited_s)
        # Of batches side by side each counts the time since the last one, so that the sum is the time that it took.
        self._drain = self._drain.after(batch.rows or 1, now_s - self._busy_since_s)
        self._busy_since_s = now_s
        adaptive = self.adaptive
        if adaptive is not None:
            # Retries of a batch that failed say nothing about what a run costs.
            rows = records[0].padded_rows if len(records) == 1 and not records[0].failed else 0
            self._finished_work_s = self._work_clock()
            try:
                adaptive.finished(now_s, rows, now_s - batch.launched_s, self._queue.rows + self.in_flight_rows)
            except Exception:
                self._forget_what_was_learnt()
        if self.fits.known or len(records) > 1:
            self.fits.learn(batch, records, now_s)
        # Where a run is hardly longer than writing its answers takes, a few stragglers had better go with those who ask
        # again once they are answered.
        runs_are_cheap = adaptive is not None and not adaptive.watches
        if runs_are_cheap and not self.draining and are_stragglers(self._queue.rows, batch.rows):
            self._wake_soon(0)
        else:
            self.step()

    def stop(self) -> None:
        """Nothing is left to wait for."""
        if self._wait_timer is not None:
            self._wait_timer.cancel()


def _no_work() -> float:
    return 0.0
