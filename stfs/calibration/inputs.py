"""What a model is timed on: requests that were recorded for it, or values like those that it may be sent.

Zeros are a poor example: trees take one path, sparse products are skipped, floats that underflow are slow. Must not
live here: how requests are recorded (``warmup``), timing (``measure``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stfs.clients.example import described_range
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec

EXAMPLE_ROWS = 16
"""Different rows that are made or taken; more rows repeat these, for making values takes as long as small models do."""

RECORDED = "recorded requests"
GENERATED = "generated values"
ZEROS = "zeros"


Way = tuple[str, Callable[[int], Tensors]]
"""What the inputs are, and what makes them for a number of rows."""


@dataclass(frozen=True, slots=True)
class Sample:
    """``rows`` different rows for a signature that batches: ``tensors`` are ``[rows, ...]``."""

    rows: int
    tensors: Mapping[str, Array]

    def __call__(self, rows: int) -> Tensors:
        """``rows`` rows: its own, over and over. Each array is a new one of ``[rows, ...]``."""
        places = np.arange(rows) % self.rows
        return {name: np.take(array, places, axis=0) for name, array in self.tensors.items()}


def recorded_sample(signature: Signature, recorded: Sequence[Tensors]) -> Sample | None:
    """Rows of the first of these requests and of those of its shape; ``None`` if none of them has rows.

    ``recorded`` are bound to the signature.
    """
    like: list[Tensors] = []
    rows = 0
    for request in recorded:
        more = signature.rows(request) if signature.batchable else 0
        if not more or (like and _row_shapes(request) != _row_shapes(like[0])):
            continue
        like.append(request)
        rows += more
        if rows >= EXAMPLE_ROWS:
            break
    if not rows:
        return None
    return Sample(rows, {name: np.concatenate([one[name] for one in like]) for name in like[0]})


def generated_sample(signature: Signature) -> Sample | None:
    """Plausible rows, the same each time; ``None`` if an input is of strings of which no values are known.

    Floats are even between 0 and 1 or within the range that the input's description tells, whole numbers 0 or 1 (which
    are indices of anything), pixels 0 to 255, categories any of theirs. Open dimensions but the first are 1.
    """
    if any(spec.dtype == STRING and not spec.values for spec in signature.inputs):
        return None
    random = np.random.default_rng(0)
    return Sample(EXAMPLE_ROWS, {spec.name: _generated(spec, random) for spec in signature.inputs})


def _row_shapes(request: Tensors) -> list[tuple[int, ...]]:
    return [array.shape[1:] for array in request.values()]


def _generated(spec: TensorSpec, random: np.random.Generator) -> Array:
    shape = (EXAMPLE_ROWS, *(1 if size is None else size for size in (spec.shape or (None,))[1:]))
    kind = spec.dtype.kind
    if spec.values and kind != "b":
        told: list[object] = [value.encode() for value in spec.values] if spec.dtype == STRING else list(spec.values)
        known = np.empty(len(told), dtype=object)
        known[:] = told
        chosen = known[random.integers(0, len(known), shape)]
        return chosen if spec.dtype == STRING else chosen.astype(str).astype(spec.dtype)
    low, high = described_range(spec) or (0.0, 1.0)
    if kind == "f":
        return (low + (high - low) * random.random(shape)).astype(spec.dtype)
    if spec.dtype == np.uint8 and len(shape) >= 3:
        return random.integers(0, 256, shape).astype(spec.dtype)
    if kind in "iu":
        return random.integers(int(low), int(high) + 1, shape).astype(spec.dtype)
    if kind == "b":
        return random.integers(0, 2, shape).astype(spec.dtype)
    return np.zeros(shape, spec.dtype)


def ways(signature: Signature, recorded: Sequence[Tensors], zeros: Callable[[int], Tensors]) -> list[Way]:
    """What to try in turn, the likest first: a model may refuse what was made up, and zeros it has answered before.

    Empty for strings of which nothing is known: an empty text is no picture, and costs nothing to look at.
    """
    if (sample := recorded_sample(signature, recorded)) is not None:
        return [(RECORDED, sample)]
    if (sample := generated_sample(signature)) is None:
        return []
    return [(GENERATED, sample), (ZEROS, zeros)]
