"""``stfs bench``: puts load on a server and tells its latencies, rates and failures.

Owns the arguments, the summary and how it is printed. Must not live here: sending (``load``), the page
(``bench_report``).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from stfs.commands import bench_report, bodies, load, remote
from stfs.commands.arguments import Parser, count, positive, read_data, results_only, seconds, write_json
from stfs.commands.latencies import Latencies
from stfs.commands.platforms import table
from stfs.commands.progress import Progress
from stfs.errors import ConfigError, SetupError

BODIES = 16
"""Requests that are made up and sent in turn."""
CONNECTIONS_CLOSED, CONNECTIONS_OPEN = 8, 64
BUSY = 0.9
"""So much of a core is all that the load is made with: more, and it may be this program that was slow."""
LATE_SHARE = 0.25
EPILOG = f"""With --rate requests leave when they are due, whatever the server does (an open loop, as independent users
are), and latency counts from then: a stall shows in every request that it held up. Without it each connection sends as
soon as it is answered (a closed loop), which tells the most that a server can answer and hides its stalls.
{remote.CREDENTIALS}

status: 0  every request was answered with status 200 (and alike, with --check_answers)
        1  some were not
        2  nobody answers there, the request is refused, or an argument is wrong
"""


def run(argv: Sequence[str]) -> int:
    """``stfs bench ARGV``; the exit status. Raises :class:`SetupError` if there is nothing to measure."""
    given = _parser().parse_args(argv)
    if given.duration_s <= 0:
        raise ConfigError("--duration_s: expected seconds, more than 0")
    if given.rate is not None and given.rate <= 0:
        raise ConfigError("--rate: expected requests a second, more than 0")
    if given.report is not None and not given.report.resolve().parent.is_dir():
        raise ConfigError(f"--report: there is no folder {given.report.resolve().parent}")
    target = remote.target(given.url, given)
    requests, dialect = _requests(given, target)
    path = target.path(dialect)
    _try_once(target.server, path, requests[0])
    connections = given.connections or (CONNECTIONS_CLOSED if given.rate is None else CONNECTIONS_OPEN)
    gaps = None if given.rate is None else _gaps(given.rate, given.arrivals, given.seed)
    plan = load.Plan(
        target.server,
        path,
        requests,
        connections,
        given.warmup_s,
        given.duration_s,
        gaps,
        given.timeout_s,
        given.check_answers,
    )
    began = datetime.now(UTC)
    with Progress("sending", 1.0) as progress:
        result = load.send(plan, lambda share, so_far: progress.at(share, f"{so_far.succeeded:,} answers"))
    summary = summarize(plan, result, given, target.model, dialect, began.isoformat(timespec="seconds"))
    if given.report is not None:
        try:
            given.report.write_text(bench_report.render(summary, result), encoding="utf-8")
        except OSError as error:
            raise SetupError(f"--report: cannot write {given.report}: {error.strerror}") from None
    with results_only() as out:
        if given.json:
            write_json(summary, out)
        else:
            _print(summary, out)
    return 1 if result.failed or result.different or not result.succeeded else 0


def _parser() -> Parser:
    parser = Parser("stfs bench", "Put load on a model of the server at URL and time the answers.", EPILOG)
    parser.add_argument("url", metavar="URL", help="http://HOST:PORT, with a model's path or with --model_name")
    parser.add(
        "rate", type=seconds, metavar="R", help="requests a second, sent when due; without it, as fast as it goes"
    )
    parser.add(
        "arrivals", choices=("poisson", "constant"), default="poisson", help="how requests are apart, with --rate"
    )
    parser.add(
        "connections",
        type=positive,
        metavar="N",
        help=f"(default: {CONNECTIONS_CLOSED}; with --rate {CONNECTIONS_OPEN})",
    )
    parser.add("duration_s", type=seconds, default=10.0, metavar="S", help="how long (default: 10)")
    parser.add("warmup_s", type=seconds, default=1.0, metavar="S", help="before that, uncounted (default: 1)")
    parser.add("data", metavar="JSON", help="the body; @FILE, where .jsonl has one a line; -; or one is made up")
    parser.add("rows", type=positive, default=1, metavar="N", help="rows of a body that is made up (default: 1)")
    parser.add("seed", type=count, default=0, metavar="N", help="of what is random (default: 0)")
    parser.add("signature_name", default="", metavar="NAME", help="the signature to make bodies for")
    parser.add("dialect", choices=("auto", *remote.DIALECTS), default="auto", help="what the bodies speak")
    parser.add("check_answers", action="store_true", help="answers to the same request must be the same")
    parser.add("report", type=Path, metavar="FILE", help="write a page of HTML with charts")
    parser.add_argument("--json", action="store_true", help="write JSON")
    remote.add_arguments(parser)
    parser.set_defaults(timeout_s=10.0)
    return parser


def _requests(given: argparse.Namespace, target: remote.Target) -> tuple[list[bytes], str]:
    """The bodies to send in turn, and their dialect."""
    if given.data is None:
        dialect = target.dialect or ("stfs" if given.dialect == "auto" else given.dialect)
        interface = bodies.describe(target, dialect, given.signature_name)
        random = np.random.default_rng(given.seed)
        made = [
            bodies.write(
                dialect, bodies.made_up(interface.inputs, given.rows, random), interface.inputs, given.signature_name
            )
            for _ in range(BODIES)
        ]
    else:
        text = read_data(given.data)
        lines = text.splitlines() if given.data.endswith(".jsonl") else [text]
        made = [bodies.wrapped(line) for line in lines if line.strip()]
        if not made:
            raise ConfigError("--data: there is nothing to send in it")
        dialect = (target.dialect or bodies.dialect_of(made[0])) if given.dialect == "auto" else given.dialect
    return [target.named(body, dialect) for body in made], dialect


def _try_once(server: remote.Server, path: str, body: bytes) -> None:
    """Raise :class:`SetupError` unless the request is answered: load that is refused measures nothing."""
    status, answer = remote.call(server, "POST", path, body)
    if status != 200:
        said = answer.decode(errors="replace").strip()[:400]
        raise SetupError(
            f"{server.url}{path} answers {status}{remote.hint(status)}, so there is nothing to time: {said}"
        )


def _gaps(rate: float, arrivals: str, seed: int) -> Iterator[float]:
    """Seconds between departures, forever."""
    if arrivals == "constant":
        return itertools.repeat(1 / rate)
    random = np.random.default_rng(seed)
    return (gap for _ in itertools.count() for gap in random.exponential(1 / rate, 1024).tolist())


def summarize(
    plan: load.Plan, result: load.Result, given: argparse.Namespace, model: str, dialect: str, began: str
) -> dict[str, Any]:
    """What there is to tell, as JSON values; times are in milliseconds where the name says so."""
    answers_per_s = result.succeeded / result.measured_s if result.measured_s else 0.0
    return {
        "url": plan.server.url + plan.path.removeprefix(plan.server.prefix),
        "model": model,
        "began": began,
        "dialect": dialect,
        "loop": "closed" if plan.gaps_s is None else "open",
        "rate": given.rate,
        "arrivals": None if plan.gaps_s is None else given.arrivals,
        "connections": plan.connections,
        "warmup_s": plan.warmup_s,
        "duration_s": plan.duration_s,
        "measured_s": result.measured_s,
        "body_bytes": round(sum(map(len, plan.requests)) / len(plan.requests)),
        "sent": result.sent,
        "succeeded": result.succeeded,
        "failed": result.failed,
        "different_answers": result.different if plan.compare else None,
        "statuses": {str(status): n for status, n in sorted(result.statuses.items())},
        "failures": dict(result.failures),
        "first_error": result.first_error,
        "answers_per_s": answers_per_s,
        "latency_ms": _ms(result.latencies),
        "service_ms": _ms(result.service),
        "generator": {"cpu_share": result.cpu_share, "lateness_ms": _ms(result.lateness)},
        "warnings": _warnings(plan, result, given),
    }


def _ms(latencies: Latencies) -> dict[str, float]:
    told = {"min": latencies.min_s if latencies.count else 0.0, "mean": latencies.mean_s}
    return {name: value * 1e3 for name, value in {**told, **latencies.percentiles(), "max": latencies.max_s}.items()}


def _warnings(plan: load.Plan, result: load.Result, given: argparse.Namespace) -> list[str]:
    """Why the figures may not be the server's."""
    told = []
    if result.cpu_share > BUSY:
        told.append(
            f"the load took {result.cpu_share:.0%} of a core to make: this program may have been what was slow; "
            "send less, or larger requests, or run several of it"
        )
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        late_s = result.lateness.quantile(share)
        if late_s > LATE_SHARE * result.latencies.quantile(share) > 0:
            told.append(
                f"this program sent requests late ({name} {late_s * 1e3:.3g} ms), which is part of their latency: see "
                "the times from sending, and give it a core of its own"
            )
            break
    if given.rate is not None and result.sent and result.measured_s > 1.1 * plan.duration_s:
        told.append(
            f"the last answer came {result.measured_s - plan.duration_s:.1f} s after the last request was due: "
            "the server does not keep up with this rate"
        )
    return told


