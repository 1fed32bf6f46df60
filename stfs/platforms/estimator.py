"""What to call on a scikit-learn estimator, each piece of work once. Knows no files, no signatures.

``predict``, ``predict_proba`` and ``predict_log_proba`` of a forest are one pass over the trees, done three times by
whoever calls all three; so are the transforms of a pipeline. Here they are done once, with the same answers, bit for
bit. Whatever is not known to be safe to share is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from stfs.platforms.forest import quick
from stfs.signature import Array

METHODS = ("predict", "predict_proba", "predict_log_proba")
OTHERWISE = ("transform", "decision_function")

Values = dict[str, Any]


def parts(estimator: Any) -> Iterator[Any]:
    """The estimator and every fitted or unfitted one inside it: steps, columns, members of ensembles."""
    seen: set[int] = set()
    waiting: list[Any] = [estimator]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, list | tuple | set):
            waiting.extend(thing)
        elif isinstance(thing, dict):
            waiting.extend(thing.values())
        elif isinstance(thing, np.ndarray):
            waiting.extend(thing.ravel().tolist() if thing.dtype == object else ())
        elif hasattr(thing, "get_params") and not isinstance(thing, type):
            yield thing
            waiting.extend(vars(thing).values())


def prepare(estimator: Any, n_jobs: int, frames: bool = False) -> tuple[str, ...]:
    """Make a fitted estimator fit for serving, in place; return the names of its features, if it knows them.

    ``n_jobs`` is set wherever there is one. Unless it will be given ``frames``, those between steps become plain
    arrays, and names of features are taken away: they serve only to warn, at every request, that an array has none.
    """
    names = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
    for part in parts(estimator):
        state = vars(part)
        if "n_jobs" in state:
            part.n_jobs = n_jobs
        if frames:
            continue
        if "_sklearn_output_config" in state:
            state["_sklearn_output_config"] = {}
        state.pop("feature_names_in_", None)
    return names


def plan(estimator: Any) -> Callable[[Any], Values]:
    """A function from rows, as the estimator takes them, to every output of the estimator, by name.

    It may be called on many threads at once, and raises what scikit-learn raises: ``ValueError`` for values that the
    estimator does not take. Floating-point warnings, as of the logarithm of 0, are the caller's to silence.
    """
    from sklearn.pipeline import Pipeline

    if type(estimator) is Pipeline:
        *before, last = (step for _, step in estimator.steps)
        if hasattr(last, "predict"):
            finish = plan(last)
            transforms = [step.transform for step in before if step not in (None, "passthrough")]

            def through(data: Any) -> Values:
                for transform in transforms:
                    data = transform(data)
                return finish(data)

            return through
    if shared := _shared(estimator):
        return shared
    wanted = METHODS if hasattr(estimator, "predict") else OTHERWISE
    methods = {name: getattr(estimator, name) for name in wanted if hasattr(estimator, name)}
    if wanted is OTHERWISE:
        methods = dict(list(methods.items())[:1])
    logs = _logs_of_its_probabilities(estimator)
    if logs:
        del methods["predict_log_proba"]

    def each(data: Any) -> Values:
        values = _by_target({name: method(data) for name, method in methods.items()})
        if logs:
            values["predict_log_proba"] = np.log(values["predict_proba"])
        return values

    return each


def _logs_of_its_probabilities(estimator: Any) -> bool:
    """Whether its class makes ``predict_log_proba`` by computing ``predict_proba`` and taking the logarithm."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier

    own = getattr(type(estimator), "predict_log_proba", None)
    return any(own is known.predict_log_proba for known in (LogisticRegression, MLPClassifier))


def _shared(estimator: Any) -> Callable[[Array], Values] | None:
    """One pass for all three answers, where the class derives them from ``predict_proba`` alone."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.tree import DecisionTreeClassifier

    kind = type(estimator)
    if getattr(kind, "predict", None) is RandomForestRegressor.predict:
        mean = quick(estimator, "predict")
        return None if mean is None else lambda data: {"predict": mean(data)}
    if not any(
        all(getattr(kind, name, None) is getattr(known, name) for name in METHODS)
        for known in (RandomForestClassifier, DecisionTreeClassifier)
    ):
        return None
    if estimator.n_outputs_ > 1:
        return lambda data: _by_target(_many(estimator, estimator.predict_proba(data)))
    classes = estimator.classes_
    is_forest = kind.predict is RandomForestClassifier.predict
    probabilities = (quick(estimator, "predict_proba") if is_forest else None) or estimator.predict_proba

    def one(data: Array) -> Values:
        proba = probabilities(data)
        return {
            "predict": classes.take(np.argmax(proba, axis=1), axis=0),
            "predict_proba": proba,
            "predict_log_proba": np.log(proba),
        }

    return one


def _many(estimator: Any, probas: list[Array]) -> Values:
    chosen = [classes.take(np.argmax(p, axis=1)) for classes, p in zip(estimator.classes_, probas, strict=True)]
    return {
        "predict": np.stack(chosen, axis=1),
        "predict_proba": probas,
        "predict_log_proba": [np.log(p) for p in probas],
    }


def _by_target(values: Values) -> Values:
    """Lists, which multi-target classifiers return, as one value a target."""
    flat: Values = {}
    for name, value in values.items():
        if isinstance(value, list):
            flat |= {f"{name}_{i}": each for i, each in enumerate(value)}
        else:
            flat[name] = value
    return flat
