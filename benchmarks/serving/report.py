"""The report of a run as Markdown: the bars, a table for every work and load, and the conditions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from benchmarks.serving.results import DISTURBED, bars, bars_table, loads, work_table
from benchmarks.serving.turns import Turn
from benchmarks.serving.works import Work

_HOW = """Every server serves the same model file and is asked the same request over and over (in its own form).
A server has one core with all its processes and the load the other, unless it is named `workers2`: then both have both.
The servers take turns within each round, so a ratio compares figures of the same minute; medians of the rounds are
told, with the lowest and the highest in brackets. CPU time is that of all processes of a server, and moves less than
rates when something else runs on the machine. A round counts as disturbed where other processes took over a tenth of
the server's core. Answers are compared with the framework's own before and after each burst of a closed loop (`wrk`
sends it and checks statuses), and every one of an open loop, whose latency counts from when a request was due.
"""

_WHO = """`aiohttp` and `uvloop` answer with the same bytes always and have no model. `triton` is the binary within
NVIDIA's `nvidia-pytriton` wheel; it calls the model in its Python backend, since it has no ONNX backend, and
`triton-front` is its HTTP front end alone: an infer of rows with one value too many, parsed and refused with 400 before
any model is asked; `triton-health` is `GET /v2/health/live`, with nothing to parse. `model` is the model in a loop of
its own without any server, one row a run. `-batched` are peers with their own batching on (32 rows, 2 ms), the others
with it off.
This server tells three answers of a forest (class, probabilities, their logarithms), its peers the probabilities.
"""


def markdown(
    turns: list[Turn], works: Mapping[str, Work], conditions: Mapping[str, str], notes: list[str], pictures: list[Path]
) -> str:
    """Blocks are set apart by empty lines, which ``plots.page`` relies on. ``pictures`` as the page links to them."""
    parts = ["# Servers compared", _HOW]
    parts += [
        "Made by `python -m benchmarks.serving --write-page docs/servers-compared.md` "
        "(see `benchmarks/serving/README.md`); the figures are of one run under these conditions:"
    ]
    parts += [
        "\n".join(["| condition | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in conditions.items())])
    ]
    known = [turn for turn in turns if not math.isnan(turn.others)]
    disturbed = sum(turn.others > DISTURBED for turn in known)
    if 2 * disturbed > len(known):
        parts.append(
            f"The machine was busy: in {disturbed} of {len(known)} bursts other processes took over a tenth of the "
            "server's core. Rates are then low and their ratios wide; CPU time per request says more."
        )
    reached = bars(turns)
    if reached:
        parts += ["## What is aimed at", "Ratios above 1 are in favour of this server."]
        parts += [bars_table(reached)]
    parts += ["## Who is compared", _WHO]
    for name, work in works.items():
        parts.append(f"## {work.told}")
        parts += [f"![{work.told}]({picture.as_posix()})" for picture in pictures if picture.stem == name]
        for load in loads(turns, name):
            parts += [f"### {load}, {work.told}", work_table(turns, name, load)]
    if notes:
        parts += ["## Left out and noted", "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part.strip() for part in parts) + "\n"