def _print(summary: Mapping[str, Any], out: TextIO) -> None:
    loop = (
        "closed loop"
        if summary["loop"] == "closed"
        else f"open loop, {summary['rate']:g} requests/s ({summary['arrivals']})"
    )
    out.write(
        f"{summary['model']} at {summary['url']}: {loop}, {summary['connections']} connections, "
        f"{summary['measured_s']:.1f} s\n\n"
        f"answers/s   {summary['answers_per_s']:,.1f}\n"
        f"answered    {summary['succeeded']:,} of {summary['sent']:,}\n"
    )
    for what, number in {**{f"status {k}": v for k, v in summary["statuses"].items()}, **summary["failures"]}.items():
        if what != "status 200":
            out.write(f"{what:11} {number:,}\n")
    if summary["first_error"]:
        out.write(f"the first   {summary['first_error']}\n")
    if summary["different_answers"] is not None:
        out.write(f"different   {summary['different_answers']:,} answers differ from the first to the same request\n")
    rows = [("ms", *summary["latency_ms"])]
    for name, values in (("latency", summary["latency_ms"]), ("from sending", summary["service_ms"])):
        if name == "latency" or summary["loop"] == "open":
            rows.append((name, *(f"{value:.3f}" for value in values.values())))
    out.write("\n" + table(rows, 160) + "\n")
    generator = summary["generator"]
    out.write(f"\nthe load itself took {generator['cpu_share']:.0%} of a core\n")
    for line in summary["warnings"]:
        out.write(f"warning: {line}\n")
