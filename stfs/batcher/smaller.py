"""Runs a batch that does not fit into memory in smaller ones, by rows and not by requests. Blocking; never raises.

Rows of several requests share a run as far as they fit, and a request of more rows than fit is cut and joined again.
With n rows this costs about log2(n) runs that fail, and as many that succeed as it takes. Must not live here: what is
remembered of it (``fitting``), the search for a guilty request (``runner``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stfs.batcher.batch import join
from stfs.batcher.fitting import smaller
from stfs.batcher.policy import BatchPolicy, padded_rows
from stfs.errors import ModelFailed, OutOfMemory, RequestError
from stfs.signature import Tensors

if TYPE_CHECKING:
    from stfs.batcher.queue import Entry
    from stfs.batcher.runner import Batch, Outcome

Attempt = Callable[["Batch"], tuple[list[Tensors], BaseException | None]]
"""One run: an answer for each entry, or the error."""
Blame = Callable[["Batch", BaseException], "list[Outcome]"]
"""What the entries of a batch that has failed once are to be told, for whatever reason but memory."""

MOST_ALONE = 2
"""So many rows that do not even fit alone are taken for the exception: what follows them is tried in full again."""


class Piece:
    """Some of a request's rows, to be run as an entry of its own. ``number`` is the request's place in its batch;
    ``is_cut`` says that these are not all of them.
    """

    __slots__ = ("_entry", "inputs", "is_cut", "number", "rows")

    requests = 1

    def __init__(self, entry: Entry, number: int, inputs: Tensors, rows: int, *, is_cut: bool = False) -> None:
        self._entry = entry
        self.number = number
        self.inputs = inputs
        self.rows = rows
        self.is_cut = is_cut

    @property
    def answered(self) -> bool:
        """Whether nobody waits for the request any more."""
        return self._entry.answered

    def cut(self, rows: int) -> tuple[Piece, Piece]:
        """Its first ``rows`` rows, and the rest; views."""
        first, rest = ({name: a[part] for name, a in self.inputs.items()} for part in (slice(rows), slice(rows, None)))
        entry, number = self._entry, self.number
        return (
            Piece(entry, number, first, rows, is_cut=True),
            Piece(entry, number, rest, self.rows - rows, is_cut=True),
        )


def run_smaller(
    batch: Batch,
    limit_rows: int,
    policy: BatchPolicy,
    name: str,
    attempt: Attempt,
    blame: Blame,
    *,
    mixes_pieces: bool = True,
) -> list[Outcome]:
    """An outcome for each entry of ``batch``, whose entries are single requests; no run has more than ``limit_rows``.

    ``mixes_pieces`` is false where the shape of answers depends on who else is in a run: those to the pieces of one
    request must fit together.
    What does not fit by the smallest batch that makes sense is told :class:`OutOfMemory`. The model's thread.
    """
    count = len(batch.entries)
    answers: list[list[Tensors]] = [[] for _ in range(count)]
    errors: list[RequestError | None] = [None] * count
    todo = deque(
        Piece(entry, number, inputs, entry.rows)
        for number, (entry, inputs) in enumerate(zip(batch.entries, batch.requests, strict=True))
    )
    patience = MOST_ALONE
    begun_rows = limit_rows
    while part := _take(todo, limit_rows, errors, mixes_pieces):
        run = batch.of(part, [piece.inputs for piece in part])
        got, error = attempt(run)
        if isinstance(error, OutOfMemory):
            if fewer := smaller(policy, padded_rows(policy, run.rows)):
                limit_rows = fewer
                todo.extendleft(reversed(part))
                continue
            outcomes: list[Outcome] = [(None, too_large(name, run.rows, error))] * len(part)
            patience -= 1
            if patience >= 0:
                limit_rows = begun_rows
        elif error is not None:
            outcomes = blame(run, error)
        else:
            outcomes = [(answer, None) for answer in got]
        for piece, (answer, problem) in zip(part, outcomes, strict=True):
            errors[piece.number] = errors[piece.number] or problem
            if answer is not None:
                answers[piece.number].append(answer)
    return [_outcome(of_one, error) for of_one, error in zip(answers, errors, strict=True)]


def too_large(name: str, rows: int, error: OutOfMemory) -> OutOfMemory:
    """What a request is told that does not fit by itself."""
    what = "one row does" if rows == 1 else f"{rows} rows, as few as it can be given, do"
    told = OutOfMemory(f"{name} has not enough memory: {what} not fit ({error})", error.retry_after_s)
    told.__cause__ = error
    return told


def _take(
    todo: deque[Piece], limit_rows: int, errors: Sequence[RequestError | None], mixes_pieces: bool
) -> list[Piece]:
    """The next pieces that fit into ``limit_rows``; the last of them is cut to fit. Nobody's rows are left out."""
    part: list[Piece] = []
    rows = 0
    while todo:
        piece = todo.popleft()
        if piece.answered or errors[piece.number] is not None:
            continue
        if rows + piece.rows > limit_rows:
            if part:
                todo.appendleft(piece)
                break
            piece, rest = piece.cut(limit_rows)
            todo.appendleft(rest)
        runs_alone = piece.is_cut and not mixes_pieces
        if runs_alone and part:
            todo.appendleft(piece)
            break
        rows += piece.rows
        part.append(piece)
        if runs_alone or rows >= limit_rows:
            break
    return part


def _outcome(answers: list[Tensors], error: RequestError | None) -> Outcome:
    if error is not None:
        return None, error
    if len(answers) < 2:
        return (answers[0], None) if answers else (None, None)
    try:
        return join(answers), None
    except ModelFailed as failure:
        return None, failure
