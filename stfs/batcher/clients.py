"""A queue that clients share: :class:`ClientQueue`, in the place of a :class:`stfs.batcher.levels.LevelQueue`.

Within a rank, clients take turns: a request's turn is when its client's requests before it would have left, counted in
rows, if clients took turns row by row. So who has queued much waits behind who has queued little, and one client alone
has its requests in order of arrival. (Start-time fair queueing again, see ``fair``, where costs are rows.)

Event-loop thread. Must not live here: who a client is, what one is told that has more than its share.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count

from stfs.batcher.levels import LevelQueue, Rank
from stfs.batcher.queue import Entry

CONTENDED = 0.5
"""Of the rows that may queue; while fewer do, nobody's share is looked at."""

MOST_PASSED = 1024
"""What has left is looked for when there is so much more than what waits."""

_Turn = tuple[int, int, Entry]
"""When an entry's turn is, in rows; a number, so that no two are equal; the entry, perhaps gone from here."""


class ClientRank(Rank):
    """Entries of one rank, by their clients' turns."""

    __slots__ = ("_by_key", "_clients", "_turns")

    def __init__(self, whole: ClientQueue) -> None:
        super().__init__(whole)
        self._clients = whole
        self._turns: list[_Turn] = []
        self._by_key: dict[Hashable, list[_Turn]] = {}

    def append(self, entry: Entry) -> None:
        """Let ``entry`` wait for its client's turn."""
        if len(self._turns) >= 2 * self.count + MOST_PASSED:
            self._sweep()
        turn = self._clients.next_turn(entry)
        heappush(self._turns, turn)
        heappush(self._by_key.setdefault(entry.key, []), turn)
        entry.queue = self
        self.rows += entry.rows or 1
        self._count(1, entry.rows or 1, entry.size_bytes)

    def oldest(self) -> Entry | None:
        """The entry whose turn it is."""
        turns = self._turns
        while turns:
            if turns[0][2].queue is self:
                return turns[0][2]
            heappop(turns)
        return None

    def take_of(self, key: Hashable, limit_rows: int, taken: list[Entry], rows: int) -> tuple[int, bool]:
        """As :meth:`stfs.batcher.queue.Queue.take_of`, in the order of turns."""
        turns = self._by_key.get(key)
        if turns is None:
            return rows, False
        while turns:
            at, _, entry = turns[0]
            if entry.queue is self:
                more = rows + (entry.rows or 1)
                if more > limit_rows and taken:
                    return rows, True
                rows = more
                self.discard(entry)
                taken.append(entry)
                self._clients.taken(at)
            heappop(turns)
        del self._by_key[key]
        return rows, False

    def discard(self, entry: Entry) -> None:
        """Take out an entry that this rank holds."""
        entry.queue = None
        self.rows -= entry.rows or 1
        self._clients.left(entry)
        self._count(-1, -(entry.rows or 1), -entry.size_bytes)

    def youngest_first(self) -> Iterator[Entry]:
        """All that wait here, the last in turn first. Nothing may join or leave meanwhile."""
        return (entry for _, _, entry in sorted(self._turns, reverse=True) if entry.queue is self)

    def _sweep(self) -> None:
        self._turns = [turn for turn in self._turns if turn[2].queue is self]
        heapify(self._turns)
        self._by_key = {}
        for turn in self._turns:  # ascending in no way that matters: each list is made a heap
            self._by_key.setdefault(turn[2].key, []).append(turn)
        for turns in self._by_key.values():
            heapify(turns)


class ClientQueue(LevelQueue):
    """As :class:`LevelQueue`, with turns for clients. An entry's ``client`` is set before it joins, too."""

    __slots__ = ("_count_turns", "_finish", "_forget_at", "_held", "_virtual")

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[Hashable, int] = {}  # rows, of clients that have any
        self._finish: dict[Hashable, int] = {}  # when a client's last request will have had its turn
        self._forget_at = MOST_PASSED
        self._virtual = 0
        self._count_turns = count()

    def excess(self, client: Hashable, max_rows: int) -> tuple[int, int] | None:
        """Rows that ``client`` has queued, and how many others have any, if that is more than its equal share of the
        rows queued and over half of the ``max_rows`` that may queue are; ``None`` if it may have more.
        """
        held = self._held.get(client, 0)
        clients = len(self._held)
        if self.rows <= CONTENDED * max_rows or held * clients <= self.rows:
            return None
        return held, clients - 1

    def holds(self, client: Hashable) -> int:
        """Rows that ``client`` has queued."""
        return self._held.get(client, 0)

    def greediest(self) -> Hashable:
        """Who has most rows queued; somebody has some."""
        return max(self._held, key=self._held.__getitem__)

    def next_turn(self, entry: Entry) -> _Turn:
        """The turn of an entry that joins, which moves those of its client on."""
        client, rows = entry.client, entry.rows or 1
        if not self._held:
            self._finish.clear()  # nobody is behind anybody
        at = max(self._virtual, self._finish.get(client, 0))
        self._finish[client] = at + rows
        self._held[client] = self._held.get(client, 0) + rows
        if len(self._finish) >= self._forget_at:
            self._finish = {one: end for one, end in self._finish.items() if end > self._virtual or one in self._held}
            self._forget_at = 2 * len(self._finish) + MOST_PASSED
        return at, next(self._count_turns), entry

    def taken(self, at: int) -> None:
        """An entry is run whose turn this was: who comes now begins no earlier."""
        self._virtual = max(self._virtual, at)

    def left(self, entry: Entry) -> None:
        """An entry has left, be it to be run or not."""
        client = entry.client
        held = self._held[client] - (entry.rows or 1)
        if held:
            self._held[client] = held
        else:
            del self._held[client]

    def make_rank(self) -> Rank:
        """As :meth:`LevelQueue.make_rank`."""
        return ClientRank(self)
