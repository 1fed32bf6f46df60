"""Requests that wait: :class:`Entry`, and :class:`Queue`, in which equal keys share a lane.

Everything here belongs to the event-loop thread; the one exception is told at :attr:`Entry.answered`. Must not live
here: clocks, timers, the decisions who may queue and when a batch leaves (``policy``), what rows look like (``batch``).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence

from stfs.errors import RequestError
from stfs.signature import Tensors

log = logging.getLogger(__name__)

Reply = Callable[[Tensors | None, RequestError | None], None]

_NOTHING: Tensors = {}


class Together:
    """One batch, for those of its requests that ask: ``journeys`` are theirs. Moments are of the batcher's clock.

    ``told`` is for whoever tells of the batch to others, to do so once; the batcher leaves it alone.
    """

    __slots__ = ("finished_s", "journeys", "launched_s", "reason", "rows", "told")

    def __init__(self, rows: int, reason: str, launched_s: float, finished_s: float) -> None:
        self.rows = rows
        self.reason = reason
        self.launched_s = launched_s
        self.finished_s = finished_s
        self.journeys: list[Journey] = []
        self.told: object = None


class Journey:
    """What became of one request, for those who ask. Written once, just before the reply is called.

    ``queue_s``: seconds until its batch left; ``run_s``: seconds until the batch was back, retries and the crossing of
    threads included; ``rows`` of the batch, without padding, and the ``position`` of its first row in it. Of a request
    that ran in pieces it tells of the piece that came home last. ``together`` is its batch, ``None`` if it never ran;
    ``owner`` is what the one who asks knows it by. ``cache`` is ``hit``, ``miss`` or ``shared`` where answers are
    (:mod:`stfs.batcher.sharing`), else empty.
    """

    __slots__ = ("cache", "owner", "position", "queue_s", "rows", "run_s", "together")

    def __init__(self, owner: object = None) -> None:
        self.owner = owner
        self.cache = ""
        self.together: Together | None = None
        self.queue_s = self.run_s = 0.0
        self.rows = self.position = 0


class Entry:
    """One request, or one piece of it, with its own reply. Made by the batcher.

    It is answered exactly once, or cancelled and then never. ``rows`` counts along dimension 0; ``key`` is equal for
    entries that may share a batch; ``arrived_s`` and ``deadline_s``, by when it is wanted, are in seconds of the
    batcher's clock.
    """

    __slots__ = (
        "arrived_s",
        "client",
        "deadline_s",
        "inputs",
        "journey",
        "key",
        "queue",
        "rank",
        "reply",
        "rows",
        "size_bytes",
    )

    requests = 1
    """How many requests it is made of; only a lane's group is of more."""

    rank: int
    """Its place among the ranks of a :class:`stfs.batcher.levels.LevelQueue`, the only one to set and read it."""
    size_bytes: int
    """What its inputs hold, set where bytes are counted."""
    client: Hashable
    """Who asks, set where clients share a queue (:class:`stfs.batcher.clients.ClientQueue`)."""

    def __init__(
        self,
        inputs: Tensors,
        rows: int,
        key: Hashable,
        reply: Reply,
        arrived_s: float,
        deadline_s: float = math.inf,
        journey: Journey | None = None,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.key = key
        self.reply: Reply | None = reply
        self.arrived_s = arrived_s
        self.deadline_s = deadline_s
        self.journey = journey
        self.queue: Queue | None = None
        """The queue that holds this entry; ``None`` before, and once it is taken or out."""

    @property
    def answered(self) -> bool:
        """Whether nobody waits for this any more. May be read on any thread: once true it stays true."""
        return self.reply is None

    @property
    def whole(self) -> Entry:
        """What its client has sent: this, unless it is a piece of a larger request."""
        return self

    def part(self, limit_rows: int, *, least_one: bool) -> Entry | None:
        """Its first requests, of ``limit_rows`` rows at most, as an entry of their own; ``None``: it stays whole."""
        return None

    def alone(self, inputs: Tensors) -> list[Entry]:
        """Its requests, each an entry to be run by itself; ``inputs`` are its own. The model's thread."""
        return [self]

    def answer_each(self, outcomes: Sequence[tuple[Tensors | None, RequestError | None]]) -> None:
        """Answer each of its requests; for an entry of several."""
        raise NotImplementedError("one request has one outcome")

    def cancel(self) -> None:
        """Take the request back: its reply will not be called. Does nothing once it has been answered.

        A queued request leaves the queue at once. One that is already in the model's hands runs to its end, since no
        framework lets go half-way, and its result is dropped. Event-loop thread.
        """
        self.reply = None
        self.inputs = _NOTHING
        if self.queue is not None:
            self.queue.discard(self)

    def answer(self, outputs: Tensors | None, error: RequestError | None) -> None:
        """Call the reply, unless this was answered or cancelled before. What the reply raises is logged and dropped.

        ``SystemExit`` and ``KeyboardInterrupt`` are let through: they mean the whole process.
        """
        reply = self.reply
        if reply is None:
            return
        self.reply = None
        # The caller, or the table of deadlines, may hold this entry for long; a batch in flight has its own list of
        # inputs, so nothing that is still needed goes with these.
        self.inputs = _NOTHING
        if self.queue is not None:
            self.queue.discard(self)
        try:
            reply(outputs, error)
        except Exception:
            log.exception("a reply raised; its request counts as answered")


def tell_journeys(entries: Sequence[Entry], rows: int, reason: str, launched_s: float, finished_s: float) -> None:
    """Write the journeys of a batch of ``rows`` rows that has come home. Its entries have not been answered."""
    position = 0
    together = Together(rows, reason, launched_s, finished_s)
    for entry in entries:
        if (journey := entry.journey) is not None:
            together.journeys.append(journey)
            journey.together = together
            journey.queue_s, journey.run_s = launched_s - entry.arrived_s, finished_s - launched_s
            journey.rows, journey.position = rows, position
        position += entry.rows


class Queue:
    """Entries in order of arrival. An entry without rows counts as one row here, so that no bound on rows overlooks it.

    Each key has a lane; the oldest entry of all says whose turn it is, so no key can keep another waiting for ever.
    Entries that are taken or discarded are marked, and swept out of both orders as they come to the front or, if many
    gather, all at once: a step costs amortised constant time whatever the number of keys and of cancellations.
    """

    __slots__ = ("_lanes", "_order", "_sweep_at", "newest", "rows")

    def __init__(self) -> None:
        self.rows = 0
        self.newest: Entry | None = None
        """What joined last, perhaps no longer here. A group that is still the last may grow."""
        self._order: deque[Entry] = deque()
        self._lanes: dict[Hashable, deque[Entry]] = {}
        self._sweep_at = 1024

    def append(self, entry: Entry) -> None:
        """Let ``entry`` wait. The caller has asked ``policy.admits`` whether it may."""
        if len(self._order) >= self._sweep_at:
            self._sweep()
        entry.queue = self
        self.newest = entry
        self.rows += entry.rows or 1
        self._order.append(entry)
        lane = self._lanes.get(entry.key)
        if lane is None:
            self._lanes[entry.key] = deque((entry,))
        else:
            lane.append(entry)

    def oldest(self) -> Entry | None:
        """The entry that has waited longest; it stays where it is."""
        order = self._order
        while order:
            if order[0].queue is self:
                return order[0]
            order.popleft()
        return None

    def take(self, limit_rows: int) -> tuple[list[Entry], bool]:
        """The oldest entry and those of its key that follow, whole and in order, up to ``limit_rows`` rows in all.

        It stops at the first that does not fit, so that equals are never reordered; of a group of requests it takes
        those that do. The first request is taken whatever its size. The flag is true if the batch is full: it has its
        rows, or the next request was too large for the rest.
        """
        oldest = self.oldest()
        if oldest is None:
            return [], False
        taken: list[Entry] = []
        rows, more = self.take_of(oldest.key, limit_rows, taken, 0)
        return taken, more or rows >= limit_rows

    def take_of(self, key: Hashable, limit_rows: int, taken: list[Entry], rows: int) -> tuple[int, bool]:
        """Move entries of that key to ``taken``, which has ``rows`` rows, as :meth:`take` does.

        The rows that it has then, and whether one was left behind for want of room.
        """
        lane = self._lanes.get(key)
        if lane is None:
            return rows, False
        had_rows = rows
        while lane:
            entry = lane[0]
            if entry.queue is self:
                more = rows + (entry.rows or 1)
                if more > limit_rows:
                    part = entry.part(limit_rows - rows, least_one=not taken)
                    if part is not None:
                        rows += part.rows
                        taken.append(part)
                    if taken:
                        break
                rows = more
                entry.queue = None
                taken.append(entry)
            lane.popleft()
        self.rows -= rows - had_rows
        if lane:
            return rows, True
        del self._lanes[key]
        return rows, False

    def discard(self, entry: Entry) -> None:
        """Take out an entry that this queue holds; it will not be run."""
        entry.queue = None
        self.rows -= entry.rows or 1

    def _sweep(self) -> None:
        self._order = deque(entry for entry in self._order if entry.queue is self)
        self._lanes = {}
        for entry in self._order:
            self._lanes.setdefault(entry.key, deque()).append(entry)
        self._sweep_at = max(1024, 2 * len(self._order))
