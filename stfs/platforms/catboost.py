"""CatBoost models: ``.cbm``, CatBoost's JSON and pickles. Owns the calls of catboost.

CatBoost holds the GIL while it takes the rows over, for columns of text above all: a model of many categories that has
much to do is better off in a process of its own (``isolation: process``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, LoadFailed, PlatformMissing
from stfs.platforms.base import LoadOptions, Platform, as_bytes, model_files, one_line
from stfs.platforms.boosted import RESULT, BoostedServable, Feature, Inputs, find, head, labels, warn_of_device
from stfs.platforms.pickle_owner import PICKLES, pickle_owner
from stfs.platforms.pickled import load_pickle
from stfs.signature import STRING, Array, Tensors, TensorSpec

SUFFIXES = (".cbm", ".json", *PICKLES)
MAGIC = b"CBM1"

# The keys of CatBoost's JSON; one with categorical features begins with its tables of counters.
_JSON = re.compile(rb'\s*\{\s*"(?:ctr_data|features_info|model_info|oblivious_trees|trees|scale_and_bias)"\s*:\s*[\[{]')
_CLASSIFIES = ("Logloss", "CrossEntropy", "MultiClass", "MultiClassOneVsAll", "MultiLogloss", "MultiCrossEntropy")

logger = logging.getLogger(__name__)


class CatBoostPlatform(Platform):
    """``model.cbm``, ``model.json`` saved with ``format="json"``, or a pickle of any of CatBoost's classes."""

    name = "catboost"
    aliases = ("cbm",)
    extra = "catboost"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`. Others write ``.json`` and pickles too, so the first bytes decide."""
        return bool(model_files(path, SUFFIXES, accept=_is_ours))

    def load(self, path: Path, options: LoadOptions) -> CatBoostServable:
        """See :meth:`Platform.load`.

        ``options.threads`` becomes ``thread_count``; 0 means 1, since handing work to threads costs more than most
        forests take. Models run on the CPU.
        """
        try:
            import catboost
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        file = find(path, SUFFIXES, _is_ours, "catboost")
        model = _unpickled(file) if file.suffix in PICKLES else _read(file)
        if not model.is_fitted():
            raise LoadFailed(f"{file}: holds {type(model).__name__}, which is not fitted")
        warn_of_device(options, "CatBoost")
        servable = CatBoostServable(model, file, max(1, options.threads))
        servable.runtime = f"catboost {catboost.__version__}, {type(model).__name__} {_loss(model)}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


class CatBoostServable(BoostedServable):
    """``result`` is what ``CatBoost.predict`` gives of a classifier, raw scores, and the class's own ``predict`` of
    anything else; float64, ``[None]`` or ``[None, k]``. Classifiers also give ``predict``, the labels, ``[None]``
    (``[None, k]`` zeros and ones with several labels a row), and ``predict_proba``.

    Numbers are float32, NaN where a value is missing: ``data`` ``[None, n]``, or, if some features are categories or
    text, one column a feature. Categories are text, integers too (``"3"``): CatBoost keeps only their hashes, so that
    they are not listed, and what it has not seen counts as unknown; ``null`` is the empty text.
    """

    platform = CatBoostPlatform.name
    concurrent = True
    # CatBoost lets go of the GIL, and applies a model that it does not change.

    def __init__(self, model: Any, file: Path, threads: int) -> None:
        from catboost import CatBoostError

        if model.get_embedding_feature_indices():
            raise LoadFailed(f"{file}: takes embeddings, which cannot be served yet")
        texts = {*model.get_cat_feature_indices(), *model.get_text_feature_indices()}
        features = [Feature(str(name)) for name in model.feature_names_]
        inputs = _Columns(features, texts, set(model.get_text_feature_indices())) if texts else _matrix(features)
        super().__init__(inputs, _predictor(model, threads), file, (CatBoostError, ValueError), told)


class _Columns(Inputs):
    """A tensor ``[None]`` for each feature; CatBoost takes them as a matrix of Python objects."""

    def __init__(self, features: Sequence[Feature], texts: set[int], words: set[int]) -> None:
        super().__init__(features, "float32")
        self._texts = texts
        self.by_column = True
        self.specs = tuple(
            TensorSpec(f.name, STRING, (None,), doc="text" if i in words else "category", nullable=True)
            if i in texts
            else TensorSpec(f.name, self.dtype, (None,), nullable=True)
            for i, f in enumerate(self.features)
        )

    def matrix(self, tensors: Mapping[str, Array]) -> Array:
        first = tensors[self.features[0].name]
        matrix = np.empty((len(first), len(self.features)), object)
        for index, feature in enumerate(self.features):
            column = tensors[feature.name].tolist()
            matrix[:, index] = _decoded(feature.name, column) if index in self._texts else column
        return matrix

    def zeros(self, rows: int) -> Array:
        matrix = np.zeros((rows, len(self.features)), object)
        matrix[:, sorted(self._texts)] = ""
        return matrix


def _decoded(name: str, column: list[bytes]) -> list[str]:
    try:
        return [value.decode() for value in column]
    except UnicodeDecodeError as error:
        raise InvalidInput(name, f"not UTF-8: {error}") from error


def _matrix(features: Sequence[Feature]) -> Inputs:
    """Features without names are called by their numbers, which tells nobody anything."""
    unnamed = all(feature.name == str(i) for i, feature in enumerate(features))
    return Inputs([Feature("") for _ in features] if unnamed else features, "float32")


def _is_ours(file: Path) -> bool:
    if file.suffix in PICKLES:
        return pickle_owner(file) == "catboost"
    return file.suffix == ".cbm" or _JSON.match(head(file)) is not None


def _read(file: Path) -> Any:
    """A saved model, as the class that its loss function calls for. Raises :class:`LoadFailed`."""
    import catboost

    start = head(file)
    if not start.startswith(MAGIC) and not _JSON.match(start):
        what = "it is empty or cannot be read" if not start else f"it begins with {start[:8]!r}"
        raise LoadFailed(f"{file}: is no CatBoost model: {what}")
    form = "cbm" if start.startswith(MAGIC) else "json"
    try:
        if form == "json":
            json.loads(file.read_bytes())  # CatBoost's own reader takes a part for the whole, or dies of it
        model = catboost.CatBoost().load_model(str(file), format=form)
        classifies = _loss(model).partition(":")[0] in _CLASSIFIES or "class_params" in dict(model.get_metadata())
        kind = catboost.CatBoostClassifier if classifies else catboost.CatBoostRegressor
        return kind().load_model(str(file), format=form)
    except Exception as error:  # CatBoostError, which is not its only one
        raise LoadFailed(f"{file}: CatBoost {catboost.__version__} cannot read this file: {told(error)}") from error


def _unpickled(file: Path) -> Any:
    import catboost

    thing, given = load_pickle(file)
    for warning in given:
        logger.warning("%s: %s", file, one_line(str(warning.message)))
    if not isinstance(thing, catboost.CatBoost):
        raise LoadFailed(f"{file}: holds {type(thing).__name__}, which is not a CatBoost model")
    return thing


def _loss(model: Any) -> str:
    """The loss function, ``Logloss`` or ``Tweedie:variance_power=1.5``; empty if the model does not say."""
    return str((model.get_all_params() or {}).get("loss_function", ""))


def _predictor(model: Any, threads: int) -> Callable[[Array], Tensors]:
    """Calls of one model on several threads at once give the right answers."""
    import catboost

    def predicted(matrix: Array, *kind: str) -> Array:
        # Several columns come in Fortran order.
        return np.ascontiguousarray(model.predict(matrix, *kind, thread_count=threads))

    if not isinstance(model, catboost.CatBoostClassifier):
        return lambda matrix: {RESULT: predicted(matrix)}
    if _loss(model) in ("Logloss", "MultiClass") and model.get_probability_threshold() in (None, 0.5):
        classes = np.asarray(model.classes_)
        return lambda matrix: _derived(predicted(matrix, "RawFormulaVal"), classes)
    return lambda matrix: {
        RESULT: predicted(matrix, "RawFormulaVal"),
        "predict": _labels(predicted(matrix, "Class")),
        "predict_proba": predicted(matrix, "Probability"),
    }


def _derived(scores: Array, classes: Array) -> Tensors:
    """All three answers of the two common losses from one pass over the trees, where CatBoost makes one for each."""
    if scores.ndim == 1:
        with np.errstate(over="ignore"):  # e to the 1000 makes a probability of 0, as it should
            second = 1.0 / (1.0 + np.exp(-scores))
        indices, chances = (scores > 0).astype(np.int64), np.stack((1.0 - second, second), axis=1)
    else:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        indices, chances = scores.argmax(axis=1), powers / powers.sum(axis=1, keepdims=True)
    return {RESULT: scores, "predict": labels(classes, indices), "predict_proba": chances}


def _labels(predicted: Array) -> Array:
    """CatBoost gives the labels of many classes as one column."""
    flat = predicted.reshape(-1) if predicted.ndim == 2 and predicted.shape[1] == 1 else predicted
    return as_bytes(flat) if flat.dtype.kind in "OUS" else flat


def told(error: BaseException) -> str:
    """What CatBoost says, without the place in its sources."""
    return re.sub(r"^(?:\([^)]*\) )?\S+\.(?:cpp|h|pyx):\d+:\s*", "", one_line(error))
