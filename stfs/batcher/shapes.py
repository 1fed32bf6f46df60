"""Requests of unlike length in one batch: which may share one, how they are padded, how their answers are cut back.

A request keeps its own shape until its batch is put together, on the model's thread; there its inputs are padded at the
end of each dimension, up to a bucket or to the largest of the batch, and its outputs cut to what they would have been
without. numpy only, pure functions of values. Must not live here: what an operator says and whether it fits the model
(``shape_plan``), padding to an allowed number of rows (``batch``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfs.batcher.batch import batch_key, stack
from stfs.errors import InvalidInput, ModelFailed
from stfs.signature import STRING, Array, Tensors

SMALLEST_CLASS = 64
CLASS_STEP = 4
"""Without buckets, lengths up to 64 share batches, those up to 256, up to 1024 and so on: what one long request makes
the others of its batch pay, in time and in memory, has a bound then."""


@dataclass(frozen=True, slots=True)
class PaddedInput:
    """One input. ``axes`` are those of its dimensions that may be padded, ascending, none of them 0.

    ``value`` is what it is padded with; ``None``: with the first element of the request's own tensor, as TensorFlow
    Serving does, or zero where it has none. ``mask_of`` names the input whose elements this one marks, so that it has
    that one's lengths; it is padded with zeros.
    """

    axes: tuple[int, ...]
    value: Any = None
    mask_of: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """Dimension ``axis`` of an output is as long as dimension ``input_axis`` of ``input``."""

    output: str
    axis: int
    input: str
    input_axis: int


@dataclass(frozen=True, slots=True)
class Padding:
    """How requests of one signature come to share a shape. ``inputs`` by name are those that are padded.

    ``buckets``: ascending lengths of dimension 1, each request being padded up to the next; empty: none.
    ``to_largest``: dimensions without buckets are padded up to the largest of a batch; if false they must be equal.
    ``max_rows`` is what a batch holds.
    """

    inputs: Mapping[str, PaddedInput]
    buckets: tuple[int, ...] = ()
    to_largest: bool = False
    cuts: tuple[Cut, ...] = ()
    max_rows: int = 1 << 62

    def key(self, inputs: Tensors, rows: int) -> Hashable:
        """As :func:`batch_key`: equal for requests that may share a batch.

        Raises :class:`InvalidInput` also for what is longer than the last bucket, and for a mask of other lengths.
        """
        batch_key(inputs, rows)
        # The pieces of a large request come back from several batches, and must fit together.
        to_largest = self.to_largest and rows <= self.max_rows
        key: list[Hashable] = []
        for name, array in inputs.items():
            shape: list[int] = list(array.shape[1:])
            if (padded := self.inputs.get(name)) is not None:
                if padded.mask_of:
                    _check_mask(name, array, padded.mask_of, inputs[padded.mask_of])
                for axis in padded.axes:
                    if axis == 1 and self.buckets:
                        shape[0] = self._bucket(name, shape[0])
                    elif to_largest:
                        shape[axis - 1] = class_of(shape[axis - 1])
            key += (name, array.dtype, tuple(shape))
        return tuple(key)

    def merge(self, requests: Sequence[Tensors], rows: int, padded_rows: int) -> Tensors:
        """As :func:`stfs.batcher.batch.merge`, of requests with equal :meth:`key`; their arrays stay as they are."""
        merged: Tensors = {}
        is_new = len(requests) > 1 or padded_rows > rows
        for name in requests[0]:
            parts = [inputs[name] for inputs in requests]
            if (padded := self.inputs.get(name)) is not None:
                shape = self._shape(padded, parts)
                if any(part.shape[1:] != shape for part in parts):
                    is_new = True
                    parts = [_widened(part, shape, padded) for part in parts]
            merged[name] = stack(parts, rows, padded_rows)
        return merged if is_new else requests[0]

    def cut(self, requests: Sequence[Tensors], merged: Tensors, answers: list[Tensors]) -> list[Tensors]:
        """The ``answers`` to ``requests``, which were run as ``merged``, without what is there by padding alone.

        Raises :class:`ModelFailed` for an output that is not as long as the input that it is said to follow.
        """
        for cut in self.cuts:
            there = merged[cut.input].shape[cut.input_axis]
            for i, (inputs, answer) in enumerate(zip(requests, answers, strict=True)):
                array = answer[cut.output]
                if array.ndim <= cut.axis or array.shape[cut.axis] != there:
                    told = f'dimension {cut.axis} follows input "{cut.input}", which was run with {there}'
                    have = f"but its shape is {list(array.shape)}"
                    raise ModelFailed(f'output "{cut.output}": cut_outputs says that {told}, {have}')
                own = inputs[cut.input].shape[cut.input_axis]
                if own < there:
                    # A copy: cut there, rows no longer lie one behind another.
                    kept = np.ascontiguousarray(array[(slice(None),) * cut.axis + (slice(own),)])
                    answers[i] = answer | {cut.output: kept}
        return answers

    def _shape(self, padded: PaddedInput, parts: Sequence[Array]) -> tuple[int, ...]:
        """What all ``parts`` are padded to, without the rows."""
        shape = list(parts[0].shape[1:])
        for axis in padded.axes:
            largest = max([part.shape[axis] for part in parts])
            is_bucket = axis == 1 and bool(self.buckets)
            shape[axis - 1] = self.buckets[bisect_left(self.buckets, largest)] if is_bucket else largest
        return tuple(shape)

    def _bucket(self, name: str, length: int) -> int:
        place = bisect_left(self.buckets, length)
        if place == len(self.buckets):
            raise InvalidInput(
                name, f"dimension 1 is {length}, over {self.buckets[-1]}, the longest of sequence_buckets"
            )
        return self.buckets[place]


def class_of(length: int) -> int:
    """The longest that may share a batch with a dimension of ``length``.

    >>> [class_of(length) for length in (0, 64, 65, 256, 1000)]
    [64, 64, 256, 256, 1024]
    """
    limit = SMALLEST_CLASS
    while limit < length:
        limit *= CLASS_STEP
    return limit


def pad_element(array: Array, value: Any) -> Any:
    """What ``array`` is padded with: ``value``, or its own first element, or nothing where it has none."""
    if value is not None:
        return value
    if array.size:
        return array.flat[0]
    return b"" if array.dtype == STRING else 0


def _widened(part: Array, shape: tuple[int, ...], padded: PaddedInput) -> Array:
    element = 0 if padded.mask_of else pad_element(part, padded.value)
    wide = np.full((len(part), *shape), element, part.dtype)
    wide[tuple(map(slice, part.shape))] = part
    return wide


def _check_mask(name: str, mask: Array, of: str, array: Array) -> None:
    if mask.shape[1:] != array.shape[1 : mask.ndim]:
        raise InvalidInput(name, f'shape {list(mask.shape)} is not that of "{of}", {list(array.shape)}, which it masks')
