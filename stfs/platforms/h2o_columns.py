"""The columns of an H2O model: how named values become the row of numbers it scores, and its scores named outputs.

Must not live here: loading models and calling them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, LoadFailed
from stfs.platforms.base import object_array
from stfs.signature import MAX_VALUES_TOLD, STRING, Array, Tensors, TensorSpec

FLOAT: np.dtype[Any] = np.dtype("float64")
LABELLED = ("Binomial", "Multinomial", "Ordinal")
SERVED = (*LABELLED, "Regression", "Clustering", "AnomalyDetection", "DimReduction", "CoxPH", "BinomialUplift")
"""Categories of models that take a row and give a row of numbers."""

ONE_PLACE = "AUTO"
"""The encoding of categories by which a level's number stands in one place of the row; the others spread it."""


@dataclass(frozen=True, slots=True)
class Levels:
    """A categorical feature: level ``i`` puts ``table[i]`` at ``places`` of the row; the last is a missing one's."""

    codes: Mapping[bytes, int]
    places: Array
    table: Array

    def encode(self, name: str, values: Array) -> Array:
        """Bytes ``[rows]`` to float64 ``[rows, len(places)]``. Raises :class:`InvalidInput` for an unknown level."""
        try:
            return self.table[[self.codes[value] for value in values.tolist()]]
        except KeyError as error:
            row = next(i for i, value in enumerate(values.tolist()) if value not in self.codes)
            known = [value.decode() for value in self.codes if value]
            told = ", ".join(f'"{value}"' for value in known[:MAX_VALUES_TOLD])
            more = f" and {len(known) - MAX_VALUES_TOLD} more" if len(known) > MAX_VALUES_TOLD else ""
            wrong = values[row].decode(errors="replace")
            where = f", row {row}" if len(values) > 1 else ""
            raise InvalidInput(name, f'"{wrong}" is none of its levels: {told}{more}', where=where) from error


