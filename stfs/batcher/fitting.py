"""How many rows fit into memory: what is remembered of runs that did not, and what follows. Values and pure functions.

A run that fails for want of memory says something about its size, and nothing about its requests. Batches of that kind
are kept to what fitted from then on. Memory comes back, since others leave it again, so now and then a batch is tried
that is larger: a while after a failure, sooner after a success.

No clock is read here. Must not live here: running anything (``smaller``), frameworks and their exceptions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from stfs.batcher.policy import BatchPolicy

TRY_AGAIN_S = 600.0
TRY_AGAIN_BATCHES = 1000
"""After a failure: that long, or so many batches that could have been larger, and at least :data:`LEAST_WAIT_S`. A try
that fails costs a run, and frameworks give back what they keep before they say that there is no more."""
LEAST_WAIT_S = 30.0
GOES_ON_S = 30.0
"""After a try that has fitted, to the next."""
MOST_KEPT = 64
"""Kinds of requests (shapes) for which something is remembered."""


class Run(NamedTuple):
    """One run of the model, as far as memory is concerned: its rows with padding, and whether they did not fit."""

    rows: int
    no_memory: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """``rows`` fitted, and more did not at ``since_s``; ``batches`` have left since that could have been larger.

    ``wait_s`` is for how long none is tried.
    """

    rows: int
    since_s: float
    wait_s: float = TRY_AGAIN_S
    batches: int = 0


def smaller(policy: BatchPolicy, rows: int) -> int:
    """Rows to try where a run of ``rows``, padding included, did not fit; 0 if there are no fewer that make sense."""
    sizes = policy.allowed_batch_sizes
    if sizes:
        at = bisect_left(sizes, rows)
        return sizes[at - 1] if at else 0
    return (rows + 1) // 2 if rows > 1 else 0


def larger(policy: BatchPolicy, rows: int) -> int:
    """The next larger size to try after ``rows``: twice, or the next allowed one; at most ``max_batch_size``."""
    sizes = policy.allowed_batch_sizes
    if sizes:
        return sizes[min(bisect_right(sizes, rows), len(sizes) - 1)]
    return min(2 * rows, policy.max_batch_size)


def limited(policy: BatchPolicy, rows: int) -> BatchPolicy:
    """The policy with ``rows`` for the largest batch, where that is less."""
    if rows >= policy.max_batch_size:
        return policy
    sizes = policy.allowed_batch_sizes
    return replace(
        policy,
        max_batch_size=rows,
        allowed_batch_sizes=(*(s for s in sizes if s < rows), rows) if sizes else (),
        preferred_batch_sizes=tuple(dict.fromkeys(min(s, rows) for s in policy.preferred_batch_sizes)),
    )


def rows_now(fit: Fit, policy: BatchPolicy, now_s: float) -> int:
    """Rows that the next batch may have: what fitted, or more if it is time to try."""
    waited_s = now_s - fit.since_s
    due = waited_s >= fit.wait_s or (waited_s >= LEAST_WAIT_S and fit.batches >= TRY_AGAIN_BATCHES)
    return larger(policy, fit.rows) if due else fit.rows


def after(fit: Fit | None, runs: Iterable[Run], policy: BatchPolicy, now_s: float, *, wanted_more: bool) -> Fit | None:
    """What is known once a batch has come home whose ``runs`` these are, in order; ``None``: nothing is in the way.

    ``wanted_more``: the batch was as large as it was allowed to be. A batch of which nothing fitted, not even one row,
    says nothing: its rows may be out of the ordinary, and others are not to suffer for them.
    """
    fitted = failed = 0
    for run in runs:
        if run.no_memory:
            failed = min(failed or run.rows, run.rows)
        else:
            fitted = max(fitted, run.rows)
    if failed:
        # What fitted may be just what was left over; what was tried next after the failure is the size to go by.
        fits = smaller(policy, failed)
        if not fitted or not fits:
            return fit
        rows = fits if fit is None else min(fits, max(fit.rows, fitted))
        return Fit(rows, now_s)
    if fit is None:
        return None
    if fitted > fit.rows:
        return None if fitted >= policy.max_batch_size else Fit(fitted, now_s, GOES_ON_S)
    return Fit(fit.rows, fit.since_s, fit.wait_s, fit.batches + wanted_more)
