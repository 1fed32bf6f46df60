"""Levels of priority, bounds of their own and bytes in the batcher, driven by hand."""

import numpy as np
import pytest
from batcher.batcher_driver import Driver

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue_policy import QueuePolicy
from stfs.errors import DeadlineExceeded, InvalidRequest, Overloaded

THREE = BatchPolicy(max_batch_size=4, priority_levels=3, max_enqueued_rows=4)


def double(inputs):
    return {"y": inputs["x"] * 2}


def busy(policy, **settings):
    """A driver whose model works on a first batch, so that what comes now queues."""
    driver = Driver(double, policy, **settings)
    first = driver.ask([0])
    driver.launch()
    return driver, first


def rows(driver):
    return [batch["x"].tolist() for batch in driver.batches]


def test_a_higher_level_leaves_first_and_lower_ones_fill_the_batch():
    driver, _ = busy(BatchPolicy(max_batch_size=4, priority_levels=3))
    asked = [driver.ask([n], priority=level) for n, level in ((1, 3), (2, 2), (3, 1), (4, 0), (5, 1), (6, 2))]
    driver.settle()
    assert rows(driver) == [[0], [3, 5, 2, 6], [1, 4]]
    assert [each.outputs["y"].tolist() for each in asked] == [[2], [4], [6], [8], [10], [12]]


def test_what_arrives_later_at_a_higher_level_goes_before_what_waits():
    driver, _ = busy(BatchPolicy(max_batch_size=1, priority_levels=2))
    low = driver.ask([1], priority=2)
    for n in (2, 3):
        driver.ask([n], priority=1)
        driver.work()
        driver.launch()
        assert low.told == []
    driver.settle()
    assert rows(driver) == [[0], [2], [3], [1]]


def test_a_level_that_is_not_there_is_refused_and_nothing_is_queued():
    driver = Driver(double, THREE)
    for priority in (4, -1):
        with pytest.raises(InvalidRequest, match="priority must be 1"):
            driver.ask([1], priority=priority)
    assert driver.batcher.queued_rows == 0
    assert not driver.refused
    plain = Driver(double)
    asked = plain.ask([1], priority=9)
    plain.settle()
    assert asked.outputs["y"].tolist() == [2]


def test_a_full_queue_lets_a_higher_level_in_and_turns_the_youngest_of_the_lowest_away():
    driver, first = busy(THREE)
    old, young = driver.ask([1], priority=3), driver.ask([2, 3], priority=3)
    middle = driver.ask([4], priority=2)
    high = driver.ask([5], priority=1)
    assert young.told == [], "not in the middle of another's request"
    driver.loop.turn()
    assert isinstance(young.error, Overloaded)
    assert "one that goes first, of a higher priority (priority, X-Request-Priority)" in str(young.error)
    assert young.error.retry_after_s > 0
    driver.settle()
    assert [each.outputs["y"].tolist() for each in (first, old, middle, high)] == [[0], [2], [8], [10]]
    assert driver.refused == ["displaced"]


def test_where_not_enough_can_be_displaced_nobody_is():
    driver, _ = busy(THREE)
    waiting = [driver.ask([1], priority=3), driver.ask([2, 3, 4], priority=1)]
    with pytest.raises(Overloaded, match="4 rows queued of 4 allowed, no room for 2 more"):
        driver.ask([5, 6], priority=2)
    driver.settle()
    assert [each.outputs["y"].tolist() for each in waiting] == [[2], [4, 6, 8]]
    assert driver.refused == ["full"]


def test_a_piece_that_is_displaced_takes_its_request_along_and_counts_once():
    driver, _ = busy(BatchPolicy(max_batch_size=2, priority_levels=2, max_enqueued_rows=6))
    large = driver.ask([1, 2, 3, 4, 5, 6], priority=2)
    high = driver.ask([7, 8, 9, 10], priority=1)
    driver.settle()
    assert isinstance(large.error, Overloaded)
    assert high.outputs["y"].tolist() == [14, 16, 18, 20]
    assert driver.refused == ["displaced"]
    assert (driver.batcher.queue.rows, driver.batcher.queue.bytes) == (0, 0)


def test_one_that_was_cancelled_while_it_was_displaced_is_told_nothing():
    driver, _ = busy(THREE)
    gone = driver.ask([1, 2, 3, 4], priority=3)
    high = driver.ask([5], priority=1)
    gone.entry.cancel()
    driver.settle()
    assert gone.told == []
    assert high.outputs["y"].tolist() == [10]
    assert driver.refused == []


def test_who_is_displaced_while_the_batcher_closes_is_told_and_the_rest_are_run():
    driver, _ = busy(THREE)
    low, high = driver.ask([1, 2, 3, 4], priority=3), driver.ask([5], priority=1)
    closing = driver.close()
    driver.settle()
    assert closing.done()
    assert isinstance(low.error, Overloaded)
    assert high.outputs["y"].tolist() == [10]


