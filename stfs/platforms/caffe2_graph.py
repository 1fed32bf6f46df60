"""The ONNX graph that a Caffe2 net becomes, while it is being written, and the table of what writes it.

Must not live here: what any Caffe2 operator means; the files ``caffe2_ops_*.py`` say that, a handler each.

Opset 12 is written, although newer ones are known: its ``Softmax`` flattens as Caffe2's does, and its reductions and
squeezes take their axes as attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stfs.platforms.base import one_line
from stfs.platforms.caffe2_proto import Args, OperatorDef
from stfs.platforms.onnx_types import Types
from stfs.signature import Array

OPSET = 12
IR_VERSION = 7

INT64_MAX = 2**63 - 1


class Unconvertible(Exception):
    """An operator cannot be written as ONNX; the message says why, without saying which operator it is."""


class Graph:
    """Nodes, weights and what is known of every value. Values have one writer each, unlike Caffe2's blobs."""

    def __init__(self) -> None:
        self.types = Types(OPSET)
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        self.label = ""
        """Where nodes come from, for onnxruntime's messages; the driver sets it before each operator."""
        self.reserved: set[str] = set()
        """Names of blobs that come into the graph or leave it, which no value in between may have."""
        self._made = 0

    def fresh(self, hint: str) -> str:
        """A name that no value has yet."""
        self._made += 1
        while f"{hint}:{self._made}" in self.reserved:
            self._made += 1
        return f"{hint}:{self._made}"

    def constant(self, value: Array | Sequence[int] | Sequence[float], hint: str = "constant") -> str:
        """A value known now. A list of whole numbers becomes int64, as ONNX wants for shapes and axes."""
        array = value if isinstance(value, np.ndarray) else np.array(value)
        name = self.fresh(hint)
        self.weights[name] = array
        self.types.constant(name, array)
        return name

    def emit(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node with one output; returns its name."""
        return self.emit_several(kind, inputs, 1, **attributes)[0]

    def emit_several(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Write a node with several outputs; returns their names. Raises :class:`Unconvertible` for unfit inputs."""
        import onnx

        names = [self.fresh(self.label) for _ in range(outputs)]
        node = onnx.helper.make_node(kind, list(inputs), names, name=f"{self.label}/{len(self.nodes)}", **attributes)
        try:
            self.types.infer(node)
        except onnx.shape_inference.InferenceError as error:
            raise Unconvertible(f"its inputs do not fit: {one_line(error)}") from error
        self.nodes.append(node)
        return names

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value, for the number of rows that the net is converted with."""
        shape = self.types.shape(name)
        if shape is None:
            raise Unconvertible("the shape of its input depends on the values of the request")
        sizes = tuple(d for d in shape if d is not None)
        if len(sizes) < len(shape):
            raise Unconvertible("the shape of its input depends on the values of the request")
        return sizes

    def rank(self, name: str) -> int:
        """Its number of dimensions."""
        return len(self.shape(name))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Its dtype."""
        dtype = self.types.dtype(name)
        if dtype is None:
            raise Unconvertible("the dtype of its input is not known")
        return dtype

    def known(self, name: str, what: str) -> Array:
        """A value that must be known before any request; ``what`` names it in the error."""
        value = self.weights.get(name)
        if value is None:
            value = self.types.value(name)
        if value is None:
            raise Unconvertible(f"its {what} depends on the values of the request")
        return value

    def transpose(self, name: str, axes: Sequence[int]) -> str:
        """The value with its axes in that order; a weight is turned now rather than at every run."""
        if list(axes) == list(range(len(axes))):
            return name
        if name in self.weights:
            return self.constant(np.ascontiguousarray(self.weights[name].transpose(axes)), name)
        return self.emit("Transpose", [name], perm=list(axes))

    def channels_first(self, name: str) -> str:
        """N, H, W, C as N, C, H, W."""
        rank = self.rank(name)
        return self.transpose(name, [0, rank - 1, *range(1, rank - 1)])

    def channels_last(self, name: str) -> str:
        """N, C, H, W as N, H, W, C."""
        rank = self.rank(name)
        return self.transpose(name, [0, *range(2, rank), 1])


class Op:
    """One Caffe2 operator with its inputs as values of the graph: what a handler is given."""

    def __init__(self, definition: OperatorDef, inputs: Sequence[str]) -> None:
        self.definition = definition
        self.type = definition.type
        self.args: Args = definition.args
        self.outputs = definition.outputs
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, position: int) -> str:
        """The value of the input at ``position``."""
        if position >= len(self._inputs):
            raise Unconvertible(f"it needs more than {len(self._inputs)} inputs")
        return self._inputs[position]

    @property
    def inputs(self) -> list[str]:
        """The values of all inputs; at least one."""
        if not self._inputs:
            raise Unconvertible("it has no inputs")
        return list(self._inputs)

    @property
    def channels_last(self) -> bool:
        """Whether images are N, H, W, C (``order`` NHWC) rather than N, C, H, W."""
        order = self.args.text("order", "NCHW").upper()
        if order not in ("NCHW", "NHWC"):
            raise Unconvertible(f'its order "{order}" is neither NCHW nor NHWC')
        return order == "NHWC"

    def axis(self, name: str, default: int, rank: int) -> int:
        """The argument ``name`` as an axis of something of that rank; negative ones count from the end."""
        axis = self.args.integer(name, default)
        if not -rank <= axis < rank:
            raise Unconvertible(f"its {name} {axis} is not among the {rank} dimensions of its input")
        return axis % rank


Handler = Callable[[Op, Graph], str | Sequence[str]]
"""Writes an operator into the graph; returns its output, or as many of its outputs as it computes."""

HANDLERS: dict[str, Handler] = {}


def operator(*types: str) -> Callable[[Handler], Handler]:
    """Makes a function the handler of those types of operator."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(types, handler))
        return handler

    return register
