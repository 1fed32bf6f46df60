"""Tries what was installed: ``python -m stfs.commands.check NAME``, in a process of its own that a bad library may end.

Where a model takes a few lines to make, one is made, loaded as the server would, and its answer compared with what
arithmetic says; elsewhere the libraries are loaded. Tells what answered on standard output, and what went wrong on
standard error with status 1.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stfs import platforms
from stfs.commands import survey
from stfs.platforms import beside, jvm
from stfs.platforms.base import LoadOptions, one_line

# The protobuf of a model of opset 13 with one node: float "y" [n, 2] = Add("x", "x").
ONNX_DOUBLE = bytes.fromhex(
    "080812003a3f0a0e0a01780a017812017922034164641201675a140a0178120f0a0d080112090a0312016e0a020802"
    "62140a0179120f0a0d080112090a0312016e0a02080242040a00100d"
)
PMML_LINE = """<PMML version="4.4" xmlns="http://www.dmg.org/PMML-4_4"><Header/><DataDictionary>
<DataField name="x" optype="continuous" dataType="double"/><DataField name="y" optype="continuous" dataType="double"/>
</DataDictionary><RegressionModel functionName="regression"><MiningSchema><MiningField name="x"/>
<MiningField name="y" usageType="target"/></MiningSchema><RegressionTable intercept="1">
<NumericPredictor name="x" coefficient="2"/></RegressionTable></RegressionModel></PMML>"""
MXNET_DOUBLE = {
    "nodes": [
        {"op": "null", "name": "x", "inputs": []},
        {"op": "_mul_scalar", "name": "y", "attrs": {"scalar": "2"}, "inputs": [[0, 0, 0]]},
    ],
    "arg_nodes": [0],
    "heads": [[1, 0, 0]],
    "attrs": {"mxnet_version": ["int", 10901]},
}
MXNET_NO_PARAMETERS = (0x112).to_bytes(8, "little") + bytes(24)
"""A parameter file of no arrays and no names: its magic number, a reserved word, and two counts."""

POINTS = np.array([[0.0], [1.0], [2.0], [3.0]] * 8, "float32")
"""What the small models of the boosting libraries are fitted to: y = x."""


class CheckFailed(Exception):
    """It loads, but does not do what it should."""


def main() -> None:
    """Checks the name that is the command's argument; one without a check of its own was only to be found."""
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(CHECKS.get(name, _found)(Path(folder)), flush=True)
            status = 0
        except Exception as error:
            print(f"{type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
            status = 1
    os._exit(status)  # some native libraries do not survive the end of the interpreter, which is not what is tried


def _found(_: Path) -> str:
    return "found"


def _answers(platform: str, path: Path, inputs: Mapping[str, Any], expected: float, tolerance: float = 1e-4) -> str:
    """Loads the model and asks it one row; the first number of its first output must be ``expected``."""
    servable = platforms.find(platform).load(path, LoadOptions(threads=1))
    signature = servable.signatures[servable.default_signature]
    bound = signature.bind({name: np.asarray(value) for name, value in inputs.items()})
    answer = next(iter(servable.run(signature.name, bound).values())).ravel()[0]
    servable.close()
    if not abs(float(answer) - expected) <= tolerance:
        raise CheckFailed(f"a small model answered {answer} and not {expected}")
    return f"{servable.runtime} answered a small model"


def _onnx(folder: Path) -> str:
    (folder / "model.onnx").write_bytes(ONNX_DOUBLE)
    return _answers("onnx", folder, {"x": [[3.0, 4.0]]}, 6.0)


def _caffe2(folder: Path) -> str:
    importlib.import_module("onnx")
    return _onnx(folder)


def _scikitlearn(folder: Path) -> str:
    import joblib
    from sklearn.linear_model import LinearRegression

    joblib.dump(LinearRegression().fit(POINTS, POINTS[:, 0]), folder / "model.joblib")
    return _answers("scikitlearn", folder, {"data": [[2.0]]}, 2.0)


def _xgboost(folder: Path) -> str:
    import xgboost

    # Trees split every point from the others, so that boosting with a rate of 1 reaches the target.
    parameters = {"eta": 1.0, "lambda": 0.0, "max_depth": 3}
    xgboost.train(parameters, xgboost.DMatrix(POINTS, POINTS[:, 0]), 3).save_model(folder / "model.json")
    return _answers("xgboost", folder, {"data": [[2.0]]}, 2.0)


def _lightgbm(folder: Path) -> str:
    import lightgbm

    parameters = {"learning_rate": 1.0, "min_data_in_leaf": 1, "min_data_in_bin": 1, "verbosity": -1}
    fitted = lightgbm.train(parameters, lightgbm.Dataset(POINTS, POINTS[:, 0]), 3)
    fitted.save_model(folder / "model.txt")
    return _answers("lightgbm", folder, {"data": [[2.0]]}, 2.0)


def _catboost(folder: Path) -> str:
    import catboost

    fitted = catboost.CatBoostRegressor(
        iterations=3, learning_rate=1.0, depth=2, l2_leaf_reg=0.0, allow_writing_files=False, logging_level="Silent"
    ).fit(POINTS, POINTS[:, 0])
    fitted.save_model(str(folder / "model.cbm"))
    return _answers("catboost", folder, {"data": [[2.0]]}, 2.0)


def _pytorch(folder: Path) -> str:
    import torch

    class Double(torch.nn.Module):  # type: ignore[misc]  # torch is not looked into
        def forward(self, x: Any) -> Any:
            return x * 2

    rows = {"x": {0: torch.export.Dim("rows")}}
    exported = torch.export.export(Double(), (torch.ones(3, 2),), dynamic_shapes=rows)
    torch.export.save(exported, folder / "model.pt2")
    return _answers("pytorch", folder, {"x": [[3.0, 4.0]]}, 6.0)


def _tensorflow(folder: Path) -> str:
    import tensorflow

    module = tensorflow.Module()
    row = tensorflow.TensorSpec([None, 2], tensorflow.float32, "x")
    double: Any = tensorflow.function(lambda x: {"y": x * 2}, input_signature=[row])
    tensorflow.saved_model.save(module, str(folder), signatures=double)
    return _answers("tensorflow", folder, {"x": [[3.0, 4.0]]}, 6.0)


def _pmml(folder: Path) -> str:
    (folder / "model.pmml").write_text(PMML_LINE)
    return _answers("pmml", folder, {"x": [3.0]}, 7.0)


def _cntk(folder: Path) -> str:
    from stfs.platforms.cntk import LIBRARIES
    from stfs.platforms.cntk_capi import VERSION, load_library

    load_library(beside.folder("cntk") / LIBRARIES, threads=1)
    return f"CNTK {VERSION} loads"


def _h2o(folder: Path) -> str:
    jpype = jvm.start("h2o", "h2o", "h2o", LoadOptions().jvm_heap_bytes)
    jpype.JClass("hex.genmodel.MojoModel")
    return f"h2o {importlib.metadata.version('h2o')} is loaded by Java {jpype.getJVMVersion()[0]}"


def _mxnet(folder: Path) -> str:
    (folder / "small-symbol.json").write_text(json.dumps(MXNET_DOUBLE))
    (folder / "small-0000.params").write_bytes(MXNET_NO_PARAMETERS)
    tensors = {"inputs": [{"name": "x", "shape": [None, 2]}], "outputs": [{"name": "y", "shape": [None, 2]}]}
    (folder / "small-signature.json").write_text(json.dumps(tensors))
    return _answers("mxnet", folder, {"x": [[3.0, 4.0]]}, 6.0)


def _spark(folder: Path) -> str:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"x": [1.0]})
    pyarrow.parquet.write_table(table, folder / "small.parquet")
    if pyarrow.parquet.read_table(folder / "small.parquet") != table:
        raise CheckFailed("a small table was not read as it was written")
    return f"pyarrow {pyarrow.__version__} reads parquet"


