"""A plain queue that knows how many bytes wait in it: :class:`WeighedQueue`, where rows are of unlike size.

(Where all rows are of one size a bound on bytes is one on rows, and :class:`stfs.batcher.queue.Queue` will do. Where
there are levels or clients, their queues count bytes themselves.) Event-loop thread. Must not live here: what those are
told for whom there is no room.
"""

from __future__ import annotations

from collections.abc import Hashable

from stfs.batcher.queue import Entry, Queue
from stfs.signature import Tensors


def size_of(inputs: Tensors) -> int:
    """Bytes that these arrays hold; of strings, which are objects, their texts as well.

    Every text is looked at, so that none can hide among others: it costs a small part of what reading them did.
    """
    size_bytes = 0
    for array in inputs.values():
        size_bytes += array.nbytes
        if array.dtype.hasobject:
            if array.size == 1:
                size_bytes += len(array.item())
            else:
                size_bytes += sum(map(len, array.ravel().tolist()))
    return size_bytes


class WeighedQueue(Queue):
    """As :class:`Queue`. An entry's ``size_bytes`` is set before it joins; ``bytes`` is the sum of those that wait."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def admits(self, most_bytes: int, size_bytes: int, kept_rows: int) -> bool:
        """Whether ``size_bytes`` more may wait. An empty queue takes a request of any size.

        Room for ``kept_rows`` rows like those that wait is left to others, but half of the whole at most.
        """
        if not self.rows:
            return True
        if kept_rows:
            most_bytes -= min(kept_rows * self.bytes // self.rows, most_bytes // 2)
        return self.bytes + size_bytes <= most_bytes

    def append(self, entry: Entry) -> None:
        """As :meth:`Queue.append`. The caller has asked :meth:`admits`."""
        self.bytes += entry.size_bytes
        super().append(entry)

    def take_of(self, key: Hashable, limit_rows: int, taken: list[Entry], rows: int) -> tuple[int, bool]:
        """As :meth:`Queue.take_of`."""
        had = len(taken)
        told = super().take_of(key, limit_rows, taken, rows)
        for entry in taken[had:] if had else taken:
            self.bytes -= entry.size_bytes
        return told

    def discard(self, entry: Entry) -> None:
        """Take out an entry that this queue holds; it will not be run."""
        self.bytes -= entry.size_bytes
        super().discard(entry)
