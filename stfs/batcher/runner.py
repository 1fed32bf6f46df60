"""Runs one batch on the model's thread so that only the guilty fail. Blocking; never raises.

A batch that fails is retried in halves, left before right, until the bad request stands alone: it gets the error, its
neighbours their answers. Every request that fails has been run by itself. With n requests this costs at most 2n - 2
extra runs, and about 2 log2(n) for one bad request. A model that fails whatever it is given shows by log2(n) + 2
failures without one success: from there on requests run one by one, so that a hopeless batch costs at most
n + log2(n) + 2 runs and about three times its rows, whatever n. Requests that were answered meanwhile (cancelled, or
past their deadline) are not run again.

A run that was :class:`Unavailable`, or too late, blames no request: all of it are told so, and none is run again. One
that was :class:`OutOfMemory` blames none either: its rows are run in smaller batches (``smaller``).

Must not live here: the event loop, queues, replies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice, repeat
from typing import NamedTuple, cast

from stfs.batcher.batch import merge, split
from stfs.batcher.fitting import smaller
from stfs.batcher.policy import BatchPolicy, padded_rows
from stfs.batcher.queue import Entry
from stfs.batcher.shapes import Padding
from stfs.batcher.slots import Grant
from stfs.batcher.smaller import Piece, run_smaller, too_large
from stfs.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    OutOfMemory,
    RequestError,
    RunTimedOut,
    Unavailable,
)
from stfs.signature import Tensors

log = logging.getLogger(__name__)

Run = Callable[[Tensors], Tensors]
Outcome = tuple[Tensors | None, RequestError | None]
"""What one request is to be told; ``(None, None)`` for one that nobody waits for any more."""
Outcomes = Sequence[Outcome | list[Outcome]]
"""What the entries of a batch are to be told: one outcome, or for a group that failed, one for each of its requests."""

_UNHEARD: Outcome = (None, None)
_BLAMELESS = (Unavailable, DeadlineExceeded)


class BatchRecord(NamedTuple):
    """One run of the model. ``rows`` without padding, ``padded_rows`` with it; times in seconds.

    ``queue_wait_s``: how long the oldest of the batch's requests had waited when the batch left. ``run_s``: the time in
    the model, with stacking and cutting. ``reason``: ``full``, ``idle``, ``timeout``, ``drain``, or ``retry`` for a
    part of a batch that failed. ``timed_out``: it failed because it took longer than a run may; ``no_memory``: because
    it did not fit into memory. ``slot_wait_s``: how long of its wait was for other models' runs. Where rows do not
    stack, a request counts as one row.
    """

    rows: int
    padded_rows: int
    requests: int
    queue_wait_s: float
    run_s: float
    reason: str
    failed: bool
    timed_out: bool = False
    no_memory: bool = False
    slot_wait_s: float = 0.0


class Batch:
    """Entries that leave together. ``requests`` are their inputs: kept here, since an answered entry drops its own.

    ``launched_s``: when it left; ``began_s``: when its last run of the model began, as the model's thread says, both
    by the batcher's clock. ``given_up`` is set, on the loop, if nobody waits for it any more; ``timer`` looks whether
    to do so. ``limit_rows``: as many fit into memory, as far as is known; 0: all do. It may have more than these.
    ``grant`` is its run slot, if there are any.
    """

    __slots__ = (
        "began_s",
        "entries",
        "given_up",
        "grant",
        "launched_s",
        "limit_rows",
        "queue_wait_s",
        "reason",
        "requests",
        "rows",
        "timer",
    )

    def __init__(
        self, entries: list[Entry], queue_wait_s: float, reason: str, launched_s: float = 0.0, limit_rows: int = 0
    ) -> None:
        self.launched_s = self.began_s = launched_s
        self.limit_rows = limit_rows
        self.given_up = False
        self.timer: asyncio.TimerHandle | None = None
        self.grant: Grant | None = None
        self.entries = entries
        self.requests = [entry.inputs for entry in entries]
        self.rows = sum([entry.rows for entry in entries])
        self.queue_wait_s = queue_wait_s
        self.reason = reason

    def by_request(self) -> Batch:
        """The same with each request of a group as an entry of its own. The model's thread."""
        if len(self.entries) == sum([entry.requests for entry in self.entries]):
            return self
        alone: list[Entry] = []
        requests: list[Tensors] = []
        for entry, inputs in zip(self.entries, self.requests, strict=True):
            if entry.requests == 1:
                alone.append(entry)
                requests.append(inputs)
            else:
                members = entry.alone(inputs)
                alone += members
                requests += [member.inputs for member in members]
        batch = Batch(alone, self.queue_wait_s, self.reason)
        batch.requests = requests
        return batch

    def of(self, entries: Sequence[Piece], requests: list[Tensors]) -> Batch:
        """A batch of its rows, to be run again."""
        batch = Batch([], self.queue_wait_s, "retry")
        batch.entries = cast("list[Entry]", entries)  # as far as a run is concerned
        batch.requests = requests
        batch.rows = sum([entry.rows for entry in entries])
        return batch

    def by_entry(self, outcomes: list[Outcome]) -> Outcomes:
        """Outcomes of :meth:`by_request`'s entries as those of this batch's own."""
        if len(outcomes) == len(self.entries):
            return outcomes
        rest = iter(outcomes)
        return [next(rest) if entry.requests == 1 else list(islice(rest, entry.requests)) for entry in self.entries]


