"""The batcher on real event loops, both kinds, with its real thread."""

import asyncio
import gc
import random
import threading
import weakref

import numpy as np
import pytest
import uvloop

from stfs.batcher.batcher import Batcher
from stfs.batcher.policy import BatchPolicy
from stfs.errors import DeadlineExceeded, ModelFailed, Unavailable

POISON = -1.0


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request):
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


def double(inputs):
    if (inputs["x"] == POISON).any():
        raise ValueError("poison")
    return {"y": inputs["x"] * 2}


def rows(*values):
    return {"x": np.array(values, np.float64)}


def threads_of(name):
    return [t for t in threading.enumerate() if t.name == f"stfs {name}"]


class Gate:
    """A model that runs only while its gate is open, and tells when it has begun."""

    def __init__(self):
        self.begun = threading.Event()
        self.open = threading.Event()
        self.runs = []

    def __call__(self, inputs):
        self.begun.set()
        assert self.open.wait(30)
        self.runs.append(inputs["x"].tolist())
        return double(inputs)

    async def entered(self):
        await asyncio.get_running_loop().run_in_executor(None, self.begun.wait, 30)


def test_answers_on_the_loops_thread_from_a_thread_of_its_own(runner):
    threads = []

    def run(inputs):
        threads.append(threading.current_thread())
        return double(inputs)

    async def main():
        batcher = Batcher(run, BatchPolicy(), name="own/1")
        assert threads_of("own/1") == [], "no thread before it is needed"
        done = asyncio.get_running_loop().create_future()
        batcher.submit(rows(1.0, 2.0), 2, lambda o, e: done.set_result((o, e, threading.current_thread())))
        outputs, error, replied_on = await done
        assert outputs["y"].tolist() == [2, 4]
        assert error is None
        assert replied_on is threading.current_thread()
        assert (await batcher.infer(rows(3.0), 1))["y"].tolist() == [6]
        await batcher.close()

    runner.run(main())
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon
    assert not threads[0].is_alive()


def test_infer_raises_what_it_was_told(runner):
    async def main():
        batcher = Batcher(double, BatchPolicy(), name="raises/1")
        good, bad = await asyncio.gather(
            batcher.infer(rows(1.0), 1), batcher.infer(rows(POISON), 1), return_exceptions=True
        )
        assert good["y"].tolist() == [2]
        assert type(bad) is ModelFailed
        await batcher.close()
        with pytest.raises(Unavailable):
            await batcher.infer(rows(1.0), 1)

    runner.run(main())


def test_a_cancelled_task_takes_its_request_back(runner):
    gate = Gate()

    async def main():
        batcher = Batcher(gate, BatchPolicy(), name="cancel/1")
        in_flight = asyncio.create_task(batcher.infer(rows(1.0), 1))
        await gate.entered()
        queued = asyncio.create_task(batcher.infer(rows(2.0), 1))
        waits = asyncio.create_task(batcher.infer(rows(3.0), 1))
        await asyncio.sleep(0)
        assert batcher.queued_rows == 2
        queued.cancel()
        in_flight.cancel()
        await asyncio.wait([queued, in_flight])
        assert queued.cancelled()
        assert in_flight.cancelled()
        assert batcher.queued_rows == 1
        gate.open.set()
        assert (await waits)["y"].tolist() == [6]
        await batcher.close()

    runner.run(main())
    assert gate.runs == [[1], [3]]


def test_deadlines_are_kept_while_the_model_is_stuck(runner):
    gate = Gate()

    async def main():
        batcher = Batcher(gate, BatchPolicy(), name="stuck/1")
        now_s = batcher.clock()
        in_flight = asyncio.create_task(batcher.infer(rows(1.0), 1, now_s + 0.25))
        await gate.entered()
        queued = asyncio.create_task(batcher.infer(rows(2.0), 1, now_s + 0.2))
        for late in (queued, in_flight):
            with pytest.raises(DeadlineExceeded):
                await late
        assert not gate.open.is_set()
        gate.open.set()
        assert (await batcher.infer(rows(3.0), 1))["y"].tolist() == [6]
        await batcher.close()

    runner.run(main())
    assert gate.runs == [[1], [3]]


def test_waiting_for_company_on_a_real_timer(runner):
    async def main():
        records = []
        policy = BatchPolicy(batch_timeout_s=0.02)
        batcher = Batcher(double, policy, name="company/1", observer=records.append)
        assert (await batcher.infer(rows(1.0), 1))["y"].tolist() == [2]
        await batcher.close()
        assert [r.reason for r in records] == ["timeout"]
        assert records[0].queue_wait_s >= 0.02 - 1e-6

    runner.run(main())


def test_the_thread_outlives_what_ends_processes(runner):
    ends = iter([SystemExit(1), KeyboardInterrupt(), MemoryError()])

    def run(inputs):
        raise next(ends)

    async def main():
        batcher = Batcher(run, BatchPolicy(), name="ends/1")
        for _ in range(3):
            with pytest.raises(ModelFailed):
                await batcher.infer(rows(1.0), 1)
        (thread,) = threads_of("ends/1")
        assert thread.is_alive()
        await batcher.close()

    runner.run(main())


