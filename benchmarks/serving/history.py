"""The ratios of ``make bench-quick`` over time, one JSON line a recorded run, and what became slower since the last.

A ratio (this server to a reference of the same run) outlives the machine's mood, a rate does not. Pure functions of
values but for ``last`` and ``append``, which read and write the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.serving.results import Ratio, number, table

CEILING = 0.30  # a median that moved by more is told of, however far single rounds went astray on a busy machine
FLOOR = 0.05  # of the ratio: what two runs of the same commit differ by on a quiet machine


@dataclass(frozen=True)
class Record:
    """One run: when, which commit, on what machine, and its ratios (higher is better for this server)."""

    date: str
    commit: str
    machine: str
    ratios: Mapping[str, Ratio] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A ratio now against the recorded one: ``factor`` below 1 is slower. ``noise`` is what may be chance."""

    name: str
    before: Ratio
    now: Ratio
    noise: float

    @property
    def factor(self) -> float:
        return self.now.median / self.before.median

    @property
    def slower(self) -> bool:
        return self.factor < 1 - self.noise

    @property
    def faster(self) -> bool:
        return self.factor > 1 + self.noise


def noise(before: Ratio, now: Ratio) -> float:
    """By how much of itself a ratio may change by chance: the wider half spread, from ``FLOOR`` to ``CEILING``."""
    return min(CEILING, max(FLOOR, *((each.high - each.low) / 2 / each.median for each in (before, now))))


def compare(before: Record, now: Record) -> list[Change]:
    """The ratios that both runs have, in this run's order."""
    return [
        Change(name, before.ratios[name], ratio, noise(before.ratios[name], ratio))
        for name, ratio in now.ratios.items()
        if name in before.ratios
    ]


def changes_table(now: Record, changes: list[Change]) -> str:
    """Every ratio of ``now``, with what it was and whether that is more than chance."""
    by_name = {change.name: change for change in changes}
    rows = []
    for name, ratio in now.ratios.items():
        change = by_name.get(name)
        cells = [name, f"{number(ratio.median)} ({number(ratio.low)} to {number(ratio.high)})"]
        if change is None:
            cells += ["-", "-", "new"]
        else:
            verdict = "SLOWER" if change.slower else "faster" if change.faster else "as before"
            cells += [number(change.before.median), f"{change.factor - 1:+.0%} (noise {change.noise:.0%})", verdict]
        rows.append(cells)
    return table(["ratio", "now", "recorded", "change", "verdict"], rows)


def line(record: Record) -> str:
    return json.dumps(asdict(record))


def parse(text: str) -> Record:
    """A line of the file. Raises ``ValueError`` that says what is wrong with it."""
    try:
        told = json.loads(text)
        ratios = {name: Ratio(**value) for name, value in told["ratios"].items()}
        return Record(told["date"], told["commit"], told["machine"], ratios)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no record of ratios ({error!r}): {text[:80]!r}") from error


def last(path: Path) -> Record | None:
    """The newest record, None where there is no file or nothing in it."""
    lines = [text for text in path.read_text().splitlines() if text.strip()] if path.exists() else []
    return parse(lines[-1]) if lines else None


def append(path: Path, record: Record) -> None:
    with path.open("a") as file:
        file.write(line(record) + "\n")
