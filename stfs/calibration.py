"""Times a model's runs when it is loaded, for the batching policy; warms it up at real batch sizes by the way.

Must not live here: what follows from the cost (``batcher.adaptive``), which inputs the model takes (``model``).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from stfs.batcher.adaptive import Cost, fit_cost
from stfs.signature import Tensors

BUDGET_S = 0.5
"""What the timing may add to a load. A model that is slower than that is timed at its smallest sizes only."""

LEAST_SIZES = 3
"""Two sizes always lie on a line, so they say nothing about how well a line fits."""


def calibrate(
    run: Callable[[Tensors], object],
    inputs_of: Callable[[int], Tensors],
    max_rows: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Cost | None:
    """What runs of 1, 2, 4 .. ``max_rows`` rows cost; ``None`` if too few fit into the budget. Blocking.

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
        samples.append((rows, min(times_s)))
        spent_s = clock() - began_s
        # The next size takes up to twice as long as this one did.
        if spent_s + 2 * sum(times_s) > BUDGET_S:
            break
        rows = max_rows if rows < max_rows < 2 * rows else 2 * rows
    return fit_cost(samples) if len(samples) >= LEAST_SIZES else None
