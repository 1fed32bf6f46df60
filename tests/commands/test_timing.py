"""Timing of batch sizes: what is run and how often by a clock of its own, and what is suggested."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from stfs.commands.timing import GOOD_SHARE, LEAST_RUNS, RUNS, Timed, sizes_up_to, suggest, time_sizes


class Model:
    """Takes ``alpha + beta * rows`` seconds of a clock that only it moves."""

    def __init__(self, alpha_s, beta_s):
        self.alpha_s, self.beta_s, self.now_s, self.runs = alpha_s, beta_s, 0.0, []

    def run(self, rows):
        self.runs.append(rows)
        self.now_s += self.alpha_s + self.beta_s * rows

    def times(self, sizes, budget_s):
        return time_sizes(self.run, lambda rows: rows, sizes, budget_s, clock=lambda: self.now_s)


def test_every_size_is_timed_where_there_is_time():
    model = Model(0.001, 0.0001)
    timed = model.times([1, 2, 4, 8], 10.0)
    assert [one.rows for one in timed] == [1, 2, 4, 8]
    for one in timed:
        assert math.isclose(one.run_s, 0.001 + 0.0001 * one.rows, rel_tol=1e-6)
        assert model.runs.count(one.rows) == RUNS + 1, "the first run is not counted"


def test_a_slow_model_is_timed_at_its_smallest_sizes():
    model = Model(1.0, 1.0)
    timed = model.times(sizes_up_to(128), 20.0)
    assert [one.rows for one in timed] == [1]
    assert model.runs == [1] * (1 + LEAST_RUNS + (model.runs.count(1) - 1 - LEAST_RUNS))
    assert model.now_s < 40.0


@given(st.integers(1, 5000))
def test_sizes_double_and_end_in_the_largest(most):
    sizes = sizes_up_to(most)
    assert sizes[0] == 1
    assert sizes[-1] == most
    assert all(low < high <= 2 * low for low, high in itertools.pairwise(sizes))


TIMES = st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=9).map(
    lambda runs: [Timed(1 << i, run_s, run_s) for i, run_s in enumerate(runs)]
)


@given(TIMES, st.floats(1e-4, 30.0))
def test_the_suggestion_is_in_time_and_nearly_the_best_of_those(timed, slo_s):
    rows = suggest(timed, slo_s)
    chosen = next(one for one in timed if one.rows == rows)
    in_time = [one for one in timed if 2 * one.run_s <= slo_s]
    if not in_time:
        assert rows == 1
        return
    assert chosen in in_time
    assert chosen.rows_per_s >= GOOD_SHARE * max(one.rows_per_s for one in in_time)
    assert all(one.rows_per_s < GOOD_SHARE * max(o.rows_per_s for o in in_time) for one in in_time if one.rows < rows)


def test_rows_that_cost_more_than_a_run_are_not_worth_waiting_for():
    assert suggest([Timed(rows, 0.001 * rows, 0.001 * rows) for rows in sizes_up_to(64)]) == 1
    assert suggest([Timed(rows, 0.001, 0.001) for rows in sizes_up_to(64)]) == 64
