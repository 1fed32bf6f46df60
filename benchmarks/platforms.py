"""What a model of each platform costs: time until it answers, and memory; then all of them in one server.

``python benchmarks/platforms.py`` writes a table in Markdown to standard output. Each platform is served alone, by a
server of its own, then all together by one; every answer is checked. Memory is the proportional set size of the server
and its worker processes, after the requests. The models are small, so that the figures are those of the frameworks.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("STFS_HOME", str(Path(sys.prefix) / "stfs-home"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from conformance.conftest import Made, Workshop, why_not
from conformance.examples import EXAMPLES
from conformance.mixed import drive, write_config
from running import running

REQUESTS_EACH, REQUESTS_TOGETHER = 200, 1000
CALLERS = 16


@dataclass(frozen=True)
class Cost:
    """``start_s`` from the command to the first answer; ``memory_bytes`` after all; ``rate`` in requests a second."""

    name: str
    start_s: float
    memory_bytes: int
    rate: float


def measure(name: str, examples: Sequence[Made], requests: int, folder: Path) -> Cost:
    """Serves the examples and asks; raises :class:`SystemExit` for a wrong answer."""
    config = write_config(examples, folder / f"{name}.json")
    started = time.monotonic()
    with running(f"--model_config_file={config}") as server:
        first = drive(server, examples, 1, 1)
        start_s = time.monotonic() - started
        asked = time.monotonic()
        tally = drive(server, examples, requests, CALLERS)
        took_s = time.monotonic() - asked
        if wrong := first.wrong + tally.wrong:
            raise SystemExit(f"{len(wrong)} wrong answers, the first: {wrong[0]}")
        return Cost(name, start_s, memory_bytes(server.process.pid), requests / took_s)


def memory_bytes(root: int) -> int:
    """The proportional set sizes of a process and its descendants, by proc(5)."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    family, found = {root}, True
    while found:
        found = {pid for pid, parent in parents.items() if parent in family} - family
        family |= found
    return sum(_proportional_bytes(pid) for pid in family)


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workshop = Workshop(folder)
        examples = []
        for identifier in EXAMPLES:
            if reason := why_not(identifier):
                print(f"left out: {reason}", file=sys.stderr)
            else:
                examples.append(workshop.make(identifier))
        costs = [measure(made.identifier, [made], REQUESTS_EACH, folder) for made in examples]
        costs.append(measure("all of them", examples, REQUESTS_TOGETHER, folder))
    print("| model | first answer, s | memory, MiB | requests/s |\n|---|---|---|---|")
    for cost in costs:
        print(f"| {cost.name} | {cost.start_s:.1f} | {cost.memory_bytes / (1 << 20):.0f} | {cost.rate:.0f} |")


if __name__ == "__main__":
    main()
