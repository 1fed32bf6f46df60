"""Latencies counted in buckets: any number of them in little memory, quantiles within a known error. Pure.

In the manner of HdrHistogram: a bucket is never wider than 1/128 of its values. Must not live here: clocks, printing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

UNIT_S = 1e-7
"""What the smallest buckets are wide."""
_BITS = 7
_SUB = 1 << _BITS

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
"""Those that people ask for."""


class Latencies:
    """Counts of seconds. One thread's."""

    __slots__ = ("_counts", "count", "max_s", "min_s", "total_s")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0
        self.min_s = math.inf
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one latency, 0 or more seconds."""
        index = _index(int(seconds / UNIT_S))
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1
        self.total_s += seconds
        self.min_s = min(self.min_s, seconds)
        self.max_s = max(self.max_s, seconds)

    @property
    def mean_s(self) -> float:
        """The mean, exact; 0 of none."""
        return self.total_s / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Seconds that ``share`` (0 to 1) of the latencies do not exceed, at most 1/128 (and a unit) too many.

        The nearest-rank definition: of n, the ``ceil(share * n)``-th smallest. 0 of none.
        """
        rank = max(1, math.ceil(share * self.count - 1e-9))
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= rank:
                return min(_end(index) * UNIT_S, self.max_s)
        return 0.0

    def percentiles(self) -> dict[str, float]:
        """``{"p50": seconds, ...}`` of :data:`PERCENTILES`."""
        return {f"p{p:g}": self.quantile(p / 100) for p in PERCENTILES}

    def buckets(self) -> Iterator[tuple[float, float, int]]:
        """``(from_s, to_s, count)`` of the buckets that hold anything, ascending."""
        for index in sorted(self._counts):
            yield _begin(index) * UNIT_S, _end(index) * UNIT_S, self._counts[index]


def _index(value: int) -> int:
    shift = max(value.bit_length() - _BITS - 1, 0)
    return (shift << _BITS) + (value >> shift)


def _begin(index: int) -> int:
    if index < 2 * _SUB:
        return index
    shift = (index >> _BITS) - 1
    return (index - (shift << _BITS)) << shift


def _end(index: int) -> int:
    return _begin(index + 1)
