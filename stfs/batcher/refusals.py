"""What those are told who are refused for want of room or time, and when to come back: :class:`Refusals`.

Event-loop thread. Must not live here: whether there is room (``policy``, ``admission``), what is promised for which
time (``promises``), what clients make of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Protocol

from stfs.batcher.clients import ClientQueue
from stfs.batcher.policy import ROUNDING_S, BatchPolicy
from stfs.batcher.promises import Promises
from stfs.batcher.queue import Entry, Queue
from stfs.errors import Overloaded, ShareExceeded
from stfs.signature import Tensors

log = logging.getLogger(__name__)


class Pace(Protocol):
    """How fast requests leave."""

    def retry_after_s(self, rows: int, now_s: float) -> float:
        """Seconds until so many rows will have left, if things go on as they did."""

    def full_rate(self) -> float:
        """Rows a second with full batches; 0 while nothing is known."""


class Refusals:
    """Makes the errors, counts each, and keeps what was promised. ``row_bytes``: of a row, where these are bounded."""

    def __init__(
        self,
        name: str,
        policy: BatchPolicy,
        queue: Queue,
        pace: Pace,
        row_bytes: int,
        on_refused: Callable[[str], None] | None,
    ) -> None:
        self._name = name
        self._policy = policy
        self._queue = queue
        self._pace = pace
        self._row_bytes = row_bytes
        self._on_refused = on_refused
        self.promises: Promises | None = None
        """From the first refusal on."""

    def full(self, inputs: Tensors, rows: int, now_s: float) -> Overloaded:
        """There is no room for so many rows."""
        queued, size_bytes = self._queue.rows, self._row_bytes
        if size_bytes:
            return self.bytes_full(inputs, rows, queued * size_bytes, rows * size_bytes, now_s)
        held = f"{queued} rows queued of {self._policy.max_enqueued_rows} allowed"
        return self.refuse("full", f"has {held}, no room for {rows} more", inputs, rows, now_s)

    def bytes_full(self, inputs: Tensors, rows: int, held_bytes: int, size_bytes: int, now_s: float) -> Overloaded:
        """There is no room for so many bytes."""
        held = f"{held_bytes} bytes queued of {self._policy.max_enqueued_bytes} allowed (max_enqueued_bytes)"
        return self.refuse("bytes", f"has {held}, no room for {size_bytes} more", inputs, rows, now_s)

    def late(self, entry: Entry, now_s: float) -> Overloaded:
        """It cannot be in time, and is told while there is still time to ask elsewhere, or to come back."""
        left_s = max(entry.deadline_s - now_s, 0.0)
        slo_s = self._policy.latency_slo_s
        of = f" of latency_slo_ms ({slo_s * 1e3:g})" if entry.deadline_s >= entry.arrived_s + slo_s - ROUNDING_S else ""
        problem = f"cannot answer within the {left_s:.3f} s that are left{of}, with {self._queue.rows} rows queued"
        whole = entry.whole
        return self.refuse("late", problem, whole.inputs, whole.rows, now_s)

    def look_at_share(self, clients: ClientQueue, client: Hashable, now_s: float) -> None:
        """Raise :class:`ShareExceeded` for a client that has more than its share of a queue that is filling up."""
        excess = clients.excess(client, self._policy.max_enqueued_rows)
        if excess is not None:
            held, others = excess
            self._count("share")
            raise ShareExceeded(
                f"{self._name} has {clients.rows} rows queued, {held} of them this client's: more than its own share "
                f"beside {others} other{'s'[: others > 1]} (client_share)",
                self._pace.retry_after_s(held, now_s),
            )

    def gave_way(self, held: int, now_s: float) -> ShareExceeded:
        """A request whose client had ``held`` rows queued, more than any other, gave its place to another client's."""
        self._count("share")
        return ShareExceeded(
            f"{self._name} gave this request's place to another client's: the queue was full, with {held} rows of this "
            "client's, which is more than its own share (client_share)",
            self._pace.retry_after_s(held, now_s),
        )

    def refuse(self, reason: str, problem: str, inputs: Tensors, rows: int, now_s: float) -> Overloaded:
        """What to tell a request that is refused, which is counted, and when it had better come back."""
        self._count(reason)
        retry_s = self._pace.retry_after_s(self._queue.rows, now_s)
        if rate := self._pace.full_rate():
            if self.promises is None:
                self.promises = Promises()
            try:
                retry_s = self.promises.book(now_s, inputs, rows or 1, rate, self._policy.max_batch_size, retry_s)
            except Exception:
                log.exception("%s: inputs that cannot be told from others; nothing is promised for them", self._name)
        return Overloaded(f"{self._name} {problem}", retry_s)

    def look_for_promise(self, promises: Promises, inputs: Tensors, now_s: float) -> tuple[bool, int]:
        """Whether a request comes back as it was told to, and up to how many queued rows it may join."""
        left = self.rows_for_newcomers(promises, now_s)
        if promises.due_rows and self._queue.rows:
            try:
                if promises.keep(inputs):
                    return True, self._policy.max_enqueued_rows
            except Exception:
                log.exception("%s: inputs that cannot be told from others", self._name)
        return False, left

    def rows_for_newcomers(self, promises: Promises, now_s: float) -> int:
        """Queued rows up to which newcomers may join: they leave room for those who may come back now."""
        most = self._policy.max_enqueued_rows
        return max(most - promises.advance(now_s), most // 2)

    def _count(self, reason: str) -> None:
        if self._on_refused is not None:
            try:
                self._on_refused(reason)
            except Exception:
                log.exception("%s: the observer of refusals raised", self._name)
