"""BentoML: one worker."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.serving.peers.peer import PROGRAMS, Command, Peer, Start, program_env


def _start(*, batching: bool) -> Callable[[Start], Command]:
    def start(what: Start) -> Command:
        argv = (str(what.python), "-m", "bentoml", "serve", "bentoml_app:Service", "--working-dir", str(PROGRAMS))
        env = program_env(what, batching=batching)
        env |= {"BENTOML_DO_NOT_TRACK": "True", "DO_NOT_TRACK": "1", "BENTOML_HOME": str(what.folder / "home")}
        return Command((*argv, "--host", "127.0.0.1", "--port", str(what.port)), env)

    return start


BENTOML = (
    Peer("bentoml", "BentoML, batching off", "bentoml", "/predict", "x", _start(batching=False)),
    Peer("bentoml-batched", "BentoML, batching on", "bentoml", "/predict", "x", _start(batching=True)),
)
