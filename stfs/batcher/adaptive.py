"""The adaptive policy: what is learnt of a model and of its load, and what follows for the next batch.

Eager with one batch in flight is within a per cent of the optimum at every load where batching pays (Poisson arrivals).
It falls short in three places, and only there does this differ from it. Clients that wait for their answers before they
ask again (a closed loop) split into cohorts that take turns: then a batch waits for the rest of them, if waiting has
paid so far. Where a row costs more than a run (beta > alpha), full batches make everybody wait for the last row: then
they are smaller. And requests that cannot be answered in time are refused just before their batch would leave.

No clock is read here: times come in as seconds of any one clock. Must not live here: what runs cost (``cost``), queues,
timers, threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from stfs.batcher.cost import CAUTION, LEAST_BATCHES, LEAST_SIGMA, Cost, CostFit, ShapeFit

LEAST_BATCHES_TIMED = 2
"""Batches before it is judged whether a request can be in time, where runs were timed at load."""
LEAST_ALPHA_S = 0.002
"""Waiting for company is not worth a timer where a run's fixed cost is less: event loops count in milliseconds."""
CAUTION_WITH_ROOM = 0.8
"""As CAUTION, where all that wait go together. Whoever is refused then leaves a place empty: with more caution 2 % are
refused at 0.8 times what the model can do, of whom nearly all would have been in time."""
MOST_LOAD = 0.95
TRY_EVERY = 64
"""Batches between two attempts at waiting, while it has not paid."""
RATE_RUNS = 20.0
"""The arrival rate is that of so many times the duration of a full batch."""
_LONG_S = 3600.0
"""Nothing that is this far apart belongs together."""


class Wants(NamedTuple):
    """What to do now: ``refuse`` the oldest request; or run up to ``take_rows``; or, if that is 0, look again.

    That is in ``wait_s`` seconds, or when something happens if it is infinite. ``reason`` says why a batch leaves:
    ``idle`` (the model is free) or ``deferral`` (it had waited for company).
    """

    take_rows: int
    wait_s: float
    reason: str
    refuse: bool = False


NOTHING = Wants(0, math.inf, "")
REFUSE = Wants(0, 0.0, "", refuse=True)


