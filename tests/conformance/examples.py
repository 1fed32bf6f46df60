"""One real model for each platform, with inputs and the answers that its framework gives when it is called directly.

Each ``write_*`` runs in a process of its own (``python -m conformance.make``), so that the reference shares nothing
with the server: it writes the model into a folder and returns the inputs and the answers. None of them uses stfs. Where
a framework is not what answers (a converted Caffe2 net, a PMML tree), the reference is arithmetic written out here, or
outputs that were recorded, with their source.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modelzoo
import numpy as np

SHARED_MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
ROWS = 48

Arrays = dict[str, Any]
Tensor = tuple[str, str, tuple[int | None, ...]]
"""Name, dtype and shape, as the signature must tell them."""


@dataclass(frozen=True)
class Example:
    """A model and what is to be known of it.

    ``write(folder)`` puts the model there and returns its inputs and the expected outputs, row for row. ``file`` is
    what is damaged to see a load fail. ``cycles`` is how often it is loaded to see its memory freed. ``needs`` are
    modules that only the making needs.
    """

    platform: str
    write: Callable[[Path], tuple[Arrays, Arrays]]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    file: str
    tolerance: float = 1e-5
    shared: str = ""
    cycles: int = 200
    needs: tuple[str, ...] = ()


def _iris() -> tuple[Any, Any]:
    x, y, _ = modelzoo.iris()
    chosen = np.random.default_rng(0).permutation(len(x))[:ROWS]
    return x[chosen], y[chosen]


# --- networks ---------------------------------------------------------------------------------------------------------


def write_onnx(folder: Path) -> tuple[Arrays, Arrays]:
    import onnxruntime

    file = modelzoo.onnx_mlp(folder)
    x = np.random.default_rng(1).normal(size=(ROWS, 4)).astype("float32")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return {"x": x}, dict(zip(names, session.run(None, {"x": x}), strict=True))


def write_tensorflow(folder: Path) -> tuple[Arrays, Arrays]:
    import tensorflow

    modelzoo.keras_export(folder)
    x = np.random.default_rng(2).normal(size=(ROWS, 9)).astype("float32")
    loaded = tensorflow.saved_model.load(str(folder))
    answers = loaded.signatures["serving_default"](tensorflow.constant(x))
    return {"features": x}, {name: value.numpy() for name, value in answers.items()}


def write_torchscript(folder: Path) -> tuple[Arrays, Arrays]:
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)).eval()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        torch.jit.trace(network, torch.zeros(2, 4)).save(str(folder / "model.pt"))
        (folder / "signature.json").write_text(
            '{"inputs": [{"name": "x", "dtype": "float32", "shape": [null, 4]}],'
            ' "outputs": [{"name": "scores", "dtype": "float32", "shape": [null, 3]}]}'
        )
        x = np.random.default_rng(3).normal(size=(ROWS, 4)).astype("float32")
        return {"x": x}, {"scores": network(torch.from_numpy(x)).numpy()}


def write_torch_export(folder: Path) -> tuple[Arrays, Arrays]:
    import torch

    torch.manual_seed(0)

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.last = torch.nn.Linear(4, 16), torch.nn.Linear(16, 3)

        def forward(self, x: Any) -> Any:
            return {"scores": self.last(self.hidden(x).relu())}

    network = Network().eval()
    rows = {"x": {0: torch.export.Dim("rows")}}
    folder.mkdir(parents=True, exist_ok=True)
    torch.export.save(torch.export.export(network, (torch.zeros(3, 4),), dynamic_shapes=rows), folder / "model.pt2")
    x = np.random.default_rng(4).normal(size=(ROWS, 4)).astype("float32")
    with torch.inference_mode():
        return {"x": x}, {"scores": network(torch.from_numpy(x))["scores"].numpy()}


def write_mxnet(folder: Path) -> tuple[Arrays, Arrays]:
    """One fully connected layer of one unit, by the two arrays in its parameter file; [0, 1] gives 1.630976."""
    source = SHARED_MODELS / "mxnet_mlp"
    shutil.copytree(source, folder)
    weight, bias = _mxnet_arrays(source / "mx_mlp-0001.params")
    x = np.random.default_rng(5).normal(size=(ROWS, 2)).astype("float32")
    x[0] = 0, 1
    answers = x @ weight.reshape(1, 2).T + bias
    assert abs(answers[0, 0] - 1.630976) < 1e-6
    return {"data": x}, {"lro": answers.astype("float32")}


def _mxnet_arrays(file: Path) -> tuple[Any, Any]:
    """The weight and the bias: float32 arrays of two numbers and of one, in whichever order the file has them."""
    content = file.read_bytes()
    names = {b"arg:fc1_weight": 2, b"arg:fc1_bias": 1}
    assert all(name in content for name in names)
    # After a head of 24 bytes each array has: a magic number, a storage type, its rank, its dimensions, where it was
    # (two int32), and its dtype; see NDArray::Save in MXNet's ndarray.cc.
    position, found = 24, {}
    for _ in names:
        magic, _storage, rank = struct.unpack_from("<Iii", content, position)
        assert magic == 0xF993FAC9
        shape = struct.unpack_from(f"<{rank}q", content, position + 12)
        count = int(np.prod(shape))
        start = position + 12 + 8 * rank + 12
        found[count] = np.frombuffer(content, "<f4", count, start)
        position = start + 4 * count
    return found[2], found[1]


def write_caffe2(folder: Path) -> tuple[Arrays, Arrays]:
    """The forward pass by hand, in float64, of the weights that the file of constants holds."""
    shutil.copytree(SHARED_MODELS / "caffe2_lenet", folder)
    (folder / "value_info.json").write_text('{"1": [1, [1, 1, 28, 28]]}')
    weights = _caffe2_constants((folder / "init_net.pb").read_bytes())

    def convolved(x: Any, w: Any, b: Any) -> Any:
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
        return np.einsum("nchwij,mcij->nmhw", windows, w) + b[:, None, None]

    def halved(x: Any) -> Any:
        rows, channels, height, width = x.shape
        return x.reshape(rows, channels, height // 2, 2, width // 2, 2).max((3, 5))

    images = np.random.default_rng(7).random((ROWS, 1, 28, 28)).astype("float32")
    x = np.maximum(halved(convolved(images.astype(float), weights["2"], weights["3"])), 0)
    x = np.maximum(halved(convolved(x, weights["4"], weights["5"])), 0)
    x = x.reshape(ROWS, -1) @ weights["6"].T + weights["7"]
    return {"1": images}, {"26": (x @ weights["8"].T + weights["9"]).astype("float32")}


def _caffe2_constants(net: bytes) -> Arrays:
    """The arrays that the operators of a NetDef fill, by name: see caffe2.proto for the numbers of the fields."""
    found = {}
    for operator in _fields(net)[2]:
        parts = _fields(operator)
        arguments = {_fields(argument)[1][0]: _fields(argument) for argument in parts[5]}
        numbers = [np.frombuffer(part, "<f4") for part in arguments[b"values"][5]]
        shape = [int(size) for size in arguments[b"shape"][6]]
        found[parts[2][0].decode()] = np.concatenate(numbers).astype(float).reshape(shape)
    return found


def _fields(message: bytes) -> dict[int, list[Any]]:
    """A protobuf message taken apart, by the numbers of its fields: integers, or bytes for everything else."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    found: dict[int, list[Any]] = {}
    while position < len(message):
        number, kind = divmod(varint(), 8)
        size = {1: 8, 5: 4}.get(kind)
        if kind == 0:
            found.setdefault(number, []).append(varint())
            continue
        size = varint() if size is None else size
        found.setdefault(number, []).append(message[position : position + size])
        position += size
    return found


