"""Ratios of parts of the server, in this process: JSON against orjson and numpy, the hand-off against an executor.

Each part and its reference are timed in turns, and each checks its result. Must not live here: anything over a socket.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.serving.results import Ratio, of_rounds

ROUNDS = 7
BURST_S = 0.15
REQUESTS = 4000
WIDTH = 64


def _seconds_each(call: Callable[[], Any]) -> float:
    """The time of one call, over a burst of ``BURST_S``."""
    calls, start_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - start_s) < BURST_S:
        call()
        calls += 1
    return elapsed_s / calls


def faster(ours: Callable[[], Any], theirs: Callable[[], Any]) -> Ratio:
    """How many of ours are done in the time of one of theirs."""
    pairs = [(_seconds_each(ours), _seconds_each(theirs)) for _ in range(ROUNDS)]
    told = of_rounds(pairs, inverse=True)
    assert told is not None
    return told


def json_ratios() -> dict[str, Ratio]:
    import orjson

    from stfs import codec

    random = np.random.default_rng(0)
    rows = np.round(random.random((32, 784)), 7)
    text = json.dumps(rows.tolist()).encode()
    small = json.dumps([[1.0, 2.0, 3.0, 4.0]]).encode()
    answer = random.random((32, 784)).astype("float32")

    def decoded(body: bytes) -> Any:
        return codec.Reader(body).tensor(np.dtype("float32"))

    def by_orjson(body: bytes) -> Any:
        return np.array(orjson.loads(body), "float32")

    def encoded() -> bytes:
        return codec.encode(answer)

    for body in (text, small):
        np.testing.assert_array_equal(decoded(body), by_orjson(body))
    np.testing.assert_array_equal(np.array(json.loads(encoded()), "float32"), answer)
    return {
        "JSON decode 32x784, to orjson and numpy": faster(lambda: decoded(text), lambda: by_orjson(text)),
        "JSON decode 1x4, to orjson and numpy": faster(lambda: decoded(small), lambda: by_orjson(small)),
        "JSON encode 32x784 float32, to orjson": faster(
            encoded, lambda: orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        ),
    }


def hand_off_ratio() -> dict[str, Ratio]:
    """64 requests in flight to the model's thread and back, against ``run_in_executor`` for each of them."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told = of_rounds(runner.run(_hand_offs()), inverse=True)
    assert told is not None
    return {f"hand-off, {WIDTH} in flight, to an executor": told}


async def _hand_offs() -> list[tuple[float, float]]:
    from concurrent.futures import ThreadPoolExecutor

    from stfs.batcher.batcher import Batcher
    from stfs.batcher.policy import BatchPolicy

    def model(inputs: Any) -> Any:
        return {"y": inputs["x"]}

    batcher = Batcher(model, BatchPolicy(), name="identity")
    rows = [{"x": np.full((1, 4), number, np.float32)} for number in range(WIDTH)]
    loop = asyncio.get_running_loop()
    pairs = []
    with ThreadPoolExecutor(1) as executor:

        async def ours(each: int) -> None:
            await _closed_loop(rows, each, lambda inputs: batcher.infer(inputs, 1))

        async def theirs(each: int) -> None:
            await _closed_loop(rows, each, lambda inputs: loop.run_in_executor(executor, model, inputs))

        for number in range(ROUNDS + 1):
            times = []
            for run in (ours, theirs):
                start_s = time.perf_counter()
                await run(REQUESTS // WIDTH)
                times.append(time.perf_counter() - start_s)
            if number:  # the first is for warming up
                pairs.append((times[0], times[1]))
    await batcher.close()
    return pairs


async def _closed_loop(rows: list[Any], each: int, send: Callable[[Any], Any]) -> None:
    async def client(number: int) -> None:
        for _ in range(each):
            answer = await send(rows[number])
            if answer["y"][0, 3] != number:
                raise ValueError(f"client {number} got the answer {answer['y']!r}")

    await asyncio.gather(*(client(number) for number in range(len(rows))))
