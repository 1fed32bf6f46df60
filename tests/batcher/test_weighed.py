import random

import numpy as np
import pytest
from batcher.batcher_driver import Driver

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Entry, Queue
from stfs.batcher.weighed import WeighedQueue, size_of
from stfs.errors import Overloaded


def entry(size_bytes, rows=1, key="k"):
    made = Entry({}, rows, key, lambda outputs, error: None, 0.0)
    made.size_bytes = size_bytes
    return made


def test_what_arrays_hold():
    strings = np.array([[b"abc"], [b""]], object)
    assert size_of({"x": np.zeros((3, 4), np.float32)}) == 48
    assert size_of({"x": np.zeros((3, 4), np.float32)[:1], "s": strings}) == 16 + strings.nbytes + 3
    assert size_of({"s": np.array([[b"four"]], object)}) == 8 + 4
    many = np.array([b"x"] * 9999 + [b"y" * 5000], object)
    assert size_of({"s": many}) == many.nbytes + 9999 + 5000, "none hides among others"


def test_bytes_are_those_of_the_entries_that_wait_whatever_leaves_how():
    rng = random.Random(5)
    queue, waiting = WeighedQueue(), []
    for _ in range(3000):
        if rng.random() < 0.6:
            waiting.append(entry(rng.randrange(99), rng.randrange(4), rng.choice("ab")))
            queue.append(waiting[-1])
        elif rng.random() < 0.3:
            if waiting:
                waiting.pop(rng.randrange(len(waiting))).cancel()
        else:
            taken, _ = queue.take(rng.randrange(1, 9))
            waiting = [one for one in waiting if one not in taken]
        assert queue.bytes == sum(one.size_bytes for one in waiting)
        assert queue.rows == sum(one.rows or 1 for one in waiting)


def test_room_is_left_for_rows_like_those_that_wait():
    queue = WeighedQueue()
    assert queue.admits(100, 1000, 9), "an empty queue takes one of any size"
    queue.append(entry(40, rows=4))
    assert queue.admits(100, 60, 0)
    assert not queue.admits(100, 61, 0)
    assert queue.admits(100, 40, 2)
    assert not queue.admits(100, 41, 2)
    assert queue.admits(100, 10, 1000), "half of it is for newcomers, whoever may come"
    assert not queue.admits(100, 11, 1000)


def busy(policy, **more):
    driver = Driver(lambda inputs: {"y": inputs["x"]}, policy, **more)
    driver.ask([[0.0]])
    driver.launch()
    return driver


@pytest.mark.parametrize("merge", [True, False])
def test_requests_without_rows_and_large_ones_are_weighed_too(merge):
    driver = busy(BatchPolicy(max_batch_size=2, max_enqueued_bytes=80), merge=merge)
    asked = [driver.ask(np.zeros((0, 1))), driver.ask(np.arange(5.0).reshape(5, 1)), driver.ask([[7.0]])]
    assert (type(driver.batcher.queue), driver.batcher.queue.bytes) == (WeighedQueue, 48)
    asked[2].entry.cancel()
    assert driver.batcher.queue.bytes == 40
    with pytest.raises(Overloaded, match=r"40 bytes queued of 80 allowed \(max_enqueued_bytes\), no room for 48 more"):
        driver.ask(np.zeros((6, 1)))
    driver.settle()
    assert [one.outputs["y"].shape for one in asked[:2]] == [(0, 1), (5, 1)]
    assert (driver.batcher.queue.bytes, driver.refused) == (0, ["bytes"])


def test_strings_are_bounded_by_what_they_hold():
    driver = busy(BatchPolicy(max_enqueued_bytes=100))
    long = driver.ask(np.array([b"x" * 80], object))
    with pytest.raises(Overloaded, match="88 bytes queued of 100 allowed"):
        driver.ask(np.array([b"12345"], object))
    fits = driver.ask(np.array([b"1234"], object))
    driver.settle()
    assert [one.outputs["y"].tolist() for one in (long, fits)] == [[b"x" * 80], [b"1234"]]


def test_who_was_told_to_come_back_finds_the_bytes_that_newcomers_left():
    driver = busy(BatchPolicy(max_batch_size=1, max_enqueued_bytes=80, adaptive=False))
    for _ in range(3):  # so that it is known how fast it is
        driver.ask([[1.0]])
    while driver.jobs:
        driver.loop.now_s += 0.1
        driver.work()
        driver.loop.turn()
        driver.loop.turn()
    driver.ask([[2.0]])
    driver.launch()
    for _ in range(10):
        driver.ask([[3.0]])
    with pytest.raises(Overloaded, match="80 bytes queued") as told:
        driver.ask([[4.0]])
    driver.settle()
    driver.loop.now_s += told.value.retry_after_s
    driver.ask([[2.0]])
    driver.launch()
    newcomers = [driver.ask([[5.0]]) for _ in range(9)]
    with pytest.raises(Overloaded, match="72 bytes queued of 80"):
        driver.ask([[5.0]])
    back = driver.ask([[4.0]])
    driver.settle()
    assert back.outputs["y"].tolist() == [[4.0]]
    assert all(one.outputs["y"].tolist() == [[5.0]] for one in newcomers)


def test_a_model_without_such_bounds_weighs_nothing():
    plain = [BatchPolicy(), BatchPolicy(max_enqueued_bytes=1 << 30)]
    assert [type(Driver(len, policy, row_bytes=8).batcher.queue) for policy in plain] == [Queue, Queue]