# Recorded from CNTK 2.7's own library, by its C evaluation API called one image at a time: the outputs for the two
# images of digits that come with the model, their pixels divided by 1024 and by 2048 so that no class is certain.
CNTK_RECORDED = {
    ("sample_4.bmp", 1024): (
        *(0.004368145, 0.02780533, 0.003322192, 0.001815344, 0.8441885),
        *(0.006673676, 0.03361527, 0.04848409, 0.01210384, 0.01762357),
    ),
    ("sample_9.bmp", 1024): (
        *(0.001289013, 0.007137333, 0.02163385, 0.0159785, 0.04307256),
        *(0.009684935, 0.0008829468, 0.04411742, 0.03114234, 0.8250611),
    ),
    ("sample_4.bmp", 2048): (
        *(0.08092393, 0.1198685, 0.0734651, 0.05563085, 0.1897155),
        *(0.07311835, 0.113153, 0.1328468, 0.08100911, 0.08026884),
    ),
    ("sample_9.bmp", 2048): (
        *(0.06801517, 0.09745483, 0.1067152, 0.08786802, 0.07489975),
        *(0.06624595, 0.04288897, 0.09739806, 0.1212048, 0.2373094),
    ),
}


def write_cntk(folder: Path) -> tuple[Arrays, Arrays]:
    from PIL import Image

    source = SHARED_MODELS / "cntk_mnist"
    folder.mkdir(parents=True)
    shutil.copyfile(source / "mnist_conv.cmf", folder / "mnist_conv.cmf")
    images, answers = [], []
    for (name, divisor), recorded in CNTK_RECORDED.items():
        with Image.open(source / name) as image:
            images.append(np.asarray(image.convert("L"), "float32") / divisor)
        answers.append(np.array(recorded, "float32"))
    repeats = ROWS // len(images)
    return (
        {"input": np.stack(images * repeats)[:, None]},
        {"output": np.stack(answers * repeats)},
    )


