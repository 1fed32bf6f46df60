"""What other servers do, from what they have published, as policies of the simulator; in our own words and code.

Each is given its own documented settings and, where it has a goal, the same one: answers within 2 l(B). Only the rules
for when a batch leaves are here, not how fast the servers are.
"""

from __future__ import annotations

import math
import random
from collections import deque

from benchmarks.batching.simulator import Policy, Profile
from stfs.batcher.adaptive import Wants

NOTHING = Wants(0, math.inf, "")
REFUSE = Wants(0, 0.0, "", refuse=True)


class Fixed(Policy):
    """A largest size and a longest wait, as most servers have them; (1, 0) does not batch, (B, 0) is eager."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size, self.timeout_s = size, timeout_s

    def decide(self, now: float, queued: int, in_flight: int, deadline: float, arrived: float) -> Wants:
        if in_flight or not queued:
            return NOTHING
        if queued >= self.size or now - arrived >= self.timeout_s - 1e-12:
            return Wants(min(queued, self.size), 0.0, "")
        return Wants(0, self.timeout_s - (now - arrived), "")


class TensorFlowAdaptive(Policy):
    """TensorFlow Serving's adaptive shared batch scheduler: it learns how many batches to have in flight.

    Batches leave at once, full or not, while fewer than the limit are in flight. The limit has a fraction, which is the
    chance that one more may go. It begins at 3 and stays between 1 and the number of threads. Every 1,000 batches the
    mean time from a batch's making to its answer is compared with that of the 1,000 before: if it is shorter, the step
    doubles, or halves if it had been longer before; if not, the direction turns round. Then the limit goes a step in
    the direction, of 1/128 to 1/8 of itself.
    """

    def __init__(self, size: int, rng: random.Random, threads: int = 4) -> None:
        self.size, self.rng, self.slots = size, rng, threads
        self.limit = min(3.0, float(threads))
        self.step, self.direction = 1 / 8, 1
        self.batches, self.sum_s, self.last_mean_s, self.was_shorter = 0, 0.0, 0.0, False
        self.oldest: deque[float] = deque()

    def finished(self, now: float, rows: int, run_s: float, present: int) -> None:
        self.batches += 1
        self.sum_s += now - self.oldest.popleft()
        if self.batches < 1000:
            return
        mean_s = self.sum_s / self.batches
        shorter = mean_s < self.last_mean_s
        if shorter:
            self.step = min(max(self.step * (2 if self.was_shorter else 0.5), 1 / 128), 1 / 8)
        else:
            self.direction = -self.direction
        self.limit += self.direction * self.limit * self.step
        self.limit = min(max(self.limit, 1.0), float(self.slots))
        self.last_mean_s, self.was_shorter, self.batches, self.sum_s = mean_s, shorter, 0, 0.0

    def decide(self, now: float, queued: int, in_flight: int, deadline: float, arrived: float) -> Wants:
        room = self.limit - in_flight
        if not queued or room <= 0 or (room < 1 and self.rng.random() >= room):
            return NOTHING
        self.oldest.append(arrived)
        return Wants(min(queued, self.size), 0.0, "")


class Aimd(Policy):
    """Clipper's: the largest batch grows by a row while runs keep to the objective, else it shrinks by a tenth.

    It is eager up to that size. The objective is what a request may take in all. It begins at the largest: what piles
    up while it grows from one row would outlast the runs that are measured here.
    """

    def __init__(self, size: int, objective_s: float) -> None:
        self.most, self.objective_s = size, objective_s
        self.size = float(size)

    def finished(self, now: float, rows: int, run_s: float, present: int) -> None:
        if run_s > self.objective_s:
            self.size = max(1.0, self.size * 0.9)
        elif rows >= int(self.size):  # a smaller batch has proved nothing
            self.size = min(self.size + 1, float(self.most))

    def decide(self, now: float, queued: int, in_flight: int, deadline: float, arrived: float) -> Wants:
        if in_flight or not queued:
            return NOTHING
        return Wants(min(queued, int(self.size)), 0.0, "")


class Cork(Policy):
    """BentoML's dispatcher: a regression of run time on rows, and a wait that it learns from the waits there were.

    It waits in ticks of a millisecond while ``n * (time since the newest arrived + tick + beta)`` is within 0.95 times
    the mean wait of the oldest in each of the last 50 batches, and refuses the oldest if its wait and a run of all that
    are queued would exceed the latency that is wanted. The regression is done after each batch, not every 5 s, and the
    oldest are taken first, where BentoML takes the newest first.
    """

    TICK_S = 1e-3

    def __init__(self, profile: Profile, latency_s: float = 10.0) -> None:
        self.size, self.latency_s = profile.max_rows, latency_s
        self.runs: deque[tuple[int, float, float]] = deque(maxlen=50)
        self.alpha_s = self.beta_s = 0.0
        self.wait_s = 0.01
        self.newest = self.oldest_wait_s = 0.0

    def arrived(self, now: float, present: int) -> None:
        self.newest = now

    def finished(self, now: float, rows: int, run_s: float, present: int) -> None:
        self.runs.append((rows, run_s, self.oldest_wait_s))
        n = len(self.runs)
        mean_b, mean_d, self.wait_s = (sum(run[i] for run in self.runs) / n for i in range(3))
        spread = sum((b - mean_b) ** 2 for b, _, _ in self.runs)
        slope = sum((b - mean_b) * (d - mean_d) for b, d, _ in self.runs) / spread if spread else 0.0
        self.beta_s = max(slope, 1e-6)
        self.alpha_s = max(mean_d - slope * mean_b, 0.0)

    def decide(self, now: float, queued: int, in_flight: int, deadline: float, arrived: float) -> Wants:
        if not queued:
            return NOTHING
        waited_s = now - arrived
        if queued > 1 and waited_s + self.beta_s * queued + self.alpha_s >= self.latency_s:
            return REFUSE
        if in_flight:
            return NOTHING
        if queued * (now - self.newest + self.TICK_S + self.beta_s) <= 0.95 * self.wait_s:
            return Wants(0, self.TICK_S, "")
        self.oldest_wait_s = waited_s
        return Wants(min(queued, self.size), 0.0, "")
