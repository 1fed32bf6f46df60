"""Where a batcher's batches run: places, each with a thread and what it calls, one batch in each at a time.

Event-loop thread, but for what the threads do. Must not live here: when a batch leaves (``policy``), what the requests
of a batch are told (``batcher``), how instances of a model come to be (``platforms``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from stfs.batcher.runner import Run, Runner
from stfs.batcher.thread import ModelThread

MOST_STUCK = 3
"""Runs that may hang beside as many as there are places, each on a thread that nobody can end. With more of them the
model is not asked again until one comes home."""


def _always() -> bool:
    return True


class Instance(NamedTuple):
    """One of the ways in which a model can be run.

    ``run`` is blocking, on any thread. ``is_up`` tells whether it can run now: quick, any thread. ``concurrent`` says
    that a run may well be begun while another hangs; else the place of one that hangs is left alone while there are
    others.
    """

    run: Run
    is_up: Callable[[], bool] = _always
    concurrent: bool = True


class Place:
    """One instance with its thread. ``stuck`` counts runs that were given up and have not come home yet."""

    __slots__ = ("busy", "instance", "is_plain", "runner", "stuck", "thread")

    def __init__(self, instance: Instance, runner: Runner, name: str) -> None:
        self.instance = instance
        self.runner = runner
        self.thread = ModelThread(name)
        self.is_plain = instance.is_up is _always  # and need not be asked
        self.busy = False
        self.stuck = 0

    @property
    def is_fit(self) -> bool:
        """Whether a batch had better run here than wait for another place."""
        return (not self.stuck or self.instance.concurrent) and self.instance.is_up()

    def let_go(self) -> None:
        """It runs nothing any more: what it ran may be freed, though others may hold this for longer."""
        del self.runner, self.instance


class Places:
    """All places of one batcher; threads start with the first batch that needs them."""

    def __init__(self, instances: Sequence[Instance], runner_of: Callable[[Run], Runner], name: str) -> None:
        self._name = f"stfs {name}"
        self._all = [Place(instance, runner_of(instance.run), self._name) for instance in instances]
        self.stuck = 0
        """Runs that were given up and have not come home."""

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Place]:
        return iter(self._all)

    @property
    def is_out_of_threads(self) -> bool:
        """Whether so many runs hang that no further one may be risked."""
        return self.stuck >= len(self._all) + MOST_STUCK

    def take(self) -> Place | None:
        """The first place that is free and fit, which is busy then. ``None``: wait for one that is at work.

        With none at work and none that is fit it is one all the same, so that somebody says what is wrong.
        """
        places = self._all
        for place in places:
            if not place.busy and ((place.is_plain and not place.stuck) or place.is_fit):
                place.busy = True
                return place
        if any(place.busy for place in places):
            return None
        place = min(places, key=_stuck)
        place.busy = True
        return place

    def give_back(self, place: Place) -> None:
        """Its batch has come home in time."""
        place.busy = False

    def give_up(self, place: Place) -> None:
        """Its batch hangs: whatever comes next has a new thread there, and the old one ends when it is back."""
        place.thread.stop()
        place.thread = ModelThread(self._name)
        place.busy = False
        place.stuck += 1
        self.stuck += 1

    def came_home(self, place: Place) -> None:
        """A run that was given up has returned after all."""
        place.stuck -= 1
        self.stuck -= 1


def _stuck(place: Place) -> int:
    return place.stuck
