"""The batcher's rules one by one, driven by hand; real threads and loops are in test_batcher_live.py."""

import numpy as np
import pytest
from batcher.batcher_driver import Asked, Driver

from stfs.batcher.adaptive import Adaptive
from stfs.batcher.batcher import Batcher
from stfs.batcher.dispatch import Dispatcher
from stfs.batcher.fits import Fits
from stfs.batcher.policy import MOST_LOOKS, BatchPolicy, Drain
from stfs.errors import DeadlineExceeded, InvalidInput, InvalidRequest, ModelFailed, Overloaded, Unavailable

POISON = -1.0


def double(inputs):
    if inputs["x"].dtype != object and (inputs["x"] == POISON).any():
        raise ValueError("poison")
    return {"y": inputs["x"] * 2}


def answers(*asked):
    return [each.outputs["y"].tolist() for each in asked]


def sizes(driver):
    return [len(inputs["x"]) for inputs in driver.batches]


# Forming batches


def test_requests_of_one_turn_share_a_batch():
    driver = Driver(double)
    asked = [driver.ask([1]), driver.ask([2, 3]), driver.ask([4])]
    assert (driver.batcher.queued_rows, driver.batcher.in_flight_rows) == (4, 0)
    driver.launch()
    assert (driver.batcher.queued_rows, driver.batcher.in_flight_rows) == (0, 4)
    driver.settle()
    assert (driver.batcher.queued_rows, driver.batcher.in_flight_rows) == (0, 0)
    assert sizes(driver) == [4]
    assert answers(*asked) == [[2], [4, 6], [8]]


def test_a_lone_request_leaves_at_the_end_of_the_turn():
    driver = Driver(double)
    driver.ask([1])
    driver.loop.turn()
    assert len(driver.jobs) == 1


def test_company_of_the_next_turns_joins_while_it_comes_and_for_a_few_turns_at_most():
    driver = Driver(double)
    driver.ask([1])
    driver.ask([1])
    for _ in range(20):
        driver.loop.turn()
        if driver.jobs:
            break
        driver.ask([1])
    assert driver.batcher.in_flight_rows == 2 + MOST_LOOKS
    driver.settle()
    quiet = Driver(double)
    quiet.ask([1])
    quiet.ask([1])
    quiet.loop.turn()
    assert not quiet.jobs
    quiet.loop.turn()
    assert quiet.batcher.in_flight_rows == 2


def test_a_full_batch_waits_for_no_company():
    driver = Driver(double, BatchPolicy(max_batch_size=3))
    for _ in range(3):
        driver.ask([1])
    driver.loop.turn()
    assert driver.batcher.in_flight_rows == 3


def test_stragglers_go_with_those_who_ask_again_where_runs_cost_next_to_nothing():
    """Twelve clients in a closed loop, of whom one has fallen out of step."""
    driver = Driver(double)

    def work() -> None:
        driver.loop.now_s += 0.0001
        driver.work()

    for _ in range(20):  # it learns what runs cost
        driver.ask([0])
        driver.launch()
        work()
        driver.settle()

    def again(outputs, error):
        driver.ask([1])

    for _ in range(11):
        driver.batcher.submit({"x": np.zeros(1)}, 1, again)
    driver.launch()
    driver.ask([2])
    work()
    driver.loop.turn()
    assert driver.batcher.in_flight_rows == 0
    driver.launch()
    assert driver.batcher.in_flight_rows == 12


