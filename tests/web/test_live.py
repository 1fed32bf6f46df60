"""The live stream: its numbers move and agree with ``/metrics``, and nobody who listens can hurt the server."""

import asyncio
import contextlib
import http.client
import itertools
import json
import socket
import time
from types import SimpleNamespace

import pytest
from aiohttp import ClientSession, web
from running import running
from simple_models import write_linear
from waiting import until

from stfs.history import counts_by_model, quantile
from stfs.metrics import SECONDS, Metrics
from stfs.web import live
from stfs.web.key import CONTEXT
from stfs.web.live import LIVE, MAX_BEHIND, MAX_CLIENTS


class Stream:
    """A stream's events, read as they come."""

    def __init__(self, server, query="", headers=None):
        self.connection = server.connect(timeout_s=20)
        self.connection.request("GET", "/live" + query, headers=headers or {})
        self.response = self.connection.getresponse()

    def next(self, wanted=None):
        """The next event's name and data; of that name if ``wanted``."""
        while True:
            event, data = self.response.readline(), self.response.readline()
            if not event:
                raise EOFError
            assert event.startswith(b"event: ")
            assert data.startswith(b"data: ")
            assert self.response.readline() == b"\n"
            name = event[7:].strip().decode()
            if wanted in (None, name):
                return name, json.loads(data[6:])

    def until(self, condition, limit_s=20):
        end = time.monotonic() + limit_s
        while True:
            _, tick = self.next("tick")
            if condition(tick):
                return tick
            assert time.monotonic() < end, tick

    def close(self):
        self.connection.close()


@contextlib.contextmanager
def stream_of(server, query="", headers=None):
    stream = Stream(server, query, headers)
    try:
        yield stream
    finally:
        stream.close()


def histogram(server, name, **labels):
    """A histogram's counts by bucket, as ``/metrics`` tells them."""
    below = [server.metric(f"{name}_bucket", le=str(float(bound)), **labels) for bound in SECONDS]
    below.append(server.metric(f"{name}_bucket", le="+Inf", **labels))
    return [int(b - a) for a, b in zip([0, *below], below, strict=False)]


@pytest.mark.slow
def test_numbers_move_with_traffic_and_agree_with_metrics(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path)) as server, stream_of(server, "?model=default") as stream:
        _, hello = stream.next()
        assert hello["columns"][:5] == ["rate", "errors", "p50", "p95", "p99"]
        before = stream.next("tick")[1]["models"][0]
        assert (before["requests"], before["rate"], before["p50"]) == (0, 0, None)
        assert before["versions"][0] | {"since": 0} == {"version": 1, "state": "AVAILABLE", "error": "", "since": 0}
        for number in range(60):
            server.post("/", {"data": [[1, 2, 3]] * (1 + number % 3)})
        server.post("/", {"data": [[1, 2]]})
        server.post("/", {"model_name": "nope", "data": []})
        tick = stream.until(lambda tick: tick["total"]["requests"] == 62)
        model = tick["models"][0]
        assert (model["requests"], model["errors"]) == (61, 1)
        assert model["requests"] == server.metric("stfs_requests_total", model="default")
        assert model["outcomes"] == {"ok": 60, "invalid_input": 1}
        assert tick["total"]["errors"] == 2
        # All of them lie in the window of now, so that the quantiles are those of the whole histogram.
        counts = histogram(server, "stfs_request_duration_seconds", model="default")
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            assert model[name] == pytest.approx(quantile(SECONDS, counts, share), abs=1e-6)
        assert 61 / 11 < model["rate"] <= 61
        point = dict(zip(hello["columns"], tick["fine"][1], strict=True))
        assert point["reason_idle"] <= server.metric("stfs_batches_total", model="default")
        assert tick["server"]["memory"] == pytest.approx(server.metric("process_resident_memory_bytes"), rel=0.2)
        assert 0 <= tick["server"]["cpu"] < 2 * tick["server"]["cores"]


@pytest.mark.slow
def test_a_new_page_has_the_points_that_were_before_it(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path)) as server:
        with stream_of(server) as first:
            _, hello = first.next()
            first.next("tick")
            for _ in range(5):
                server.post("/", {"data": [[1, 2, 3]]})
            tick = first.until(lambda tick: tick["total"]["requests"] == 5)
            last = first.next("tick")[1]
        with stream_of(server) as second:
            name, again = second.next()
            assert name == "hello"
            assert again["server"] == hello["server"]
            times = again["fine"]["times"]
            assert times == sorted(times)
            assert len(times) >= len(hello["fine"]["times"]) + 2
            rates = [point[again["columns"].index("rate")] for point in again["fine"]["points"]]
            elapsed = [b - a for a, b in itertools.pairwise(times)]
            answered = sum(rate * lasted for rate, lasted in zip(rates[1:], elapsed, strict=True))
            assert answered == pytest.approx(5, rel=0.02)
            assert times[0] <= tick["at"] <= last["at"]
        assert server.get("/live?model=nope").status == 404
        assert "nope" in server.get("/live?model=nope").error


@pytest.mark.slow
def test_streams_end_with_the_server_and_do_not_hold_it_up(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path), "--shutdown_timeout_s=600") as server, stream_of(server) as stream:
        first = stream.next("hello")[1]["server"]
        assert server.stop(limit_s=60) == 0  # and not after the time that a request in flight has
        names = []
        with contextlib.suppress(EOFError, http.client.HTTPException, ConnectionError):
            while len(names) < 60:
                names.append(stream.next()[0])
        assert names[-1] == "bye"
    with running(str(tmp_path)) as server, stream_of(server) as stream:
        assert stream.next("hello")[1]["server"] != first


