"""Servers of ours that answer without a model: how far there is to go."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks.serving.peers.peer import PROGRAMS, Command, Peer, Start


def _start(program: str) -> Callable[[Start], Command]:
    def start(what: Start) -> Command:
        answer = json.dumps({"predictions": what.work.expected.tolist()})
        return Command(
            (str(what.python), str(PROGRAMS / program)), {"BENCH_PORT": str(what.port), "BENCH_ANSWER": answer}
        )

    return start


REFERENCES = (
    Peer("aiohttp", "bare aiohttp, canned answer", "", "/predict", "instances", _start("aiohttp_canned.py")),
    Peer("uvloop", "raw uvloop, canned answer", "", "/predict", "instances", _start("uvloop_canned.py")),
)
