"""Keeps a model that was compiled for some numbers of rows within them. Functions of arrays; knows no framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stfs.errors import InvalidRequest, ModelFailed
from stfs.signature import Array, Tensors


@dataclass(frozen=True, slots=True)
class RowRange:
    """The fewest and the most rows of one run; ``most_rows`` is ``None`` where there is no limit."""

    fewest_rows: int = 0
    most_rows: int | None = None

    def sizes(self, rows: int) -> list[int]:
        """How ``rows`` are parted into runs: as few as there can be, of nearly the same size."""
        if self.most_rows is None or rows <= self.most_rows:
            return [rows]
        runs = -(-rows // self.most_rows)
        return [rows // runs + (i < rows % runs) for i in range(runs)]


def run_in_range(run: Callable[[Tensors], Tensors], inputs: Tensors, rows: int, limits: RowRange) -> Tensors:
    """The outputs of ``run`` for all ``rows``, though each run has a number of rows within ``limits``.

    Rows are independent of each other, so that many rows go in several runs, and few get copies of their last one,
    whose answers are dropped. Raises :class:`InvalidRequest` for no rows where some are needed.
    """
    sizes = limits.sizes(rows)
    if len(sizes) == 1 and sizes[0] >= limits.fewest_rows:
        return run(inputs)
    if not rows:
        raise InvalidRequest("there are no rows, and this model takes no empty batch")
    parts = []
    start = 0
    for size in sizes:
        piece = {name: _padded(array[start : start + size], limits.fewest_rows) for name, array in inputs.items()}
        outputs = run(piece)
        given = max(size, limits.fewest_rows)
        for name, array in outputs.items():
            if not array.ndim or array.shape[0] != given:
                raise ModelFailed(f'output "{name}" has shape {list(array.shape)} after a run of {given} rows')
        parts.append({name: array[:size] for name, array in outputs.items()})
        start += size
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _padded(array: Array, fewest_rows: int) -> Array:
    missing = fewest_rows - array.shape[0]
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])
