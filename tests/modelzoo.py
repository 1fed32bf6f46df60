"""Small real models for tests. Each function writes one into a folder and returns the path to serve.

Weights come from fixed seeds, so that a test may compute the reference answer with the framework itself, from the same
file. No function here uses stfs. Frameworks are imported where they are used: TensorFlow takes seconds.
"""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np

SHARED_MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"


# --- ONNX -----------------------------------------------------------------------------------------------------------


def _save_onnx(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> Path:
    import onnx

    graph = onnx.helper.make_graph(
        nodes, "zoo", inputs, outputs, [onnx.numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()]
    )
    # An IR version and an opset that onnxruntime has known for years.
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def _node(*args: Any, **kwargs: Any) -> Any:
    import onnx

    return onnx.helper.make_node(*args, **kwargs)


def _value(name: str, kind: str, shape: list[Any] | None) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, kind), shape)


def _mlp_nodes() -> list[Any]:
    return [
        _node("Gemm", ["x", "w1", "b1"], ["h"]),
        _node("Relu", ["h"], ["r"]),
        _node("Gemm", ["r", "w2", "b2"], ["logits"]),
        _node("Softmax", ["logits"], ["probabilities"], axis=-1),
        _node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]


def _mlp_weights(features: int, hidden: int, classes: int) -> dict[str, Any]:
    random = np.random.default_rng(7)
    return {
        "w1": random.normal(0, 0.5, (features, hidden)).astype("float32"),
        "b1": random.normal(0, 0.5, hidden).astype("float32"),
        "w2": random.normal(0, 0.5, (hidden, classes)).astype("float32"),
        "b2": random.normal(0, 0.5, classes).astype("float32"),
    }


def onnx_mlp(folder: Path, features: int = 4, hidden: int = 16, classes: int = 3) -> Path:
    """``x`` float32 [?, features] -> ``probabilities`` float32 [?, classes], ``label`` int64 [?]."""
    return _save_onnx(
        folder / "model.onnx",
        _mlp_nodes(),
        [_value("x", "FLOAT", ["rows", features])],
        [_value("probabilities", "FLOAT", ["rows", classes]), _value("label", "INT64", ["rows"])],
        _mlp_weights(features, hidden, classes),
    )


def onnx_fixed_batch(folder: Path) -> Path:
    """``x`` float32 [1, 2, 3] -> ``probabilities`` float32 [1, 3]: a batch of one, and a reshape that says so too."""
    nodes = [_node("Reshape", ["image", "flat"], ["x"]), *_mlp_nodes()[:-1]]
    return _save_onnx(
        folder / "model.onnx",
        nodes,
        [_value("image", "FLOAT", [1, 2, 3])],
        [_value("probabilities", "FLOAT", [1, 3])],
        _mlp_weights(6, 8, 3) | {"flat": np.array([1, 6], "int64")},
    )


def onnx_rows_mixed(folder: Path) -> Path:
    """``x`` float32 [1, 4] -> ``y`` float32 [1, 4], less the mean over *all* elements: rows are not independent."""
    nodes = [
        _node("ReduceMean", ["x"], ["mean"], axes=[0, 1], keepdims=1),
        _node("Sub", ["x", "mean"], ["y"]),
    ]
    return _save_onnx(folder / "model.onnx", nodes, [_value("x", "FLOAT", [1, 4])], [_value("y", "FLOAT", [1, 4])], {})


def onnx_strings(folder: Path) -> Path:
    """``text`` string [?] -> ``same`` string [?], ``id`` int64 [?]: yes is 1, oui is 2, anything else -1."""
    table = {"keys_strings": ["yes", "oui"], "values_int64s": [1, 2], "default_int64": -1}
    return _save_onnx(
        folder / "model.onnx",
        [
            _node("Identity", ["text"], ["same"]),
            _node("LabelEncoder", ["text"], ["id"], domain="ai.onnx.ml", **table),
        ],
        [_value("text", "STRING", ["rows"])],
        [_value("same", "STRING", ["rows"]), _value("id", "INT64", ["rows"])],
        {},
    )


def onnx_several_inputs(folder: Path) -> Path:
    """``ids`` int64 [?], ``scale`` float16 [?, 2], ``flip`` bool [?, 2] -> ``rows`` float16 [?, 2], ``echo`` int64 [?].

    ``rows`` is a table of three rows, looked up, scaled, and negated where ``flip`` is true.
    """
    return _save_onnx(
        folder / "model.onnx",
        [
            _node("Gather", ["table", "ids"], ["found"]),
            _node("Mul", ["found", "scale"], ["scaled"]),
            _node("Neg", ["scaled"], ["negative"]),
            _node("Where", ["flip", "negative", "scaled"], ["rows"]),
            _node("Identity", ["ids"], ["echo"]),
        ],
        [_value("ids", "INT64", ["n"]), _value("scale", "FLOAT16", ["n", 2]), _value("flip", "BOOL", ["n", 2])],
        [_value("rows", "FLOAT16", ["n", 2]), _value("echo", "INT64", ["n"])],
        {"table": np.array([[1, 2], [3, 4], [5, 6]], "float16")},
    )