def test_who_has_waited_too_long_is_refused_by_the_clock_alone():
    driver, first = busy(BatchPolicy(queue=QueuePolicy(timeout_s=0.1)))
    late = driver.ask([1])
    driver.loop.advance(0.05)
    in_time = driver.ask([2])
    driver.loop.advance(0.06)
    assert isinstance(late.error, Overloaded)
    assert "within 100 ms (queue_timeout_ms)" in str(late.error)
    driver.settle()
    assert [first.outputs["y"].tolist(), in_time.outputs["y"].tolist()] == [[0], [4]]
    driver.loop.advance(1)
    assert driver.refused == ["late"]
    assert driver.loop.armed == 0


def test_a_batch_that_leaves_when_the_time_is_up_takes_none_that_is_late():
    driver, _ = busy(BatchPolicy(queue=QueuePolicy(timeout_s=0.1)))
    late = driver.ask([1])
    driver.loop.now_s += 0.2  # the loop was busy: its timer has not fired
    driver.settle()
    assert isinstance(late.error, Overloaded)
    assert rows(driver) == [[0]]


def test_who_has_waited_too_long_lets_the_others_of_its_level_go_first():
    patience = QueuePolicy(timeout_s=0.1, action="delay")
    driver, _ = busy(BatchPolicy(max_batch_size=1, priority_levels=2, queue=patience))
    asked = [driver.ask([n], priority=level) for n, level in ((1, 1), (2, 2), (3, 1))]
    driver.loop.advance(0.2)
    asked += [driver.ask([n], priority=level) for n, level in ((4, 2), (5, 1))]
    driver.settle()
    assert rows(driver) == [[0], [5], [1], [3], [4], [2]]
    assert [each.outputs["y"].tolist() for each in asked] == [[2], [4], [6], [8], [10]]
    assert driver.refused == []


def test_each_level_may_have_its_own_patience():
    levels = ((1, QueuePolicy(timeout_s=0.1)),)
    driver, _ = busy(BatchPolicy(priority_levels=2, level_queues=levels))
    hasty, patient = driver.ask([1], priority=1), driver.ask([2], priority=2)
    driver.loop.advance(60)
    assert isinstance(hasty.error, Overloaded)
    driver.settle()
    assert patient.outputs["y"].tolist() == [4]


def test_a_request_in_pieces_has_left_in_time_if_its_first_piece_has():
    driver, _ = busy(BatchPolicy(max_batch_size=1, queue=QueuePolicy(timeout_s=0.1)))
    large = driver.ask([1, 2, 3])
    driver.work()
    driver.launch()
    driver.loop.advance(5)
    driver.settle()
    assert large.outputs["y"].tolist() == [2, 4, 6]
    late = driver.ask([1, 2, 3])
    driver.loop.advance(5)
    assert isinstance(late.error, Overloaded)
    assert driver.refused == ["late"]


def test_a_deadline_that_comes_sooner_than_the_patience_ends():
    driver, _ = busy(BatchPolicy(queue=QueuePolicy(timeout_s=10.0)))
    asked = driver.ask([1], deadline_s=0.5)
    driver.loop.advance(1)
    assert isinstance(asked.error, DeadlineExceeded)
    driver.settle()
    driver.loop.advance(20)
    assert len(asked.told) == 1
    assert driver.refused == []


def test_a_bound_in_requests():
    driver, _ = busy(BatchPolicy(queue=QueuePolicy(max_requests=2)))
    waiting = [driver.ask([1, 2, 3]), driver.ask([4])]
    with pytest.raises(Overloaded, match="2 requests queued of 2 allowed"):
        driver.ask([5])
    driver.settle()
    assert [each.outputs["y"].tolist() for each in waiting] == [[2, 4, 6], [8]]


def test_bytes_are_bounded_where_each_request_has_its_own_size():
    driver, _ = busy(BatchPolicy(max_enqueued_bytes=64))
    waiting = driver.ask(np.zeros((1, 7)))
    with pytest.raises(Overloaded, match=r"56 bytes queued of 64 allowed \(max_enqueued_bytes\), no room for 16 more"):
        driver.ask(np.zeros((1, 2)))
    other = driver.ask(np.zeros((1, 1)))
    driver.settle()
    assert (driver.refused, driver.batcher.queue.bytes) == (["bytes"], 0)
    assert [len(each.outputs["y"]) for each in (waiting, other)] == [1, 1]
    huge = driver.ask(np.zeros((1, 700)))
    driver.settle()
    assert huge.outputs["y"].shape == (1, 700), "an empty queue takes one of any size"


