"""What the turns say: medians, ratios within a run, the bars that this server is held to, and tables of them.

Pure functions of values. A ratio is taken within each round, where both servers met the same machine, and its median
told; the lowest and highest round show how far to trust it.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from benchmarks.serving.turns import MODEL_ALONE, Turn, closed

DISTURBED = 0.10  # of the server's core, taken by other processes


@dataclass(frozen=True)
class Summary:
    """Medians over the rounds of one server under one load. ``disturbed`` rounds lost over a tenth of the core."""

    work: str
    load: str
    server: str
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int
    rounds: int
    disturbed: int | None  # None: not known, where the load shares the server's cores


@dataclass(frozen=True)
class Ratio:
    """Of rates (higher is better for the first): the median of the rounds, and the extremes."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """At least ``least`` times the best of ``against`` (or the only one)."""

    told: str
    work: str
    connections: int
    server: str
    against: tuple[str, ...]
    least: float


TRITON = ("triton", "triton-batched")
PEERS = (
    *TRITON,
    "fastapi-best",
    "fastapi-batched",
    "fastapi-plain",
    "mlserver",
    "mlserver-batched",
    "litserve",
    "litserve-batched",
    "bentoml",
    "bentoml-batched",
    "ray",
    "tensorflow-serving",
)
BARS = (
    Bar("identity, 64 connections, to Triton", "identity", 64, "stfs", TRITON, 5.0),
    Bar(
        "identity, 64 connections, to Triton's front end without a model",
        "identity",
        64,
        "stfs",
        ("triton-front",),
        2.5,
    ),
    Bar("identity, 64 connections, to a bare aiohttp answer", "identity", 64, "stfs", ("aiohttp",), 5.0),
    Bar("identity, 64 connections, to raw uvloop", "identity", 64, "stfs", ("uvloop",), 0.7),
    Bar("MLP, 64 connections, to Triton", "mlp", 64, "stfs", TRITON, 4.0),
    Bar(
        "MLP, 64 connections, both cores, --workers 2, to Triton", "mlp", 64, "stfs-workers2", ("triton-workers2",), 3.0
    ),
    Bar("MLP, 1 connection, to the best peer", "mlp", 1, "stfs", PEERS, 1.5),
    Bar("MLP, 1 connection, batching on to off", "mlp", 1, "stfs", ("stfs-unbatched",), 0.98),
    Bar("forest, 64 connections, to the best peer", "forest", 64, "stfs", PEERS, 3.5),
    Bar("ResNet-18, 1 MB JSON, 4 connections, to the model alone", "resnet", 4, "stfs", (MODEL_ALONE,), 0.9),
)


def summaries(turns: Iterable[Turn]) -> list[Summary]:
    """One for each work, load and server, in the order they came."""
    groups: dict[tuple[str, str, str], list[Turn]] = {}
    for turn in turns:
        groups.setdefault((turn.work, turn.load, turn.server), []).append(turn)
    return [
        Summary(
            *key,
            rate=statistics.median(turn.rate for turn in group),
            p50_ms=statistics.median(turn.p50_ms for turn in group),
            p99_ms=statistics.median(turn.p99_ms for turn in group),
            cpu_us=statistics.median(turn.cpu_us for turn in group),
            errors=sum(turn.errors for turn in group),
            rounds=len(group),
            disturbed=None
            if all(math.isnan(turn.others) for turn in group)
            else sum(turn.others > DISTURBED for turn in group),
        )
        for key, group in groups.items()
    ]


def ratio(turns: Iterable[Turn], work: str, load: str, server: str, against: str, figure: str = "rate") -> Ratio | None:
    """``server`` to ``against``, of their rates, or of the inverse of ``figure`` where less is better (``cpu_us``).

    None where no round has both. A model alone has no load of its own and is compared under any.
    """
    mine: dict[int, float] = {}
    theirs: dict[int, float] = {}
    for turn in turns:
        if turn.work != work:
            continue
        value = float(getattr(turn, figure))
        if turn.server == server and turn.load == load:
            mine[turn.round] = value
        elif turn.server == against and (turn.load == load or against == MODEL_ALONE):
            theirs[turn.round] = value
    return of_rounds([(mine[r], theirs[r]) for r in sorted(mine.keys() & theirs.keys())], inverse=figure != "rate")


def of_rounds(pairs: list[tuple[float, float]], *, inverse: bool = False) -> Ratio | None:
    """The ratio of each pair, and their median and extremes; pairs that have none (0, nan) are left out."""
    quotients = []
    for mine, theirs in pairs:
        over, under = (theirs, mine) if inverse else (mine, theirs)
        if under > 0 and not math.isnan(over):
            quotients.append(over / under)
    return Ratio(statistics.median(quotients), min(quotients), max(quotients)) if quotients else None


@dataclass(frozen=True)
class Reached:
    bar: Bar
    best: str
    rate: Ratio
    cpu: Ratio | None

    @property
    def holds(self) -> bool:
        """By rates and, where it is known, by CPU time: on a busy machine either alone may be luck."""
        return self.verdict == "yes"

    @property
    def verdict(self) -> str:
        by_rate = self.rate.median >= self.bar.least
        by_cpu = by_rate if self.cpu is None else self.cpu.median >= self.bar.least
        return {(True, True): "yes", (True, False): "by rate only", (False, True): "by CPU time only"}.get(
            (by_rate, by_cpu), "no"
        )


def bars(turns: list[Turn]) -> list[Reached]:
    """The bars that this run can tell of: against the fastest of those named that took part."""
    reached = []
    for bar in BARS:
        load = closed(bar.connections)
        rates = {s.server: s.rate for s in summaries(turns) if s.work == bar.work and s.load in (load, "no server")}
        there = [name for name in bar.against if name in rates]
        if bar.server not in rates or not there:
            continue
        best = max(there, key=lambda name: rates[name])
        rate = ratio(turns, bar.work, load, bar.server, best)
        if rate is not None:
            cpu = ratio(turns, bar.work, load, bar.server, best, "cpu_us")
            reached.append(Reached(bar, best, rate, cpu))
    return reached


def number(value: float) -> str:
    """Three significant digits, or whole thousands; a dash for what is not known."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(value: Ratio | None) -> str:
    if value is None:
        return "-"
    return f"{number(value.median)} ({number(value.low)} to {number(value.high)})"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is left, the others right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)) + "\n"