@pytest.mark.parametrize("step", ["decide", "arrived", "finished"])
def test_a_policy_that_fails_keeps_nobody_waiting(step, monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(Adaptive, step, fail)
    driver = Driver(double)
    asked = [driver.ask([1]), driver.ask([2])]
    driver.settle()
    asked.append(driver.ask([3]))
    driver.settle()
    assert answers(*asked) == [[2], [4], [6]]
    assert "the adaptive policy failed" in caplog.text


@pytest.mark.parametrize(("room", "step"), [(Drain, "after"), (Fits, "learn"), (Dispatcher, "_step_adaptive")])
def test_a_fault_of_the_batchers_own_after_a_batch_loses_no_answer(room, step, monkeypatch, caplog):
    driver = Driver(double)
    first = [driver.ask([1]), driver.ask([POISON])]
    driver.launch()
    next_one = driver.ask([3])
    with monkeypatch.context() as faulty:
        faulty.setattr(room, step, lambda *_, **__: 1 / 0)
        driver.work()
        driver.loop.turn()
    assert answers(first[0]) == [[2]]
    assert "poison" in str(first[1].error)
    assert "a fault of the batcher's own" in caplog.text
    driver.settle()
    assert answers(next_one) == [[6]]
    assert (driver.batcher.queued_rows, driver.batcher.in_flight_rows) == (0, 0)


def test_a_batch_that_cannot_be_started_is_answered(monkeypatch):
    driver = Driver(double)

    def fail(*_):
        raise ZeroDivisionError("float division by zero")

    asked = driver.ask([1])
    with monkeypatch.context() as faulty:
        faulty.setattr(driver.batcher.dispatcher, "start", fail)
        driver.settle()
    assert "division by zero" in str(asked.error)
    after = driver.ask([2])
    driver.settle()
    assert answers(after) == [[4]]


def test_batches_form_while_the_model_is_busy():
    driver = Driver(double)
    driver.ask([0])
    driver.loop.turn()
    later = []
    for value in range(1, 6):
        later.append(driver.ask([value]))
        driver.loop.turn()
    assert len(driver.jobs) == 1, "one batch in flight"
    driver.settle()
    assert sizes(driver) == [1, 5]
    assert answers(*later) == [[2], [4], [6], [8], [10]]


def test_the_next_batch_leaves_before_the_last_is_answered():
    driver = Driver(double)
    order = []
    driver.batcher.submit({"x": np.zeros(1)}, 1, lambda o, e: order.append(len(driver.jobs)))
    driver.loop.turn()
    driver.ask([1])
    driver.work()
    driver.loop.turn()
    assert order == [1]


def test_a_batch_holds_no_more_than_its_rows():
    driver = Driver(double, BatchPolicy(max_batch_size=4))
    asked = [driver.ask([i, i]) for i in range(5)]
    driver.settle()
    assert sizes(driver) == [4, 4, 2]
    assert answers(*asked) == [[2 * i, 2 * i] for i in range(5)]
    assert [r.reason for r in driver.records] == ["full", "full", "idle"]


def test_only_equal_keys_share_a_batch_and_the_oldest_goes_first():
    driver = Driver(double)
    wide, narrow = np.ones((1, 3)), np.ones((1, 2))
    asked = [driver.ask(x) for x in (wide, narrow, narrow * 2, wide * 2, narrow.astype(np.int64), wide * 3)]
    driver.settle()
    assert [inputs["x"].shape for inputs in driver.batches] == [(3, 3), (2, 2), (1, 2)]
    assert [a.outputs["y"][0, 0] for a in asked] == [2, 2, 4, 4, 2, 6]
    assert asked[4].outputs["y"].dtype == np.int64


def test_strings_share_a_batch():
    driver = Driver(double)
    asked = [driver.ask(np.array(words, object)) for words in ([b"a"], [b"b", b"c"])]
    driver.settle()
    assert answers(*asked) == [[b"aa"], [b"bb", b"cc"]]
    assert sizes(driver) == [3]


def test_one_request_reaches_the_model_without_a_copy():
    driver = Driver(double)
    asked = driver.ask([1, 2])
    driver.settle()
    assert driver.batches[0] is asked.inputs


def test_allowed_sizes_are_padded_to():
    driver = Driver(double, BatchPolicy(max_batch_size=8, allowed_batch_sizes=(2, 4, 8)))
    asked = [driver.ask([1]), driver.ask([2, 3])]
    driver.settle()
    alone = driver.ask([5])
    driver.settle()
    assert [inputs["x"].tolist() for inputs in driver.batches] == [[1, 2, 3, 3], [5, 5]]
    assert answers(*asked, alone) == [[2], [4, 6], [10]]
    assert [(r.rows, r.padded_rows) for r in driver.records] == [(3, 4), (1, 2)]


def test_no_rows_run_alone():
    driver = Driver(double)
    asked = [driver.ask([1]), driver.ask([]), driver.ask([2]), driver.ask([])]
    assert driver.batcher.queued_rows == 4
    driver.settle()
    assert sizes(driver) == [2, 0, 0]
    assert answers(*asked) == [[2], [], [4], []]
    assert driver.batcher.queued_rows == driver.batcher.in_flight_rows == 0


def test_wrong_row_count_is_refused_before_it_shifts_neighbours():
    driver = Driver(double)
    with pytest.raises(InvalidInput, match=r'input "x".*2 rows'):
        driver.batcher.submit({"x": np.zeros((3, 1))}, 2, Asked({}))
    assert driver.batcher.queued_rows == 0


def test_a_reply_may_ask_again():
    driver = Driver(double)
    second = []
    driver.batcher.submit({"x": np.ones(1)}, 1, lambda o, e: second.append(driver.ask(o["y"])))
    driver.settle()
    assert answers(*second) == [[4]]


# Waiting for company


def test_a_lone_request_waits_for_company_and_no_longer():
    driver = Driver(double, BatchPolicy(max_batch_size=8, batch_timeout_s=0.010))
    first = driver.ask([1])
    driver.loop.turn()
    driver.loop.advance(0.006)
    second = driver.ask([2])
    driver.loop.turn()
    driver.loop.advance(0.003)
    assert not driver.jobs
    driver.loop.advance(0.0011)
    driver.settle()
    assert answers(first, second) == [[2], [4]]
    assert [(r.rows, r.reason) for r in driver.records] == [(2, "timeout")]
    assert driver.records[0].queue_wait_s == pytest.approx(0.010)


def test_a_full_batch_does_not_wait():
    driver = Driver(double, BatchPolicy(max_batch_size=2, batch_timeout_s=10.0))
    driver.ask([1])
    driver.loop.turn()
    assert not driver.jobs
    driver.ask([2])
    driver.settle()
    assert [(r.rows, r.reason) for r in driver.records] == [(2, "full")]
    assert not driver.loop.armed


def test_waiting_outlives_the_cancellation_of_who_waited_first():
    driver = Driver(double, BatchPolicy(batch_timeout_s=0.010))
    first = driver.ask([1])
    driver.loop.turn()
    driver.loop.advance(0.005)
    second = driver.ask([2])
    first.entry.cancel()
    driver.loop.turn()
    driver.loop.advance(0.006)
    assert not driver.jobs, "the second has waited for 6 ms"
    driver.loop.advance(0.005)
    driver.settle()
    assert first.told == []
    assert answers(second) == [[4]]


# Large requests


def test_a_large_request_is_cut_and_joined_in_order():
    driver = Driver(double, BatchPolicy(max_batch_size=4))
    large, small = driver.ask(list(range(11))), driver.ask([100])
    driver.settle()
    assert sizes(driver) == [4, 4, 4]
    assert answers(large, small) == [[2 * i for i in range(11)], [200]]


def test_one_bad_piece_fails_the_whole_once_and_spares_the_rest():
    driver = Driver(double, BatchPolicy(max_batch_size=2))
    large, small = driver.ask([1, 1, POISON, 1, 1, 1, 1, 1]), driver.ask([3])
    driver.settle()
    assert type(large.error) is ModelFailed
    assert answers(small) == [[6]]
    # The piece behind the failed one had left before the failure was known; the one after it never ran.
    assert sizes(driver) == [2, 2, 2, 1]
    assert driver.batcher.queued_rows == 0


def test_a_large_request_is_cancelled_whole():
    driver = Driver(double, BatchPolicy(max_batch_size=2))
    large = driver.ask([1] * 7)
    driver.loop.turn()
    large.entry.cancel()
    assert driver.batcher.queued_rows == 0
    driver.settle()
    assert sizes(driver) == [2]
    assert large.told == []


def test_a_large_request_is_late_whole():
    driver = Driver(double, BatchPolicy(max_batch_size=2))
    large = driver.ask([1] * 7, deadline_s=1.0)
    driver.loop.turn()
    driver.loop.advance(1.0)
    assert type(large.error) is DeadlineExceeded
    assert driver.batcher.queued_rows == 0
    driver.settle()
    assert sizes(driver) == [2]
    assert len(large.told) == 1


def test_pieces_that_do_not_stack_fail_the_whole():
    shapes = iter([2, 3])

    def run(inputs):
        return {"y": np.zeros((len(inputs["x"]), next(shapes)))}

    driver = Driver(run, BatchPolicy(max_batch_size=2))
    large = driver.ask([1, 2, 3])
    driver.settle()
    assert type(large.error) is ModelFailed
    assert 'output "y"' in str(large.error)


# Failures


def test_only_the_guilty_fails():
    driver = Driver(double)
    asked = [driver.ask([value]) for value in (1, 2, POISON, 4, 5)]
    driver.settle()
    guilty = asked.pop(2)
    assert type(guilty.error) is ModelFailed
    assert isinstance(guilty.error.__cause__, ValueError)
    assert answers(*asked) == [[2], [4], [8], [10]]
    assert driver.records[0].failed
    assert {r.reason for r in driver.records[1:]} == {"retry"}
    assert len(driver.records) == len(driver.batches)


def test_a_reply_that_raises_does_not_hurt_its_neighbours(caplog):
    def reply(outputs, error):
        raise ValueError("client code")

    driver = Driver(double)
    driver.batcher.submit({"x": np.zeros(1)}, 1, reply)
    neighbour = driver.ask([1])
    driver.settle()
    assert answers(neighbour) == [[2]]
    assert "client code" in caplog.text


@pytest.mark.parametrize("late", [False, True])
def test_a_reply_that_ends_the_process_lets_its_neighbours_hear_first(late):
    def reply(outputs, error):
        raise SystemExit(3)

    driver = Driver(double)
    driver.batcher.submit({"x": np.zeros(1)}, 1, reply, driver.loop.now_s + 1.0)
    neighbour = driver.ask([1], deadline_s=1.0)
    driver.launch()
    if late:
        driver.loop.advance(1.0)
    driver.work()
    with pytest.raises(SystemExit):
        driver.settle()
    driver.settle()
    assert len(neighbour.told) == 1
    assert driver.batcher.queued_rows == driver.batcher.in_flight_rows == 0


def test_an_observer_that_raises_is_survived(caplog):
    driver = Driver(double)
    driver.batcher.dispatcher.observer = lambda record: 1 / 0
    asked = driver.ask([1])
    driver.settle()
    assert answers(asked) == [[2]]
    assert "ZeroDivisionError" in caplog.text


def test_no_thread_to_be_had_is_told(caplog):
    driver = Driver(double)

    def no_thread(job):
        raise RuntimeError("can't start new thread")

    driver.batcher.dispatcher.start = no_thread
    asked = driver.ask([1])
    driver.settle()
    assert type(asked.error) is ModelFailed
    assert "can't start new thread" in str(asked.error)
    driver.batcher.dispatcher.start = driver.jobs.append
    again = driver.ask([2])
    driver.settle()
    assert answers(again) == [[4]]
    assert driver.batcher.in_flight_rows == 0


def test_a_failure_of_the_batcher_itself_loses_nobody(caplog):
    driver = Driver(double)
    (place,) = driver.batcher.places
    place.runner = lambda batch: 1 / 0
    asked = [driver.ask([1]), driver.ask([2])]
    driver.settle()
    assert all(type(a.error) is ModelFailed for a in asked)


def test_a_loop_that_closed_during_a_run_is_survived():
    driver = Driver(double)
    driver.ask([1])
    driver.loop.turn()

    def closed(*args):
        raise RuntimeError("Event loop is closed")

    driver.loop.call_soon_threadsafe = closed
    driver.work()


# Going away


def test_who_cancels_in_the_queue_is_not_run():
    driver = Driver(double)
    asked = [driver.ask([1]), driver.ask([2])]
    asked[0].entry.cancel()
    driver.settle()
    assert [inputs["x"].tolist() for inputs in driver.batches] == [[2]]
    assert asked[0].told == []
    assert answers(asked[1]) == [[4]]


def test_all_cancelled_means_no_run():
    driver = Driver(double)
    driver.ask([1]).entry.cancel()
    driver.settle()
    assert driver.batches == []
    assert driver.batcher.queued_rows == 0


def test_who_cancels_in_flight_is_not_told():
    driver = Driver(double)
    asked = [driver.ask([1]), driver.ask([2])]
    driver.launch()
    asked[0].entry.cancel()
    assert driver.batcher.in_flight_rows == 2
    driver.settle()
    assert asked[0].told == []
    assert answers(asked[1]) == [[4]]


def test_late_in_the_queue_of_a_busy_model_is_told_in_time():
    driver = Driver(double)
    driver.ask([0])
    driver.loop.turn()
    late, patient = driver.ask([1], deadline_s=0.5), driver.ask([2], deadline_s=9.0)
    driver.loop.advance(0.4)
    assert late.told == []
    driver.loop.advance(0.101)
    assert type(late.error) is DeadlineExceeded
    assert driver.batcher.queued_rows == 1
    driver.settle()
    assert sizes(driver) == [1, 1]
    assert answers(patient) == [[4]]
    assert len(late.told) == 1


def test_late_in_the_model_is_told_in_time_and_the_result_dropped():
    driver = Driver(double)
    late, patient = driver.ask([1], deadline_s=0.5), driver.ask([2])
    driver.launch()
    driver.loop.advance(0.501)
    assert type(late.error) is DeadlineExceeded
    assert driver.batcher.in_flight_rows == 2
    driver.settle()
    assert len(late.told) == 1
    assert answers(patient) == [[4]]


def test_an_earlier_deadline_moves_the_timer_up():
    driver = Driver(double)
    driver.ask([0])
    driver.loop.turn()
    second, first = driver.ask([1], deadline_s=2.0), driver.ask([2], deadline_s=1.0)
    driver.loop.advance(1.0)
    assert type(first.error) is DeadlineExceeded
    assert second.told == []
    driver.loop.advance(1.0)
    assert type(second.error) is DeadlineExceeded
    assert driver.loop.armed == 0


def test_late_ones_are_not_run_by_a_loop_too_busy_for_its_timers():
    driver = Driver(double)
    driver.ask([0])
    driver.loop.turn()
    late, patient = driver.ask([1], deadline_s=0.5), driver.ask([2])
    driver.loop.now_s += 1.0
    driver.settle()
    assert type(late.error) is DeadlineExceeded
    assert answers(patient) == [[4]]
    assert sizes(driver) == [1, 1]


def test_late_before_it_comes_is_refused():
    driver = Driver(double)
    with pytest.raises(DeadlineExceeded):
        driver.ask([1], deadline_s=0.0)
    with pytest.raises(DeadlineExceeded):
        driver.ask([1], deadline_s=-1.0)
    assert driver.batcher.queued_rows == 0
    assert not driver.loop.ready


# Too much


def test_a_full_queue_refuses_and_says_when_to_come_back():
    driver = Driver(double, BatchPolicy(max_batch_size=4, max_enqueued_rows=6))
    driver.ask([0])
    driver.loop.turn()
    asked = [driver.ask([1, 2, 3]), driver.ask([4, 5])]
    with pytest.raises(Overloaded, match="5 rows queued of 6 allowed, no room for 2 more") as refused:
        driver.ask([6, 7])
    assert refused.value.retry_after_s == 1.0, "no batch has finished yet"
    asked.append(driver.ask([6]))
    driver.settle()
    assert answers(*asked) == [[2, 4, 6], [8, 10], [12]]
    asked = driver.ask([7])
    driver.settle()
    assert answers(asked) == [[14]]


def test_coming_back_is_estimated_from_the_rate():
    driver = Driver(double, BatchPolicy(max_batch_size=10, max_enqueued_rows=100))

    def run(inputs):
        driver.loop.now_s += 0.5
        return double(inputs)

    driver.run = run
    for _ in range(10):
        driver.ask([1] * 10)
    driver.settle()
    driver.ask([1] * 100)
    with pytest.raises(Overloaded) as refused:
        driver.ask([1])
    assert refused.value.retry_after_s == pytest.approx(100 / 20)


def test_more_than_the_bound_fits_into_an_empty_queue_only():
    driver = Driver(double, BatchPolicy(max_batch_size=4, max_enqueued_rows=6))
    large = driver.ask([1] * 9)
    assert driver.batcher.queued_rows == 9
    with pytest.raises(Overloaded):
        driver.ask([1])
    driver.settle()
    assert answers(large) == [[2] * 9]
    driver.ask([0])
    with pytest.raises(Overloaded):
        driver.ask([1] * 9)


# Without merging


def test_without_merging_each_request_is_a_run_of_its_own():
    outputs = {"y": np.zeros((9, 1)), "z": np.array(2)}
    policy = BatchPolicy(batch_timeout_s=5.0, allowed_batch_sizes=(64, 128), max_enqueued_rows=3)
    driver = Driver(lambda inputs: outputs, policy, merge=False)
    asked = [driver.ask(x) for x in (np.array(1.0), np.zeros((200, 3)), np.zeros((2, 2)))]
    assert driver.batcher.queued_rows == 3
    with pytest.raises(Overloaded):
        driver.ask(np.zeros(1))
    driver.settle()
    assert all(a.outputs is outputs for a in asked)
    assert [given is a.inputs for given, a in zip(driver.batches, asked, strict=True)] == [True] * 3
    assert [(r.rows, r.padded_rows, r.requests) for r in driver.records] == [(1, 1, 1)] * 3


def test_without_merging_failures_stay_alone():
    def run(inputs):
        if inputs["x"].ndim == 0:
            raise InvalidRequest("no scalars")
        return inputs

    driver = Driver(run, merge=False)
    bad, good = driver.ask(np.array(1.0)), driver.ask(np.ones(2))
    driver.settle()
    assert str(bad.error) == "no scalars"
    assert good.outputs["x"].tolist() == [1, 1]
    assert len(driver.batches) == 2


# Closing


def test_closing_answers_what_was_taken_and_refuses_what_comes():
    driver = Driver(double, BatchPolicy(max_batch_size=2))
    asked = [driver.ask([value]) for value in (1, 2, 3)]
    driver.loop.turn()
    closing = driver.close()
    with pytest.raises(Unavailable):
        driver.ask([4])
    assert not closing.done()
    driver.settle()
    assert closing.done()
    assert answers(*asked) == [[2], [4], [6]]
    assert [r.reason for r in driver.records] == ["full", "drain"]
    assert driver.loop.armed == 0


def test_closing_does_not_wait_for_company():
    driver = Driver(double, BatchPolicy(batch_timeout_s=60.0))
    asked = driver.ask([1], deadline_s=3600.0)
    driver.loop.turn()
    closing = driver.close()
    driver.settle()
    assert closing.done()
    assert answers(asked) == [[2]]
    assert driver.loop.armed == 0


def test_closing_twice_and_after_a_cancelled_request():
    driver = Driver(double)
    driver.ask([1]).entry.cancel()
    first, second = driver.close(), driver.close()
    driver.settle()
    assert first.done()
    assert second.done()
    assert driver.batches == []


def test_a_batcher_that_never_ran_closes_and_starts_no_thread():
    driver = Driver(double)
    driver.batcher = Batcher(double, BatchPolicy(), name="m/1", loop=driver.loop)
    closing = driver.close()
    driver.settle()
    assert closing.done()
    assert not any(place.thread.started for place in driver.batcher.places)
