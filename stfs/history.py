"""The last hour in numbers: rates, latencies and batches of each model, for people to look at.

Pure: samples of :class:`stfs.metrics.Snapshot` and moments come in as arguments, numbers come out. Bounded: a series is
two rings of fixed size, and their number is limited. Must not live here: clocks and tasks, wire formats.

Latencies come from the same histograms as ``/metrics``, by the rule of Prometheus' ``histogram_quantile``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stfs.metrics import ROWS, SECONDS, Snapshot

FINE_S, FINE_POINTS = 1.0, 300
"""About one point a second for five minutes ..."""

COARSE_S, COARSE_POINTS = 10.0, 360
"""... and one in ten seconds for an hour."""

WINDOW_S = 10.0
"""What the numbers of "now" are taken over: long enough to be legible, short enough to be now."""

MAX_SERIES = 256
"""Models beyond so many have numbers of now and no history; a series takes about 90 KB."""

QUANTILES = (0.5, 0.95, 0.99)

REASONS = ("idle", "full", "timeout", "deferral", "retry", "drain", "other")
"""Why batches leave (see ``stfs.batcher.runner.BatchRecord``); ``other`` for what is not named here."""

COLUMNS = (
    "rate",  # requests answered a second, errors included
    "errors",  # of these, those that were not answered well
    "p50",  # seconds from a request's head to its answer
    "p95",
    "p99",
    "queued",  # rows that wait; of a coarse point the most seen
    "in_flight",  # rows in runs; of a coarse point the most seen
    "batches",  # runs a second
    "rows",  # mean rows of a run
    "padding",  # share of the rows run that were padding
    "queue_wait",  # mean seconds that a run's oldest request waited
    "run",  # mean seconds of a run
    *(f"reason_{reason}" for reason in REASONS),  # runs by reason, in this point's time
    *(f"rows_le_{bound}" for bound in (*ROWS, "inf")),  # runs by rows, in this point's time
)
"""What each point of a model's series holds; NaN for what was not there to be measured."""

TOTAL_EXTRA = ("cpu", "memory")
"""What the series of the whole server has besides: cores in use, bytes in RAM."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Counts:
    """What one model has done since the server started, over all its versions. Grows only."""

    requests: int = 0
    errors: int = 0
    request_seconds: tuple[int, ...] = (0,) * (len(SECONDS) + 1)
    batch_rows: tuple[int, ...] = (0,) * (len(ROWS) + 1)
    rows: float = 0.0
    padded: int = 0
    queue_s: float = 0.0
    run_s: float = 0.0
    reasons: tuple[int, ...] = (0,) * len(REASONS)

    @property
    def batches(self) -> int:
        """Runs of the model."""
        return sum(self.batch_rows)

    def __add__(self, other: Counts) -> Counts:
        return self._with(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return self._with(other, -1)

    def _with(self, other: Counts, sign: int) -> Counts:
        return Counts(
            self.requests + sign * other.requests,
            self.errors + sign * other.errors,
            _sum(self.request_seconds, other.request_seconds, sign),
            _sum(self.batch_rows, other.batch_rows, sign),
            self.rows + sign * other.rows,
            self.padded + sign * other.padded,
            self.queue_s + sign * other.queue_s,
            self.run_s + sign * other.run_s,
            _sum(self.reasons, other.reasons, sign),
        )


def _sum(one: Sequence[int], other: Sequence[int], sign: int) -> tuple[int, ...]:
    return tuple([a + sign * b for a, b in zip(one, other, strict=True)])


NOTHING = Counts()


def counts_by_model(snapshot: Snapshot) -> dict[str, Counts]:
    """The counts of each model, versions that have gone included; ``"-"`` stands for requests that found no model."""
    requests: dict[str, int] = {}
    errors: dict[str, int] = {}
    for (model, _, _, outcome), count in snapshot.requests.items():
        requests[model] = requests.get(model, 0) + count
        if outcome != "ok":
            errors[model] = errors.get(model, 0) + count
    reasons: dict[str, list[int]] = {}
    for (model, _, reason), count in snapshot.batches.items():
        of_model = reasons.setdefault(model, [0] * len(REASONS))
        of_model[REASONS.index(reason if reason in REASONS else "other")] += count
    found: dict[str, Counts] = {}
    for key, seconds in snapshot.request_seconds.items():
        model, rows = key[0], snapshot.batch_rows[key]
        # What is counted by model is added with its first version, what is counted by version with each.
        first = model not in found
        own = Counts(
            requests.get(model, 0) if first else 0,
            errors.get(model, 0) if first else 0,
            seconds.counts,
            rows.counts,
            rows.total,
            snapshot.padded_rows[key],
            snapshot.queue_seconds[key].total,
            snapshot.run_seconds[key].total,
            tuple(reasons.get(model, NOTHING.reasons)) if first else NOTHING.reasons,
        )
        found[model] = own if first else found[model] + own
    return found


def outcomes_by_model(snapshot: Snapshot) -> dict[str, dict[str, int]]:
    """How the requests of each model came out since the server started, by the outcome's name in ``/metrics``."""
    found: dict[str, dict[str, int]] = {}
    for (model, _, _, outcome), count in snapshot.requests.items():
        of_model = found.setdefault(model, {})
        of_model[outcome] = of_model.get(outcome, 0) + count
    return found


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float:
    """The value below which ``share`` of the observations lie, as ``histogram_quantile`` of Prometheus estimates it.

    ``counts`` has one more than ``bounds``. Within a bucket observations are taken to be spread evenly; of those above
    the last bound no more is known than that. NaN if there are none.
    """
    total = sum(counts)
    if total <= 0:
        return math.nan
    rank, below, lower = share * total, 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below += count
        lower = bound
    return lower


