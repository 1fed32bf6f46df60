"""Models that ask their framework for more memory than any machine has once a batch is over a number of rows.

Each is ``y = 2 x`` over float32 ``x`` [n, 3]. The allocation is real, and so is what the framework raises.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

MOST_ROWS = 16
"""More rows do not fit."""
TOO_MANY = 1 << 46
"""Elements: 256 TiB of float32."""


def write_onnx(folder: Path, most_rows: int = MOST_ROWS, elements: int = TOO_MANY) -> Path:
    """Expands one element to ``elements`` where a batch has more than ``most_rows``."""
    from onnx import TensorProto, helper, numpy_helper
    from simple_models import save

    def constant(name, values):
        return numpy_helper.from_array(np.array(values), name)

    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Greater", ["rows", "most"], ["over"]),
        helper.make_node("Where", ["over", "many", "one"], ["size"]),
        helper.make_node("Expand", ["nothing", "size"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["x", "two"], ["doubled"]),
        helper.make_node("Add", ["doubled", "largest"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "memory",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [
            constant("most", [most_rows]),
            constant("many", [elements]),
            constant("one", [1]),
            constant("nothing", np.zeros(1, np.float32)),
            constant("two", np.float32(2)),
        ],
    )
    return save(graph, folder)


def write_torchscript(folder: Path) -> Path:
    import torch

    class Large(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            n = 1
            if x.size(0) > 16:
                n = 70368744177664
            return x * 2 + torch.zeros(n).max()

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.pt"
    torch.jit.script(Large()).save(str(path))
    signature = {"inputs": [{"name": "x", "shape": [None, 3]}], "outputs": [{"name": "y", "shape": [None, 3]}]}
    (folder / "model-signature.json").write_text(json.dumps(signature))
    return path


def write_saved_model(folder: Path) -> Path:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def large(x):
        size = tf.where(tf.shape(x, tf.int64)[0] > MOST_ROWS, tf.constant(TOO_MANY, tf.int64), 1)
        return {"y": x * 2 + tf.reduce_max(tf.fill([size], 0.0))}

    module = tf.Module()
    module.large = large
    tf.saved_model.save(module, str(folder), signatures=large)
    return folder


class Hungry(RegressorMixin, BaseEstimator):
    """An estimator; pickled by tests, imported by the server under test."""

    def fit(self, x, y=None):
        self.n_features_in_ = np.asarray(x).shape[1]
        return self

    def predict(self, x):
        np.zeros(TOO_MANY if len(x) > MOST_ROWS else 1)
        return 2 * np.asarray(x)


def write_estimator(folder: Path) -> Path:
    import joblib

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.joblib"
    joblib.dump(Hungry().fit(np.zeros((1, 3))), path)
    return path
