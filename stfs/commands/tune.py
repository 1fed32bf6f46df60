"""``stfs tune``: finds the batch size and number of threads for a latency, by timing the model, and writes them down.

Owns the arguments, the choice and its explanation. Each number of threads is tried in a process of its own, by ``stfs
check``: some frameworks fix their threads once a process. Must not live here: timing (``timing``, ``check_model``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from stfs.commands.arguments import Parser, results_only, seconds, write_json
from stfs.commands.local_model import configured
from stfs.commands.platforms import table
from stfs.commands.progress import Progress
from stfs.commands.timing import GOOD_SHARE
from stfs.errors import ConfigError, SetupError
from stfs.options import MODEL_KEYS, build_parser
from stfs.platforms.base import one_line, usable_cores

RUNS_WAITED = 2
"""A request waits for the run that is under way and then for its own; longer only where the server cannot keep up."""
MOST_LOAD = 0.8
"""Of what back-to-back runs could do: queues grow long above it, and the latency with them."""
EPILOG = """The options of a model of stfs serve are understood too (see stfs serve --help), and written as well.

status: 0  a setting meets the latency (and the rate)
        1  none does; the best that there is was written all the same
        2  the model does not load or does not answer zeros, or an argument is wrong
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """``threads`` 0 leaves them to the framework. ``run_ms`` is the longest of the timed runs of ``rows`` rows.

    ``worst_ms`` is what a request may take, ``rows_per_s`` what the model carries at that size.
    """

    threads: int
    rows: int
    run_ms: float
    worst_ms: float
    rows_per_s: float


def run(argv: Sequence[str]) -> int:
    """``stfs tune ARGV``; the exit status. Raises :class:`SetupError` if the model cannot be timed."""
    given, rest = _parser().parse_known_args(argv)
    model = configured(rest, "stfs tune")
    if given.latency_ms <= 0:
        raise ConfigError("--latency_ms: expected milliseconds, more than 0")
    threads = _threads(given.try_threads)
    settings: list[Setting] = []
    with Progress("timing", len(threads)) as progress:
        for index, number in enumerate(threads):
            progress.at(index, f"{number or 'default'} threads")
            settings += _timed(rest, number, given.budget_s / len(threads))
    chosen, fits = choose(settings, given.latency_ms, given.rate)
    entry: dict[str, Any] = {"name": model.name, "base_path": str(model.base_path.resolve())}
    entry |= _said(rest)
    entry |= {"max_batch_size": chosen.rows, "latency_slo_ms": given.latency_ms}
    if chosen.threads:
        entry["threads"] = chosen.threads
    report = {
        "chosen": asdict(chosen),
        "meets": fits,
        "because": explain(chosen, fits, given.latency_ms, given.rate),
        "config": {"model_config_list": [entry]},
        "settings": [asdict(one) for one in settings],
    }
    if given.output is not None:
        try:
            given.output.write_text(json.dumps(report["config"], indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output: cannot write {given.output}: {error.strerror}") from None
    with results_only() as out:
        if given.json:
            write_json(report, out)
        else:
            _print(report, given.output, out)
    return 0 if fits else 1


def _parser() -> Parser:
    parser = Parser("stfs tune", "Time the model at PATH and choose its batch size and threads for a latency.", EPILOG)
    parser.usage = "stfs tune PATH --latency_ms MS [--rate R] [--output FILE] [--json] [options of stfs serve]"
    parser.add("latency_ms", type=seconds, required=True, metavar="MS", help="what 99 of 100 answers shall not exceed")
    parser.add(
        "rate", type=seconds, default=0.0, metavar="R", help="rows a second that shall be carried (default: most)"
    )
    parser.add("try_threads", metavar="N,N", help="numbers of threads to try (default: 0, 1, 2, 4 .. the cores)")
    parser.add("budget_s", type=seconds, default=20.0, metavar="S", help="seconds of timing in all (default: 20)")
    parser.add("output", type=Path, metavar="FILE", help="write a file for stfs serve --model_config_file")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser


def _threads(text: str | None) -> list[int]:
    """The numbers to try; 0 is the framework's own choice."""
    if text is None:
        cores = usable_cores()
        return [0, *(1 << i for i in range(cores.bit_length()) if 1 << i <= cores)]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"--try_threads: expected whole numbers such as 1,2,4, not {text!r}")
    return list(dict.fromkeys(map(int, parts)))


def _said(rest: Sequence[str]) -> dict[str, Any]:
    """What the command line says of the model besides its name and path, as the configuration file writes it."""
    given = vars(build_parser("stfs tune", positional=True).parse_args(rest))
    named = ("name", "base_path", "threads")
    return {key: given[option] for key, option in MODEL_KEYS.items() if key not in named and given[option] is not None}


def _timed(rest: Sequence[str], threads: int, budget_s: float) -> list[Setting]:
    """The sizes of the default signature with so many threads. Raises :class:`SetupError` if there are none."""
    command = [sys.executable, "-m", "stfs", "check", *rest, f"--threads={threads}", f"--budget_s={budget_s}", "--json"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=dict(os.environ))
    if not done.stdout:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"status {done.returncode}")
        raise SetupError(one_line(said).removeprefix("stfs check: error: "))
    report = json.loads(done.stdout)
    signature = report["signatures"][report["model"]["default_signature"]]
    if not signature["times"]:
        raise SetupError(f"the model was not timed: {signature['zeros']}")
    return [setting_of(threads, one) for one in signature["times"]]


