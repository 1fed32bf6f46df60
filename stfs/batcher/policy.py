"""When a batch leaves and who may queue: settings, and pure functions of values that decide.

No clock is read here and nothing is remembered; times come in as seconds. A policy that learns (how long a run of so
many rows takes, how far apart requests arrive) belongs here too: more fields in :class:`Load`, another :func:`decide`.
Must not live here: queues, threads, timers, numpy.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from stfs.batcher.queue_policy import UNBOUNDED, QueuePolicy
from stfs.errors import ConfigError

SHORTEST_RETRY_S = 0.01
LONGEST_RETRY_S = 60.0
FIRST_RETRY_S = 1.0
"""What an overloaded client is told while no batch has finished yet, so that there is no rate to go by."""
MOST_LOOKS = 4
"""Turns of the loop for which a batch may gather while the model is idle."""
MOST_LEVELS = 1024
"""Levels of priority: each that is in use costs a look at every batch."""
ROUNDING_S = 1e-6
"""A timer that fires early by less than this is on time; sums of floats are that inexact."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How one model's requests are gathered. Raises :class:`ConfigError`, naming field and value, if it makes no sense.

    ``max_batch_size``: rows that one run may take; a larger request is split.
    ``batch_timeout_s``: how long the first row may wait for company while the model is idle, counted from its arrival;
    0 never waits. The timers of event loops tick in milliseconds.
    ``max_enqueued_rows``: rows that may wait. A request that would take the queue over it is refused; one that is
    larger by itself is taken only into an empty queue.
    ``allowed_batch_sizes``: ascending, the last equal to ``max_batch_size``; a batch is padded up to the next of them.
    Empty: no padding.
    ``adaptive``: learn from what is seen when a batch had better leave and how large it should be
    (:mod:`stfs.batcher.adaptive`), where ``batch_timeout_s`` does not say it. ``latency_slo_s``: by when an answer is
    wanted; a request that cannot have its own in time is refused just before its batch would leave. Infinite: no such
    wish.
    ``preferred_batch_sizes``: ascending; a batch leaves as soon as one of them is there, with the largest that is,
    and nothing is learnt. ``max_enqueued_bytes``: bytes of inputs that may wait, as with rows; 0: any number.
    ``priority_levels``: requests may ask for a level from 1, which always leaves first, to this; 0 or 1: none.
    ``default_priority_level`` is for those that ask for none; 0: the last. ``queue`` is for every level, but for those
    that have their own in ``level_queues``.
    """

    max_batch_size: int = 128
    batch_timeout_s: float = 0.0
    max_enqueued_rows: int = 10_000
    allowed_batch_sizes: tuple[int, ...] = ()
    adaptive: bool = True
    latency_slo_s: float = math.inf
    preferred_batch_sizes: tuple[int, ...] = ()
    max_enqueued_bytes: int = 0
    priority_levels: int = 0
    default_priority_level: int = 0
    queue: QueuePolicy = UNBOUNDED
    level_queues: tuple[tuple[int, QueuePolicy], ...] = ()
    shares_clients: bool = False

    def __post_init__(self) -> None:
        _check_rows("max_batch_size", self.max_batch_size)
        _check_rows("max_enqueued_rows", self.max_enqueued_rows)
        if not (math.isfinite(self.batch_timeout_s) and self.batch_timeout_s >= 0):
            raise ConfigError(f"batch_timeout_s must be 0 or more seconds, not {self.batch_timeout_s!r}")
        if not self.latency_slo_s > 0:
            raise ConfigError(f"latency_slo_s must be more than 0 seconds, not {self.latency_slo_s!r}")
        sizes = self.allowed_batch_sizes
        for size in sizes:
            _check_rows("allowed_batch_sizes", size)
        if any(low >= high for low, high in pairwise(sizes)):
            raise ConfigError(f"allowed_batch_sizes must ascend, not {sizes!r}")
        if sizes and sizes[-1] != self.max_batch_size:
            raise ConfigError(f"allowed_batch_sizes must end in max_batch_size ({self.max_batch_size}), not {sizes!r}")
        self._check_preferred()
        self._check_levels()

    def _check_preferred(self) -> None:
        sizes = self.preferred_batch_sizes
        for size in sizes:
            _check_rows("preferred_batch_sizes", size)
        if any(low >= high for low, high in pairwise(sizes)):
            raise ConfigError(f"preferred_batch_sizes must ascend, not {sizes!r}")
        if sizes and sizes[-1] > self.max_batch_size:
            most = self.max_batch_size
            raise ConfigError(f"preferred_batch_sizes must not be over max_batch_size ({most}), as {sizes[-1]} is")

    def _check_levels(self) -> None:
        _check_count("max_enqueued_bytes", self.max_enqueued_bytes)
        levels = _check_count("priority_levels", self.priority_levels)
        if levels > MOST_LEVELS:
            raise ConfigError(f"priority_levels must be {MOST_LEVELS} at most, not {levels}")
        default = _check_count("default_priority_level", self.default_priority_level)
        if default > levels:
            raise ConfigError(f"default_priority_level {default} is over priority_levels ({levels})")
        for level, _ in self.level_queues:
            if not 1 <= level <= levels:
                raise ConfigError(f"level {level!r} has a queue of its own, but priority_levels is {levels}")

    @property
    def has_levels(self) -> bool:
        """Whether some requests may go before others."""
        return self.priority_levels > 1

    @property
    def bounds_levels(self) -> bool:
        """Whether a level's requests have bounds of their own."""
        return self.queue.bounds or any(queue.bounds for _, queue in self.level_queues)


