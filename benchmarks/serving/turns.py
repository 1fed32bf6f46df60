"""Taking turns: every server of a work is loaded in every round, so that what else the machine does hits all alike.

Gives raw figures; what they mean is told in ``results``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.serving import client, wrk
from benchmarks.serving.peers.peer import PROGRAMS, Peer
from benchmarks.serving.processes import Server, StartFailed, start
from benchmarks.serving.works import Work

MODEL_ALONE = "model"
CONNECTIONS_OF_OPEN_LOOP = 64


@dataclass(frozen=True)
class Cores:
    """Where servers and load run; the same core for both where the machine has one."""

    server: tuple[int, ...]
    load: tuple[int, ...]

    @property
    def both(self) -> tuple[int, ...]:
        return tuple(sorted({*self.server, *self.load}))


def cores_of_machine() -> Cores:
    """The first core for servers, the second for load."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores((usable[0],), (usable[1 % len(usable)],))


@dataclass(frozen=True)
class Turn:
    """One burst against one server.

    ``rate`` good answers a second; ``cpu_us`` CPU time of all processes of the server per answer (nan if it runs
    elsewhere); ``others`` the share of the server's cores that other processes took; ``errors`` refused and lost.
    """

    work: str
    load: str
    server: str
    round: int
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    others: float
    errors: int


@dataclass(frozen=True)
class Plan:
    """How much is measured. ``seconds`` a burst; ``connections`` of the closed loops, ``fractions`` of the open."""

    connections: tuple[int, ...]
    rounds: int
    seconds: float
    fractions: tuple[float, ...] = ()
    use_wrk: bool = True
    crowded_only: tuple[str, ...] = ()  # servers that are only asked by the most connections


def closed(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def opened(fraction: float) -> str:
    return f"open loop, {fraction:.0%} of capacity"


@contextmanager
def started(
    peers: list[Peer],
    work: Work,
    python_of: Callable[[Peer], Path],
    cores: Cores,
    urls: dict[str, str],
    say: Callable[[str], None],
) -> Iterator[list[Server]]:
    """The servers of ``peers`` that serve ``work`` and come up; the others are told about and left out."""
    with ExitStack() as stack:
        servers = []
        for peer in peers:
            if work.name not in peer.works:
                continue
            mine = cores.both if peer.both_cores else cores.server
            try:
                server = start(peer, work, python_of(peer), mine, urls.get(peer.name, ""))
            except (StartFailed, OSError, ValueError) as error:
                say(f"left out: {peer.name}, {work.name}: {error}")
                continue
            stack.callback(server.discard)
            servers.append(server)
        yield servers


def take_turns(servers: list[Server], work: Work, plan: Plan, cores: Cores, say: Callable[[str], None]) -> list[Turn]:
    """All rounds of one work, every answer of our own loop and one before and after each burst of wrk checked.

    Raises ``StartFailed`` or ``WrongAnswers`` for a wrong answer: figures of a server that is wrong say nothing.
    """
    for server in servers:
        _burst(server, work, max(plan.connections), min(1.0, plan.seconds), cores, use_wrk=plan.use_wrk)
    turns = []
    for number in range(plan.rounds):
        # Another goes first each time, so that none always follows the same one.
        shift = number % max(1, len(servers))
        for server in servers[shift:] + servers[:shift]:
            for connections in plan.connections:
                alone = server.peer.both_cores or server.peer.name in plan.crowded_only
                if alone and connections != max(plan.connections):
                    continue
                turns.append(_turn(server, work, connections, number, plan, cores))
        turns.append(_model_turn(work, number, plan.seconds, cores))
        say(f"{work.name}: round {number + 1} of {plan.rounds}")
    for fraction in plan.fractions:
        turns += _open_turns(servers, work, fraction, plan, cores, say)
    return turns


def _load_cores(server: Server, cores: Cores) -> tuple[int, ...]:
    return cores.both if server.peer.both_cores else cores.load


def _burst(
    server: Server, work: Work, connections: int, seconds: float, cores: Cores, *, use_wrk: bool, rate: float = 0.0
) -> wrk.Load:
    on = _load_cores(server, cores)
    wrk_only = server.peer.refuses or not server.peer.form
    if rate or not (use_wrk or wrk_only):
        return client.run(server.url, work, server.peer.form, connections, seconds, on, rate)
    server.check()
    load = wrk.run(server.url, work.body(server.peer.form) if server.peer.form else b"", connections, seconds, on)
    server.check()
    # To refuse is what it is asked for here.
    return replace(load, refused=load.answers - load.refused) if server.peer.refuses else load


def _turn(
    server: Server,
    work: Work,
    connections: int,
    number: int,
    plan: Plan,
    cores: Cores,
    fraction: float = 0.0,
    rate: float = 0.0,
) -> Turn:
    start_s, cpu_s, busy_s = time.perf_counter(), server.cpu_s(), server.core_busy_s()
    load = _burst(server, work, connections, plan.seconds, cores, use_wrk=plan.use_wrk, rate=rate)
    used_s = server.cpu_s() - cpu_s
    wall_s = (time.perf_counter() - start_s) * len(server.cores)
    # On shared cores the load itself is among the others, which says nothing.
    others = float("nan") if server.peer.both_cores else max(0.0, (server.core_busy_s() - busy_s - used_s) / wall_s)
    return Turn(
        work=work.name,
        load=opened(fraction) if rate else closed(connections),
        server=server.peer.name,
        round=number,
        rate=load.rate,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        cpu_us=used_s / max(1, load.answers) * 1e6 if server.process is not None else float("nan"),
        others=others,
        errors=load.refused + load.broken,
    )


def _open_turns(
    servers: list[Server], work: Work, fraction: float, plan: Plan, cores: Cores, say: Callable[[str], None]
) -> list[Turn]:
    """Each server at a fraction of what it answered to our own closed loop a moment before."""
    turns = []
    for number in range(plan.rounds):
        for server in servers:
            if server.peer.both_cores or server.peer.refuses or not server.peer.form:
                continue
            on = _load_cores(server, cores)
            capacity = client.run(server.url, work, server.peer.form, CONNECTIONS_OF_OPEN_LOOP, plan.seconds, on).rate
            rate = capacity * fraction
            turns.append(_turn(server, work, CONNECTIONS_OF_OPEN_LOOP, number, plan, cores, fraction, rate))
    say(f"{work.name}: {opened(fraction)}")
    return turns


def _model_turn(work: Work, number: int, seconds: float, cores: Cores) -> Turn:
    """The model called without a server, on the servers' core, one row a run."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, work.rows)
        file.flush()
        argv = ["taskset", "-c", ",".join(map(str, cores.server)), sys.executable]
        done = subprocess.run(
            [*argv, str(PROGRAMS / "model_alone.py"), file.name, str(seconds), "1"],
            env={**os.environ, "BENCH_MODEL": str(work.model), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
    told = json.loads(done.stdout)
    rate, each_ms = told["runs"] / told["seconds"], told["seconds"] / told["runs"] * 1e3
    cpu_us = told["cpu_s"] / told["runs"] * 1e6
    others = max(0.0, 1 - told["cpu_s"] / told["seconds"])
    return Turn(work.name, "no server", MODEL_ALONE, number, rate, each_ms, float("nan"), cpu_us, others, 0)