def bars_table(reached: list[Reached]) -> str:
    rows = [
        [
            each.bar.told,
            each.best,
            f"{each.bar.least:g}",
            spread(each.rate),
            spread(each.cpu),
            each.verdict,
        ]
        for each in reached
    ]
    return table(["what", "against", "wanted", "ratio of rates", "ratio of CPU time per request", "reached"], rows)


def work_table(all_turns: list[Turn], work: str, load: str) -> str:
    """The servers of one work under one load, fastest first, with this server's rate as a multiple of each."""
    mine = [s for s in summaries(all_turns) if s.work == work and s.load in (load, "no server")]
    rows = []
    for s in sorted(mine, key=lambda s: -s.rate):
        times = ratio(all_turns, work, load, "stfs", s.server) if s.server != "stfs" else None
        noise = "-" if s.disturbed is None else f"{s.disturbed} of {s.rounds}" if s.disturbed else "none"
        figures = [number(s.rate), number(s.cpu_us), number(s.p50_ms), number(s.p99_ms), str(s.errors), noise]
        rows.append([s.server, *figures, spread(times) if times else "-"])
    head = ["server", "answers/s", "CPU µs each", "p50 ms", "p99 ms", "errors", "disturbed rounds", "stfs to it"]
    return table(head, rows)


def loads(turns: Iterable[Turn], work: str) -> list[str]:
    return [x for x in dict.fromkeys(turn.load for turn in turns if turn.work == work) if x != "no server"]


def as_csv(turns: Iterable[Turn]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Turn)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(turn) for turn in turns)
    return out.getvalue()
