"""What each ONNX operator meant in opsets 1 to 6, written as opset 7.

Until then broadcasting was an attribute, so was the shape of ``Reshape``, and a few attributes told of training and
memory. There is a rule for every operator that changed; those that did not, or that are no ONNX operators, stay as they
are. Must not live here: files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stfs.platforms.base import one_line
from stfs.platforms.onnx_types import Types

OLDEST = 7
"""The opset that models are upgraded to."""

BROADCASTING = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")


class NotUpgraded(Exception):
    """A node that cannot be written as opset 7; the message says why, without saying which node it is."""


def upgrade_graph(graph: Any) -> None:
    """Makes an ``onnx.GraphProto`` of opset 1 to 6 one of opset 7, in place. Raises :class:`NotUpgraded`."""
    import onnx

    Walk(onnx, graph, Types(OLDEST)).run()


class Node:
    """A node with its attributes as a dictionary, while it is rewritten."""

    def __init__(self, onnx: Any, proto: Any) -> None:
        self.onnx = onnx
        self.proto = proto
        self.inputs = list(proto.input)
        self.outputs = list(proto.output)
        self._read = {a.name: (a, onnx.helper.get_attribute_value(a)) for a in proto.attribute}
        self.attributes: dict[str, Any] = {name: value for name, (_, value) in self._read.items()}

    def text(self, name: str, default: str = "") -> str:
        """An attribute that is text."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def write(self) -> Any:
        """The node as an ``onnx.NodeProto``."""
        node = self.onnx.helper.make_node(
            self.proto.op_type,
            self.inputs,
            self.outputs,
            name=self.proto.name,
            domain=self.proto.domain,
            doc_string=self.proto.doc_string,
        )
        for name, value in self.attributes.items():
            if name in self._read and self._read[name][1] is value:
                node.attribute.append(self._read[name][0])  # as it was: an empty list has no type to make it anew with
            else:
                node.attribute.append(self.onnx.helper.make_attribute(name, value))
        return node


