"""What was measured of the runs of one signature, as a value: told in words, and as JSON to be kept and shown.

Must not live here: how it is measured (``measure``), where it is kept (``cache``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stfs.batcher.cost import Cost, fit_cost, guess_cost

LEAST_SIZES = 3
"""Two sizes always lie on a line, so they say nothing about how well a line fits."""

OVERLAP = 1.1
"""Two runs at once that are so many times as fast as one after another show that the device works on both."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What runs of one signature took on one machine, or why nothing is known of it.

    ``times`` are pairs of rows and seconds, ascending in rows; empty if ``why_skipped`` says why. ``alpha_s``,
    ``beta_s`` and ``sigma`` fit them (:class:`stfs.batcher.cost.Cost`), and are ``None`` where too few sizes were
    timed to tell. ``overlap`` is the rate of two full batches at once against one after another, ``None`` where
    ``why_no_overlap`` says why that is not known. ``ran_on`` says what the inputs were. ``measured_at_s`` is in seconds
    since 1970, ``machine`` a digest of what the times depend on beside the model; ``cached`` if they were measured at
    an earlier start.
    """

    times: tuple[tuple[int, float], ...] = ()
    alpha_s: float | None = None
    beta_s: float | None = None
    sigma: float = 0.0
    overlap: float | None = None
    why_no_overlap: str = ""
    ran_on: str = ""
    measured_at_s: float = 0.0
    machine: str = ""
    cached: bool = False
    why_skipped: str = ""

    @property
    def cost(self) -> Cost | None:
        """What the batching policy begins with, a guess if few sizes were timed; ``None`` if none was."""
        if self.alpha_s is None or self.beta_s is None:
            return guess_cost(list(self.times)) if self.times else None
        return Cost(self.alpha_s, self.beta_s, self.sigma)

    @property
    def in_flight(self) -> int:
        """How many batches it is worth having the model work on at once: 2 where two runs were seen to overlap."""
        return 2 if self.overlap is not None and self.overlap >= OVERLAP else 1

    @property
    def words(self) -> str:
        """One sentence for people.

        >>> Calibration(((1, 0.002), (2, 0.003), (4, 0.005)), 0.001, 0.001, overlap=1.9).words
        'a run of b rows takes about 1 + 1 b ms; two full batches at once are 1.90 times as fast as one after another'
        """
        if self.why_skipped:
            return f"not timed: {self.why_skipped}"
        if self.alpha_s is None or self.beta_s is None:
            return "too few sizes were timed to tell what a row costs: the model is too slow, or its batches too small"
        told = f"a run of b rows takes about {self.alpha_s * 1e3:.3g} + {self.beta_s * 1e3:.3g} b ms"
        if self.overlap is not None:
            told += f"; two full batches at once are {self.overlap:.2f} times as fast as one after another"
        return told

    @property
    def origin(self) -> str:
        """On what and when it was measured, for people; empty if nothing was.

        >>> Calibration(((1, 0.002),), ran_on="generated values", measured_at_s=1.7e9, cached=True).origin
        'on generated values, at an earlier start (2023-11-14 22:13 UTC)'
        """
        if not self.times:
            return ""
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.measured_at_s))
        return f"on {self.ran_on}, at {'an earlier' if self.cached else 'this'} start ({when})"

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON values; times in milliseconds."""
        return {
            "times": [{"rows": rows, "ms": run_s * 1e3} for rows, run_s in self.times],
            "alpha_ms": None if self.alpha_s is None else self.alpha_s * 1e3,
            "beta_ms": None if self.beta_s is None else self.beta_s * 1e3,
            "relative_error": self.sigma,
            "overlap": self.overlap,
            "why_no_overlap": self.why_no_overlap,
            "ran_on": self.ran_on,
            "measured_at_s": self.measured_at_s,
            "machine": self.machine,
            "cached": self.cached,
            "why_skipped": self.why_skipped,
        }


def fitted(times: tuple[tuple[int, float], ...], **rest: Any) -> Calibration:
    """A calibration of these times, with the line that fits them if they are enough; ``rest`` are its other fields."""
    if len(times) < LEAST_SIZES:
        return Calibration(times, **rest)
    cost = fit_cost(list(times))
    return Calibration(times, cost.alpha_s, cost.beta_s, cost.sigma, **rest)


def from_json(told: Mapping[str, Any]) -> Calibration:
    """What :meth:`Calibration.as_json` told, marked as kept from an earlier start.

    Raises :class:`ValueError` for what it cannot have told: files are edited, cut short, and of other versions.
    """
    try:
        times = tuple((_rows(one["rows"]), _number(one["ms"], above=0.0) / 1e3) for one in told["times"])
        overlap = None if told["overlap"] is None else _number(told["overlap"], above=0.0)
        texts = {key: _text(told[key]) for key in ("why_no_overlap", "ran_on", "machine", "why_skipped")}
        measured_at_s = _number(told["measured_at_s"])
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no calibration: {error!r}") from None
    if any(low[0] >= high[0] for low, high in pairwise(times)):
        raise ValueError("sizes do not ascend")
    # The line is fitted anew rather than believed: it follows from the times, by the rule of this version.
    return fitted(times, overlap=overlap, measured_at_s=measured_at_s, cached=True, **texts)


def _rows(value: object) -> int:
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise ValueError(f"no number of rows: {value!r}")
    return value


def _number(value: object, above: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < math.inf:
        raise ValueError(f"no such number: {value!r}")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"no text: {value!r}")
    return value
