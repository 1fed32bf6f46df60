"""Large bodies on the hot path: answered as on the stock path whatever the cut, and whatever becomes of the client."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from odd_estimators import write_odd
from onnx import TensorProto, helper
from running import Running, running
from simple_models import save, write_linear
from waiting import until, wait_until
from web.fuzz_hot import open_files, resident_bytes
from web.rawhttp import Line, Pair, Reply, cut_at, request

from stfs import config, errors
from stfs.protocols import tfserving
from stfs.server import Server
from stfs.web.hot_large import LARGE_BYTES, LargeRequest

pytest.importorskip("stfs.web._headscan", reason="the hot path is not compiled")

LENGTH = "Inference-Header-Content-Length"
PREDICT = "/v1/models/ends:predict"
GOOD = request(PREDICT, '{"instances": [[1.5, 9, 2.5]]}')
LIMIT_BYTES = 1 << 25


def write_ends(folder: Path) -> Path:
    """``y``, the first and the last value of each row of ``x`` [n, m]: wrong if a byte is out of place."""
    ends = onnx.helper.make_tensor("ends", TensorProto.INT64, [2], [0, -1])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "ends"], ["y"], axis=1)],
        "ends",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [ends],
    )
    return save(graph, folder)


# --- requests of about a size, which the model answers with -2 and 7.5 ------------------------------------------------


def row(size: int) -> str:
    return "[-2," + "1.25," * (size // 5) + "7.5]"


def by_predict(size: int) -> bytes:
    return request(PREDICT, '{"instances": [ROW]}'.replace("ROW", row(size)))


def by_columns(size: int) -> bytes:
    return request(PREDICT, '{"signature_name": "serving_default", "inputs": {"x": [ROW]}}'.replace("ROW", row(size)))


def by_stfs(size: int) -> bytes:
    return request("/", '{"model_name": "ends", "data": {"x": [ROW]}}'.replace("ROW", row(size)))


def by_stfs_named_last(size: int) -> bytes:
    return request("/", '{"data": {"x": [ROW]}, "model_name": "ends"}'.replace("ROW", row(size)))


def by_oip(size: int) -> bytes:
    data = row(size)
    text = '{"id": "a", "inputs": [{"name": "x", "shape": [1, COUNT], "datatype": "FP32", "data": ROW}]}'
    return request("/v2/models/ends/infer", text.replace("COUNT", str(data.count(",") + 1)).replace("ROW", data))


def by_oip_raw(size: int) -> bytes:
    values = np.full((1, size // 4), 1.25, "<f4")
    values[0, [0, -1]] = -2, 7.5
    entry = {"name": "x", "shape": values.shape, "datatype": "FP32", "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [entry]}).encode()
    return request("/v2/models/ends/infer", head + values.tobytes(), f"{LENGTH}: {len(head)}", content_type=None)


FORMS = [by_predict, by_columns, by_stfs, by_stfs_named_last, by_oip, by_oip_raw]


def told(reply: Reply) -> list[float]:
    """The numbers of an answer in any form."""
    (answer,) = [value for key, value in json.loads(reply.body).items() if key in ("predictions", "outputs", "y")]
    return np.ravel(answer[0]["data"] if isinstance(answer[0], dict) else answer).tolist()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_ends(folder / "ends" / "1")
    write_linear(folder / "linear" / "1")
    write_odd(folder / "odd" / "1")
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("ends", "linear", "odd")]
    (folder / "models.json").write_text(json.dumps({"model_config_list": entries}))
    return folder / "models.json"


@contextmanager
def both(models: Path, *flags: str) -> Iterator[tuple[Running, Running, Pair]]:
    """The server with the hot path and the one without."""
    argv = [f"--model_config_file={models}", "--log_level=warning", f"--max_request_bytes={LIMIT_BYTES}", *flags]
    with running(*argv) as hot, running(*argv, "--hot_path=off") as stock:
        pair = Pair(hot.port, stock.port, GOOD)
        try:
            yield hot, stock, pair
        finally:
            pair.close()


@pytest.fixture(scope="module")
def servers(models: Path) -> Iterator[tuple[Running, Running, Pair]]:
    with both(models) as servers:
        yield servers
        for server in servers[:2]:
            assert server.metric("stfs_requests_total", outcome="internal") == 0
            assert server.stop() == 0


@pytest.fixture
def pair(servers: tuple[Running, Running, Pair]) -> Pair:
    return servers[2]


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [LARGE_BYTES, 100_000, 300_000, 3_000_000])
def test_every_dialect_answers_as_on_the_stock_path(pair: Pair, form: Callable[[int], bytes], size: int):
    message = form(size)
    body_at = message.index(b"\r\n\r\n") + 4
    plays = [
        (message, GOOD),
        (message[:body_at], message[body_at:] + GOOD),
        (message[: body_at + 7], message[body_at + 7 :]),
    ]
    for heard in pair.agree(plays, least=1):
        assert set(heard.statuses) == {200}
        assert told(heard.replies[0]) == [-2, 7.5]


@pytest.mark.slow
@pytest.mark.parametrize("form", [by_predict, by_oip_raw])
def test_sixteen_megabytes(pair: Pair, form: Callable[[int], bytes]):
    message = form(16_000_000)
    for heard in pair.agree([(message + GOOD,), (GOOD + message[:-3], message[-3:])], least=2):
        assert [told(reply) for reply in heard.replies] in ([[-2, 7.5], [1.5, 2.5]], [[1.5, 2.5], [-2, 7.5]])


@pytest.mark.slow
def test_cut_anywhere_alone_and_behind_one_another(pair: Pair):
    rng = random.Random(1)
    plays = []
    for form in FORMS:
        message = form(70_000)
        body_at = message.index(b"\r\n\r\n") + 4
        near = [body_at - 3, body_at - 1, body_at, body_at + 1, len(message) - 1]
        plays += [cut_at(message + GOOD, [place]) for place in near]
        plays += [cut_at(message + GOOD, rng.choices(range(len(message)), k=rng.randrange(1, 6))) for _ in range(3)]
        stream = message + by_predict(100_000) + GOOD + message
        plays += [cut_at(stream, rng.choices(range(len(stream)), k=rng.randrange(6))) for _ in range(3)]
        plays.append([stream])
    for some in range(0, len(plays), 12):  # more of them at once would fill the queue
        for play, heard in zip(plays[some : some + 12], pair.agree(plays[some : some + 12], least=2), strict=True):
            assert len(heard.replies) == (4 if len(b"".join(play)) > 200_000 else 2)
            assert set(heard.statuses) == {200}
            assert {tuple(told(reply)) for reply in heard.replies} == {(-2, 7.5), (1.5, 2.5)}


@pytest.mark.slow
def test_dribbled(pair: Pair):
    for form in (by_stfs, by_oip_raw):
        message = form(LARGE_BYTES + 5000)
        heard = pair.agree_on(*cut_at(message + GOOD, range(0, len(message), 977)), least=2)
        assert [told(reply) for reply in heard.replies] == [[-2, 7.5], [1.5, 2.5]]


WRONG = [
    ("not ended", request(PREDICT, '{"instances": [ROW]'.replace("ROW", row(300_000))), 400),
    (
        "a comma too many",
        request("/", '{"model_name": "ends", "data": {"x": [ROW,]}}'.replace("ROW", row(300_000))),
        400,
    ),
    (
        "a wrong element",
        request(PREDICT, '{"instances": [ROW]}'.replace("ROW", row(300_000)).replace("7.5", '"a"')),
        400,
    ),
    ("ragged", request(PREDICT, '{"instances": [ROW, [1]]}'.replace("ROW", row(300_000))), 400),
    ("a wrong width", request("/", '{"model_name": "linear", "data": [ROW]}'.replace("ROW", row(300_000))), 400),
    ("no such model", request("/v1/models/nope:predict", '{"instances": [ROW]}'.replace("ROW", row(300_000))), 404),
    (
        "no such model, named last",
        request("/", '{"data": [ROW], "model_name": "nope"}'.replace("ROW", row(300_000))),
        400,
    ),
    (
        "no such signature",
        request(PREDICT, '{"signature_name": "x", "instances": [ROW]}'.replace("ROW", row(300_000))),
        400,
    ),
    ("no such input", request("/", '{"model_name": "ends", "data": {"q": [ROW]}}'.replace("ROW", row(300_000))), 400),
    ("a model that raises", request("/v1/models/odd:predict", '{"instances": [[-1]]' + " " * 300_000 + "}"), 500),
    ("a wrong length", by_oip_raw(3_000_000).replace(b"Length: 1", b"Length: 9"), 400),
    ("spaces", request(PREDICT, " " * 300_000), 400),
    ("zeros", request(PREDICT, b"\0" * 300_000), 400),
    ("over the limit", request(PREDICT, " " * 100_000, length=f"Content-Length: {LIMIT_BYTES + 1}"), 413),
    ("a wrong content type", request("/", " " * 300_000, content_type="Content-Type: text/plain"), 400),
    ("no page", request("/nope", " " * 300_000), 404),
]


@pytest.mark.slow
@pytest.mark.parametrize(("message", "status"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_wrong_is_told_as_on_the_stock_path(pair: Pair, message: bytes, status: int):
    cut = message.index(b"\r\n\r\n") + 100
    for heard in pair.agree([(message,), (message[:cut], message[cut:])], least=1):
        assert heard.statuses == [status]
    heard = pair.agree_on(GOOD, message[:cut], message[cut:], *([] if status == 413 else [GOOD]), least=2)
    assert heard.statuses == [200, status] + [200] * (status != 413)


@pytest.mark.slow
@pytest.mark.parametrize("headers", [(), ("Accept-Encoding: gzip",)])
def test_large_answers(pair: Pair, headers: tuple[str, ...]):
    """Written beside the loop, and compressed there too where that is wanted."""
    rows = 40_000
    for path, body in (
        ("/v1/models/linear:predict", '{"instances": [%s]}'),
        ("/", '{"model_name": "linear", "data": [%s]}'),
    ):
        message = request(path, body % ",".join(f"[{i},0,1]" for i in range(rows)), *headers)
        first, second = pair.agree_on(message + GOOD, least=2).replies
        assert first.status == 200
        assert told(second) == [1.5, 2.5]
        if headers:
            assert first.header("content-encoding") == "gzip"
        else:
            assert told(first)[-3:] == [2 * (rows - 1), 0, 2]


# --- clients that go away, or take their time -------------------------------------------------------------------------


def outcomes(server: Running) -> tuple[float, float]:
    return (
        server.metric("stfs_requests_total", outcome="cancelled"),
        server.metric("stfs_in_flight_rows") + server.metric("stfs_queued_rows"),
    )


@pytest.mark.slow
def test_clients_that_go_in_the_middle_of_a_body_are_counted_and_cost_nothing(servers):
    message = by_predict(3_000_000)
    for server in servers[:2]:
        files = open_files(server.process.pid)
        before = outcomes(server)[0]
        for cut in (200, 70_000, 1_000_000, len(message) - 1):
            with Line(server.port) as line:
                line.send(message[:cut])
                line.socket.shutdown(socket.SHUT_WR)
                line.until(lambda line: True)
                wait_until(lambda line=line: line.pump() or line.closed)
                assert bytes(line.received) == b""
            with Line(server.port) as line:
                line.send(message[:cut])
                line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda server=server, before=before: outcomes(server) == (before + 8, 0))
        wait_until(lambda server=server, files=files: open_files(server.process.pid) <= files)
        with Line(server.port) as line:
            assert told(line.ask(GOOD)[0]) == [1.5, 2.5]


@pytest.mark.slow
def test_what_is_announced_and_never_sent_costs_no_memory(models: Path):
    with running(f"--model_config_file={models}", "--max_request_bytes=1G", "--log_level=warning") as server:
        beat = Line(server.port)
        for _ in range(100):
            beat.ask(GOOD)
        before = resident_bytes(server.process.pid)
        start = request(PREDICT, '{"instances": [[1', length="Content-Length: 268435456")
        lines = [Line(server.port) for _ in range(40)]
        for line in lines:
            line.send(start)
        for _ in range(3):
            beat.ask(GOOD)
        grown = resident_bytes(server.process.pid) - before
        assert grown < 8 << 20, grown
        for line in [*lines, beat]:
            line.socket.close()


@pytest.mark.slow
def test_a_body_that_comes_too_late(models: Path):
    """It is told so, and what comes of it afterwards is read and dropped; then the connection goes on."""
    message = by_predict(3_000_000)
    with both(models, "--request_timeout_s=2") as (hot, stock, _), Line(hot.port) as first, Line(stock.port) as second:
        for line in (first, second):
            line.send(message[:1_000_000])
        replies = [line.ask(b"")[0] for line in (first, second)]
        assert replies[0] == replies[1]
        assert replies[0].status == 504
        assert b"before the body had arrived" in replies[0].body
        for server, line in ((hot, first), (stock, second)):
            line.received.clear()
            line.send(message[1_000_000:2_000_000])
            assert told(line.ask(message[2_000_000:] + GOOD)[0]) == [1.5, 2.5]
            assert server.metric("stfs_requests_total", outcome="deadline_exceeded") == 1


# --- a version, the server, TLS ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_version_that_comes_in_the_middle_of_a_body_answers_it(tmp_path: Path):
    """The model is held when its body is read, so the old version need not wait for clients."""
    write_odd(tmp_path / "1", version=1000)
    flags = ["--model_poll_interval_s=0.05", "--drain_timeout_s=600", "--log_level=warning"]
    message = request("/v1/models/default:predict", '{"instances": [[4]]' + " " * 400_000 + "}")
    with running(str(tmp_path), *flags) as server, Line(server.port) as line:
        assert json.loads(line.ask(message)[0].body)["predictions"][0] == 1008
        line.received.clear()
        line.send(message[:200_000])
        write_odd(tmp_path / ".new", version=2000)
        (tmp_path / ".new").rename(tmp_path / "2")

        def states() -> dict[str, str]:
            told = server.get("/v1/models/default").json["model_version_status"]
            return {version["version"]: version["state"] for version in told}

        wait_until(lambda: states() in ({"2": "AVAILABLE"}, {"1": "END", "2": "AVAILABLE"}))
        assert json.loads(line.ask(message[200_000:])[0].body)["predictions"][0] == 2008


@pytest.mark.slow
def test_at_the_end_whole_bodies_are_answered_and_others_not_waited_for(tmp_path: Path):
    message = request("/v1/models/default:predict", '{"instances": [[4]]' + " " * 400_000 + "}")
    flags = ["--shutdown_timeout_s=600", "--log_level=warning"]
    with running(str(write_odd(tmp_path, sleep_s=0.5)), *flags) as server:
        with Line(server.port) as whole, Line(server.port) as half:
            half.send(message[:200_000])
            whole.send(message)
            wait_until(lambda: server.metric("stfs_in_flight_rows") > 0)
            server.process.send_signal(signal.SIGTERM)
            whole.until(lambda line: line.heard().replies)
            assert server.process.wait(60) == 0
            assert json.loads(whole.heard().replies[0].body)["predictions"][0] == 8
            half.pump()
            assert bytes(half.received) == b""
        assert "Traceback" not in server.log()


@pytest.mark.slow
def test_tls(models: Path, tmp_path: Path):
    key, pem = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {pem} -days 2 -subj /CN=localhost"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(pem))
    context.check_hostname = False
    flags = [f"--model_config_file={models}", "--enable_ssl=true", f"--secret_pem={pem}", f"--secret_key={key}"]
    with running(*flags, "--log_level=warning") as server:

        async def talk() -> None:
            # Not on two threads: one connection's TLS may not be read and written at once.
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
            writer.write(b"".join(form(70_000) + GOOD + form(3_000_000) for form in FORMS))
            for number in range(3 * len(FORMS)):
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
                assert first == b"HTTP/1.1 200 OK"
                headers = dict(line.lower().partition(b": ")[::2] for line in lines)
                body = await reader.readexactly(int(headers[b"content-length"]))
                assert told(Reply(200, (), body)) == ([1.5, 2.5] if number % 3 == 1 else [-2, 7.5])
            writer.close()
            await writer.wait_closed()

        asyncio.run(asyncio.wait_for(talk(), 60))
        with socket.create_connection(("127.0.0.1", server.port)) as plain, context.wrap_socket(plain) as line:
            line.sendall(by_predict(3_000_000)[:1_000_000])
        wait_until(lambda: "Traceback" in server.log() or server.process.poll() is None)
        assert server.process.poll() is None
        assert "Traceback" not in server.log()


# --- in this process: what happens while a thread reads ---------------------------------------------------------------


class Gate:
    """A decoder that stops on the thread that it is called on, if that is not the loop's, until the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.left = threading.Event()
        self.raises: Exception | None = None
        self._decode = tfserving.decode_predict
        monkeypatch.setattr(tfserving, "decode_predict", self)

    def __call__(self, body, lease, *more):
        if threading.current_thread() is threading.main_thread():
            return self._decode(body, lease, *more)
        self.entered.set()
        try:
            assert self.open.wait(60)
            if self.raises is not None:
                raise self.raises
            return self._decode(body, lease, *more)
        finally:
            self.left.set()


