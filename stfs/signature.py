"""What a model takes and gives: names, dtypes, shapes. Checks and casts arrays; knows no wire format.

Strings are ``numpy`` object arrays of ``bytes`` everywhere inside the server; text is UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stfs.errors import InvalidInput, InvalidRequest

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Shape = tuple[int | None, ...]

STRING = np.dtype(object)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor.

    ``dtype`` is a numpy dtype, ``object`` for strings. ``shape`` holds ``None`` for a dimension that may vary, and is
    itself ``None`` if even the rank is unknown. ``doc`` is for people (the classes of a classifier, say).

    ``nullable`` says that a value may be missing: NaN in a float tensor, ``b""`` in a tensor of strings; requests may
    then say ``null``. ``values`` lists what a categorical input may hold, as text; empty where it is not categorical.
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape | None
    doc: str = ""
    nullable: bool = False
    values: tuple[str, ...] = ()

    @property
    def dtype_name(self) -> str:
        """``float32``, ``int64``, ``string``, ..."""
        return "string" if self.dtype == STRING else self.dtype.name

    @property
    def varies_in_rows(self) -> bool:
        """True if dimension 0 may vary, so that rows of several requests can be stacked."""
        return self.shape is not None and len(self.shape) > 0 and self.shape[0] is None

    def describe_shape(self) -> str:
        """``[?, 784]``; ``unknown`` if the rank is."""
        if self.shape is None:
            return "unknown"
        return "[" + ", ".join("?" if d is None else str(d) for d in self.shape) + "]"

    def bind(self, value: Array) -> Array:
        """``value`` as this tensor: same shape, C-contiguous, cast without loss or, for a float, to the nearest.

        Raises :class:`InvalidInput` for a dtype that would lose information, a number that the float cannot hold, or a
        shape that does not match.
        """
        array = value if value.dtype is self.dtype else self._cast(value)
        if self.shape is not None and not self._admits(array.shape):
            raise InvalidInput(self.name, f"shape {list(array.shape)} does not match {self.describe_shape()}")
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def _admits(self, shape: tuple[int, ...]) -> bool:
        wanted = self.shape
        if wanted is None:
            return True
        if len(wanted) != len(shape):
            return False
        # A loop, for it is on the path of every request and a generator costs as much as all the rest here.
        for want, have in zip(wanted, shape, strict=False):  # noqa: SIM110
            if want is not None and want != have:
                return False
        return True

    def _cast(self, value: Array) -> Array:
        if value.dtype == self.dtype:
            return value
        lossless = np.can_cast(value.dtype, self.dtype, "safe")
        # An integer literal is a fine float, as in every JSON client; the reverse would drop a fraction.
        widening = value.dtype.kind in "iuf" and self.dtype.kind == "f"
        if self.dtype == STRING or not (lossless or widening):
            have = "string" if value.dtype == STRING else value.dtype.name
            raise InvalidInput(self.name, f"dtype {have} cannot be used as {self.dtype_name}")
        if lossless:
            return value.astype(self.dtype)
        with np.errstate(over="ignore"):
            cast = value.astype(self.dtype)
        if not np.array_equal(np.isinf(cast), np.isinf(value)):
            raise InvalidInput(self.name, f"a value is out of range for {self.dtype_name}")
        return cast


@dataclass(frozen=True, slots=True)
class Signature:
    """A callable of a model: its named inputs and outputs.

    ``batchable`` says that rows along dimension 0 are independent, so that several requests can share one run.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool

    def input(self, name: str) -> TensorSpec:
        """The input of that name; raises :class:`InvalidInput` naming the ones there are."""
        for spec in self.inputs:
            if spec.name == name:
                return spec
        raise InvalidInput(name, f"unknown; this signature takes {self.input_names()}")

    def input_names(self) -> str:
        """``"keys", "features"``, for messages."""
        return ", ".join(f'"{spec.name}"' for spec in self.inputs)

    def bind(self, values: Mapping[str, Array]) -> Tensors:
        """The inputs in the signature's order, each checked and cast.

        Raises :class:`InvalidInput` for a missing, unknown, mistyped or misshaped input. Whether the inputs agree on
        their number of rows is :meth:`rows`'s to say.
        """
        bound: Tensors = {}
        for spec in self.inputs:
            if spec.name not in values:
                raise InvalidInput(spec.name, f"missing; this signature takes {self.input_names()}")
            bound[spec.name] = spec.bind(values[spec.name])
        if len(values) > len(bound):
            for name in values:
                self.input(name)
        return bound

    def rows(self, bound: Mapping[str, Array]) -> int:
        """The number of rows along dimension 0, the same in every input of a batchable signature.

        Raises :class:`InvalidRequest` if they differ.
        """
        first = -1
        for array in bound.values():
            rows = array.shape[0] if array.ndim else -1
            if rows < 0 or (rows != first and first >= 0):
                break
            first = rows
        else:
            return first
        counts = {name: array.shape[0] if array.ndim else None for name, array in bound.items()}
        told = ", ".join(f'"{name}" has {n}' for name, n in counts.items())
        raise InvalidRequest(f"inputs differ in their number of rows: {told}")


def can_batch(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether dimension 0 varies in every input and output, which is what stacking rows needs.

    An output of unknown rank is given the benefit of the doubt here; warm-up runs the model and decides.
    """
    return (
        bool(inputs)
        and all(spec.varies_in_rows for spec in inputs)
        and all(spec.shape is None or spec.varies_in_rows for spec in outputs)
    )