# --- trees and tables -------------------------------------------------------------------------------------------------


def write_scikitlearn(folder: Path) -> tuple[Arrays, Arrays]:
    import joblib

    file = modelzoo.sklearn_forest(folder)
    x = modelzoo.digits()[0][:ROWS]
    forest = joblib.load(file)
    methods = ("predict", "predict_proba", "predict_log_proba")
    with np.errstate(divide="ignore"):
        return {"data": x}, {name: getattr(forest, name)(x) for name in methods}


def write_xgboost(folder: Path) -> tuple[Arrays, Arrays]:
    import xgboost

    x, y = _iris()
    x = x.astype("float32")
    x[::7, 2] = np.nan
    parameters = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "seed": 0}
    fitted = xgboost.train(parameters, xgboost.DMatrix(x, y), 12)
    folder.mkdir(parents=True)
    fitted.save_model(folder / "model.json")
    return {"data": x}, {"result": fitted.predict(xgboost.DMatrix(x))}


def write_lightgbm(folder: Path) -> tuple[Arrays, Arrays]:
    import lightgbm

    x, y = _iris()
    parameters = {"objective": "multiclass", "num_class": 3, "min_data_in_leaf": 2, "verbosity": -1, "seed": 0}
    fitted = lightgbm.train(parameters, lightgbm.Dataset(x, y), 12)
    folder.mkdir(parents=True)
    fitted.save_model(folder / "model.txt")
    x[::7, 2] = np.nan
    return {"data": x}, {"result": fitted.predict(x)}


def write_catboost(folder: Path) -> tuple[Arrays, Arrays]:
    import catboost

    x, y = _iris()
    x = x.astype("float32")
    fitted = catboost.CatBoostClassifier(
        iterations=12, depth=3, random_seed=0, allow_writing_files=False, logging_level="Silent"
    ).fit(x, y)
    folder.mkdir(parents=True)
    fitted.save_model(str(folder / "model.cbm"))
    return {"data": x}, {
        "result": fitted.predict(x, prediction_type="RawFormulaVal"),
        "predict": fitted.predict(x).ravel(),
        "predict_proba": fitted.predict_proba(x),
    }


