"""What the server counts. Knows no exposition format: ``stfs.web.metrics`` turns a snapshot into Prometheus text.

Recording happens at the edges of a step (a request answered, a batch run, a version changing state), on the event-loop
thread, and costs a dictionary look-up and a few additions. A snapshot is a set of immutable values.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the buckets of whole requests, in seconds. The express lane has room for 15 of them."""

STEP_SECONDS = (0.00001, 0.000025, 0.00005, *SECONDS[:-1], 5.0, 10.0)
"""Upper bounds of the buckets of a request's steps (decode, queue, run, encode), in seconds."""

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the batch-size buckets, in rows."""

REFUSALS = ("full", "bytes", "late", "displaced", "share")
"""Why a request may be refused for want of room or time. All are told from the start, so that rates are right."""

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

    def observe_all(self, counts: Sequence[int], total: float) -> None:
        """Count many observations whose sum is ``total``: so many in each bucket."""
        for bucket, count in enumerate(counts):
            if count:
                self.counts[bucket] += count
        self.total += total

    def observe_mean(self, count: int, total: float) -> None:
        """Count ``count`` observations whose sum is ``total`` and of which no more is known: all where the mean is."""
        if count:
            self.counts[bisect_left(self.bounds, total / count)] += count
            self.total += total

    def add(self, other: Histogram) -> None:
        """Take over the observations of another with the same bounds."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def as_sum(self) -> Sum:
        """How many observations there were, and what they amount to."""
        return Sum(sum(self.counts), self.total)

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
class Sum:
    """So many times, so many seconds in all."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was recorded until now. Keys are label values in the order that each field's comment gives."""

    requests: Mapping[tuple[str, str, str, str], int]  # model, version, dialect, outcome
    request_seconds: Mapping[ModelKey, HistogramSnapshot]
    batches: Mapping[tuple[str, str, str], int]  # model, version, reason for leaving
    batch_rows: Mapping[ModelKey, HistogramSnapshot]
    padded_rows: Mapping[ModelKey, int]
    failed_batches: Mapping[ModelKey, int]
    slot_waits: Mapping[ModelKey, Sum]
    stuck_runs: Mapping[ModelKey, int]
    refused: Mapping[tuple[str, str, str], int]  # model, version, reason
    queue_seconds: Mapping[ModelKey, HistogramSnapshot]
    run_seconds: Mapping[ModelKey, HistogramSnapshot]
    decode_seconds: Mapping[ModelKey, HistogramSnapshot]
    encode_seconds: Mapping[ModelKey, HistogramSnapshot]
    cache: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # model, version, what became of a request
    evicted: Mapping[ModelKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Sums since the version was loaded.

    Of requests: ``success`` and ``fail`` from their beginning to their end, ``decode`` and ``encode`` of those that
    succeeded. Of runs of the model: ``run``, the ``queue`` wait of each run's oldest request, and ``by_rows``, the runs
    that succeeded by their number of rows without padding; ``rows`` is the sum of these. ``shared_queue`` and
    ``shared_run`` count the same waits and runs once for each request that had a part in them. ``last_s``: when the
    last run ended, in seconds since 1970; 0 if none has. ``cache_hits`` were answered from the cache, ``cache_misses``
    looked for there and run.
    """

    success: Sum = Sum()
    fail: Sum = Sum()
    decode: Sum = Sum()
    encode: Sum = Sum()
    queue: Sum = Sum()
    run: Sum = Sum()
    shared_queue: Sum = Sum()
    shared_run: Sum = Sum()
    by_rows: Mapping[int, Sum] = field(default_factory=dict)
    last_s: float = 0.0
    cache_hits: int = 0
    cache_misses: int = 0

    @property
    def answered_runs(self) -> int:
        """Runs that succeeded."""
        return sum(runs.count for runs in self.by_rows.values())

    @property
    def rows(self) -> int:
        """Rows that were answered."""
        return sum(rows * runs.count for rows, runs in self.by_rows.items())


class Adder:
    """A growing :class:`Sum`."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.count += 1
        self.seconds += seconds

    def observe_all(self, count: int, seconds: float) -> None:
        """Count many observations by their sum."""
        self.count += count
        self.seconds += seconds

    def add(self, other: Adder) -> None:
        """Take over the observations of another."""
        self.count += other.count
        self.seconds += other.seconds

    def snapshot(self) -> Sum:
        """The sum as it is now."""
        return Sum(self.count, self.seconds)


@dataclass(slots=True)
class PerModel:
    """What was recorded of one version of one model: it grows."""

    request_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(tuple(float(r) for r in ROWS)))
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(STEP_SECONDS))
    run_seconds: Histogram = field(default_factory=lambda: Histogram(STEP_SECONDS))
    decode_seconds: Histogram = field(default_factory=lambda: Histogram(STEP_SECONDS))
    encode_seconds: Histogram = field(default_factory=lambda: Histogram(STEP_SECONDS))
    padded_rows: int = 0
    failed_batches: int = 0
    evicted: int = 0
    slot_waits: Adder = field(default_factory=Adder)
    stuck_runs: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    cache: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    success: Adder = field(default_factory=Adder)
    fail: Adder = field(default_factory=Adder)
    shared_queue: Adder = field(default_factory=Adder)
    shared_run: Adder = field(default_factory=Adder)
    by_rows: dict[int, Adder] = field(default_factory=dict)
    last_s: float = 0.0

    def add(self, other: PerModel) -> None:
        """Take over what another has recorded."""
        self.request_seconds.add(other.request_seconds)
        self.batch_rows.add(other.batch_rows)
        self.queue_seconds.add(other.queue_seconds)
        self.run_seconds.add(other.run_seconds)
        self.decode_seconds.add(other.decode_seconds)
        self.encode_seconds.add(other.encode_seconds)
        self.padded_rows += other.padded_rows
        self.failed_batches += other.failed_batches
        self.evicted += other.evicted
        self.slot_waits.add(other.slot_waits)
        self.stuck_runs += other.stuck_runs
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        for what, count in other.cache.items():
            self.cache[what] = self.cache.get(what, 0) + count
        for reason, count in other.refused.items():
            self.refused[reason] = self.refused.get(reason, 0) + count
        self.success.add(other.success)
        self.fail.add(other.fail)
        self.shared_queue.add(other.shared_queue)
        self.shared_run.add(other.shared_run)
        for rows, runs in other.by_rows.items():
            self.runs_of(rows).add(runs)
        self.last_s = max(self.last_s, other.last_s)

    def runs_of(self, rows: int) -> Adder:
        """The successful runs of so many rows; a batch has a bound, so there are not many of these."""
        runs = self.by_rows.get(rows)
        if runs is None:
            runs = self.by_rows[rows] = Adder()
        return runs

    def statistics(self) -> ModelStatistics:
        """The sums as they are now."""
        return ModelStatistics(
            success=self.success.snapshot(),
            fail=self.fail.snapshot(),
            decode=self.decode_seconds.as_sum(),
            encode=self.encode_seconds.as_sum(),
            queue=self.queue_seconds.as_sum(),
            run=self.run_seconds.as_sum(),
            shared_queue=self.shared_queue.snapshot(),
            shared_run=self.shared_run.snapshot(),
            by_rows={rows: runs.snapshot() for rows, runs in self.by_rows.items()},
            last_s=self.last_s,
            cache_hits=self.cache.get("hit", 0),
            cache_misses=self.cache.get("miss", 0),
        )