class Runner:
    """How one model runs its batches. Stateless between batches.

    ``run`` takes the stacked inputs and gives outputs of as many rows. With ``merge`` false it takes and gives tensors
    of any rank, one request at a time. ``clock`` must be fit for any thread. ``padding`` is for requests of unlike
    length.
    """

    __slots__ = ("_clock", "_merge", "_name", "_padding", "_policy", "_run")

    def __init__(
        self,
        run: Run,
        policy: BatchPolicy,
        name: str,
        merge: bool,
        clock: Callable[[], float],
        padding: Padding | None = None,
    ) -> None:
        self._padding = padding
        self._run = run
        self._policy = policy
        self._name = name
        self._merge = merge
        self._clock = clock

    def __call__(self, batch: Batch) -> tuple[Outcomes, list[BatchRecord]]:
        """One outcome for each entry, in order, and one record for each run of the model. The model's thread."""
        records: list[BatchRecord] = []
        if 0 < batch.limit_rows < batch.rows:
            return self._run_smaller(batch, batch.limit_rows, records)
        answers, error = self._attempt(batch, range(len(batch.entries)), batch.reason, records)
        if error is None:
            return list(zip(answers, repeat(None))), records
        if isinstance(error, OutOfMemory):
            if limit_rows := smaller(self._policy, records[0].padded_rows):
                return self._run_smaller(batch, limit_rows, records)
            return [(None, too_large(self._name, batch.rows, error))] * len(batch.entries), records
        if isinstance(error, _BLAMELESS):
            return [(None, error)] * len(batch.entries), records
        outcomes = self._blame(batch.by_request(), batch, error, records)
        self._log_failures(outcomes)
        return batch.by_entry(outcomes), records

    def _run_smaller(
        self, batch: Batch, limit_rows: int, records: list[BatchRecord]
    ) -> tuple[Outcomes, list[BatchRecord]]:
        """Run it in batches of ``limit_rows`` at most, fewer where even these do not fit."""

        def attempt(part: Batch) -> tuple[list[Tensors], BaseException | None]:
            batch.began_s = self._clock()
            return self._attempt(part, range(len(part.entries)), "retry" if records else batch.reason, records)

        def blame(part: Batch, error: BaseException) -> list[Outcome]:
            return self._blame(part, batch, error, records)

        mixes = self._padding is None or not self._padding.to_largest
        outcomes = run_smaller(
            batch.by_request(), limit_rows, self._policy, self._name, attempt, blame, mixes_pieces=mixes
        )
        self._log_failures(outcomes)
        return batch.by_entry(outcomes), records

    def _blame(self, batch: Batch, whole: Batch, error: BaseException, records: list[BatchRecord]) -> list[Outcome]:
        """What single requests are to be told that have failed together; ``whole`` is what was taken."""
        if isinstance(error, _BLAMELESS):
            return [(None, error)] * len(batch.entries)
        if len(batch.entries) == 1:
            return [(None, self._explain(error, batch.entries[0]))]
        return self._find_guilty(batch, whole, records)

    def _find_guilty(self, batch: Batch, whole: Batch, records: list[BatchRecord]) -> list[Outcome]:
        """Retry a batch that failed as a whole, as this module's docstring tells; ``whole`` is it as it was taken."""
        everyone = range(len(batch.entries))
        outcomes = [_UNHEARD] * len(everyone)
        patience = len(everyone).bit_length() + 1
        barren = 1  # failures in a row, the whole batch's being the first
        todo = _halves(everyone)
        while todo:
            part = [i for i in todo.pop() if not batch.entries[i].answered]
            if not part:
                continue
            if len(part) > 1 and barren >= patience:
                todo += [[i] for i in reversed(part)]
                continue
            whole.began_s = self._clock()
            answers, error = self._attempt(batch, part, "retry", records)
            if error is None:
                barren = 0
                for i, answer in zip(part, answers, strict=True):
                    outcomes[i] = (answer, None)
                continue
            if isinstance(error, _BLAMELESS) and not isinstance(error, OutOfMemory):
                for i in part:
                    outcomes[i] = (None, error)
                continue
            barren += 1
            if len(part) > 1:
                todo += _halves(part)
            else:
                outcomes[part[0]] = (None, self._explain(error, batch.entries[part[0]]))
        return outcomes

    def _attempt(
        self, batch: Batch, part: Sequence[int], reason: str, records: list[BatchRecord]
    ) -> tuple[list[Tensors], BaseException | None]:
        """Run the model once. Any exception is returned, even those that mean to end a process.

        ``SystemExit`` from a model must not end the thread that others' answers come from, and ``MemoryError`` of
        stacking or cutting is what halves are good for.
        """
        entries, requests = batch.entries, batch.requests
        if len(part) != len(entries):
            entries = [entries[i] for i in part]
            requests = [requests[i] for i in part]
        counts = [entry.rows for entry in entries]
        rows = padded = sum(counts)
        answers: list[Tensors] = []
        failure: BaseException | None = None
        start_s = self._clock()
        try:
            if self._merge:
                padded = padded_rows(self._policy, rows)
                if self._padding is None:
                    answers = split(self._run(merge(requests, rows, padded)), counts, padded)
                else:
                    merged = self._padding.merge(requests, rows, padded)
                    answers = split(self._run(merged), counts, padded)
                    answers = self._padding.cut(requests, merged, answers)
            else:
                answers = [self._run(requests[0])]
        except BaseException as error:
            failure = error
        run_s = self._clock() - start_s
        failed = failure is not None
        requests_told = sum([entry.requests for entry in entries])
        late, full = isinstance(failure, RunTimedOut), isinstance(failure, OutOfMemory)
        records.append(BatchRecord(rows, padded, requests_told, batch.queue_wait_s, run_s, reason, failed, late, full))
        return answers, failure

    def _explain(self, error: BaseException, entry: Entry) -> RequestError:
        """The error as its request is told: what is typed for clients as it is, all else as :class:`ModelFailed`."""
        if isinstance(error, RequestError):
            return error
        first_line = next(iter(str(error).splitlines()), "")
        problem = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
        told: RequestError
        if self._merge and entry.rows == 0:
            told = InvalidRequest(f"{self._name} cannot run on zero rows ({problem})")
        else:
            told = ModelFailed(f"{self._name} failed: {problem}")
        told.__cause__ = error
        return told

    def _log_failures(self, outcomes: list[Outcome]) -> None:
        """One message a batch, with one traceback: a hopeless model fails many requests the same way."""
        failed = [error for _, error in outcomes if isinstance(error, ModelFailed)]
        if failed:
            cause = failed[0].__cause__ or failed[0]
            log.error("%s: %d of a batch of %d requests failed", self._name, len(failed), len(outcomes), exc_info=cause)


def _halves(part: Sequence[int]) -> list[Sequence[int]]:
    """The right half and the left one: to be popped left first."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]]