def write_pmml(folder: Path) -> tuple[Arrays, Arrays]:
    """The reference walks the tree in the file by hand."""
    source = SHARED_MODELS / "pmml_iris" / "DecisionTreeIris.pmml"
    folder.mkdir(parents=True)
    shutil.copyfile(source, folder / "DecisionTreeIris.pmml")
    x, _ = _iris()
    names = ("Sepal_Length", "Sepal_Width", "Petal_Length", "Petal_Width")
    space = "{http://www.dmg.org/PMML-4_2}"
    root = ElementTree.parse(source).getroot().find(f"{space}TreeModel/{space}Node")
    assert root is not None
    answers: dict[str, list[Any]] = {name: [] for name in ("Species", "Node_Id")}
    compare = {
        "lessThan": np.less,
        "greaterOrEqual": np.greater_equal,
    }
    for row in x:
        record = dict(zip(names, row, strict=True))
        node = root
        while children := node.findall(f"{space}Node"):
            for child in children:
                test = child.find(f"{space}SimplePredicate")
                assert test is not None
                if compare[test.get("operator", "")](record[test.get("field", "")], float(test.get("value", ""))):
                    node = child
                    break
        answers["Species"].append(node.get("score", "").encode())
        answers["Node_Id"].append(node.get("id", "").encode())
        for share in node.findall(f"{space}ScoreDistribution"):
            column = answers.setdefault(f"Probability_{share.get('value')}", [])
            column.append(float(share.get("confidence", "")))
    columns = {name: np.array(v, object if isinstance(v[0], bytes) else float) for name, v in answers.items()}
    return {name: x[:, i].copy() for i, name in enumerate(names)}, columns


def write_h2o(folder: Path) -> tuple[Arrays, Arrays]:
    """Trained, exported and asked by a server of H2O's own, on the loopback, stopped at the end."""
    import h2o
    import h2o_models
    from h2o.estimators import H2OGradientBoostingEstimator

    folder.mkdir(parents=True)
    data = folder.parent / "data.csv"
    h2o_models.write_data(data)
    h2o.init(
        ip="127.0.0.1",
        port=30000 + 2 * secrets.randbelow(10000),
        bind_to_localhost=True,
        name=f"stfs-example-{os.getpid()}",
        max_mem_size="600m",
        nthreads=1,
        strict_version_check=False,
    )
    try:
        frame = h2o.import_file(str(data), col_types=dict.fromkeys(("c", "d", "kind"), "enum"))
        model = H2OGradientBoostingEstimator(ntrees=8, max_depth=3, seed=1)
        model.train(x=list(h2o_models.FEATURES), y="kind", training_frame=frame)
        model.download_mojo(str(folder / "model.zip"))
        h2o.export_file(model.predict(frame), str(folder.parent / "predicted.csv"), force=True)
    finally:
        h2o.cluster().shutdown()
    predicted = h2o_models.columns(folder.parent / "predicted.csv")
    answers = {
        name: np.array([v.encode() for v in values], object) if name == "predict" else np.array(values, float)
        for name, values in predicted.items()
    }
    inputs = h2o_models.arrays(h2o_models.columns(data))
    return {n: v[:ROWS] for n, v in inputs.items()}, {n: v[:ROWS] for n, v in answers.items()}


