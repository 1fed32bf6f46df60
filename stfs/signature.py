"""What a model takes and gives: names, dtypes, shapes. Checks and casts arrays; knows no wire format.

Strings are ``numpy`` object arrays of ``bytes`` everywhere inside the server; text is UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stfs.errors import InvalidInput, InvalidRequest

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
Shape = tuple[int | None, ...]

STRING = np.dtype(object)

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
"""What a signature may be called by (``signature_constants.py`` of TensorFlow)."""

MAX_VALUES_TOLD = 20
"""Allowed values that an error lists."""

MAX_FILLED = 1 << 22
"""Missing values that a request may leave out unwritten: what it costs here is not in proportion to its length."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named tensor.

    ``dtype`` is a numpy dtype, ``object`` for strings. ``shape`` holds ``None`` for a dimension that may vary, and is
    itself ``None`` if even the rank is unknown. ``doc`` is for people (the classes of a classifier, say).

    ``nullable`` says that a value may be missing: NaN in a float tensor, ``b""`` in a tensor of strings; requests may
    then say ``null``. ``values`` lists what a categorical input may hold, as text; empty where it is not categorical.
    ``columns`` names the columns of an input of shape ``[rows, n]``, so that a request may send them by name.
    ``graph_name`` is what the framework's own graph calls it (``serving_default_x:0``); empty where there is no graph.
    ``mask_of`` names the input of which this one marks with 1 what is there and with 0 what is padding: a request may
    leave it out. ``ragged`` says that rows of unlike length may be sent; they are padded with ``pad_value`` (as text;
    ``None``: the first element).
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape | None
    doc: str = ""
    nullable: bool = False
    values: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    graph_name: str = field(default="", compare=False)
    mask_of: str = ""
    ragged: bool = False
    pad_value: str | None = None

    @property
    def is_column(self) -> bool:
        """True if it holds one value a row."""
        return self.shape == (None,)

    @property
    def dtype_name(self) -> str:
        """``float32``, ``int64``, ``string``, ..."""
        return "string" if self.dtype == STRING else self.dtype.name

    @property
    def row_bytes(self) -> int | None:
        """Bytes of a row where all have as many: numbers, of sizes that are known; else ``None``."""
        if not self.varies_in_rows or self.dtype.kind not in "biufc":
            return None
        assert self.shape is not None, "its rows vary"
        size_bytes = self.dtype.itemsize
        for size in self.shape[1:]:
            if size is None:
                return None
            size_bytes *= size
        return size_bytes

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
        shape that does not match. Whether each is one of ``values`` is :meth:`Signature.bind`'s to say.
        """
        array = value if value.dtype is self.dtype else self._cast(value)
        if self.shape is not None and not self._admits(array.shape):
            raise InvalidInput(self.name, f"shape {list(array.shape)} does not match {self.describe_shape()}")
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def check_values(self, array: Array, allowed: frozenset[object]) -> None:
        """Raise :class:`InvalidInput` for the first element that is neither ``allowed`` nor missing."""
        elements = array.ravel().tolist()
        if allowed.issuperset(elements):
            return
        for index, value in zip(np.ndindex(array.shape), elements, strict=True):
            if value in allowed or (self.nullable and value != value):
                continue
            have = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
            told = ", ".join(f'"{known}"' for known in self.values[:MAX_VALUES_TOLD])
            more = len(self.values) - MAX_VALUES_TOLD
            raise InvalidInput(
                self.name,
                f'"{have[:100]}" is not one of its values, {told}{f" and {more} more" if more > 0 else ""}',
                where=f", row {index[0]}" if index else "",
            )

    def allowed_values(self) -> frozenset[object] | None:
        """``values`` as elements of an array, with the missing one if there is one; ``None`` if any element will do.

        Raises :class:`ValueError` if one of them is none of ``dtype``.
        """
        if not self.values or self.dtype.kind == "b":
            return None
        if self.dtype == STRING:
            return frozenset([value.encode() for value in self.values] + ([b""] if self.nullable else []))
        return frozenset(np.array(self.values).astype(self.dtype).tolist())

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


class Ragged(np.ndarray[Any, np.dtype[Any]]):
    """Rows of unlike length, padded: ``row_shapes`` [rows, dimensions past the first] are their own sizes, int64.

    Made by a dialect; :meth:`Signature.bind` makes plain arrays of it.
    """

    row_shapes: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Signature:
    """A callable of a model: its named inputs and outputs.

    ``batchable`` says that rows along dimension 0 are independent, so that several requests can share one run.
    ``method_name`` says which calls of TensorFlow Serving it is meant for: ``PREDICT``, or of tables of examples
    ``CLASSIFY`` or ``REGRESS``. It may be empty or anything else, since it is the model's word.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool
    method_name: str = PREDICT
    columns: Mapping[str, TensorSpec] = field(init=False, repr=False, compare=False)
    """What a table may call its columns: the inputs by name if each of them is a column, the columns of the only input
    (with that input's spec) if it names them, else nothing."""
    _allowed: Mapping[str, frozenset[object]] = field(init=False, repr=False, compare=False)
    _ragged: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        told = {spec.name: spec.allowed_values() for spec in self.inputs}
        object.__setattr__(self, "_allowed", {name: allowed for name, allowed in told.items() if allowed is not None})
        columns: dict[str, TensorSpec] = {}
        if all(spec.is_column for spec in self.inputs):
            columns = {spec.name: spec for spec in self.inputs}
        elif len(self.inputs) == 1 and (names := self.inputs[0].columns):
            columns = dict.fromkeys(names, self.inputs[0])
            if len(columns) != len(names):  # a name that stands twice names nothing
                columns = {}
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "_ragged", tuple(spec.name for spec in self.inputs if spec.ragged))

    def input(self, name: str) -> TensorSpec:
        """The input of that name; raises :class:`InvalidInput` naming the ones there are."""
        for spec in self.inputs:
            if spec.name == name:
                return spec
        raise InvalidInput(name, f"unknown; this signature takes {self.input_names()}")

    @property
    def row_bytes(self) -> int | None:
        """Bytes that a row of the inputs has, all of them together; ``None`` where that differs."""
        each = [spec.row_bytes for spec in self.inputs]
        return None if None in each else sum(size_bytes or 0 for size_bytes in each)

    def input_names(self) -> str:
        """``"keys", "features"``, for messages."""
        return ", ".join(f'"{spec.name}"' for spec in self.inputs)

    def bind(self, values: Mapping[str, Array]) -> Tensors:
        """The inputs in the signature's order, each checked and cast.

        A column that may have missing values may be left out as long as another one tells the number of rows: all its
        values are missing. A mask may be left out, too.

        Raises :class:`InvalidInput` for a missing, unknown, mistyped or misshaped input and for a
        value that is none of a categorical input's. Whether the inputs agree on their number of rows is
        :meth:`rows`'s to say.
        """
        bound: Tensors = {}
        missing = 0
        for spec in self.inputs:
            if spec.name in values:
                bound[spec.name] = spec.bind(values[spec.name])
            else:
                missing += 1
                bound[spec.name] = self._all_missing(spec, values, missing)
        if len(values) + missing > len(bound):
            for name in values:
                self.input(name)
        if self._allowed:
            for spec in self.inputs:
                if (allowed := self._allowed.get(spec.name)) is not None:
                    spec.check_values(bound[spec.name], allowed)
        for name in self._ragged:
            bound[name] = bound[name].view(np.ndarray)
        return bound

    def _all_missing(self, spec: TensorSpec, values: Mapping[str, Array], missing: int) -> Array:
        """The column ``spec`` that a request leaves out, the ``missing``-th one of it."""
        if spec.mask_of and spec.mask_of in values:
            return _mask(spec, values[spec.mask_of])
        rows = next((array.shape[0] for array in values.values() if array.ndim), None)
        known = {known.name for known in self.inputs}
        if not (spec.nullable and spec.is_column) or rows is None or not known.issuperset(values):
            raise InvalidInput(spec.name, f"missing; this signature takes {self.input_names()}")
        if rows * missing > MAX_FILLED:
            raise InvalidRequest(f"over {MAX_FILLED} values are missing: send fewer rows at a time")
        return np.full(rows, np.nan, spec.dtype) if spec.dtype.kind == "f" else np.full(rows, b"", spec.dtype)

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


