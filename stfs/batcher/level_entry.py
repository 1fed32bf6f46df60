"""Lets requests into a queue of levels, and out of it when they have waited too long: :class:`LevelEntry`.

Event-loop thread. Must not live here: who may join (``admission``, pure functions), the order of those who wait
(``levels``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

from stfs.batcher.admission import (
    DELAYED,
    PROMISED,
    USUAL,
    Full,
    Newcomer,
    level_of,
    level_of_rank,
    make_room,
    queue_of,
    rank_of,
    room_of_the_greediest,
)
from stfs.batcher.clients import ClientQueue
from stfs.batcher.due import Due
from stfs.batcher.home import Home
from stfs.batcher.levels import LevelQueue
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Entry
from stfs.batcher.refusals import Refusals
from stfs.batcher.weighed import size_of
from stfs.signature import Tensors

DISPLACED = "gave this request's place to one that goes first, of a higher priority (priority, X-Request-Priority)"


class LevelEntry:
    """The way into ``queue``. ``patience`` is there where levels say for how long their requests may wait."""

    def __init__(
        self, policy: BatchPolicy, queue: LevelQueue, refusals: Refusals, home: Home, clock: Callable[[], float]
    ) -> None:
        self._policy = policy
        self._queue = queue
        self._refusals = refusals
        self._home = home
        self._clock = clock
        self.patience = Due(home, clock, self._lose_patience) if policy.bounds_levels else None

    def enter(
        self,
        pieces: Sequence[Entry],
        inputs: Tensors,
        priority: int,
        came_back: bool,
        client: Hashable,
        now_s: float,
    ) -> None:
        """Find the pieces of a request their place, and make room for them; they are queued by the caller.

        ``inputs`` are those of the whole.

        Raises :class:`InvalidRequest` for a level that is not there, :class:`Overloaded` if there is no room.
        """
        policy = self._policy
        level = level_of(policy, priority)
        rank = rank_of(level, PROMISED if came_back else USUAL)
        for piece in pieces:
            piece.rank = rank
            piece.client = client
            piece.size_bytes = size_of(piece.inputs)
        rows, size_bytes = sum([piece.rows or 1 for piece in pieces]), sum([piece.size_bytes for piece in pieces])
        new = Newcomer(level, rows, len(pieces), size_bytes, came_back)
        room = make_room(policy, self._queue, new)
        if isinstance(room, Full):
            if not (isinstance(self._queue, ClientQueue) and self._take_from_greediest(self._queue, client, new)):
                raise self._refusals.refuse(room.reason, room.problem, inputs, rows, now_s)
            room = []
        for entry in room:
            self._queue.discard(entry)
            # Not at once: its client may have more to ask, and this is in the middle of another's request.
            self._home.loop.call_soon(self._send_off, entry, "displaced", DISPLACED)
        limits = queue_of(policy, level)
        if self.patience is not None and limits.timeout_s < math.inf:
            # If the first piece leaves in time, the whole has.
            for piece in pieces if limits.action == "delay" else pieces[:1]:
                self.patience.add(piece, now_s + limits.timeout_s)

    def _take_from_greediest(self, queue: ClientQueue, client: Hashable, new: Newcomer) -> bool:
        """Whether the client that holds most has given up places to ``new``."""
        entries = room_of_the_greediest(self._policy, queue, client, new)
        for entry in entries:
            held = queue.holds(entry.client)
            queue.discard(entry)
            self._home.loop.call_soon(self._send_off_for_share, entry, held)
        return bool(entries)

    def _send_off_for_share(self, entry: Entry, held: int) -> None:
        if not entry.answered:
            entry.answer(None, self._refusals.gave_way(held, self._clock()))

    def _lose_patience(self, entry: Entry, now_s: float) -> None:
        """What has waited too long is refused, or waits behind the others of its level from now on."""
        if entry.queue is None:
            return  # its batch has left
        level = level_of_rank(entry.rank)
        limits = queue_of(self._policy, level)
        if limits.action == "delay":
            self._queue.move(entry, rank_of(level, DELAYED))
        else:
            told = f"had no run for this request within {limits.timeout_s * 1e3:g} ms (queue_timeout_ms)"
            self._send_off(entry, "late", told)

    def _send_off(self, entry: Entry, reason: str, problem: str) -> None:
        if not entry.answered:  # a piece of a request that was turned away by another of its pieces
            whole = entry.whole
            entry.answer(None, self._refusals.refuse(reason, problem, whole.inputs, whole.rows, self._clock()))
