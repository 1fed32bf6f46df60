"""Columns of a table as they are filled: from objects that each name a row's values, or by the index of each row.

Must not live here: which form a request is in (``forms``), sparse rows (``libsvm``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from stfs import codec, errors
from stfs.protocols.ragged import RaggedColumn
from stfs.protocols.request import first_key, new_column
from stfs.signature import MAX_FILLED, Array, Ragged, Signature, Tensors, TensorSpec

NAMES_TOLD = 20
"""Columns that an error lists."""


class RowObjects:
    """Columns that are filled from objects, each of which names the values of one row.

    Made for the object at the cursor, which tells whether rows name a matrix or its features. With ``strict`` an
    unknown key is refused; if not, it is passed over unless a column is missing.
    """

    def __init__(
        self,
        reader: codec.Reader,
        body: bytes | memoryview,
        signature: Signature,
        *,
        integral_floats: bool,
        strict: bool,
    ) -> None:
        self._signature = signature
        self._strict = strict or not signature.columns
        inputs = {spec.name: spec for spec in signature.inputs}
        self._specs = signature.columns or inputs
        self._features = self._specs.keys() != inputs.keys()
        if self._features and (first := first_key(body, reader.position)) in inputs and first not in self._specs:
            self._specs = inputs
            self._features = False
        self._columns: dict[str, codec.Column | RaggedColumn] = {
            name: (RaggedColumn if spec.ragged else new_column)(spec, integral_floats=integral_floats)
            for name, spec in self._specs.items()
        }
        self._filled = 0
        self.rows = 0

    def add(self, reader: codec.Reader) -> None:
        """The object at the cursor as the next row. Raises :class:`stfs.errors.InvalidInput`."""
        stranger: str | None = None
        seen = 0
        reader.enter_object()
        while (key := reader.next_key()) is not None:
            column = self._columns.get(key)
            if column is None:
                if self._strict:
                    raise errors.InvalidInput(key, f"unknown; this signature takes {told(self._specs)}")
                stranger = key
                reader.skip()
                continue
            if len(column) != self.rows:
                is_new = self._specs[key].mask_of and not len(column)
                problem = "the rows before leave it out" if is_new else "stands twice"
                raise errors.InvalidInput(key, problem, where=f", row {self.rows}")
            try:
                if isinstance(column, RaggedColumn):
                    column.read(reader)
                else:
                    reader.append(column)
            except errors.BadElement as fault:
                raise fault.named(key) from None
            seen += 1
        if seen != len(self._columns):
            self._fill(stranger)
        self.rows += 1

    def _fill(self, stranger: str | None) -> None:
        """Give the columns that the row does not name their missing value."""
        for name, column in self._columns.items():
            if len(column) == self.rows:
                if self._specs[name].mask_of and not self.rows:
                    continue  # then all rows may leave it out
                if not self._specs[name].nullable or stranger is not None:
                    raise missing(name, self._specs, stranger, where=f", row {self.rows}")
                self._filled += 1
                assert not isinstance(column, RaggedColumn), "those hold no missing values"
                codec.Reader(b"null").append(column)
        if self._filled > MAX_FILLED:
            raise errors.InvalidRequest(f"over {MAX_FILLED} values are missing: send fewer rows at a time")

    def tensors(self, order: Sequence[int] | None = None) -> Tensors:
        """What has been read, the rows in that order."""
        given = {name: column for name, column in self._columns.items() if len(column) or not self._specs[name].mask_of}
        arrays: Tensors = {name: column.array() for name, column in given.items()}
        if order is not None:
            arrays = {name: _in_order(array, order) for name, array in arrays.items()}
        return joined(self._signature.inputs[0], arrays) if self._features else arrays


def _in_order(array: Array, order: Sequence[int]) -> Array:
    rows = array[order]
    if isinstance(array, Ragged) and isinstance(rows, Ragged):
        rows.row_shapes = array.row_shapes[order]
    return rows


class Index:
    """The rows of columns that are told by index: the same indices in each, in the order of the first."""

    def __init__(self) -> None:
        self._order: list[str] | None = None

    def read(self, reader: codec.Reader, name: str, spec: TensorSpec) -> Array:
        """The column at the cursor."""
        column = new_column(spec, integral_floats=True)
        at: dict[str, int] = {}
        reader.enter_object()
        while (key := reader.next_key()) is not None:
            if key in at:
                raise errors.InvalidInput(name, f'index "{key[:100]}" stands twice')
            at[key] = len(at)
            try:
                reader.append(column)
            except errors.BadElement as fault:
                raise fault.named(name) from None
        order = self._order = row_order(at) if self._order is None else self._order
        if at.keys() != set(order):
            differing = next(iter(at.keys() ^ set(order)))
            raise errors.InvalidInput(name, f'index "{differing[:100]}" is not in every column')
        rows = [at[key] for key in order]
        array = column.array()
        return array if rows == list(range(len(rows))) else array[rows]


def row_order(indices: Iterable[str]) -> list[str]:
    """Rows in the order in which they are written.

    But whole numbers that stand sorted as text ("0", "1", "10", "2"), as some clients sort keys, are meant by number.
    """
    keys = list(indices)
    if all(key.isascii() and key.isdigit() and len(key) < 19 for key in keys) and keys == sorted(keys):
        return sorted(keys, key=int)
    return keys


def filled_up(table: Tensors, columns: Mapping[str, TensorSpec]) -> Tensors:
    """The columns in order, those that are not in the table all missing."""
    rows = len(next(iter(table.values())))
    if rows * (len(columns) - len(table)) > MAX_FILLED:
        raise errors.InvalidRequest(f"over {MAX_FILLED} values are missing: send fewer rows at a time")
    return {name: table[name] if name in table else np.full(rows, np.nan, spec.dtype) for name, spec in columns.items()}


def joined(spec: TensorSpec, columns: Tensors) -> Tensors:
    """Columns as the matrix whose features they are, in order."""
    counts = {len(array) for array in columns.values()}
    for name, array in columns.items():
        if array.ndim != 1:
            raise errors.InvalidInput(name, f"shape {list(array.shape)} is not one value a row")
    if len(counts) > 1:
        told = ", ".join(f'"{name}" has {len(array)}' for name, array in list(columns.items())[:NAMES_TOLD])
        raise errors.InvalidRequest(f"columns differ in their number of rows: {told}")
    return {spec.name: np.stack([columns[name] for name in spec.columns], axis=1)}


def missing(name: str, columns: Mapping[str, TensorSpec], stranger: str | None, where: str = "") -> errors.InvalidInput:
    """The error for a column that is not there, told by the unknown key beside it if there is one."""
    if stranger is not None:
        return errors.InvalidInput(
            stranger, f'unknown, and "{name}" is missing; this signature takes {told(columns)}', where=where
        )
    return errors.InvalidInput(name, f"missing; this signature takes {told(columns)}", where=where)


def told(columns: Mapping[str, TensorSpec]) -> str:
    """The names of columns for an error, in quotes, the first ones of many."""
    names = ", ".join(f'"{name}"' for name in list(columns)[:NAMES_TOLD])
    return f"{names}, ... ({len(columns)} columns)" if len(columns) > NAMES_TOLD else names
