"""An open-loop load generator: requests leave when they are due, whether or not earlier ones have been answered.

A process of its own (``python open_loop.py``, one JSON object on standard input, one on standard output). Latency
counts from the moment a request was meant to leave, so that neither a slow server nor this process being late hides
waiting, and ends when its answer has been read, not when its turn to be looked at has come: answers come by the batch.
A connection for each request in flight, kept for the next. With ``retry``, a 503 is asked again once, after what its
``Retry-After`` says. Loopback only; bounded by its list of times.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np

Answer = tuple[int, bytes, bytes, float]


class Connection(asyncio.Protocol):
    """One request at a time; ``answer`` is told status, head, body and when the last of them was read."""

    def __init__(self) -> None:
        self.buffer = b""
        self.is_open = True
        self.answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or self.answer is None:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
        if len(body) >= length:
            self.buffer = b""
            self.answer.set_result((int(head[9:12]), head, body, time.perf_counter()))

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError(f"the server closed the connection: {error}"))


def right(answer: Any, expected: Any) -> bool:
    """The same numbers but for the last digits, which depend on who shares the batch."""
    got, wanted = np.asarray(answer["predictions"]), np.asarray(expected["predictions"])
    return got.shape == wanted.shape and bool(np.allclose(got, wanted, rtol=1e-5))


async def load(job: dict[str, Any]) -> dict[str, Any]:
    """``times_s``: when requests leave, from the start. Each answer is ``[time, latency, status, tries, right, last]``.

    ``latency`` counts from the time at which the request was meant to leave, ``last`` from its last try. With
    ``numbered`` the first value of each request's first row is its number, as those of different clients differ, and
    the first value of what is expected is larger by that.
    """
    head = f"POST {job['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"

    def request_of(number: int) -> bytes:
        if job.get("numbered"):
            job["body"]["instances"][0][0] = float(number)
        body = json.dumps(job["body"]).encode()
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def expected_of(number: int) -> Any:
        if not job.get("numbered"):
            return job["expected"]
        first, *rest = job["expected"]["predictions"]
        return {"predictions": [first + number, *rest]}

    loop = asyncio.get_running_loop()
    idle: list[Connection] = []
    answers: list[tuple[int, float, float, int, int, bytes, float]] = []

    async def ask(request: bytes) -> Answer:
        while idle:
            connection = idle.pop()
            if connection.is_open:
                try:
                    answer = await connection.ask(request)
                except ConnectionError:
                    continue  # closed for being idle, while this was on its way
                idle.append(connection)
                return answer
        _, connection = await loop.create_connection(Connection, "127.0.0.1", job["port"])
        answer = await connection.ask(request)
        idle.append(connection)
        return answer

    async def one(number: int, due: float) -> None:
        request = request_of(number)
        asked_s = began + due
        status, told, answer, read_s = await ask(request)
        tries = 1
        if status == 503 and job.get("retry"):
            await asyncio.sleep(float(told.lower().partition(b"retry-after: ")[2].split(b"\r\n", 1)[0]))
            asked_s = time.perf_counter()
            status, told, answer, read_s = await ask(request)
            tries = 2
        answers.append((number, due, read_s - began - due, status, tries, answer, read_s - asked_s))

    for _ in range(job.get("connections", 0)):
        idle.append((await loop.create_connection(Connection, "127.0.0.1", job["port"]))[1])
    began = time.perf_counter()
    tasks = []
    for number, due in enumerate(job["times_s"]):
        await asyncio.sleep(max(began + due - time.perf_counter(), 0.0))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - began
    # Looked at once the load is over, or those that came in one batch would wait for each other's turn.
    told = [
        (due, latency, status, tries, status != 200 or right(json.loads(answer), expected_of(number)), last)
        for number, due, latency, status, tries, answer, last in answers
    ]
    return {"answers": told, "seconds": seconds}


if __name__ == "__main__":
    import uvloop

    print(json.dumps(uvloop.run(load(json.load(sys.stdin)))))
