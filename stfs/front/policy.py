"""Which models every front process loads for itself, and who gets how many cores. Pure functions of values.

A model that is shared runs once, in the main process: one copy in memory, batches across all fronts, a way through
shared memory for each request. A model that is replicated runs in every front: a copy each, batches of what that front
has received, no way to go, and as many runs at once as there are fronts. For a small model the second is quicker.
"""

from __future__ import annotations

from collections.abc import Iterable

REPLICATED_RUN_S = 1e-3
"""With ``auto``, one row may cost this much in a model that is replicated. Of a dearer one, more is saved by batches
across all fronts, and by runs on several cores, than by the shorter way."""

REPLICATED_BYTES = 64 << 20
"""With ``auto``, the files of a model that is replicated are no larger: each front has them in memory."""


def replicates(
    engine: str, *, in_process: bool, device: str, file_bytes: int, run_s: Iterable[float], caches: bool = False
) -> bool:
    """Whether fronts load a model for themselves. ``engine`` is the option.

    ``in_process`` is false for a model in a worker process, of which there is one only. ``run_s`` are the times of runs
    of one row, one for each signature that was timed; without any, nothing is known of what the model costs. ``caches``
    is true where equal requests share answers, which they do best in one place.

    >>> replicates("auto", in_process=True, device="auto", file_bytes=3 << 20, run_s=[5e-5])
    True
    >>> replicates("auto", in_process=True, device="auto", file_bytes=3 << 20, run_s=[5e-3])
    False
    """
    if engine == "shared" or not in_process:
        return False
    if engine == "replicated":
        return True
    if caches:
        return False
    times = list(run_s)
    is_cheap = bool(times) and max(times) <= REPLICATED_RUN_S
    return is_cheap and not device.startswith("cuda") and file_bytes <= REPLICATED_BYTES


def cores_left_by_engine(cores: int, fronts: int) -> int:
    """Cores that runs in the main process leave to ``fronts`` busy front processes: all but one where there are few.

    >>> cores_left_by_engine(16, 4), cores_left_by_engine(2, 2), cores_left_by_engine(1, 4)
    (4, 1, 0)
    """
    return min(fronts, cores - 1)


def cores_left_by_front(cores: int, fronts: int) -> int:
    """Cores that runs in one of ``fronts`` front processes leave to everybody else: each has its part.

    >>> cores_left_by_front(16, 4), cores_left_by_front(2, 2), cores_left_by_front(2, 4)
    (12, 1, 1)
    """
    return cores - max(1, cores // fronts)
