"""A request of more rows than a batch holds: cut into pieces, and answered when the last one is, or the first fails."""

from __future__ import annotations

from functools import partial

from stfs.batcher.batch import join, pieces
from stfs.batcher.queue import Entry
from stfs.errors import ModelFailed, RequestError
from stfs.signature import Tensors


class LargeEntry(Entry):
    """Never queued itself. It has the deadline, its pieces the rows; once it is answered, the rest of them is dropped.

    Event-loop thread. The answer is joined there, into new arrays.
    """

    __slots__ = ("_answers", "_missing", "_pieces")

    def cut(self, limit_rows: int) -> list[Entry]:
        """The pieces, to be queued together."""
        self._pieces = [
            Entry(
                inputs, rows, self.key, partial(self._on_piece, number), self.arrived_s, self.deadline_s, self.journey
            )
            for number, (inputs, rows) in enumerate(pieces(self.inputs, self.rows, limit_rows))
        ]
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
        for piece in self._pieces:
            piece.cancel()

    def answer(self, outputs: Tensors | None, error: RequestError | None) -> None:
        """Answer the whole, and take back what has not been run yet."""
        for piece in self._pieces:
            piece.cancel()
        super().answer(outputs, error)
