"""``python -m benchmarks.serving``: this server and its peers with the same models, bodies and connections.

Starts those whose environments are here (``benchmarks/serving/setup.py`` makes them, ``--peer-python`` names others),
loads them in turns, checks answers, and writes tables, figures (JSON, CSV) and plots (PNG, HTML) into ``--out``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.serving import report
from benchmarks.serving.conditions import conditions, pinned
from benchmarks.serving.environments import parse_pythons, python_of
from benchmarks.serving.peers import ALL
from benchmarks.serving.peers.peer import Peer
from benchmarks.serving.results import as_csv
from benchmarks.serving.turns import Plan, Turn, cores_of_machine, started, take_turns
from benchmarks.serving.works import WORKS, Work, make

# What a work is asked by unless told otherwise: a megabyte of JSON keeps a server busy with few.
CONNECTIONS = {"resnet": (1, 4)}
CONNECTIONS_USUAL = (1, 16, 64)
# What costs time and tells nothing where there are few connections.
CROWDED_ONLY = (
    "triton-front",
    "triton-health",
    "fastapi-plain",
    "mlserver-batched",
    "litserve-batched",
    "bentoml-batched",
    "ray",
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--works", default="identity,mlp,forest,resnet", help=f"of {', '.join(WORKS)}")
    made.add_argument("--servers", default="", help=f"of {', '.join(ALL)}; all that are here unless given")
    made.add_argument("--peer-python", action="append", default=[], metavar="NAME=PATH", help="a peer's interpreter")
    made.add_argument("--tfs-url", default="", help="TensorFlow Serving's predict address, for the MLP")
    made.add_argument("--connections", default="", help="of the closed loops, such as 1,16,64")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--seconds", type=float, default=2.0, help="of each burst (2)")
    made.add_argument("--open-loop", default="", metavar="FRACTIONS", help="of each server's capacity, such as 0.5,0.8")
    made.add_argument("--own-load", action="store_true", help="check every answer; slower than wrk")
    made.add_argument("--out", type=Path, default=Path("build/serving"), help="folder for what is written")
    made.add_argument(
        "--write-page", type=Path, help="write the report here too, with its pictures in a folder beside it"
    )
    made.add_argument(
        "--from",
        dest="stored",
        type=Path,
        action="append",
        default=[],
        metavar="RESULTS.JSON",
        help="measure nothing: report on what an earlier run measured (several: other loads of the same servers)",
    )
    return made


def chosen(names: str, known: dict[str, Peer], pythons: dict[str, Path], tfs_url: str) -> tuple[list[Peer], list[str]]:
    """The peers that can be started, and a line for each environment that is not here. Raises ``ValueError``."""
    wanted = [name for name in names.split(",") if name] or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"no server {unknown[0]!r}; there are {', '.join(known)}")
    peers, missing = [], []
    for peer in (known[name] for name in wanted):
        if peer.start is None and not tfs_url:
            missing.append(f"{peer.name}: not given by --tfs-url")
        elif peer.start is not None and python_of(peer, pythons) is None:
            missing.append(f"{peer.name}: no environment {peer.environment}")
        else:
            peers.append(peer)
    return peers, missing


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[Turn], dict[str, Work], dict[str, str], list[str]]:
    pythons = parse_pythons(args.peer_python)
    peers, notes = chosen(args.servers, ALL, pythons, args.tfs_url)
    told = conditions()
    if shutil.which("wrk") is None and not args.own_load:
        raise ValueError("wrk is not installed (apt-get install wrk); --own-load does without")
    told |= {peer.environment: pinned(peer.environment) for peer in peers if peer.environment}
    told["measured"] = f"{args.rounds} rounds, bursts of {args.seconds:g} s"

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        if line.startswith("left out"):
            notes.append(line)

    turns: list[Turn] = []
    works: dict[str, Work] = {}
    cores = cores_of_machine()
    fractions = tuple(float(word) for word in args.open_loop.split(",") if word)
    for name in args.works.split(","):
        if name not in WORKS:
            raise ValueError(f"no work {name!r}; there are {', '.join(WORKS)}")
        works[name] = work = make(name, folder)
        asked = tuple(int(word) for word in args.connections.split(",") if word)
        plan = Plan(
            connections=asked or CONNECTIONS.get(name, CONNECTIONS_USUAL),
            rounds=args.rounds,
            seconds=args.seconds,
            fractions=fractions,
            use_wrk=not args.own_load,
            crowded_only=CROWDED_ONLY,
        )

        def python(peer: Peer) -> Path:
            return python_of(peer, pythons) or Path(sys.executable)

        with started(peers, work, python, cores, {"tensorflow-serving": args.tfs_url}, say) as servers:
            turns += take_turns(servers, work, plan, cores, say)
        # Kept after every work: a run that is cut short has told what it measured.
        args.out.mkdir(parents=True, exist_ok=True)
        kept = {"conditions": told, "notes": notes, "works": {key: each.told for key, each in works.items()}}
        (args.out / "results.json").write_text(json.dumps({**kept, "turns": [asdict(t) for t in turns]}, indent=1))
    return turns, works, told, notes


def stored(paths: list[Path]) -> tuple[list[Turn], dict[str, Work], dict[str, str], list[str]]:
    """What earlier runs measured, for a report anew; the conditions are the first one's. The works hold names only."""
    empty = np.zeros(0)
    turns: list[Turn] = []
    works: dict[str, Work] = {}
    notes: list[str] = []
    all_kept = [json.loads(path.read_text()) for path in paths]
    for kept in all_kept:
        turns += [Turn(**turn) for turn in kept["turns"]]
        works |= {name: Work(name, told, Path(), empty, empty, "") for name, told in kept["works"].items()}
        notes += [note for note in kept["notes"] if note not in notes]
    for kept in all_kept[1:]:
        told = kept["conditions"]
        notes.append(f"{', '.join(kept['works'])}: a run of its own, {told.get('date')}, {told.get('measured')}")
    return turns, works, all_kept[0]["conditions"], notes


def main(argv: list[str] | None = None) -> None:
    made = parser()
    args = made.parse_args(argv)
    if args.rounds < 1 or args.seconds <= 0:
        made.error("--rounds and --seconds must be above 0")
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as folder:
        try:
            turns, works, told, notes = stored(args.stored) if args.stored else measure(args, Path(folder))
        except ValueError as error:
            made.error(str(error))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.csv").write_text(as_csv(turns))
    try:
        from benchmarks.serving.plots import draw, page

        pictures = draw(turns, args.out)
    except ImportError:
        pictures = []
        print("no plots: matplotlib is not installed (it comes with stfs[bench])", file=sys.stderr)
    text = report.markdown(turns, works, told, notes, [Path(file.name) for file in pictures])
    (args.out / "report.md").write_text(text)
    if pictures:
        (args.out / "report.html").write_text(page(text, pictures))
    if args.write_page is not None:
        beside = args.write_page.with_suffix("")
        beside.mkdir(parents=True, exist_ok=True)
        copies = [Path(shutil.copy(file, beside)) for file in pictures]
        linked = [Path(beside.name) / file.name for file in copies]
        args.write_page.write_text(report.markdown(turns, works, told, notes, linked))
    print(text)


if __name__ == "__main__":
    main()
