"""What the adapters of boosted trees share: inputs as one matrix or as a column each, and a servable over both.

Must not live here: any one framework's calls or files.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms.base import DEFAULT_SIGNATURE, LoadOptions, Servable, as_bytes, model_file, model_files, one_line
from stfs.platforms.pickle_owner import BOOSTERS, PICKLES, pickle_owner
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec, can_batch

INPUT = "data"
RESULT = "result"
PROBE_ROWS = 3
HEAD_BYTES = 4096

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Feature:
    """One column. ``categories`` are as text, in the order of the framework's codes; ``None`` for a number."""

    name: str
    categories: tuple[str, ...] | None = None


class Inputs:
    """The inputs of a model that takes rows of numbers, NaN where a value is missing.

    Without categories it is one tensor ``data`` ``[None, len(features)]``. With them it is one tensor ``[None]`` for
    each feature, by the feature's name: numbers, or strings out of the listed ``values``, which become the codes that
    the framework was trained on.
    """

    def __init__(self, features: Sequence[Feature], dtype: str) -> None:
        self.features = tuple(features)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.by_column = any(feature.categories is not None for feature in features)
        self.specs = tuple(map(self._column, self.features)) if self.by_column else (self._matrix(),)
        self._codes = {f.name: _codes(f.categories) for f in self.features if f.categories is not None}

    def matrix(self, tensors: Mapping[str, Array]) -> Array:
        """The bound inputs as one C-contiguous matrix of ``dtype``; the caller's own array if it is one already.

        Raises :class:`InvalidInput` for a value that is none of the categories.
        """
        if not self.by_column:
            return tensors[INPUT]
        first = tensors[self.features[0].name]
        matrix = np.empty((len(first), len(self.features)), self.dtype)
        for index, feature in enumerate(self.features):
            matrix[:, index] = self._numbers(feature.name, tensors[feature.name])
        return matrix

    def zeros(self, rows: int) -> Array:
        """A matrix to try the model on."""
        return np.zeros((rows, len(self.features)), self.dtype)

    def _numbers(self, name: str, column: Array) -> Any:
        if name not in self._codes:
            return column
        codes = self._codes[name]
        values = column.tolist()
        try:
            return [codes[value] for value in values]
        except KeyError as error:
            text, row = error.args[0].decode("utf-8", "replace"), values.index(error.args[0])
            raise InvalidInput(name, f'"{text}" is none of the values that the model knows', f" [{row}]") from None

    def _matrix(self) -> TensorSpec:
        names = tuple(feature.name for feature in self.features if feature.name)
        doc = ", ".join(names)
        return TensorSpec(INPUT, self.dtype, (None, len(self.features)), doc, nullable=True, columns=names)

    def _column(self, feature: Feature) -> TensorSpec:
        values = feature.categories
        if values is None:
            return TensorSpec(feature.name, self.dtype, (None,), nullable=True)
        return TensorSpec(feature.name, STRING, (None,), nullable="" not in values, values=values)


class BoostedServable(Servable):
    """A booster behind a function from a matrix to the outputs; what that function raises of ``blamed`` is the
    request's fault. It is tried on a few rows, which tells the dtypes and shapes of the outputs.

    Raises :class:`LoadFailed`, naming ``file``, if that fails.
    """

    def __init__(
        self,
        inputs: Inputs,
        predict: Callable[[Array], Tensors],
        file: Path,
        blamed: tuple[type[Exception], ...],
        told: Callable[[BaseException], str] = one_line,
    ) -> None:
        self._inputs = inputs
        self._predict: Callable[[Array], Tensors] | None = predict
        self._blamed = blamed
        self._told = told
        try:
            probed = predict(inputs.zeros(PROBE_ROWS))
        except Exception as error:
            raise LoadFailed(f"{file}: loads, but does not predict: {told(error)}") from error
        self._outputs = tuple(_spec(name, array) for name, array in probed.items())
        signature = Signature(DEFAULT_SIGNATURE, inputs.specs, self._outputs, can_batch(inputs.specs, self._outputs))
        self.signatures = {DEFAULT_SIGNATURE: signature}

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        assert self._predict is not None, "closed"
        matrix = self._inputs.matrix(inputs)
        if not len(matrix):  # some boosters refuse it, and others forget how many classes they have
            return {spec.name: np.empty([d or 0 for d in spec.shape or ()], spec.dtype) for spec in self._outputs}
        try:
            return self._predict(matrix)
        except self._blamed as error:
            raise InvalidRequest(self._told(error)) from error

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._predict = None


def labelled(result: Array, classes: Array) -> Tensors:
    """``predict`` and ``predict_proba``, derived as scikit-learn wrappers do from ``[n]`` or ``[n, k]``."""
    if result.ndim == 1:
        indices, chances = (result > 0.5).astype(np.int64), np.stack((1.0 - result, result), axis=1)
    else:
        indices, chances = np.argmax(result, axis=1), result.copy()
    return {"predict": labels(classes, indices), "predict_proba": chances}


def labels(classes: Array, indices: Array) -> Array:
    """The classes at ``indices``, text as ``bytes``."""
    chosen = classes.take(indices, mode="clip")
    return as_bytes(chosen) if chosen.dtype.kind in "OUS" else chosen


def find(path: Path, suffixes: Sequence[str], accept: Callable[[Path], bool], package: str) -> Path:
    """The file to load: the one that ``accept`` takes, else the one with a known ending, which may prove to be wrong.

    Raises :class:`LoadFailed` if there is none or there are several, and for a pickle of another framework, which had
    better not be run.
    """
    found = model_files(path, suffixes, accept=accept)
    file = found[0] if len(found) == 1 else model_file(path, suffixes)
    owner = pickle_owner(file) if file.suffix in PICKLES else None
    if owner != package and owner in (*BOOSTERS, "sklearn"):
        told = "scikit-learn" if owner == "sklearn" else owner
        raise LoadFailed(f"{file}: is a pickle of {told}, not of {package}: leave out the platform, or say {owner}")
    return file


def head(file: Path, size: int = HEAD_BYTES) -> bytes:
    """The first bytes of a file; empty if it cannot be read."""
    try:
        with file.open("rb") as stream:
            return stream.read(size)
    except OSError:
        return b""


def warn_of_device(options: LoadOptions, framework: str) -> None:
    """Say in the log that a model runs on the CPU, where something else was asked for."""
    if options.device == "cuda":
        logger.warning("model %s: %s models run on the CPU here; device cuda is ignored", options.model_name, framework)


def _codes(categories: tuple[str, ...]) -> dict[bytes, float]:
    """The code of each category; of the empty string too, which stands for a missing value unless it is one of them."""
    return {b"": np.nan} | {text.encode(): float(code) for code, text in enumerate(categories)}


def _spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, array.dtype, (None, *array.shape[1:]))
