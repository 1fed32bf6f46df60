"""The best that any policy can do for Poisson arrivals, solved rather than simulated.

The model is free and ``n`` requests wait: run some ``b`` of them, or wait for one more. Arrivals have no memory, so
nothing is gained by deciding at other moments. Cost is the integral of how many requests are there, so the mean latency
is the long-run cost a second divided by the rate (Little's law). A semi-Markov decision process, solved by Howard's
policy iteration. The noise of runs enters by its second moment and as a mixture of three durations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.batching.simulator import NOISE, Profile

WAIT = 0
_NOISES = ((1 / 6, 1 - math.sqrt(3) * NOISE), (2 / 3, 1.0), (1 / 6, 1 + math.sqrt(3) * NOISE))
"""Three durations with the mean, the variance and the skewness of the noise."""


@dataclass(frozen=True)
class Optimum:
    """``takes[n]`` rows to run when ``n`` wait, 0 to wait for one more; ``mean_s`` is the mean latency."""

    takes: NDArray[np.int64]
    mean_s: float


def solve(profile: Profile, load: float, most_queued: int = 0) -> Optimum:
    """The best policy at ``load`` times what full batches could do; queues are cut off at ``most_queued`` rows."""
    most = most_queued or 8 * profile.max_rows
    kernel = _Kernel(profile, load * profile.capacity, most)
    takes = np.minimum(np.arange(most + 1), profile.max_rows)  # eager, to begin with
    while True:
        gain, bias = kernel.worth(takes)
        better = kernel.improve(takes, gain, bias)
        if np.array_equal(better, takes):
            return Optimum(takes, gain / kernel.rate)
        takes = better


def mean_of(profile: Profile, load: float, takes: NDArray[np.int64]) -> float:
    """The mean latency of the policy ``takes`` (as in :class:`Optimum`), in seconds."""
    kernel = _Kernel(profile, load * profile.capacity, len(takes) - 1)
    return kernel.worth(takes)[0] / kernel.rate


class _Kernel:
    """What follows from each action. ``arrivals[b][k]`` is the chance of ``k`` arrivals while ``b`` rows run."""

    def __init__(self, profile: Profile, rate: float, most: int) -> None:
        self.rate, self.most, self.max_rows = rate, most, profile.max_rows
        self.run_s = np.array([1 / rate] + [profile.of(b) for b in range(1, profile.max_rows + 1)])
        self.arrivals = np.zeros((profile.max_rows + 1, most + 1))
        for b in range(1, profile.max_rows + 1):
            self.arrivals[b] = sum(w * _poisson(rate * profile.of(b) * z, most) for w, z in _NOISES)
        self.square_s2 = self.run_s**2 * (1 + NOISE**2)

    def cost(self, n: NDArray[np.int64], b: int) -> NDArray[np.float64]:
        if b == WAIT:
            return n / self.rate
        return n * self.run_s[b] + self.rate * self.square_s2[b] / 2

    def worth(self, takes: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
        """Cost a second of the policy, and how much worse it is to start with ``n`` than with none."""
        size = self.most + 1
        flow, constant, duration = np.zeros((size, size)), np.zeros(size), np.zeros(size)
        for n in range(size):
            b = int(takes[n])
            duration[n] = self.run_s[b]
            constant[n] = self.cost(np.array([n]), b)[0]
            if b == WAIT:
                flow[n, min(n + 1, self.most)] = 1.0
            else:
                rest = n - b
                flow[n, rest:] = self.arrivals[b][: size - rest]
                flow[n, -1] += 1 - flow[n].sum()
        # Unknowns: the gain in place of the bias of state 0, which is 0.
        system = np.eye(size) - flow
        system[:, 0] = duration
        solved = np.linalg.solve(system, constant)
        gain = float(solved[0])
        solved[0] = 0.0
        return gain, solved

    def improve(self, takes: NDArray[np.int64], gain: float, bias: NDArray[np.float64]) -> NDArray[np.int64]:
        size = self.most + 1
        best_value = np.full(size, np.inf)
        best = takes.copy()
        padded = np.concatenate([bias, np.full(size, bias[-1])])
        windows = np.lib.stride_tricks.sliding_window_view(padded, size)[:size]
        states = np.arange(size)
        kept = np.full(size, np.inf)
        for b in range(self.max_rows + 1):
            value = np.full(size, np.inf)
            if b == WAIT:
                value[:-1] = self.cost(states[:-1], b) - gain * self.run_s[b] + bias[1:]
            else:
                tail = 1 - self.arrivals[b].sum()
                after = windows @ self.arrivals[b] + tail * bias[-1]
                value[b:] = self.cost(states[b:], b) - gain * self.run_s[b] + after[: size - b]
            kept = np.where(takes == b, value, kept)
            better = value < best_value
            best_value[better], best[better] = value[better], b
        # Only for a real improvement, or ties would keep it from ever ending.
        return np.where(best_value < kept - 1e-12 * (1 + np.abs(kept)), best, takes)


def _poisson(mean: float, most: int) -> NDArray[np.float64]:
    k = np.arange(most + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    return np.exp(k * math.log(mean) - mean - logs)
