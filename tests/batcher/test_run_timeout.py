"""Runs that take too long: told at once, replaced, counted, refused when there are many, and never answered twice."""

import numpy as np
import pytest
from batcher.batcher_driver import Driver
from batcher.test_in_flight import turn, values
from batcher.test_lane import Lined, double, rows_of

from stfs.batcher.places import MOST_STUCK
from stfs.batcher.policy import BatchPolicy
from stfs.errors import ModelFailed, RunTimedOut, Unavailable

EAGER = BatchPolicy(max_batch_size=4, adaptive=False)
LIMIT_S = 0.5


def hang(driver, value):
    """A request whose run is not back in time."""
    asked = driver.ask([value])
    turn(driver)
    driver.loop.advance(LIMIT_S + 0.01)
    return asked


def test_a_run_that_hangs_is_told_at_once_and_the_next_one_runs():
    driver = Driver(double, EAGER, run_timeout_s=LIMIT_S)
    stuck = [driver.ask([1]), driver.ask([2])]
    turn(driver)
    waiting = driver.ask([3])
    driver.loop.advance(LIMIT_S - 0.01)
    assert stuck[0].told == []
    driver.loop.advance(0.02)
    for asked in stuck:
        assert type(asked.error) is RunTimedOut
        assert str(asked.error) == "m/1: a run took longer than run_timeout_s (0.5 s) and was given up"
    assert len(driver.jobs) == 2, "the one that hangs, and what waited for it"
    driver.work(1)
    turn(driver)
    assert values(waiting) == [6]
    assert driver.batcher.places.stuck == 1
    driver.settle()
    assert driver.batcher.places.stuck == 0
    assert [type(asked.error) for asked in stuck] == [RunTimedOut] * 2, "and what came late is dropped"
    late, good = driver.records
    assert (late.timed_out, late.failed, late.rows, late.requests) == (True, True, 2, 2)
    assert late.run_s == pytest.approx(LIMIT_S, abs=0.01)
    assert (good.timed_out, good.failed) == (False, False)


def test_a_run_in_time_leaves_no_timer():
    driver = Driver(double, EAGER, run_timeout_s=LIMIT_S)
    asked = driver.ask([1])
    driver.settle()
    assert values(asked) == [2]
    assert driver.loop.armed == 0
    driver.loop.advance(10 * LIMIT_S)
    assert driver.batcher.places.stuck == 0


def test_each_run_of_a_batch_that_fails_has_its_own_time():
    driver = Driver(double, EAGER, run_timeout_s=LIMIT_S)

    def slow(inputs):
        driver.loop.advance(0.8 * LIMIT_S)
        return double(inputs)

    driver.run = slow
    asked = [driver.ask([value]) for value in (1, 2, -1, 4)]
    driver.settle()
    assert len(driver.batches) > 3
    assert values(asked[0]) == [2]
    assert values(asked[3]) == [8]
    assert type(asked[2].error) is ModelFailed


def test_a_retry_that_hangs_ends_the_batch_and_no_more_of_it_is_run():
    driver = Driver(double, EAGER, run_timeout_s=LIMIT_S)

    def second_hangs(inputs):
        if len(driver.batches) == 2:
            driver.loop.advance(1.5 * LIMIT_S)
        return double(inputs)

    driver.run = second_hangs
    asked = [driver.ask([value]) for value in (1, 2, -1, 4)]
    driver.settle()
    assert [type(each.error) for each in asked] == [RunTimedOut] * 4
    assert len(driver.batches) == 2
    assert driver.batcher.places.stuck == 0