class Adaptive:
    """What has been learnt of one model and its load. The batcher tells it of every event, in order, and asks it.

    Of arrivals it need be told only while it ``watches``.

    ``max_rows`` is the largest batch. ``calibrated`` is what runs cost as measured when the model was loaded: where
    beta > alpha the size of batches follows from it (:class:`ShapeFit`). A guess says only, until enough has been
    learnt, who cannot be in time, and with how many others who may be. ``slots`` and ``eager`` are those of
    :class:`stfs.batcher.policy.Slots`.
    """

    __slots__ = (
        "_began_rows",
        "_deferred_rows",
        "_deferring_since_s",
        "_eager",
        "_fit",
        "_gap_s",
        "_guess",
        "_integral",
        "_last_arrival_s",
        "_last_change_s",
        "_last_finish_s",
        "_least_to_refuse",
        "_max_rows",
        "_peak",
        "_population",
        "_rate",
        "_rate_at_s",
        "_rows_cost_most",
        "_score",
        "_shape",
        "_since_try",
        "_slots",
        "watches",
        "worked_s",
    )

    def __init__(self, max_rows: int, calibrated: Cost | None = None, slots: int = 1, eager: int = 1) -> None:
        self._max_rows = max_rows
        self._slots = slots
        self._eager = eager
        self._fit = CostFit()
        self._least_to_refuse = LEAST_BATCHES
        self._guess: Cost | None = None
        if calibrated is not None and calibrated.is_guess:
            self._guess, calibrated = calibrated, None
        if calibrated is not None:
            self._fit.cost = calibrated
            self._least_to_refuse = LEAST_BATCHES_TIMED
        self.watches = True
        """Whether arrivals matter to it. Where runs cost next to nothing they do not, and need not be told."""
        self.worked_s = 0.0
        """Of the time since the last batch came home, what the event loop itself was at work for, if that is known."""
        self._gap_s = 2 * _LONG_S
        self._last_arrival_s = -math.inf
        self._last_finish_s = -math.inf
        self._rows_cost_most = calibrated is not None and calibrated.beta_s > calibrated.alpha_s
        self._shape: ShapeFit | None = None
        if calibrated is not None and self._rows_cost_most and max_rows > 1:
            self._shape = ShapeFit(calibrated, max_rows)
        self._peak = 0
        self._population = 0.0
        self._rate = 0.0
        self._rate_at_s = 0.0
        self._score = 0.0
        self._since_try = 0
        self._deferring_since_s = -1.0
        self._deferred_rows = 0
        self._began_rows = 0
        self._integral = 0.0
        self._last_change_s = 0.0

    @property
    def cost(self) -> Cost:
        """What runs cost, as far as it is known."""
        return self._fit.cost

    @property
    def full_rate(self) -> float:
        """Rows a second in full batches; 0 while too little is known."""
        if self._fit.batches < LEAST_BATCHES:
            return 0.0
        return self._max_rows / max(self._fit.cost.of(self._max_rows), 1e-9)

    def arrived(self, now_s: float, rows: int, present_rows: int) -> None:
        """``rows`` joined the queue; ``present_rows`` are queued or in flight now, these among them."""
        since_s = max(now_s - max(self._last_arrival_s, self._last_finish_s), 0.0)
        if since_s < _LONG_S:
            self._gap_s += (since_s - self._gap_s) / 8 if self._gap_s < _LONG_S else since_s - self._gap_s
            if self._rows_cost_most:
                span_s = RATE_RUNS * max(self._fit.cost.of(self._max_rows), 1e-6)
                self._rate = self._rate * math.exp(min(self._rate_at_s - now_s, 0.0) / span_s) + rows / span_s
        self._rate_at_s = self._last_arrival_s = now_s
        if present_rows > self._peak:
            self._peak = present_rows
        if self._deferring_since_s >= 0:
            self._integral += self._deferred_rows * (now_s - self._last_change_s)
            self._last_change_s = now_s
            self._deferred_rows += rows

    def finished(self, now_s: float, rows: int, run_s: float, present_rows: int) -> None:
        """A batch came home after ``run_s`` seconds; ``present_rows`` are queued or still in flight.

        ``rows`` is what the model was given, padding included; 0 if the run tells nothing about what runs cost.
        """
        if rows:
            self._fit.add(rows, run_s)
            if self._shape is not None:
                self._shape.add(rows, run_s)
            self.watches = self._rows_cost_most or self._fit.cost.alpha_s > LEAST_ALPHA_S / 2
        self._last_finish_s = now_s
        self._population = max(self._population + (self._peak - self._population) / 8, self._peak)
        self._peak = present_rows

    def decide(
        self, now_s: float, queued_rows: int, in_flight: int, head_deadline_s: float, *, promised: bool = False
    ) -> Wants:
        """What to do with the queue at this moment.

        ``in_flight`` counts batches. ``head_deadline_s`` is when the oldest request must be answered, infinite if it
        says nothing. ``promised``: it has been refused before, and is not to be again for a risk that is small.
        """
        if not queued_rows or in_flight >= self._slots:
            return NOTHING
        learnt = self._fit.batches >= LEAST_BATCHES
        cost = self._fit.cost
        cap = self._cap(queued_rows)
        if self._fit.batches >= self._least_to_refuse and not math.isinf(head_deadline_s):
            caution = CAUTION if queued_rows > cap and not promised else CAUTION_WITH_ROOM
            needed_s = cost.cautious(min(queued_rows, cap), caution)
            if now_s + needed_s > head_deadline_s and not self._probes(now_s, queued_rows, in_flight):
                return REFUSE
        elif self._guess is not None and not math.isinf(head_deadline_s):
            left_s = head_deadline_s - now_s
            if self._guess.of(1) > left_s and not self._probes(now_s, queued_rows, in_flight):
                return REFUSE
            cap = min(cap, _rows_within(self._guess, left_s, self._max_rows))
        if in_flight >= self._eager and queued_rows < self._max_rows:
            return NOTHING
        if not in_flight and learnt:
            wait_s = self._defers(now_s, queued_rows, cap, head_deadline_s)
            if wait_s > 0:
                if self._deferring_since_s < 0:
                    self._deferring_since_s = self._last_change_s = now_s
                    self._deferred_rows = self._began_rows = queued_rows
                    self._integral = 0.0
                return Wants(0, wait_s, "")
        reason = self._end_deferral(now_s, queued_rows)
        self._since_try += 1
        return Wants(cap, 0.0, reason)

    def _cap(self, queued_rows: int) -> int:
        """Rows that the next batch had better not exceed: all of them, but where a row costs more than a run."""
        if self._shape is None:
            return self._max_rows
        known = self._shape.cost
        load = min(MOST_LOAD, self._rate * known.of(self._max_rows) / self._max_rows / self._eager)
        worth, price = 2 * queued_rows * known.alpha_s, known.beta_s * (1 - load)
        if worth >= price * self._max_rows**2:  # as well where nothing that ran says that a row costs anything
            return self._max_rows
        return max(1, round(math.sqrt(worth / price)))

    def _probes(self, now_s: float, queued_rows: int, in_flight: int) -> bool:
        """Whether to run what cannot be in time all the same: if nothing ever ran, nothing would be learnt."""
        idle_s = now_s - self._last_finish_s
        return queued_rows == 1 and not in_flight and idle_s > 4 * self._fit.cost.of(1)

    def _defers(self, now_s: float, queued_rows: int, cap: int, head_deadline_s: float) -> float:
        """Seconds that the batch may wait for more rows; 0 to let it leave."""
        alpha = self._fit.cost.alpha_s
        if alpha < LEAST_ALPHA_S or queued_rows >= min(cap, round(self._population)):
            return 0.0
        if self._score < 0 and self._since_try < TRY_EVERY and self._deferring_since_s < 0:
            return 0.0
        began_s = self._deferring_since_s if self._deferring_since_s >= 0 else now_s
        left_s = alpha / 2 - (now_s - began_s)
        quiet_s = now_s - max(self._last_arrival_s, self._last_finish_s)
        if queued_rows * max(self._gap_s, quiet_s) >= alpha:
            return 0.0
        left_s = min(left_s, alpha / queued_rows - quiet_s)
        if not math.isinf(head_deadline_s):
            left_s = min(left_s, head_deadline_s - now_s - self._fit.cost.cautious(min(queued_rows, cap)))
        return max(left_s, 0.0)

    def _end_deferral(self, now_s: float, queued_rows: int) -> str:
        """Settle what the waiting brought, if there was any; why the batch leaves."""
        if self._deferring_since_s < 0:
            return "idle"
        self._integral += self._deferred_rows * (now_s - self._last_change_s)
        joined = queued_rows - self._began_rows
        gain_s = joined * self._fit.cost.alpha_s - self._integral
        self._score += (gain_s - self._score) / 8
        self._deferring_since_s = -1.0
        self._since_try = 0
        return "deferral"


def _rows_within(cost: Cost, left_s: float, most: int) -> int:
    """The rows, 1 at least, that a run of ``left_s`` seconds is likely to have room for."""
    for_rows_s = left_s / (1.0 + CAUTION_WITH_ROOM * LEAST_SIGMA) - cost.alpha_s
    return most if for_rows_s >= most * cost.beta_s else max(1, int(for_rows_s / cost.beta_s))
