"""A request of more rows than a batch holds: cut into pieces, and answered when the last one is, or the first fails."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from stfs.batcher.batch import join, pieces
from stfs.batcher.queue import Entry
from stfs.errors import ModelFailed, RequestError
from stfs.signature import Tensors


class Piece(Entry):
    """As many rows of a :class:`LargeEntry` as a batch holds."""

    __slots__ = ("whole",)

    whole: Entry
    """The request that this is a piece of."""


class LargeEntry(Entry):
    """Never queued itself. It has the deadline, its pieces the rows; once it is answered, the rest of them is dropped.

    Event-loop thread. The answer is joined there, into new arrays.
    """

    __slots__ = ("_answers", "_missing", "_pieces")

    def cut(self, limit_rows: int) -> Sequence[Entry]:
        """The pieces, to be queued together."""
        self._pieces = [
            Piece(
                inputs, rows, self.key, partial(self._on_piece, number), self.arrived_s, self.deadline_s, self.journey
            )
            for number, (inputs, rows) in enumerate(pieces(self.inputs, self.rows, limit_rows))
        ]
        for piece in self._pieces:
            piece.whole = self
        self._answers: list[Tensors] = [{}] * len(self._pieces)
        self._missing = len(self._pieces)
        return self._pieces

    def _on_piece(self, number: int, outputs: Tensors | None, error: RequestError | None) -> None:
        if outputs is None:
            self.answer(None, error)
            return
        self._answers[number] = outputs
        self._missing -= 1
        if not self._missing:
            try:
                joined = join(self._answers)
            except ModelFailed as failure:
                self.answer(None, failure)
            else:
                self.answer(joined, None)

    def cancel(self) -> None:
        """Take back what has not been run yet."""
        super().cancel()
        self._drop_pieces()

    def answer(self, outputs: Tensors | None, error: RequestError | None) -> None:
        """Answer the whole, and take back what has not been run yet."""
        self._drop_pieces()
        super().answer(outputs, error)

    def _drop_pieces(self) -> None:
        for piece in self._pieces:
            piece.cancel()
        self._pieces = []  # they know the whole, which would keep both until the collector finds them
