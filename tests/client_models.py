"""Models with names that end a string, a comment or a template somewhere, and one of images."""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, helper
from simple_models import save

CANARY = "touched"

_TOUCH = f"touch {CANARY}"

NASTY_NAME = f"it's \"$({_TOUCH})`{_TOUCH}` #{{{{x}}}} \\ é😀"
"""A model's name: it stands in addresses, so it has no slash, colon or control character."""

NASTY_INPUTS = {
    f"a\"'`\n{_TOUCH}\n#": TensorProto.FLOAT,
    f"$({_TOUCH}) `{_TOUCH}` ${{x}} $x @x %s %": TensorProto.INT64,
    f"#{{system('{_TOUCH}')}} {{{{$guid}}}} {{% x %}}": TensorProto.STRING,
    ')json" "# """ */ // --> <!-- ?> ??/ %> ]]': TensorProto.DOUBLE,
    f"');system('{_TOUCH}');//\\": TensorProto.BOOL,
    "\\u0022 \\n \\ \u2028 \x7f \x01 é 😀 日本": TensorProto.INT32,
    "0": TensorProto.FLOAT,
}
"""Inputs of a model by name: what each language, and what stands around it, takes for an end or a beginning."""


def write_nasty(folder: Path) -> Path:
    """Identity over ``NASTY_INPUTS``, each [n]; outputs are ``out0``, ``out1``, ..."""
    return _identities(folder, {name: (kind, ["n"]) for name, kind in NASTY_INPUTS.items()})


IMAGES = """
import numpy

class Model:
    signature = {
        "inputs": [
            {"name": "image", "dtype": "string", "shape": [None]},
            {"name": "pixels", "dtype": "float32", "shape": [None, 64, 64, 3]},
        ],
        "outputs": [
            {"name": "kind", "dtype": "string", "shape": [None]},
            {"name": "sum", "dtype": "float64", "shape": [None]},
        ],
    }

    def __init__(self, folder):
        pass

    def predict(self, inputs):
        kinds = [image[1:4] for image in inputs["image"]]
        return {"kind": numpy.array(kinds, object), "sum": inputs["pixels"].astype("float64").sum((1, 2, 3))}
"""


def write_images(folder: Path) -> Path:
    """A Python model that tells bytes 1 to 3 of each ``image`` string [n], ``PNG`` in one of those, and the sums of the
    rows of ``pixels`` float32 [n, 64, 64, 3]."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(IMAGES)
    return folder / "model.py"


def _identities(folder: Path, kinds: dict[str, tuple[int, list[str]]]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"out{at}"]) for at, name in enumerate(kinds)],
        "nasty",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in kinds.items()],
        [helper.make_tensor_value_info(f"out{at}", *kind) for at, kind in enumerate(kinds.values())],
    )
    return save(graph, folder)
