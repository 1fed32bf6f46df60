"""``python -m benchmarks.batching [PROFILE ...] [--out FOLDER]``: the product's policy against others', simulated.

Prints Markdown tables: means and 99th percentiles against the best fixed setting of each load, closed loops, answers in
time under overload, and sudden changes. ``--out`` gets the tables, the figures as JSON, and plots (matplotlib). Ten
minutes on two cores; no real time is measured, so it may run beside anything, and the same seeds give the same
figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.batching.results import Row, markdown, measure_all
from benchmarks.batching.simulator import PROFILES

BEGINS, ENDS = "<!-- made by python -m benchmarks.batching -->", "<!-- end of what was made -->"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching", description=__doc__.splitlines()[0])
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help=f"of {', '.join(PROFILES)}; all unless given")
    parser.add_argument("--seeds", type=int, default=2, help="runs that each figure is the mean of (2)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--out", type=Path, help="folder for the tables, the figures as JSON, and plots")
    parser.add_argument("--page", type=Path, help="a Markdown page whose tables are made anew, between its two marks")
    args = parser.parse_args(argv)
    profiles = args.profiles or list(PROFILES)
    if unknown := [name for name in profiles if name not in PROFILES]:
        parser.error(f"no profile {unknown[0]!r}; there are {', '.join(PROFILES)}")
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs must be 1 or more")
    rows: list[Row] = list(measure_all(profiles, range(1, 1 + args.seeds), args.jobs))
    tables = markdown(rows)
    print(tables)
    if args.page is not None:
        text = args.page.read_text()
        before, _, rest = text.partition(BEGINS)
        after = rest.partition(ENDS)[2]
        if not after:
            parser.error(f"{args.page} has no {BEGINS!r} and {ENDS!r} to put the tables between")
        args.page.write_text(f"{before}{BEGINS}\n\n{tables}\n{ENDS}{after}")
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "batching.md").write_text(tables)
        told = [{**row.measure._asdict(), "figures": row.figures} for row in rows]
        (args.out / "batching.json").write_text(json.dumps(told, indent=1))
        from benchmarks.batching.plots import draw

        print(f"Plots: {draw(rows, args.out)}")


if __name__ == "__main__":
    main()
