"""Times runs of a model at ascending sizes, and two at once; warms it up at real batch sizes by the way. Blocking.

Must not live here: what the runs are given (``inputs``), what follows from the times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from stfs.signature import Tensors

BUDGET_S = 0.5
"""What the timing may add to a load. A model that is slower than that is timed at its smallest sizes only."""

OVERLAP_BUDGET_S = 0.5
"""What may be added by finding out whether two runs at once overlap."""

OVERLAP_ROUNDS = 3
"""How often that is tried; the best of each counts, since what disturbs a run only makes it longer."""

LEAST_OVERLAP_RUN_S = 0.0005
"""Shorter runs are over before another thread has begun: whether they overlap matters to nobody."""


def time_sizes(
    run: Callable[[Tensors], object],
    inputs_of: Callable[[int], Tensors],
    max_rows: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[tuple[int, float], ...]:
    """Rows and seconds of runs of 1, 2, 4 .. ``max_rows`` rows, as far as the budget goes; one size at least.

    Each size is run twice and the quicker one counts: the first run at a size often pays for memory or code that later
    ones find there. Raises what ``run`` raises.
    """
    samples: list[tuple[int, float]] = []
    began_s = clock()
    rows = 1
    while rows <= max_rows:
        inputs = inputs_of(rows)
        times_s = []
        for _ in range(2):
            start_s = clock()
            run(inputs)
            times_s.append(clock() - start_s)
        samples.append((rows, max(min(times_s), 1e-9)))
        spent_s = clock() - began_s
        # The next size takes up to twice as long as this one did.
        if spent_s + 2 * sum(times_s) > BUDGET_S:
            break
        rows = max_rows if rows < max_rows < 2 * rows else 2 * rows
    return tuple(samples)


def two_at_once(job: Callable[[], object], jobs: ThreadPoolExecutor) -> None:
    """Run ``job`` on two threads of ``jobs``, which has two, begun together. Raises what either raises."""
    both = threading.Barrier(2)

    def run() -> None:
        both.wait()
        job()

    for done in [jobs.submit(run) for _ in range(2)]:
        done.result()


def measure_overlap(
    run: Callable[[], object],
    run_s: float,
    clock: Callable[[], float] = time.perf_counter,
    at_once: Callable[[Callable[[], object], ThreadPoolExecutor], None] = two_at_once,
) -> tuple[float | None, str]:
    """How many times as fast two of ``run`` are at once as one after another; or ``None`` and why that is not known.

    ``run`` takes about ``run_s`` seconds. Raises what it raises.
    """
    if run_s < LEAST_OVERLAP_RUN_S:
        return None, f"a full batch takes under {LEAST_OVERLAP_RUN_S * 1e3:g} ms, so it does not matter"
    rounds = min(OVERLAP_ROUNDS, int(OVERLAP_BUDGET_S / (4 * run_s)))  # two in turn, and two that may take as long
    if rounds < 2:
        return None, "a full batch takes too long to be run so often at a start"
    in_turn_s: list[float] = []
    at_once_s: list[float] = []
    with ThreadPoolExecutor(2, thread_name_prefix="stfs-calibration") as jobs:
        at_once(run, jobs)  # threads, and what a framework keeps for each of them, are made here
        for _ in range(rounds):
            start_s = clock()
            run()
            run()
            middle_s = clock()
            at_once(run, jobs)
            in_turn_s.append(middle_s - start_s)
            at_once_s.append(clock() - middle_s)
    return min(in_turn_s) / max(min(at_once_s), 1e-9), ""
