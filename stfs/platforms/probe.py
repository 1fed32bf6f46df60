"""Inputs for a first run at load, which shows what no file tells. Must not live here: what is concluded from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from stfs.signature import Array, Tensors, TensorSpec, zeros

PROBE_ROWS = 3
"""An odd number of rows that few models have for anything else."""


def seen_outputs(
    run: Callable[[Tensors], Tensors], narrow: Sequence[TensorSpec], wide: Sequence[TensorSpec], rows: int = PROBE_ROWS
) -> list[TensorSpec]:
    """The outputs of a run on zeros: names and dtypes, and shapes as far as two runs can tell them.

    ``narrow`` and ``wide`` are the inputs with two different sizes filled in for each dimension but 0 that varies; of
    an output, the dimensions that differ vary. Dimension 0 varies if it had ``rows``, and varies in every input.
    Raises whatever the first run raises.
    """
    first = run(zeros(narrow, rows))
    rows_vary = bool(narrow) and all(spec.varies_in_rows for spec in narrow)
    second = first
    if [spec.shape for spec in narrow] != [spec.shape for spec in wide]:
        try:
            second = run(zeros(wide, rows))
        except Exception:  # not every pair of sizes is one that the model takes: then nothing is known of them
            second = {}
    return [_seen(name, array, second.get(name), rows if rows_vary else -1) for name, array in first.items()]


def sized(specs: Iterable[TensorSpec], size: int) -> list[TensorSpec]:
    """``specs`` with ``size`` for every dimension but 0 that varies."""
    return [
        spec
        if spec.shape is None
        else replace(spec, shape=spec.shape[:1] + tuple(size if have is None else have for have in spec.shape[1:]))
        for spec in specs
    ]


def _seen(name: str, array: Array, other: Array | None, rows: int) -> TensorSpec:
    if other is not None and other.ndim != array.ndim:
        return TensorSpec(name, array.dtype, None)
    sizes = tuple(
        None if (axis == 0 and size == rows) or (axis > 0 and (other is None or other.shape[axis] != size)) else size
        for axis, size in enumerate(array.shape)
    )
    return TensorSpec(name, array.dtype, sizes)
