"""Times runs of a model at batch sizes, and what follows from the times. The server's own timing is ``calibration``.

Here there is more time than at a load: sizes are run more often, and the middle of the times counts.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stfs.signature import Tensors

RUNS = 15
"""Runs of each size, where the budget allows them; 3 at least for the sizes that are run at all."""
LEAST_RUNS = 3
GOOD_SHARE = 0.9
"""The suggested batch is the smallest of this share of the best throughput: larger ones wait longer for little."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Runs of ``rows`` rows: the middle of their times and the longest, in seconds."""

    rows: int
    run_s: float
    worst_s: float

    @property
    def rows_per_s(self) -> float:
        """What runs of this size, one after another, come to."""
        return self.rows / self.run_s if self.run_s > 0 else math.inf


def sizes_up_to(most: int) -> list[int]:
    """1, 2, 4 .. ``most``, which is the last whether or not it is a power of two."""
    sizes = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return [*sizes, most]


def time_sizes(
    run: Callable[[Tensors], object],
    inputs_of: Callable[[int], Tensors],
    sizes: Sequence[int],
    budget_s: float,
    tell: Callable[[int, int], None] = lambda done, rows: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timed]:
    """Each of ``sizes``, ascending, as far as ``budget_s`` seconds go; the smallest in any case. Blocking.

    The first run of a size is not counted: it pays for memory and code that later ones find there. ``tell`` is called
    with the number of sizes done and the size that comes. Raises what ``run`` raises.
    """
    timed: list[Timed] = []
    began_s = clock()
    for index, rows in enumerate(sizes):
        tell(index, rows)
        inputs = inputs_of(rows)
        share_s = (budget_s - (clock() - began_s)) / (len(sizes) - index)
        first_s = _once(run, inputs, clock)
        times_s: list[float] = []
        while len(times_s) < LEAST_RUNS or (len(times_s) < RUNS and first_s + sum(times_s) < share_s):
            times_s.append(_once(run, inputs, clock))
        timed.append(Timed(rows, statistics.median(times_s), max(times_s)))
        left_s = budget_s - (clock() - began_s)
        # The next size takes up to twice as long as this one did, and is run four times at least.
        if left_s < 2 * timed[-1].run_s * (LEAST_RUNS + 1):
            break
    return timed


def _once(run: Callable[[Tensors], object], inputs: Tensors, clock: Callable[[], float]) -> float:
    began_s = clock()
    run(inputs)
    return clock() - began_s


def suggest(timed: Sequence[Timed], slo_s: float = math.inf) -> int:
    """The ``max_batch_size`` that the times speak for; 1 or more.

    Of the sizes whose run, and the run before it that a request may have to wait for, are over within ``slo_s``
    (the smallest size if none is), the smallest that gives :data:`GOOD_SHARE` of the best throughput among them.
    """
    in_time = [one for one in timed if 2 * one.run_s <= slo_s] or list(timed[:1])
    best = max(one.rows_per_s for one in in_time)
    return next(one.rows for one in in_time if one.rows_per_s >= GOOD_SHARE * best)
