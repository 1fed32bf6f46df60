"""The models that every server serves, the request that it is asked, and the answer that is right.

Made anew from fixed seeds into a folder, so nothing is downloaded. The right answer comes from the framework called
directly in this process. Must not live here: servers, load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
CLASSES = 1000
OPSET = 17


@dataclass(frozen=True)
class Work:
    """One model and one request for it.

    ``model`` is its file (``.onnx`` with input ``x`` and output ``y``, ``.joblib`` or ``.json``); ``rows`` float32,
    ``[1, ...]``, as the body's digits give them; ``expected`` the framework's own answer to ``rows``, ``[1, ...]``;
    ``output`` the name under which this server tells it, where it tells more than one.
    """

    name: str
    told: str
    model: Path
    rows: Array
    expected: Array
    output: str

    def body(self, form: str) -> bytes:
        """The request as JSON: ``instances`` (TensorFlow Serving's rows), ``v2`` (Open Inference Protocol) or ``x``.

        ``v2-wide`` is ``v2`` with rows of one value too many, which no model takes.
        """
        # Through float64 and rounded, so that the text has the four digits of the request and not float32's own.
        values = np.round(self.rows.astype(np.float64), 4)
        if form == "v2-wide":
            values = np.concatenate([values, values[..., :1]], axis=-1)
        if form in ("v2", "v2-wide"):
            tensor = {"name": "x", "shape": list(values.shape), "datatype": "FP32", "data": values.ravel().tolist()}
            told: Any = {"inputs": [tensor]}
        else:
            told = {form: values.tolist()}
        return json.dumps(told, separators=(",", ":")).encode()


def answer_of(body: bytes, output: str) -> Array:
    """The numbers of an answer in any of the forms that the peers give. Raises ``ValueError`` for anything else."""
    told = json.loads(body)
    if isinstance(told, dict) and "predictions" in told:
        told = told["predictions"]
    elif isinstance(told, dict) and "outputs" in told:
        tensors = {tensor["name"]: tensor for tensor in told["outputs"]}
        tensor = tensors.get(output) or (next(iter(tensors.values())) if len(tensors) == 1 else None)
        if tensor is None:
            raise ValueError(f"no output {output!r} among {', '.join(tensors)}")
        return np.reshape(np.array(tensor["data"], np.float64), tensor["shape"])
    if isinstance(told, list) and told and isinstance(told[0], dict):
        told = [row[output] for row in told]
    try:
        return np.array(told, np.float64)
    except TypeError as error:
        raise ValueError(f"no numbers in the answer {body[:100]!r}") from error


def is_right(body: bytes, work: Work) -> bool:
    """Whether an answer says what the framework says: as many numbers, each within 1e-4 (or 1e-4 of itself)."""
    try:
        got = answer_of(body, work.output)
    except (ValueError, KeyError):
        return False
    return got.size == work.expected.size and bool(
        np.allclose(got.ravel(), work.expected.ravel(), rtol=1e-4, atol=1e-4)
    )


def make(name: str, folder: Path) -> Work:
    """The work called ``name`` (a key of ``WORKS``), its model written into ``folder``."""
    return WORKS[name](folder)


def _digits(rows: Array) -> Array:
    return np.round(rows.astype(np.float64), 4).astype(np.float32)


def _onnx(name: str, told: str, folder: Path, nodes: list[Any], weights: dict[str, Array], shape: list[int]) -> Work:
    """``weights`` float32; ``nodes`` lead from ``x`` ``["n", *shape]`` to ``y``."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", kind, ["n", *shape])],
        [helper.make_tensor_value_info("y", kind, ["n", shape[0] if name == "identity" else _width(weights)])],
        [numpy_helper.from_array(array, key) for key, array in weights.items()],
    )
    # The IR version of the oldest onnxruntime that the peers are pinned to.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    rows = _digits(np.random.default_rng(1).random((1, *shape)))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return Work(name, told, path, rows, session.run(None, {"x": rows})[0], "y")


def _width(weights: dict[str, Array]) -> int:
    return int(list(weights.values())[-1].shape[0])


