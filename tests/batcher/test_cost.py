"""What runs cost, fitted to runs: lines, slow changes, hiccups."""

import math
import random

import pytest

from stfs.batcher.cost import Cost, CostFit, ShapeFit, fit_cost

GPU = Cost(4e-3, 0.08e-3, 0.05)
LIN = Cost(0.2e-3, 3e-3, 0.05)


def test_a_line_is_fitted_through_timed_runs():
    rng = random.Random(1)
    samples = [(b, GPU.of(b) * (1 + rng.gauss(0, 0.01))) for b in (1, 2, 4, 8, 16, 32, 64, 128)]
    fitted = fit_cost(samples)
    assert fitted.alpha_s == pytest.approx(GPU.alpha_s, rel=0.05)
    assert fitted.beta_s == pytest.approx(GPU.beta_s, rel=0.05)
    assert fitted.sigma < 0.05
    assert fit_cost([(4, 1.0)]) == Cost(1.0, 0.0, 0.0)
    assert fit_cost([(1, 2.0), (2, 1.0)]).beta_s == 0.0, "a run does not get cheaper by its rows"
    assert fit_cost([(1, 1.0), (3, 4.0)]).alpha_s == 0.0, "nor cost less than nothing"


def test_the_fit_follows_a_model_that_becomes_slower():
    fit = CostFit()
    rng = random.Random(2)
    for _ in range(200):
        rows = rng.choice((1, 10, 100))
        fit.add(rows, GPU.of(rows))
    assert fit.cost.of(50) == pytest.approx(GPU.of(50), rel=0.02)
    assert fit.cost.sigma < 0.1
    for _ in range(300):
        rows = rng.choice((1, 10, 100))
        fit.add(rows, 2 * GPU.of(rows))
    assert fit.cost.of(50) == pytest.approx(2 * GPU.of(50), rel=0.05)


def test_batches_of_one_size_keep_the_slope_that_was_known():
    fit = CostFit(cost=GPU)
    for _ in range(100):
        fit.add(64, GPU.of(64))
    assert fit.cost.of(64) == pytest.approx(GPU.of(64), rel=0.02)
    assert fit.cost.beta_s == pytest.approx(GPU.beta_s, rel=0.1)


def test_what_timing_at_load_got_wrong_is_learnt_from_runs():
    rng = random.Random(3)
    for wrong in (Cost(0.0, 3.2e-3), Cost(1e-3, 2.9e-3)):
        shape = ShapeFit(wrong, 32)
        assert shape.cost.alpha_s > 0, "or batches of one would be all that is ever seen"
        for _ in range(3000):
            rows = rng.choice((1, 2, 4))
            shape.add(rows, 2 * LIN.of(rows) * (1 + rng.gauss(0, 0.02)))
        assert shape.cost.alpha_s / shape.cost.beta_s == pytest.approx(LIN.alpha_s / LIN.beta_s, rel=0.4)
        assert shape.cost.of(8) == pytest.approx(2 * LIN.of(8), rel=0.03), "at the speed of now"


def test_batches_of_one_size_keep_the_shape_that_was_timed():
    shape = ShapeFit(LIN, 32)
    for _ in range(3000):
        shape.add(1, LIN.of(1))
    assert shape.cost.alpha_s == pytest.approx(LIN.alpha_s, rel=0.01)
    for _ in range(300):
        shape.add(1, 3 * LIN.of(1))
    assert shape.cost.alpha_s == pytest.approx(3 * LIN.alpha_s, rel=0.6)
    assert shape.cost.beta_s == pytest.approx(3 * LIN.beta_s, rel=0.05), "nor does a change of speed change it much"


def test_a_shape_stands_hiccups_and_runs_of_no_time():
    shape = ShapeFit(LIN, 32)
    for run_s in (0.0, 1e9, LIN.of(2)) * 100:
        shape.add(2, run_s)
        assert 0 < shape.cost.alpha_s < math.inf
        assert 0 < shape.cost.beta_s < math.inf


def test_a_model_that_is_a_hundred_times_slower_is_known_soon():
    fit = CostFit()
    for _ in range(50):
        fit.add(8, GPU.of(8))
    for _ in range(40):
        fit.add(8, 100 * GPU.of(8))
    assert fit.cost.of(8) > 50 * GPU.of(8)
