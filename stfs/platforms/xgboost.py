"""XGBoost models: JSON, UBJSON, the old binary files and pickles. Owns the calls of xgboost.

What the files say of themselves is read in :mod:`stfs.platforms.xgboost_file`; files that today's XGBoost has ceased to
read are converted in :mod:`stfs.platforms.xgboost_legacy`.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import LoadFailed, PlatformMissing
from stfs.platforms import ubjson, xgboost_legacy
from stfs.platforms.base import LoadOptions, Platform, model_files, one_line
from stfs.platforms.boosted import RESULT, BoostedServable, Inputs, find, head, labelled, labels, warn_of_device
from stfs.platforms.pickle_owner import PICKLES, pickle_owner
from stfs.platforms.pickled import load_pickle
from stfs.platforms.xgboost_file import Facts, Version, facts, json_version, kind_of
from stfs.signature import Array, Tensors

SUFFIXES = (".json", ".ubj", ".bst", ".model", *PICKLES)

logger = logging.getLogger(__name__)


class XGBoostPlatform(Platform):
    """``model.json``, ``.ubj``, ``.bst``, ``.model``, or a pickle of a ``Booster`` or of a scikit-learn wrapper."""

    name = "xgboost"
    aliases = ("xgb",)
    extra = "xgboost"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`. All of these endings are used by others too, so the first bytes decide."""
        return bool(model_files(path, SUFFIXES, accept=_is_ours))

    def load(self, path: Path, options: LoadOptions) -> XGBoostServable:
        """See :meth:`Platform.load`.

        ``options.threads`` becomes ``nthread``; 0 means 1, since handing work to threads costs more than most forests
        take. Models run on the CPU.
        """
        try:
            import xgboost
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        file = find(path, SUFFIXES, _is_ours, "xgboost")
        with xgboost.config_context(verbosity=0):
            model = _unpickled(file) if file.suffix in PICKLES else _read(file)
        model.booster.set_param({"nthread": max(1, options.threads), "device": "cpu"})
        warn_of_device(options, "XGBoost")
        servable = XGBoostServable(model, file)
        servable.runtime = f"xgboost {xgboost.__version__}, {model.told.booster} {model.told.objective}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


@dataclass(frozen=True, slots=True)
class XGBoostModel:
    """A loaded booster. ``classes`` are the labels of a wrapped classifier, else ``None``; ``missing`` is what stands
    for a missing value; ``rounds`` are the rounds of trees to use, from 0, where 0 is all of them.
    """

    booster: Any
    told: Facts
    classes: Array | None
    missing: float
    rounds: int


class XGBoostServable(BoostedServable):
    """``result`` is what ``Booster.predict`` gives, in float32: values or probabilities, ``[None]`` or ``[None, k]``.

    Models of the scikit-learn wrappers, pickled or saved by ``save_model``, stop at the best iteration, as their own
    ``predict`` does; those of classifiers also give ``predict``, the labels, and ``predict_proba``.

    Inputs are float32, NaN where a value is missing: ``data`` ``[None, n]``, or one column a feature if the model holds
    the categories of some (trained on a data frame by XGBoost 3.1 or later).
    """

    platform = XGBoostPlatform.name

    def __init__(self, model: XGBoostModel, file: Path) -> None:
        from xgboost.core import XGBoostError

        if model.told.coded:
            logger.info("%s: takes codes for its categories in %s", file, ", ".join(model.told.coded))
        inputs = Inputs(model.told.features, "float32")
        super().__init__(inputs, _predictor(model), file, (XGBoostError, ValueError), told)
        # XGBoost's page on prediction: in-place prediction of trees is safe from several threads.
        self.concurrent = model.told.booster != "gblinear"


def _is_ours(file: Path) -> bool:
    if file.suffix in PICKLES:
        return pickle_owner(file) == "xgboost"
    start = head(file)
    # A broken file of an ending that is hardly anybody else's is ours to complain about.
    return kind_of(start) is not None or (file.suffix == ".ubj" or (file.suffix == ".bst" and start[:4] != b"tree"))


def _read(file: Path) -> XGBoostModel:
    """A model file of any kind, told by its content. Raises :class:`LoadFailed`."""
    import xgboost

    try:
        content = file.read_bytes()
    except OSError as error:
        raise LoadFailed(f"{file}: {one_line(error)}") from error
    match kind_of(content[:4096]):
        case "binary":
            return _from_json(xgboost_legacy.convert(file), file)
        case "json":
            version = json_version(content)
        case "ubj":
            try:
                document = ubjson.loads(content)
                version = tuple(int(part) for part in document["version"])
                facts(document)  # now, for XGBoost may not survive what this finds
            except (ValueError, KeyError, TypeError) as error:
                raise LoadFailed(f"{file}: is cut short or damaged: {one_line(error)}") from error
        case _:
            raise LoadFailed(f"{file}: is no XGBoost model: {_kind_of_nothing(content)}")
    _refuse_newer(version, file)
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except Exception as error:  # XGBoostError; UnicodeDecodeError for a message that quotes the file
        saved = f" of XGBoost {_dotted(version)}" if version else ""
        raise LoadFailed(
            f"{file}: XGBoost {xgboost.__version__} cannot read this file{saved}: {told(error)}"
        ) from error
    return _model(booster, file)


def _from_json(content: bytes, file: Path) -> XGBoostModel:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(bytearray(content))
    return _model(booster, file)