def _check_rows(field: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{field} must be a whole number of rows, 1 or more, not {value!r}")


def _check_count(field: str, value: int) -> int:
    if type(value) is not int or value < 0:
        raise ConfigError(f"{field} must be a whole number, 0 or more, not {value!r}")
    return value


def for_rows(policy: BatchPolicy, merge: bool, row_bytes: int | None) -> tuple[BatchPolicy, int]:
    """The policy of rows that do not stack, if so; with bytes as rows, if all have ``row_bytes``.

    And those bytes, if they are why no more rows may wait; else 0.
    """
    if not merge:
        policy = replace(
            policy, max_batch_size=1, batch_timeout_s=0.0, allowed_batch_sizes=(), preferred_batch_sizes=()
        )
    if row_bytes and policy.max_enqueued_bytes:
        rows = max(policy.max_enqueued_bytes // row_bytes, 1)
        if rows < policy.max_enqueued_rows:
            return replace(policy, max_enqueued_rows=rows), row_bytes
    return policy, 0


class Load(NamedTuple):
    """What there is to decide upon, at one moment. ``oldest_wait_s`` means nothing while ``queued_rows`` is 0."""

    queued_rows: int
    oldest_wait_s: float
    in_flight_batches: int
    closing: bool


class Step(NamedTuple):
    """Run up to ``take_rows`` rows now; or, if that is 0, look again in ``wait_s`` seconds or when something happens.

    ``reason`` says why the batch leaves: ``idle`` (the model is free), ``timeout`` (waited for company long enough),
    ``drain`` (closing).
    """

    take_rows: int
    wait_s: float
    reason: str


WAIT = Step(0, math.inf, "")


class Slots(NamedTuple):
    """How many batches may be in flight: ``most`` at once, and the first ``eager`` of them whatever their size.

    The further ones leave full only: on one device that overlaps two runs a second batch costs the first one time, and
    had better be worth it. Where each has an instance of the model for itself, all are eager.
    """

    most: int = 1
    eager: int = 1

    def are_taken(self, in_flight: int, queued_rows: int, full_rows: int) -> bool:
        """Whether what is queued has to wait for one of the batches in flight."""
        return in_flight >= self.most or (in_flight >= self.eager and queued_rows < full_rows)


ONE_SLOT = Slots()


def decide(policy: BatchPolicy, load: Load, slots: Slots = ONE_SLOT) -> Step:
    """The next step: eager while there is a slot, so that batches form while the model is busy.

    Queued rows are counted over all keys: a full batch's worth of requests that cannot share one does not wait either.
    """
    if not load.queued_rows or slots.are_taken(load.in_flight_batches, load.queued_rows, policy.max_batch_size):
        return WAIT
    if load.closing:
        return Step(policy.max_batch_size, 0.0, "drain")
    sizes = policy.preferred_batch_sizes
    if sizes and load.queued_rows >= sizes[0]:
        return Step(sizes[bisect_right(sizes, load.queued_rows) - 1], 0.0, "idle")
    if policy.batch_timeout_s and load.queued_rows < policy.max_batch_size:
        left_s = policy.batch_timeout_s - load.oldest_wait_s
        return Step(0, left_s, "") if left_s > ROUNDING_S else Step(policy.max_batch_size, 0.0, "timeout")
    return Step(policy.max_batch_size, 0.0, "idle")


def gathers(policy: BatchPolicy, queued_rows: int, rows_seen: int, looks: int) -> bool:
    """Whether to look again a turn of the loop later, since rows have come in the last one; a lone row does not wait.

    While a loop reads what many clients sent, others send. A few turns at most, and none once a batch is full.
    """
    return rows_seen < queued_rows < policy.max_batch_size and looks < MOST_LOOKS


def are_stragglers(queued_rows: int, finished_rows: int) -> bool:
    """Whether the queue is small beside the batch that came home, whose clients may be about to ask again.

    Clients that wait for their answers split into a large cohort and a small one, which take turns: every second run is
    nearly empty. Held back while the answers are written, the small one joins the large one for good.
    """
    return 2 * queued_rows < finished_rows


def admits(max_enqueued_rows: int, queued_rows: int, rows: int) -> bool:
    """Whether ``rows`` more may join ``queued_rows``. An empty queue takes a request of any size."""
    return not queued_rows or queued_rows + rows <= max_enqueued_rows


def padded_rows(policy: BatchPolicy, rows: int) -> int:
    """Rows that the model is given for a batch of ``rows`` (at most ``max_batch_size``). No rows stay no rows."""
    sizes = policy.allowed_batch_sizes
    return sizes[bisect_left(sizes, rows)] if sizes and rows else rows


LEAST_ODD_S = 0.05
"""A run of less is never taken for something else."""


class Drain(NamedTuple):
    """How fast rows have been leaving: recent batches, each a fifth less heavy than the one after it."""

    rows: float = 0.0
    busy_s: float = 0.0

    def after(self, rows: int, busy_s: float) -> Drain:
        """With one more batch, that took ``busy_s`` seconds from launch to finish, retries included.

        It counts for ten times those before it at most, all together: a machine that was suspended is not a slow model.
        """
        if busy_s < 0:
            busy_s = 0.0
        elif busy_s > LEAST_ODD_S and self.rows:
            busy_s = min(busy_s, max(10 * self.busy_s, LEAST_ODD_S))
        return Drain(0.8 * self.rows + rows, 0.8 * self.busy_s + busy_s)

    @property
    def rate(self) -> float:
        """Rows a second while the model is at work; 0 while nothing is known."""
        return self.rows / self.busy_s if self.busy_s > 0 else 0.0

    def retry_after_s(self, queued_rows: int, running_s: float) -> float:
        """Seconds until ``queued_rows`` will have left, if things go on as they did; between 0.01 and 60.

        ``running_s`` is the age of the batch in flight, else 0. It counts as time without rows, so that the estimate
        grows while a model hangs, at the cost of a little pessimism while it does not.
        """
        if not self.rows:
            estimate_s = max(FIRST_RETRY_S, running_s)
        else:
            estimate_s = queued_rows * (self.busy_s + running_s) / self.rows
        return min(max(estimate_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)
