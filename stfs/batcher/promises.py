"""When those who are refused had better come back, and that they find room then: :class:`Promises`.

Under overload somebody is always refused. Whoever then waits as long as ``Retry-After`` says should not lose again to
those who have just come. So the seconds that a refused request is told are a time for which not too many others have
been told to come back; and when it does come back, it is known by its inputs (a keyed digest of them, since clients
send nothing else that would tell) and goes before newcomers. A part of what the model can do is promised at most:
those who ask for the first time are never shut out. Whoever comes back too early, or much too late, is a newcomer, so
that there is nothing to be gained by not waiting.

Times are seconds of any one clock and come in; tables are bounded. Event-loop thread. Must not live here: queues,
replies, clocks.
"""

from __future__ import annotations

import heapq
import math
import os
from hashlib import blake2b
from typing import Any

import numpy as np

from stfs.batcher.policy import LONGEST_RETRY_S, ROUNDING_S
from stfs.signature import Tensors

SHARE = 0.4
"""Of what the model can do, what may be promised for any one time."""
LEAST_SLICE_S = 0.1
"""Promises are counted by slices of time, as long as a full batch takes but not shorter than this."""
GRACE_S = 2.0
"""How much later than told a client may come: it has first to hear of it, and then to be read."""
MOST_PROMISES = 20_000
"""Kept promises are forgotten, and so are those of clients that stay away; never are there more than this."""
WHOLE_BYTES = 4096
"""Inputs that are larger are known by so many bytes of theirs, taken from all over them."""


class _Promise:
    __slots__ = ("digest", "kept", "rows")

    def __init__(self, digest: bytes, rows: int) -> None:
        self.digest = digest
        self.rows = rows
        self.kept = False


class _Slice:
    """Those who were told to come in one slice of time."""

    __slots__ = ("is_open", "promises", "rows")

    def __init__(self) -> None:
        self.promises: list[_Promise] = []
        self.rows = 0
        self.is_open = False


class Promises:
    """What was promised to those whom one batcher has refused."""

    __slots__ = ("_count", "_key", "_now", "_numbers", "_open", "_slice_s", "_slices", "due_rows")

    def __init__(self, key: bytes = b"") -> None:
        self._key = key or os.urandom(16)
        self._slice_s = LEAST_SLICE_S
        self._slices: dict[int, _Slice] = {}  # by slice, those to come and those that have
        self._numbers: list[int] = []  # a heap of the slices to come
        self._now: list[int] = []  # a heap of the slices that may come now
        self._open: dict[bytes, list[_Promise]] = {}  # what may come now
        self._count = 0
        self.due_rows = 0
        """Rows that may come now and have not, as of the last :meth:`advance`."""

    def __len__(self) -> int:
        return self._count

    def book(self, now_s: float, inputs: Tensors, rows: int, rate: float, full_rows: int, least_s: float) -> float:
        """Whole seconds after which a request that is refused now had better come back.

        ``rate`` is what the model can do, in rows a second; ``full_rows`` are those of a full batch. Not before
        ``least_s``. 60 where nothing is promised, since nothing is free until then.
        """
        if not self._count:
            self._slice_s = max(LEAST_SLICE_S, full_rows / rate)
        slice_s = self._slice_s
        room = SHARE * rate * slice_s
        least = max(1, math.ceil(least_s - ROUNDING_S))
        if self._count < MOST_PROMISES:
            for seconds in range(least, int(LONGEST_RETRY_S) + 1):
                number = int((now_s + seconds) / slice_s)
                others = self._slices.get(number)
                if others is None:  # as in a queue, nobody is too large to come alone
                    others = self._slices[number] = _Slice()
                    heapq.heappush(self._numbers, number)
                elif others.rows + rows > room:
                    continue
                promise = _Promise(self.digest(inputs), rows)
                others.promises.append(promise)
                others.rows += rows
                if others.is_open:  # it is a long one
                    self._await(promise)
                self._count += 1
                return float(seconds)
        return max(float(least), LONGEST_RETRY_S)

    def advance(self, now_s: float) -> int:
        """Rows that may come back now. To be called before :meth:`keep`; costs next to nothing if no slice begins."""
        numbers, slice_s = self._numbers, self._slice_s
        while numbers and numbers[0] * slice_s <= now_s:
            number = heapq.heappop(numbers)
            heapq.heappush(self._now, number)
            now = self._slices[number]
            now.is_open = True
            for promise in now.promises:
                self._await(promise)
        while self._now and (self._now[0] + 1) * slice_s + GRACE_S <= now_s:
            for promise in self._slices.pop(heapq.heappop(self._now)).promises:
                self._count -= 1
                if not promise.kept:
                    self._forget(promise)
        return self.due_rows

    def keep(self, inputs: Tensors) -> bool:
        """Whether this request has come back as it was told to. It is a newcomer the next time."""
        waiting = self._open.get(self.digest(inputs))
        if waiting is None:
            return False
        promise = waiting[0]
        promise.kept = True
        self._forget(promise)
        return True

    def _await(self, promise: _Promise) -> None:
        self._open.setdefault(promise.digest, []).append(promise)
        self.due_rows += promise.rows

    def _forget(self, promise: _Promise) -> None:
        waiting = self._open[promise.digest]
        waiting.remove(promise)
        if not waiting:
            del self._open[promise.digest]
        self.due_rows -= promise.rows

    def digest(self, inputs: Tensors) -> bytes:
        """What inputs are known by: their names, dtypes and shapes, and their values or, of many, some of them."""
        known = blake2b(digest_size=16, key=self._key)
        for name, array in inputs.items():
            known.update(f"{name}\0{array.dtype.str}{array.shape}\0".encode())
            _add(known, array)
        return known.digest()


def _add(known: blake2b, array: np.ndarray[Any, np.dtype[Any]]) -> None:
    if array.dtype.hasobject:
        for value in array.flat[:: max(1, array.size // 64)].tolist():
            text = value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")
            known.update(b"%d:" % len(text))
            known.update(text[:WHOLE_BYTES])
    elif array.nbytes <= WHOLE_BYTES:
        known.update(array.tobytes())
    else:
        step = max(1, array.size * array.itemsize // WHOLE_BYTES)
        known.update(array.flat[::step].tobytes())
