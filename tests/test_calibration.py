"""Timing a model at load, with a clock that the test owns."""

import pytest

from stfs.calibration import BUDGET_S, calibrate


class Timed:
    """A model whose runs take ``alpha + beta * rows`` seconds of its own clock; the first at a size takes a second."""

    def __init__(self, alpha, beta, first=0.0):
        self.now, self.alpha, self.beta, self.first = 0.0, alpha, beta, first
        self.sizes = []

    def run(self, rows):
        self.now += self.alpha + self.beta * rows + (self.first if rows not in self.sizes else 0.0)
        self.sizes.append(rows)


def timed(model, max_rows):
    return calibrate(model.run, lambda rows: rows, max_rows, lambda: model.now)


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
def test_too_little_is_nothing(model, max_rows):
    assert timed(model, max_rows) is None