@asynccontextmanager
async def served(models: Path, *flags: str):
    argv = [f"--model_config_file={models}", "--port=0", "--host=127.0.0.1", *flags]
    server = Server(config.from_environment(argv, prog="test", positional=False, defaults={}))
    await server.start()
    try:
        yield server
    finally:
        await server.stop_listening()
        await server.free()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, server: Server) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2])))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            size = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
            return Reply(int(head.split()[1]), (), await self.reader.readexactly(size))

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.mark.parametrize("hot_path", ["auto", "off"])
def test_small_requests_are_answered_while_a_large_one_is_being_read(models: Path, monkeypatch, hot_path: str):
    async def main() -> None:
        async with served(models, f"--hot_path={hot_path}") as server:
            gate = Gate(monkeypatch)
            large, small = await Client.connect(server), await Client.connect(server)
            await large.send(by_predict(300_000))
            await until(gate.entered.is_set)
            for _ in range(10):
                await small.send(GOOD)
                assert told(await small.reply()) == [1.5, 2.5]
            assert not gate.left.is_set()
            gate.open.set()
            assert told(await large.reply()) == [-2, 7.5]
            await large.close()
            await small.close()

    asyncio.run(main())


@pytest.mark.parametrize("hot_path", ["auto", "off"])
def test_a_client_that_goes_while_its_body_is_being_read_holds_no_model(models: Path, monkeypatch, hot_path: str):
    async def main() -> None:
        async with served(models, f"--hot_path={hot_path}") as server:
            gate = Gate(monkeypatch)
            large = await Client.connect(server)
            await large.send(by_predict(300_000) + GOOD)
            await until(gate.entered.is_set)
            large.writer.transport.abort()
            await until(lambda: cancelled(server) == 1)
            gate.open.set()
            await until(gate.left.is_set)
            with server.registry.acquire("ends") as handle:
                assert handle._entry is not None
                assert handle._entry.held == 1, "by this line alone"

    asyncio.run(main())


