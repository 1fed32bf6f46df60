"""``python -m benchmarks.batching.bars [PROFILE ...] [--seeds N]``: what the policy is held to, each with its noise.

Each figure is the mean over seeds with the half-width of its 95 % confidence interval; policies meet the same arrivals,
so that the interval is of the ratio. A bar is ``missed`` only where the whole interval is beyond it. Simulated: no real
time is measured. Exit status 1 if one is missed. Must not live here: loads and policies (``scenarios``).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import inf, sqrt
from statistics import mean, stdev
from typing import NamedTuple

from benchmarks.batching import scenarios as s
from benchmarks.batching.simulator import PROFILES, Profile, poisson

T_95 = (
    inf,
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
)
"""Student's t, two-sided, by degrees of freedom; 2.1 beyond."""


class Figure(NamedTuple):
    """One figure of one model: its mean, the half-width of its interval, and what it is held to."""

    told: str
    value: float
    half: float
    least: float
    most: float

    @property
    def verdict(self) -> str:
        if self.value + self.half < self.least or self.value - self.half > self.most:
            return "missed"
        return "held" if self.least <= self.value <= self.most else "within the noise"


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of the 95 % interval of it."""
    free = len(values) - 1
    if free < 1:
        return values[0], inf
    t = T_95[free] if free < len(T_95) else 2.1
    return mean(values), t * stdev(values) / sqrt(len(values))


def _figure(told: str, values: list[float], *, least: float = -inf, most: float = inf) -> Figure:
    value, half = interval(values)
    return Figure(told, value, half, least, most)


def at_load(name: str, load: float, seeds: range) -> list[Figure]:
    """Poisson arrivals: where batching pays, no worse than the best fixed setting; where not, better than eager."""
    profile = PROFILES[name]

    def seen(make: s.Make) -> list[s.Latency]:
        return [s.at_load(profile, make, load, poisson, range(seed, seed + 1)) for seed in seeds]

    mine = seen(s.POLICIES["stfs"])
    if profile.beta_s > profile.alpha_s:
        eager = seen(s.POLICIES["eager"])
        most = 0.95 if 0.5 <= load <= 0.9 else 1.0
        ratios = [m.mean_s / e.mean_s for m, e in zip(mine, eager, strict=True)]
        return [_figure(f"{name} {load:.0%} mean to eager's", ratios, most=most)]
    fixed = [seen(make) for make in s.fixed_settings(profile)]
    figures = []
    for i, (what, most) in enumerate((("mean", 1.02), ("p99", 1.05))):
        best = min(fixed, key=lambda setting: mean(x[i] for x in setting))
        ratios = [m[i] / b[i] for m, b in zip(mine, best, strict=True)]
        figures.append(_figure(f"{name} {load:.0%} {what} to the best fixed", ratios, most=most))
    return figures


def closed(name: str, clients: int, seeds: range) -> list[Figure]:
    """Clients that wait for their answers; one alone gets each after one run."""
    profile = PROFILES[name]
    best = s.best_closed_loop(profile, clients, seeds)
    rates = [s.closed_loop(profile, s.POLICIES["stfs"], clients, range(seed, seed + 1)) for seed in seeds]
    return [_figure(f"{name} {clients} clients, rate to the best fixed", [rate / best for rate in rates], least=0.97)]


def objective(name: str, load: float, seeds: range) -> list[Figure]:
    """Answers wanted within 2 l(B)."""
    kept = [s.with_objective(PROFILES[name], s.WITH_OBJECTIVE["stfs"], load, range(seed, seed + 1)) for seed in seeds]
    least = 0.98 if load < 1 else 0.95
    told = f"{name} {load:.0%} with an objective"
    return [
        _figure(f"{told}, in time", [k.goodput for k in kept], least=least),
        _figure(f"{told}, late", [k.late for k in kept], most=0.01),
    ]


def change(name: str, seeds: range) -> list[Figure]:
    """A step of load, and a model that becomes two times slower."""
    profile = PROFILES[name]
    steps = [s.step(profile, s.POLICIES["stfs"], range(seed, seed + 1)) for seed in range(min(2, len(seeds)))]
    slowed = [s.slows(profile, s.WITH_OBJECTIVE["stfs"], range(seed, seed + 1)).goodput for seed in range(2)]
    return [
        _figure(f"{name} from 20 to 90 %, p99 to the steady one", [mean(steps)] * 2, most=1.1),
        _figure(f"{name} two times slower, in time", [mean(slowed)] * 2, least=0.75),
    ]


def plan(profiles: Iterable[str], seeds: range) -> Iterator[Callable[[], list[Figure]]]:
    """All there is to measure."""
    for name in profiles:
        yield from (partial(at_load, name, load, seeds) for load in s.LOADS)
        yield from (partial(closed, name, clients, seeds[:4]) for clients in s.CLIENTS)
        yield from (partial(objective, name, load, seeds) for load in (0.8, 1.5, 3.0))
        yield partial(change, name, seeds)


def one_client(profile: Profile) -> float:
    """The latency of a client that asks alone, to that of a run of one row."""
    import random

    from benchmarks.batching.simulator import Product, simulate

    rng = random.Random(1)
    out = simulate(profile, Product(profile, rng), iter(()), rng, clients=1, total=2000, warm=100)
    return out.mean() / profile.of(1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching.bars", description=__doc__.splitlines()[0])
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help=f"of {', '.join(PROFILES)}; all unless given")
    parser.add_argument("--seeds", type=int, default=10, help="runs that each figure is the mean of (10)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    args = parser.parse_args(argv)
    profiles = args.profiles or list(PROFILES)
    if unknown := [name for name in profiles if name not in PROFILES]:
        parser.error(f"no profile {unknown[0]!r}; there are {', '.join(PROFILES)}")
    missed = 0
    with ProcessPoolExecutor(args.jobs) as pool:
        for figures in pool.map(_call, plan(profiles, range(1, 1 + args.seeds))):
            for figure in figures:
                bound = f"at least {figure.least}" if figure.least > -inf else f"at most {figure.most}"
                noise = f" ± {figure.half:.3f}" if 0 < figure.half < inf else ""
                print(f"{figure.verdict:16} {figure.told}: {figure.value:.3f}{noise} ({bound})", flush=True)
                missed += figure.verdict == "missed"
    for name in profiles:
        value = one_client(PROFILES[name])
        figure = Figure("", value, 0.0, -inf, 1.02)
        print(f"{figure.verdict:16} {name} one client, latency to l(1): {value:.3f} (at most 1.02)")
        missed += figure.verdict == "missed"
    print("no bar is missed" if not missed else f"{missed} bars are missed")
    sys.exit(bool(missed))


def _call(job: Callable[[], list[Figure]]) -> list[Figure]:
    return job()


if __name__ == "__main__":
    main()
