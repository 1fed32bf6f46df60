"""What the served models and transformers of Spark MLlib compute, in numpy, as Spark's own code defines it.

Each ``read_*`` takes a stage from :mod:`stfs.platforms.spark_files` and gives a function of float64 ``[rows, n]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfs.platforms.spark_files import Stage, matrix, number, read_row, vector
from stfs.signature import Array, Tensors

PREDICTION = "prediction"
EPSILON = 1e-16
"""How near to 0 a mean of a generalized linear model may come, and a probability to 0 or 1."""

Transform = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Predictor:
    """The last stage: ``predict`` takes ``[rows, features]`` and gives columns ``[rows]``, called ``names``."""

    features: int
    names: tuple[str, ...]
    predict: Callable[[Array], Tensors]


@dataclass(frozen=True, slots=True)
class Transformer:
    """A stage before it, from ``features`` columns to as many; ``None`` if it takes any number."""

    features: int | None
    transform: Transform


def read_logistic(stage: Stage) -> Predictor:
    """LogisticRegressionModel, binomial and multinomial, with ``threshold`` or ``thresholds``."""
    row = read_row(stage)
    if "coefficientMatrix" in row:
        weights, bias = matrix(stage, row, "coefficientMatrix"), vector(stage, row, "interceptVector")
        multinomial = bool(row["isMultinomial"])
    else:  # before Spark 2.1
        weights, bias = vector(stage, row, "coefficients")[None, :], np.array([number(stage, row, "intercept")])
        multinomial = False
    classes = int(number(stage, row, "numClasses"))
    if len(weights) != (classes if multinomial else 1) or len(bias) != len(weights):
        raise stage.refuse(f"its data has {len(weights)} lines of coefficients for {classes} classes")
    thresholds = stage.parameters.get("thresholds")
    if thresholds is not None and len(thresholds) != classes:
        raise stage.refuse(f"{len(thresholds)} thresholds for {classes} classes")
    threshold = _binary_threshold(stage, thresholds)
    shares = tuple(f"probability_of_{i}" for i in range(classes))

    def predict(x: Array) -> Tensors:
        margins = x @ weights.T + bias
        if multinomial:
            margins -= margins.max(axis=1, keepdims=True)
            probability = np.exp(margins)
            probability /= probability.sum(axis=1, keepdims=True)
            prediction = _scaled(probability, thresholds).argmax(axis=1)
        else:
            one = _sigmoid(margins[:, 0])
            probability = np.stack([1.0 - one, one], axis=1)
            prediction = one > threshold
        columns = dict(zip(shares, np.ascontiguousarray(probability.T), strict=True))
        return {PREDICTION: prediction.astype(np.float64), **columns}

    return Predictor(weights.shape[1], (PREDICTION, *shares), predict)


def read_linear(stage: Stage) -> Predictor:
    """LinearRegressionModel."""
    row = read_row(stage)
    weights, bias = vector(stage, row, "coefficients"), number(stage, row, "intercept")
    return Predictor(len(weights), (PREDICTION,), lambda x: {PREDICTION: x @ weights + bias})


def read_svc(stage: Stage) -> Predictor:
    """LinearSVCModel: the raw prediction of class 1 is its distance from the plane, of class 0 the opposite."""
    row = read_row(stage)
    weights, bias = vector(stage, row, "coefficients"), number(stage, row, "intercept")
    threshold = float(stage.parameters.get("threshold", 0.0))
    names = (PREDICTION, "raw_prediction_of_0", "raw_prediction_of_1")

    def predict(x: Array) -> Tensors:
        margin = x @ weights + bias
        return dict(zip(names, ((margin > threshold).astype(np.float64), -margin, margin), strict=True))

    return Predictor(len(weights), names, predict)


def read_generalized(stage: Stage) -> Predictor:
    """GeneralizedLinearRegressionModel: the mean, which is the inverse of the link at the linear predictor."""
    row = read_row(stage)
    weights, bias = vector(stage, row, "coefficients"), number(stage, row, "intercept")
    if stage.parameters.get("offsetCol"):
        raise stage.refuse("it was trained with an offset column, which cannot be served")
    unlink, project = _family(stage)
    return Predictor(len(weights), (PREDICTION,), lambda x: {PREDICTION: project(unlink(x @ weights + bias))})


def read_standard_scaler(stage: Stage) -> Transformer:
    """StandardScalerModel: a column that does not vary becomes 0."""
    row = read_row(stage)
    mean, std = vector(stage, row, "mean"), vector(stage, row, "std")
    shift = mean if stage.parameters.get("withMean", False) else np.zeros_like(mean)
    factor = np.ones_like(std)
    if stage.parameters.get("withStd", True):
        factor = np.divide(1.0, std, out=np.zeros_like(std), where=std != 0)
    return Transformer(len(mean), lambda x: (x - shift) * factor)


def read_min_max_scaler(stage: Stage) -> Transformer:
    """MinMaxScalerModel: a column that did not vary becomes the middle of the range."""
    row = read_row(stage)
    least, most = vector(stage, row, "originalMin"), vector(stage, row, "originalMax")
    low, high = float(stage.parameters.get("min", 0.0)), float(stage.parameters.get("max", 1.0))
    varies = most != least
    span = np.where(varies, most - least, 1.0)
    return Transformer(len(least), lambda x: np.where(varies, (x - least) / span, 0.5) * (high - low) + low)


def read_max_abs_scaler(stage: Stage) -> Transformer:
    """MaxAbsScalerModel."""
    most = vector(stage, read_row(stage), "maxAbs")
    most = np.where(most == 0, 1.0, most)
    return Transformer(len(most), lambda x: x / most)


def read_normalizer(stage: Stage) -> Transformer:
    """Normalizer: each row by its p-norm; a row of zeros stays."""
    p = float(stage.parameters.get("p", 2.0))

    def transform(x: Array) -> Array:
        norm = np.linalg.norm(x, ord=p, axis=1, keepdims=True)
        return x / np.where(norm == 0, 1.0, norm)

    return Transformer(None, transform)


PREDICTORS: Mapping[str, Callable[[Stage], Predictor]] = {
    "classification.LogisticRegressionModel": read_logistic,
    "classification.LinearSVCModel": read_svc,
    "regression.LinearRegressionModel": read_linear,
    "regression.GeneralizedLinearRegressionModel": read_generalized,
}
TRANSFORMERS: Mapping[str, Callable[[Stage], Transformer]] = {
    "feature.StandardScalerModel": read_standard_scaler,
    "feature.MinMaxScalerModel": read_min_max_scaler,
    "feature.MaxAbsScalerModel": read_max_abs_scaler,
    "feature.Normalizer": read_normalizer,
}


def _binary_threshold(stage: Stage, thresholds: Any) -> float:
    """Two thresholds say the same as one: see ``HasThreshold`` and ``HasThresholds`` in Spark."""
    if thresholds is not None and len(thresholds) == 2:
        return 1.0 / (1.0 + thresholds[0] / thresholds[1]) if thresholds[1] else 0.0
    return float(stage.parameters.get("threshold", 0.5))


def _scaled(probability: Array, thresholds: Any) -> Array:
    """Each class's probability over its threshold; a threshold of 0 makes what is possible at all certain."""
    if thresholds is None:
        return probability
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = probability / np.array(thresholds, dtype=np.float64)
    return np.where(np.isnan(scaled), -np.inf, scaled)


