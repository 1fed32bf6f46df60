"""What a page of metrics in Prometheus' text format says, read line by line, and what ``docs/metrics.md`` lists."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "metrics.md"

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass
class Family:
    """One metric: its samples by name and labels; ``labels`` are the names of those that it has, but for ``le``."""

    type: str
    help: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    @property
    def labels(self) -> set[str]:
        return {name for _, labels in self.samples for name, _ in labels} - {"le"}


def families(text: str) -> dict[str, Family]:
    """A page's metrics by name. Fails for a line that is none, a sample without a type, and one told twice."""
    found: dict[str, Family] = {}
    helps: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("# HELP "):
            _, _, name, said = line.split(" ", 3)
            helps[name] = said
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in found, line
            found[name] = Family(kind, helps.get(name, ""))
        else:
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            owner = next(n for n in (match[1], re.sub("_(bucket|sum|count)$", "", match[1])) if n in found)
            key = match[1], frozenset(_LABEL.findall(match[2] or ""))
            assert key not in found[owner].samples, line
            found[owner].samples[key] = float(match[3])
    return found


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables of ``docs/metrics.md`` whose first column has that heading."""
    found: list[list[str]] = []
    is_inside = False
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]] if line.startswith("|") else []
        if is_inside and cells:
            found += [cells] if set(cells[0]) != {"-"} else []
        else:
            is_inside = bool(cells) and cells[0].split(",")[0] == heading
    return found


def quoted(cell: str) -> list[str]:
    """What stands between backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def promtool(*arguments: str, stdin: str | None = None) -> str:
    """Run Prometheus' own checker; its output. Fails if it complains, skips where it is not installed."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed (the package prometheus has it)")
    done = subprocess.run([path, *arguments], input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_queries(queries: list[str], folder: Path) -> None:
    """Have Prometheus' own parser read these, each as a recording rule."""
    rules = ["groups:", "  - name: queries", "    rules:"]
    for number, query in enumerate(queries):
        rules += [f"      - record: tried:query{number}", "        expr: |"]
        rules += [f"          {line}" for line in query.splitlines()]
    path = folder / "rules.yml"
    path.write_text("\n".join(rules) + "\n")
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(path))
