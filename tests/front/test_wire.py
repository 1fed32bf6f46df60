"""Requests from a front to the engine and back, both in this process."""

import asyncio
import os
import socket
import time

import numpy as np
import pytest
from front_pair import RING_BYTES, TEXTS, Held, Pair, echo
from waiting import until

from stfs import errors
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Journey
from stfs.front import records, wire
from stfs.signature import Signature, TensorSpec


def rows(*shape, start=0.0):
    return np.arange(start, start + np.prod(shape), dtype=np.float32).reshape(shape)


def run(work):
    """Run a coroutine function of nothing, bounded."""

    async def bounded():
        async with asyncio.timeout(60):
            return await work()

    return asyncio.run(bounded())


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (5, 0), (7, 100), (40, 1000), (300, 1000), (100, 30_000)])
def test_numbers_of_every_size_come_back_doubled(shape):
    async def work():
        async with Pair(policy=BatchPolicy(max_batch_size=1000)) as pair:
            for start in (0.0, 5.0):
                outputs = await pair.ask({"x": rows(*shape, start=start)})
                np.testing.assert_array_equal(outputs["y"], 2 * rows(*shape, start=start))
                outputs["y"][...] = 0  # they are the caller's

    run(work)


def test_outputs_stay_as_they_are_when_more_requests_come():
    async def work():
        async with Pair(policy=BatchPolicy(max_batch_size=1000)) as pair:
            inputs = [rows(100, 1000, start=float(start)) for start in range(4)]
            outputs = [await pair.ask({"x": array}) for array in inputs]
            for array, output in zip(inputs, outputs, strict=True):
                np.testing.assert_array_equal(output["y"], 2 * array)

    run(work)


@pytest.mark.parametrize("size", [1, 1000, RING_BYTES])
def test_strings_of_every_size(size):
    async def work():
        async with Pair(TEXTS, echo) as pair:
            texts = np.array([b"a" * size, b"", "ü".encode()], object)
            outputs = await pair.ask({"t": texts})
            assert outputs["t_out"].tolist() == texts.tolist()

    run(work)


def test_a_thousand_columns():
    columns = tuple(TensorSpec(f"c{place}", np.dtype(np.float64), (None,)) for place in range(1000))
    outs = tuple(TensorSpec(f"c{place}_out", np.dtype(np.float64), (None,)) for place in range(1000))

    async def work():
        async with Pair(Signature("serving_default", columns, outs, True), echo) as pair:
            inputs = {spec.name: np.array([float(place), 1.0]) for place, spec in enumerate(columns)}
            outputs = await pair.ask(inputs)
            assert [array.tolist() for array in outputs.values()] == [array.tolist() for array in inputs.values()]

    run(work)


def test_outputs_under_other_names_than_the_signature_says():
    async def work():
        async with Pair(run=lambda inputs: {"z": inputs["x"], "y": inputs["x"]}) as pair:
            assert list(await pair.ask({"x": rows(1, 2)})) == ["z", "y"]

    run(work)


def test_requests_of_several_fronts_share_batches():
    held = Held()

    async def work():
        async with Pair(run=held, fronts=3) as pair:
            first = pair.submit({"x": rows(1, 2)})[1]
            await until(held.entered.is_set)
            others = [pair.submit({"x": rows(1, 2, start=float(n))}, front=n % 3)[1] for n in range(9)]
            await until(lambda: pair.batcher.queued_rows == 9)
            held.let_go.set()
            for n, future in enumerate(others):
                np.testing.assert_array_equal((await future)["y"], 2 * rows(1, 2, start=float(n)))
            await first
            assert [batch.rows for batch in pair.batches] == [1, 9]

    run(work)


def test_the_ring_fills_and_nothing_is_lost():
    async def work():
        async with Pair(policy=BatchPolicy(max_batch_size=64, max_enqueued_rows=10_000)) as pair:
            asked = [pair.submit({"x": rows(1, 1000, start=float(n))})[1] for n in range(600)]  # over twice the ring
            for n, future in enumerate(asked):
                np.testing.assert_array_equal((await future)["y"], 2 * rows(1, 1000, start=float(n)))

    run(work)


def test_what_does_not_leave_is_refused_beyond_a_bound(monkeypatch):
    monkeypatch.setattr(wire, "MAX_WAITING_BYTES", 100_000)

    async def work():
        async with Pair() as pair:
            asked, refused = [], 0
            for _ in range(60):
                try:
                    asked.append(pair.submit({"x": rows(1, 1000)})[1])
                except errors.Overloaded:
                    refused += 1
            assert refused > 20
            for future in asked:
                np.testing.assert_array_equal((await future)["y"], 2 * rows(1, 1000))
            assert (await pair.ask({"x": rows(1, 3)}))["y"].shape == (1, 3)  # there is room again

    run(work)


