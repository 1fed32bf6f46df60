"""Sparse rows, as Spark's clients of the seed send them, made dense.

``{"format": "libsvm", "max_ids": 692, "ids": [128, 129], "values": [51, 159]}`` is one row of 692 numbers, all 0 but
those two; with lists of lists it is several. Ids count from 0, as in ``pyspark.ml.linalg.SparseVector`` (and not from
1, as in a file of that format). Knows no other form.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stfs import codec, errors
from stfs.protocols.request import read_text
from stfs.signature import Array, Signature, TensorSpec

KEYS = ("format", "max_ids", "ids", "values")

MAX_DENSE_BYTES = 1 << 28
"""What rows may take once they are dense: a short body can stand for many zeros."""


def fits(signature: Signature) -> bool:
    """Whether the signature takes one matrix of floats and nothing else."""
    if len(signature.inputs) != 1:
        return False
    spec = signature.inputs[0]
    return spec.dtype.kind == "f" and spec.shape is not None and len(spec.shape) == 2


def read(reader: codec.Reader, spec: TensorSpec) -> Array:
    """The object at the cursor as float64 ``[rows, features]``. Raises :class:`stfs.errors.InvalidInput`."""
    found: dict[str, Any] = {}
    reader.enter_object()
    while (key := reader.next_key()) is not None:
        if key not in KEYS:
            raise errors.InvalidInput(spec.name, f'"{key[:100]}" is no key of sparse rows: {", ".join(KEYS)}')
        found[key] = read_text(reader, key) if key == "format" else reader.value()
    if found.get("format") != "libsvm":
        raise errors.InvalidInput(spec.name, f'"format" must be "libsvm", not {found.get("format")!r:.100}')
    ids, values = found.get("ids"), found.get("values")
    if not isinstance(ids, list) or not isinstance(values, list):
        raise errors.InvalidInput(spec.name, '"ids" and "values" must be lists')
    if not any(isinstance(item, list) for item in (*ids, *values)):
        ids, values = [ids], [values]
    if len(ids) != len(values):
        raise errors.InvalidInput(spec.name, f'"ids" has {len(ids)} rows and "values" {len(values)}')
    features = _features(spec, found.get("max_ids"))
    if len(ids) * features * 8 > MAX_DENSE_BYTES:
        raise errors.InvalidInput(
            spec.name, f"{len(ids)} rows of {features} are more than fits; send fewer rows at a time"
        )
    dense = np.zeros((len(ids), features))
    for row, (row_ids, row_values) in enumerate(zip(ids, values, strict=True)):
        try:
            _place(dense[row], row_ids, row_values)
        except ValueError as fault:
            raise errors.InvalidInput(spec.name, str(fault), where=f", row {row}") from None
    return dense


def _features(spec: TensorSpec, told: object) -> int:
    wanted = spec.shape[1] if spec.shape else None
    if told is None and wanted is not None:
        return wanted
    if type(told) is not int or told < 0:
        raise errors.InvalidInput(spec.name, f'"max_ids" must be the number of features, not {told!r:.100}')
    if wanted not in (None, told):
        raise errors.InvalidInput(spec.name, f'"max_ids" is {told!r:.100}, and the model takes {wanted} features')
    return told


def _place(row: Array, ids: object, values: object) -> None:
    """Write one row's values; :class:`ValueError` says what is wrong with it."""
    if not isinstance(ids, list) or not isinstance(values, list) or len(ids) != len(values):
        raise ValueError('"ids" and "values" must be lists of one length')
    for wrong in (i for i in ids if type(i) is not int or not 0 <= i < len(row)):
        raise ValueError(f"{wrong!r:.100} is not an id from 0 to {len(row) - 1}")
    if len(set(ids)) < len(ids):
        raise ValueError("an id stands twice")
    for wrong in (v for v in values if type(v) not in (int, float)):
        raise ValueError(f"{wrong!r:.100} is not a number")
    try:
        row[ids] = values
    except OverflowError:
        raise ValueError("a value is out of range for float64") from None
