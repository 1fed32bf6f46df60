"""scikit-learn estimators from joblib, pickle and skops files. Owns what is asked of an estimator, and how.

Which methods share work is told in :mod:`stfs.platforms.estimator`; reading pickles in :mod:`stfs.platforms.pickled`.
Columns of strings are not served: an estimator fitted on them is refused rather than fed numbers.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, LoadFailed, PlatformMissing
from stfs.platforms import estimator as est
from stfs.platforms.base import (
    DEFAULT_SIGNATURE,
    LoadOptions,
    Platform,
    Servable,
    as_bytes,
    model_file,
    model_files,
    one_line,
    owned,
)
from stfs.platforms.pickle_owner import BOOSTERS, pickle_owner
from stfs.platforms.pickled import load_pickle
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec, can_batch

# Where a folder holds the same model in several forms, the safe one is taken.
SUFFIXES = (".skops", ".joblib", ".pkl", ".pickle")
INPUT = "data"
PROBE_ROWS = 3

logger = logging.getLogger(__name__)


class ScikitLearnPlatform(Platform):
    """``model.skops``, ``model.joblib``, ``model.pkl``, ``model.pickle``, or a single file that ends so."""

    name = "scikitlearn"
    aliases = ("sklearn", "scikit-learn")
    extra = "sklearn"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`. Pickles of classes that have a platform of their own are not this one's."""
        return bool(model_files(path, SUFFIXES, accept=lambda file: pickle_owner(file) not in BOOSTERS))

    def load(self, path: Path, options: LoadOptions) -> ScikitLearnServable:
        """See :meth:`Platform.load`.

        ``options.threads`` becomes ``n_jobs`` wherever the estimator has one; 0 means 1, since handing work to a
        thread pool costs milliseconds a call.
        """
        try:
            import joblib  # noqa: F401 - so that its absence is told now
            import sklearn
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        file = model_file(path, SUFFIXES)
        estimator = self._load_skops(file) if file.suffix == ".skops" else _load_pickle(file)
        if isinstance(estimator, type) or not any(hasattr(estimator, m) for m in ("predict", *est.OTHERWISE)):
            raise LoadFailed(f"{file}: holds {_kind(estimator)}, which is not an estimator")
        servable = ScikitLearnServable(estimator, file, max(1, options.threads))
        servable.runtime = f"scikit-learn {sklearn.__version__}, {_kind(estimator)}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable

    def _load_skops(self, file: Path) -> Any:
        try:
            import skops.io
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        try:
            unknown = skops.io.get_untrusted_types(file=file)
            if not unknown:
                return skops.io.load(file, trusted=[])
        except Exception as error:  # a broken archive, or an estimator that this version does not know
            raise LoadFailed(f"{file}: {type(error).__name__}: {one_line(error)}") from error
        raise LoadFailed(f"{file}: holds types that are not trusted: {', '.join(sorted(unknown))}")


class ScikitLearnServable(Servable):
    """A fitted estimator, which it owns and prepares: ``n_jobs`` set, names of features moved to the signature.

    Input ``data`` is float64 ``[None, n_features]``. Outputs are ``predict``, ``predict_proba`` and
    ``predict_log_proba`` as far as the estimator has them; ``transform``, else ``decision_function``, where it has no
    ``predict``. With several targets the probabilities are one output a target, ``predict_proba_0`` and so on,
    because targets differ in their number of classes.
    """

    platform = ScikitLearnPlatform.name

    def __init__(self, estimator: Any, file: Path, n_jobs: int) -> None:
        names = est.prepare(estimator, n_jobs)
        if text := est.fitted_on_text(estimator):
            raise LoadFailed(f"{file}: {text} was fitted on strings, and columns of strings cannot be served yet")
        features = getattr(estimator, "n_features_in_", None)
        if features is None:
            raise LoadFailed(f"{file}: {_kind(estimator)} does not say how many features it takes: is it fitted?")
        self._run = est.plan(estimator)
        data = TensorSpec(INPUT, np.dtype("float64"), (None, int(features)), doc=", ".join(names))
        outputs = self._probe(int(features), _kind(estimator), file)
        self.signatures = {
            DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, (data,), outputs, can_batch((data,), outputs))
        }

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        data = inputs[INPUT]
        try:
            # A logarithm of 0, a float64 that overflows float32: answers tell of them, the log need not.
            with np.errstate(all="ignore"):
                values = self._run(data)
        except ValueError as error:
            raise InvalidInput(INPUT, one_line(error)) from error
        return {name: owned(_array(value), (data,)) for name, value in values.items()}

    def _probe(self, features: int, kind: str, file: Path) -> tuple[TensorSpec, ...]:
        """Dtypes and shapes of the outputs, as seen on rows of zeros: no attribute tells them for every estimator."""
        try:
            # A warning about zeros (a log, an unknown category) says nothing about the requests to come.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = self.run(DEFAULT_SIGNATURE, {INPUT: np.zeros((PROBE_ROWS, features))})
        except Exception as error:
            reason = error.problem if isinstance(error, InvalidInput) else one_line(error)
            raise LoadFailed(f"{file}: {kind} does not take rows of {features} numbers: {reason}") from error
        return tuple(
            TensorSpec(
                name, array.dtype, tuple(None if i == 0 and d == PROBE_ROWS else d for i, d in enumerate(array.shape))
            )
            for name, array in outputs.items()
        )


def _load_pickle(file: Path) -> Any:
    import sklearn
    from sklearn.exceptions import InconsistentVersionWarning

    loaded, given = load_pickle(file)
    versions = [w.message for w in given if isinstance(w.message, InconsistentVersionWarning)]
    if versions:
        logger.warning(
            "%s: was saved by scikit-learn %s, and this is %s: it loads, but its answers may differ; save it again",
            file,
            versions[0].original_sklearn_version,
            sklearn.__version__,
        )
    for other in given:
        if not isinstance(other.message, InconsistentVersionWarning):
            logger.warning("%s: %s", file, one_line(str(other.message)))
    return loaded


def _array(value: Any) -> Array:
    """What an estimator returned: dense, C-contiguous, its strings as ``bytes``."""
    array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    if array.dtype == STRING:
        numbers = array.size and not any(isinstance(v, str | bytes) for v in array.ravel().tolist())
        if numbers:
            try:
                return np.array(array.tolist())
            except ValueError:
                pass
    return as_bytes(array) if array.dtype.kind in "OUS" else np.asarray(array, order="C")


def _kind(thing: Any) -> str:
    return thing.__name__ if isinstance(thing, type) else type(thing).__name__