def identity(folder: Path) -> Work:
    from onnx import helper

    node = helper.make_node("Identity", ["x"], ["y"])
    return _onnx("identity", "identity, ONNX, [n, 4]", folder, [node], {}, [4])


def mlp(folder: Path) -> Work:
    from onnx import helper

    random = np.random.default_rng(0)
    sizes = [784, 512, 512, 10]
    nodes, weights, at = [], {}, "x"
    for layer, (inner, outer) in enumerate(pairwise(sizes)):
        weights[f"w{layer}"] = (random.standard_normal((inner, outer)) / np.sqrt(inner)).astype(np.float32)
        weights[f"b{layer}"] = random.standard_normal(outer).astype(np.float32) / 10
        last = layer == len(sizes) - 2
        to = "y" if last else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [at, f"w{layer}", f"b{layer}"], [to]))
        if not last:
            nodes.append(helper.make_node("Relu", [to], [f"r{layer}"]))
            at = f"r{layer}"
    return _onnx("mlp", "MLP 784-512-512-10, ONNX", folder, nodes, weights, [784])


def resnet(folder: Path) -> Work:
    """ResNet-18's graph (He et al. 2015, table 1) with batch normalisation folded away and random weights."""
    from onnx import helper

    random = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: dict[str, Array] = {}

    def convolution(at: str, to: str, inner: int, outer: int, size: int, stride: int) -> str:
        scale = np.sqrt(1 / (inner * size * size))
        weights[f"w_{to}"] = (random.standard_normal((outer, inner, size, size)) * scale).astype(np.float32)
        pads = [size // 2] * 4
        nodes.append(helper.make_node("Conv", [at, f"w_{to}"], [to], strides=[stride] * 2, pads=pads))
        return to

    def relu(at: str) -> str:
        nodes.append(helper.make_node("Relu", [at], [f"{at}_r"]))
        return f"{at}_r"

    at = relu(convolution("x", "stem", 3, 64, 7, 2))
    nodes.append(helper.make_node("MaxPool", [at], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]))
    at, inner = "pool", 64
    for block, (outer, stride) in enumerate(
        [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
    ):
        side = at if stride == 1 and inner == outer else convolution(at, f"side{block}", inner, outer, 1, stride)
        first = relu(convolution(at, f"a{block}", inner, outer, 3, stride))
        second = convolution(first, f"b{block}", outer, outer, 3, 1)
        nodes.append(helper.make_node("Add", [second, side], [f"sum{block}"]))
        at, inner = relu(f"sum{block}"), outer
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"]))
    weights["w_out"] = (random.standard_normal((512, CLASSES)) / np.sqrt(512)).astype(np.float32)
    weights["b_out"] = np.zeros(CLASSES, np.float32)
    nodes.append(helper.make_node("Gemm", ["flat", "w_out", "b_out"], ["y"]))
    return _onnx("resnet", "ResNet-18, ONNX, 3x224x224", folder, nodes, weights, [3, 224, 224])


def forest(folder: Path) -> Work:
    import joblib
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    flowers, kinds = load_iris(return_X_y=True)
    estimator = RandomForestClassifier(100, random_state=0).fit(flowers, kinds)
    path = folder / "forest.joblib"
    joblib.dump(estimator, path)
    rows = _digits(flowers[50:51])
    told = "random forest, 100 trees on iris, scikit-learn"
    return Work("forest", told, path, rows, estimator.predict_proba(rows), "predict_proba")


def boosted(folder: Path) -> Work:
    import xgboost

    random = np.random.default_rng(0)
    x = random.random((2000, 30), dtype=np.float32)
    settings = {"max_depth": 6, "objective": "binary:logistic", "nthread": 1, "seed": 0}
    booster = xgboost.train(settings, xgboost.DMatrix(x, (x.sum(1) > 15).astype(int)), 100)
    path = folder / "boosted.json"
    booster.save_model(path)
    rows = _digits(x[:1])
    told = "XGBoost, 100 trees on 30 numbers"
    return Work("boosted", told, path, rows, booster.predict(xgboost.DMatrix(rows)), "predict")


WORKS: dict[str, Callable[[Path], Work]] = {
    "identity": identity,
    "mlp": mlp,
    "resnet": resnet,
    "forest": forest,
    "boosted": boosted,
}