def _unpickled(file: Path) -> XGBoostModel:
    """A pickled booster or wrapper, converted first if it holds what only an older XGBoost reads."""
    import xgboost

    try:
        thing, given = load_pickle(file)
    except LoadFailed as failed:
        if xgboost_legacy.may_read(failed.__cause__, file):
            return _from_json(xgboost_legacy.convert(file), file)
        raise
    for warning in given:
        logger.info("%s: %s", file, told(str(warning.message)))
    if isinstance(thing, xgboost.Booster):
        return _model(thing, file)
    if not isinstance(thing, xgboost.XGBModel):
        raise LoadFailed(f"{file}: holds {type(thing).__name__}, which is not an XGBoost model")
    try:
        booster = thing.get_booster()
    except Exception as error:  # NotFittedError is scikit-learn's, which need not be there
        raise LoadFailed(f"{file}: holds {type(thing).__name__}, which is not fitted") from error
    state = vars(thing)
    wrapper: dict[str, Any] = {"missing": thing.missing}
    if isinstance(thing, xgboost.XGBClassifier):
        labels = getattr(state.get("_le"), "classes_", state.get("classes_"))
        wrapper |= {"_estimator_type": "classifier", "classes_": labels}
    return _model(booster, file, wrapper)


def _model(booster: Any, file: Path, wrapper: dict[str, Any] | None = None) -> XGBoostModel:
    """Reads the booster's own account of itself; ``wrapper`` as in :class:`Facts`, from a pickle."""
    try:
        about = facts(ubjson.loads(bytes(booster.save_raw("ubj"))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadFailed(f"{file}: is damaged: {one_line(error)}") from error
    meta = about.wrapper if wrapper is None else wrapper
    missing = meta.get("missing")
    return XGBoostModel(
        booster=booster,
        told=about,
        classes=_classes(meta, about),
        missing=float(missing) if isinstance(missing, int | float) else np.nan,
        rounds=about.best_rounds if meta and about.booster != "gblinear" else 0,
    )


def _classes(meta: Any, about: Facts) -> Array | None:
    """The labels of a wrapped classifier: 0, 1, ... in all but the oldest models."""
    # Releases 1.x wrote the class, later ones its kind.
    if meta.get("_estimator_type") != "classifier" and meta.get("type") not in ("XGBClassifier", "XGBRFClassifier"):
        return None
    known = meta.get("_le", {}).get("classes_") or meta.get("classes_")
    count = max(2, about.classes)
    classes = np.arange(count) if known is None else np.asarray(known)
    return classes if classes.shape == (count,) else np.arange(count)


def _predictor(model: XGBoostModel) -> Callable[[Array], Tensors]:
    values = _linear(model) if model.told.booster == "gblinear" else _trees(model)
    classes = model.classes
    if classes is None:
        return lambda matrix: {RESULT: values(matrix, False)}

    if model.told.objective == "multi:softmax":
        from scipy.special import softmax  # type: ignore[import-untyped]

        return lambda matrix: {
            RESULT: (result := values(matrix, False)),
            "predict": labels(classes, result.astype(np.int64)),
            "predict_proba": softmax(values(matrix, True), axis=1),
        }

    def classify(matrix: Array) -> Tensors:
        result = values(matrix, False)
        if result.ndim == 2 and len(classes) == 2:  # several labels a row, each of them 0 or 1
            return {RESULT: result, "predict": (result > 0.5).astype(np.float64), "predict_proba": result.copy()}
        return {RESULT: result, **labelled(result, classes)}

    return classify


def _trees(model: XGBoostModel) -> Callable[[Array, bool], Array]:
    """``inplace_predict`` makes no DMatrix, releases the GIL, and may be called on many threads at once."""
    predict, missing, rounds = model.booster.inplace_predict, model.missing, (0, model.rounds)

    def values(matrix: Array, margin: bool) -> Array:
        kind = "margin" if margin else "value"
        result: Array = predict(
            matrix, iteration_range=rounds, predict_type=kind, missing=missing, validate_features=False
        )
        return result

    return values


def _linear(model: XGBoostModel) -> Callable[[Array, bool], Array]:
    """Linear boosters have no ``inplace_predict``; their ``predict`` is not safe on several threads, hence a lock."""
    import xgboost

    lock = threading.Lock()

    def values(matrix: Array, margin: bool) -> Array:
        rows = xgboost.DMatrix(matrix, missing=model.missing, nthread=1)
        with lock:
            result: Array = model.booster.predict(rows, output_margin=margin, validate_features=False)
        return result

    return values


def _refuse_newer(version: Version | None, file: Path) -> None:
    """A file of a later XGBoost may load and be misread: its form changes in minor versions."""
    import xgboost

    here = tuple(int(part) for part in re.findall(r"\d+", xgboost.__version__)[:2])
    if version and version[:2] > here:
        raise LoadFailed(
            f"{file}: was saved by XGBoost {_dotted(version)}, and this is {xgboost.__version__}, "
            f'which may misread it: run pip install "xgboost-cpu>={_dotted(version)}"'
        )


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _kind_of_nothing(content: bytes) -> str:
    if not content:
        return "it is empty"
    return "it is JSON of something else" if content.lstrip()[:1] == b"{" else "it begins with none of its marks"


def told(error: BaseException | str) -> str:
    """What XGBoost says, without the time and the place in its sources that stand before it."""
    text = re.sub(r"^\s*\[[\d:]+\]\s*(?:WARNING: )?\S+:\d+:\s*", "", str(error))
    return one_line(text) or (type(error).__name__ if isinstance(error, BaseException) else "")