@dataclass(frozen=True, slots=True)
class Columns:
    """``places`` tells for each input where its number stands in the row, or how its levels do.

    A row has ``width`` numbers, the offset being the last if there is one; a model gives ``scores`` numbers for it.
    ``labels`` are the response's levels if the first score is the index of one, else empty.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    places: tuple[int | Levels, ...]
    width: int
    scores: int
    labels: tuple[str, ...]
    has_offset: bool

    def encode(self, inputs: Mapping[str, Array], rows: int) -> Array:
        """Columns to float64 ``[rows, width]``; what is missing is as H2O encodes it."""
        encoded = np.full((rows, self.width), np.nan)
        for spec, place in zip(self.inputs, self.places, strict=True):
            if isinstance(place, Levels):
                encoded[:, place.places] = place.encode(spec.name, inputs[spec.name])
            else:
                encoded[:, place] = inputs[spec.name]
        return encoded

    def decode(self, scores: Array) -> Tensors:
        """Float64 ``[rows, scores]`` to the outputs, ``[rows]`` each: a label or number first, then the others."""
        found: Tensors = {}
        for index, spec in enumerate(self.outputs):
            column = scores[:, index]
            if spec.dtype == STRING:
                known = [label.encode() for label in self.labels]
                found[spec.name] = object_array(
                    [known[int(each)] if each == each else b"" for each in column.tolist()], column.shape
                )
            else:
                found[spec.name] = column.astype(spec.dtype)
        return found


def read_columns(jpype: Any, model: Any, file: Path) -> Columns:
    """What ``model`` takes and gives. Raises :class:`LoadFailed` for a category of models that scores no rows."""
    category = str(model.getModelCategory())
    if category not in SERVED:
        raise LoadFailed(f"{file}: a model of category {category} cannot be served; these can: {', '.join(SERVED)}")
    if isinstance(model, jpype.JClass("hex.genmodel.ConverterFactoryProvidingModel")):
        # It asks for columns that it computes itself from others, row by row, and says nowhere which those are.
        raise LoadFailed(f"{file}: models that make up their features themselves (GAM) cannot be served")
    width = int(model.nfeatures())
    inputs, places = _features(jpype, model, width)
    offset = model.getOffsetName()
    if offset is not None:
        # H2O's own answer without an offset is none: so it may not miss.
        inputs.append(TensorSpec(str(offset), FLOAT, (None,), doc="offset"))
        places.append(width)
        width += 1
    labels = tuple(_texts(model.getDomainValues(model.getResponseIdx()))) if category in LABELLED else ()
    outputs = [_output(name, index, labels, category) for index, name in enumerate(_output_names(model, category))]
    if not inputs or not outputs:
        raise LoadFailed(f"{file}: the model has no {'outputs' if inputs else 'features'}")
    scores = max(int(model.getPredsSize(model.getModelCategory())), len(outputs))
    return Columns(tuple(inputs), tuple(outputs), tuple(places), width, scores, labels, offset is not None)


def _features(jpype: Any, model: Any, width: int) -> tuple[list[TensorSpec], list[int | Levels]]:
    names = _texts(model.getOrigNames() or model.getNames())
    domains = model.getOrigDomainValues() if model.getOrigNames() else model.getDomainValues()
    encoding = model.getCategoricalEncoding()
    mapping = encoding.createColumnMapping(model)
    encoders = encoding.createCategoricalEncoders(model, mapping)
    response = model.getResponseName() if model.isSupervised() else None
    aside = {str(name) for name in (response, model.getOffsetName()) if name is not None}
    inputs: list[TensorSpec] = []
    places: list[int | Levels] = []
    for index, name in enumerate(names):
        place = mapping.get(name)
        if name in aside or place is None or int(place) >= width:
            continue
        encoder = encoders.get(place)
        levels = _texts(domains[index]) if domains[index] is not None else []
        if encoder is None or not levels:
            inputs.append(TensorSpec(name, FLOAT, (None,), nullable=True))
            places.append(int(place))
            continue
        inputs.append(TensorSpec(name, STRING, (None,), nullable=True, values=tuple(levels)))
        if str(encoding) == ONE_PLACE:
            codes = np.append(np.arange(len(levels), dtype=float), np.nan)[:, None]
            places.append(_levels(levels, np.array([int(place)]), codes))
        else:
            places.append(_spread(jpype, encoder, levels, width))
    return inputs, places


def _spread(jpype: Any, encoder: Any, levels: Sequence[str], width: int) -> Levels:
    """What ``encoder`` writes for each level and for a missing one, found by having it write over two known rows."""
    lines = []
    for background in (-1.5, 2.5):  # no encoder writes both
        written = []
        for level in (*levels, None):
            row = jpype.JArray(jpype.JDouble)([background] * width)
            if level is None:
                encoder.encodeNA(row)
            else:
                encoder.encodeCatValue(level, row)
            written.append(np.array(row))
        lines.append(np.array(written))
    touched = ((lines[0] == lines[1]) | np.isnan(lines[0])).any(axis=0)
    places = np.flatnonzero(touched)
    return _levels(levels, places, lines[0][:, places])


def _levels(levels: Sequence[str], places: Array, table: Array) -> Levels:
    codes = {level.encode(): index for index, level in enumerate(levels)}
    return Levels({**codes, b"": len(levels)}, places, table)


def _output_names(model: Any, category: str) -> list[str]:
    if category == "DimReduction":
        prefix = "Arch" if "Glrm" in str(model.getClass().getSimpleName()) else "PC"
        return [f"{prefix}{i + 1}" for i in range(int(model.getPredsSize(model.getModelCategory())))]
    return _texts(model.getOutputNames())


def _output(name: str, index: int, labels: Sequence[str], category: str) -> TensorSpec:
    if index == 0 and labels:
        return TensorSpec(name, STRING, (None,), doc=f"one of {', '.join(labels[:MAX_VALUES_TOLD])}")
    if category == "Clustering":
        return TensorSpec(name, np.dtype("int64"), (None,))
    return TensorSpec(name, FLOAT, (None,), doc=f"probability of {labels[index - 1]}" if labels else "")


def _texts(values: Any) -> list[str]:
    return [str(value) for value in values]