@pytest.mark.parametrize("shape", [(1, 3), (100, 1000)])
def test_a_request_that_is_cancelled_leaves_the_queue_and_harms_nobody(shape):
    held = Held()

    async def work():
        async with Pair(run=held, policy=BatchPolicy(max_batch_size=1000)) as pair:
            first = pair.submit({"x": rows(*shape)})[1]
            await until(held.entered.is_set)
            ticket, never = pair.submit({"x": rows(*shape, start=1.0)})
            other = pair.submit({"x": rows(*shape, start=2.0)})[1]
            await until(lambda: pair.batcher.queued_rows == 2 * shape[0])
            ticket.cancel()
            ticket.cancel()
            await until(lambda: pair.batcher.queued_rows == shape[0])
            more = pair.submit({"x": rows(*shape, start=3.0)})[1]  # its memory may be that of the one that went
            held.let_go.set()
            for start, future in ((0.0, first), (2.0, other), (3.0, more)):
                np.testing.assert_array_equal((await future)["y"], 2 * rows(*shape, start=start))
            assert not never.done()
            assert pair.desks[0].in_flight == pair.engines[0].in_flight == 0

    run(work)


def test_a_cancelled_request_whose_large_answer_is_on_its_way():
    async def work():
        async with Pair(policy=BatchPolicy(max_batch_size=1000)) as pair:
            front = pair.engines[0].wire
            asyncio.get_running_loop().remove_reader(front._ring.bell_fd)  # the answer comes, and is not read yet
            ticket, never = pair.submit({"x": rows(100, 1000)})
            await until(lambda: len(pair.batches) == 1 and pair.desks[0].in_flight == 0)
            ticket.cancel()
            asyncio.get_running_loop().add_reader(front._ring.bell_fd, front._on_bell)
            for start in range(3):
                outputs = await pair.ask({"x": rows(100, 1000, start=float(start))})
                np.testing.assert_array_equal(outputs["y"], 2 * rows(100, 1000, start=float(start)))
            assert not never.done()
            await until(lambda: len(pair.desks[0].wire._free) == 1)  # its memory has come back

    run(work)


def test_a_deadline_passes_in_the_engine():
    held = Held()

    async def work():
        async with Pair(run=held) as pair:
            first = pair.submit({"x": rows(1, 2)})[1]
            await until(held.entered.is_set)
            with pytest.raises(errors.DeadlineExceeded):
                await pair.ask({"x": rows(1, 2)}, time.monotonic() + 0.05)
            large = pair.submit({"x": rows(100, 1000)}, time.monotonic() + 0.05)[1]
            assert isinstance(await large, errors.DeadlineExceeded)
            held.let_go.set()
            await first
            with pytest.raises(errors.DeadlineExceeded, match=r"before model .* was asked"):
                pair.submit({"x": rows(1, 2)}, time.monotonic() - 1.0)

    run(work)


def test_errors_of_the_model_come_through():
    async def work():
        def fails(inputs):
            if inputs["x"].max() < 0:
                raise errors.InvalidRequest("below zero")
            raise ZeroDivisionError("oh")

        async with Pair(run=fails) as pair:
            with pytest.raises(errors.InvalidRequest, match="below zero"):
                await pair.ask({"x": -1 - rows(1, 2)})
            with pytest.raises(errors.ModelFailed, match="ZeroDivisionError: oh"):
                await pair.ask({"x": rows(1, 2)})
            with pytest.raises(errors.InvalidInput, match="shape"):  # told by the front
                await pair.ask({"x": rows(2)})

    run(work)


def test_a_queue_that_is_full_comes_through():
    held = Held()

    async def work():
        async with Pair(run=held, policy=BatchPolicy(max_batch_size=4, max_enqueued_rows=2)) as pair:
            asked = [pair.submit({"x": rows(1, 2)})[1]]
            await until(held.entered.is_set)
            asked += [pair.submit({"x": rows(1, 2)})[1] for _ in range(2)]
            with pytest.raises(errors.Overloaded, match="2 allowed"):
                await pair.ask({"x": rows(1, 2)})
            held.let_go.set()
            await asyncio.gather(*asked)

    run(work)


def test_a_model_that_the_front_may_not_ask_for():
    async def work():
        async with Pair() as pair:
            pair.desks[0].let_go(7)
            with pytest.raises(errors.Unavailable):
                await pair.ask({"x": rows(1, 2)})

    run(work)


