"""Rows of several requests as one batch and back: numpy only.

``N`` is the sum of the requests' rows, ``P >= N`` the rows after padding. Functions here are pure, take any dtype
(strings as object arrays too) and run on any thread. Must not live here: entries, queues, running the model.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from stfs.errors import InvalidInput, ModelFailed
from stfs.signature import Array, Tensors


def batch_key(inputs: Tensors, rows: int) -> Hashable:
    """Equal for requests that may share a batch: same names in the same order, dtypes, shapes past dimension 0.

    Raises :class:`InvalidInput` if an input does not have ``rows`` rows: stacking it would shift its neighbours' rows.
    """
    if len(inputs) == 1:  # worth its lines: this is a third of what queueing a request costs
        ((name, array),) = inputs.items()
        shape = array.shape
        if shape and shape[0] == rows:
            return name, array.dtype, shape[1:]
    key: list[Hashable] = []
    for name, array in inputs.items():
        shape = array.shape
        if not shape or shape[0] != rows:
            raise InvalidInput(name, f"shape {list(shape)} does not hold the request's {rows} rows")
        key += (name, array.dtype, shape[1:])
    return tuple(key)


def merge(requests: Sequence[Tensors], rows: int, padded_rows: int) -> Tensors:
    """The inputs of all requests, stacked: each ``[P, ...]``, C-contiguous if theirs are.

    ``requests`` have equal keys and ``rows`` rows in all. Rows past them repeat the last one, which the model is sure
    to accept if it accepts the request it came from. A single request that needs no padding is returned as it is,
    without copying; otherwise the arrays are new.
    """
    if len(requests) == 1 and padded_rows == rows:
        return requests[0]
    return {name: stack([inputs[name] for inputs in requests], rows, padded_rows) for name in requests[0]}


def stack(parts: list[Array], rows: int, padded_rows: int) -> Array:
    """``parts``, of ``rows`` rows in all, one behind another, the last row repeated up to ``padded_rows``; new."""
    if padded_rows > rows:
        last = parts[-1][-1:]
        parts.append(np.broadcast_to(last, (padded_rows - rows, *last.shape[1:])))
    return np.concatenate(parts)


def split(outputs: Tensors, counts: Sequence[int], padded_rows: int) -> list[Tensors]:
    """Each request's own rows of ``outputs`` (each ``[P, ...]``); ``counts`` holds the requests' rows, in order.

    The answers are views of ``outputs``, of rows that no other answer shows; they keep the whole array alive. With one
    request and no padding the answer is ``outputs`` itself.

    Raises :class:`ModelFailed`, naming the output, if its first dimension is not ``P``.
    """
    for name, array in outputs.items():
        shape = array.shape
        if not shape or shape[0] != padded_rows:
            raise ModelFailed(
                f'output "{name}": expected {padded_rows} rows, as many as went in, got shape {list(shape)}'
            )
    if len(counts) == 1 and counts[0] == padded_rows:
        return [outputs]
    if len(outputs) == 1 and max(counts) == 1 == min(counts):
        # The commonest batch by far, single rows: iterating in C makes the same views in two thirds of the time.
        ((name, array),) = outputs.items()
        return [{name: row} for row in array[: len(counts), None]]
    answers: list[Tensors] = []
    start = 0
    for count in counts:
        stop = start + count
        answers.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return answers


def pieces(inputs: Tensors, rows: int, limit_rows: int) -> list[tuple[Tensors, int]]:
    """``inputs`` cut into views of at most ``limit_rows`` rows, in order, each with its number of rows."""
    cuts = range(0, rows, limit_rows)
    return [
        ({name: array[cut : cut + limit_rows] for name, array in inputs.items()}, min(limit_rows, rows - cut))
        for cut in cuts
    ]


def join(answers: Sequence[Tensors]) -> Tensors:
    """The answers to the :func:`pieces` of one request, in order, as one; the arrays are new.

    Raises :class:`ModelFailed` if the pieces came back with different outputs, or with shapes that do not stack.
    """
    names = answers[0].keys()
    if any(answer.keys() != names for answer in answers):
        told = "; ".join(sorted({", ".join(answer) for answer in answers}))
        raise ModelFailed(f"the pieces of one large request came back with different outputs: {told}")
    joined: Tensors = {}
    for name in names:
        try:
            joined[name] = np.concatenate([answer[name] for answer in answers])
        except ValueError as error:
            raise ModelFailed(f'output "{name}": the pieces of one large request do not stack: {error}') from error
    return joined
