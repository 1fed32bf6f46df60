"""A discrete-event simulation of one model behind a batcher that runs the product's own policy, unchanged.

One device that runs one batch at a time; a run of b rows takes (alpha + beta * b) seconds with 8 % noise. Policies see
what the batcher would tell them and nothing else. Times are seconds of the simulation's own clock.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from stfs.batcher.adaptive import Adaptive, Wants
from stfs.batcher.cost import Cost
from stfs.calibration.measure import time_sizes
from stfs.calibration.result import fitted

NOISE = 0.08


@dataclass(frozen=True)
class Profile:
    """A model: what its runs cost, and the largest batch."""

    name: str
    alpha_s: float
    beta_s: float
    max_rows: int

    def of(self, rows: int) -> float:
        return self.alpha_s + self.beta_s * rows

    @property
    def capacity(self) -> float:
        """Rows a second in full batches."""
        return self.max_rows / self.of(self.max_rows)


PROFILES = {
    p.name: p
    for p in (
        Profile("gpu", 4e-3, 0.08e-3, 128),
        Profile("mlp", 0.05e-3, 0.01e-3, 128),
        Profile("forest", 6e-3, 0.02e-3, 128),
        Profile("lin", 0.2e-3, 3e-3, 32),
    )
}


class Policy(Protocol):
    """What the simulation asks. ``decide`` is called at every arrival, finish and timer."""

    slots: int = 1
    """Batches that it may have in flight. The device runs one at a time: the others wait for it, taken already."""

    def arrived(self, now: float, present: int) -> None: ...

    def finished(self, now: float, rows: int, run_s: float, present: int) -> None: ...

    def decide(self, now: float, queued: int, in_flight: int, deadline: float, arrived: float) -> Wants: ...


class Product(Policy):
    """The product's policy, calibrated as it is when a model is loaded."""

    def __init__(self, profile: Profile, rng: random.Random, calibrated: bool = True) -> None:
        self.core = Adaptive(profile.max_rows, _calibrated(profile, rng) if calibrated else None)

    def arrived(self, now: float, present: int) -> None:
        self.core.arrived(now, 1, present)

    def finished(self, now: float, rows: int, run_s: float, present: int) -> None:
        self.core.finished(now, rows, run_s, present)

    def decide(self, now: float, queued: int, in_flight: int, deadline: float, arrived: float) -> Wants:
        return self.core.decide(now, queued, in_flight, deadline)


def _calibrated(profile: Profile, rng: random.Random) -> Cost | None:
    now_s = 0.0

    def run(rows: int) -> None:
        nonlocal now_s
        now_s += noisy(profile.of(rows), rng)

    times = time_sizes(run, lambda rows: rows, profile.max_rows, lambda: now_s)  # type: ignore[arg-type,return-value]
    return fitted(times).cost


def noisy(seconds: float, rng: random.Random) -> float:
    """A run that should take ``seconds``, as long as it takes this time."""
    return seconds * max(0.2, 1 + rng.gauss(0, NOISE))


@dataclass
class Outcome:
    """What clients saw. ``latency`` of the answered requests, by their time of arrival."""

    arrivals: list[float] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    refused: int = 0
    late: int = 0
    end: float = 0.0
    first: float = 0.0

    def mean(self) -> float:
        return sum(self.latency) / len(self.latency)

    def quantile(self, q: float) -> float:
        ordered = sorted(self.latency)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def open_loop(gaps: Iterator[float], count: int) -> Iterator[float]:
    now = 0.0
    for _ in range(count):
        now += next(gaps)
        yield now


def poisson(rate: float, rng: random.Random) -> Iterator[float]:
    while True:
        yield rng.expovariate(rate)


def bursty(rate: float, rng: random.Random, peak: float = 10.0) -> Iterator[float]:
    """A tenth of the time ``peak`` times as fast as the rest of it, the same mean rate."""
    calm = rate / (0.9 + 0.1 * peak)
    period = 200 / rate
    now = 0.0
    while True:
        speed = calm * peak if (now / period) % 1.0 < 0.1 else calm
        gap = rng.expovariate(speed)
        now += gap
        yield gap


def simulate(
    profile: Profile,
    policy: Policy,
    arrivals: Iterator[float],
    rng: random.Random,
    *,
    slo_s: float = math.inf,
    clients: int = 0,
    turnaround_s: float = 1e-4,
    total: int = 0,
    slower: Callable[[float], float] = lambda now: 1.0,
    warm: int = 0,
) -> Outcome:
    """Run until the arrivals end and everything is answered.

    With ``clients`` it is a closed loop of ``total`` requests; each asks again 0.5 to 1.5 turnarounds after its answer.
    The first ``warm`` requests are not counted. ``slower`` says by how many times runs take longer at a moment.
    """
    out = Outcome()
    queue: deque[float] = deque()
    running: dict[int, list[float]] = {}
    launched: dict[int, float] = {}
    events: list[tuple[float, int, str]] = []
    sequence = started = answered = in_flight_rows = timer_id = 0
    device_free_at = 0.0

    def push(at: float, kind: str) -> int:
        nonlocal sequence
        sequence += 1
        heapq.heappush(events, (at, sequence, kind))
        return sequence

    def again(now: float) -> None:
        nonlocal started
        if clients and started < total:
            started += 1
            push(now + turnaround_s * rng.uniform(0.5, 1.5), "arrive")

    if clients:
        for _ in range(clients):
            push(turnaround_s * rng.random(), "arrive")
        started = clients
    elif (first := next(arrivals, None)) is not None:
        push(first, "arrive")
    while events:
        now, ident, kind = heapq.heappop(events)
        if kind == "timer":
            if ident != timer_id:
                continue
        elif kind == "arrive":
            queue.append(now)
            policy.arrived(now, len(queue) + in_flight_rows)
            if not clients and (following := next(arrivals, None)) is not None:
                push(following, "arrive")
        else:  # finish
            batch, run_s = running.pop(ident), now - launched.pop(ident)
            in_flight_rows -= len(batch)
            for arrived in batch:
                answered += 1
                if answered > warm:
                    out.first = out.first or now
                    out.arrivals.append(arrived)
                    out.latency.append(now - arrived)
                    out.late += now - arrived > slo_s * (1 + 1e-9)
                again(now)
            policy.finished(now, len(batch), run_s, len(queue) + in_flight_rows)
        out.end = now
        if events and events[0][0] == now and kind != "timer":
            continue  # as in the batcher, what happens in one turn of the loop is decided upon together
        while queue:
            wants = policy.decide(now, len(queue), len(running), queue[0] + slo_s, queue[0])
            if wants.refuse:
                queue.popleft()
                answered += 1
                if answered > warm:
                    out.refused += 1
                again(now)
                continue
            if wants.take_rows:
                batch = [queue.popleft() for _ in range(min(wants.take_rows, len(queue)))]
                begins = max(now, device_free_at)
                device_free_at = begins + noisy(profile.of(len(batch)), rng) * slower(begins)
                number = push(device_free_at, "finish")
                running[number], launched[number] = batch, now
                in_flight_rows += len(batch)
                timer_id = -1
                if len(running) < policy.slots:
                    continue
            elif not math.isinf(wants.wait_s):
                timer_id = push(now + max(wants.wait_s, 1e-6), "timer")
            break
    return out