def write_spark(folder: Path) -> tuple[Arrays, Arrays]:
    """A binomial logistic regression in the files that Spark 3 writes; the reference is its formula."""
    import pyarrow
    import pyarrow.parquet

    coefficients, intercept = np.array([0.8, -1.2, 0.3, 2.0]), -0.4
    described = {
        "class": "org.apache.spark.ml.classification.LogisticRegressionModel",
        "timestamp": 1700000000000,
        "sparkVersion": "3.5.1",
        "uid": "LogisticRegression_4f3c",
        "paramMap": {"maxIter": 10},
        "defaultParamMap": {"threshold": 0.5, "featuresCol": "features", "family": "auto"},
    }
    for part in ("metadata", "data"):
        (folder / part).mkdir(parents=True)
        (folder / part / "_SUCCESS").touch()
    (folder / "metadata/part-00000").write_text(json.dumps(described) + "\n")
    i32, i8, f64 = pyarrow.int32(), pyarrow.int8(), pyarrow.float64()
    vector = [("type", i8), ("size", i32), ("indices", pyarrow.list_(i32)), ("values", pyarrow.list_(f64))]
    matrix = [
        *(("type", i8), ("numRows", i32), ("numCols", i32)),
        *(("colPtrs", pyarrow.list_(i32)), ("rowIndices", pyarrow.list_(i32))),
        *(("values", pyarrow.list_(f64)), ("isTransposed", pyarrow.bool_())),
    ]
    schema = pyarrow.schema(
        [
            *(("numClasses", i32), ("numFeatures", i32)),
            *(("interceptVector", pyarrow.struct(vector)), ("coefficientMatrix", pyarrow.struct(matrix))),
            ("isMultinomial", pyarrow.bool_()),
        ]
    )
    row = {
        "numClasses": 2,
        "numFeatures": 4,
        "interceptVector": {"type": 1, "size": None, "indices": None, "values": [intercept]},
        "coefficientMatrix": {
            "type": 1,
            "numRows": 1,
            "numCols": 4,
            "colPtrs": None,
            "rowIndices": None,
            "values": coefficients.tolist(),
            "isTransposed": True,
        },
        "isMultinomial": False,
    }
    file = folder / "data/part-00000-1b2c.snappy.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row], schema), file)
    x = np.random.default_rng(8).normal(size=(ROWS, 4))
    likely = 1 / (1 + np.exp(-(x @ coefficients + intercept)))
    return {"features": x}, {
        "prediction": (likely > 0.5).astype(float),
        "probability_of_0": 1 - likely,
        "probability_of_1": likely,
    }


PYTHON_MODEL = """
import numpy

class Model:
    signature = {
        "inputs": [{"name": "x", "dtype": "float64", "shape": [None, 3]},
                   {"name": "word", "dtype": "string", "shape": [None]}],
        "outputs": [{"name": "sum", "dtype": "float64", "shape": [None]},
                    {"name": "upper", "dtype": "string", "shape": [None]}],
    }

    def __init__(self, folder):
        self.weights = numpy.load(folder / "weights.npy")

    def predict(self, inputs):
        upper = numpy.array([word.upper() for word in inputs["word"]], object)
        return {"sum": inputs["x"] @ self.weights, "upper": upper}
"""


def write_python(folder: Path) -> tuple[Arrays, Arrays]:
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(PYTHON_MODEL)
    weights = np.array([1.0, -2.0, 0.5])
    np.save(folder / "weights.npy", weights)
    x = np.random.default_rng(6).normal(size=(ROWS, 3))
    words = np.array([f"row {i}".encode() for i in range(ROWS)], object)
    upper = np.array([f"ROW {i}".encode() for i in range(ROWS)], object)
    return {"x": x, "word": words}, {"sum": x[:, 0] - 2 * x[:, 1] + 0.5 * x[:, 2], "upper": upper}


