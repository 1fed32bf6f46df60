"""How a batcher ends: its threads are let go, and whoever waits for it is told. :class:`Ending`.

Event-loop thread, told otherwise where it is not so. Must not live here: when nothing is left to do (``dispatch``).
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from stfs.batcher.home import Home
from stfs.batcher.places import Place, Places

log = logging.getLogger(__name__)


class Ending:
    """``closed``, set by who closes it, is done when the last thread is; ``all_home`` is set once no run
    hangs any more, so that what was run can be freed.
    """

    def __init__(self, name: str, places: Places, home: Home) -> None:
        self._name = name
        self._places = places
        self._home = home
        self._threads_left: int | None = None  # that have yet to end, once nothing else is left
        self.closed: asyncio.Future[None] | None = None
        self.all_home = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether it is closed for good, be it that there is something left to do."""
        return self.closed is not None

    def end(self) -> None:
        """Nothing is left. May come twice, if a wake was still due when closing began; the second changes nothing."""
        if self._threads_left is not None:
            return
        if not self._places.stuck:
            self.all_home.set()
        started = [place for place in self._places if place.thread.started]
        self._threads_left = len(started)
        for place in started:
            # Telling is the thread's last act, so that joining it takes no time.
            place.thread(partial(self._tell_ended, place))
            place.thread.stop()
        if not started:
            self._home.loop.call_soon(self._ended)

    def came_home(self) -> None:
        """A run that hung has returned."""
        if self._threads_left is not None and not self._places.stuck:
            self.all_home.set()

    def _tell_ended(self, place: Place) -> None:
        """The place's thread."""
        try:
            self._home.loop.call_soon_threadsafe(self._one_ended, place)
        except RuntimeError:
            log.debug("%s: the event loop closed before the batcher had", self._name)

    def _one_ended(self, place: Place) -> None:
        place.thread.join()
        assert self._threads_left is not None, "told to end"
        self._threads_left -= 1
        if not self._threads_left:
            self._ended()

    def _ended(self) -> None:
        for place in self._places:
            if not place.stuck:
                place.let_go()
        if self.closed is not None and not self.closed.done():
            self.closed.set_result(None)
