"""``stfs diff``: asks two servers the same and tells where their answers differ.

Owns the arguments and what is printed. Must not live here: what counts as the same (``compare``), bodies (``bodies``).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import numpy as np

from stfs.commands import bodies, remote
from stfs.commands.arguments import Parser, count, positive, read_data, results_only, seconds, write_json
from stfs.commands.compare import ATOL, RTOL, Difference, Tolerance, differences
from stfs.commands.progress import Progress
from stfs.errors import ConfigError, SetupError

MAX_TOLD = 10
"""Differences that are told of one request."""
EPILOG = f"""Without --data, requests are made up of what URL1 tells of its model, from --seed. Where the two speak
different dialects, each gets the same tensors in its own: requests of --data then name their tensors,
{{"inputs": {{"x": [[1, 2]]}}}} or {{"data": {{"x": [[1, 2]]}}}}. Two servers that both refuse a request agree, whatever
their words. {remote.CREDENTIALS}

status: 0  all answers are the same
        1  some differ
        2  one of the two does not answer, no request was answered by either, or an argument is wrong
"""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: where, and what it speaks."""

    target: remote.Target
    dialect: str


def run(argv: Sequence[str]) -> int:
    """``stfs diff ARGV``; the exit status. Raises :class:`SetupError` if the two cannot be compared."""
    given = _parser().parse_args(argv)
    texts = _texts(given.data)
    sides = [
        _side(url, dialect, given, texts)
        for url, dialect in ((given.url1, given.dialect1), (given.url2, given.dialect2))
    ]
    interface = None
    if texts is None or sides[0].dialect != sides[1].dialect:
        interface = bodies.describe(sides[0].target, sides[0].dialect, given.signature_name)
    requests = _requests(given, sides, texts, interface)
    tolerance = Tolerance(given.rtol, given.atol)
    told: list[dict[str, Any]] = []
    answered = 0
    with Progress("asking", len(requests)) as progress:
        for index, pair in enumerate(requests):
            progress.at(index)
            answers = [
                remote.call(
                    side.target.server, "POST", side.target.path(side.dialect), side.target.named(body, side.dialect)
                )
                for side, body in zip(sides, pair, strict=True)
            ]
            answered += all(status == 200 for status, _ in answers)
            found = _compared(sides, answers, interface, tolerance)
            if found:
                told.append({"request": index, "body": pair[0].decode(errors="replace")[:1000], "differences": found})
    if not answered and not told:
        status, said = answers[0]
        raise SetupError(
            f"both refuse every request, so nothing was compared: {sides[0].target.server.url} answers {status}"
            f"{remote.hint(status)}: {said.decode(errors='replace').strip()[:300]}"
        )
    report = {
        "url1": given.url1,
        "url2": given.url2,
        "dialects": [side.dialect for side in sides],
        "requests": len(requests),
        "answered_by_both": answered,
        "different": len(told),
        "rtol": given.rtol,
        "atol": given.atol,
        "first_differences": told[: given.show],
    }
    with results_only() as out:
        if given.json:
            write_json(report, out)
        else:
            _print(report, out)
    return 1 if told else 0


