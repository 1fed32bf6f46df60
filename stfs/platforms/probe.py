"""Inputs for a first run at load, which shows what no file tells. Must not live here: what is concluded from it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stfs.signature import STRING, Array, Tensors, TensorSpec


def zeros(specs: Iterable[TensorSpec], rows: int) -> Tensors:
    """One array for each of ``specs``: ``rows`` rows of zeros, of empty strings, or of the first of its values.

    Dimensions that vary are 1, but for the first; a tensor of unknown rank gets one dimension.
    """
    return {spec.name: _zeros(spec, rows) for spec in specs}


def _zeros(spec: TensorSpec, rows: int) -> Array:
    shape = (None,) if spec.shape is None else spec.shape
    filled = tuple((rows if axis == 0 else 1) if size is None else size for axis, size in enumerate(shape))
    if spec.dtype == STRING:
        return np.full(filled, spec.values[0].encode() if spec.values else b"", dtype=STRING)
    return np.zeros(filled, dtype=spec.dtype)
