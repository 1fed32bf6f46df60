"""``make bench-quick``: is this commit slower? Ratios of one run, compared with those recorded last. Under two minutes.

Against bare aiohttp and raw uvloop in the same minute: the identity and the MLP at 64 connections, batching on and off
at one; within the process: JSON and the hand-off. ``--record`` appends to ``benchmarks/history.jsonl``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.serving import history
from benchmarks.serving.conditions import conditions
from benchmarks.serving.inside import hand_off_ratio, json_ratios
from benchmarks.serving.peers import ALL
from benchmarks.serving.results import Ratio, ratio
from benchmarks.serving.turns import Plan, Turn, closed, cores_of_machine, started, take_turns
from benchmarks.serving.works import make

HISTORY = Path(__file__).resolve().parents[1] / "history.jsonl"


def served(turns: list[Turn]) -> dict[str, Ratio]:
    """Ratios of CPU time per request, which hold on a busy machine, and of rates."""
    wanted = [
        ("identity", 64, "aiohttp", "cpu_us"),
        ("identity", 64, "uvloop", "cpu_us"),
        ("mlp", 64, "aiohttp", "cpu_us"),
        ("mlp", 64, "uvloop", "cpu_us"),
        ("mlp", 1, "stfs-unbatched", "cpu_us"),
        ("mlp", 1, "stfs-unbatched", "rate"),
        ("identity", 64, "aiohttp", "rate"),
        ("mlp", 64, "aiohttp", "rate"),
    ]
    told = {}
    for work, connections, against, figure in wanted:
        found = ratio(turns, work, closed(connections), "stfs", against, figure)
        if found is not None:
            what = "CPU" if figure == "cpu_us" else "rate"
            told[f"{what}, {work}, {closed(connections)}, to {against}"] = found
    return told


def measure(rounds: int, seconds: float, *, use_wrk: bool) -> dict[str, Ratio]:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    turns: list[Turn] = []
    cores = cores_of_machine()
    with tempfile.TemporaryDirectory(prefix="bench-quick-") as folder:
        for name, connections, servers in (
            ("identity", (64,), ("stfs", "aiohttp", "uvloop")),
            ("mlp", (1, 64), ("stfs", "stfs-unbatched", "aiohttp", "uvloop")),
        ):
            work = make(name, Path(folder))
            plan = Plan(connections, rounds, seconds, use_wrk=use_wrk, crowded_only=("aiohttp", "uvloop"))
            peers = [ALL[server] for server in servers]
            with started(peers, work, lambda peer: Path(sys.executable), cores, {}, say) as running:
                turns += take_turns(running, work, plan, cores, say)
    return {**served(turns), **json_ratios(), **hand_off_ratio()}


def main(argv: list[str] | None = None) -> int:
    """0, or 1 where something became slower by more than chance."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving.quick", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each burst (1)")
    parser.add_argument("--history", type=Path, default=HISTORY)
    parser.add_argument("--record", action="store_true", help="append this run to the history")
    args = parser.parse_args(argv)
    if args.rounds < 1 or args.seconds <= 0:
        parser.error("--rounds and --seconds must be above 0")
    use_wrk = shutil.which("wrk") is not None
    if not use_wrk:
        print("wrk is not installed: the load is our own, and rates are not those recorded", file=sys.stderr)
    told = conditions()
    try:
        before = history.last(args.history)
    except ValueError as error:
        parser.error(f"{args.history}: {error}")
    now = history.Record(
        told["date"], told["commit"], told["machine"], measure(args.rounds, args.seconds, use_wrk=use_wrk)
    )
    changes = history.compare(before, now) if before is not None else []
    print(f"{now.commit}, {now.date}; load of the machine {told['load of the machine']}")
    if before is not None:
        print(
            f"against {before.commit}, {before.date}" + ("" if before.machine == now.machine else ", another machine")
        )
    print(history.changes_table(now, changes), end="")
    if args.record:
        history.append(args.history, now)
    slower = [change.name for change in changes if change.slower]
    if slower:
        print("slower by more than chance: " + "; ".join(slower))
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