def test_with_too_many_that_hang_the_model_is_not_asked_until_one_is_back():
    driver = Driver(double, EAGER, run_timeout_s=LIMIT_S)
    for value in range(MOST_STUCK):
        hang(driver, value)
    last = driver.ask([50])
    turn(driver)
    queued = [driver.ask([51]), driver.ask(np.arange(9.0))]
    driver.loop.advance(LIMIT_S + 0.01)
    assert type(last.error) is RunTimedOut
    told = "m/1: 4 runs are stuck, each for more than run_timeout_s (0.5 s): restart the server"
    assert all(str(asked.error).startswith(told) for asked in queued)
    assert "with isolation=process such runs are ended" in str(queued[0].error)
    assert driver.batcher.queued_rows == 0
    with pytest.raises(Unavailable, match="4 runs are stuck"):
        driver.ask([52])
    driver.work()
    turn(driver)
    again = driver.ask([53])
    turn(driver)
    driver.work(-1)
    turn(driver)
    assert values(again) == [106]
    driver.settle()
    assert driver.batcher.places.stuck == 0


def test_a_model_that_hangs_closes_without_its_runs():
    driver = Driver(double, EAGER, run_timeout_s=LIMIT_S)
    stuck = hang(driver, 1)
    closing = driver.close()
    for _ in range(5):
        driver.loop.turn()
    assert closing.done()
    assert not driver.batcher.all_home.is_set(), "what it runs may not be freed yet"
    driver.settle()
    assert driver.batcher.all_home.is_set()
    assert type(stuck.error) is RunTimedOut


def test_closing_while_too_many_hang():
    driver = Driver(double, EAGER, run_timeout_s=LIMIT_S)
    for value in range(MOST_STUCK + 1):
        hang(driver, value)
    closing = driver.close()
    with pytest.raises(Unavailable, match="shutting down"):
        driver.ask([1])
    driver.settle()
    assert closing.done()
    with pytest.raises(Unavailable, match="shutting down"):
        driver.ask([1])


def test_the_place_of_a_run_that_hangs_rests_unless_it_can_run_two():
    """The driver's first instance runs one thing at a time, its second as many as it is asked."""
    driver = Driver(double, EAGER, ups=[lambda: True] * 2, run_timeout_s=LIMIT_S)
    one_at_a_time, concurrent = driver.batcher.places
    hang(driver, 1)
    assert one_at_a_time.stuck == 1
    beside = driver.ask([2])
    turn(driver)
    assert concurrent.busy
    assert not one_at_a_time.busy
    waits = driver.ask([3])
    turn(driver)
    assert len(driver.jobs) == 2
    driver.work(0)
    turn(driver)
    assert len(driver.jobs) == 2, "it is home, so its place is one again"
    driver.settle()
    assert [values(beside), values(waits)] == [[4], [6]]
    driver = Driver(double, EAGER, ups=[lambda: False, lambda: True], run_timeout_s=LIMIT_S)
    hang(driver, 1)
    after = driver.ask([2])
    turn(driver)
    assert driver.batcher.in_flight_batches == 1, "the second takes another at once"
    driver.work(1)
    driver.settle()
    assert values(after) == [4]


def test_rows_that_a_run_still_reads_are_not_written_over():
    driver = Lined(policy=EAGER, run_timeout_s=LIMIT_S)
    seen = []
    driver.run = lambda inputs: seen.append(inputs["x"].copy()) or double(inputs)
    driver.put("a", 1.0)
    turn(driver)
    driver.loop.advance(LIMIT_S + 0.01)
    assert type(driver.told["a"]) is RunTimedOut
    for i in range(20):  # more than there are slots
        driver.put(f"b{i}", 7.0)
        turn(driver)
        driver.work(-1)
        turn(driver)
        assert driver.told[f"b{i}"] == rows_of(7.0)
    driver.work(0)
    driver.settle()
    assert seen[-1].tolist() == [[1.0, 1.0]], "the run that hung has read what was written for it"
    assert type(driver.told["a"]) is RunTimedOut


def test_a_lane_is_told_that_nothing_is_taken():
    driver = Lined(policy=EAGER, run_timeout_s=LIMIT_S)
    for i in range(MOST_STUCK + 1):
        assert driver.put(f"a{i}", 1.0)
        turn(driver)
        driver.loop.advance(LIMIT_S + 0.01)
    assert not driver.put("b", 1.0)
    driver.settle()
    assert driver.put("b", 2.0)
    driver.settle()
    assert driver.told["b"] == rows_of(2.0)