def setting_of(threads: int, timed: Mapping[str, float]) -> Setting:
    """What one size of ``stfs check`` comes to."""
    return Setting(
        threads,
        int(timed["rows"]),
        timed["worst_ms"],
        RUNS_WAITED * timed["worst_ms"],
        MOST_LOAD * timed["rows_per_s"],
    )


def choose(settings: Sequence[Setting], latency_ms: float, rate: float = 0.0) -> tuple[Setting, bool]:
    """The setting to take, and whether it meets the latency and the rate (rows a second; 0: as much as there is).

    Of those in time: with a rate, the one of the least latency that carries it; without, of those with nine tenths of
    the best throughput the one of the least latency. If none will do: the most throughput in time, or, where none is in
    time, the least latency.
    """
    in_time = [one for one in settings if one.worst_ms <= latency_ms]
    if not in_time:
        return min(settings, key=lambda one: one.worst_ms), False
    most = max(one.rows_per_s for one in in_time)
    wanted = rate or GOOD_SHARE * most
    enough = [one for one in in_time if one.rows_per_s >= wanted]
    if not enough:
        return max(in_time, key=lambda one: one.rows_per_s), False
    return min(enough, key=lambda one: (one.worst_ms, one.threads)), True


def explain(chosen: Setting, fits: bool, latency_ms: float, rate: float) -> str:
    """Why, in words."""
    threads = f"{chosen.threads} threads" if chosen.threads else "the framework's own number of threads"
    told = (
        f"with {threads}, runs of {chosen.rows} rows took {chosen.run_ms:.3g} ms at most; a request waits for one run "
        f"and then for its own, {chosen.worst_ms:.3g} ms, and some {chosen.rows_per_s:,.0f} rows a second are carried"
    )
    if fits:
        return f"{told}, within {latency_ms:g} ms" + (f" and over {rate:g} rows a second" if rate else "")
    if chosen.worst_ms > latency_ms:
        return f"{told}: nothing that was tried is within {latency_ms:g} ms, and this comes nearest"
    return f"{told}: within {latency_ms:g} ms nothing carries {rate:g} rows a second, and this comes nearest"


def _print(report: Mapping[str, Any], output: Path | None, out: TextIO) -> None:
    rows: list[tuple[str, ...]] = [("", "threads", "rows", "longest run ms", "latency ms", "rows/s")]
    for one in report["settings"]:
        mark = "->" if one == report["chosen"] else ""
        threads = str(one["threads"] or "default")
        rows.append(
            (
                mark,
                threads,
                str(one["rows"]),
                f"{one['run_ms']:.3f}",
                f"{one['worst_ms']:.3f}",
                f"{one['rows_per_s']:,.0f}",
            )
        )
    out.write(table(rows, 120) + f"\n\n{report['because']}\n\n")
    out.write(json.dumps(report["config"], indent=2) + "\n")
    if output is not None:
        out.write(f"\nwritten: stfs serve --model_config_file {output}\n")
