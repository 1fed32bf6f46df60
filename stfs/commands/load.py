"""Sends many requests at once over HTTP/1.1 and times the answers: the engine of ``stfs bench``.

Open loop: each request has a moment at which it is meant to leave, whatever the server does, and its latency counts
from there; where all connections are busy it waits, and the wait counts. So a stall of the server shows in the
latencies of all requests that it holds up, not of one for each connection (coordinated omission). Closed loop: each
connection sends as soon as it is answered, and latency counts from there.

One event-loop thread has everything but the pacing. Must not live here: arguments, reports, what bodies hold.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from stfs.commands.latencies import Latencies
from stfs.commands.remote import Server

RETRY_CONNECT_S = 0.1
PACE_S = 0.0002
"""The shortest sleep between two releases of requests that are due."""
LONGEST_SLEEP_S = 0.1
MAX_HEAD_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send: ``requests`` in turn, over ``connections``, for ``warmup_s`` that do not count and ``duration_s``.

    ``gaps_s`` yields the times between intended departures, forever; ``None``: closed loop. ``timeout_s`` is how long
    an answer may take, and what is waited for at the end. ``compare``: answers to one request must not differ.
    """

    server: Server
    path: str
    requests: Sequence[bytes]
    connections: int
    warmup_s: float
    duration_s: float
    gaps_s: Iterator[float] | None
    timeout_s: float
    compare: bool = False


@dataclass(slots=True)
class Result:
    """What came of a plan. Counts and latencies are of requests meant to leave while it counted.

    ``latencies`` are from the intended departure to the end of an answer with status 200, ``service`` from the real
    one; ``lateness`` is how long after its moment a request was released by this program, which adds to its latency.
    ``answered_in_second`` and ``failed_in_second`` count answers by the second in which they came. ``cpu_share`` is
    what this process used of one core. ``measured_s`` is from the first departure that counts to the last answer.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    first_error: str = ""
    latencies: Latencies = field(default_factory=Latencies)
    service: Latencies = field(default_factory=Latencies)
    lateness: Latencies = field(default_factory=Latencies)
    answered_in_second: Counter[int] = field(default_factory=Counter)
    failed_in_second: Counter[int] = field(default_factory=Counter)
    sent: int = 0
    different: int = 0
    measured_s: float = 0.0
    cpu_share: float = 0.0

    @property
    def succeeded(self) -> int:
        """Answers with status 200."""
        return self.statuses[200]

    @property
    def failed(self) -> int:
        """Requests that were answered otherwise, or not at all."""
        return sum(self.statuses.values()) - self.succeeded + sum(self.failures.values())


def send(plan: Plan, tell: Callable[[float, Result], None] = lambda share, result: None) -> Result:
    """Carry the plan out; blocking. ``tell`` is called a few times a second with the share that is done."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(_Run(plan, tell).whole())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Run(plan, tell).whole())


@dataclass(slots=True)
class _Request:
    """``due_s`` is when it was meant to leave, ``index`` which of the plan's requests it is."""

    due_s: float
    index: int
    counts: bool


