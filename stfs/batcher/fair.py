"""Who runs next where several models want the same device: start-time fair queueing, as pure functions of values.

Each model is a flow. What a run takes, divided by the flow's weight, moves the flow's virtual time on; of those that
wait the one that is least far on comes first, and one that asks after a pause starts at the time of the others, so that
nobody saves up. A flow that asks for little waits for one run of another at most. (Goyal, Vin, Cheng: "Start-time Fair
Queuing", 1996; with several slots: Jin, Chase, Kaur: "Interposed Proportional Sharing", 2004.)

Times are in seconds; virtual times too, but only their differences mean anything. Must not live here: queues, timers,
clocks, batchers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PATIENCE_S = 10.0
"""After so long a run may hang: its slot goes to others, and its flow comes after them, until it is back."""

USUAL_STEP = 0.25
"""Weight of one run in what a flow's runs usually take."""

MOST_EXTRA = 64
"""More runs than this beside those of the slots are as if there were no slots."""

BUSY = 0.85
"""A machine whose processors are at work for this share of the time has none left for another run."""


class Flow(NamedTuple):
    """What one model has had: ``finish`` is the virtual time at which that ends. ``usual_s`` is what its runs take."""

    weight: float = 1.0
    finish: float = 0.0
    usual_s: float = 0.0

    def begins(self, start: float) -> Flow:
        """With one more run, begun at the virtual time ``start``: as long as usual, until it is known."""
        return self._replace(finish=start + self.usual_s / self.weight)

    def ends(self, expected_s: float, run_s: float) -> Flow:
        """After a run that took ``run_s`` where :meth:`begins` expected ``expected_s``."""
        usual_s = self.usual_s + USUAL_STEP * (run_s - self.usual_s) if self.usual_s else run_s
        return Flow(self.weight, self.finish + (run_s - expected_s) / self.weight, usual_s)


class Waiting(NamedTuple):
    """One who waits: asked at the virtual time ``asked``, as number ``number``; ``hangs`` if a run of its flow does."""

    flow: Flow
    asked: float
    number: int
    hangs: bool = False

    @property
    def start(self) -> float:
        """The virtual time at which its run would begin."""
        return max(self.asked, self.flow.finish)


def first(waiting: Iterable[Waiting]) -> Waiting:
    """Whose turn it is: the earliest start; among equals, who has asked first.

    >>> hot, cold = Flow(finish=3.0), Flow(finish=0.5)
    >>> first([Waiting(hot, 0.0, 1), Waiting(cold, 2.0, 2)]).number
    2
    """
    return min(waiting, key=lambda one: (one.hangs, one.start, one.number))


def has_room(slots: int, begun_s: Iterable[float], now_s: float) -> bool:
    """Whether another run may begin beside those that began at ``begun_s``: fewer than ``slots`` count still."""
    return sum(now_s - began_s < PATIENCE_S for began_s in begun_s) < slots


def extra_slots(extra: int, busy_share: float | None) -> int:
    """How many more runs than there are processors may go on, after ``extra`` and what was seen of the processors.

    Models that sleep, or that wait for other machines, take none of anybody's time. ``busy_share`` is 0 to 1, ``None``
    if nobody has looked lately: then nobody is kept waiting.
    """
    if busy_share is None:
        return MOST_EXTRA
    return 0 if busy_share >= BUSY else min(MOST_EXTRA, 2 * extra + 1)