def _parser() -> Parser:
    parser = Parser(
        "stfs diff", "Send the same requests to the models at two addresses and compare the answers.", EPILOG
    )
    parser.add_argument("url1", metavar="URL1", help="http://HOST:PORT, with a model's path or with --model_name")
    parser.add_argument("url2", metavar="URL2")
    parser.add("dialect1", choices=("auto", *remote.DIALECTS), default="auto", help="what the first server speaks")
    parser.add("dialect2", choices=("auto", *remote.DIALECTS), default="auto", help="what the second server speaks")
    parser.add("data", metavar="JSON", help="a body; @FILE, where .jsonl has one a line; - for standard input")
    parser.add("requests", type=positive, default=20, metavar="N", help="requests to make up (default: 20)")
    parser.add("rows", type=positive, default=1, metavar="N", help="rows of those, 1 to N in turn (default: 1)")
    parser.add("seed", type=count, default=0, metavar="N", help="of what is made up (default: 0)")
    parser.add("signature_name", default="", metavar="NAME", help="the signature to ask")
    parser.add("rtol", type=seconds, default=RTOL, metavar="X", help="relative tolerance (default: 1e-5)")
    parser.add("atol", type=seconds, default=ATOL, metavar="X", help="absolute tolerance (default: 1e-8)")
    parser.add("show", type=positive, default=5, metavar="N", help="requests whose differences are told (default: 5)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    remote.add_arguments(parser)
    return parser


def _texts(data: str | None) -> list[bytes] | None:
    """The bodies that were given; ``None`` if they are to be made up."""
    if data is None:
        return None
    text = read_data(data)
    lines = text.splitlines() if data.endswith(".jsonl") else [text]
    found = [bodies.wrapped(line) for line in lines if line.strip()]
    if not found:
        raise ConfigError("--data: there is nothing to send in it")
    return found


def _side(url: str, dialect: str, given: argparse.Namespace, texts: list[bytes] | None) -> Side:
    """The dialect is what was said, else the address's, else the bodies', else TensorFlow Serving's under ``/v1``."""
    target = remote.target(url, given)
    if dialect == "auto":
        guess = bodies.dialect_of(texts[0]) if texts else ("tfserving" if "/v1/" in url else "stfs")
        dialect = target.dialect or guess
    return Side(target, dialect)


def _requests(
    given: argparse.Namespace, sides: Sequence[Side], texts: list[bytes] | None, interface: bodies.Interface | None
) -> list[tuple[bytes, bytes]]:
    """The bodies, one for each side: the same bytes if both speak alike, else the same tensors."""
    first, second = (side.dialect for side in sides)
    if texts is not None and first == second:
        return [(text, text) for text in texts]
    assert interface is not None, "without it there was an error"
    if texts is None:
        random = np.random.default_rng(given.seed)
        rows = itertools.cycle(range(1, given.rows + 1))
        tensors = [bodies.made_up(interface.inputs, next(rows), random) for _ in range(given.requests)]
    else:
        tensors = [_named_tensors(text, interface) for text in texts]
    return [
        (
            bodies.write(first, one, interface.inputs, given.signature_name),
            bodies.write(second, one, interface.inputs, given.signature_name),
        )
        for one in tensors
    ]


def _named_tensors(text: bytes, interface: bodies.Interface) -> dict[str, Any]:
    """The tensors of a body in column form. Raises :class:`ConfigError` for one that does not name them."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--data: {error}") from None
    tensors = value.get("inputs", value.get("data")) if isinstance(value, dict) else None
    if isinstance(tensors, list) and len(interface.inputs) == 1 and not any(isinstance(t, dict) for t in tensors):
        return {interface.inputs[0].name: tensors}
    if not isinstance(tensors, dict):
        raise ConfigError('--data: for two dialects, name the tensors in columns: {"inputs": {"x": [[1, 2]]}}')
    return tensors


def _compared(
    sides: Sequence[Side],
    answers: Sequence[tuple[int, bytes]],
    interface: bodies.Interface | None,
    tolerance: Tolerance,
) -> list[dict[str, str]]:
    statuses = [status for status, _ in answers]
    if any(status != 200 for status in statuses):
        if 200 not in statuses:
            return []
        told = [_answer_text(status, body) for status, body in answers]
        return [asdict(Difference("status", *told))]
    outputs = () if interface is None else interface.outputs
    try:
        first, second = [
            bodies.read_answer(side.dialect, body, outputs) for side, (_, body) in zip(sides, answers, strict=True)
        ]
    except (ValueError, KeyError, TypeError) as error:
        return [asdict(Difference("the form of an answer", repr(error), "cannot be compared"))]
    return [asdict(one) for one in itertools.islice(differences(first, second, tolerance), MAX_TOLD)]


def _answer_text(status: int, body: bytes) -> str:
    return "200" if status == 200 else f"{status} {body.decode(errors='replace').strip()[:200]}"


def _print(report: Mapping[str, Any], out: TextIO) -> None:
    same = report["requests"] - report["different"]
    out.write(
        f"{same} of {report['requests']} answers are the same (within {report['rtol']:g} of the value + "
        f"{report['atol']:g}); {report['answered_by_both']} requests were answered by both\n"
    )
    for one in report["first_differences"]:
        out.write(f"\nrequest {one['request']}: {one['body'][:200]}\n")
        for found in one["differences"]:
            out.write(f"  {found['path'] or 'the answer'}: {found['first']} and {found['second']}\n")
    if (more := report["different"] - len(report["first_differences"])) > 0:
        out.write(f"\nand {more} more\n")
