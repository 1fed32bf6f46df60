"""What the express lane costs a request: reading one into a slot, the hand-off to the model, writing the answers.

Run with ``pytest benchmarks/test_bench_express.py --benchmark-only``. Every answer is checked. Nothing here asserts a
speed; sockets are left out, see ``benchmarks/HISTORY.md`` for whole servers.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from simple_models import write_linear

from stfs import config
from stfs.batcher.batcher import Batcher
from stfs.batcher.policy import BatchPolicy
from stfs.server import Server

pytest.importorskip("stfs.web._express", reason="the express lane is not compiled")

BODY = b'{"instances": [[1.0, 2.5, -3.0]]}'
MESSAGE = (
    b"POST /v1/models/default:predict HTTP/1.1\r\nHost: 127.0.0.1:8500\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
ANSWER = b'{"predictions":[[2.0,5.0,-6.0]]}'
WIDTH = 64


class Hold:
    """Nothing that needs letting go."""

    def share(self) -> "Hold":
        return self


def test_hand_off(benchmark: Any) -> None:
    """A closed loop of 64 requests through a lane and an identity model: a slot, two thread crossings, the replies."""
    requests = 64 * 500
    hold, row = Hold(), np.ones((1, 4), np.float32)

    async def go() -> None:
        loop = asyncio.get_running_loop()
        batcher = Batcher(lambda inputs: {"y": inputs["x"]}, BatchPolicy(), name="m", loop=loop)
        lane = batcher.lane("x", np.dtype(np.float32), (4,))
        assert lane is not None
        done = loop.create_future()
        left = requests

        def reply(group: Any, outputs: Any, error: Any, outcomes: Any) -> None:
            nonlocal left
            assert outputs["y"].shape == (group.requests, 4)
            left -= group.requests
            for _ in range(min(group.requests, left)):
                lane.submit(row, hold, hold, reply)
            if left <= 0 and not done.done():
                done.set_result(None)

        for _ in range(WIDTH):
            lane.submit(row, hold, hold, reply)
        await done
        await batcher.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(go())

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    began_s = time.process_time()
    run()
    benchmark.extra_info["cpu_us_per_request"] = (time.process_time() - began_s) / requests * 1e6


class Sink(asyncio.Transport):
    """Counts and checks what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert bytes(data).endswith(ANSWER)
        self.answers += 1

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize("step", ["in", "out"])
def test_in_and_out(benchmark: Any, tmp_path: Path, step: str) -> None:
    """64 connections send one request each; ``in``: until all lie in the slot, ``out``: until all are answered."""
    write_linear(tmp_path)
    argv = [f"--model_base_path={tmp_path}", "--port=0", "--host=127.0.0.1"]

    async def go() -> None:
        loop = asyncio.get_running_loop()
        server = Server(config.from_environment(argv, prog="bench", positional=False, defaults={}))
        await server.start()
        assert server._runner is not None
        assert server._runner.server is not None
        sinks = [Sink() for _ in range(WIDTH)]
        handlers = [server._runner.server() for _ in sinks]
        for handler, sink in zip(handlers, sinks, strict=True):
            handler.connection_made(sink)
        await asyncio.sleep(0)
        with server.registry.acquire("default") as handle:
            (batcher,) = handle.model._batchers.values()
        jobs: list[Callable[[], None]] = []
        finished: list[Callable[[], None]] = []
        batcher.dispatcher.start = jobs.append

        class Later:
            """The loop, but for what a run sends home: the benchmark calls that itself."""

            def call_soon_threadsafe(self, call: Callable[..., None], *args: Any) -> None:
                finished.append(lambda: call(*args))

            def __getattr__(self, name: str) -> Any:
                return getattr(loop, name)

        batcher.home.given = Later()

        def arrive() -> None:
            for handler in handlers:
                handler.data_received(MESSAGE)

        def run() -> None:
            batcher.dispatcher.woken = False
            batcher.dispatcher.step()
            jobs.pop()()

        def answer() -> None:
            finished.pop()()

        def before_in() -> None:
            if any(handler._ticket is not None for handler in handlers):
                run()
                answer()

        def before_out() -> None:
            arrive()
            run()

        count = 2000
        timed, before = (arrive, before_in) if step == "in" else (answer, before_out)
        benchmark.pedantic(timed, setup=before, rounds=count, warmup_rounds=100)
        before_in()
        assert {sink.answers for sink in sinks} == {count + 100}
        batcher.home.given, batcher.dispatcher.start = loop, None
        for handler in handlers:
            handler.force_close()
        await server.stop_listening()
        await server.free()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())
    benchmark.extra_info["us_per_request"] = benchmark.stats.stats.median / WIDTH * 1e6
