"""Estimators that misbehave in chosen ways. Pickled by tests, imported by the server under test (see ``running``)."""

from __future__ import annotations

import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

MOST_HANG_S = 300.0


class Odd(RegressorMixin, BaseEstimator):
    """Doubles its one feature, unless the value asks for trouble."""

    RAISE, WRONG_ROWS, EXIT, HANG = -1.0, -2.0, -3.0, -4.0

    def __init__(self, sleep_s: float = 0.0, version: float = 0.0, hold: str = ""):
        self.sleep_s = sleep_s
        self.version = version
        self.hold = hold  # a file; the value HANG hangs for as long as it is there

    def fit(self, x, y=None):
        self.n_features_in_ = np.asarray(x).shape[1]
        return self

    def predict(self, x):
        x = np.asarray(x)
        if (np.abs(np.nan_to_num(x)) >= 1).any():  # loading, warming up and timing send less, and missing values
            time.sleep(self.sleep_s)
        if (x == self.RAISE).any():
            raise RuntimeError("the value -1 is cursed")
        if (x == self.WRONG_ROWS).any():
            return np.zeros(len(x) + 1)
        if (x == self.EXIT).any():
            raise SystemExit(3)
        if (x == self.HANG).any():
            end_s = time.monotonic() + MOST_HANG_S
            while Path(self.hold).exists() and time.monotonic() < end_s:
                time.sleep(0.01)
        return 2 * x[:, 0] + self.version


def write_odd(folder: Path, **settings: float | str) -> Path:
    """An :class:`Odd` as a joblib file in ``folder``; the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.joblib"
    joblib.dump(Odd(**settings).fit([[0.0]]), path)
    return path
