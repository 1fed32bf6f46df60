"""Our own load, every answer checked: ``python -m benchmarks.serving.client`` with a job as JSON on standard input.

Closed loop: each connection sends its next request when it has its answer. Open loop (``rate``): requests are due at
the moments of a Poisson process whether or not the server keeps up, take the next free connection, and their latency
counts from when they were due, so that a server's pauses are not hidden by clients that wait for it. A process of its
own, so that it has its own core.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving.works import Work, is_right
from benchmarks.serving.wrk import Load

DRAIN_S = 10.0
OK = b"HTTP/1.1 200 "


@dataclass(frozen=True)
class Job:
    """``rate`` in requests a second, 0 for a closed loop; the arrays of the work lie at ``rows`` and ``expected``."""

    url: str
    body: str
    expected: str
    output: str
    connections: int
    seconds: float
    rate: float = 0.0
    seed: int = 0


class Connection(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self, load: Generator) -> None:
        self.load = load
        self.buffer = b""
        self.due_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def send(self, due_s: float) -> None:
        self.due_s = due_s
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        _, told, length = head.lower().partition(b"content-length:")
        if not told:
            raise ValueError(f"an answer without Content-Length: {head[:200]!r}")
        if len(body) >= int(length.split(b"\r\n", 1)[0]):
            self.buffer = b""
            self.load.answered(self, head, body)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost()


class Generator:
    """The connections, what is due, and what came back."""

    def __init__(self, job: Job, work: Work, payload: bytes) -> None:
        self.job = job
        self.work = work
        url = urlsplit(job.url)
        self.address = (url.hostname or "127.0.0.1", url.port or 80)
        head = f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        self.request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(payload) + payload
        self.known: set[bytes] = set()  # bodies found right; most answers are the same bytes again
        self.latencies_s: list[float] = []
        self.refused = self.broken = self.wrong = 0
        self.due: deque[float] = deque()
        self.idle: list[Connection] = []
        self.in_flight = 0
        self.closing = False
        self.drained = asyncio.Event()
        self.end_s = 0.0

    def answered(self, connection: Connection, head: bytes, body: bytes) -> None:
        now_s = time.perf_counter()
        self.in_flight -= 1
        if not head.startswith(OK):
            self.refused += 1
        elif body in self.known:
            pass
        elif is_right(body, self.work):
            self.known.add(body)
        else:
            self.wrong += 1
        self.latencies_s.append(now_s - connection.due_s)
        if self.due:
            self.send(connection, self.due.popleft())
        elif not self.job.rate and now_s < self.end_s:
            self.send(connection, now_s)
        else:
            self.idle.append(connection)
            if not self.in_flight and now_s >= self.end_s:
                self.drained.set()

    def send(self, connection: Connection, due_s: float) -> None:
        self.in_flight += 1
        connection.send(due_s)

    def lost(self) -> None:
        self.broken += not self.closing

    async def run(self) -> dict[str, float]:
        loop = asyncio.get_running_loop()
        made = [
            await loop.create_connection(lambda: Connection(self), *self.address) for _ in range(self.job.connections)
        ]
        connections = [protocol for _, protocol in made]
        start_s = time.perf_counter()
        self.end_s = start_s + self.job.seconds
        if self.job.rate:
            self.idle = connections
            await self.arrivals(start_s)
        else:
            for connection in connections:
                self.send(connection, time.perf_counter())
        await asyncio.sleep(max(0.0, self.end_s - time.perf_counter()))
        if self.in_flight or self.due:
            self.drained.clear()  # what was late may have been sent after a moment without any in flight
            with suppress(TimeoutError):
                await asyncio.wait_for(self.drained.wait(), DRAIN_S)
        seconds = (
            time.perf_counter() - start_s if not self.job.rate else max(self.job.seconds, time.perf_counter() - start_s)
        )
        self.closing = True
        for connection in connections:
            connection.transport.abort()
        unanswered = self.in_flight + len(self.due)
        latencies_ms = np.array(self.latencies_s) * 1e3
        p50, p99 = np.quantile(latencies_ms, [0.5, 0.99]) if len(latencies_ms) else (float("nan"),) * 2
        return {
            "answers": len(latencies_ms),
            "seconds": seconds,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "refused": self.refused,
            "broken": self.broken + unanswered,
            "wrong": self.wrong,
        }

    async def arrivals(self, start_s: float) -> None:
        random = np.random.default_rng(self.job.seed)
        due_s = start_s
        while (due_s := due_s + random.exponential(1 / self.job.rate)) < self.end_s:
            # Sleeping is coarse: what has come due meanwhile is sent at once, late by what its latency then counts.
            if (wait_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            if self.idle:
                self.send(self.idle.pop(), due_s)
            else:
                self.due.append(due_s)


class WrongAnswers(Exception):
    """A server answered something else than the framework."""


def run(
    url: str,
    work: Work,
    form: str,
    connections: int,
    seconds: float,
    cores: tuple[int, ...],
    rate: float = 0.0,
    seed: int = 0,
) -> Load:
    """Load ``url`` from ``cores``, a closed loop without ``rate``. Raises ``WrongAnswers``; errors are counted."""
    with tempfile.TemporaryDirectory(prefix="bench-client-") as name:
        folder = Path(name)
        (folder / "body").write_bytes(work.body(form))
        np.save(folder / "expected.npy", work.expected)
        job = Job(
            url,
            str(folder / "body"),
            str(folder / "expected.npy"),
            work.output,
            connections,
            seconds,
            rate,
            seed,
        )
        argv = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-m", "benchmarks.serving.client"]
        done = subprocess.run(
            argv,
            input=json.dumps(asdict(job)),
            capture_output=True,
            text=True,
            timeout=seconds + DRAIN_S + 60,
            check=False,
            cwd=Path(__file__).resolve().parents[2],
        )
    if done.returncode:
        raise ValueError(f"the load failed: {done.stderr[-500:]}")
    told = json.loads(done.stdout)
    if wrong := told.pop("wrong"):
        raise WrongAnswers(f"{url}: {wrong} of {told['answers']} answers to {work.name} are wrong")
    return Load(**told)


def main() -> None:
    import uvloop

    job = Job(**json.load(sys.stdin))
    payload = Path(job.body).read_bytes()
    expected = np.load(job.expected)
    work = Work("", "", Path(), expected, expected, job.output)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(Generator(job, work, payload).run())))


if __name__ == "__main__":
    main()
