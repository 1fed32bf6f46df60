"""Batches that do not fit into memory: every answer right, none lost, nobody blamed, and the size remembered."""

import logging

import numpy as np
import pytest
from batcher.batcher_driver import Driver
from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.fitting import TRY_AGAIN_BATCHES, TRY_AGAIN_S
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Entry
from stfs.batcher.runner import Batch, Runner
from stfs.batcher.shapes import PaddedInput, Padding
from stfs.errors import InvalidRequest, ModelFailed, OutOfMemory, Unavailable

POISON = -1.0
HUGE = -2.0


class Device:
    """Doubles; has room for so many rows. A huge row does not fit alone, a poisoned one fails whatever it is in."""

    def __init__(self, room):
        self.room = room
        self.sizes = []

    def __call__(self, inputs):
        x = inputs["x"]
        self.sizes.append(len(x))
        if len(x) > self.room or (x == HUGE).any():
            raise OutOfMemory("out of memory: no room on the device")
        if (x == POISON).any():
            raise ValueError("poison")
        return {"y": x * 2}


def batch_of(requests, limit_rows=0):
    entries = [Entry({"x": np.array(rows, float)}, len(rows), None, lambda o, e: None, 0.0) for rows in requests]
    return Batch(entries, 0.25, "idle", limit_rows=limit_rows)


def run(device, requests, policy=None, limit_rows=0):
    runner = Runner(device, policy or BatchPolicy(), "m/1", True, lambda: 0.0)
    return runner(batch_of(requests, limit_rows))


def told(outcomes):
    return [error if outputs is None else outputs["y"].tolist() for outputs, error in outcomes]


def test_a_batch_that_does_not_fit_runs_in_halves():
    device = Device(32)
    outcomes, records = run(device, [[float(i)] for i in range(128)])
    assert told(outcomes) == [[2.0 * i] for i in range(128)]
    assert device.sizes == [128, 64, 32, 32, 32, 32]
    assert [record.no_memory for record in records] == [True, True, False, False, False, False]
    assert [record.reason for record in records] == ["idle", *["retry"] * 5]
    assert sum(record.requests for record in records if not record.failed) == 128


def test_a_request_of_many_rows_is_cut_and_joined():
    device = Device(3)
    outcomes, _ = run(device, [[1, 2], [3, 4, 5, 6, 7], [8]])
    assert told(outcomes) == [[2, 4], [6, 8, 10, 12, 14], [16]]


def test_a_known_limit_is_kept_to_without_trying():
    device = Device(3)
    outcomes, records = run(device, [[1, 2, 3, 4, 5, 6, 7]], limit_rows=3)
    assert told(outcomes) == [[2, 4, 6, 8, 10, 12, 14]]
    assert device.sizes == [3, 3, 1]
    assert records[0].reason == "idle"


def test_allowed_sizes_are_what_is_tried():
    device = Device(8)
    policy = BatchPolicy(max_batch_size=64, allowed_batch_sizes=(4, 8, 64))
    outcomes, _ = run(device, [[float(i)] for i in range(11)], policy)
    assert told(outcomes) == [[2.0 * i] for i in range(11)]
    assert device.sizes == [64, 8, 4]


def test_what_does_not_fit_alone_is_told_so_and_nobody_else():
    device = Device(4)
    outcomes, _ = run(device, [[1.0], [HUGE], [3.0], [4.0], [5.0], [6.0, 7.0]])
    answers = told(outcomes)
    error = answers.pop(1)
    assert answers == [[2], [6], [8], [10], [12, 14]]
    assert type(error) is OutOfMemory
    assert str(error) == "m/1 has not enough memory: one row does not fit (out of memory: no room on the device)"
    assert device.sizes[-2:] == [3, 2], "one row that is out of the ordinary does not make all others run alone"


def test_a_large_request_with_a_row_that_does_not_fit_fails_as_a_whole():
    outcomes, _ = run(Device(4), [[1.0, HUGE, 2.0, 3.0, 4.0, 5.0], [6.0]])
    assert type(told(outcomes)[0]) is OutOfMemory
    assert told(outcomes)[1] == [12]


def test_a_lone_row_that_does_not_fit_is_run_once():
    device = Device(4)
    outcomes, records = run(device, [[HUGE]])
    assert type(told(outcomes)[0]) is OutOfMemory
    assert len(records) == 1


