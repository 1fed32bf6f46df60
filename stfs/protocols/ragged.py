"""Nested lists whose rows are of unlike length, for inputs that take them: padded to the longest, with their own sizes.

The general path alone comes here, and only when the plain reader has refused a tensor: lists of like rows are read as
ever. Must not live here: padding of several requests for one batch, which is the batcher's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stfs.codec import Reader
from stfs.errors import BadElement, InvalidInput, InvalidRequest
from stfs.signature import MAX_FILLED, STRING, Array, Ragged, TensorSpec


def read_ragged(reader: Reader, spec: TensorSpec, *, integral_floats: bool, name: str) -> Ragged:
    """The list at the cursor, a tensor of ``spec``'s a row. Raises :class:`InvalidInput` for what is no such list."""
    column = RaggedColumn(spec, integral_floats=integral_floats)
    reader.enter_array()
    while reader.next_item():
        try:
            column.read(reader)
        except BadElement as fault:
            raise fault.named(name) from None
    return column.array()


class RaggedColumn:
    """In the place of a :class:`stfs.codec.Column` for an input whose rows may be of unlike length."""

    def __init__(self, spec: TensorSpec, *, integral_floats: bool) -> None:
        assert spec.shape is not None, "what is ragged has dimensions that vary"
        self._spec = spec
        self._row_shape = spec.shape[1:]
        self._integral_floats = integral_floats
        self._rows: list[Array] = []

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, reader: Reader) -> None:
        """The value at the cursor as the next row. Raises :class:`BadElement`, the path beginning with the row."""
        place = len(self._rows)
        try:
            row = reader.tensor(self._spec.dtype, integral_floats=self._integral_floats)
        except BadElement as fault:
            raise BadElement(fault.problem, fault.offset, (place, *fault.path)) from None
        wanted = self._row_shape
        if not row.size and row.ndim < len(wanted):
            row = row.reshape(tuple(size or 0 for size in wanted))
        if row.ndim != len(wanted) or any(
            size not in (None, have) for size, have in zip(wanted, row.shape, strict=True)
        ):
            told = TensorSpec("", self._spec.dtype, wanted).describe_shape()
            raise InvalidInput(
                self._spec.name, f"shape {list(row.shape)} does not match {told}", where=f", row {place}"
            )
        self._rows.append(row)

    def array(self) -> Ragged:
        """All rows, padded at the end of each dimension to the longest: a mask with 0, other inputs with their value.

        Raises :class:`InvalidRequest` if there is more padding than a request may ask for.
        """
        spec, rows = self._spec, self._rows
        shapes = np.array([row.shape for row in rows], np.int64).reshape(len(rows), len(self._row_shape))
        widest = tuple(shapes.max(axis=0, initial=0).tolist())
        total = len(rows)
        for size in widest:
            total *= size
        if total - sum(row.size for row in rows) > MAX_FILLED:
            raise InvalidRequest(f"over {MAX_FILLED} values of padding: send rows of like length at a time")
        padded: Array = np.full((len(rows), *widest), _element(spec, rows), spec.dtype)
        for place, row in enumerate(rows):
            padded[place][tuple([slice(size) for size in row.shape])] = row
        ragged = padded.view(Ragged)
        ragged.row_shapes = shapes
        return ragged


def _element(spec: TensorSpec, rows: Sequence[Array]) -> object:
    if spec.mask_of:
        return 0
    if spec.pad_value is not None:
        return np.array(spec.pad_value.encode() if spec.dtype == STRING else spec.pad_value).astype(spec.dtype)[()]
    first = next((row for row in rows if row.size), None)
    if first is None:
        return b"" if spec.dtype == STRING else 0
    return first.flat[0]
