"""LitServe: one API server, one worker."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.serving.peers.peer import PROGRAMS, Command, Peer, Start, program_env


def _start(*, batching: bool) -> Callable[[Start], Command]:
    def start(what: Start) -> Command:
        return Command((str(what.python), str(PROGRAMS / "litserve_app.py")), program_env(what, batching=batching))

    return start


LITSERVE = (
    Peer("litserve", "LitServe, batching off", "litserve", "/predict", "instances", _start(batching=False)),
    Peer("litserve-batched", "LitServe, batching on", "litserve", "/predict", "instances", _start(batching=True)),
)