def _xgboost_legacy(folder: Path) -> str:
    sys.path.insert(0, str(beside.folder("xgboost-legacy")))
    import xgboost

    fitted = xgboost.train({}, xgboost.DMatrix(POINTS, POINTS[:, 0]), 1)
    (folder / "old.deprecated").write_bytes(bytes(fitted.save_raw("deprecated")))
    read = xgboost.Booster(model_file=folder / "old.deprecated")
    if not np.array_equal(read.predict(xgboost.DMatrix(POINTS)), fitted.predict(xgboost.DMatrix(POINTS))):
        raise CheckFailed("a small model in the old form was not read as it was written")
    return f"xgboost {xgboost.__version__} reads the old form"


def _java(folder: Path) -> str:
    library = survey.java()
    if library is None:
        raise CheckFailed(f"there is no Java of release {jvm.OLDEST_JAVA} or later")
    program = next(file for folder in library.parents if (file := folder / "bin/java").is_file())
    said = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stderr
    return f"{said.splitlines()[0]}, {library}"


CHECKS: Mapping[str, Callable[[Path], str]] = {
    "caffe2": _caffe2,
    "catboost": _catboost,
    "cntk": _cntk,
    "h2o": _h2o,
    "java": _java,
    "lightgbm": _lightgbm,
    "mxnet": _mxnet,
    "onnx": _onnx,
    "pmml": _pmml,
    "pytorch": _pytorch,
    "scikitlearn": _scikitlearn,
    "spark": _spark,
    "tensorflow": _tensorflow,
    "xgboost": _xgboost,
    "xgboost-legacy": _xgboost_legacy,
}


if __name__ == "__main__":
    main()
