"""Small ONNX models whose answers are known by arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save(graph: onnx.GraphProto, folder: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def write_linear(folder: Path, scale: float = 2.0) -> Path:
    """``y = scale * x`` over float32 ``x`` [n, 3]."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.float32(scale), "scale")],
    )
    return save(graph, folder)


def write_many(folder: Path) -> Path:
    """Identity over one input of each kind: ``whole`` int32 [n], ``long`` int64 [n], ``flag`` bool [n], ``text``
    string [n], ``real`` float64 [n, 2]; each output is the input's name with ``_out``."""
    kinds = {
        "whole": (TensorProto.INT32, ["n"]),
        "long": (TensorProto.INT64, ["n"]),
        "flag": (TensorProto.BOOL, ["n"]),
        "text": (TensorProto.STRING, ["n"]),
        "real": (TensorProto.DOUBLE, ["n", 2]),
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        "many",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()],
        [helper.make_tensor_value_info(f"{name}_out", kind, shape) for name, (kind, shape) in kinds.items()],
    )
    return save(graph, folder)
