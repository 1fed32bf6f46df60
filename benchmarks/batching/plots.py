"""Pictures of the simulated comparison: a PNG and an SVG for each scenario, and one page that holds them all."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

from benchmarks.batching.results import Row

_STYLES = {
    "stfs": {"linewidth": 2.6, "color": "black", "zorder": 5},
    "the optimum": {"linestyle": ":", "color": "black"},
}


def draw(rows: list[Row], folder: Path) -> Path:
    """Write the pictures and ``batching.html`` into ``folder``; returns the page. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "stfs"  # the same picture is the same bytes
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for scenario, title, told, figure in (
        ("Poisson", "Poisson arrivals", "mean latency / best fixed setting", 0),
        ("Poisson", "Poisson arrivals, p99", "p99 latency / best fixed setting", 1),
        ("bursts", "Bursts of ten times the rate, p99", "p99 latency / best fixed setting", 1),
        ("closed", "Closed loop", "answers a second / best fixed setting", 0),
        ("objective", "Answers wanted within 2 l(B)", "in time / what can be done", 0),
    ):
        mine = [row for row in rows if row.measure.scenario == scenario]
        profiles = list(dict.fromkeys(row.measure.profile for row in mine))
        if not profiles:
            continue
        drawing, axes = plt.subplots(1, len(profiles), figsize=(4 * len(profiles), 3.6), sharey=True, squeeze=False)
        for axis, profile in zip(axes[0], profiles, strict=True):
            _curves(axis, [row for row in mine if row.measure.profile == profile], figure)
            axis.set_title(profile)
            axis.set_xlabel("clients" if scenario == "closed" else "load")
            if scenario == "closed":
                axis.set_xscale("log", base=2)
            if scenario in ("Poisson", "bursts"):
                axis.set_ylim(0.8, 2.5)
        axes[0][0].set_ylabel(told)
        # A policy that is not stable with one model has no curve there, but may with another.
        seen = {name: line for axis in axes[0] for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
        drawing.legend(list(seen.values()), list(seen), loc="lower center", ncols=5, fontsize="small")
        drawing.suptitle(title)
        drawing.tight_layout(rect=(0, 0.12, 1, 1))
        stem = folder / title.lower().replace(",", "").replace("(", "").replace(")", "").replace(" ", "-")
        drawing.savefig(stem.with_suffix(".png"), dpi=110, metadata={"Software": None})
        drawing.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        plt.close(drawing)
        svg = stem.with_suffix(".svg").read_text()
        parts.append(f"<h2>{html.escape(title)}</h2>\n{svg[svg.index('<svg') :]}")
    page = folder / "batching.html"
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Batching policies, simulated</title>\n'
        "<h1>Batching policies, simulated</h1>\n" + "\n".join(parts) + "</html>\n"
    )
    return page


def _curves(axis: Any, rows: list[Row], figure: int) -> None:
    for i, name in enumerate(rows[0].figures):
        points = [(row.measure.level, row.figures[name][figure]) for row in rows]
        points = [(x, y) for x, y in points if math.isfinite(y)]
        if points:
            style = {"color": f"C{i}", **_STYLES.get(name, {})}  # the same in every panel
            axis.plot(*zip(*points, strict=True), marker=".", label=name, **style)
    axis.grid(alpha=0.3)
