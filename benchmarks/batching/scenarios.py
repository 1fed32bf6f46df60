"""Loads to put policies under, and what is measured there. Every figure follows from a seed; nothing reads a clock."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from statistics import mean
from typing import NamedTuple

from benchmarks.batching.rivals import Aimd, Cork, Fixed, TensorFlowAdaptive
from benchmarks.batching.simulator import Outcome, Policy, Product, Profile, bursty, open_loop, poisson, simulate

Make = Callable[[Profile, random.Random], Policy]
Arrivals = Callable[[float, random.Random], Iterator[float]]

POLICIES: dict[str, Make] = {
    "stfs": lambda p, rng: Product(p, rng),
    "eager": lambda p, rng: Fixed(p.max_rows, 0.0),
    "no batching": lambda p, rng: Fixed(1, 0.0),
    "1 ms": lambda p, rng: Fixed(p.max_rows, 1e-3),
    "10 ms": lambda p, rng: Fixed(p.max_rows, 10e-3),
    "TF Serving adaptive": lambda p, rng: TensorFlowAdaptive(p.max_rows, rng),
    "AIMD": lambda p, rng: Aimd(p.max_rows, 2 * p.of(p.max_rows)),
    "BentoML": lambda p, rng: Cork(p),
}
WITH_OBJECTIVE: dict[str, Make] = {**POLICIES, "BentoML": lambda p, rng: Cork(p, 2 * p.of(p.max_rows))}
"""The same where answers are wanted within 2 l(B), for those that can be told."""

LOADS = (0.05, 0.2, 0.5, 0.8, 0.9, 0.95)
CLIENTS = (1, 8, 64, 256)
ARRIVALS: dict[str, Arrivals] = {"Poisson": poisson, "bursts": bursty}
UNSTABLE = 0.97
"""A policy that answers less than this share of what arrives, while it arrives, is not keeping up."""


class Latency(NamedTuple):
    """Seconds; infinite if the queue only grew."""

    mean_s: float
    p99_s: float


def fixed_settings(profile: Profile) -> list[Make]:
    """What somebody might set who knows the load: the best of these is what others are compared with."""
    pays = profile.alpha_s >= profile.beta_s
    sizes = [profile.max_rows] if pays else [1, 2, 4, 8, 16, profile.max_rows]
    waits = (0, 0.25, 0.5, 1, 2) if pays else (0, 1)
    return [lambda p, _, s=s, w=w: Fixed(s, w * p.alpha_s) for s in sizes for w in waits]


def at_load(
    profile: Profile, make: Make, load: float, arrivals: Arrivals, seeds: range, count: int = 20_000
) -> Latency:
    """Latencies at ``load`` times what full batches could do."""
    outcomes = []
    for seed in seeds:
        rng, gaps = random.Random(seed), random.Random(seed + 100)
        rate = load * profile.capacity
        stream = open_loop(arrivals(rate, gaps), count)
        out = simulate(profile, make(profile, rng), stream, rng, warm=count // 10)
        last = out.arrivals[-1]
        if out.end - last > (1 - UNSTABLE) * last + 20 * profile.of(profile.max_rows):
            return Latency(math.inf, math.inf)
        outcomes.append(out)
    return Latency(mean(o.mean() for o in outcomes), mean(o.quantile(0.99) for o in outcomes))


def closed_loop(profile: Profile, make: Make, clients: int, seeds: range, total: int = 8_000) -> float:
    """Answers a second for clients that ask again about 0.1 ms after each answer."""
    rates = []
    for seed in seeds:
        rng = random.Random(seed)
        policy = make(profile, rng)
        out = simulate(profile, policy, iter(()), rng, clients=clients, total=total, warm=total // 4)
        rates.append(len(out.latency) / (out.end - out.first))
    return mean(rates)


def best_closed_loop(profile: Profile, clients: int, seeds: range, total: int = 8_000) -> float:
    """What the best fixed setting for so many clients gives."""
    sizes = {min(clients, profile.max_rows), max(1, min(clients // 2, profile.max_rows)), profile.max_rows}
    makes: list[Make] = [lambda p, _, s=s, w=w: Fixed(s, w) for s in sizes for w in (0, 2e-4, 1e-3)]
    return max(closed_loop(profile, make, clients, seeds, total) for make in makes)


class Kept(NamedTuple):
    """``goodput``: answers in time, as a share of what could be done at that load; ``late``: of all answers."""

    goodput: float
    late: float


def with_objective(profile: Profile, make: Make, load: float, seeds: range, count: int = 30_000) -> Kept:
    """Answers wanted within 2 l(B), Poisson arrivals."""
    kept = []
    for seed in seeds:
        rng, gaps = random.Random(seed), random.Random(seed + 100)
        rate = load * profile.capacity
        slo_s = 2 * profile.of(profile.max_rows)
        policy = make(profile, rng)
        out = simulate(profile, policy, open_loop(poisson(rate, gaps), count), rng, slo_s=slo_s, warm=count // 10)
        seen_s = count * 0.9 / rate  # what is answered after the last arrival is too little to matter, or too late
        good = (len(out.latency) - out.late) / seen_s
        kept.append(Kept(good / min(rate, profile.capacity), out.late / max(1, len(out.latency))))
    return Kept(mean(k.goodput for k in kept), mean(k.late for k in kept))


def step(profile: Profile, make: Make, seeds: range, low: float = 0.2, high: float = 0.9) -> float:
    """99th percentile in the 20 l(B) after the load has gone from ``low`` to ``high``, to that of the steady high load.

    Both with the same arrivals after the step, over thirty steps for each seed.
    """
    after, steady = [], []
    for seed in range(30 * len(seeds)):
        span_s = 20 * profile.of(profile.max_rows)
        for into, before in ((after, low), (steady, high)):
            rng, gaps = random.Random(seed), random.Random(seed + 100)
            times = list(_until(poisson(before * profile.capacity, random.Random(seed + 200)), 3 * span_s))
            times += [3 * span_s + t for t in _until(poisson(high * profile.capacity, gaps), span_s)]
            out = simulate(profile, make(profile, rng), iter(times), rng)
            into += [s for at, s in zip(out.arrivals, out.latency, strict=True) if at >= 3 * span_s]
    return _quantile(after, 0.99) / _quantile(steady, 0.99)


def slows(profile: Profile, make: Make, seeds: range, load: float = 0.9) -> Kept:
    """The model becomes two times slower at 0.9 load: goodput in the 20 l(B) that follow, to what is feasible then."""
    good, late = [], []
    for seed in range(30 * len(seeds)):
        rng, gaps = random.Random(seed), random.Random(seed + 100)
        full_s = profile.of(profile.max_rows)
        at, span_s, slo_s = 60 * full_s, 20 * full_s, 4 * full_s  # 2 l(B) of the slower model
        times = _until(poisson(load * profile.capacity, gaps), at + span_s)

        def slower(now: float, at: float = at) -> float:
            return 2.0 if now >= at else 1.0

        out: Outcome = simulate(profile, make(profile, rng), times, rng, slo_s=slo_s, slower=slower)
        done = [(t, s) for t, s in zip(out.arrivals, out.latency, strict=True) if at <= t + s < at + span_s]
        in_time = sum(s <= slo_s for _, s in done)
        good.append(in_time / span_s / (profile.capacity / 2))
        late.append(1 - in_time / max(1, len(done)))
    return Kept(mean(good), mean(late))


def _until(gaps: Iterator[float], end_s: float) -> Iterator[float]:
    now = 0.0
    while (now := now + next(gaps)) < end_s:
        yield now


def _quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
