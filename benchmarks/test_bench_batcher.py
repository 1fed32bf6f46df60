"""What the batcher costs a request, and what it saves a model. Every answer is checked; figures are in ``extra_info``.

Run with ``pytest benchmarks/test_bench_batcher.py --benchmark-only``. Nothing here asserts a speed.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import uvloop

from stfs.batcher.batcher import Batcher
from stfs.batcher.policy import BatchPolicy
from stfs.errors import RequestError
from stfs.signature import Tensors

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


class HandOff:
    """A closed loop of ``width`` requests in flight through the callback API: each answer sends the next request."""

    def __init__(self, batcher: Batcher, loop: asyncio.AbstractEventLoop, requests: int, width: int) -> None:
        self.batcher = batcher
        self.done = loop.create_future()
        self.unsent = requests
        self.unanswered = requests
        self.inputs = [{"x": np.full((1, 4), number, np.float32)} for number in range(width)]
        self.wrong = 0

    async def go(self) -> None:
        for number in range(len(self.inputs)):
            self.send(number)
        await self.done

    def send(self, number: int) -> None:
        self.unsent -= 1
        value = self.inputs[number]["x"]

        def reply(outputs: Tensors | None, error: RequestError | None) -> None:
            if outputs is None or outputs["y"].shape != (1, 4) or outputs["y"][0, 3] != value[0, 0]:
                self.wrong += 1
            self.unanswered -= 1
            if self.unsent > 0:
                self.unsent -= 1
                self.batcher.submit(self.inputs[number], 1, reply)
            elif not self.unanswered:
                self.done.set_result(None)

        self.batcher.submit(self.inputs[number], 1, reply)


@LOOPS
@pytest.mark.parametrize("width", [1, 64])
def test_hand_off(benchmark: Any, new_loop: Callable[[], asyncio.AbstractEventLoop], width: int) -> None:
    """An identity model: all that is measured is queueing, stacking, two thread crossings, cutting, and the check."""
    requests = 320 * width if width > 1 else 1000
    with asyncio.Runner(loop_factory=new_loop) as runner:
        batcher = Batcher(lambda inputs: {"y": inputs["x"]}, BatchPolicy(), name="identity")
        cpu_us: list[float] = []
        wall_us: list[float] = []

        def run() -> None:
            hand_off = HandOff(batcher, runner.get_loop(), requests, width)
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            runner.run(hand_off.go())
            wall_us.append((time.perf_counter() - start_s) / requests * 1e6)
            cpu_us.append((time.process_time() - start_cpu_s) / requests * 1e6)
            assert hand_off.wrong == hand_off.unanswered == 0

        benchmark.pedantic(run, rounds=10, warmup_rounds=1)
        runner.run(batcher.close())
    benchmark.extra_info["us_per_request"] = round(statistics.median(wall_us), 2)
    benchmark.extra_info["cpu_us_per_request"] = round(statistics.median(cpu_us), 2)


def test_forest_batched_against_one_by_one(benchmark: Any) -> None:
    """64 clients, each waiting for its answer before it asks again; a forest of 50 trees on iris."""
    datasets = pytest.importorskip("sklearn.datasets")
    ensemble = pytest.importorskip("sklearn.ensemble")
    flowers, kinds = datasets.load_iris(return_X_y=True)
    forest = ensemble.RandomForestClassifier(50, random_state=0).fit(flowers, kinds)
    want = forest.predict_proba(flowers)

    async def client(batcher: Batcher, number: int, each: int) -> None:
        for step in range(each):
            row = (number * 7 + step) % len(flowers)
            answer = await batcher.infer({"x": flowers[row : row + 1]}, 1)
            np.testing.assert_allclose(answer["p"], want[row : row + 1], rtol=1e-9)

    def seconds_per_request(merge: bool, each: int) -> tuple[float, float]:
        """And the mean rows of a run."""
        rows: list[int] = []
        start_s = time.perf_counter()

        async def main() -> None:
            batcher = Batcher(
                lambda inputs: {"p": forest.predict_proba(inputs["x"])},
                BatchPolicy(),
                name="forest",
                merge=merge,
                observer=lambda record: rows.append(record.rows),
            )
            await asyncio.gather(*(client(batcher, number, each) for number in range(64)))
            await batcher.close()

        asyncio.run(main())
        return (time.perf_counter() - start_s) / (64 * each), statistics.mean(rows)

    batched: list[tuple[float, float]] = []
    benchmark.pedantic(lambda: batched.append(seconds_per_request(True, 20)), rounds=3, warmup_rounds=1)
    alone_s, _ = seconds_per_request(False, 4)
    batched_s = statistics.median(s for s, _ in batched)
    benchmark.extra_info["batched_us_per_request"] = round(batched_s * 1e6, 1)
    benchmark.extra_info["alone_us_per_request"] = round(alone_s * 1e6, 1)
    benchmark.extra_info["rows_per_batch"] = round(batched[-1][1], 1)
    benchmark.extra_info["ratio"] = round(alone_s / batched_s, 1)
