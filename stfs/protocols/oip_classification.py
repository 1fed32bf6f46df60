"""Triton's classification extension: an output told as its highest values, ``"value:index"`` each.

Source: ``extension_classification.md`` of Triton. Models here have no files of labels, so none are told.
"""

from __future__ import annotations

import numpy as np

from stfs.errors import InvalidRequest
from stfs.signature import STRING, Array


def classes(name: str, array: Array, count: int, *, rows: bool) -> Array:
    """The ``count`` highest values of each row (``rows``: dimension 0 is rows), or of the whole array, the first first.

    Shape ``[rows, n]`` or ``[n]`` of texts, ``n`` at most as many as there are values; equal values in the order of
    their index, those that are no number last. Raises :class:`InvalidRequest` for an output that is not of numbers.
    """
    if array.dtype.kind not in "iuf":
        raise InvalidRequest(f'output "{name}" is not of numbers, so it has no classification')
    table = array.reshape(array.shape[0], -1) if rows and array.ndim and array.size else array.reshape(1, -1)
    if rows and not array.size:
        return np.empty((array.shape[0] if array.ndim else 0, 0), STRING)
    best = _descending(table)[:, :count]
    spell = "%f:%d" if array.dtype.kind == "f" else "%d:%d"
    told = np.empty(best.shape, STRING)
    for row, order in enumerate(best):
        for place, (index, value) in enumerate(zip(order.tolist(), table[row, order].tolist(), strict=True)):
            told[row, place] = (spell % (value, index)).encode()
    return told if rows else told.reshape(-1)


def _descending(table: Array) -> Array:
    """The indices of each row's values, the highest first; stable."""
    if table.dtype.kind == "f":
        order: Array = np.argsort(-table, axis=1, kind="stable")
        return order
    # An unsigned number, or the least signed one, has no negative: sort the mirror image and turn it round.
    mirrored = np.argsort(table[:, ::-1], axis=1, kind="stable")[:, ::-1]
    turned: Array = np.subtract(table.shape[1] - 1, mirrored)
    return turned
