"""The adaptive policy as values: what it learns, when it waits, how large a batch it wants, whom it refuses."""

import math
import random

import pytest
from batcher.batcher_driver import Driver

from stfs.batcher.adaptive import NOTHING, REFUSE, Adaptive, Wants
from stfs.batcher.cost import LEAST_BATCHES, Cost, guess_cost
from stfs.batcher.policy import BatchPolicy

GPU = Cost(4e-3, 0.08e-3, 0.05)
LIN = Cost(0.2e-3, 3e-3, 0.05)


def learnt(cost=GPU, max_rows=128, batches=LEAST_BATCHES, rows=8, calibrated=None):
    """A policy that has seen some batches, and its time."""
    policy = Adaptive(max_rows, calibrated or cost)
    now = 0.0
    for _ in range(batches):
        for i in range(rows):
            policy.arrived(now + i * 1e-5, 1, i + 1)
        now += 1e-3 + cost.of(rows)
        policy.finished(now, rows, cost.of(rows), 0)
    return policy, now


def test_it_is_eager_while_it_knows_nothing():
    policy = Adaptive(8)
    assert policy.decide(0.0, 0, 0, math.inf) == NOTHING
    policy.arrived(0.0, 1, 1)
    assert policy.decide(0.0, 1, 0, math.inf) == Wants(8, 0.0, "idle")
    assert policy.decide(0.0, 5, 1, math.inf) == NOTHING
    assert policy.decide(0.0, 5, 0, 0.0) == Wants(8, 0.0, "idle"), "and refuses nothing"


def test_a_lone_client_never_waits():
    policy = Adaptive(128, GPU)
    now = 0.0
    for _ in range(200):
        now += 1e-4
        policy.arrived(now, 1, 1)
        assert policy.decide(now, 1, 0, math.inf).take_rows == 128
        now += GPU.of(1)
        policy.finished(now, 1, GPU.of(1), 0)


def test_a_cohort_is_waited_for_and_leaves_when_it_is_there():
    policy, now = learnt(rows=8)
    waits = []
    for present in range(1, 9):
        now += 5e-5
        policy.arrived(now, 1, present)
        wants = policy.decide(now, present, 0, math.inf)
        waits.append(wants.wait_s > 0 and not wants.take_rows)
    assert waits == [True] * 7 + [False]
    assert wants.reason == "deferral"


def test_it_does_not_wait_for_what_does_not_come():
    policy, now = learnt(rows=8)
    policy.arrived(now, 1, 1)
    wants = policy.decide(now, 1, 0, math.inf)
    assert 0 < wants.wait_s <= GPU.alpha_s / 2
    waited = 0.0
    while not wants.take_rows:
        now += wants.wait_s
        waited += wants.wait_s
        wants = policy.decide(now, 1, 0, math.inf)
        assert waited <= GPU.alpha_s / 2 + 1e-9
    assert wants.reason == "deferral"
    # What did not pay is not done again at once.
    policy.finished(now + GPU.of(1), 1, GPU.of(1), 0)
    policy.arrived(now + 2 * GPU.of(1), 1, 1)
    assert policy.decide(now + 2 * GPU.of(1), 1, 0, math.inf).reason == "idle"


def test_no_waiting_where_a_run_is_cheap():
    policy, now = learnt(Cost(0.05e-3, 0.01e-3, 0.05), rows=8)
    policy.arrived(now, 1, 1)
    assert policy.decide(now, 1, 0, math.inf).take_rows == 128