def test_where_the_smallest_allowed_batch_does_not_fit_all_are_told():
    policy = BatchPolicy(max_batch_size=8, allowed_batch_sizes=(4, 8))
    outcomes, _ = run(Device(2), [[1.0], [2.0], [3.0], [4.0], [5.0]], policy)
    assert [type(error) for error in told(outcomes)] == [OutOfMemory] * 5
    assert "4 rows, as few as it can be given, do not fit" in str(told(outcomes)[0])


@pytest.mark.parametrize("n", [1, 2, 7, 64, 128])
def test_a_device_without_memory_is_not_run_for_ever(n):
    outcomes, records = run(Device(0), [[1.0]] * n)
    assert all(type(error) is OutOfMemory for _, error in outcomes)
    assert len(records) <= n + 3 * (n.bit_length() + 1)


def test_a_request_without_stacking_is_told():
    driver = Driver(Device(0), merge=False)
    one = driver.ask([1.0, 2.0, 3.0])
    driver.settle()
    assert type(one.error) is OutOfMemory
    assert len(driver.records) == 1


def test_the_guilty_of_another_kind_is_found_among_those_that_did_not_fit():
    outcomes, _ = run(Device(4), [[1.0], [2.0], [POISON, 5.0], [3.0], [4.0]])
    answers = told(outcomes)
    error = answers.pop(2)
    assert answers == [[2], [4], [6], [8]]
    assert type(error) is ModelFailed
    assert "ValueError: poison" in str(error)


@pytest.mark.parametrize("error", [Unavailable("the process died"), InvalidRequest("no")])
def test_what_goes_wrong_otherwise_after_it_did_not_fit(error):
    def run_model(inputs):
        if len(inputs["x"]) > 2:
            raise OutOfMemory("no room")
        if 3.0 in inputs["x"]:
            raise error
        return {"y": inputs["x"]}

    outcomes, _ = run(run_model, [[1.0], [2.0], [3.0], [4.0]])
    assert told(outcomes[:2]) == [[1], [2]]
    assert outcomes[2][1] is error
    assert outcomes[3][1] is error if isinstance(error, Unavailable) else told(outcomes[3:]) == [[4]]


@given(
    st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, POISON, HUGE]), min_size=1, max_size=9), min_size=1, max_size=20),
    st.integers(1, 12),
    st.sampled_from([(), (1, 128), (2, 8, 128), (128,)]),
    st.integers(0, 12),
)
def test_every_request_gets_its_own_outcome(requests, room, sizes, limit):
    device = Device(room)
    policy = BatchPolicy(max_batch_size=128, allowed_batch_sizes=sizes)
    total = sum(map(len, requests))
    if total > 128:
        requests, total = requests[:1], len(requests[0])
    outcomes, _ = run(device, requests, policy, limit)
    least = sizes[0] if sizes else 1
    for rows, outcome in zip(requests, told(outcomes), strict=True):
        if HUGE in rows or POISON in rows:
            assert isinstance(outcome, OutOfMemory | ModelFailed)
        elif room >= least:
            # Where sizes are told, a neighbour that does not fit may stand in the smallest batch there is.
            assert outcome == [2 * x for x in rows] or (least > 1 and isinstance(outcome, OutOfMemory))
        else:
            assert isinstance(outcome, OutOfMemory)


def asked(driver, n, first=0):
    return [driver.ask([float(first + i)]) for i in range(n)]


def test_the_size_that_fitted_is_remembered_and_told_once(caplog):
    caplog.set_level(logging.INFO)
    device = Device(16)
    driver = Driver(device, BatchPolicy(max_batch_size=64))
    first = asked(driver, 64)
    driver.settle()
    assert [one.outputs["y"].tolist() for one in first] == [[2.0 * i] for i in range(64)]
    assert driver.batcher.limit_rows == 16
    assert device.sizes == [64, 32, 16, 16, 16, 16]
    asked(driver, 40)
    driver.settle()
    assert device.sizes[6:] == [16, 16, 8]
    lines = [record.message for record in caplog.records]
    assert lines == ["m/1: a run did not fit into memory: runs of such requests take up to 16 rows from now on"]


