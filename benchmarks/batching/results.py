"""Every figure of the simulated comparison, measured in as many processes as asked for, and told as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

from benchmarks.batching import scenarios as s
from benchmarks.batching.optimum import solve
from benchmarks.batching.simulator import PROFILES

OVERLOADS = (0.8, 1.5, 3.0)


class Measure(NamedTuple):
    """What to measure. ``scenario`` is ``Poisson``, ``bursts``, ``closed``, ``objective`` or ``change``."""

    profile: str
    scenario: str
    level: float


class Row(NamedTuple):
    """For each policy its figures: mean and p99 to the best fixed (``inf``: not stable); rate to the best fixed;
    goodput and share of late answers; or step, goodput and late answers of a model that slows.
    """

    measure: Measure
    figures: dict[str, tuple[float, ...]]


def plan(profiles: Iterable[str]) -> Iterator[Measure]:
    """All there is to measure of these profiles."""
    for profile in profiles:
        for arrivals in s.ARRIVALS:
            yield from (Measure(profile, arrivals, load) for load in s.LOADS)
        yield from (Measure(profile, "closed", float(clients)) for clients in s.CLIENTS)
        yield from (Measure(profile, "objective", load) for load in OVERLOADS)
        yield Measure(profile, "change", 0.9)


def measure(what: Measure, seeds: range) -> Row:
    """One row. A second or some tens of them; no clock is read."""
    profile = PROFILES[what.profile]
    figures: dict[str, tuple[float, ...]] = {}
    if what.scenario in s.ARRIVALS:
        arrivals = s.ARRIVALS[what.scenario]
        settings = [s.at_load(profile, make, what.level, arrivals, seeds) for make in s.fixed_settings(profile)]
        best_mean_s, best_p99_s = min(x.mean_s for x in settings), min(x.p99_s for x in settings)
        for name, make in s.POLICIES.items():
            seen = s.at_load(profile, make, what.level, arrivals, seeds)
            figures[name] = seen.mean_s / best_mean_s, seen.p99_s / best_p99_s
        if what.scenario == "Poisson":
            most = 400 if profile.beta_s > profile.alpha_s else 3 * profile.max_rows
            figures["the optimum"] = solve(profile, what.level, most).mean_s / best_mean_s, math.nan
    elif what.scenario == "closed":
        best = s.best_closed_loop(profile, int(what.level), seeds)
        for name, make in s.POLICIES.items():
            figures[name] = (s.closed_loop(profile, make, int(what.level), seeds) / best,)
    elif what.scenario == "objective":
        for name, make in s.WITH_OBJECTIVE.items():
            figures[name] = tuple(s.with_objective(profile, make, what.level, seeds))
    else:
        for name in ("stfs", "eager", "AIMD", "BentoML"):
            make = s.WITH_OBJECTIVE[name]
            figures[name] = s.step(profile, s.POLICIES[name], seeds), *s.slows(profile, make, seeds)
    return Row(what, figures)


def measure_all(profiles: Iterable[str], seeds: range, jobs: int) -> Iterator[Row]:
    """Every row of the plan, in its order."""
    todo = list(plan(profiles))
    if jobs == 1:
        yield from (measure(what, seeds) for what in todo)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(measure, todo, [seeds] * len(todo))


_TITLES = {
    "Poisson": ("Poisson arrivals", "load", "Mean / p99 latency to the best fixed setting of that load."),
    "bursts": ("Bursts of ten times the rate", "load", "Mean / p99 latency to the best fixed setting of that load."),
    "closed": (
        "Closed loop",
        "clients",
        "Answers a second to the best fixed setting; clients ask again after 0.05 to 0.15 ms.",
    ),
    "objective": (
        "Answers wanted within 2 l(B)",
        "load",
        "Answers in time to what can be done at that load / late answers.",
    ),
    "change": (
        "Sudden changes",
        "",
        "Load from 20 to 90 %: p99 of the first 20 l(B) to that of steady 90 %. The model becomes two times slower at "
        "90 %: answers in time in the first 20 l(B) to what it can still do / late answers.",
    ),
}


def markdown(rows: list[Row]) -> str:
    """The tables, one for each scenario, a line for each profile and level."""
    out: list[str] = []
    for scenario, (title, level, told) in _TITLES.items():
        mine = [row for row in rows if row.measure.scenario == scenario]
        if not mine:
            continue
        names = list(mine[0].figures)
        out += [f"### {title}", "", told, "", f"| model | {level} | " + " | ".join(names) + " |"]
        out.append("|---" * (len(names) + 2) + "|")
        for row in mine:
            cells = [_cell(scenario, row.figures[name]) for name in names]
            out.append(f"| {row.measure.profile} | {_level(row.measure)} | " + " | ".join(cells) + " |")
        out.append("")
    return "\n".join(out)


def _level(what: Measure) -> str:
    if what.scenario == "closed":
        return f"{what.level:.0f}"
    return "" if what.scenario == "change" else f"{what.level:.0%}"


def _cell(scenario: str, figures: tuple[float, ...]) -> str:
    if scenario == "closed":
        return f"{figures[0]:.3f}"
    if scenario == "objective":
        return f"{figures[0]:.3f} / {figures[1]:.1%}"
    if scenario == "change":
        return f"{figures[0]:.2f}; {figures[1]:.2f} / {figures[2]:.1%}"
    if math.isinf(figures[0]):
        return "not stable"
    return " / ".join(f"{x:.2f}" for x in figures if not math.isnan(x))