def cancelled(server: Server) -> int:
    return sum(count for key, count in server.metrics.snapshot().requests.items() if key[3] == "cancelled")


def test_what_nobody_foresaw_is_answered_and_logged(models: Path, monkeypatch, caplog):
    async def main() -> None:
        async with served(models) as server:
            gate = Gate(monkeypatch)
            gate.raises = ZeroDivisionError("by a decoder")
            gate.open.set()
            client = await Client.connect(server)
            await client.send(by_predict(300_000) + GOOD)
            reply = await client.reply()
            assert (reply.status, json.loads(reply.body)) == (500, {"error": "ZeroDivisionError: by a decoder"})
            assert told(await client.reply()) == [1.5, 2.5], "the connection goes on"
            await client.close()

    asyncio.run(main())
    assert "a request of dialect tfserving failed" in caplog.text


def test_the_pipelined_request_waits_for_the_one_that_is_being_read(models: Path, monkeypatch):
    async def main() -> None:
        async with served(models) as server:
            gate = Gate(monkeypatch)
            client, other = await Client.connect(server), await Client.connect(server)
            await client.send(by_predict(300_000) + GOOD * 3)
            await until(gate.entered.is_set)
            await other.send(GOOD)
            await other.reply()
            assert not client.reader._buffer, "answered before its turn"
            gate.open.set()
            assert [told(await client.reply()) for _ in range(4)] == [[-2, 7.5]] + [[1.5, 2.5]] * 3
            await client.close()
            await other.close()

    asyncio.run(main())


