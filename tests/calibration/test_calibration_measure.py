"""Timing a model at load, with a clock that the test owns."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from stfs.calibration.measure import BUDGET_S, OVERLAP_ROUNDS, measure_overlap, time_sizes, two_at_once
from stfs.calibration.result import fitted


class Timed:
    """A model whose runs take ``alpha + beta * rows`` seconds of its own clock; the first at a size takes a second."""

    def __init__(self, alpha, beta, first=0.0):
        self.now, self.alpha, self.beta, self.first = 0.0, alpha, beta, first
        self.sizes = []

    def run(self, rows):
        self.now += self.alpha + self.beta * rows + (self.first if rows not in self.sizes else 0.0)
        self.sizes.append(rows)


def timed(model, max_rows):
    return fitted(time_sizes(model.run, lambda rows: rows, max_rows, lambda: model.now)).cost


def test_each_size_is_run_twice_and_the_quicker_one_counts():
    model = Timed(1e-3, 1e-5, first=0.01)
    cost = timed(model, 100)
    assert model.sizes == [size for b in (1, 2, 4, 8, 16, 32, 64, 100) for size in (b, b)]
    assert (cost.alpha_s, cost.beta_s) == (pytest.approx(1e-3), pytest.approx(1e-5))


def test_a_slow_model_is_timed_at_small_sizes_only():
    model = Timed(0.0, 0.02)
    cost = timed(model, 128)
    assert model.sizes == [1, 1, 2, 2, 4, 4]
    assert model.now <= BUDGET_S
    assert cost.beta_s == pytest.approx(0.02)


@pytest.mark.parametrize(("model", "max_rows"), [(Timed(0.3, 0.0), 128), (Timed(1e-3, 0.0), 2), (Timed(1e-3, 0.0), 1)])
def test_too_little_is_a_guess_and_no_more(model, max_rows):
    cost = timed(model, max_rows)
    assert cost.is_guess
    assert cost.of(1) == pytest.approx(model.alpha + model.beta)


# --- two at once ------------------------------------------------------------------------------------------------------


class Device:
    """Runs take ``run_s`` of its clock each in turn; two at once take ``pair_s`` for both."""

    def __init__(self, run_s, pair_s):
        self.now, self.run_s, self.pair_s, self.runs = 0.0, run_s, pair_s, 0

    def run(self):
        self.runs += 1
        self.now += self.run_s

    def at_once(self, job, jobs):
        before = self.now
        two_at_once(job, jobs)
        self.now = before + self.pair_s

    def overlap(self):
        return measure_overlap(self.run, self.run_s, lambda: self.now, self.at_once)


@pytest.mark.parametrize(("pair_s", "overlap", "in_flight"), [(0.02, 1.0, 1), (0.0125, 1.6, 2), (0.03, 2 / 3, 1)])
def test_the_rate_of_two_at_once_against_one_after_another(pair_s, overlap, in_flight):
    device = Device(0.01, pair_s)
    found, why = device.overlap()
    assert (found, why) == (pytest.approx(overlap), "")
    assert device.runs == 2 + 4 * OVERLAP_ROUNDS
    assert fitted((), overlap=found).in_flight == in_flight


@pytest.mark.parametrize("run_s", [1e-5, 0.1])
def test_runs_too_short_or_too_long_are_not_tried(run_s):
    device = Device(run_s, run_s)
    found, why = device.overlap()
    assert found is None
    assert why
    assert not device.runs


def test_both_threads_are_in_the_run_at_the_same_time():
    meeting = threading.Barrier(2)
    with ThreadPoolExecutor(2) as jobs:
        two_at_once(lambda: meeting.wait(30), jobs)  # alone, either would wait for ever


def test_what_a_run_raises_at_once_is_raised():
    def fail():
        raise RuntimeError("not from two threads")

    with ThreadPoolExecutor(2) as jobs, pytest.raises(RuntimeError, match="not from two threads"):
        two_at_once(fail, jobs)
