"""The lanes of one batcher: :class:`Lanes`, which makes them and tells them what they have to know.

Event-loop thread. Must not live here: what happens in one (``_lane``, compiled), who may have one (``batcher``).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from stfs.batcher._lane import Lane
    from stfs.batcher.batcher import Batcher

_Lane: type[Lane] | None
try:
    from stfs.batcher._lane import Lane as _Lane
except ImportError:
    _Lane = None


class Lanes:
    """One for each input that was asked for."""

    __slots__ = ("_by_key", "made")

    def __init__(self) -> None:
        self._by_key: dict[Hashable, Lane | None] = {}
        self.made: list[Lane] = []
        """All that there are. Once the batcher has looked at the queue, what joins is news: ``told`` is false."""

    def of(self, batcher: Batcher, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> Lane | None:
        """The lane of ``batcher`` for that input. ``None`` for rows not for lanes, or if it is not compiled."""
        if _Lane is None:
            return None
        key = (name, dtype, row_shape)
        if key not in self._by_key:
            try:
                lane = self._by_key[key] = _Lane(batcher, name, dtype, row_shape, key)
                self.made.append(lane)
            except ValueError:
                self._by_key[key] = None
        return self._by_key[key]

    def leave_room(self, rows: int) -> None:
        """Lanes are for newcomers: who is not let in there goes through ``submit``, where others are known.

        ``rows``: those queued up to which newcomers may join.
        """
        for lane in self.made:
            lane.max_enqueued_rows = rows
