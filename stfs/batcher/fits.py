"""What one batcher knows of what fits into memory, by the shape of requests: keeps it, and tells people of changes.

Event-loop thread. Must not live here: what follows from it (``fitting``, pure functions).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from stfs.batcher.fitting import MOST_KEPT, Fit, Run, after, rows_now
from stfs.batcher.policy import BatchPolicy

if TYPE_CHECKING:
    from stfs.batcher.queue import Entry
    from stfs.batcher.runner import Batch, BatchRecord

log = logging.getLogger(__name__)


class Fits:
    """``known`` is empty while all fits. Its keys are the entries': requests of one key have rows of one shape."""

    __slots__ = ("_name", "_policy", "known")

    def __init__(self, policy: BatchPolicy, name: str) -> None:
        self._policy = policy
        self._name = name
        self.known: dict[Hashable, Fit] = {}

    @property
    def least_rows(self) -> int:
        """Rows that one run may take, of the requests that fit worst."""
        return min((fit.rows for fit in self.known.values()), default=self._policy.max_batch_size)

    def rows(self, oldest: Entry | None, now_s: float) -> int:
        """Rows that a batch of requests like ``oldest`` may have; 0 if nothing is known to be too much."""
        fit = self.known.get(oldest.key) if oldest is not None else None
        return rows_now(fit, self._policy, now_s) if fit is not None else 0

    def learn(self, batch: Batch, records: Sequence[BatchRecord], now_s: float) -> None:
        """A batch has come home, by these runs."""
        if not batch.entries:
            return
        key = batch.entries[0].key
        had = self.known.get(key)
        runs = [Run(one.padded_rows, one.no_memory) for one in records if one.no_memory or not one.failed]
        fit = after(had, runs, self._policy, now_s, wanted_more=0 < batch.limit_rows <= batch.rows)
        if fit is not None:
            if had is None and len(self.known) >= MOST_KEPT:
                del self.known[next(iter(self.known))]
            self.known[key] = fit
            if had is None or fit.rows < had.rows:
                told = "%s: a run did not fit into memory: runs of such requests take up to %d rows from now on"
                log.warning(told, self._name, fit.rows)
            elif fit.rows > had.rows:
                log.info("%s: runs of up to %d rows fit into memory again", self._name, fit.rows)
        elif had is not None:
            del self.known[key]
            log.info("%s: runs of all sizes fit into memory again", self._name)