def onnx_zip_map(folder: Path, text_labels: bool = False) -> Path:
    """Logistic regression on iris as old converters wrote it: probabilities as one map a row."""
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.linear_model import LogisticRegression

    x, y, names = iris()
    model = LogisticRegression(max_iter=500).fit(x, names[y] if text_labels else y)
    converted = skl2onnx.convert_sklearn(
        model,
        initial_types=[("x", FloatTensorType([None, 4]))],
        options={id(model): {"zipmap": True}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(converted.SerializeToString())
    return path


# --- scikit-learn ---------------------------------------------------------------------------------------------------


@functools.cache
def iris() -> tuple[Any, Any, Any]:
    """Features float64 [150, 4], classes int64 [150], and the classes' names."""
    from sklearn.datasets import load_iris

    data = load_iris()
    return data.data, data.target, data.target_names


@functools.cache
def digits() -> tuple[Any, Any]:
    """Features float64 [1797, 64], classes int64 [1797]."""
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def save_estimator(estimator: Any, folder: Path, suffix: str = ".joblib") -> Path:
    """Any fitted estimator as ``model.joblib``, ``model.pkl`` or ``model.skops``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"model{suffix}"
    if suffix == ".joblib":
        import joblib

        joblib.dump(estimator, path)
    elif suffix == ".skops":
        import skops.io

        skops.io.dump(estimator, path)
    else:
        with path.open("wb") as file:
            pickle.dump(estimator, file)
    return path


def sklearn_forest(folder: Path, suffix: str = ".joblib", trees: int = 20) -> Path:
    """RandomForestClassifier on digits: ``data`` float64 [?, 64], ten classes, int64."""
    from sklearn.ensemble import RandomForestClassifier

    return save_estimator(RandomForestClassifier(trees, random_state=0).fit(*digits()), folder, suffix)


def sklearn_logistic(folder: Path, suffix: str = ".joblib") -> Path:
    """LogisticRegression on iris: ``data`` float64 [?, 4], three classes, int64."""
    from sklearn.linear_model import LogisticRegression

    x, y, _ = iris()
    return save_estimator(LogisticRegression(max_iter=500).fit(x, y), folder, suffix)


def sklearn_regressor(folder: Path, suffix: str = ".joblib") -> Path:
    """RandomForestRegressor of the last iris column from the first three: ``data`` float64 [?, 3], float64 out."""
    from sklearn.ensemble import RandomForestRegressor

    x, _, _ = iris()
    return save_estimator(RandomForestRegressor(10, random_state=0).fit(x[:, :3], x[:, 3]), folder, suffix)


def sklearn_pipeline(folder: Path, suffix: str = ".joblib") -> Path:
    """Scaler, selection and forest on iris, with the species' names as classes (strings out)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_selection import SelectKBest, f_classif
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    x, y, names = iris()
    steps = [
        ("scale", StandardScaler()),
        ("select", SelectKBest(f_classif, k=3)),
        ("forest", RandomForestClassifier(10, random_state=0)),
    ]
    return save_estimator(Pipeline(steps).fit(x, names[y]), folder, suffix)


# --- TensorFlow -----------------------------------------------------------------------------------------------------


def keras_export(folder: Path, features: int = 9) -> Path:
    """Keras 3 ``model.export`` of an MLP: one input float32 [?, features], one output float32 [?, 2]."""
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((features,), name="features"),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.export(str(folder), verbose=False)
    return folder


def tf1_export(folder: Path, tags: tuple[tuple[str, ...], ...] = (("serve",),), device: str | None = None) -> Path:
    """A TF1 export with four signatures, a variable and a lookup table.

    - ``serving_default``: ``keys`` int32 [?, 1], ``x`` float32 [?, 2] -> ``keys`` (the fed tensor itself), ``same``
      (an identity of x), ``y`` = x * [2, 3] + 1, ``weights`` float32 [2] (the variable: no rows)
    - ``text``: ``words`` string [?] -> ``upper`` string [?], ``ids`` int64 [?] by a table of yes, no (unknown: -1)
    - ``sparse``: ``x`` float32 [?, 2] -> sparse ``nonzero``
    - ``parse``: ``numbers`` string [?] -> ``y`` float32 [?]; fails on what is no number
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        keys = v1.placeholder(tf.int32, [None, 1], name="keys")
        words = v1.placeholder(tf.string, [None], name="words")
        weights = v1.get_variable("weights", initializer=[2.0, 3.0])
        y = x * weights + 1.0
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(["yes", "no"], [1, 0], tf.string, tf.int64), -1
        )
        ids = table.lookup(words)
        build = v1.saved_model.build_signature_def
        info = v1.saved_model.build_tensor_info
        signatures = {
            "serving_default": build(
                {"keys": info(keys), "x": info(x)},
                {"keys": info(keys), "same": info(tf.identity(x)), "y": info(y), "weights": info(tf.identity(weights))},
            ),
            "text": build({"words": info(words)}, {"upper": info(tf.strings.upper(words)), "ids": info(ids)}),
            "sparse": build({"x": info(x)}, {"nonzero": info(tf.sparse.from_dense(x))}),
            "parse": build({"numbers": info(words)}, {"y": info(tf.strings.to_number(words))}),
        }
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(folder))
        for i, tag_set in enumerate(tags):
            if i == 0:
                builder.add_meta_graph_and_variables(
                    session, list(tag_set), signatures, main_op=v1.tables_initializer()
                )
            else:
                builder.add_meta_graph(list(tag_set), signatures)
        builder.save()
    if device is not None:
        _place(folder / "saved_model.pb", device)
    return folder


def _place(file: Path, device: str) -> None:
    """Every node of a saved model on one device, as a cluster's exporter writes it."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        for node in meta_graph.graph_def.node:
            node.device = device
    file.write_bytes(saved.SerializeToString())