def test_who_asks_is_told_how_long_the_steps_took():
    async def work():
        async with Pair() as pair:
            journey = Journey()
            model = pair.models[0]
            await model.infer(model.signature(None), {"x": rows(3, 2)}, None, journey)
            assert journey.rows == 3
            assert journey.run_s > 0

    run(work)


def test_a_front_that_goes_takes_its_requests_along():
    held = Held()

    async def work():
        async with Pair(run=held, fronts=2) as pair:
            first = pair.submit({"x": rows(1, 2)}, front=1)[1]
            await until(held.entered.is_set)
            gone = [pair.submit({"x": rows(1, 2)}, front=0)[1] for _ in range(3)]
            await until(lambda: pair.batcher.queued_rows == 3)
            pair.desks[0].close()
            assert pair.batcher.queued_rows == 0
            held.let_go.set()
            await first
            assert not any(future.done() for future in gone)
            withdrawn = pair.registry.withdraw("model", 1)
            assert withdrawn.held == 1  # by the other front

    run(work)


def test_large_tensors_use_the_same_memory_again():
    async def work():
        async with Pair(policy=BatchPolicy(max_batch_size=1000)) as pair:
            for start in range(5):
                await pair.ask({"x": rows(100, 1000, start=float(start))})
                await asyncio.sleep(0)
            await until(lambda: len(pair.desks[0].wire._free) == 1)
            assert len(pair.engines[0].wire._made) == len(pair.desks[0].wire._made) == 1

    run(work)


def test_memory_of_large_tensors_is_let_go():
    async def work():
        async with Pair(policy=BatchPolicy(max_batch_size=4000)) as pair:
            before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
            for _ in range(3):
                outputs = await pair.ask({"x": rows(3000, 1000)})  # 12 MB, which are given away
                np.testing.assert_array_equal(outputs["y"][-1], 2 * rows(3000, 1000)[-1])
            del outputs
            # What is left is the memory of the inputs, kept for the next: two descriptors for each side.
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before + 4)  # noqa: PTH208

    run(work)


def test_connections_are_handed_over():
    async def work():
        async with Pair() as pair:
            ours, theirs = socket.socketpair()
            with ours:
                pair.engines[0].wire.send_connection(theirs)
                theirs.close()
                await until(lambda: pair.connections)
                with pair.connections[0] as got:
                    got.sendall(b"hello")
                    assert ours.recv(10) == b"hello"

    run(work)


def test_what_is_no_record_is_told_once():
    async def work():
        pair = Pair()
        async with pair:
            pair.engines[0].wire.send(records.FREED, 99)  # a segment that nobody knows: nothing to do
            pair.engines[0].wire.send(77, 1)
            await until(lambda: pair.broken)
            assert isinstance(pair.broken.pop(), ValueError)

    run(work)


class Reading:
    """What a group of requests holds until it is answered."""

    def share(self):
        return self


def test_what_a_lane_gathers_in_one_turn_is_one_request_and_only_the_guilty_fail():
    pytest.importorskip("stfs.batcher._lane", reason="lanes are not compiled")
    columns = (TensorSpec("x", np.dtype(np.float32), (None, 3)),)
    outs = (TensorSpec("y", np.dtype(np.float32), (None, 3)),)
    calls = []

    def fails_at_nine(inputs):
        calls.append(len(inputs["x"]))
        if (inputs["x"] == 9).any():
            raise errors.InvalidRequest("nine")
        return {"y": inputs["x"] * 2}

    async def work():
        policy = BatchPolicy(max_batch_size=16)
        async with Pair(Signature("serving_default", columns, outs, True), fails_at_nine, policy) as pair:
            model = pair.models[0]
            lane = model.lane(model.signature(None))
            assert lane is not None
            answered = {}

            def reply(group, outputs, error, outcomes):
                for place, owner in enumerate(group.owners):  # each has a row
                    row = None if outputs is None else {"y": outputs["y"][place : place + 1]}
                    answered[owner] = (row, error) if outcomes is None else outcomes[place]

            async def ask(values):
                answered.clear()
                for value in values:
                    assert lane.submit(np.full((1, 3), value), value, Reading(), reply)
                await until(lambda: len(answered) == len(values))

            await ask([1.0, 2.0, 3.0])
            assert calls[-1] == 3
            assert [answered[value][0]["y"].tolist() for value in (1, 2, 3)] == [
                [[2 * value] * 3] for value in (1, 2, 3)
            ]
            await ask([float(value) for value in range(40)])  # more than a batch, and one of them is cursed
            for value in range(40):
                outputs, error = answered[value]
                if value == 9:
                    assert str(error) == "nine"
                else:
                    assert error is None
                    assert outputs["y"].tolist() == [[2 * value] * 3]

    run(work)