@dataclass(slots=True)
class Recorded:
    """What one process has recorded, to be added to what another has. See :meth:`Metrics.take`."""

    requests: dict[tuple[str, str, str, str], int]
    models: dict[ModelKey, PerModel]


class Metrics:
    """The counters of one server. All methods are for the event-loop thread.

    ``clock`` gives the time of day, in seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._models: dict[ModelKey, PerModel] = {}

    def record_request(
        self,
        model: str,
        version: str,
        dialect: str,
        outcome: str,
        seconds: float,
        decode_s: float = 0.0,
        encode_s: float = 0.0,
    ) -> None:
        """One request answered. ``outcome`` is ``ok`` or the error's type in snake case.

        ``model`` must be the name of a model that exists, or ``"-"``: names that clients make up are not label values.
        """
        key = (model, version, dialect, outcome)
        self._requests[key] = self._requests.get(key, 0) + 1
        entry = self._model(model, version)
        entry.request_seconds.observe(seconds)
        if outcome == "ok":
            entry.success.observe(seconds)
            entry.decode_seconds.observe(decode_s)
            entry.encode_seconds.observe(encode_s)
        else:
            entry.fail.observe(seconds)

    def record_answered(
        self,
        model: str,
        version: str,
        dialect: str,
        buckets: Sequence[int],
        seconds: float,
        decode_s: float,
        encode_s: float,
    ) -> None:
        """Many requests answered with outputs, as :meth:`record_request` with ``ok`` for each of them.

        ``buckets`` holds how many of them took as long as each bucket of :data:`SECONDS` says, the rest last; the times
        are sums, of which each request is taken to have an equal part in decoding and encoding.
        """
        count = sum(buckets)
        key = (model, version, dialect, "ok")
        self._requests[key] = self._requests.get(key, 0) + count
        entry = self._model(model, version)
        entry.request_seconds.observe_all(buckets, seconds)
        entry.success.observe_all(count, seconds)
        entry.decode_seconds.observe_mean(count, decode_s)
        entry.encode_seconds.observe_mean(count, encode_s)

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
        requests: int = 1,
        timed_out: bool = False,
        slot_wait_s: float = 0.0,
    ) -> None:
        """One run of the model: ``rows`` valid rows of ``requests``, ``padded`` more to reach an allowed size.

        ``timed_out``: it failed because it took longer than a run may. ``slot_wait_s``: how long it waited for runs of
        other models, if it had to.
        """
        entry = self._model(model, version)
        entry.batch_rows.observe(rows)
        entry.queue_seconds.observe(queue_s)
        entry.run_seconds.observe(run_s)
        entry.padded_rows += padded
        entry.failed_batches += failed
        if slot_wait_s:
            entry.slot_waits.observe(slot_wait_s)
        entry.stuck_runs += timed_out
        entry.reasons[reason] = entry.reasons.get(reason, 0) + 1
        entry.last_s = self._clock()
        if not failed:
            entry.runs_of(rows).observe(run_s)
            entry.shared_queue.observe_all(requests, requests * queue_s)
            entry.shared_run.observe_all(requests, requests * run_s)

    def record_cache(self, model: str, version: str, what: str, count: int) -> None:
        """What became of ``count`` requests where answers are shared (``hit``, ``miss``, ``shared``); or ``evicted``
        answers.
        """
        entry = self._model(model, version)
        if what == "evicted":
            entry.evicted += count
        else:
            entry.cache[what] = entry.cache.get(what, 0) + count

    def record_refused(self, model: str, version: str, reason: str) -> None:
        """A request was refused for want of room or time: ``reason`` is one of :data:`REFUSALS`."""
        refused = self._model(model, version).refused
        refused[reason] = refused.get(reason, 0) + 1

    def retire(self, model: str, version: str) -> None:
        """A version has gone: its counts go on in those of :data:`RETIRED`, so that versions do not pile up here."""
        gone = self._models.pop((model, version), None)
        if gone is not None:
            self._model(model, RETIRED).add(gone)
        for key in [key for key in self._requests if key[:2] == (model, version)]:
            kept = (model, RETIRED, key[2], key[3])
            # Popped before the sum is read, since the two keys are one where the retired counts themselves retire.
            self._requests[kept] = self._requests.pop(key) + self._requests.get(kept, 0)

    def take(self) -> Recorded:
        """Everything recorded until now, which is forgotten here."""
        taken = Recorded(self._requests, self._models)
        self._requests, self._models = {}, {}
        return taken

    def absorb(self, recorded: Recorded) -> None:
        """Add what another process has recorded."""
        for key, count in recorded.requests.items():
            self._requests[key] = self._requests.get(key, 0) + count
        for (model, version), entry in recorded.models.items():
            self._model(model, version).add(entry)

    def statistics(self, model: str, version: str) -> ModelStatistics:
        """What one version has done; all zero if nothing yet."""
        entry = self._models.get((model, version))
        return ModelStatistics() if entry is None else entry.statistics()

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
            slot_waits={k: m.slot_waits.snapshot() for k, m in models.items()},
            stuck_runs={k: m.stuck_runs for k, m in models.items()},
            refused={
                (*k, reason): m.refused.get(reason, 0) for k, m in models.items() if k[0] != "-" for reason in REFUSALS
            },
            queue_seconds={k: m.queue_seconds.snapshot() for k, m in models.items()},
            run_seconds={k: m.run_seconds.snapshot() for k, m in models.items()},
            decode_seconds={k: m.decode_seconds.snapshot() for k, m in models.items()},
            encode_seconds={k: m.encode_seconds.snapshot() for k, m in models.items()},
            cache={(*k, what): n for k, m in models.items() for what, n in m.cache.items()},
            evicted={k: m.evicted for k, m in models.items() if m.cache},
        )

    def _model(self, model: str, version: str) -> PerModel:
        key = (model, version)
        entry = self._models.get(key)
        if entry is None:
            entry = self._models[key] = PerModel()
        return entry
