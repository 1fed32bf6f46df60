"""What the tests in a browser are made of: models that show something, pictures, places."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from simple_models import save, write_linear, write_many

SCREENSHOTS = Path(__file__).parent.parent / "build" / "screenshots"


def write_pixels(folder: Path) -> Path:
    """``probabilities`` [n, 3]: how much of a picture (uint8 [n, 8, 8, 3]) is red, green and blue."""
    floats = numpy_helper.from_array(np.array([1, 2], np.int64), "axes")
    last = numpy_helper.from_array(np.array([1], np.int64), "last")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["real", "axes"], ["sums"], keepdims=0),
            helper.make_node("ReduceSum", ["sums", "last"], ["total"], keepdims=1),
            helper.make_node("Div", ["sums", "total"], ["probabilities"]),
        ],
        "pixels",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [floats, last],
    )
    return save(graph, folder)


def write_models(folder: Path) -> Path:
    """Four models, one of which has a version that does not load; the configuration file of them."""
    for version in (1, 2):
        write_linear(folder / "linear" / str(version), scale=float(version))
    write_many(folder / "many" / "3")
    write_pixels(folder / "pixels" / "1")
    write_linear(folder / "partly" / "1")
    broken = folder / "partly" / "2" / "model.onnx"
    broken.parent.mkdir()
    broken.write_bytes(b"<b>no model</b>")
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "many", "partly", "pixels")]
    (folder / "models.json").write_text(json.dumps({"model_config_list": entries}))
    return folder / "models.json"


def picture(red: int = 200, green: int = 40, blue: int = 20) -> bytes:
    """A PNG of one colour."""
    images = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    sink = io.BytesIO()
    images.new("RGB", (8, 8), (red, green, blue)).save(sink, "PNG")
    return sink.getvalue()
