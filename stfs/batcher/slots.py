"""Run slots: lets the batchers of models that share a device begin runs in turn. The event-loop side of ``fair``.

A batcher asks before each run (:meth:`Share.admits`). As long as there are fewer runs than slots, or nobody else wants
to run, the answer is yes and that is all. Else the batcher's :meth:`~Share.step` is called when it is its turn. Nothing
is taken before a run begins, so who is asked and has nothing to run after all passes it on by doing nothing.

Event-loop thread. Must not live here: whose turn it is (``fair``), what a batcher does with its turn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import count

from stfs.batcher.cpu import Processors
from stfs.batcher.fair import MOST_EXTRA, PATIENCE_S, Flow, Waiting, extra_slots, first, has_room

log = logging.getLogger(__name__)

LOOK_S = 0.05
"""While somebody waits: between two looks whether the processors are idle, or a run has hung for too long."""


class Grant:
    """One run under way. ``waited_s`` is how long its batcher waited for its turn."""

    __slots__ = ("began_s", "expected_s", "waited_s")

    def __init__(self, began_s: float, expected_s: float, waited_s: float) -> None:
        self.began_s = began_s
        self.expected_s = expected_s
        self.waited_s = waited_s


class _Model:
    """A flow with those who ask for it: the batchers of one model's signatures and versions."""

    __slots__ = ("flow", "grants", "shares")

    def __init__(self, weight: float) -> None:
        self.flow = Flow(weight)
        self.shares: set[Share] = set()
        self.grants: set[Grant] = set()


class Share:
    """One batcher's part. ``step`` is called when it is its turn; the batcher sets it."""

    __slots__ = ("_asked", "_asked_s", "_is_its_turn", "_model", "_number", "_slots", "_waited_s", "step")

    def __init__(self, slots: DeviceSlots, model: _Model) -> None:
        self._slots = slots
        self._model = model
        self.step: Callable[[], None] = _nothing
        self._is_its_turn = False
        self._number = 0  # among those who wait; 0: it does not
        self._asked = self._asked_s = self._waited_s = 0.0

    def admits(self) -> bool:
        """Whether a run may begin now. If not, ``step`` will be called; asking again meanwhile changes nothing."""
        return self._is_its_turn or self._slots._admits(self)

    def began(self, now_s: float) -> Grant:
        """A run has begun, right after :meth:`admits` said that it may. To be ended by :meth:`ended`, once."""
        self._is_its_turn = False
        return self._slots._begin(self, now_s)

    def ended(self, grant: Grant, now_s: float) -> None:
        """The run is over, or has been given up. Others may be called after this turn of the loop, not from in here."""
        self._slots._end(self._model, grant, now_s)

    def leave(self) -> None:
        """The batcher is closed. Runs of its that hang still end by themselves."""
        self.step = _nothing
        self._slots._leave(self)


