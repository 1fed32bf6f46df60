"""What runs of a model cost, by their rows: :class:`Cost`, fitted to runs that were timed and to those that serve.

Pure functions and sums; seconds come in. Must not live here: what follows for a batch (``adaptive``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from stfs.batcher.policy import LEAST_ODD_S

FORGETTING = 0.98
"""Weight of a batch against the next one, in the fit of what runs cost."""
RIDGE = 0.02
"""How firmly the slope is held where batch sizes hardly differ."""
LEAST_BATCHES = 8
"""Batches before anything learnt is used; until then the policy is eager."""
MOST_SIGMA = 0.3
LEAST_SIGMA = 0.05
"""However steady a model is, its answers have still to be written and to arrive."""
CAUTION = 2.0
"""Usual errors by which a run may be longer than thought when its requests must be in time and others wait for their
places. One leaves 2 % of answers late at three times what the model can do."""
ODD = 10.0
"""So many times as long as expected is no run but something that came between."""
SHAPE_FORGETTING = 0.999
"""As FORGETTING, for how much more a run costs than a row: that is a matter of the model rather than of the hour, and
where runs cost little it takes hundreds of them to tell."""
SPEED_STEP = 0.05
"""Weight of one run in how fast the model is now, against how fast it was at load."""


class Cost(NamedTuple):
    """What a run of ``b`` rows takes: ``alpha_s + beta_s * b`` seconds; ``sigma`` is the usual relative error."""

    alpha_s: float
    beta_s: float
    sigma: float = 0.0
    is_guess: bool = False
    """Of too few sizes to shape batches by: good for the first requests that are wanted by some time, no longer."""

    def of(self, rows: float) -> float:
        """Seconds for a run of ``rows``."""
        return self.alpha_s + self.beta_s * rows

    def cautious(self, rows: float, caution: float = CAUTION) -> float:
        """Seconds that a run of ``rows`` will rarely exceed, or not by more than ``caution`` of its usual errors."""
        return (1.0 + caution * max(self.sigma, LEAST_SIGMA)) * (self.alpha_s + self.beta_s * rows)


def guess_cost(samples: list[tuple[int, float]]) -> Cost:
    """The cost that one or two timed runs ``(rows, seconds)`` let expect: of one, that each row costs as much.

    >>> guess_cost([(1, 0.25)]).of(4), guess_cost([(1, 0.25), (2, 0.25)]).of(4)
    (1.0, 0.25)
    """
    if len(samples) > 1:
        return fit_cost(samples)._replace(sigma=0.0, is_guess=True)
    ((rows, seconds),) = samples
    return Cost(0.0, seconds / rows, is_guess=True)


def fit_cost(samples: list[tuple[int, float]]) -> Cost:
    """The cost that fits timed runs ``(rows, seconds)`` best, weighing each by its own size (relative errors count)."""
    w = [1.0 / max(seconds, 1e-9) ** 2 for _, seconds in samples]
    total = sum(w)
    mean_b = sum(wi * b for wi, (b, _) in zip(w, samples, strict=True)) / total
    mean_d = sum(wi * d for wi, (_, d) in zip(w, samples, strict=True)) / total
    spread = sum(wi * (b - mean_b) ** 2 for wi, (b, _) in zip(w, samples, strict=True))
    slope = sum(wi * (b - mean_b) * (d - mean_d) for wi, (b, d) in zip(w, samples, strict=True))
    beta = min(max(slope / spread, 0.0), mean_d / mean_b) if spread else 0.0
    alpha = max(mean_d - beta * mean_b, 0.0)
    errors = [(d / max(alpha + beta * b, 1e-12) - 1.0) ** 2 for b, d in samples]
    return Cost(alpha, beta, min(math.sqrt(sum(errors) / len(errors)), MOST_SIGMA))


@dataclass(slots=True)
class CostFit:
    """Least squares of run time against rows, older runs counting less; fed by :meth:`add`."""

    cost: Cost = field(default=Cost(0.0, 0.0, MOST_SIGMA))
    batches: int = 0
    _w: float = 0.0
    _b: float = 0.0
    _d: float = 0.0
    _bb: float = 0.0
    _bd: float = 0.0
    _error: float = 0.0
    _was_odd: bool = False

    def add(self, rows: int, run_s: float) -> None:
        """One run of ``rows`` took ``run_s`` seconds.

        One that took ten times as long as expected counts as that only if the one before it did so, too: a machine that
        was suspended says nothing about a model, and one such figure would outweigh hundreds that follow.
        """
        if run_s < 0:
            return  # a clock that has gone back
        old = self.cost
        if self.batches >= LEAST_BATCHES:
            is_odd = run_s > LEAST_ODD_S and run_s > ODD * old.of(rows)
            if is_odd and not self._was_odd:
                run_s = max(ODD * old.of(rows), LEAST_ODD_S)
            self._was_odd = is_odd
        if self.batches:
            relative = run_s / max(old.of(rows), 1e-9) - 1.0
            # One hiccup of the machine is no reason to refuse everything that follows.
            self._error += 0.05 * (min(relative * relative, 1.0) - self._error)
        self.batches += 1
        keep = FORGETTING
        self._w = keep * self._w + 1.0
        self._b = keep * self._b + rows
        self._d = keep * self._d + run_s
        self._bb = keep * self._bb + rows * rows
        self._bd = keep * self._bd + rows * run_s
        mean_b, mean_d = self._b / self._w, self._d / self._w
        spread = self._bb / self._w - mean_b * mean_b
        together = self._bd / self._w - mean_b * mean_d
        ridge = RIDGE * self._bb / self._w
        beta = (together + ridge * old.beta_s) / (spread + ridge)
        beta = min(max(beta, 0.0), mean_d / mean_b)
        self.cost = Cost(max(mean_d - beta * mean_b, 0.0), beta, min(math.sqrt(self._error), MOST_SIGMA))


class ShapeFit:
    """How runs' cost grows with rows, where a row costs more than a run; begun from what was timed at load.

    Timing at load tells beta well and alpha badly there: alpha is the small difference of two large and noisy figures,
    and batches that are too small for the true one may not carry the load. So runs that serve are weighed in, each by
    its relative error. What was timed at load stays in for good, scaled to the speed of now: batches of one size say
    nothing about the slope, and a fit that shapes the batches it is fed with must not confirm itself.
    """

    __slots__ = ("_b", "_bb", "_bd", "_d", "_known", "_max_rows", "_prior", "_speed", "_w", "cost")

    def __init__(self, known: Cost, max_rows: int) -> None:
        self._known = known
        self._max_rows = max_rows
        timed = [(known.of(1 << i) ** -2, 1 << i) for i in range(max_rows.bit_length())]
        self._prior = (sum(w for w, _ in timed), sum(w * b for w, b in timed), sum(w * b * b for w, b in timed))
        self._w = self._b = self._d = self._bb = self._bd = 0.0
        self._speed = 1.0
        self.cost = Cost(max(known.alpha_s, known.beta_s / max_rows), known.beta_s)
        """Alpha is never quite nothing, or batches of one would be all that is ever seen."""

    def add(self, rows: int, run_s: float) -> None:
        """One run of ``rows`` took ``run_s`` seconds."""
        known = self._known
        expected_s = known.of(rows)
        times = max(min(run_s / expected_s, 3 * self._speed), 1e-6)  # a hiccup counts, but not for all it took
        self._speed += SPEED_STEP * (times - self._speed)
        as_timed_s = times * expected_s / self._speed
        w, keep = expected_s**-2, SHAPE_FORGETTING
        self._w = keep * self._w + w
        self._b = keep * self._b + w * rows
        self._bb = keep * self._bb + w * rows * rows
        self._d = keep * self._d + w * as_timed_s
        self._bd = keep * self._bd + w * rows * as_timed_s
        prior_w, prior_b, prior_bb = self._prior
        w, b, bb = self._w + prior_w, self._b + prior_b, self._bb + prior_bb
        d = self._d + known.alpha_s * prior_w + known.beta_s * prior_b
        bd = self._bd + known.alpha_s * prior_b + known.beta_s * prior_bb
        beta = min(max((bd * w - b * d) / (bb * w - b * b), 0.0), d / b)
        alpha = max((d - beta * b) / w, beta / self._max_rows)
        self.cost = Cost(alpha * self._speed, beta * self._speed)
