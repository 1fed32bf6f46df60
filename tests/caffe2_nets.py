"""Writes Caffe2 nets for tests, and runs them through the platform."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stfs.platforms.base import LoadOptions
from stfs.platforms.caffe2 import Caffe2Platform, Caffe2Servable
from stfs.platforms.caffe2_proto import net_message

S = "serving_default"
ONNX_NUMBERS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
FILLS = {"float32": "GivenTensorFill", "int32": "GivenTensorIntFill", "int64": "GivenTensorInt64Fill"}


def operator(kind: str, inputs: Sequence[str], outputs: Sequence[str], called: str = "", **arguments: Any) -> Any:
    """An ``OperatorDef``; an argument's field follows from the type of its value."""
    net = net_message()()
    op = net.op.add(type=kind, name=called, input=inputs, output=outputs)
    for name, value in arguments.items():
        argument = op.arg.add(name=name)
        values = value if isinstance(value, list) else [value]
        kind_of = next((t for t in (str, float, int) if any(isinstance(v, t) for v in values)), int)
        field = {str: "s", float: "f", int: "i"}[kind_of]
        values = [v.encode() for v in values] if kind_of is str else values
        if isinstance(value, list):
            getattr(argument, {"s": "strings", "f": "floats", "i": "ints"}[field]).extend(values)
        else:
            setattr(argument, field, values[0])
    return op


def fill(name: str, array: Any) -> Any:
    """The operator of an init net that fills a blob with ``array``."""
    values = array.ravel().tolist()
    return operator(FILLS[array.dtype.name], [], [name], values=values, shape=list(array.shape))


def net(operators: Sequence[Any], inputs: Sequence[str] = (), outputs: Sequence[str] = (), name: str = "net") -> Any:
    """A ``NetDef``."""
    made = net_message()(name=name, external_input=inputs, external_output=outputs)
    made.op.extend(operators)
    return made


def save(
    folder: Path,
    operators: Sequence[Any],
    outputs: Sequence[str],
    weights: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Path:
    """The pair of nets in ``folder``; ``inputs`` are arrays whose dtypes and shapes go into ``value_info.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    weights, inputs = weights or {}, inputs or {}
    fills = [fill(name, array) for name, array in weights.items()] or [operator("ConstantFill", [], ["unused"])]
    (folder / "init_net.pb").write_bytes(net(fills, (), list(weights)).SerializeToString())
    (folder / "predict_net.pb").write_bytes(net(operators, [*inputs, *weights], outputs).SerializeToString())
    if inputs:
        told = {name: [ONNX_NUMBERS[a.dtype.name], list(a.shape)] for name, a in inputs.items()}
        (folder / "value_info.json").write_text(json.dumps(told))
    return folder


def load(folder: Path, **options: Any) -> Caffe2Servable:
    return Caffe2Platform().load(folder, LoadOptions(**options))


def answers(
    folder: Path,
    operators: Sequence[Any],
    inputs: Mapping[str, Any],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Any] | None = None,
    batches: bool = True,
) -> list[Any]:
    """The outputs for ``inputs``; first checks that the model batches as told, and then that rows alone agree."""
    servable = load(save(folder, operators, outputs, weights, inputs))
    signature = servable.signatures[S]
    assert signature.batchable == batches
    assert [spec.name for spec in signature.outputs] == list(outputs)
    have = servable.run(S, signature.bind(inputs))
    for spec in signature.outputs:
        assert have[spec.name].dtype == spec.dtype
    if batches:
        rows = len(next(iter(inputs.values())))
        for i in range(rows):
            alone = servable.run(S, {name: array[i : i + 1] for name, array in inputs.items()})
            for name in outputs:
                np.testing.assert_allclose(alone[name], have[name][i : i + 1], rtol=1e-5, atol=1e-6)
    return [have[name] for name in outputs]


def noise(*shape: int, seed: int = 0, low: float | None = None) -> Any:
    """float32 drawn from a normal distribution, or evenly from ``low`` to ``low`` + 1."""
    random = np.random.default_rng([seed, *shape])
    drawn = random.normal(size=shape) if low is None else random.uniform(low, low + 1, shape)
    return drawn.astype(np.float32)
