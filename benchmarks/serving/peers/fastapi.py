"""FastAPI by hand: as a user writes it first, as well as it can be done, and that with two processes on both cores."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.serving.peers.peer import PROGRAMS, Command, Peer, Start, program_env


def _start(app: str, *options: str, batching: bool = False) -> Callable[[Start], Command]:
    def start(what: Start) -> Command:
        argv = (str(what.python), "-m", "uvicorn", "--app-dir", str(PROGRAMS), f"{app}:app", "--host", "127.0.0.1")
        return Command(
            (*argv, "--port", str(what.port), "--no-access-log", *options), program_env(what, batching=batching)
        )

    return start


_FAST = ("--loop", "uvloop", "--http", "httptools")


def _peer(name: str, told: str, start: Callable[[Start], Command], *, both_cores: bool = False) -> Peer:
    return Peer(name, told, "fastapi", "/predict", "instances", start, both_cores=both_cores)


FASTAPI = (
    _peer("fastapi-plain", "FastAPI, pydantic, asyncio", _start("fastapi_plain", "--loop", "asyncio", "--http", "h11")),
    _peer("fastapi-best", "FastAPI, orjson, uvloop, httptools", _start("fastapi_best", *_FAST)),
    _peer("fastapi-batched", "the same with a batcher", _start("fastapi_best", *_FAST, batching=True)),
    _peer(
        "fastapi-workers2",
        "FastAPI at its best, two processes",
        _start("fastapi_best", *_FAST, "--workers", "2"),
        both_cores=True,
    ),
)
