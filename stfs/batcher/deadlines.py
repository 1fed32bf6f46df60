"""Which entries are late: a heap of deadlines. Event-loop thread; must not live here: timers and clocks."""

from __future__ import annotations

import heapq
from itertools import count

from stfs.batcher.queue import Entry


class Deadlines:
    """Entries by deadline, whether queued or in flight.

    An entry that is answered in time is not looked for: it is dropped when it comes to the front or, if many gather,
    in one sweep. A step costs amortised O(log n).
    """

    __slots__ = ("_heap", "_numbers", "_sweep_at")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry]] = []
        self._numbers = count()  # a tie is broken by age, never by comparing entries
        self._sweep_at = 1024

    def add(self, entry: Entry, deadline_s: float) -> bool:
        """Watch ``entry``; true if no other deadline comes before its own."""
        if len(self._heap) >= self._sweep_at:
            self._heap = [item for item in self._heap if not item[2].answered]
            heapq.heapify(self._heap)
            self._sweep_at = max(1024, 2 * len(self._heap))
        item = (deadline_s, next(self._numbers), entry)
        heapq.heappush(self._heap, item)
        return self._heap[0] is item

    def next_s(self) -> float | None:
        """The earliest deadline of an entry that still waits, in seconds of the batcher's clock."""
        heap = self._heap
        while heap and heap[0][2].answered:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now_s: float) -> Entry | None:
        """The next entry that still waits and whose deadline is ``now_s`` or earlier; it is no longer watched."""
        heap = self._heap
        while heap and heap[0][0] <= now_s:
            entry = heapq.heappop(heap)[2]
            if not entry.answered:
                return entry
        return None
