"""A closed-loop load generator: some connections, each with one request in flight, every answer checked.

Run as a process of its own (``python load.py``, one JSON object on standard input, one on standard output), so that the
server's core is not shared with it. Loopback only; bounded by its number of requests.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvloop

OK = b"HTTP/1.1 200 "


@dataclass(frozen=True)
class Case:
    """A request and what its answer must say: the same bytes as before, or else the same numbers within 1e-5."""

    request: bytes
    expected: Any


class Client(asyncio.Protocol):
    """One connection: sends a case, checks the answer, sends the next."""

    def __init__(
        self, cases: list[Case], first: int, left: list[int], done: asyncio.Future[None], seen: dict[int, bytes]
    ) -> None:
        self.cases = cases
        self.at = first
        self.left = left
        self.done = done
        self.buffer = b""
        self.wrong = 0
        self.latencies: list[float] = []
        self.seen = seen  # by case: the head's end and the body, once found right

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        if self.left[0] <= 0:
            self.transport.close()
            return
        self.left[0] -= 1
        self.at = (self.at + 1) % len(self.cases)
        self.sent = time.perf_counter()
        self.transport.write(self.cases[self.at].request)

    def data_received(self, data: bytes) -> None:
        # Nearly every answer comes in one piece and says what the same request was told before.
        known = self.seen.get(self.at)
        if known is not None and not self.buffer and data.endswith(known) and data.startswith(OK):
            self.latencies.append(time.perf_counter() - self.sent)
            self.send()
            return
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self.latencies.append(time.perf_counter() - self.sent)
        self.buffer = b""
        if head.startswith(OK) and equal(json.loads(body), self.cases[self.at].expected):
            self.seen[self.at] = b"\r\n\r\n" + body
        else:
            self.wrong += 1
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


def equal(got: Any, expected: Any) -> bool:
    """The same structure, numbers within 1e-5 (a batch may round the last float32 digit differently)."""
    if isinstance(expected, dict):
        return isinstance(got, dict) and got.keys() == expected.keys() and all(equal(got[k], expected[k]) for k in got)
    return np.shape(got) == np.shape(expected) and bool(np.allclose(got, expected, rtol=1e-5, atol=1e-5))


async def run(job: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    cases = []
    for body, expected in zip(job["bodies"], job["expected"], strict=True):
        payload = body.encode()
        head = (
            f"POST {job['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n"
        )
        cases.append(Case(head.encode() + payload, expected))
    left = [job["requests"]]
    clients = []
    ends = []
    seen: dict[int, bytes] = {}
    started = time.perf_counter()
    for number in range(job["connections"]):
        end = loop.create_future()
        client = Client(cases, number, left, end, seen)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", job["port"])
        clients.append(client)
        ends.append(end)
    await asyncio.gather(*ends)
    seconds = time.perf_counter() - started
    latencies = np.concatenate([client.latencies for client in clients])
    return {
        "seconds": seconds,
        "answers": len(latencies),
        "wrong": sum(client.wrong for client in clients),
        "p50_ms": float(np.quantile(latencies, 0.5) * 1e3),
        "p99_ms": float(np.quantile(latencies, 0.99) * 1e3),
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(run(json.load(sys.stdin)))))
