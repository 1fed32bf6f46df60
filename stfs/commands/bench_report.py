"""What ``stfs bench`` saw, as a page: one file of HTML with its charts in it, without scripts. Pure."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from typing import Any

from stfs import __version__
from stfs.commands.charts import Axis, Line, column_chart, line_chart, linear_axis, log_axis, number
from stfs.commands.latencies import Latencies
from stfs.commands.load import Result

STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5d6b7a; --line: #d9e0e7; --card: #fff; --back: #f4f6f8;
  --one: #1f6feb; --two: #d9730d; --bad: #c62828; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa7b4; --line: #30363d; --card: #161b22;
  --back: #0d1117; --one: #58a6ff; --two: #f0a35e; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 22px; margin: 0 0 2px; } h2 { font-size: 15px; margin: 0 0 8px; }
p { margin: 4px 0; } .soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.figure, section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px; }
.figure { min-width: 118px; flex: 1; }
.figure b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 16px; }
section { margin: 0; } .charts { margin-bottom: 14px; } svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; } th { font-weight: 600; color: var(--soft); }
.grid { stroke: var(--line); stroke-width: 1; fill: none; } .axis { fill: var(--soft); font-size: 14px; }
.line { fill: none; stroke-width: 2; } .line0 { stroke: var(--one); } .line1 { stroke: var(--two); }
.columns { fill: var(--one); }
"""

NINES = (0.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 99.9999)
COLUMNS_A_DECADE = 20


def render(summary: Mapping[str, Any], result: Result) -> str:
    """The page. ``summary`` is what ``stfs bench --json`` writes."""
    charts = [
        ("Latency by percentile", _by_percentile(result, is_open=summary["loop"] == "open")),
        ("Answers over time", _over_time(result)),
        ("How latencies are spread", _histogram(result.latencies)),
    ]
    cards = "".join(f"<section><h2>{title}</h2>{chart}</section>" for title, chart in charts if chart)
    warnings = "".join(f'<p class="bad">{html.escape(line)}</p>' for line in summary["warnings"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>stfs bench</title>'
        f"<style>{STYLE}</style><main><h1>{html.escape(summary['model'])}</h1>"
        f'<p class="soft">{html.escape(summary["url"])}</p>'
        f'<p class="soft">{html.escape(_how(summary))}</p>{warnings}'
        f'<div class="figures">{_figures(summary)}</div>'
        f'<div class="charts">{cards}<section><h2>Figures</h2>{_table(summary)}</section></div>'
        f'<p class="soft">{html.escape(summary["began"])}, stfs {html.escape(__version__)}. {_note(summary)}</p>'
        "</main></html>\n"
    )


def _how(summary: Mapping[str, Any]) -> str:
    loop = (
        f"open loop, {summary['arrivals']} arrivals, {number(summary['rate'])} requests/s asked for"
        if summary["loop"] == "open"
        else "closed loop"
    )
    return (
        f"{loop}, {summary['connections']} connections, {summary['duration_s']:g} s after {summary['warmup_s']:g} s of "
        f"warm-up, {summary['dialect']}, bodies of {number(summary['body_bytes'])} bytes"
    )


def _note(summary: Mapping[str, Any]) -> str:
    if summary["loop"] == "open":
        return "Latencies count from when a request was meant to leave, so a stall shows in all that it held up."
    return "A closed loop asks less of a server that stalls: its percentiles hide what an open loop (--rate) shows."


def _figures(summary: Mapping[str, Any]) -> str:
    told = [
        ("answers/s", number(summary["answers_per_s"])),
        *((f"{name}, ms", number(summary["latency_ms"][name])) for name in ("p50", "p99", "p99.9")),
        ("longest, ms", number(summary["latency_ms"]["max"])),
        ("failed", f"{summary['failed']:,}"),
    ]
    return "".join(f'<div class="figure"><span class="soft">{name}</span><b>{value}</b></div>' for name, value in told)


def _table(summary: Mapping[str, Any]) -> str:
    names = list(summary["latency_ms"])
    kinds = [("latency, ms", summary["latency_ms"]), ("from sending, ms", summary["service_ms"])]
    head = "".join(f"<th>{name}</th>" for name in ("", *(name for name, _ in kinds)))
    rows = "".join(
        f"<tr><td>{name}</td>" + "".join(f"<td>{number(values[name])}</td>" for _, values in kinds) + "</tr>"
        for name in names
    )
    counts = {f"status {k}": v for k, v in summary["statuses"].items()} | dict(summary["failures"])
    counted = "".join(f'<tr><td>{html.escape(str(k))}</td><td colspan="2">{v:,}</td></tr>' for k, v in counts.items())
    return f"<table><tr>{head}</tr>{rows}{counted}</table>"


def _by_percentile(result: Result, *, is_open: bool) -> str:
    """Along the nines: 90 %, 99 %, 99.9 % are equally far apart, as far as there are latencies enough to tell."""
    latencies = result.latencies
    if not latencies.count:
        return ""
    shown = [p for p in NINES if latencies.count * (1 - p / 100) >= 1 or p <= 90.0]
    end = -math.log10(1 - shown[-1] / 100)
    ticks = tuple(
        (-math.log10(1 - p / 100), f"{p:g}%") for p in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999) if p in shown
    )
    x = Axis(0.0, end, ticks, "percentile")

    def line(name: str, one: Latencies) -> Line:
        steps = [i * end / 200 for i in range(201)]
        return Line(name, [(at, one.quantile(1 - 10**-at) * 1e3) for at in steps])

    lines = [line("from when it was due", latencies)]
    if is_open:
        lines.append(line("from sending", result.service))
    most = max(value for one in lines for _, value in one.points)
    return line_chart("latency by percentile", x, linear_axis(most, "ms"), lines)


def _over_time(result: Result) -> str:
    whole = max(1, int(result.measured_s))  # the last second is seldom a whole one
    answered = [(float(s), float(result.answered_in_second[s])) for s in range(whole)]
    failed = [(float(s), float(result.failed_in_second[s])) for s in range(whole)]
    lines = [Line("answered", [*answered, (float(whole), answered[-1][1])], stepped=True)]
    if any(count for _, count in failed):
        lines.append(Line("failed", [*failed, (float(whole), failed[-1][1])], stepped=True))
    most = max(count for one in lines for _, count in one.points)
    ends = linear_axis(float(whole), "s")
    x = Axis(0.0, float(whole), tuple(tick for tick in ends.ticks if tick[0] <= whole), "seconds")
    return line_chart("answers over time", x, linear_axis(most, "answers/s"), lines)


def _histogram(latencies: Latencies) -> str:
    if not latencies.count:
        return ""
    counts: dict[int, int] = {}
    for begin, end, count in latencies.buckets():
        place = math.floor(math.log10(max((begin + end) / 2, 1e-7) * 1e3) * COLUMNS_A_DECADE)
        counts[place] = counts.get(place, 0) + count
    x = log_axis(10 ** (min(counts) / COLUMNS_A_DECADE), 10 ** ((max(counts) + 1) / COLUMNS_A_DECADE), "ms")
    columns = [(i / COLUMNS_A_DECADE, (i + 1) / COLUMNS_A_DECADE, float(n)) for i, n in sorted(counts.items())]
    return column_chart("how latencies are spread", x, linear_axis(float(max(counts.values())), "answers"), columns)