def test_closing_answers_all_and_does_not_hold_the_loop(runner):
    gate = Gate()

    async def main():
        batcher = Batcher(gate, BatchPolicy(max_batch_size=2), name="close/1")
        asked = [asyncio.create_task(batcher.infer(rows(float(i)), 1)) for i in range(5)]
        await gate.entered()
        impatient = asyncio.create_task(batcher.close())
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        assert not closing.done()
        gate.open.set()
        await closing
        assert [task.result()["y"].tolist() for task in asked] == [[2.0 * i] for i in range(5)]
        await batcher.close()

    runner.run(main())
    assert threads_of("close/1") == []


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_closed_during_a_run_ends_the_thread_quietly(new_loop):
    """An exception on the thread would fail this test: pytest reports it as a warning, and warnings are errors."""
    gate = Gate()
    loop = new_loop()
    batcher = Batcher(gate, BatchPolicy(), name="gone/1", loop=loop)

    async def main():
        batcher.submit(rows(1.0), 1, lambda o, e: None)
        await gate.entered()

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    (thread,) = threads_of("gone/1")
    gate.open.set()
    thread.join(30)
    assert not thread.is_alive()
    assert gate.runs == [[1]]


def test_a_forgotten_batcher_takes_its_thread_along(runner):
    async def main():
        batcher = Batcher(double, BatchPolicy(), name="forgotten/1")
        await batcher.infer(rows(1.0), 1)

    runner.run(main())
    for _ in range(300):
        gc.collect()  # more than once: the thread itself may have been the last to hold it
        for thread in threads_of("forgotten/1"):
            thread.join(0.1)
        if not threads_of("forgotten/1"):
            return
    pytest.fail("the thread is still there")


@pytest.mark.parametrize("has_lane", [False, True])
def test_what_a_closed_batcher_ran_is_let_go_at_once(runner, has_lane):
    """It may be large; the collector may take its time over what a lane, or whoever else, still holds."""

    class Model:
        def __call__(self, inputs):
            return double(inputs)

    async def main():
        model = Model()
        held = weakref.ref(model)
        batcher = Batcher(model, BatchPolicy(), name="freed/1")
        del model
        if has_lane:
            batcher.lane("x", np.dtype(np.float64), ())
        await batcher.infer(rows(1.0), 1)
        assert held() is not None
        await batcher.close()
        return held

    gc.disable()
    try:
        assert runner.run(main())() is None
    finally:
        gc.enable()


def test_many_at_once_get_their_own(runner):
    """64 clients of 50 requests each: mixed sizes, two keys, now and then a poisoned one or a client that leaves."""
    records = []

    def run(inputs):
        return double(inputs) | {"sum": inputs["x"].reshape(len(inputs["x"]), -1).sum(axis=1)}

    async def client(batcher, number):
        rng = random.Random(number)
        left = 0
        for step in range(50):
            shape = (rng.randint(1, 5),) if rng.random() < 0.5 else (rng.randint(1, 5), 2)
            x = np.full(shape, 1.0 + number * 1000 + step)
            if rng.random() < 0.03:
                x[-1] = POISON
                with pytest.raises(ModelFailed, match="poison"):
                    await batcher.infer({"x": x}, len(x))
                continue
            task = asyncio.ensure_future(batcher.infer({"x": x}, len(x)))
            if rng.random() < 0.05:
                await asyncio.sleep(0)
                task.cancel()
                left += 1
                continue
            answer = await task
            np.testing.assert_array_equal(answer["y"], x * 2)
            np.testing.assert_array_equal(answer["sum"], x.reshape(len(x), -1).sum(axis=1))
        return left

    async def main():
        batcher = Batcher(run, BatchPolicy(max_batch_size=32), name="many/1", observer=records.append)
        left = await asyncio.gather(*(client(batcher, number) for number in range(64)))
        await batcher.close()
        assert (batcher.queued_rows, batcher.in_flight_rows) == (0, 0)
        return sum(left)

    left = runner.run(main())
    first_runs = [r for r in records if r.reason != "retry"]
    assert 64 * 50 - left <= sum(r.requests for r in first_runs) <= 64 * 50
    assert max(r.rows for r in first_runs) <= 32
    assert len(first_runs) < 64 * 50 / 4, "requests did share runs"


@pytest.mark.slow
def test_a_forest_answers_each_client_its_own(runner):
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    train = rng.normal(size=(200, 4))
    forest = ensemble.RandomForestClassifier(10, random_state=0).fit(train, (train.sum(axis=1) > 0).astype(int))
    asked = rng.normal(size=(64, 50, 4))
    want = forest.predict_proba(asked.reshape(-1, 4)).reshape(64, 50, 2)

    async def client(batcher, number):
        for step in range(50):
            answer = await batcher.infer({"x": asked[number, step : step + 1]}, 1)
            np.testing.assert_allclose(answer["p"], want[number, step : step + 1], rtol=1e-12)

    async def main():
        batcher = Batcher(lambda inputs: {"p": forest.predict_proba(inputs["x"])}, BatchPolicy(), name="forest/1")
        await asyncio.gather(*(client(batcher, number) for number in range(64)))
        await batcher.close()

    runner.run(main())