# --- the connection by itself -----------------------------------------------------------------------------------------


class Transport(asyncio.Transport):
    """Gives bytes to the protocol that it has, as transports do."""

    def __init__(self, handler: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol = handler
        self.written = bytearray()
        self.closing = False
        handler.connection_made(self)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def feed(self, data: bytes) -> None:
        while data:
            if isinstance(self.protocol, asyncio.BufferedProtocol):
                room = self.protocol.get_buffer(-1)
                assert len(room) > 0
                taken = min(len(room), len(data))
                room[:taken] = data[:taken]
                self.protocol.buffer_updated(taken)
                data = data[taken:]
            else:
                assert isinstance(self.protocol, asyncio.Protocol)
                self.protocol.data_received(data)
                return

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


def test_a_body_that_stops_arriving_is_an_idle_connection_and_one_that_dribbles_is_not(models: Path):
    async def main() -> None:
        async with served(models) as server:
            assert server._runner is not None
            assert server._runner.server is not None
            handler = server._runner.server()
            transport = Transport(handler)
            message = by_predict(100_000)

            def an_hour_passes() -> None:
                handler._keepalive_handle.cancel()
                handler._next_keepalive_close_time = asyncio.get_running_loop().time() - 1

            transport.feed(message[:1000])
            assert isinstance(transport.protocol, LargeRequest)
            await asyncio.sleep(0)  # aiohttp's own loop begins, and waits
            assert handler._waiter is not None
            an_hour_passes()
            transport.feed(message[1000:2000])
            handler._process_keepalive()
            assert not transport.closing
            an_hour_passes()
            handler._process_keepalive()
            assert transport.closing
            await until(lambda: cancelled(server) == 1)
            assert not transport.written

    asyncio.run(main())


def test_a_transport_that_keeps_its_protocol(models: Path, monkeypatch):
    """Then the body is received as a small one is."""

    async def main() -> None:
        async with served(models) as server:
            assert server._runner is not None
            assert server._runner.server is not None
            transport = Transport(server._runner.server())

            def refuse(protocol: asyncio.BaseProtocol) -> None:
                raise NotImplementedError

            monkeypatch.setattr(transport, "set_protocol", refuse)
            message = by_predict(100_000)
            transport.feed(message[:1000])
            transport.feed(message[1000:] + GOOD)
            await until(lambda: transport.written.count(b"HTTP/1.1 200 OK") == 2)

    asyncio.run(main())


def test_more_than_there_is_memory_for_is_left_to_the_stock_path(models: Path, monkeypatch):
    def none_left(size_bytes: int) -> memoryview:
        raise MemoryError

    monkeypatch.setattr("stfs.web.hot_large._room", none_left)

    async def main() -> None:
        async with served(models) as server:
            client = await Client.connect(server)
            await client.send(by_predict(300_000))
            assert told(await client.reply()) == [-2, 7.5]
            await client.close()

    asyncio.run(main())


def test_errors_keep_their_types_across_threads(models: Path):
    """A model that is not there is found out on the loop and told by the decoder's thread."""

    async def main() -> None:
        async with served(models) as server:
            client = await Client.connect(server)
            await client.send(by_predict(300_000).replace(b"/ends:", b"/none:"))
            reply = await client.reply()
            assert reply.status == 404
            assert b"Servable not found" in reply.body
            await client.close()

    asyncio.run(main())
    assert issubclass(errors.ModelNotFound, errors.RequestError)
