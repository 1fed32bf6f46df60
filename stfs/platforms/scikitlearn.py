"""scikit-learn estimators from joblib, pickle and skops files. Owns what is asked of an estimator, and how.

Which methods share work is told in :mod:`stfs.platforms.estimator`, what an estimator takes in
:mod:`stfs.platforms.estimator_inputs`; reading pickles in :mod:`stfs.platforms.pickled`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed, PlatformMissing
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
from stfs.platforms.estimator_inputs import Choice, Inputs, choose
from stfs.platforms.pickle_owner import BOOSTERS, pickle_owner
from stfs.platforms.pickled import load_pickle
from stfs.signature import STRING, Array, Signature, Tensors, TensorSpec, can_batch

# Where a folder holds the same model in several forms, the safe one is taken.
SUFFIXES = (".skops", ".joblib", ".pkl", ".pickle")
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
        thread pool costs milliseconds a call. ``options.trusted_types`` are types that a skops file may hold, beside
        those that skops itself knows to be harmless.
        """
        try:
            import joblib  # noqa: F401 - so that its absence is told now
            import sklearn
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        file = model_file(path, SUFFIXES)
        saved_by = ""
        if file.suffix == ".skops":
            estimator = self._load_skops(file, options.trusted_types)
        else:
            estimator, saved_by = _load_pickle(file)
        if isinstance(estimator, type) or not any(hasattr(estimator, m) for m in ("predict", *est.OTHERWISE)):
            raise LoadFailed(f"{file}: holds {_kind(estimator)}, which is not an estimator")
        try:
            servable = ScikitLearnServable(estimator, file, max(1, options.threads))
        except LoadFailed as error:
            if not saved_by:
                raise
            here = sklearn.__version__
            raise LoadFailed(
                f"{error}; it was saved by scikit-learn {saved_by}, and this is {here}: "
                f"install scikit-learn {saved_by}, or train and save the model again with {here}"
            ) from error
        servable.runtime = f"scikit-learn {sklearn.__version__}, {_kind(estimator)}"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable

    def _load_skops(self, file: Path, trusted: tuple[str, ...]) -> Any:
        try:
            import skops.io
        except ImportError as error:
            raise PlatformMissing(self.name, self.extra, one_line(error)) from error
        try:
            unknown = set(skops.io.get_untrusted_types(file=file)) - set(trusted)
            if not unknown:
                return skops.io.load(file, trusted=list(trusted))
        except Exception as error:  # a broken archive, or an estimator that this version does not know
            raise LoadFailed(f"{file}: {type(error).__name__}: {one_line(error)}") from error
        told = ",".join(sorted(unknown))
        raise LoadFailed(f"{file}: holds types that are not trusted: {told}; trust them with --trusted_types={told}")


class ScikitLearnServable(Servable):
    """A fitted estimator, which it owns and prepares: ``n_jobs`` set, names of features moved to the signature.

    Input ``data`` is float64 ``[None, n_features]`` where every column is numbers; strings ``[None]`` where documents
    are cut into words; else each column that is used is an input by its name, of strings or numbers. Outputs are
    ``predict``, ``predict_proba`` and ``predict_log_proba`` as far as the estimator has them; ``transform``, else
    ``decision_function``, where it has no ``predict``. With several targets the probabilities are one output a target,
    ``predict_proba_0`` and so on, because targets differ in their number of classes.
    """

    platform = ScikitLearnPlatform.name

    def __init__(self, estimator: Any, file: Path, n_jobs: int) -> None:
        try:
            choice = choose(estimator)
        except ValueError as error:
            raise LoadFailed(f"{file}: {_kind(estimator)} {error}") from error
        if choice.frames:
            _require_pandas(file)
        est.prepare(estimator, n_jobs, choice.frames)
        self._call = est.plan(estimator)
        outputs = self._probe(choice, _kind(estimator), file)
        self._inputs = choice.make(self._may_miss(choice))
        specs = self._inputs.specs
        self.signatures = {DEFAULT_SIGNATURE: Signature(DEFAULT_SIGNATURE, specs, outputs, can_batch(specs, outputs))}

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        return self._run(self._inputs, inputs)

    def _run(self, taken: Inputs, inputs: Mapping[str, Array]) -> Tensors:
        data = taken.build(inputs)
        try:
            # A logarithm of 0, a float64 that overflows float32: answers tell of them, the log need not.
            with np.errstate(all="ignore"):
                values = self._call(data)
        except ValueError as error:
            if len(inputs) > 1:
                raise InvalidRequest(one_line(error)) from error
            raise InvalidInput(next(iter(inputs)), one_line(error)) from error
        return {name: owned(_array(value), inputs.values()) for name, value in values.items()}

    def _probe(self, choice: Choice, kind: str, file: Path) -> tuple[TensorSpec, ...]:
        """Dtypes and shapes of the outputs, as seen on rows of no meaning: no attribute tells them for every kind."""
        try:
            # A warning about zeros (a log, an unknown category) says nothing about the requests to come.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outputs = self._run(choice.make(frozenset()), choice.rows(PROBE_ROWS))
        except Exception as error:
            reason = error.problem if isinstance(error, InvalidInput) else one_line(error)
            taken = ", ".join(f"{spec.name} {spec.dtype_name}" for spec in choice.make(frozenset()).specs[:20])
            raise LoadFailed(f"{file}: {kind} does not take what it was fitted on ({taken}): {reason}") from error
        return tuple(
            TensorSpec(
                name, array.dtype, tuple(None if i == 0 and d == PROBE_ROWS else d for i, d in enumerate(array.shape))
            )
            for name, array in outputs.items()
        )

    def _may_miss(self, choice: Choice) -> frozenset[str]:
        """The inputs whose values may be missing, as seen: of those that may, rows where they all are were answered."""
        proven: frozenset[str] = frozenset()
        for more in choice.tries:
            wanted = proven | more
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    self._run(choice.make(wanted), choice.rows(PROBE_ROWS, wanted))
            except Exception as error:  # whatever it raises, it does not take them
                logger.debug("missing values in %s: %s", ", ".join(sorted(wanted)), one_line(error))
            else:
                proven = wanted
        return proven


def _require_pandas(file: Path) -> None:
    try:
        import pandas  # noqa: F401 - so that its absence is told now
    except ImportError as error:
        raise LoadFailed(
            f"{file}: was fitted on a data frame whose columns it picks by name, which takes pandas: "
            f"run pip install pandas ({one_line(error)})"
        ) from error


def _load_pickle(file: Path) -> tuple[Any, str]:
    """What the file holds, and the version of scikit-learn that saved it, if it is another one."""
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
    return loaded, versions[0].original_sklearn_version if versions else ""


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
