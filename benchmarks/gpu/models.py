"""ResNet-18 and an MLP with random weights, as ONNX files and as TorchScript: the same layers for both."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 1000


@dataclass(frozen=True)
class Work:
    """A model: the shape of one row, and what writes its files into a folder."""

    name: str
    row: tuple[int, ...]
    write_onnx: Callable[[Path], Path]
    write_torch: Callable[[Path], Path]

    def inputs(self, rows: int) -> np.ndarray:
        return np.random.default_rng(rows).normal(size=(rows, *self.row)).astype(np.float32)


class Graph:
    """An ONNX graph that grows layer by layer."""

    def __init__(self) -> None:
        from onnx import helper, numpy_helper

        self._helper, self._numpy = helper, numpy_helper
        self._random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, shape: tuple[int, ...], inside: int) -> str:
        name = f"w{len(self.weights)}"
        drawn = self._random.normal(0, (2 / inside) ** 0.5, shape).astype(np.float32)
        self.weights.append(self._numpy.from_array(drawn, name))
        return name

    def conv(self, x: str, inside: int, outside: int, size: int, stride: int) -> str:
        weight = self.weight((outside, inside, size, size), inside * size * size)
        return self.node("Conv", x, weight, strides=[stride] * 2, pads=[size // 2] * 4)

    def dense(self, x: str, inside: int, outside: int) -> str:
        return self.node("MatMul", x, self.weight((inside, outside), inside))

    def save(self, row: tuple[int, ...], output: str, width: int, folder: Path) -> Path:
        import onnx

        self.nodes.append(self._helper.make_node("Identity", [output], ["y"]))
        graph = self._helper.make_graph(
            self.nodes,
            "benchmark",
            [self._helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", *row])],
            [self._helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", width])],
            self.weights,
        )
        model = self._helper.make_model(graph, opset_imports=[self._helper.make_opsetid("", 17)], ir_version=9)
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / "model.onnx")
        return folder / "model.onnx"


def onnx_mlp(folder: Path) -> Path:
    graph = Graph()
    x = "x"
    for inside, outside in ((784, 512), (512, 512)):
        x = graph.node("Relu", graph.dense(x, inside, outside))
    return graph.save((784,), graph.dense(x, 512, 10), 10, folder)


def onnx_resnet18(folder: Path) -> Path:
    """Its batch norms are folded into the convolutions, as exporters do it for inference."""
    graph = Graph()
    x = graph.node("Relu", graph.conv("x", 3, 64, 7, 2))
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inside = 64
    for outside, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        y = graph.node("Relu", graph.conv(x, inside, outside, 3, stride))
        y = graph.conv(y, outside, outside, 3, 1)
        if stride != 1 or inside != outside:
            x = graph.conv(x, inside, outside, 1, stride)
        x, inside = graph.node("Relu", graph.node("Add", x, y)), outside
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    return graph.save((3, 224, 224), graph.dense(x, 512, CLASSES), CLASSES, folder)


def _save_script(module: Any, row: tuple[int, ...], folder: Path) -> Path:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        torch.jit.trace(module.eval(), torch.zeros(2, *row)).save(str(folder / "model.pt"))
    signature = {"inputs": [{"name": "x", "shape": [None, *row]}], "outputs": [{"name": "y"}]}
    (folder / "model-signature.json").write_text(json.dumps(signature))
    return folder / "model.pt"


def torch_mlp(folder: Path) -> Path:
    from torch import nn

    layers = (nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return _save_script(nn.Sequential(*layers), (784,), folder)


def torch_resnet18(folder: Path) -> Path:
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inside: int, outside: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
            self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
            same = stride == 1 and inside == outside
            self.by = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

        def forward(self, x: Any) -> Any:
            return (self.by(x) + self.second(self.first(x).relu())).relu()

    sizes = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2))
    blocks = [Block(*size) for size in (*sizes, (512, 512, 1))]
    layers = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks)
    end = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))
    return _save_script(nn.Sequential(*layers, *end), (3, 224, 224), folder)


WORKS = {
    "mlp": Work("mlp", (784,), onnx_mlp, torch_mlp),
    "resnet18": Work("resnet18", (3, 224, 224), onnx_resnet18, torch_resnet18),
}
