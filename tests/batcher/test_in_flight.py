"""Several batches in flight: who may leave beside whom, what comes home out of order, what is counted."""

import numpy as np
import pytest
from batcher.batcher_driver import Driver
from batcher.test_lane import Lined, double, rows_of

from stfs.batcher.policy import BatchPolicy, Load, Slots, decide
from stfs.errors import ModelFailed, Overloaded, Unavailable

EAGER = BatchPolicy(max_batch_size=4, adaptive=False)
ADAPTIVE = BatchPolicy(max_batch_size=4)


def turn(driver):
    """Enough turns for whatever was asked to leave, if it may."""
    for _ in range(6):
        driver.loop.turn()


def values(asked):
    return asked.outputs["y"].tolist()


@pytest.mark.parametrize("policy", [EAGER, ADAPTIVE])
def test_a_batch_leaves_beside_another_once_it_is_full(policy):
    driver = Driver(double, policy, in_flight=2)
    first = driver.ask([1])
    turn(driver)
    others = [driver.ask([value]) for value in (2, 3, 4)]
    turn(driver)
    assert len(driver.jobs) == 1, "three rows of four wait for the one batch in flight"
    others.append(driver.ask([5]))
    turn(driver)
    assert len(driver.jobs) == 2
    more = [driver.ask([value]) for value in (6, 7, 8, 9)]
    turn(driver)
    assert len(driver.jobs) == 2, "and no third"
    assert driver.batcher.in_flight_rows == 5
    driver.settle()
    assert [values(asked) for asked in (first, *others, *more)] == [[2 * value] for value in range(1, 10)]
    assert [len(inputs["x"]) for inputs in driver.batches] == [1, 4, 4]


@pytest.mark.parametrize("policy", [EAGER, ADAPTIVE])
def test_each_idle_instance_takes_what_there_is(policy):
    driver = Driver(double, policy, ups=[lambda: True] * 3)
    asked = []
    for value in range(5):
        asked.append(driver.ask([value]))
        turn(driver)
    assert len(driver.jobs) == 3
    assert driver.batcher.queued_rows == 2
    driver.settle()
    assert [values(one) for one in asked] == [[0], [2], [4], [6], [8]]
    assert [len(inputs["x"]) for inputs in driver.batches] == [1, 1, 1, 2]


def test_instances_that_wait_for_company_each_wait():
    driver = Driver(double, BatchPolicy(max_batch_size=4, batch_timeout_s=0.01), ups=[lambda: True] * 2)
    driver.ask([1, 2, 3, 4])
    turn(driver)
    lone = driver.ask([5])
    turn(driver)
    assert len(driver.jobs) == 1, "the second instance is idle, and its batch may still grow"
    driver.loop.advance(0.02)
    assert len(driver.jobs) == 2
    driver.settle()
    assert values(lone) == [10]
    assert [record.reason for record in driver.records] == ["full", "timeout"]


def test_a_full_queue_leaves_to_all_idle_instances_at_once():
    driver = Driver(double, EAGER, ups=[lambda: True] * 3)
    asked = [driver.ask(np.arange(10.0))]
    turn(driver)
    assert [batcher_rows(driver), driver.batcher.queued_rows] == [10, 0]
    driver.work(2)
    driver.work(0)
    driver.settle()
    assert values(asked[0]) == (2 * np.arange(10.0)).tolist(), "joined in order, whatever came home first"


def batcher_rows(driver):
    return driver.batcher.in_flight_rows


def test_batches_that_come_home_out_of_order_answer_their_own():
    driver = Driver(double, EAGER, ups=[lambda: True] * 2)
    slow = driver.ask([1])
    turn(driver)
    bad, quick = driver.ask([-1]), driver.ask([3])
    turn(driver)
    driver.work(1)
    turn(driver)
    assert type(bad.error) is ModelFailed
    assert values(quick) == [6]
    assert slow.told == []
    driver.settle()
    assert values(slow) == [2]


def test_an_instance_that_is_away_is_left_alone_while_another_is_there():
    up = [False, True]
    driver = Driver(double, EAGER, ups=[lambda: up[0], lambda: up[1]])
    first = driver.ask([1])
    turn(driver)
    here, there = driver.batcher.places
    assert [here.busy, there.busy] == [False, True]
    second = driver.ask([2])
    turn(driver)
    assert len(driver.jobs) == 1, "it waits for the one that can"
    up[0] = True
    third = driver.ask([3])
    turn(driver)
    assert len(driver.jobs) == 2, "and is seen to be back by whatever comes next"
    driver.settle()
    assert [values(asked) for asked in (first, second, third)] == [[2], [4], [6]]


