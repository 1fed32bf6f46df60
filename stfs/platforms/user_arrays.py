"""Checks what a user's function returned, and hands it on as tensors. Must not live here: calling the function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from stfs.errors import InvalidRequest, ModelFailed
from stfs.platforms.base import as_bytes, one_line
from stfs.signature import STRING, Array, Tensors, TensorSpec


class BrokenPromise(ModelFailed):
    """A function returned something else than its signature says."""


class WrongNames(BrokenPromise):
    """A function returned no dict, or one with other names: so it does for any request."""


def tells_at_load(error: BrokenPromise, inputs: Iterable[TensorSpec]) -> bool:
    """Whether what a function returned for zeros proves that it does not fit.

    Shapes and dtypes do not where an input is text: what is made of an empty text may be empty.
    """
    return isinstance(error, WrongNames) or all(spec.dtype != STRING or spec.values for spec in inputs)


def arrays(returned: Any, specs: tuple[TensorSpec, ...], whose: str) -> Tensors:
    """What a user's function returned, as the tensors that ``specs`` promise, in that order, in memory of their own.

    ``whose`` begins the message of the :class:`BrokenPromise` that is raised where it is anything else:
    ``model.py: predict``.
    """
    if not isinstance(returned, Mapping):
        raise WrongNames(f"{whose} returned {type(returned).__name__}, not a dict from name to array")
    promised = {spec.name for spec in specs}
    if set(returned) != promised:
        have, want = (", ".join(sorted(f'"{name}"' for name in names)) or "nothing" for names in (returned, promised))
        raise WrongNames(f"{whose} returned {have} where its signature says {want}")
    return {spec.name: _array(returned[spec.name], spec, whose) for spec in specs}


def copies(inputs: Mapping[str, Array]) -> Tensors:
    """Arrays that a user's function may write into: those of a batch are needed again if it fails."""
    return {name: array.copy() for name, array in inputs.items()}


def require_rows(tensors: Mapping[str, Array], rows: int, whose: str) -> None:
    """Raises :class:`BrokenPromise` if one of ``tensors`` has not ``rows`` rows."""
    for name, array in tensors.items():
        if not array.ndim or array.shape[0] != rows:
            raise BrokenPromise(f'{whose} made "{name}" of shape {list(array.shape)} from {rows} rows')


def _array(value: Any, spec: TensorSpec, whose: str) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise BrokenPromise(f'{whose}: "{spec.name}": {one_line(error)}') from error
    if spec.dtype == STRING:
        array = as_bytes(array)
    elif array.dtype.kind in "biuf":
        # Numbers within their kind, float64 to float32 above all, go to the nearest; a fraction is never dropped.
        if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
            raise BrokenPromise(f'{whose}: "{spec.name}" is {array.dtype.name}, its signature says {spec.dtype_name}')
        with np.errstate(over="ignore"):
            cast = np.array(array, spec.dtype, order="C")
        if cast.dtype.kind in "iu" and not np.array_equal(cast, array):
            raise BrokenPromise(f'{whose}: "{spec.name}" holds a number that is out of range for {spec.dtype_name}')
        array = cast
    else:
        have = "strings" if array.dtype.kind in "USO" else array.dtype.name
        raise BrokenPromise(f'{whose}: "{spec.name}" holds {have}, its signature says {spec.dtype_name}')
    try:
        return spec.bind(array)
    except InvalidRequest as error:
        raise BrokenPromise(f"{whose}: {one_line(error)}".replace('input "', '"', 1)) from error
