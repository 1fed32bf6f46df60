"""Overload, and clients that believe ``Retry-After``: the product's batcher itself, in made time.

``python -m benchmarks.batching.promised`` prints, for a load without end and for surges: what share of the model's
capacity is answered in time, how many answers are late, and how many of those who were refused and came back when they
were told to were answered then. Every figure follows from seeds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.batching.made_time import Loop
from benchmarks.batching.simulator import Profile, noisy, poisson
from stfs.batcher.batcher import Batcher
from stfs.batcher.cost import Cost
from stfs.batcher.policy import BatchPolicy
from stfs.errors import Overloaded, RequestError

SLEEPING = Profile("sleep", 40e-3, 0.8e-3, 64)
"""The model that the real server is measured with (``live``)."""
JOURNEY_S = 1e-3
"""What a request and its answer are on their way."""


@dataclass
class Told:
    """What became of the requests. ``answered`` in time and ``late``, first tries and second; the rest was refused."""

    offered: int = 0
    answered: int = 0
    late: int = 0
    came_back: int = 0
    answered_then: int = 0


def surges(load: float, capacity: float, seconds: float, seed: int) -> list[float]:
    """Two seconds of ``load`` in every six; a third of it in the others."""
    times: list[float] = []
    gaps = random.Random(seed)
    for start in range(0, max(1, int(seconds // 6)) * 6, 6):
        for begins, ends, rate in ((0.0, 2.0, load), (2.0, 6.0, load / 3)):
            now = start + begins
            stream = poisson(rate * capacity, gaps)
            while (now := now + next(stream)) < start + ends:
                times.append(now)
    return times


def steady(load: float, capacity: float, seconds: float, seed: int) -> list[float]:
    """Poisson arrivals at ``load`` times the capacity."""
    times, now, stream = [], 0.0, poisson(load * capacity, random.Random(seed))
    while (now := now + next(stream)) < seconds:
        times.append(now)
    return times


def overload(
    profile: Profile, times: list[float], seed: int, *, comes_back: Callable[[float], float | None], slo: bool = True
) -> Told:
    """Ask at these times. ``comes_back`` tells after how many seconds a refused client tries again, once; or not."""
    loop, rng, told = Loop(), random.Random(seed), Told()
    slo_s = 2 * profile.of(profile.max_rows) if slo else math.inf
    policy = BatchPolicy(profile.max_rows, latency_slo_s=slo_s)
    if not slo:
        policy = BatchPolicy(profile.max_rows, max_enqueued_rows=4 * profile.max_rows)

    def run(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"y": inputs["x"]}

    def start(job: Callable[[], None]) -> None:
        loop.call_later(noisy(profile.of(batcher.in_flight_rows), rng), job)

    batcher = Batcher(
        run,
        policy,
        name="simulated",
        loop=loop,  # type: ignore[arg-type]
        clock=loop.time,
        start=start,
        cost=Cost(profile.alpha_s, profile.beta_s, 0.05),
    )
    began_s = loop.now_s

    def ask(number: int, tries: int) -> None:
        asked_s = loop.now_s
        told.came_back += tries == 2

        def reply(outputs: Any, error: RequestError | None) -> None:
            if isinstance(error, Overloaded):
                refused(error)
                return
            if error is not None:
                raise error
            if loop.now_s - asked_s <= slo_s:
                told.answered += loop.now_s <= began_s + times[-1]
                told.answered_then += tries == 2
            else:
                told.late += 1

        def refused(error: Overloaded) -> None:
            if tries == 1 and (after_s := comes_back(error.retry_after_s)) is not None:
                loop.call_later(after_s + 2 * JOURNEY_S, partial(ask, number, 2))

        try:
            batcher.submit({"x": np.array([[number]])}, 1, reply)
        except Overloaded as error:
            refused(error)

    told.offered = len(times)
    for number, at in enumerate(times):
        loop.call_later(at + 1e-9, partial(ask, number, 1))
    loop.run()
    return told


def obedient(retry_after_s: float) -> float | None:
    """As long as it is told, in whole seconds."""
    return float(max(1, math.ceil(retry_after_s)))


def gone(retry_after_s: float) -> float | None:
    """Refused once, it does not come back."""
    return None


def impatient(retry_after_s: float) -> float | None:
    """It comes back before it was told to."""
    return 0.3


def main() -> None:
    for kind, make in (("without end", steady), ("for 2 s of 6", surges)):
        for slo in (True, False):
            for name, comes_back in (("obedient", obedient), ("impatient", impatient), ("gone", gone)):
                for seed in (1, 2):
                    times = make(1.5, SLEEPING.capacity, 24.0, seed)
                    told = overload(SLEEPING, times, seed, comes_back=comes_back, slo=slo)
                    could = SLEEPING.capacity * times[-1]
                    print(
                        f"{kind}, {'objective' if slo else 'full queue'}, {name}: in time "
                        f"{told.answered / min(could, told.offered):.3f}, late {told.late / told.offered:.2%}, "
                        f"came back {told.came_back}, answered then {told.answered_then / max(1, told.came_back):.1%}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
