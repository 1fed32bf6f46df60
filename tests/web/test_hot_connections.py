"""Connections of the hot path that misbehave, or meet the end of something: a client, a version, the server."""

from __future__ import annotations

import asyncio
import json
import select
import shutil
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from odd_estimators import write_odd
from running import Running, running
from simple_models import write_linear
from waiting import wait_until
from web.fuzz_hot import open_files, resident_bytes
from web.rawhttp import Line, Side, get, request, understand

from stfs import config
from stfs.server import Server
from stfs.web import hot

pytest.importorskip("stfs.web._headscan", reason="the hot path is not compiled")


def ask(value: float, rows: int = 1) -> bytes:
    return request("/", json.dumps({"data": [[value, 0, 0]] * rows}))


def first_of(body: bytes) -> float:
    """The first value of the first row."""
    (rows,) = json.loads(body).values()
    return rows[0][0] if isinstance(rows[0], list) else rows[0]


# --- the handler by itself: what real sockets cannot be made to do on demand -----------------------------------------


class Transport(asyncio.Transport):
    """Keeps what is written; reads and writes only when the test says so."""

    def __init__(self, handler: hot.HotHandler) -> None:
        super().__init__()
        self.handler = handler
        self.written = bytearray()
        self.reading = True
        self.closing = False
        self.news = asyncio.Event()
        handler.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        self.news.set()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.handler.connection_lost, None)

    async def bodies(self, count: int) -> list[bytes]:
        """The bodies of all answers, once there are that many."""
        while self.written.count(b"HTTP/1.1 ") < count:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 60)
        return [reply.body for reply in understand(bytes(self.written), False).replies]

    async def answers(self, count: int) -> list[float]:
        """The first values of all answers, once there are that many."""
        return [first_of(body) for body in await self.bodies(count)]


@asynccontextmanager
async def handled(folder, *flags):
    """A real server in this process, and a connection of it that is not on any socket."""
    write_linear(folder)
    argv = [f"--model_base_path={folder}", "--port=0", "--host=127.0.0.1", *flags]
    server = Server(config.from_environment(argv, prog="test", positional=False, defaults={}))
    await server.start()
    try:
        assert server._runner is not None
        assert server._runner.server is not None
        yield Transport(server._runner.server())
    finally:
        await server.stop_listening()
        await server.free()


def test_the_first_request_is_hot_before_aiohttps_own_loop_has_begun(tmp_path):
    async def main() -> None:
        async with handled(tmp_path) as transport:
            handler = transport.handler
            assert handler._waiter is None
            handler.data_received(ask(1))
            assert handler._ticket is not None
            assert await transport.answers(1) == [2]
            assert handler._request_count == 0, "it never reached the stock path"

    asyncio.run(main())


def test_reading_goes_on_after_a_large_request_behind_a_small_one(tmp_path):
    """More is held than may be held ahead, and it is one request that is still incomplete when its turn comes."""

    async def main() -> None:
        async with handled(tmp_path) as transport:
            large = ask(5, rows=20_000)
            assert len(large) > 3 * hot.HELD_LIMIT_BYTES
            transport.handler.data_received(ask(1))
            transport.handler.data_received(large[: 2 * hot.HELD_LIMIT_BYTES])
            assert not transport.reading
            assert await transport.answers(1) == [2]
            assert transport.reading, "the rest of the large request is not read"
            transport.handler.data_received(large[2 * hot.HELD_LIMIT_BYTES :])
            assert await transport.answers(2) == [2, 10]

    asyncio.run(main())


def test_what_is_sent_ahead_is_bounded_and_answered_in_order_as_the_answers_are_read(tmp_path):
    async def main() -> None:
        async with handled(tmp_path) as transport:
            handler = transport.handler
            handler.data_received(ask(0))
            handler.pause_writing()  # the client does not read
            sent = 1
            while transport.reading:
                handler.data_received(ask(sent))
                sent += 1
            assert len(handler._held) < hot.HELD_LIMIT_BYTES + 1000
            assert await transport.answers(1) == [0]
            assert not transport.reading
            handler.resume_writing()
            assert await transport.answers(sent) == [2.0 * i for i in range(sent)]
            assert transport.reading
            assert not handler._held

    asyncio.run(main())


def test_nothing_is_begun_while_answers_are_not_read(tmp_path):
    async def main() -> None:
        async with handled(tmp_path) as transport:
            handler = transport.handler
            handler.pause_writing()
            sent = 0
            while transport.reading:
                handler.data_received(ask(sent))
                handler.data_received(request("/", "["))
                sent += 1
                assert handler._ticket is None
            assert len(handler._held) < hot.HELD_LIMIT_BYTES + 1000
            assert not transport.written
            handler.resume_writing()
            bodies = await transport.bodies(2 * sent)
            assert [first_of(body) for body in bodies[::2]] == [2.0 * i for i in range(sent)]
            assert all(b"malformed" in body for body in bodies[1::2])
            assert transport.reading

    asyncio.run(main())