def test_requests_of_other_shapes_are_not_limited_by_it():
    device = Device(16)

    def run_model(inputs):
        return device(inputs) if inputs["x"].shape[1] > 1 else {"y": inputs["x"] * 2}

    driver = Driver(run_model, BatchPolicy(max_batch_size=64))
    wide = [driver.ask(np.full((1, 5), float(i))) for i in range(64)]
    driver.settle()
    narrow = [driver.ask(np.full((1, 1), float(i))) for i in range(64)]
    driver.settle()
    assert all(one.outputs["y"][0, 0] == 2.0 * i for group in (wide, narrow) for i, one in enumerate(group))
    assert len(driver.batches[-1]["x"]) == 64


def test_more_is_tried_after_a_while_and_what_fits_again_is_forgotten(caplog):
    caplog.set_level(logging.INFO)
    device = Device(16)
    driver = Driver(device, BatchPolicy(max_batch_size=64))
    asked(driver, 64)
    driver.settle()
    device.sizes.clear()
    driver.loop.advance(TRY_AGAIN_S)
    answers = asked(driver, 64)
    driver.settle()
    assert [one.outputs["y"].tolist() for one in answers] == [[2.0 * i] for i in range(64)]
    assert device.sizes == [32, 16, 16, 16, 16], "one try, and it costs one run"
    device.room = 1000
    device.sizes.clear()
    for _ in range(3):
        driver.loop.advance(TRY_AGAIN_S)
        asked(driver, 64)
        driver.settle()
    assert device.sizes == [32, 32, 64, 64]
    assert driver.batcher.limit_rows == 64
    assert caplog.records[-1].message == "m/1: runs of all sizes fit into memory again"


def test_many_batches_are_a_while_too():
    device = Device(2)
    driver = Driver(device, BatchPolicy(max_batch_size=4, max_enqueued_rows=10_000))
    asked(driver, 4)
    driver.settle()
    for _ in range(TRY_AGAIN_BATCHES // 100):
        asked(driver, 200)
        driver.settle()
    assert max(device.sizes[3:]) == 2
    driver.loop.advance(60.0)
    asked(driver, 4)
    driver.settle()
    assert max(device.sizes[3:]) == 4


def test_waiting_for_company_ends_when_as_many_are_there_as_fit():
    device = Device(2)
    driver = Driver(device, BatchPolicy(max_batch_size=4, batch_timeout_s=10.0))
    asked(driver, 4)
    driver.settle()
    assert driver.batcher.limit_rows == 2
    both = asked(driver, 2)
    driver.settle()
    assert [one.outputs["y"].tolist() for one in both] == [[0], [2]]


def test_the_pieces_of_a_request_come_back_in_one_shape_whoever_else_is_padded():
    device = Device(2)
    driver = Driver(device, padding=Padding({"x": PaddedInput((1,), 0)}, to_largest=True, max_rows=16))
    for _ in range(2):  # the second time the limit is known
        three, one, four = driver.ask(np.ones((3, 2))), driver.ask(np.ones((1, 5))), driver.ask(np.ones((4, 3)))
        driver.settle()
        np.testing.assert_array_equal(three.outputs["y"], np.full((3, 2), 2.0))
        np.testing.assert_array_equal(four.outputs["y"], np.full((4, 3), 2.0))
        np.testing.assert_array_equal(one.outputs["y"], np.full((1, 5), 2.0))
    assert max(device.sizes[-5:]) == 2


def test_preferred_sizes_over_what_fits_keep_nobody_from_an_answer():
    device = Device(2)
    driver = Driver(device, BatchPolicy(max_batch_size=16, preferred_batch_sizes=(1, 4, 8)))
    first = asked(driver, 16)
    driver.settle()
    then = asked(driver, 7)
    driver.settle()
    for group in (first, then):
        assert [one.outputs["y"].tolist() for one in group] == [[2.0 * i] for i in range(len(group))]
    assert max(device.sizes[-4:]) == 2


def test_a_request_that_was_cancelled_meanwhile_is_not_run_again():
    device = Device(2)
    driver = Driver(device, BatchPolicy(max_batch_size=8))
    answers = asked(driver, 4)

    def run_model(inputs):
        for one in answers[2:]:
            one.entry.cancel()
        return device(inputs)

    driver.run = run_model
    driver.settle()
    assert [one.outputs["y"].tolist() for one in answers[:2]] == [[0], [2]]
    assert device.sizes == [4, 2]
    assert answers[2].told == answers[3].told == []