def test_batches_are_smaller_where_a_row_costs_more_than_a_run():
    policy = Adaptive(32, LIN)
    policy.arrived(0.0, 1, 1)
    sizes = [policy.decide(0.0, queued, 0, math.inf).take_rows for queued in (1, 8, 32, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[1] < 8
    assert sizes[-1] <= 32
    assert Adaptive(128, GPU).decide(0.0, 8, 0, math.inf).take_rows == 128


def test_the_oldest_is_refused_when_it_cannot_be_in_time():
    policy, now = learnt()
    needed = GPU.of(20)
    assert policy.decide(now, 20, 0, now + needed / 2) == REFUSE
    assert policy.decide(now, 20, 0, now + 2 * needed).take_rows == 128


def test_more_is_ventured_where_a_refusal_leaves_a_place_empty():
    """Who goes with all the others is refused only if late by far; who keeps another from going, if perhaps."""
    policy, now = learnt()
    tight = now + 1.04 * GPU.of(128)
    assert policy.decide(now, 128, 0, tight).take_rows == 128
    assert policy.decide(now, 129, 0, tight) == REFUSE


def test_a_probe_runs_after_a_silence():
    policy, now = learnt()
    assert policy.decide(now, 1, 0, now) == REFUSE
    assert policy.decide(now + 5 * GPU.of(1), 1, 0, now).take_rows == 128


def test_runs_that_tell_nothing_are_not_learnt_from():
    policy, now = learnt()
    before = policy.cost
    policy.finished(now + 1, 0, 100.0, 0)
    assert policy.cost == before


def test_rows_that_turn_out_to_cost_nothing_are_all_taken():
    policy = Adaptive(2, Cost(1e-9, 1e-4))
    for i in range(50):
        policy.finished(i * 1e-3, 1 + i % 2, (1e-3, 1e-6)[i % 2], 0)
    assert policy.decide(1.0, 500, 0, math.inf).take_rows == 2


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_events_is_answered(seed):
    """Whatever it is told, it answers: rows to take, one to refuse, or a time to wait that is not in the past."""
    rng = random.Random(seed)
    noise = Cost(rng.random() * rng.choice((0, 1e-7, 1e-4)), 1e-12 + rng.random() * rng.choice((1e-9, 1e-6, 1e-4)))
    policy = Adaptive(rng.choice((1, 4, 128)), rng.choice((None, GPU, LIN, noise)))
    now, queued, flying = 0.0, 0, 0
    for _ in range(3000):
        now += rng.choice((0.0, 1e-6, 1e-3, 1.0, 1e5))
        kind = rng.randrange(3)
        if kind == 0:
            rows = rng.choice((0, 1, 7))
            queued += rows
            policy.arrived(now, rows, queued + flying)
        elif kind == 1 and flying:
            policy.finished(now, flying, rng.choice((0.0, 1e-9, 1e-3, 50.0)), queued)
            flying = 0
        wants = policy.decide(now, queued, int(flying > 0), rng.choice((math.inf, now, now - 5, now + 1)))
        assert not math.isnan(wants.wait_s)
        assert wants.wait_s >= 0
        if not queued or flying:
            assert wants == NOTHING
        elif wants.refuse:
            queued -= 1
        elif wants.take_rows:
            flying = min(queued, wants.take_rows)
            queued -= flying
        else:
            assert 0 < wants.wait_s < math.inf, "a queue is not left alone while nothing runs"
    assert policy.cost.alpha_s >= 0
    assert policy.cost.beta_s >= 0


@pytest.mark.parametrize("odd_s", [3600.0, 1e9, -50.0, 0.0])
def test_one_odd_figure_is_not_learnt(odd_s):
    """A machine that was suspended during a run, or a clock that was set."""
    policy, now = learnt(batches=50)
    policy.finished(now + odd_s, 8, odd_s, 0)
    assert policy.cost.of(8) == pytest.approx(GPU.of(8), rel=0.4)
    assert policy.decide(now + odd_s, 20, 0, now + odd_s + 2 * GPU.of(20)).take_rows == 128, "nobody is refused for it"


@pytest.mark.parametrize("step_s", [-1e7, -3600.0, 1000.0, 1e7])
def test_a_clock_that_steps_breaks_nothing(step_s):
    """Of a model whose arrivals are counted, and one whose cohorts are waited for."""
    for cost in (LIN, GPU):
        policy, now = learnt(cost, batches=20)
        for _ in range(2):
            now += step_s
            for present in range(1, 100):
                now += 1e-4
                policy.arrived(now, 1, present)
            assert 0 <= policy._rate <= 1.1e4
            assert policy._gap_s >= 0
            wants = policy.decide(now, 99, 0, math.inf)
            assert wants.take_rows or 0 < wants.wait_s < 1
            for _ in range(20):
                now += cost.of(8)
                policy.finished(now, 8, cost.of(8), 0)
        assert policy.cost.of(8) == pytest.approx(cost.of(8), rel=0.3)


def served_first_burst(row_s, fixed_s, timed, slo_s, requests, cost="guess"):
    """A burst on a model that nothing has learnt of, on simulated time: when each was answered, and when refused."""
    driver = Driver(
        lambda inputs: {"y": inputs["x"]},
        BatchPolicy(max_batch_size=64, latency_slo_s=slo_s),
        cost=guess_cost([(rows, fixed_s + rows * row_s) for rows in timed]) if cost == "guess" else None,
    )
    began_s = driver.loop.now_s
    asked = [driver.ask([n]) for n in range(requests)]
    told_s = {}
    while driver.loop.ready or driver.jobs:
        if driver.jobs:
            driver.work()
            driver.loop.advance(fixed_s + row_s * len(driver.batches[-1]["x"]))
        driver.loop.turn()
        for number, one in enumerate(asked):
            if one.told:
                told_s.setdefault(number, driver.loop.now_s - began_s)
    assert all(len(one.told) == 1 for one in asked)
    refused = [number for number, one in enumerate(asked) if one.told[0][1] is not None]
    answered_s = [told_s[number] for number in range(requests) if number not in refused]
    return answered_s, [told_s[number] for number in refused], [asked[number].error for number in refused]


@pytest.mark.parametrize("timed", [(1,), (1, 2)])
def test_a_first_burst_is_in_time_or_refused_before_by_what_few_runs_told(timed):
    answered, refused, errors = served_first_burst(0.05, 0.0, timed, 0.21, 10)
    assert len(answered) == 4
    assert max(answered) <= 0.21
    assert len(refused) == 6
    assert max(refused) < 0.21, "while there is time to ask elsewhere"
    assert "s that are left of latency_slo_ms (210), with " in str(errors[0])
    answered, _, _ = served_first_burst(0.05, 0.0, timed, 0.21, 10, cost=None)
    assert max(answered) > 0.21, "what it is without"


def test_a_first_burst_is_not_held_up_where_rows_cost_nothing():
    answered, refused, _ = served_first_burst(0.0, 0.05, (1, 2), 0.21, 10)
    assert (len(answered), refused) == (10, [])


def test_hopeless_requests_are_refused_at_once_but_one():
    answered, refused, _ = served_first_burst(0.05, 0.0, (1,), 0.04, 10)
    assert len(answered) == 1, "if nothing ever ran, nothing would be learnt"
    assert refused == [0.0] * 9


def test_a_guess_shapes_nothing_once_enough_is_known():
    policy = Adaptive(64, guess_cost([(1, 0.05)]))
    for _ in range(LEAST_BATCHES):
        policy.finished(0.0, 8, 0.01, 0)
    assert policy.decide(0.0, 8, 0, 0.1).take_rows == 64
