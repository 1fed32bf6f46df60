"""A queue in which some go before others, and in which bytes are counted: :class:`LevelQueue`.

It stands in the place of :class:`stfs.batcher.queue.Queue` for models that are set up so. A rank is a queue of its own;
lower ranks leave first. Which requests stand where is told at ``admission.rank_of``. Event-loop thread. Must not live
here: clocks, who may queue and what a level means (``admission``).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Hashable, Iterator

from stfs.batcher.queue import Entry, Queue


class Rank(Queue):
    """Entries of one rank; what joins and leaves is counted in the whole as well. ``count`` is of entries."""

    __slots__ = ("_whole", "bytes", "count")

    def __init__(self, whole: LevelQueue) -> None:
        super().__init__()
        self._whole = whole
        self.bytes = 0
        self.count = 0

    def append(self, entry: Entry) -> None:
        """Let ``entry`` wait."""
        self._trim()
        super().append(entry)
        self._count(1, entry.rows or 1, entry.size_bytes)

    def discard(self, entry: Entry) -> None:
        """Take out an entry that this rank holds."""
        super().discard(entry)
        self._count(-1, -(entry.rows or 1), -entry.size_bytes)

    def take_of(self, key: Hashable, limit_rows: int, taken: list[Entry], rows: int) -> tuple[int, bool]:
        """As :meth:`stfs.batcher.queue.Queue.take_of`."""
        had = len(taken)
        now_rows, more = super().take_of(key, limit_rows, taken, rows)
        left = taken[had:]
        self._count(-len(left), rows - now_rows, -sum([entry.size_bytes for entry in left]))
        return now_rows, more

    def youngest_first(self) -> Iterator[Entry]:
        """All that wait here. Nothing may join or leave meanwhile."""
        self._trim()
        return (entry for entry in reversed(self._order) if entry.queue is self)

    def _trim(self) -> None:
        """Forget those at the end that have left, as all do that make room: none is looked at twice."""
        order = self._order
        while order and order[-1].queue is not self:
            entry = order.pop()
            lane = self._lanes.get(entry.key)
            if lane and lane[-1] is entry:  # if not, it was taken
                lane.pop()
                if not lane:
                    del self._lanes[entry.key]

    def _count(self, entries: int, rows: int, size_bytes: int) -> None:
        whole = self._whole
        self.count += entries
        self.bytes += size_bytes
        whole.count += entries
        whole.rows += rows
        whole.bytes += size_bytes


class LevelQueue(Queue):
    """Entries by rank, and in order of arrival within one. ``rows``, ``bytes`` and ``count`` are of all ranks.

    An entry's ``rank`` and ``size_bytes`` are set before it joins. Ranks may be any numbers: those that hold nothing
    cost nothing.
    """

    __slots__ = ("_by_number", "_numbers", "bytes", "count")

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.count = 0
        self._by_number: dict[int, Rank] = {}
        self._numbers: list[int] = []  # of the ranks above, ascending

    def append(self, entry: Entry) -> None:
        """Let ``entry`` wait in its rank. The caller has asked :mod:`stfs.batcher.admission` whether it may."""
        rank = self._by_number.get(entry.rank)
        if rank is None:
            rank = self._by_number[entry.rank] = self.make_rank()
            insort(self._numbers, entry.rank)
        rank.append(entry)

    def make_rank(self) -> Rank:
        """What holds the entries of one rank."""
        return Rank(self)

    def oldest(self) -> Entry | None:
        """The entry whose turn it is: of the lowest rank that holds any, the one that has waited longest."""
        numbers = self._numbers
        while numbers:
            if (found := self._by_number[numbers[0]].oldest()) is not None:
                return found
            del self._by_number[numbers.pop(0)]
        return None

    def most_urgent(self) -> Entry | None:
        """Of those whose turn it is in each rank, the one whose answer is wanted first."""
        urgent: Entry | None = None
        for number in self._numbers:
            oldest = self._by_number[number].oldest()
            if oldest is not None and (urgent is None or oldest.deadline_s < urgent.deadline_s):
                urgent = oldest
        return urgent

    def take(self, limit_rows: int) -> tuple[list[Entry], bool]:
        """As :meth:`stfs.batcher.queue.Queue.take`: rank by rank, so that what is left of a batch is for lower ones.

        It stops at the first entry that does not fit, of whatever rank: no later one goes before it.
        """
        oldest = self.oldest()
        if oldest is None:
            return [], False
        taken: list[Entry] = []
        rows, more = 0, False
        for number in self._numbers:
            rows, more = self._by_number[number].take_of(oldest.key, limit_rows, taken, rows)
            if more or rows >= limit_rows:
                break
        return taken, more or rows >= limit_rows

    def discard(self, entry: Entry) -> None:
        """Take out an entry that this queue holds; it will not be run."""
        self._by_number[entry.rank].discard(entry)

    def move(self, entry: Entry, rank: int) -> None:
        """Let an entry that waits here wait in a rank that it has not been in, behind those that do."""
        self.discard(entry)
        entry.rank = rank
        self.append(entry)

    def held(self, rank: int) -> tuple[int, int]:
        """Entries and rows of that rank."""
        found = self._by_number.get(rank)
        return (0, 0) if found is None else (found.count, found.rows)

    def last_first(self, above_rank: int) -> Iterator[Entry]:
        """Entries of ranks over this one: the highest rank first, and of each the youngest first.

        Nothing may join or leave meanwhile.
        """
        for number in reversed(self._numbers):
            if number <= above_rank:
                return
            yield from self._by_number[number].youngest_first()