class _Run:
    def __init__(self, plan: Plan, tell: Callable[[float, Result], None]) -> None:
        self.plan = plan
        self.result = Result()
        self.idle: deque[_Connection] = deque()
        self._tell = tell
        self._backlog: deque[_Request] = deque()
        self._next = 0
        self._open = 0
        """Requests that count and are neither answered nor given up."""
        self._answers: dict[int, bytes] = {}
        self._over = asyncio.Event()
        self._heads = [_head(plan.server, plan.path, len(body)) + body for body in plan.requests]
        self._next_due_s = 0.0
        self._counts_from_s = self._end_s = 0.0
        self._last_answer_s = 0.0

    async def whole(self) -> Result:
        plan = self.plan
        loop = asyncio.get_running_loop()
        connections = [_Connection(self, loop) for _ in range(plan.connections)]
        await asyncio.gather(*(connection.open() for connection in connections), return_exceptions=True)
        began_s = time.monotonic()
        self._counts_from_s = began_s + plan.warmup_s
        self._end_s = self._counts_from_s + plan.duration_s
        self._next_due_s = began_s
        cpu_s, cpu_from_s = time.process_time(), began_s
        stop = threading.Event()
        pacer: threading.Thread | None = None
        for connection in connections:
            connection.begin()
        if plan.gaps_s is not None:
            pacer = threading.Thread(target=self._pace, args=(loop, stop), name="pacer", daemon=True)
            pacer.start()
        try:
            while (now_s := time.monotonic()) < self._end_s + plan.timeout_s:
                if now_s >= self._end_s and self._open == 0 and not self._backlog and self._all_due():
                    break
                self._tell(min(1.0, (now_s - began_s) / max(self._end_s - began_s, 1e-9)), self.result)
                for connection in connections:
                    connection.look(now_s)
                await asyncio.sleep(min(0.1, max(self._end_s - now_s, 0.005)))
            self.result.cpu_share = (time.process_time() - cpu_s) / max(time.monotonic() - cpu_from_s, 1e-9)
        finally:
            stop.set()
            if pacer is not None:
                await loop.run_in_executor(None, pacer.join)
            for connection in connections:
                connection.close()
        if self._open:
            self.result.failures["not answered at the end"] += self._open
        self.result.measured_s = max(self._last_answer_s, self._end_s) - self._counts_from_s
        return self.result

    def _all_due(self) -> bool:
        """Whether every request that is meant to leave has been let go."""
        return self.plan.gaps_s is None or self._next_due_s >= self._end_s

    def _pace(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        """On a thread of its own, for event loops' timers count in milliseconds."""
        while not stop.is_set() and (now_s := time.monotonic()) < self._end_s:
            time.sleep(min(max(min(self._next_due_s, self._end_s) - now_s, PACE_S), LONGEST_SLEEP_S))
            try:
                loop.call_soon_threadsafe(self._release)
            except RuntimeError:  # the loop is closed
                return
        if not stop.is_set():  # this thread may have been away when the last ones were due
            loop.call_soon_threadsafe(self._release)

    def _release(self) -> None:
        """Let go what is due."""
        now_s = time.monotonic()
        gaps = self.plan.gaps_s
        assert gaps is not None, "only open loops are paced"
        while self._next_due_s <= now_s and self._next_due_s < self._end_s:
            request = self._request(self._next_due_s)
            if request.counts:
                self.result.lateness.add(now_s - request.due_s)
            self._next_due_s += next(gaps)
            if self.idle:
                self.idle.popleft().send(request, now_s)
            else:
                self._backlog.append(request)

    def _request(self, due_s: float) -> _Request:
        index = self._next
        self._next = (index + 1) % len(self._heads)
        counts = due_s >= self._counts_from_s
        if counts:
            self._open += 1
            self.result.sent += 1
        return _Request(due_s, index, counts)

    def next_for(self, connection: _Connection) -> None:
        """``connection`` is free."""
        now_s = time.monotonic()
        if self.plan.gaps_s is None:
            if now_s < self._end_s:
                connection.send(self._request(now_s), now_s)
        elif self._backlog:
            connection.send(self._backlog.popleft(), now_s)
        else:
            self.idle.append(connection)

    def bytes_of(self, request: _Request) -> bytes:
        """Head and body."""
        return self._heads[request.index]

    def answered(self, request: _Request, sent_s: float, status: int, body: bytes) -> None:
        """An answer is here, whole."""
        if not request.counts:
            return
        now_s = time.monotonic()
        self._open -= 1
        self._last_answer_s = now_s
        result = self.result
        result.statuses[status] += 1
        second = int(now_s - self._counts_from_s)
        if status != 200:
            result.failed_in_second[second] += 1
            result.first_error = result.first_error or body[:300].decode(errors="replace").strip()
            return
        result.answered_in_second[second] += 1
        result.latencies.add(now_s - request.due_s)
        result.service.add(now_s - sent_s)
        if self.plan.compare and self._answers.setdefault(request.index, body) != body:
            result.different += 1

    def failed(self, request: _Request, reason: str) -> None:
        """No answer will come."""
        if request.counts:
            self._open -= 1
            self.result.failures[reason] += 1
            self.result.failed_in_second[int(time.monotonic() - self._counts_from_s)] += 1


class _Connection(asyncio.Protocol):
    """One connection, one request at a time; opened again when the server closes it."""

    def __init__(self, run: _Run, loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._request: _Request | None = None
        self._sent_s = 0.0
        self._buffer = bytearray()
        self._closed = False
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        server = self._run.plan.server
        await self._loop.create_connection(
            lambda: self, server.host, server.port, ssl=server.tls, server_hostname=server.host if server.tls else None
        )

    def begin(self) -> None:
        """The time has begun: ask for a first request, or try again to open what did not open."""
        if self._transport is None:
            self._reopen()
        elif self._run.plan.gaps_s is None:
            self._run.next_for(self)

    def send(self, request: _Request, now_s: float) -> None:
        """Send it; on a connection that has gone it fails."""
        self._request, self._sent_s = request, now_s
        if self._transport is None:
            self._fail("connection lost")
            return
        self._transport.write(self._run.bytes_of(request))

    def look(self, now_s: float) -> None:
        """Give up a request that has taken too long, and its connection with it."""
        if self._request is not None and now_s - self._sent_s > self._run.plan.timeout_s:
            self._fail(f"no answer within {self._run.plan.timeout_s:g} s")
            if self._transport is not None:
                self._transport.abort()

    def close(self) -> None:
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._run.plan.gaps_s is not None or self._opening is not None:
            self._run.next_for(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._buffer.clear()
        if self in self._run.idle:
            self._run.idle.remove(self)
        if self._request is not None:
            self._fail("connection lost")
        self._reopen()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._request is None:
            self._buffer.clear()
            return
        try:
            found = answer_in(self._buffer)
        except ValueError as error:
            self._fail(str(error))
            if self._transport is not None:
                self._transport.abort()
            return
        if found is None:
            return
        status, body, closes = found
        self._buffer.clear()
        request, self._request = self._request, None
        self._run.answered(request, self._sent_s, status, body)
        if closes and self._transport is not None:
            self._transport.close()
        else:
            self._run.next_for(self)

    def _fail(self, reason: str) -> None:
        request, self._request = self._request, None
        if request is not None:
            self._run.failed(request, reason)

    def _reopen(self) -> None:
        if not self._closed and (self._opening is None or self._opening.done()):
            self._opening = self._loop.create_task(self._keep_opening())

    async def _keep_opening(self) -> None:
        while not self._closed and self._transport is None:
            try:
                await self.open()
            except OSError:
                await asyncio.sleep(RETRY_CONNECT_S)


def answer_in(buffer: bytearray) -> tuple[int, bytes, bool] | None:
    """Status, body and whether the connection closes, if ``buffer`` holds a whole answer (RFC 9112); else ``None``.

    Raises :class:`ValueError` for what is no answer, or one whose end only the connection's end would tell.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        if len(buffer) > MAX_HEAD_BYTES:
            raise ValueError("an answer's head does not end")
        return None
    head = bytes(buffer[:end])
    if not head.startswith(b"HTTP/1."):
        raise ValueError("the server does not speak HTTP/1.1")
    status = int(head[9:12])
    lower = head.lower()
    closes = b"\r\nconnection: close" in lower or head.startswith(b"HTTP/1.0")
    at = lower.find(b"\r\ncontent-length:")
    if at >= 0:
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0])
        if len(buffer) < end + 4 + length:
            return None
        return status, bytes(buffer[end + 4 : end + 4 + length]), closes
    if b"\r\ntransfer-encoding: chunked" in lower:
        body = _chunks(buffer, end + 4)
        return None if body is None else (status, body, closes)
    if status in (204, 304):
        return status, b"", closes
    raise ValueError("an answer does not tell its length")


def _chunks(buffer: bytearray, at: int) -> bytes | None:
    """The body in chunks that begin at ``at`` (RFC 9112, 7.1), if the last one is there."""
    body = bytearray()
    while (end := buffer.find(b"\r\n", at)) >= 0:
        size = int(bytes(buffer[at:end]).split(b";", 1)[0], 16)
        begin = end + 2
        if len(buffer) < begin + size + 2:
            return None
        if size == 0:
            # Trailers, if any, end in an empty line.
            return bytes(body) if buffer[begin : begin + 2] == b"\r\n" or buffer.find(b"\r\n\r\n", begin) >= 0 else None
        body += buffer[begin : begin + size]
        at = begin + size + 2
    return None


def _head(server: Server, path: str, length: int) -> bytes:
    host = f"[{server.host}]" if ":" in server.host else server.host
    given = {"Host": f"{host}:{server.port}", "Content-Type": "application/json", **server.headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return ("\r\n".join(lines) + f"\r\nContent-Length: {length}\r\n\r\n").encode()
