"""How busy the processors are, as far as it matters to runs: this process's share of its cores, or everybody's.

Linux tells the second; elsewhere the first has to do. Any one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

LEAST_WINDOW_S = 0.04
"""Linux counts in hundredths of a second."""
MOST_WINDOW_S = 1.0
"""What was seen before that says nothing of now."""


class Processors:
    """Tells what share of the time since it was last asked the processors were at work."""

    def __init__(
        self,
        cores: int,
        clock: Callable[[], float] = time.monotonic,
        own_work_s: Callable[[], float] = time.process_time,
        everybody: Callable[[], tuple[int, int] | None] | None = None,
    ) -> None:
        self._cores = cores
        self._clock = clock
        self._own_work_s = own_work_s
        self._everybody = everybody or read_stat
        self._seen: tuple[float, float, tuple[int, int] | None] | None = None
        self._last: float | None = None

    def busy_share(self) -> float | None:
        """0 to 1, of all processors or of those that this process may use, whichever is more; ``None`` if that is not
        known, since nobody has asked lately. At most so often is there something new to tell.
        """
        now_s = self._clock()
        seen = self._seen
        if seen is not None and now_s - seen[0] < LEAST_WINDOW_S:
            return self._last
        own_s, everybody = self._own_work_s(), self._everybody()
        self._seen = now_s, own_s, everybody
        self._last = None
        if seen is not None and now_s - seen[0] <= MOST_WINDOW_S:
            share = (own_s - seen[1]) / ((now_s - seen[0]) * self._cores)
            if everybody is not None and seen[2] is not None and everybody[1] > seen[2][1]:
                share = max(share, (everybody[0] - seen[2][0]) / (everybody[1] - seen[2][1]))
            self._last = min(share, 1.0)
        return self._last


def read_stat(path: Path = Path("/proc/stat")) -> tuple[int, int] | None:
    """Ticks that all processors have been at work, and all ticks (proc(5)); ``None`` where that is not told."""
    try:
        with path.open("rb") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    if len(ticks) < 5:
        return None
    idle = ticks[3] + ticks[4]  # waiting for a disk is not work
    return sum(ticks) - idle, sum(ticks)
