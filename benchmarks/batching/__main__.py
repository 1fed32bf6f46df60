"""``python -m benchmarks.batching [PROFILE ...]``: the product's policy against fixed settings, simulated.

Prints one line for each load: means and 99th percentiles against the best fixed setting of that load, throughput of
closed loops against the best fixed one, and what answers in time amount to under overload. A few minutes; no real time
is measured, so it may run beside anything.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from statistics import mean

from benchmarks.batching.simulator import (
    PROFILES,
    Fixed,
    Policy,
    Product,
    Profile,
    bursty,
    open_loop,
    poisson,
    simulate,
)

SEEDS = (1, 2, 3)
LOADS = (0.05, 0.2, 0.5, 0.8, 0.9, 0.95)
CLIENTS = (1, 8, 64, 256)
WAITS_IN_ALPHAS = (0, 0.25, 0.5, 1, 2)

Make = Callable[[random.Random], Policy]
Arrivals = Callable[[float, random.Random], Iterator[float]]


def at_load(profile: Profile, make: Make, load: float, arrivals: Arrivals = poisson) -> tuple[float, float]:
    """Mean and 99th percentile of the latency, in seconds, at ``load`` times what full batches could do."""
    outcomes = []
    for seed in SEEDS:
        rng, gaps = random.Random(seed), random.Random(seed + 100)
        stream = open_loop(arrivals(load * profile.capacity, gaps), 20_000)
        outcomes.append(simulate(profile, make(rng), stream, rng, warm=2_000))
    return mean(o.mean() for o in outcomes), mean(o.quantile(0.99) for o in outcomes)


def closed_loop(profile: Profile, make: Make, clients: int) -> float:
    """Answers a second for clients that ask again 0.1 ms after each answer."""
    rates = []
    for seed in SEEDS:
        rng = random.Random(seed)
        out = simulate(profile, make(rng), iter(()), rng, clients=clients, total=8_000, warm=2_000)
        rates.append(len(out.latency) / (out.end - out.first))
    return mean(rates)


def overloaded(profile: Profile, load: float) -> tuple[float, float]:
    """Answers in time as a share of what could be done, and late ones as a share of all answers."""
    good, late = [], []
    for seed in SEEDS:
        rng, gaps = random.Random(seed), random.Random(seed + 100)
        stream = open_loop(poisson(load * profile.capacity, gaps), 30_000)
        slo_s = 2 * profile.of(profile.max_rows)
        out = simulate(profile, Product(profile, rng), stream, rng, slo_s=slo_s, warm=3_000)
        in_time = (len(out.latency) - out.late) / (out.end - out.first)
        good.append(in_time / profile.capacity / min(load, 1))
        late.append(out.late / max(1, len(out.latency)))
    return mean(good), mean(late)


def report(profile: Profile) -> None:
    """One profile's table."""

    def product(rng: random.Random) -> Policy:
        return Product(profile, rng)

    def eager(_: random.Random) -> Policy:
        return Fixed(profile.max_rows, 0)

    sizes = [profile.max_rows] if profile.alpha_s >= profile.beta_s else [1, 2, 4, 8, 16, profile.max_rows]
    for arrivals in (poisson, bursty):
        for load in LOADS:
            fixed = [
                at_load(profile, lambda _, s=size, w=wait: Fixed(s, w * profile.alpha_s), load, arrivals)
                for size in sizes
                for wait in WAITS_IN_ALPHAS
            ]
            best = min(fixed)
            shown = [f"{name} {m / best[0]:.3f}/{p / best[1]:.3f}" for name, (m, p) in (
                ("eager", at_load(profile, eager, load, arrivals)),
                ("product", at_load(profile, product, load, arrivals)),
            )]  # fmt: skip
            print(f"{profile.name:7} {arrivals.__name__:7} {load:5.0%}  mean/p99 to the best fixed: {', '.join(shown)}")
    for clients in CLIENTS:
        batch_sizes = {min(clients, profile.max_rows), max(1, clients // 2), profile.max_rows}
        best_rate = max(
            closed_loop(profile, lambda _, s=size, w=wait_s: Fixed(min(s, profile.max_rows), w), clients)
            for size in batch_sizes
            for wait_s in (0, 2e-4, 1e-3)
        )
        rates = [closed_loop(profile, make, clients) / best_rate for make in (eager, product)]
        told = "eager {:.3f}, product {:.3f}".format(*rates)
        print(f"{profile.name:7} {clients:3} clients in a closed loop, rate to the best fixed: {told}")
    for load in (0.8, 1.5, 3.0):
        goodput, late = overloaded(profile, load)
        print(f"{profile.name:7} {load:.1f}x load, wanted within 2 l(B): in time {goodput:.3f}, late {late:.2%}")


if __name__ == "__main__":
    for name in sys.argv[1:] or PROFILES:
        report(PROFILES[name])
