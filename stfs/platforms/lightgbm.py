"""LightGBM models: text files and pickles. Owns the calls of lightgbm.

Whether a file is whole, and what it says of itself, is read in :mod:`stfs.platforms.lightgbm_text`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed, PlatformMissing
from stfs.platforms import lightgbm_text
from stfs.platforms.base import LoadOptions, Platform, model_files, one_line
from stfs.platforms.boosted import RESULT, BoostedServable, Inputs, find, head, labelled, warn_of_device
from stfs.platforms.pickle_owner import PICKLES, pickle_owner
from stfs.platforms.pickled import load_pickle
from stfs.signature import Array, Tensors

SUFFIXES = (".txt", ".model", ".bst", ".lgb", ".lgbm", *PICKLES)

logger = logging.getLogger(__name__)


class LightGbmPlatform(Platform):
    """``model.txt`` (or ``.model``, ``.bst``, ``.lgb``) as ``save_model`` writes it, or a pickle of a ``Booster`` or of
    a scikit-learn wrapper.
    """

    name = "lightgbm"
    aliases = ("lgbm", "lgb")
    extra = "lightgbm"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`. Others use these endings too: a text model begins with the line ``tree``."""
        return bool(model_files(path, SUFFIXES, accept=_is_ours))

    def load(self, path: Path, options: LoadOptions) -> LightGbmServable:
        """See :meth:`Platform.load`.

        ``options.threads`` becomes ``num_threads``; 0 means 1, since handing work to threads costs more than most
        forests take. Models run on the CPU.
        """
        try:
            import lightgbm
        except (ImportError, OSError) as error:  # OSError: libgomp is not there
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        # It prints to standard output otherwise, errors too, which are raised as well.
        lightgbm.register_logger(logger, info_method_name="debug", warning_method_name="debug")
        file = find(path, SUFFIXES, _is_ours, "lightgbm")
        booster, classes = _unpickled(file) if file.suffix in PICKLES else (_read(file), None)
        warn_of_device(options, "LightGBM")
        servable = LightGbmServable(booster, classes, file, max(1, options.threads))
        servable.runtime = f"lightgbm {lightgbm.__version__}, {servable.objective}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


class LightGbmServable(BoostedServable):
    """``result`` is what ``Booster.predict`` gives, in float64: values or probabilities, ``[None]`` or ``[None, k]``,
    up to the best iteration. Pickled classifiers also give ``predict``, the labels, and ``predict_proba``.

    Inputs are float64, NaN where a value is missing: ``data`` ``[None, n]``, or one column a feature where the model
    was trained on a data frame with categories. Where only the codes of categories are known, they are numbers.

    ``classes`` are the labels of a wrapped classifier, else ``None``.
    """

    platform = LightGbmPlatform.name
    concurrent = True
    # LightGBM's C API: prediction takes the booster's lock shared, and lets go of the GIL.

    def __init__(self, booster: Any, classes: Array | None, file: Path, threads: int) -> None:
        from lightgbm.basic import LightGBMError

        about = lightgbm_text.facts(booster.model_to_string(num_iteration=1))
        if about.coded:
            logger.info("%s: takes codes for its categories in %s", file, ", ".join(about.coded))
        self.objective = about.objective
        inputs = Inputs(about.features, "float64")
        super().__init__(inputs, _predictor(booster, classes, threads), file, (LightGBMError, ValueError))


def _is_ours(file: Path) -> bool:
    if file.suffix in PICKLES:
        return pickle_owner(file) == "lightgbm"
    return lightgbm_text.is_lightgbm(head(file, 8))


def _read(file: Path) -> Any:
    import lightgbm

    try:
        content = file.read_bytes()
        lightgbm_text.check(content)
        return lightgbm.Booster(model_str=content.decode())
    except Exception as error:  # OSError, ValueError, LightGBMError
        what = "cannot be read" if isinstance(error, OSError) else "is no LightGBM model that can be served"
        raise LoadFailed(f"{file}: {what}: {one_line(error)}") from error


def _unpickled(file: Path) -> tuple[Any, Array | None]:
    """The booster in a pickle, and the labels if it is a classifier's."""
    import lightgbm

    thing, given = load_pickle(file)
    for warning in given:
        logger.warning("%s: %s", file, one_line(str(warning.message)))
    if isinstance(thing, lightgbm.Booster):
        return thing, None
    if not isinstance(thing, lightgbm.LGBMModel):
        raise LoadFailed(f"{file}: holds {type(thing).__name__}, which is not a LightGBM model")
    try:
        booster = thing.booster_
    except Exception as error:  # NotFittedError is scikit-learn's
        raise LoadFailed(f"{file}: holds {type(thing).__name__}, which is not fitted") from error
    # Of an objective of the user's own it is not known what its values mean.
    named = not callable(getattr(thing, "objective_", None))
    return booster, thing.classes_ if isinstance(thing, lightgbm.LGBMClassifier) and named else None


def _predictor(booster: Any, classes: Array | None, threads: int) -> Callable[[Array], Tensors]:
    """``predict`` releases the GIL and may be called on many threads at once."""

    def values(matrix: Array) -> Tensors:
        result: Array = booster.predict(matrix, num_threads=threads)
        return {RESULT: result} if classes is None else {RESULT: result, **labelled(result, classes)}

    return values