def test_the_keep_alive_timer_closes_idle_connections_only(tmp_path):
    """An hour passes, as far as the handler can tell, whenever its next closing time lies in the past."""

    async def main() -> None:
        async with handled(tmp_path) as transport:
            handler = transport.handler

            def an_hour_passes() -> None:
                handler._keepalive_handle.cancel()
                handler._next_keepalive_close_time = asyncio.get_running_loop().time() - 1
                handler._process_keepalive()

            handler.data_received(ask(1))
            await asyncio.sleep(0)  # aiohttp's own loop begins, and waits
            assert handler._waiter is not None
            assert handler._ticket is not None
            an_hour_passes()
            assert not transport.closing, "closed with a request in flight"
            assert await transport.answers(1) == [2]
            handler.data_received(ask(3)[:50])
            handler.data_received(ask(3)[50:])
            assert await transport.answers(2) == [2, 6]
            an_hour_passes()
            assert transport.closing

    asyncio.run(main())


def test_a_stock_request_behind_a_hot_one_waits_for_it(tmp_path):
    async def main() -> None:
        async with handled(tmp_path) as transport:
            transport.handler.data_received(ask(1) + get("/health") + ask(2))
            assert transport.handler._request_count == 0
            assert await transport.bodies(3) == [b'{"y":[[2.0,0.0,0.0]]}', b"healthy", b'{"y":[[4.0,0.0,0.0]]}']

    asyncio.run(main())


# --- real clients ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("linear")
    write_linear(folder)
    with running(str(folder), "--log_level=warning") as server:
        yield server


@contextmanager
def beating(server: Running) -> Iterator[Side]:
    side = Side(server.port, ask(7))
    try:
        yield side
    finally:
        side.close()


@pytest.mark.slow
def test_a_client_that_never_reads_costs_bounded_memory_and_gets_everything_once_it_reads(server):
    count, rows = 10_000, 200
    with beating(server) as others, Line(server.port, receive_buffer_bytes=8192) as client:
        for _ in range(100):
            others.beat()
        before = resident_bytes(server.process.pid)
        stream = memoryview(b"".join(ask(i, rows) for i in range(count)))
        sent = refused = 0
        while refused < 200:  # beats in a row in which the server took nothing more
            assert sent < len(stream), "the server read on without its answers being read"
            try:
                sent += client.socket.send(stream[sent : sent + (1 << 16)])
                refused = 0
            except BlockingIOError:
                others.beat()
                refused += 1
        grown = resident_bytes(server.process.pid) - before
        assert grown < 16 << 20, grown
        # It begins to read.
        bodies = 0
        received = bytearray()
        while bodies < count:
            readable, writable, _ = select.select(
                [client.socket], [client.socket] if sent < len(stream) else [], [], 60
            )
            assert readable or writable
            if writable:
                sent += client.socket.send(stream[sent : sent + (1 << 16)])
            if readable:
                data = client.socket.recv(1 << 18)
                assert data
                received += data
                *whole, rest = bytes(received).split(b"HTTP/1.1 200 OK\r\n")
                for answer in whole:
                    if answer:
                        body = answer.partition(b"\r\n\r\n")[2]
                        assert first_of(body) == 2.0 * bodies
                        bodies += 1
                received = bytearray(b"HTTP/1.1 200 OK\r\n" if whole else b"") + rest
                if bodies == count - 1 and rest.endswith(b"]]}"):
                    assert first_of(rest.partition(b"\r\n\r\n")[2]) == 2.0 * bodies
                    bodies += 1
        others.beat()
        assert resident_bytes(server.process.pid) - before < 16 << 20


def test_a_slow_sender_holds_up_nobody(server):
    message = ask(21)
    body_at = message.index(b"\r\n\r\n") + 4
    with beating(server) as others, Line(server.port) as slow:
        for piece in (message[:10], message[10:body_at], message[body_at : body_at + 5], message[body_at + 5 : -1]):
            slow.send(piece)
            for _ in range(20):
                others.beat()
            assert not slow.pump()
        (reply,) = slow.ask(message[-1:])
        assert first_of(reply.body) == 42


def test_half_closed_connections_get_a_prefix_of_their_answers_and_cost_nothing(server):
    """aiohttp closes when the client has closed its half; what was answered by then is right and in order."""
    with beating(server) as others:
        others.beat()
        before = open_files(server.process.pid)
        for cut in (1, 30, len(ask(1)) - 1, len(ask(1)), 10 * len(ask(1)), 10 * len(ask(1)) + 40):
            with Line(server.port) as line:
                line.send(b"".join(ask(i) for i in range(11))[:cut])
                line.socket.shutdown(socket.SHUT_WR)
                while not line.closed:
                    readable, _, _ = select.select([line.socket], [], [], 60)
                    assert readable, "the server does not close"
                    line.pump()
                heard = line.heard()
            assert [first_of(reply.body) for reply in heard.replies] == [2.0 * i for i in range(len(heard.replies))]
            assert heard.rest == b""
        wait_until(lambda: open_files(server.process.pid) <= before)
        wait_until(lambda: server.metric("stfs_in_flight_rows") == server.metric("stfs_queued_rows") == 0)