EXAMPLES: Mapping[str, Example] = {
    "caffe2": Example(
        "caffe2",
        write_caffe2,
        (("1", "float32", (None, 1, 28, 28)),),
        (("26", "float32", (None, 10)),),
        "predict_net.pb",
        tolerance=1e-4,
        shared="caffe2_lenet",
    ),
    "catboost": Example(
        "catboost",
        write_catboost,
        (("data", "float32", (None, 4)),),
        (
            ("result", "float64", (None, 3)),
            ("predict", "int64", (None,)),
            ("predict_proba", "float64", (None, 3)),
        ),
        "model.cbm",
        needs=("sklearn",),
    ),
    "cntk": Example(
        "cntk",
        write_cntk,
        (("input", "float32", (None, 1, 28, 28)),),
        (("output", "float32", (None, 10)),),
        "mnist_conv.cmf",
        shared="cntk_mnist",
        needs=("PIL",),
    ),
    "h2o": Example(
        "h2o",
        write_h2o,
        (
            *(("a", "float64", (None,)), ("b", "float64", (None,))),
            *(("c", "string", (None,)), ("d", "string", (None,))),
        ),
        (("predict", "string", (None,)), *((label, "float64", (None,)) for label in "xyz")),
        "model.zip",
    ),
    "lightgbm": Example(
        "lightgbm",
        write_lightgbm,
        (("data", "float64", (None, 4)),),
        (("result", "float64", (None, 3)),),
        "model.txt",
        needs=("sklearn",),
    ),
    "mxnet": Example(
        "mxnet",
        write_mxnet,
        (("data", "float32", (None, 2)),),
        (("lro", "float32", (None, 1)),),
        "mx_mlp-0001.params",
        shared="mxnet_mlp",
    ),
    "onnx": Example(
        "onnx",
        write_onnx,
        (("x", "float32", (None, 4)),),
        (("probabilities", "float32", (None, 3)), ("label", "int64", (None,))),
        "model.onnx",
        needs=("onnx",),
    ),
    "pmml": Example(
        "pmml",
        write_pmml,
        tuple((name, "float64", (None,)) for name in ("Sepal_Length", "Sepal_Width", "Petal_Length", "Petal_Width")),
        (
            ("Species", "string", (None,)),
            ("Probability_setosa", "float64", (None,)),
            ("Probability_versicolor", "float64", (None,)),
            ("Probability_virginica", "float64", (None,)),
            ("Node_Id", "string", (None,)),
        ),
        "DecisionTreeIris.pmml",
        shared="pmml_iris",
        needs=("sklearn",),
    ),
    "python": Example(
        "python",
        write_python,
        (("x", "float64", (None, 3)), ("word", "string", (None,))),
        (("sum", "float64", (None,)), ("upper", "string", (None,))),
        "model.py",
    ),
    "pytorch": Example(
        "pytorch",
        write_torchscript,
        (("x", "float32", (None, 4)),),
        (("scores", "float32", (None, 3)),),
        "model.pt",
    ),
    "pytorch-export": Example(
        "pytorch",
        write_torch_export,
        (("x", "float32", (None, 4)),),
        (("scores", "float32", (None, 3)),),
        "model.pt2",
        cycles=20,
    ),
    "scikitlearn": Example(
        "scikitlearn",
        write_scikitlearn,
        (("data", "float64", (None, 64)),),
        (
            ("predict", "int64", (None,)),
            ("predict_proba", "float64", (None, 10)),
            ("predict_log_proba", "float64", (None, 10)),
        ),
        "model.joblib",
    ),
    "spark": Example(
        "spark",
        write_spark,
        (("features", "float64", (None, 4)),),
        (
            ("prediction", "float64", (None,)),
            ("probability_of_0", "float64", (None,)),
            ("probability_of_1", "float64", (None,)),
        ),
        "data/part-00000-1b2c.snappy.parquet",
    ),
    "tensorflow": Example(
        "tensorflow",
        write_tensorflow,
        (("features", "float32", (None, 9)),),
        (("output_0", "float32", (None, 2)),),
        "saved_model.pb",
        cycles=20,
    ),
    "xgboost": Example(
        "xgboost",
        write_xgboost,
        (("data", "float32", (None, 4)),),
        (("result", "float32", (None, 3)),),
        "model.json",
        needs=("sklearn",),
    ),
}
"""By an identifier: the platform's name, with what sets it apart if a platform has several."""