def test_bytes_are_rows_where_all_rows_are_of_one_size():
    driver, _ = busy(BatchPolicy(max_enqueued_bytes=64), row_bytes=16)
    driver.ask(np.zeros((3, 2)))
    with pytest.raises(Overloaded, match=r"48 bytes queued of 64 allowed \(max_enqueued_bytes\), no room for 32 more"):
        driver.ask(np.zeros((2, 2)))
    driver.ask(np.zeros((1, 2)))
    assert driver.refused == ["bytes"]
    assert driver.batcher._levels is None, "so nothing is counted"
    roomy = Driver(double, BatchPolicy(max_enqueued_rows=3, max_enqueued_bytes=1 << 30), row_bytes=16)
    roomy.ask(np.zeros((3, 2)))
    with pytest.raises(Overloaded, match="3 rows queued of 3 allowed"):
        roomy.ask(np.zeros((1, 2)))


@pytest.mark.parametrize(
    "policy",
    [
        BatchPolicy(priority_levels=2),
        BatchPolicy(max_enqueued_bytes=100),
        BatchPolicy(queue=QueuePolicy(timeout_s=1.0)),
    ],
)
def test_there_is_no_lane_where_each_request_is_looked_at(policy):
    assert Driver(double, policy).batcher.lane("x", np.dtype(np.float64), (2,)) is None


def test_a_batch_of_a_preferred_size_leaves_at_once_and_others_wait():
    driver = Driver(double, BatchPolicy(batch_timeout_s=0.01, preferred_batch_sizes=(4, 8)))
    for n in range(3):
        driver.ask([n])
    for _ in range(9):
        driver.loop.turn()
    assert not driver.jobs
    driver.ask([3])
    driver.launch()
    for n in (4, 5):
        driver.ask([n])
    driver.settle()
    assert rows(driver) == [[0, 1, 2, 3]]
    driver.loop.advance(0.02)
    driver.settle()
    assert rows(driver)[1:] == [[4, 5]]
    assert [record.reason for record in driver.records] == ["full", "timeout"]


def test_of_preferred_sizes_the_largest_that_is_there_is_taken():
    driver = Driver(double, BatchPolicy(batch_timeout_s=5.0, preferred_batch_sizes=(2, 6)))
    for n in range(11):
        driver.ask([n])
    driver.settle()
    assert [len(batch) for batch in rows(driver)] == [6, 2, 2]
    driver.loop.advance(6)
    driver.settle()
    assert [len(batch) for batch in rows(driver)] == [6, 2, 2, 1]


def test_preferred_sizes_without_a_delay_make_nobody_wait():
    driver = Driver(double, BatchPolicy(preferred_batch_sizes=(2, 6)))
    for n in range(11):
        driver.ask([n])
    driver.settle()
    assert [len(batch) for batch in rows(driver)] == [6, 2, 2, 1]


# Clocks


@pytest.mark.parametrize("step_s", [-3600.0, -0.001, 3600.0])
@pytest.mark.parametrize(
    "policy",
    [
        BatchPolicy(batch_timeout_s=0.01),
        BatchPolicy(),
        BatchPolicy(priority_levels=2, queue=QueuePolicy(timeout_s=0.5)),
    ],
)
def test_a_clock_that_steps_loses_nothing_and_hangs_nobody(policy, step_s):
    """Timers are the loop's, whose own clock goes on; only the batcher's has stepped."""
    driver = Driver(double, policy)
    asked = [driver.ask([1]), driver.ask([2], deadline_s=1.0)]
    driver.clock_ahead_s = step_s
    asked += [driver.ask([3]), driver.ask([4], deadline_s=7200.0)]
    for _ in range(4):
        driver.settle()
        driver.loop.advance(0.02)
    assert [len(each.told) for each in asked] == [1] * 4, "within the time that they may wait at most"
    assert driver.batcher.queued_rows == driver.batcher.in_flight_rows == 0
    refused = [each for each in asked if each.told[0][1] is not None]
    assert all(isinstance(each.error, DeadlineExceeded | Overloaded) for each in refused)
    assert not refused or step_s > 0, "nobody is late by a clock that has gone back"
    for each in asked:
        if each not in refused:
            assert each.outputs["y"].tolist() == (each.inputs["x"] * 2).tolist()


def test_a_deadline_in_the_past_is_told_at_once_and_queues_nothing():
    driver = Driver(double)
    for deadline_s in (0.0, -5.0):
        with pytest.raises(DeadlineExceeded, match=r"the deadline passed \d+\.\d{3} s before m/1 was asked"):
            driver.ask([1], deadline_s=deadline_s)
    assert (driver.batcher.queued_rows, driver.loop.armed, len(driver.loop.ready)) == (0, 0, 0)
