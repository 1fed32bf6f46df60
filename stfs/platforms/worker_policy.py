"""When a worker process that died is started again: pure functions of counts and times. Starts nothing."""

from __future__ import annotations

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0

STEADY_S = 60.0
"""A process that lived so long was well: what ended it then is a new matter, and waits as little as the first time."""

MAX_LOAD_CRASHES = 5
"""After so many deaths while loading the same model, the model is taken to be what kills its process."""


def crashes_in_a_row(before: int, lived_s: float) -> int:
    """How many times the process has died in a row, counting this time, if it had ``before`` and now lived that long.

    >>> crashes_in_a_row(3, 0.5), crashes_in_a_row(3, 3600.0)
    (4, 1)
    """
    return 1 if lived_s >= STEADY_S else before + 1


def restart_delay_s(crashes: int) -> float:
    """How long to wait before the next start, after so many deaths in a row: twice as long each time.

    >>> restart_delay_s(1), restart_delay_s(2), restart_delay_s(99)
    (0.1, 0.2, 30.0)
    """
    return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(crashes - 1, 30))


def gives_up(load_crashes: int) -> bool:
    """Whether a model that brought its process down so many times while loading is to be called failed."""
    return load_crashes >= MAX_LOAD_CRASHES