class DeviceSlots:
    """The slots of one device, and who runs in them: ``limit``; with ``processors`` as many more as these bear.

    ``clock`` gives seconds, the same as those of the batchers. ``loop`` is the running one unless given.
    """

    def __init__(
        self,
        limit: int,
        processors: Processors | None = None,
        clock: Callable[[], float] = time.monotonic,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.limit = limit
        self._given_loop = loop
        self._processors = processors
        self._clock = clock
        self._extra = 0 if processors is None else MOST_EXTRA
        self._looked_s = -LOOK_S
        self._virtual = 0.0
        self._models: dict[str, _Model] = {}
        self._busy: set[_Model] = set()  # those with runs under way
        self._held = 0
        self._waiting: list[Share] = []
        self._numbers = count(1)
        self._is_to_look = False
        self._timer: asyncio.TimerHandle | None = None

    def join(self, model: str, weight: float) -> Share:
        """A share for another batcher of ``model``, all of which go by the weight that was told last."""
        known = self._models.get(model)
        if known is None:
            known = self._models[model] = _Model(weight)
        known.flow = known.flow._replace(weight=weight)
        share = Share(self, known)
        known.shares.add(share)
        return share

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._given_loop or asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """Batchers that wait for their turn."""
        return len(self._waiting)

    @property
    def held(self) -> int:
        """Runs under way, those that hang included."""
        return self._held

    def _admits(self, share: Share) -> bool:
        if not self._waiting and self._held < self.limit:
            return True
        if share._number:
            return False
        if self._is_alone(share._model):
            return True
        now_s = self._clock()
        if not self._waiting and self._has_room(now_s):
            return True
        share._number = next(self._numbers)
        share._asked, share._asked_s = self._virtual, now_s
        self._waiting.append(share)
        if self._held < self.limit:
            self._look_soon()
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._on_look)
        return False

    def _is_alone(self, model: _Model) -> bool:
        """Whether no other model wants to run."""
        return all(one._model is model for one in self._waiting) and self._busy <= {model}

    def _has_room(self, now_s: float) -> bool:
        if self._processors is not None and now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            self._extra = extra_slots(self._extra, self._processors.busy_share())
        begun_s = [grant.began_s for model in self._busy for grant in model.grants]
        return has_room(self.limit + self._extra, begun_s, now_s)

    def _begin(self, share: Share, now_s: float) -> Grant:
        model = share._model
        start = max(self._virtual, model.flow.finish)
        self._virtual = start
        grant = Grant(now_s, model.flow.usual_s, share._waited_s)
        share._waited_s = 0.0
        model.flow = model.flow.begins(start)
        model.grants.add(grant)
        self._busy.add(model)
        self._held += 1
        return grant

    def _end(self, model: _Model, grant: Grant, now_s: float) -> None:
        model.flow = model.flow.ends(grant.expected_s, max(now_s - grant.began_s, 0.0))
        model.grants.discard(grant)
        if not model.grants:
            self._busy.discard(model)
        self._held -= 1
        # Who has just run may want to again, and is to be among those who are chosen from.
        self._look_soon()

    def _leave(self, share: Share) -> None:
        model = share._model
        model.shares.discard(share)
        if share in self._waiting:
            self._waiting.remove(share)
            share._number = 0
            self._look_soon()
        if not model.shares:
            self._models = {name: one for name, one in self._models.items() if one is not model}

    def _look_soon(self) -> None:
        if self._waiting and not self._is_to_look:
            self._is_to_look = True
            self._loop.call_soon(self._look)

    def _on_look(self) -> None:
        self._timer = None
        self._look()
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_later(LOOK_S, self._on_look)

    def _look(self) -> None:
        """Let run whose turn it is, while there is room."""
        self._is_to_look = False
        while self._waiting:
            now_s = self._clock()
            share = self._next(now_s)
            if not (self._is_alone(share._model) or self._has_room(now_s)):
                return
            self._waiting.remove(share)
            share._number = 0
            share._waited_s = now_s - share._asked_s
            share._is_its_turn = True
            try:
                share.step()
            except Exception:
                log.exception("a batcher failed when it was its turn")
            finally:
                share._is_its_turn = False

    def _next(self, now_s: float) -> Share:
        by_number = {share._number: share for share in self._waiting}
        told = [
            Waiting(share._model.flow, share._asked, number, self._hangs(share._model, now_s))
            for number, share in by_number.items()
        ]
        return by_number[first(told).number]

    @staticmethod
    def _hangs(model: _Model, now_s: float) -> bool:
        return any(now_s - grant.began_s >= PATIENCE_S for grant in model.grants)


class RunSlots:
    """The slots of all devices of one server. ``limit`` is the user's: so many, 0 for none, ``None`` for ``auto``.

    With ``auto`` there is one for each of ``cores``, which count only while the processors are busy, and
    :data:`GPU_SLOTS` for each graphics processor.
    """

    def __init__(self, limit: int | None, cores: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._cores = cores
        self._clock = clock
        self._devices: dict[str, DeviceSlots] = {}

    def join(self, device: str, model: str, weight: float) -> Share | None:
        """A share in the slots of ``device``, ``cpu`` or ``cuda``, for a batcher of ``model``; ``None``: no slots."""
        if self._limit == 0:
            return None
        slots = self._devices.get(device)
        if slots is None:
            slots = self._devices[device] = self._slots(device)
        return slots.join(model, weight)

    def _slots(self, device: str) -> DeviceSlots:
        if self._limit is not None:
            return DeviceSlots(self._limit, None, self._clock)
        if device == "cpu":
            return DeviceSlots(self._cores, Processors(self._cores, self._clock), self._clock)
        return DeviceSlots(GPU_SLOTS, None, self._clock)


GPU_SLOTS = 2
"""A graphics processor works on one batch while the next is on its way to it; a third would only wait there."""


def _nothing() -> None:
    pass
