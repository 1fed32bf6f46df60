"""Those who were refused and come back when they were told to find room, before those who have just come."""

import random

import numpy as np
import pytest
from batcher.batcher_driver import Driver

from stfs.batcher.batcher import Batcher
from stfs.batcher.cost import Cost
from stfs.batcher.policy import BatchPolicy
from stfs.errors import Overloaded

RUN_S = 0.1


def double(inputs):
    return {"y": inputs["x"] * 2}


class Busy(Driver):
    """A driver whose model takes time: ``rows`` of it run and come home."""

    def work(self):
        self.loop.now_s += RUN_S
        super().work()
        self.loop.turn()

    def refusal(self, rows):
        with pytest.raises(Overloaded) as refused:
            self.ask(rows)
        return refused.value.retry_after_s


def overloaded(policy=None):
    """A batcher that knows what it can do, with a batch in flight and its queue full of twos."""
    driver = Busy(double, policy or BatchPolicy(max_batch_size=4, max_enqueued_rows=8, adaptive=False))
    for _ in range(3):
        driver.ask([1.0] * 4)
        driver.launch()
        driver.work()
    driver.settle()
    driver.ask([1.0] * 4)
    driver.launch()
    driver.ask([2.0] * 4)
    driver.ask([2.0] * 4)
    return driver


def test_who_was_refused_finds_room_where_newcomers_do_not():
    driver = overloaded()
    assert driver.refusal([3.0]) == 1.0
    driver.settle()
    driver.loop.now_s += 1.0
    driver.ask([4.0] * 4)
    driver.launch()
    newcomers = [driver.ask([5.0]) for _ in range(7)]
    assert driver.refusal([6.0]) >= 1.0, "a place is kept"
    back = driver.ask([3.0])
    driver.refusal([3.0])  # known once
    driver.settle()
    assert back.outputs["y"].tolist() == [6.0]
    assert all(one.outputs["y"].tolist() == [10.0] for one in newcomers)


def test_who_comes_before_the_time_is_a_newcomer():
    driver = overloaded()
    driver.refusal([3.0])
    driver.loop.now_s += 0.3
    driver.refusal([3.0])


def test_a_request_of_several_batches_that_gives_way_is_known_when_it_comes_back():
    levels = BatchPolicy(max_batch_size=4, max_enqueued_rows=8, adaptive=False, priority_levels=2)
    driver = overloaded(levels)
    driver.settle()
    driver.ask([1.0] * 4)
    driver.launch()
    large = driver.ask([7.0] * 8)  # two pieces, which fill the queue
    driver.ask([2.0] * 4, priority=1)
    driver.loop.turn()
    told_s = large.error.retry_after_s
    driver.settle()
    driver.loop.now_s += told_s
    driver.ask([1.0] * 4)
    driver.launch()
    driver.ask([5.0] * 4)  # makes way
    back = driver.ask([7.0] * 8)
    driver.settle()
    assert back.outputs["y"].tolist() == [14.0] * 8


def test_places_are_kept_in_lanes_too():
    driver = overloaded()
    lane = driver.batcher.lane("x", np.dtype(np.float64), (1,))
    if lane is None:
        pytest.skip("lanes are not compiled")
    told = driver.refusal(np.array([[3.0]]))
    driver.settle()
    driver.loop.now_s += told
    driver.ask([4.0] * 4)
    driver.launch()
    driver.work()
    driver.ask([4.0] * 4)
    driver.launch()
    taken = 0
    while lane.submit(np.array([[5.0]]), object(), object(), lambda *_: None):
        taken += 1
    assert taken == 7
    back = driver.ask(np.array([[3.0]]))
    assert not lane.submit(np.array([[5.0]]), object(), object(), lambda *_: None)
    driver.loop.now_s += 10.0
    driver.settle()
    assert back.outputs["y"].tolist() == [[6.0]]
    driver.ask([4.0] * 4)
    driver.launch()
    driver.work()
    assert lane.max_enqueued_rows == 8, "what nobody comes for is given away"


def hurried():
    """A batcher of one row a run, which takes 0.1 s, where answers are wanted within 0.25 s."""
    policy = BatchPolicy(max_batch_size=1, latency_slo_s=2.5 * RUN_S)
    driver = Busy(double, policy)
    driver.batcher = Batcher(
        driver._run,
        policy,
        name="m/1",
        loop=driver.loop,
        clock=lambda: driver.loop.now_s,
        start=driver.jobs.append,
        cost=Cost(RUN_S, 0.0, 0.01),
    )
    for _ in range(10):
        driver.ask([0.0])
        driver.launch()
        driver.work()
    driver.settle()
    return driver


def test_who_could_not_be_in_time_goes_first_when_it_comes_back():
    driver = hurried()
    asked = [driver.ask([float(i)]) for i in range(1, 5)]
    driver.settle()
    late = [one for one in asked if isinstance(one.told[0][1], Overloaded)]
    assert len(late) == 2
    assert [one.error.retry_after_s for one in late] == [1.0, 2.0], "one row in a slice"
    driver.loop.now_s += 1.0
    first = driver.ask([10.0])
    driver.launch()
    newcomer = driver.ask([11.0])
    back = driver.ask(late[0].inputs["x"])
    driver.work()
    driver.settle()
    ran = [float(batch["x"][0]) for batch in driver.batches]
    assert ran[-2:] == [10.0, float(late[0].inputs["x"][0])]
    assert back.outputs["y"].tolist() == [2 * float(late[0].inputs["x"][0])]
    assert first.outputs["y"].tolist() == [20.0]
    assert isinstance(newcomer.error, Overloaded)


def test_of_those_who_wait_the_one_with_the_least_time_is_looked_at():
    """Behind one who came back, and has time, one who has none left is refused rather than answered late."""
    driver = hurried()
    driver.ask([1.0])
    driver.launch()
    entry = driver.ask([2.0])
    driver.loop.now_s += 0.2
    back = driver.ask([3.0])
    driver.batcher.queue.move(back.entry, 0)
    driver.settle()
    assert isinstance(entry.error, Overloaded)
    assert back.outputs["y"].tolist() == [6.0]


def test_within_its_level_who_came_back_takes_the_place_of_the_youngest():
    policy = BatchPolicy(max_batch_size=4, max_enqueued_rows=8, adaptive=False, priority_levels=2)
    driver = overloaded(policy)
    driver.refusal([3.0])
    driver.settle()
    driver.loop.now_s += 1.0
    driver.ask([4.0] * 4)
    driver.launch()
    newcomers = [driver.ask([5.0]) for _ in range(8)]
    back = driver.ask([3.0])
    driver.settle()
    assert back.outputs["y"].tolist() == [6.0]
    assert [isinstance(one.told[0][1], Overloaded) for one in newcomers] == [False] * 7 + [True]


def test_inputs_that_cannot_be_told_apart_are_refused_all_the_same(monkeypatch):
    driver = overloaded()

    def raises(*_):
        raise ValueError("no")

    monkeypatch.setattr("stfs.batcher.promises.Promises.digest", raises)
    assert driver.refusal([3.0]) > 0
    driver.settle()


def test_a_model_that_nobody_is_refused_by_promises_nothing():
    driver = Busy(double)
    for _ in range(20):
        driver.ask([1.0] * random.Random(1).randrange(1, 9))
    driver.settle()
    assert driver.batcher._refusals.promises is None
