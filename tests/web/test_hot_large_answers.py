"""Small requests with large answers on the hot path: written on a thread, and nobody waits meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from simple_models import save, write_linear
from waiting import until
from web.rawhttp import request
from web.test_express import Served, answer, served
from web.test_hot_connections import Transport

from stfs.web import off_loop

pytest.importorskip("stfs.web._express", reason="the hot path is not compiled")

WIDE = "/v1/models/wide:predict"
LARGE = request(WIDE, '{"instances": [[1, 2], [3, 4]]}')
SMALL = request("/v1/models/linear:predict", '{"instances": [[1, 2, 3]]}')


def write_wide(folder, columns: int) -> None:
    """Each number of the row [n, 2], the largest and 0.5 in many columns: ``y`` [n, columns]."""
    wide = np.full((1, columns), 0.5, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["top"], axes=[1], keepdims=1),
            helper.make_node("Add", ["top", "wide"], ["y"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", columns])],
        [numpy_helper.from_array(wide, "wide")],
    )
    save(graph, folder)


@pytest.fixture
def models(tmp_path):
    write_linear(tmp_path / "linear" / "1")
    write_wide(tmp_path / "wide" / "1", off_loop.OFF_LOOP_ELEMENTS // 2)
    return tmp_path


class Gate:
    """Stops what is begun on the threads until the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = 0
        self.open = threading.Event()
        start = off_loop.OffLoop.start

        def gated(threads, work, *arguments):
            def wait_and_work(*arguments):
                assert threading.current_thread() is not threading.main_thread()
                self.entered += 1
                assert self.open.wait(60)
                return work(*arguments)

            return start(threads, wait_and_work, *arguments)

        monkeypatch.setattr(off_loop.OffLoop, "start", gated)


def lines(here: Served) -> list[Transport]:
    return [here.connect(), here.general()]


def test_others_are_answered_while_it_is_written_and_what_is_behind_it_waits(models, monkeypatch):
    async def main() -> None:
        async with served(models) as here:
            gate = Gate(monkeypatch)
            for number, line in enumerate(lines(here), 1):
                gate.open.clear()
                line.handler.data_received(LARGE + SMALL)
                await until(lambda: gate.entered == number)  # noqa: B023
                other = here.connect()
                for _ in range(5):
                    assert b"[2.0,4.0,6.0]" in (await answer(other, SMALL)).replace(b" ", b"")
                assert not line.written
                assert here.server.registry._latest["wide"].held == 1
                gate.open.set()
                large, small = await line.bodies(2)
                rows = np.array(json.loads(large)["predictions"], np.float32)
                np.testing.assert_array_equal(rows, np.repeat([[2.5], [4.5]], off_loop.OFF_LOOP_ELEMENTS // 2, 1))
                assert b"[2.0,4.0,6.0]" in small.replace(b" ", b"")
                assert here.server.registry._latest["wide"].held == 0
            assert here.total("ok") == 2 * 2 + 2 * 5

    asyncio.run(main())


def test_the_answer_is_the_same_bytes_wherever_it_is_written(models, monkeypatch):
    async def main() -> None:
        async with served(models, "--compress_over=1K") as here:
            for message in (LARGE, LARGE.replace(b"\r\n\r\n", b"\r\nAccept-Encoding: gzip\r\n\r\n")):
                on_a_thread = [await answer(line, message) for line in lines(here)]
                with monkeypatch.context() as patch:
                    patch.setattr("stfs.web.hot.is_large", lambda outputs: False)
                    on_the_loop = await answer(here.general(), message)
                assert on_a_thread == [on_the_loop] * 2

    asyncio.run(main())


def test_a_client_that_goes_meanwhile_is_counted_once_and_holds_nothing(models, monkeypatch):
    async def main() -> None:
        async with served(models) as here:
            gate = Gate(monkeypatch)
            for number, line in enumerate(lines(here), 1):
                gate.open.clear()
                line.handler.data_received(LARGE)
                await until(lambda: gate.entered == number)  # noqa: B023
                line.handler.connection_lost(None)
                assert here.total("cancelled") == number
                assert here.server.registry._latest["wide"].held == 0
                gate.open.set()
                assert b"200 OK" in await answer(here.connect(), SMALL)
                assert not line.written
            # And in the turn between the thread's end and the answer.
            made = asyncio.get_running_loop().create_future()
            monkeypatch.setattr(off_loop.OffLoop, "start", lambda *work: made)
            line = here.connect()
            line.handler.data_received(LARGE)
            await until(lambda: line.handler._ticket is made)
            made.set_result(b"{}")
            line.handler.connection_lost(None)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not line.written
            assert (here.total("cancelled"), here.total("ok")) == (3, 2)

    asyncio.run(main())


def test_what_fails_on_the_thread_is_told_and_the_connection_goes_on(models, monkeypatch, caplog):
    async def main() -> None:
        async with served(models) as here:
            for line in lines(here):
                with monkeypatch.context() as patch:

                    def start(threads, work, *arguments):
                        failed = asyncio.get_running_loop().create_future()
                        failed.set_exception(ZeroDivisionError("by an encoder"))
                        return failed

                    patch.setattr(off_loop.OffLoop, "start", start)
                    got = await answer(line, LARGE)
                assert b"500 Internal Server Error" in got
                assert b"ZeroDivisionError: by an encoder" in got
                assert b"200 OK" in await answer(line, SMALL)
            assert here.total("internal") == 2

    asyncio.run(main())
    assert "an answer could not be encoded for tfserving" in caplog.text


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({}, False),
        ({"y": np.zeros(off_loop.OFF_LOOP_ELEMENTS - 1)}, False),
        ({"y": np.zeros(off_loop.OFF_LOOP_ELEMENTS)}, True),
        ({"y": np.zeros((2, 40_000)), "z": np.zeros((2, 0))}, True),
        ({"y": np.array([b"x" * 100] * 10, object)}, False),
        ({"y": np.array([b"x" * 1_000_000] * 3, object)}, True),
        ({"y": np.array(["x"] * 20_000, object)}, True),
        ({"y": np.array([None, 1], object)}, False),
        ({"y": np.zeros((0, 5), object)}, False),
    ],
    ids=range(9),
)
def test_what_counts_as_large(outputs, expected):
    assert off_loop.is_large(outputs) is expected
