"""What the server counts. Knows no exposition format: ``stfs.web.metrics`` turns a snapshot into Prometheus text.

Recording happens at the edges of a step (a request answered, a batch run, a version changing state), on the event-loop
thread, and costs a dictionary look-up and a few additions. A snapshot is a set of immutable values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency buckets, in seconds."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the batch-size buckets, in rows."""

RETIRED = "retired"
"""Stands for all versions of a model that are no longer served."""

ModelKey = tuple[str, str]
"""Model name and version, the version as text (``"-"`` where a request never reached a version)."""


class Histogram:
    """Counts of observations by upper bound, with their sum. The last bucket has no bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Histogram) -> None:
        """Take over the observations of another with the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def snapshot(self) -> HistogramSnapshot:
        """The counts as they are now."""
        return HistogramSnapshot(self.bounds, tuple(self.counts), self.total)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """``counts[i]`` observations lay above ``bounds[i-1]`` and at most at ``bounds[i]``; the last count is the rest."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was recorded until now. Keys are label values in the order that each field's comment gives."""

    requests: Mapping[tuple[str, str, str, str], int]  # model, version, dialect, outcome
    request_seconds: Mapping[ModelKey, HistogramSnapshot]
    batches: Mapping[tuple[str, str, str], int]  # model, version, reason for leaving
    batch_rows: Mapping[ModelKey, HistogramSnapshot]
    padded_rows: Mapping[ModelKey, int]
    failed_batches: Mapping[ModelKey, int]
    queue_seconds: Mapping[ModelKey, HistogramSnapshot]
    run_seconds: Mapping[ModelKey, HistogramSnapshot]


@dataclass(slots=True)
class _PerModel:
    request_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(tuple(float(r) for r in ROWS)))
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    run_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    padded_rows: int = 0
    failed_batches: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, other: _PerModel) -> None:
        self.request_seconds.add(other.request_seconds)
        self.batch_rows.add(other.batch_rows)
        self.queue_seconds.add(other.queue_seconds)
        self.run_seconds.add(other.run_seconds)
        self.padded_rows += other.padded_rows
        self.failed_batches += other.failed_batches
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


class Metrics:
    """The counters of one server. All methods are for the event-loop thread."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._models: dict[ModelKey, _PerModel] = {}

    def record_request(self, model: str, version: str, dialect: str, outcome: str, seconds: float) -> None:
        """One request answered. ``outcome`` is ``ok`` or the error's type in snake case.

        ``model`` must be the name of a model that exists, or ``"-"``: names that clients make up are not label values.
        """
        key = (model, version, dialect, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._model(model, version).request_seconds.observe(seconds)

    def record_batch(
        self,
        model: str,
        version: str,
        *,
        rows: int,
        padded: int,
        queue_s: float,
        run_s: float,
        reason: str,
        failed: bool,
    ) -> None:
        """One run of the model: ``rows`` valid rows, ``padded`` more to reach an allowed size."""
        entry = self._model(model, version)
        entry.batch_rows.observe(rows)
        entry.queue_seconds.observe(queue_s)
        entry.run_seconds.observe(run_s)
        entry.padded_rows += padded
        entry.failed_batches += failed
        entry.reasons[reason] = entry.reasons.get(reason, 0) + 1

    def retire(self, model: str, version: str) -> None:
        """A version has gone: its counts go on in those of :data:`RETIRED`, so that versions do not pile up here."""
        gone = self._models.pop((model, version), None)
        if gone is not None:
            self._model(model, RETIRED).add(gone)
        for key in [key for key in self._requests if key[:2] == (model, version)]:
            kept = (model, RETIRED, key[2], key[3])
            # Popped before the sum is read, since the two keys are one where the retired counts themselves retire.
            self._requests[kept] = self._requests.pop(key) + self._requests.get(kept, 0)

    def snapshot(self) -> Snapshot:
        """Everything recorded until now."""
        models = self._models
        return Snapshot(
            requests=dict(self._requests),
            request_seconds={k: m.request_seconds.snapshot() for k, m in models.items()},
            batches={(*k, reason): n for k, m in models.items() for reason, n in m.reasons.items()},
            batch_rows={k: m.batch_rows.snapshot() for k, m in models.items()},
            padded_rows={k: m.padded_rows for k, m in models.items()},
            failed_batches={k: m.failed_batches for k, m in models.items()},
            queue_seconds={k: m.queue_seconds.snapshot() for k, m in models.items()},
            run_seconds={k: m.run_seconds.snapshot() for k, m in models.items()},
        )

    def _model(self, model: str, version: str) -> _PerModel:
        key = (model, version)
        entry = self._models.get(key)
        if entry is None:
            entry = self._models[key] = _PerModel()
        return entry
