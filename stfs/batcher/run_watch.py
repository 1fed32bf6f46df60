"""Gives up runs that hang: :class:`RunWatch`. Event-loop thread.

Must not live here: what becomes of the place of a run that hangs (``places``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from stfs.batcher.due import TICK_S
from stfs.batcher.home import Home
from stfs.batcher.places import Place, Places
from stfs.batcher.policy import ROUNDING_S
from stfs.batcher.runner import Batch, BatchRecord, Outcomes
from stfs.errors import RunTimedOut, Unavailable

log = logging.getLogger(__name__)


class RunWatch:
    """After ``limit_s`` seconds (0: never) a run is given up, and its batch told :class:`RunTimedOut`.

    ``settle`` ends a batch. ``out_of_threads`` is called when so many runs hang that no further one may be begun,
    ``came_home`` when one of them has returned after all.
    """

    def __init__(
        self,
        name: str,
        limit_s: float,
        places: Places,
        home: Home,
        clock: Callable[[], float],
        *,
        settle: Callable[[Batch, Outcomes, list[BatchRecord]], None],
        out_of_threads: Callable[[], None],
        came_home: Callable[[], None],
    ) -> None:
        self._name = name
        self.limit_s = limit_s
        self._places = places
        self._home = home
        self._clock = clock
        self._settle = settle
        self._out_of_threads = out_of_threads
        self._came_home = came_home

    def begin(self, place: Place, batch: Batch) -> None:
        """The batch has left. Whoever sees it home cancels its timer."""
        self._look_in(self.limit_s, place, batch)

    def came_home(self, place: Place) -> None:
        """A run that was given up has returned. What it gave goes nowhere."""
        self._places.came_home(place)
        log.warning("%s: a run that was given up has returned; %d are stuck", self._name, self._places.stuck)
        self._came_home()

    def problem(self) -> Unavailable:
        """What those are told who come while too many runs hang."""
        stuck, limit_s = self._places.stuck, self.limit_s
        told = f"{self._name}: {stuck} runs are stuck, each for more than run_timeout_s ({limit_s:g} s): "
        helps = "restart the server, or wait for one to return; with isolation=process such runs are ended"
        return Unavailable(told + helps, limit_s)

    def _look_in(self, left_s: float, place: Place, batch: Batch) -> None:
        batch.timer = self._home.loop.call_later(max(left_s, TICK_S), self._on_timeout, place, batch)

    def _on_timeout(self, place: Place, batch: Batch) -> None:
        """Give the batch up, unless its last run has not had its time: those of a batch that fails are many."""
        now_s = self._clock()
        left_s = batch.began_s + self.limit_s - now_s
        if left_s > ROUNDING_S:
            self._look_in(left_s, place, batch)
            return
        batch.given_up = True
        self._places.give_up(place)
        problem = f"{self._name}: a run took longer than run_timeout_s ({self.limit_s:g} s) and was given up"
        log.error("%s; %d runs are stuck", problem, self._places.stuck)
        if self._places.is_out_of_threads:
            self._out_of_threads()
        requests = sum([entry.requests for entry in batch.entries])
        run_s = now_s - batch.began_s
        record = BatchRecord(batch.rows, batch.rows, requests, batch.queue_wait_s, run_s, batch.reason, True, True)
        self._settle(batch, [(None, RunTimedOut(problem))] * len(batch.entries), [record])
