"""The model, for every peer whose model code is the user's: so only the server differs. Runs in the peer's interpreter.

``load(path)`` gives a function of a float32 array ``[rows, ...]``, told by the file's name as the works are: ``.onnx``,
``.joblib`` (class probabilities) or ``.json`` (XGBoost). One thread, as everything here has one core. What the peer's
own server does must not live here.
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

PATH = os.environ.get("BENCH_MODEL", "")
PORT = int(os.environ.get("BENCH_PORT", "0"))
MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "32"))
BATCH_WAIT_S = float(os.environ.get("BENCH_BATCH_WAIT_S", "0.002"))
BATCHING = os.environ.get("BENCH_BATCHING", "off") == "on"


def load(path: str) -> Callable[[Any], Any]:
    if path.endswith(".onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"x": x})[0]
    if path.endswith(".joblib"):
        import joblib

        forest = joblib.load(path)
        return lambda x: forest.predict_proba(x)
    if path.endswith(".json"):
        import xgboost

        booster = xgboost.Booster({"nthread": 1})
        booster.load_model(path)
        return lambda x: booster.inplace_predict(x)
    raise ValueError(f"{path}: expected a model that ends in .onnx, .joblib or .json")


def floats(values: Any) -> Any:
    return np.asarray(values, np.float32)
