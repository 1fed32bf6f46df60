"""Pictures of a comparison: answers a second and CPU time per request, a PNG each work, and an HTML page of it all."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from benchmarks.serving.results import loads, summaries
from benchmarks.serving.turns import Turn


def draw(turns: list[Turn], folder: Path) -> list[Path]:
    """One PNG a work, rates at every closed load beside CPU time at the most crowded. Needs matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for work in dict.fromkeys(turn.work for turn in turns):
        closed_loads = [load for load in loads(turns, work) if "connection" in load]
        if not closed_loads:
            continue
        crowded = closed_loads[-1]
        mine = sorted((s for s in summaries(turns) if s.work == work and s.load == crowded), key=lambda s: s.rate)
        if not mine:
            continue
        figure, axes = plt.subplots(1, 2, figsize=(11, 0.9 + 0.34 * len(mine)), sharey=True)
        _bars(axes[0], mine, "rate", f"answers a second, {crowded}")
        _bars(axes[1], mine, "cpu_us", "CPU µs per answer")
        figure.suptitle(work)
        figure.tight_layout()
        file = folder / f"{work}.png"
        figure.savefig(file, dpi=90, metadata={"Software": None})
        plt.close(figure)
        files.append(file)
    return files


def _bars(axis: Any, mine: list[Any], figure: str, told: str) -> None:
    values = [getattr(each, figure) for each in mine]
    colours = ["#1a6" if each.server.startswith("stfs") else "#889" for each in mine]
    axis.barh([each.server for each in mine], values, color=colours)
    axis.set_title(told, fontsize="medium")
    axis.bar_label(axis.containers[0], fmt="{:,.0f}", padding=3, fontsize="small")
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)


def page(markdown: str, pictures: list[Path]) -> str:
    """One HTML file that holds everything: the tables as HTML, the pictures within."""
    images = "\n".join(_image(file) for file in pictures)
    style = (
        "body{font:15px sans-serif;max-width:70em;margin:2em auto}td,th{padding:.2em .8em;border-bottom:1px solid #ddd}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Model servers compared</title>'
        f"<style>{style}img{{max-width:100%}}</style><body>\n{_html(markdown)}\n{images}\n</body></html>\n"
    )


def _image(file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{html.escape(file.stem)}" src="data:image/png;base64,{data}">'


def _html(markdown: str) -> str:
    """Headings, tables and paragraphs, which is all that the report is made of."""
    out: list[str] = []
    for block in markdown.strip().split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("#"):
            level = len(lines[0]) - len(lines[0].lstrip("#"))
            out.append(f"<h{level}>{html.escape(lines[0].lstrip('# '))}</h{level}>")
        elif lines[0].startswith("|"):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            rows = [_row(cells[0], "th"), *(_row(row, "td") for row in cells[2:])]
            out.append(f"<table>{''.join(rows)}</table>")
        elif not lines[0].startswith("!["):
            out.append(f"<p>{html.escape(' '.join(lines))}</p>")
    return "\n".join(out)


def _row(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