def context_of(models=("m",)):
    """As much of a running server as the stream looks at; counts and statuses are real."""
    statuses = tuple(
        SimpleNamespace(name=name, problem=None, versions=(), on_disk=(), base_path="/") for name in models
    )
    return SimpleNamespace(
        metrics=Metrics(),
        manager=SimpleNamespace(status=lambda: statuses),
        registry=SimpleNamespace(serving=dict, labels=lambda name: {}),
        ready=lambda: True,
        config=SimpleNamespace(enable_cors=False),
    )


@contextlib.asynccontextmanager
async def served(context, send_buffer_bytes=None):
    """The stream's route alone, in this process. The task that samples is stopped, so that a test says when."""
    app = web.Application()
    app[CONTEXT] = context
    live.add_routes(app)
    app.cleanup_ctx.clear()
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    if send_buffer_bytes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    await web.SockSite(runner, listener).start()
    try:
        yield app[LIVE], listener.getsockname()[1]
    finally:
        await runner.cleanup()


def test_a_client_that_never_reads_is_dropped_and_the_others_go_on():
    async def scenario():
        context = context_of([f"model {number:04}" for number in range(300)])  # a tick of some size
        async with served(context, send_buffer_bytes=4096) as (numbers, port):
            deaf = socket.socket()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            await asyncio.get_running_loop().sock_connect(deaf, ("127.0.0.1", port))
            await asyncio.get_running_loop().sock_sendall(deaf, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            async with ClientSession() as session:
                good = await session.get(f"http://127.0.0.1:{port}/live")
                await until(lambda: len(numbers._clients) == 2)
                for _ in range(400):
                    numbers.tick()
                    while (line := await good.content.readline()) != b"event: tick\n":
                        assert line
                    if len(numbers._clients) == 1:
                        break
                await until(lambda: len(numbers._clients) == 1)
                numbers.tick()
                while (line := await good.content.readline()) != b"event: tick\n":
                    assert line
                good.close()
            deaf.close()
            await until(lambda: not numbers._clients)

    asyncio.run(scenario())


def test_there_are_no_more_streams_than_there_may_be_and_one_that_goes_makes_room():
    async def scenario():
        async with served(context_of()) as (numbers, port), ClientSession() as session:
            address = f"http://127.0.0.1:{port}/live"
            kept = [numbers.join(None, lambda: None) for _ in range(MAX_CLIENTS - 1)]
            last = await session.get(address)
            refused = await session.get(address)
            assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
            assert "close one" in (await refused.json())["error"]
            last.close()
            await until(lambda: len(numbers._clients) == MAX_CLIENTS - 1)
            again = await session.get(address)
            assert again.status == 200
            again.close()
            assert all(client is not None for client in kept)

    asyncio.run(scenario())


def test_what_waits_for_a_client_is_bounded():
    dropped = []
    client = live.Client(None, lambda: dropped.append(True))
    for number in range(MAX_BEHIND + 5):
        client.send(b"%d" % number)
    assert dropped == [True]
    assert client.dropped
    assert asyncio.run(client.next()) == b"0"


def test_a_model_that_goes_while_it_is_watched_is_told_as_gone():
    async def scenario():
        context = context_of(["m"])
        async with served(context) as (numbers, port), ClientSession() as session:
            stream = await session.get(f"http://127.0.0.1:{port}/live?model=m")
            context.manager.status = tuple
            numbers.tick()
            while (line := await stream.content.readline()) != b"event: tick\n":
                assert line
            told = json.loads((await stream.content.readline())[6:])
            assert (told["models"], told["ready"]) == ([], True)
            assert "fine" not in told
            stream.close()

    asyncio.run(scenario())


def test_sampling_goes_on_after_a_sample_that_failed(caplog):
    async def scenario():
        context = context_of()
        status, asked = context.manager.status, []

        def failing():
            asked.append(True)
            if len(asked) < 3:
                raise OSError("no")
            return status()

        context.manager.status = failing
        numbers = live.Live(context)
        task = asyncio.create_task(numbers.run())
        await until(lambda: len(asked) >= 4)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert numbers._history.total is not None

    now = 0.0

    def clock():
        nonlocal now
        now += 0.99  # each look at the clock is nearly a second after the last: nothing is waited for
        return now

    original = live.Live.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live.Live, "__init__", lambda self, context: original(self, context, clock=clock))
        patch.setattr(live, "FINE_S", 0.02)
        asyncio.run(scenario())
    assert caplog.text.count("could not be taken") == 1


def test_quantiles_of_the_stream_are_those_of_the_same_counts():
    context = context_of(["m"])
    clock = iter(range(100))
    numbers = live.Live(context, clock=lambda: float(next(clock)), wall=lambda: 5e8)
    numbers.tick()
    for number in range(200):
        context.metrics.record_request("m", "1", "stfs", "ok", 0.0004 * number)
    numbers.tick()
    counts = counts_by_model(context.metrics.snapshot())["m"]
    now = numbers._history.models["m"].now()
    assert now.p95 == quantile(SECONDS, counts.request_seconds, 0.95)
    assert now.p50 == pytest.approx(0.04, rel=0.3)