def _sigmoid(x: Array) -> Array:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _family(stage: Stage) -> tuple[Transform, Transform]:
    """The inverse of the link, and what keeps a mean among those that the family knows."""
    family = str(stage.parameters.get("family", "gaussian")).lower()
    canonical = {"gaussian": "identity", "binomial": "logit", "poisson": "log", "gamma": "inverse"}
    if family == "tweedie":
        variance = float(stage.parameters.get("variancePower", 0.0))
        unlink = _power(float(stage.parameters.get("linkPower", 1.0 - variance)))
        return unlink, _any if variance == 0.0 else _positive
    link = str(stage.parameters.get("link", canonical.get(family, ""))).lower()
    if family not in canonical or link not in UNLINK:
        raise stage.refuse(f'family "{family}" with link "{link}" is not known here')
    return UNLINK[link], {"gaussian": _any, "binomial": _share}.get(family, _positive)


def _power(power: float) -> Transform:
    named = {0.0: "log", 1.0: "identity", -1.0: "inverse", 0.5: "sqrt"}
    return UNLINK[named[power]] if power in named else lambda eta: eta ** (1.0 / power)


def _probit(eta: Array) -> Array:
    return np.array([0.5 * math.erfc(-each / math.sqrt(2.0)) for each in eta.tolist()], dtype=np.float64)


UNLINK: Mapping[str, Transform] = {
    "identity": lambda eta: eta,
    "log": np.exp,
    "logit": _sigmoid,
    "probit": _probit,
    "cloglog": lambda eta: -np.expm1(-np.exp(eta)),
    "inverse": lambda eta: 1.0 / eta,
    "sqrt": lambda eta: eta * eta,
}
MOST = np.finfo(np.float64).max


def _any(mean: Array) -> Array:
    return np.where(np.isinf(mean), np.copysign(MOST, mean), mean)


def _share(mean: Array) -> Array:
    return np.clip(mean, EPSILON, 1.0 - EPSILON)


def _positive(mean: Array) -> Array:
    return np.where(mean < EPSILON, EPSILON, np.where(np.isinf(mean), MOST, mean))
