"""What the JSON of an MXNet symbol says. Checks what MXNet trusts; loads no library."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed
from stfs.signature import Shape

# Operators whose first input has the shape of their output, as far as its second dimension goes.
KEEP_SHAPE = {
    "Activation", "BatchNorm", "BlockGrad", "Cast", "Dropout", "LeakyReLU", "_copy", "_div_scalar", "_minus_scalar",
    "_mul_scalar", "_plus_scalar", "cast", "identity", "relu", "sigmoid", "tanh",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Graph:
    """What a symbol's JSON says. ``version`` is the MXNet that wrote it, as a number (10901); 0 if untold."""

    nodes: Sequence[Mapping[str, Any]]
    heads: Sequence[Sequence[int]]
    version: int

    def input_shape(self, name: str, weights: Mapping[str, tuple[int, ...]]) -> Shape | None:
        """The shape of the input ``name``, its first dimension open; ``None`` if the files do not tell.

        It is noted in the graph, or follows from the weights of a fully connected layer that the input feeds.
        ``weights`` are the shapes of the parameters by name.
        """
        index = next((i for i, node in enumerate(self.nodes) if node["op"] == "null" and node["name"] == name), None)
        if index is None:
            return None
        noted = _dims(self._attributes(index).get("__shape__", ""))
        if noted and all(dim > 0 for dim in noted[1:]):
            return (None, *noted[1:])
        layer = self._layer(index)
        if layer is None or layer["op"] != "FullyConnected":
            return None
        width = weights.get(self._input_name(layer, 1), ())[1:]
        return (None, *width) if width else None

    def channels(self, name: str, weights: Mapping[str, tuple[int, ...]]) -> int | None:
        """The channels of the image that the input ``name`` is, where it feeds a convolution; for advice."""
        index = next((i for i, node in enumerate(self.nodes) if node["op"] == "null" and node["name"] == name), None)
        layer = None if index is None else self._layer(index)
        if layer is None or layer["op"] != "Convolution":
            return None
        weight = weights.get(self._input_name(layer, 1), ())
        return weight[1] if len(weight) > 1 else None

    def uses_later_outputs(self) -> bool:
        """Whether it refers to any output of a node but the first."""
        return any(entry[1] for entries in self._entries() for entry in entries)

    def first_outputs_json(self) -> bytes:
        """The graph with every reference turned to the first output of its node, which every node has."""
        nodes = [{**node, "inputs": [[entry[0], 0, 0] for entry in node["inputs"]]} for node in self.nodes]
        arguments = [i for i, node in enumerate(self.nodes) if node["op"] == "null"]
        heads = [[i, 0, 0] for i in range(len(nodes))]
        attributes = {"mxnet_version": ["int", self.version]} if self.version else {}
        return json.dumps({"nodes": nodes, "arg_nodes": arguments, "heads": heads, "attrs": attributes}).encode()

    def check_outputs(self, internals: bytes) -> None:
        """Raises ``ValueError`` for a reference to an output that its node does not have.

        ``internals`` is what MXNet makes of :meth:`first_outputs_json`: its heads are all outputs of all nodes.
        """
        told = json.loads(internals)
        most: dict[str, int] = {}
        for node, output, *_ in told["heads"]:
            name = told["nodes"][node]["name"]
            most[name] = max(output, most.get(name, 0))
        for entries in self._entries():
            for node, output, *_ in entries:
                name = self.nodes[node]["name"]
                if output > most.get(name, 0):
                    raise ValueError(f'output {output} of node "{name}" is used, which has no such output')

    def _entries(self) -> list[Sequence[Sequence[int]]]:
        return [*(node["inputs"] for node in self.nodes), self.heads]

    def _layer(self, index: int) -> Mapping[str, Any] | None:
        """The first node on the way from ``index`` that changes the shape, where the way is one."""
        for _ in self.nodes:
            users = [i for i, node in enumerate(self.nodes) if node["inputs"] and node["inputs"][0][0] == index]
            if len(users) != 1:
                return None
            index = users[0]
            if self.nodes[index]["op"] not in KEEP_SHAPE:
                return self.nodes[index]
        return None

    def _input_name(self, node: Mapping[str, Any], position: int) -> str:
        return str(self.nodes[node["inputs"][position][0]]["name"]) if len(node["inputs"]) > position else ""

    def _attributes(self, index: int) -> Mapping[str, str]:
        node = self.nodes[index]
        # Called "param" before MXNet 0.9 and "attr" before 1.0.
        found = node.get("attrs") or node.get("attr") or node.get("param") or {}
        return found if isinstance(found, dict) else {}


def read_graph(file: Path) -> tuple[bytes, Graph]:
    """The symbol's JSON and what is read from it.

    Raises :class:`LoadFailed` if it is not a symbol: MXNet trusts the numbers in it and would read beyond its memory.
    """
    try:
        text = file.read_bytes()
        content = json.loads(text)
    except OSError as error:
        raise LoadFailed(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise LoadFailed(f"{file}: is not the JSON of an MXNet symbol: {error}") from None
    problem = _problem(content)
    if problem:
        raise LoadFailed(f"{file}: is not an MXNet symbol: {problem}")
    return text, Graph(content["nodes"], content["heads"], _version(content))


def _problem(content: Any) -> str:
    if not isinstance(content, dict) or not isinstance(content.get("nodes"), list):
        return 'it has no "nodes"'
    nodes = content["nodes"]
    for i, node in enumerate(nodes):
        if not isinstance(node, dict) or not isinstance(node.get("op"), str) or not isinstance(node.get("name"), str):
            return f"node {i} has no operator or no name"
        if not _refers(node.get("inputs"), i):
            return f'node {i}, "{node["name"]}", refers to a node that does not come before it'
    arguments = content.get("arg_nodes")
    if not isinstance(arguments, list) or not all(_is_index(i, len(nodes)) for i in arguments):
        return '"arg_nodes" is missing or names a node that is not there'
    if not content.get("heads") or not _refers(content["heads"], len(nodes)):
        return '"heads" is missing or names a node that is not there'
    return ""


def _refers(entries: Any, limit: int) -> bool:
    """Whether they are ``[node, output, ...]`` of numbers, and the nodes below ``limit``."""
    return isinstance(entries, list) and all(
        isinstance(e, list) and len(e) > 1 and all(type(i) is int and i >= 0 for i in e) and e[0] < limit
        for e in entries
    )


def _is_index(value: Any, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit


def _version(content: Mapping[str, Any]) -> int:
    match content.get("attrs"):
        case {"mxnet_version": [_, int(number)]}:
            return number
    return 0


def _dims(text: Any) -> tuple[int, ...]:
    try:
        value = ast.literal_eval(text) if isinstance(text, str) and text else ()
    except (ValueError, SyntaxError):
        return ()
    return value if isinstance(value, tuple) and all(type(dim) is int for dim in value) else ()
