"""Small CNTK models, written byte by byte: no Python that this project runs on can import CNTK to make them.

A model file is a protobuf of nested dictionaries (``CNTK.proto`` of CNTK 2.7); shapes are in CNTK's order, the reverse
of numpy's.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

BATCH, SEQUENCE = "defaultBatchAxis", "defaultDynamicAxis"
# PrimitiveOpType of CNTK 2.7.
TANH, RELU, PLUS, TIMES, PAST_VALUE, REDUCE, COMBINE = 2, 3, 19, 31, 37, 39, 44


@dataclass(frozen=True)
class Shape:
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Size:
    value: int


@dataclass(frozen=True)
class Axis:
    name: str
    index: int = 2**31 - 1
    ordered: bool = False


def tag(number: int, kind: int, payload: bytes) -> bytes:
    return varint(number << 3 | kind) + payload


def varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def text(number: int, payload: bytes) -> bytes:
    return tag(number, 2, varint(len(payload)) + payload)


def number(at: int, value: int) -> bytes:
    return tag(at, 0, varint(value))


def value(of: Any) -> bytes:
    """A ``DictionaryValue``: version, type, and the value in the field of its type."""
    if isinstance(of, bool):
        kind, payload = 1, number(3, of)
    elif isinstance(of, Size):
        kind, payload = 3, number(5, of.value)
    elif isinstance(of, int):
        kind, payload = 2, number(4, of)
    elif isinstance(of, str):
        kind, payload = 6, text(8, of.encode())
    elif isinstance(of, Shape):
        kind, payload = 7, text(9, shape(of.dims))
    elif isinstance(of, Axis):
        axis = number(1, of.index) + text(2, of.name.encode()) + number(3, of.ordered)
        kind, payload = 8, text(10, axis)
    elif isinstance(of, list):
        kind, payload = 9, text(11, b"".join(text(1, value(item)) for item in of))
    elif isinstance(of, dict):
        kind, payload = 10, text(12, dictionary(of))
    else:
        array = np.asarray(of)
        double = array.dtype == np.float64
        values = text(1, np.asarray(array, "<f8" if double else "<f4").tobytes())
        view = number(1, 2 if double else 1) + number(2, 0) + text(3, shape(array.shape[::-1]))
        kind, payload = 11, text(13, view + text(5 if double else 4, values))
    return number(1, 1) + number(2, kind) + payload


def shape(dims: Sequence[int]) -> bytes:
    return text(1, b"".join(varint(dim) for dim in dims))


def dictionary(entries: Mapping[str, Any]) -> bytes:
    pairs = (text(1, key.encode()) + text(2, value(item)) for key, item in entries.items())
    return number(1, 1) + b"".join(text(2, pair) for pair in pairs)


@dataclass
class Graph:
    """Variables and functions as they are added; each gets a uid."""

    variables: list[dict[str, Any]] = field(default_factory=list)
    functions: list[dict[str, Any]] = field(default_factory=list)
    uids: Any = field(default_factory=itertools.count)

    def input(self, name: str, dims: tuple[int, ...], *axes: str, data_type: int = 1) -> str:
        return self._variable(f"Input{next(self.uids)}", 0, name, dims, axes, data_type)

    def placeholder(self, uid: str, dims: tuple[int, ...], *axes: str) -> str:
        return self._variable(uid, 4, "", dims, axes, 1)

    def parameter(self, array: Any) -> str:
        array = np.asarray(array)
        uid = self._variable(f"Parameter{next(self.uids)}", 2, "", array.shape[::-1], (), 1 + (array.itemsize == 8))
        self.variables[-1]["value"] = array
        return uid

    def _variable(
        self, uid: str, kind: int, name: str, dims: Sequence[int], axes: Sequence[str], data_type: int
    ) -> str:
        dynamic = [Axis(axis, ordered=axis != BATCH) for axis in axes]
        self.variables.append(
            {
                "version": Size(1),
                "type": "Variable",
                "uid": uid,
                "kind": Size(kind),
                "data_type": Size(data_type),
                "dynamic_axis": dynamic,
                "is_sparse": False,
                "name": name,
                "needs_gradient": kind == 2,
                "shape": Shape(tuple(dims)),
            }
        )
        return uid

    def function(self, op: int, inputs: list[str], name: str = "", **attributes: Any) -> str:
        uid = f"Function{next(self.uids)}"
        self.functions.append(
            {
                "version": Size(1),
                "type": "PrimitiveFunction",
                "uid": uid,
                "op": Size(op),
                "name": name,
                "inputs": inputs,
                "attributes": attributes,
            }
        )
        return uid

    def output(self, function: str, index: int = 0) -> str:
        return f"{function}_Output_{index}"

    def save(self, root: str, file: Path, name: str = "") -> Path:
        model = {
            "version": Size(3),
            "type": "CompositeFunction",
            "uid": "Composite",
            "root": root,
            "name": name,
            "inputs": self.variables,
            "primitive_functions": self.functions,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(dictionary(model))
        return file


def dense(
    file: Path, weight: Any, bias: Any, *axes: str, data_type: int = 1, names: tuple[str, str] = ("x", "y")
) -> Path:
    """``tanh(x W + b)``; ``weight`` is ``[inputs, outputs]``."""
    graph = Graph()
    x = graph.input(names[0], (weight.shape[0],), *(axes or (BATCH,)), data_type=data_type)
    times = graph.function(TIMES, [graph.parameter(weight), x], outputRank=Size(1), inferInputRankToMap=-1)
    plus = graph.function(PLUS, [graph.output(times), graph.parameter(bias)])
    return graph.save(graph.function(TANH, [graph.output(plus)], names[1]), file)


def running_sum(file: Path) -> Path:
    """``total[t] = x[t] + total[t - 1]`` along a sequence."""
    graph = Graph()
    x = graph.input("x", (2,), SEQUENCE, BATCH)
    start = graph.parameter(np.zeros((), "float32"))
    past = graph.function(PAST_VALUE, ["", start], offset=Size(1))
    plus = graph.function(PLUS, [x, graph.output(past)], "total")
    # The loop: a placeholder stands for the sum until there is one, and goes by its uid.
    graph.placeholder(graph.output(plus), (2,), SEQUENCE, BATCH)
    graph.functions[0]["inputs"][0] = graph.output(plus)
    return graph.save(plus, file)


def sum_and_row(file: Path) -> Path:
    """``y``: the sum of the steps of ``x``, a sequence, and ``b``, which it has one of."""
    graph = Graph()
    x = graph.input("x", (2,), SEQUENCE, BATCH)
    row = graph.input("b", (2,), BATCH)
    axis = Axis(SEQUENCE, ordered=True)
    total = graph.function(REDUCE, [x], axis=axis, reductionOpName="Sum", reductionKeepDimensions=False)
    return graph.save(graph.function(PLUS, [graph.output(total), row], "y"), file)


def two_of_each(file: Path) -> Path:
    """Inputs ``a`` and ``b``, outputs ``sum`` (three times the sum over ``a``, and ``b``) and ``squashed``."""
    graph = Graph()
    a, b = graph.input("a", (2,), BATCH), graph.input("b", (3,), BATCH)
    ones = graph.parameter(np.ones((2, 3), "float32"))
    times = graph.function(TIMES, [ones, a], outputRank=Size(1), inferInputRankToMap=-1)
    plus = graph.function(PLUS, [graph.output(times), b], "sum")
    tanh = graph.function(TANH, [a], "squashed")
    return graph.save(graph.function(COMBINE, [graph.output(plus), graph.output(tanh)]), file)


def over_the_batch(file: Path) -> Path:
    """``y``: the sum over the whole batch, which cannot be made a sequence."""
    graph = Graph()
    a = graph.input("a", (2,), BATCH)
    reduce = {"axis": Axis(BATCH), "reductionOpName": "Sum", "reductionKeepDimensions": True}
    return graph.save(graph.function(REDUCE, [a], "y", **reduce), file)


def any_width(file: Path) -> Path:
    """``tanh`` of an input whose one dimension is free."""
    graph = Graph()
    a = graph.input("a", (-3,), BATCH)
    return graph.save(graph.function(TANH, [a], "y"), file)