def _mask(spec: TensorSpec, of: Array) -> Array:
    """The mask of ``of``: 1 where there is something; of rows of unlike length only as far as each goes."""
    rank = len(spec.shape or ())
    if of.ndim < rank:
        raise InvalidInput(spec.mask_of, f'shape {list(of.shape)} has too few dimensions for "{spec.name}", its mask')
    if not isinstance(of, Ragged):
        return np.ones(of.shape[:rank], spec.dtype)
    there = np.ones(of.shape[:rank], np.bool_)
    for axis in range(1, rank):
        sizes = of.row_shapes[:, axis - 1].reshape((-1,) + (1,) * (rank - 1))
        places = np.arange(of.shape[axis]).reshape((1,) * axis + (-1,) + (1,) * (rank - 1 - axis))
        there &= places < sizes
    return there.astype(spec.dtype)


def can_batch(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> bool:
    """Whether dimension 0 varies in every input and output, which is what stacking rows needs.

    An output of unknown rank is given the benefit of the doubt here; warm-up runs the model and decides.
    """
    return (
        bool(inputs)
        and all(spec.varies_in_rows for spec in inputs)
        and all(spec.shape is None or spec.varies_in_rows for spec in outputs)
    )


def zeros(specs: Iterable[TensorSpec], rows: int) -> Tensors:
    """One array for each of ``specs``: ``rows`` rows of zeros, of empty strings, or of the first of its values; masks
    are of ones, for of nothing at all a model makes NaN.

    Dimensions that vary are 1, but for the first; a tensor of unknown rank gets one dimension.
    """
    return {spec.name: _zeros(spec, rows) for spec in specs}


def _zeros(spec: TensorSpec, rows: int) -> Array:
    shape = (None,) if spec.shape is None else spec.shape
    filled = tuple((rows if axis == 0 else 1) if size is None else size for axis, size in enumerate(shape))
    first = spec.values[0] if spec.values else ""  # a category may take nothing else, not even an empty text
    if spec.dtype == STRING:
        return np.full(filled, first.encode(), dtype=STRING)
    if first and spec.dtype.kind != "b":
        return np.full(filled, first).astype(spec.dtype)
    return np.ones(filled, dtype=spec.dtype) if spec.mask_of else np.zeros(filled, dtype=spec.dtype)