@pytest.mark.slow
def test_a_version_swap_completes_after_clients_were_reset_in_the_middle_of_a_batch(tmp_path):
    """Half of the clients of a batch, and of those that queue behind it, go away; the others get their answers, and
    nothing holds the version any more."""
    write_odd(tmp_path / "1", sleep_s=0.3, version=1000)
    flags = ["--max_batch_size=4", "--model_poll_interval_s=0.05", "--drain_timeout_s=600", "--log_level=warning"]
    with running(str(tmp_path), *flags) as server:
        lines = [Line(server.port) for _ in range(12)]
        for i, line in enumerate(lines):
            line.send(request("/", json.dumps({"data": [[i + 1]]})))
        wait_until(lambda: server.metric("stfs_in_flight_rows") + server.metric("stfs_queued_rows") == 12)
        for line in lines[::2]:
            line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.socket.close()
        for i, line in enumerate(lines):
            if i % 2:
                line.until(lambda line: line.heard().replies)
                assert first_of(line.heard().replies[0].body) == 1000 + 2 * (i + 1)
        write_odd(tmp_path / ".new", version=2000)
        (tmp_path / ".new").rename(tmp_path / "2")

        def states() -> dict[str, str]:
            return {v["version"]: v["state"] for v in server.get("/v1/models/default").json["model_version_status"]}

        wait_until(lambda: states() in ({"2": "AVAILABLE"}, {"1": "END", "2": "AVAILABLE"}))
        for i, line in enumerate(lines):
            if i % 2:
                (reply,) = line.ask(request("/", json.dumps({"data": [[i]]})))
                assert first_of(reply.body) == 2000 + 2 * i
                line.socket.close()
        cancelled = server.metric("stfs_requests_total", outcome="cancelled")
        assert cancelled + server.metric("stfs_requests_total", outcome="ok") == 12 + 6
        assert cancelled == 6


@pytest.mark.slow
def test_versions_swapped_while_hot_requests_fly(tmp_path):
    """Sixteen kept connections, each with one request in flight all the time; every answer is of a published version,
    and none of one that had been replaced before its request was sent."""
    swaps = 5
    write_odd(tmp_path / "1", version=1000)
    replaced: dict[int, float] = {}
    placed = {1}
    done = threading.Event()
    wrong: list[str] = []
    counts = [0] * 16

    def client(number: int, port: int) -> None:
        with Line(port) as line:
            message = request("/", json.dumps({"data": [[number]] * (number % 3 + 1)}))
            while not done.is_set():
                sent_s = time.monotonic()
                (reply,) = line.ask(message)
                rows = json.loads(reply.body).get("predict", [])
                versions = {(row - 2 * number) / 1000 for row in rows}
                if reply.status != 200 or len(rows) != number % 3 + 1 or len(versions) != 1 or not versions <= placed:
                    wrong.append(f"{reply}")
                elif replaced.get(int(versions.pop()), float("inf")) < sent_s:
                    wrong.append(f"late {reply}")
                counts[number] += 1

    with running(str(tmp_path), "--model_poll_interval_s=0.02", "--log_level=warning") as server:
        threads = [threading.Thread(target=client, args=(number, server.port)) for number in range(16)]
        for thread in threads:
            thread.start()
        try:
            for version in range(2, swaps + 2):
                placed.add(version)
                write_odd(tmp_path / ".new", version=1000 * version)
                (tmp_path / ".new").rename(tmp_path / str(version))
                wait_until(lambda v=version: server.get("/v1/models").json[0]["model_version_list"] == [v] or wrong)
                replaced[version - 1] = time.monotonic()
                shutil.rmtree(tmp_path / str(version - 1))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert wrong == []
        assert min(counts) > 0
        assert server.metric("stfs_requests_total", outcome="ok") == sum(counts)


@pytest.mark.slow
def test_at_the_end_what_is_in_flight_is_answered_and_what_has_not_arrived_is_not_waited_for(tmp_path):
    """SIGTERM with requests in flight and queued on the hot path, pipelined ones behind them, and half a request."""
    message = request("/", json.dumps({"data": [[4]]}))
    flags = ["--max_batch_size=1", "--shutdown_timeout_s=600", "--log_level=info"]
    with running(str(write_odd(tmp_path, sleep_s=0.4)), *flags) as server:
        lines = [Line(server.port) for _ in range(4)]
        halves = [Line(server.port) for _ in range(2)]
        for line in lines[:3]:
            line.send(message)
        lines[3].send(message + message)
        halves[0].send(message[:-3])
        halves[1].send(message[:20])
        wait_until(lambda: server.metric("stfs_in_flight_rows") + server.metric("stfs_queued_rows") >= 4)
        assert server.stop(limit_s=60) == 0
        for line in lines:
            line.until(lambda line: line.heard().replies)
            assert [first_of(reply.body) for reply in line.heard().replies] == [8]
            line.socket.close()
        for line in halves:
            line.pump()
            assert bytes(line.received) == b""
            line.socket.close()
