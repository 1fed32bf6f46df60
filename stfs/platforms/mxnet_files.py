"""MXNet's files: which belong together, and what a symbol's JSON tells of its inputs. Loads no library."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed
from stfs.signature import Shape

SYMBOL = "-symbol.json"
PARAMS = re.compile(r"(.*)-(\d{4,})\.params")
MOST_PARAMS_BYTES = 2**31 - 1
"""MXNet counts in int32 wherever this build of it reads a file from memory."""

# Operators whose first input has the shape of their output, as far as its second dimension goes.
KEEP_SHAPE = {
    "Activation", "BatchNorm", "BlockGrad", "Cast", "Dropout", "LeakyReLU", "_copy", "_div_scalar", "_minus_scalar",
    "_mul_scalar", "_plus_scalar", "cast", "identity", "relu", "sigmoid", "tanh",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A symbol and its parameters; ``prefix`` is what their names begin with."""

    prefix: str
    symbol: Path
    params: Path


def symbol_files(path: Path) -> list[Path]:
    """The symbols at ``path``: a symbol or params file, a folder, or a folder and prefix (``models/mlp``).

    Never raises; an unreadable path gives an empty list. One called ``model-symbol.json`` is the answer alone.
    """
    try:
        if path.is_dir():
            found = sorted(f for f in path.iterdir() if f.name.endswith(SYMBOL) and not f.name.startswith("."))
            model = [file for file in found if file.name == f"model{SYMBOL}"]
            return [file for file in model or found if file.is_file()]
        if path.name.endswith(SYMBOL):
            candidate = path
        elif named := PARAMS.fullmatch(path.name):
            candidate = path.with_name(named[1] + SYMBOL)
        else:
            candidate = path.with_name(path.name + SYMBOL)
        return [candidate] if candidate.is_file() else []
    except OSError:
        return []


def find_files(path: Path) -> ModelFiles:
    """The symbol at ``path`` and its parameters: those that ``path`` names, else those of the highest epoch.

    Raises :class:`LoadFailed` naming what is missing, or what cannot be chosen between.
    """
    symbols = symbol_files(path)
    if not symbols:
        raise LoadFailed(f"{path}: no file that ends in {SYMBOL}; export(prefix) and save_checkpoint write one")
    if len(symbols) > 1:
        told = " and ".join(file.name for file in symbols)
        raise LoadFailed(f"{path}: which is the model, {told}? Name one of them model{SYMBOL}, or keep one only")
    symbol = symbols[0]
    prefix = symbol.name.removesuffix(SYMBOL)
    if path.name.endswith(".params"):
        return ModelFiles(prefix, symbol, path)
    epochs = {}
    for file in symbol.parent.iterdir():
        named = PARAMS.fullmatch(file.name)
        if named and named[1] == prefix:
            epochs[int(named[2])] = file
    if not epochs:
        raise LoadFailed(f"{symbol}: its parameters are not beside it: {prefix}-0000.params, or of another epoch")
    return ModelFiles(prefix, symbol, epochs[max(epochs)])


def read_params(file: Path) -> bytes:
    """The content of a params file. Raises :class:`LoadFailed`."""
    try:
        if file.stat().st_size > MOST_PARAMS_BYTES:
            raise LoadFailed(f"{file}: MXNet 1 reads no parameters of 2 GiB or more")
        return file.read_bytes()
    except OSError as error:
        raise LoadFailed(f"{file}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True, slots=True)
class Graph:
    """What a symbol's JSON says. ``version`` is the MXNet that wrote it, as a number (10901); 0 if untold."""

    nodes: Sequence[Mapping[str, Any]]
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
    return text, Graph(content["nodes"], _version(content))


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
    return isinstance(entries, list) and all(isinstance(e, list) and e and _is_index(e[0], limit) for e in entries)


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