@dataclass(frozen=True, slots=True)
class Now:
    """The last :data:`WINDOW_S` seconds of a model; rates a second, latencies in seconds or NaN."""

    rate: float = 0.0
    errors: float = 0.0
    p50: float = math.nan
    p95: float = math.nan
    p99: float = math.nan


class Series:
    """One model's history. ``at_s`` are moments of one clock that never goes back.

    ``extra`` are the names of columns after :data:`COLUMNS`, whose values are handed to :meth:`record`.
    """

    def __init__(self, at_s: float, counts: Counts, extra: Sequence[str] = ()) -> None:
        self.columns = (*COLUMNS, *extra)
        self.fine = Ring(FINE_POINTS, len(self.columns))
        self.coarse = Ring(COARSE_POINTS, len(self.columns))
        self._recent: deque[tuple[float, Counts]] = deque([(at_s, counts)])
        self._base = (at_s, counts)  # of the coarse point that is being gathered
        self._gauges: list[tuple[float, ...]] = []  # ... and its points so far

    def record(self, at_s: float, counts: Counts, queued: int, in_flight: int, extra: Sequence[float] = ()) -> None:
        """Add a point for the time since the last one; for none, nothing."""
        before_s, before = self._recent[-1]
        if at_s <= before_s:
            return
        self.fine.add(at_s, point(counts - before, at_s - before_s, queued, in_flight, extra))
        self._recent.append((at_s, counts))
        while len(self._recent) > 2 and self._recent[1][0] <= at_s - WINDOW_S:
            self._recent.popleft()
        self._gauges.append((queued, in_flight, *extra))
        base_s, base = self._base
        if at_s - base_s >= COARSE_S - FINE_S / 2:
            queued_most, in_flight_most, *extras = np.array(self._gauges).T
            means = [float(column.mean()) for column in extras]
            most = int(queued_most.max()), int(in_flight_most.max())
            self.coarse.add(at_s, point(counts - base, at_s - base_s, *most, means))
            self._base, self._gauges = (at_s, counts), []

    def now(self) -> Now:
        """The window that ends with the last point."""
        (since_s, before), (until_s, counts) = self._recent[0], self._recent[-1]
        if until_s <= since_s:
            return Now()
        change, elapsed_s = counts - before, until_s - since_s
        latencies = [quantile(SECONDS, change.request_seconds, share) for share in QUANTILES]
        return Now(change.requests / elapsed_s, change.errors / elapsed_s, *latencies)


def point(
    change: Counts, elapsed_s: float, queued: float, in_flight: float, extra: Sequence[float] = ()
) -> tuple[float, ...]:
    """The values of :data:`COLUMNS`, and ``extra`` after them, for what was counted in ``elapsed_s`` seconds."""
    batches, run_rows = change.batches, change.rows + change.padded
    return (
        change.requests / elapsed_s,
        change.errors / elapsed_s,
        *(quantile(SECONDS, change.request_seconds, share) for share in QUANTILES),
        queued,
        in_flight,
        batches / elapsed_s,
        change.rows / batches if batches else math.nan,
        change.padded / run_rows if run_rows else math.nan,
        change.queue_s / batches if batches else math.nan,
        change.run_s / batches if batches else math.nan,
        *change.reasons,
        *change.batch_rows,
        *extra,
    )


class Ring:
    """The last ``size`` points, each a moment and a row of ``width`` numbers."""

    def __init__(self, size: int, width: int) -> None:
        self._times = np.zeros(size)
        self._rows: Array = np.zeros((size, width), np.float32)
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, len(self._times))

    def add(self, at_s: float, row: Sequence[float]) -> None:
        """Put a point in; the oldest one leaves if there is no room."""
        slot = self.added % len(self._times)
        self._times[slot] = at_s
        self._rows[slot] = row
        self.added += 1

    def points(self, last: int | None = None) -> tuple[npt.NDArray[np.float64], Array]:
        """Copies of the moments and the rows ``[points, width]``, the oldest first; only the ``last`` ones if given."""
        count = len(self) if last is None else min(last, len(self))
        slots = np.arange(self.added - count, self.added) % len(self._times)
        return self._times[slots], self._rows[slots]


@dataclass(slots=True)
class History:
    """The series of a server: one of all it does, with processor and memory, and one for each model.

    For one thread. ``record`` is given the models that there are; the series of others are dropped, and no more than
    :data:`MAX_SERIES` are kept.
    """

    total: Series | None = None
    models: dict[str, Series] = field(default_factory=dict)

    def record(
        self,
        at_s: float,
        counts: Mapping[str, Counts],
        gauges: Mapping[str, tuple[int, int]],
        cpu_cores: float,
        memory_bytes: float,
    ) -> None:
        """One sample of everything. ``gauges`` has, for each model that there is, its rows queued and in flight."""
        everything = sum_of(counts.values())
        if self.total is None:
            self.total = Series(at_s, everything, TOTAL_EXTRA)
        queued = sum(waiting for waiting, _ in gauges.values())
        in_flight = sum(running for _, running in gauges.values())
        self.total.record(at_s, everything, queued, in_flight, (cpu_cores, memory_bytes))
        for name in self.models.keys() - gauges.keys():
            del self.models[name]
        for name, (waiting, running) in gauges.items():
            series = self.models.get(name)
            if series is not None:
                series.record(at_s, counts.get(name, NOTHING), waiting, running)
            elif len(self.models) < MAX_SERIES:
                self.models[name] = Series(at_s, counts.get(name, NOTHING))


def sum_of(counts: Iterable[Counts]) -> Counts:
    """All of them together."""
    total = NOTHING
    for each in counts:
        total += each
    return total