def test_with_every_instance_away_one_says_why():
    def away(inputs):
        raise Unavailable("it is being restarted", 3.0)

    driver = Driver(away, EAGER, ups=[lambda: False] * 2)
    asked = [driver.ask([1]), driver.ask([2])]
    driver.settle()
    assert [str(each.error) for each in asked] == ["it is being restarted"] * 2


def test_closing_waits_for_all_that_are_in_flight():
    driver = Driver(double, EAGER, ups=[lambda: True] * 2)
    asked = [driver.ask([1])]
    turn(driver)
    asked.append(driver.ask([2]))
    turn(driver)
    asked.append(driver.ask([3]))
    closing = driver.close()
    driver.work(1)
    turn(driver)
    assert len(driver.jobs) == 2, "what was queued leaves, to the place that has become free"
    driver.work(1)
    turn(driver)
    assert not closing.done()
    driver.settle()
    assert closing.done()
    assert [values(each) for each in asked] == [[2], [4], [6]]
    assert driver.batcher.all_home.is_set()


def test_retry_after_counts_rows_that_leave_side_by_side():
    """Two instances of one second a batch drain twice what one does."""

    def told(instances):
        policy = BatchPolicy(max_batch_size=4, max_enqueued_rows=8, adaptive=False)
        driver = Driver(double, policy, ups=[lambda: True] * instances)
        for _ in range(6):
            for _ in range(instances):
                driver.ask(np.ones(4))
            turn(driver)
            driver.loop.advance(1.0)
            for _ in range(instances):
                driver.work()
            turn(driver)
        for _ in range(instances + 2):
            driver.ask(np.ones(4))
            turn(driver)
        with pytest.raises(Overloaded) as caught:
            driver.ask([1])
        driver.settle()
        return caught.value.retry_after_s

    assert told(2) == pytest.approx(told(1) / 2, rel=0.15), "the newest batches weigh most"


def test_threads_start_with_the_first_batch_that_needs_them():
    driver = Driver(double, EAGER, ups=[lambda: True] * 3)
    driver.batcher.dispatcher.start = None
    assert [place.thread.started for place in driver.batcher.places] == [False] * 3
    driver.ask([1])
    turn(driver)
    assert [place.thread.started for place in driver.batcher.places] == [True, False, False]
    closing = driver.close()
    for _ in range(10_000_000):
        driver.loop.turn()
        if closing.done():
            break
    assert closing.done()
    assert not any(place.thread._thread.is_alive() for place in driver.batcher.places if place.thread.started)


@pytest.mark.parametrize(
    ("in_flight", "queued", "takes"),
    [(0, 1, True), (1, 1, False), (1, 3, False), (1, 4, True), (2, 4, True), (3, 400, False), (0, 0, False)],
)
def test_slots_of_one_device(in_flight, queued, takes):
    step = decide(EAGER, Load(queued, 0.0, in_flight, False), Slots(3, 1))
    assert bool(step.take_rows) == takes


# Lanes


def test_a_lane_tells_of_what_fills_a_batch_beside_another():
    driver = Lined(policy=EAGER, in_flight=2)
    driver.put("a", 1.0)
    turn(driver)
    assert len(driver.jobs) == 1
    for i, owner in enumerate("bcde"):
        driver.put(owner, float(i))
    turn(driver)
    assert len(driver.jobs) == 2, "though nothing would have followed from the first three"
    driver.settle()
    assert driver.told == {"a": rows_of(1.0)} | {owner: rows_of(float(i)) for i, owner in enumerate("bcde")}


def test_a_lane_feeds_several_instances():
    driver = Lined(policy=EAGER, ups=[lambda: True] * 2)
    for i, owner in enumerate("abcd"):
        driver.put(owner, float(i))
        turn(driver)
    assert len(driver.jobs) == 2
    driver.work(1)
    driver.settle()
    assert driver.told == {owner: rows_of(float(i)) for i, owner in enumerate("abcd")}
    assert [len(inputs["x"]) for inputs in driver.batches] == [1, 1, 2]