class Walk:
    """One graph being rewritten. ``types`` knows what is around it, and learns."""

    def __init__(self, onnx: Any, graph: Any, types: Types) -> None:
        self.onnx = onnx
        self.graph = graph
        self.types = types
        self.nodes: list[Any] = []
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}

    def run(self) -> None:
        """Rewrite every node."""
        weights = {tensor.name for tensor in self.graph.initializer}
        inputs = [value for value in self.graph.input if value.name not in weights]
        del self.graph.input[:]
        self.graph.input.extend(inputs)
        for value in inputs:
            self.types.declare(value.name, value.type)
        for tensor in self.graph.initializer:
            kind = self.onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            self.types.declare(tensor.name, kind)
            if tensor.data_location != self.onnx.TensorProto.EXTERNAL:
                self.types.constant(tensor.name, self.onnx.numpy_helper.to_array(tensor))
        for i, proto in enumerate(self.graph.node, 1):
            try:
                self._upgrade(proto)
            except (NotUpgraded, self.onnx.shape_inference.InferenceError) as error:
                raise NotUpgraded(f"{told(proto, i)}: {one_line(error)}") from error
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        del self.graph.value_info[:]

    def _upgrade(self, proto: Any) -> None:
        for attribute in proto.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                if subgraph.node:
                    Walk(self.onnx, subgraph, self.types.inner()).run()
        if proto.domain not in ("", "ai.onnx"):
            self.nodes.append(proto)
            return
        node = Node(self.onnx, proto)
        node.attributes.pop("consumed_inputs", None)  # a hint for reusing memory
        rule = RULES.get(proto.op_type)
        if rule is not None:
            rule(self, node)
        self.add(node.write())

    def add(self, proto: Any) -> None:
        """Append a node of opset 7."""
        if proto.op_type == "Constant":
            for attribute in proto.attribute:
                if attribute.name == "value":
                    self.types.constant(proto.output[0], self.onnx.numpy_helper.to_array(attribute.t))
        else:
            self.types.infer(proto)
        self.nodes.append(proto)

    def emit(self, kind: str, inputs: list[str], hint: str, **attributes: Any) -> str:
        """Append a new node; returns its output."""
        name = hint
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self.add(self.onnx.helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def rank(self, name: str) -> int:
        """Its number of dimensions; raises :class:`NotUpgraded` where that is not known."""
        rank = self.types.rank(name)
        if rank is None:
            raise NotUpgraded(f'the number of dimensions of "{name}" is not known')
        return rank

    def integers(self, name: str, what: str) -> list[int]:
        """What it holds; raises :class:`NotUpgraded` where that is not known, calling it ``what``."""
        value = self.types.value(name)
        if value is None:
            raise NotUpgraded(f"its {what} depends on the values of the request")
        return [int(v) for v in value.ravel()]


def told(node: Any, position: int) -> str:
    """A node in a message."""
    called = node.name or (node.output[0] if node.output else "")
    return f'{node.op_type} (node {position}, "{called}")'


def _broadcast(walk: Walk, node: Node) -> None:
    """``axis`` says where the second input's dimensions lie on those of the first; without it, at the end."""
    node.attributes.pop("broadcast", None)
    axis = node.attributes.pop("axis", None)
    if axis is None:
        return
    a, b = walk.rank(node.inputs[0]), walk.rank(node.inputs[1])
    axis = axis + a if axis < 0 else axis
    behind = a - axis - b
    if behind < 0:
        raise NotUpgraded(f"{b} dimensions do not lie on {a} from axis {axis} on")
    if behind and b:
        node.inputs[1] = walk.emit(
            "Unsqueeze", [node.inputs[1]], f"{node.outputs[0]}_aligned", axes=list(range(b, b + behind))
        )


def _prelu(walk: Walk, node: Node) -> None:
    """One slope for each channel lay on dimension 1."""
    shape = walk.types.shape(node.inputs[1])
    if shape is None:
        raise NotUpgraded(f'the shape of its slope "{node.inputs[1]}" is not known')
    if len(shape) == 1 and shape[0] != 1 and (behind := walk.rank(node.inputs[0]) - 2) > 0:
        node.inputs[1] = walk.emit(
            "Unsqueeze", [node.inputs[1]], f"{node.outputs[0]}_slope", axes=list(range(1, 1 + behind))
        )


def _gemm(walk: Walk, node: Node) -> None:
    """The third input is broadcast without being asked."""
    node.attributes.pop("broadcast", None)


def _reshape(walk: Walk, node: Node) -> None:
    """The shape was an attribute."""
    if "shape" in node.attributes and len(node.inputs) == 1:
        numpy_helper = walk.onnx.numpy_helper
        shape = np.array(node.attributes.pop("shape"), np.int64)
        name = f"{node.outputs[0]}_shape"
        node.inputs.append(walk.emit("Constant", [], name, value=numpy_helper.from_array(shape, name)))


def _cast(walk: Walk, node: Node) -> None:
    """The type was named in text."""
    to = node.attributes.get("to")
    if isinstance(to, bytes | str):
        name = node.text("to").upper()
        if name not in walk.onnx.TensorProto.DataType.keys():  # noqa: SIM118 - an enum of protobuf, no dictionary
            raise NotUpgraded(f'it casts to an unknown type "{name}"')
        node.attributes["to"] = walk.onnx.TensorProto.DataType.Value(name)


def _concat(walk: Walk, node: Node) -> None:
    """``axis`` was 1 where it was not said."""
    node.attributes.setdefault("axis", 1)


def _infers(walk: Walk, node: Node) -> None:
    """``is_test`` told training from inference; served models infer."""
    node.attributes.pop("is_test", None)


def _batch_norm(walk: Walk, node: Node) -> None:
    """More than one output meant training, with the statistics of the batch."""
    if any(node.outputs[1:]):
        raise NotUpgraded("it is in its training form, with more than one output: export the model for inference")
    node.outputs = node.outputs[:1]
    _infers(walk, node)


def _selu(walk: Walk, node: Node) -> None:
    """Its defaults had four digits."""
    node.attributes.setdefault("alpha", 1.6732)
    node.attributes.setdefault("gamma", 1.0507)


def _pad(walk: Walk, node: Node) -> None:
    """``pads`` was called ``paddings``."""
    if "paddings" in node.attributes:
        node.attributes["pads"] = node.attributes.pop("paddings")


def _window(walk: Walk, node: Node) -> None:
    """Early exporters gave one pad for both ends of a dimension."""
    pads, kernel = node.attributes.get("pads"), node.attributes.get("kernel_shape")
    if pads and kernel and len(pads) == len(kernel):
        node.attributes["pads"] = [*pads, *pads]


def _lp(walk: Walk, node: Node) -> None:
    """``p`` was a float."""
    _window(walk, node)
    p = node.attributes.get("p", 2)
    if int(p) != p:
        raise NotUpgraded(f"its p {p} is not a whole number")
    node.attributes["p"] = int(p)


def _split(walk: Walk, node: Node) -> None:
    """The lengths could be a second input."""
    if len(node.inputs) > 1:
        node.attributes["split"] = walk.integers(node.inputs.pop(), "split")
    node.attributes.setdefault("axis", 0)


def _upsample(walk: Walk, node: Node) -> None:
    """The scales of height and width had an attribute each, and linear was called bilinear."""
    if "scales" not in node.attributes:
        if not {"height_scale", "width_scale"} <= node.attributes.keys():
            raise NotUpgraded("it has neither scales nor height_scale and width_scale")
        scales = [node.attributes.pop(name) for name in ("height_scale", "width_scale")]
        node.attributes["scales"] = [1.0, 1.0, *scales]
    if node.text("mode") == "bilinear":
        node.attributes["mode"] = "linear"


def _tile(walk: Walk, node: Node) -> None:
    """Inputs were a number of tiles and the axis to lay them along."""
    if len(node.inputs) == 3:
        tiles, axis = (walk.integers(node.inputs[i], what)[0] for i, what in ((1, "tiles"), (2, "axis")))
        repeats = np.ones(walk.rank(node.inputs[0]), np.int64)
        repeats[axis] = tiles
        name = f"{node.outputs[0]}_repeats"
        node.inputs[1:] = [walk.emit("Constant", [], name, value=walk.onnx.numpy_helper.from_array(repeats, name))]


def _recurrent(walk: Walk, node: Node) -> None:
    """Whether the whole sequence was an output was said as well as wired."""
    node.attributes.pop("output_sequence", None)


RULES: dict[str, Callable[[Walk, Node], None]] = {
    **dict.fromkeys(BROADCASTING, _broadcast),
    "PRelu": _prelu,
    "Gemm": _gemm,
    "Reshape": _reshape,
    "Cast": _cast,
    "Concat": _concat,
    "Dropout": _infers,
    "BatchNormalization": _batch_norm,
    "Selu": _selu,
    "Pad": _pad,
    **dict.fromkeys(("Conv", "ConvTranspose", "MaxPool", "AveragePool"), _window),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), _lp),
    "Split": _split,
    "Upsample": _upsample,
    "Tile": _tile,
    **dict.fromkeys(("RNN", "GRU", "LSTM"), _recurrent),
}
