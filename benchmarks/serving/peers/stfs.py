"""This server: as it comes, without batching, and with two processes on both cores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.serving.peers.peer import Command, Peer, Start

ROOT = Path(__file__).resolve().parents[3]
PATH = "/v1/models/default:predict"


def _start(*options: str) -> Callable[[Start], Command]:
    def start(what: Start) -> Command:
        address = ("--host=127.0.0.1", f"--port={what.port}")
        argv = (str(what.python), "-m", "stfs", "serve", str(what.work.model), *address, "--log_level=error", *options)
        # This checkout's package, whatever else the interpreter has installed.
        return Command(argv, {"PYTHONPATH": str(ROOT)})

    return start


STFS = (
    Peer("stfs", "this server", "", PATH, "instances", _start()),
    Peer("stfs-unbatched", "this server, --batchable=false", "", PATH, "instances", _start("--batchable=false")),
    Peer("stfs-workers2", "this server, --workers=2", "", PATH, "instances", _start("--workers=2"), both_cores=True),
)
