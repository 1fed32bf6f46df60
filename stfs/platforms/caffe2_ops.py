"""Two Caffe2 nets as one ONNX model. Owns the walk over the operators, blobs and their names.

Caffe2 runs operators in order and lets them overwrite blobs; an ONNX value is written once. Here a table says which
value each blob holds now. Must not live here: what an operator means (``caffe2_ops_*.py``), files, sessions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stfs.errors import LoadFailed
from stfs.platforms import caffe2_ops_image, caffe2_ops_math, caffe2_ops_norm, caffe2_ops_shape
from stfs.platforms.caffe2_graph import HANDLERS, IR_VERSION, OPSET, Graph, Op, Unconvertible
from stfs.platforms.caffe2_proto import Net, OperatorDef
from stfs.signature import TensorSpec

ROOMS = (caffe2_ops_image, caffe2_ops_math, caffe2_ops_norm, caffe2_ops_shape)
"""Imported so that their handlers are in the table."""

TRAINING = ("Loss", "Gradient", "Accuracy", "LabelCrossEntropy", "SigmoidCrossEntropyWithLogits", "WeightedSum", "Iter")
MOST_TOLD = 12
"""Operators named in one message."""


@dataclass(frozen=True, slots=True)
class Converted:
    """An ONNX model and the names that its outputs should have: ONNX lets none be called like an input."""

    model: Any
    outputs: Mapping[str, str]


def net_inputs(init: Net, predict: Net, outputs: Sequence[str]) -> tuple[str, ...]:
    """The blobs that a request must bring: what the outputs need and the init net does not fill.

    Exporters for phones fill the inputs with a dummy; where nothing is left to bring, it is the first external input.
    """
    _, needed = _live(init, predict, (), outputs)
    if not needed and predict.external_inputs:
        return predict.external_inputs[:1]
    order = {name: i for i, name in enumerate(predict.external_inputs)}
    return tuple(sorted(needed, key=lambda name: (order.get(name, len(order)), name)))


def convert(init: Net, predict: Net, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> Converted:
    """The ONNX model that computes ``outputs`` from ``inputs``, whose shapes hold no ``None``.

    Operators that the outputs do not need are left out. Raises :class:`LoadFailed` naming the file and every operator
    that the converter lacks, or the one that it cannot write and why.
    """
    operators, needed = _live(init, predict, [spec.name for spec in inputs], outputs)
    _refuse_unknown(operators)
    if needed:
        told = ", ".join(f'"{name}"' for name in sorted(needed)[:MOST_TOLD])
        raise LoadFailed(
            f"{predict.path}: it reads {told}, which {init.path.name} does not fill and which no input brings: "
            "is that file whole, and are all inputs described?"
        )
    graph = Graph()
    graph.reserved = {*(spec.name for spec in inputs), *outputs}
    return _finish(graph, predict, inputs, outputs, _written(graph, operators, inputs))


def _live(
    init: Net, predict: Net, inputs: Sequence[str], outputs: Sequence[str]
) -> tuple[list[tuple[Net, OperatorDef]], set[str]]:
    """The operators that the outputs need, in order, and the blobs that those read and nothing fills."""
    fills = [(init, op) for op in init.operators if not op.outputs or not set(op.outputs) <= set(inputs)]
    needed = set(outputs)
    live = []
    for net, op in reversed([*fills, *((predict, op) for op in predict.operators)]):
        if needed.isdisjoint(op.outputs):
            continue
        needed.difference_update(op.outputs)
        needed.update(op.inputs)
        live.append((net, op))
    return live[::-1], needed - set(inputs)


def _refuse_unknown(operators: Sequence[tuple[Net, OperatorDef]]) -> None:
    unknown = [(net, op) for net, op in operators if op.type not in HANDLERS]
    if not unknown:
        return
    told = [str(op) for _, op in unknown[:MOST_TOLD]]
    if len(unknown) > MOST_TOLD:
        told.append(f"and {len(unknown) - MOST_TOLD} more")
    kinds = {op.type for _, op in unknown}
    training = sorted(kind for kind in kinds if any(kind.endswith(word) for word in TRAINING))
    advice = f" ({', '.join(training)} belongs to training: save the net for inference)" if training else ""
    raise LoadFailed(f"{unknown[0][0].path}: the converter lacks {', '.join(told)}{advice}")


def _written(
    graph: Graph, operators: Sequence[tuple[Net, OperatorDef]], inputs: Sequence[TensorSpec]
) -> dict[str, str | Unconvertible]:
    """Writes the operators; returns the value that each blob holds at the end, or why it holds none."""
    import onnx

    holds: dict[str, str | Unconvertible] = {}
    for spec in inputs:
        kind = onnx.helper.np_dtype_to_tensor_dtype(spec.dtype)
        graph.types.declare(spec.name, onnx.helper.make_tensor_type_proto(kind, spec.shape))
        holds[spec.name] = spec.name
    for net, definition in operators:
        graph.label = f"{definition.position} {definition.type} {definition.outputs[0]}"
        try:
            made = HANDLERS[definition.type](Op(definition, [_held(holds, name) for name in definition.inputs]), graph)
        except Unconvertible as error:
            raise LoadFailed(f"{net.path}: {definition}: {error}") from error
        values = [made] if isinstance(made, str) else list(made)
        for i, blob in enumerate(definition.outputs):
            holds[blob] = (
                values[i]
                if i < len(values)
                else Unconvertible(f'output {i + 1} of {definition}, "{blob}", is not computed when serving')
            )
    return holds


def _held(holds: Mapping[str, str | Unconvertible], blob: str) -> str:
    value = holds[blob]
    if isinstance(value, Unconvertible):
        raise value
    return value


def _finish(
    graph: Graph,
    predict: Net,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    holds: Mapping[str, str | Unconvertible],
) -> Converted:
    import onnx

    helper = onnx.helper
    taken = {spec.name for spec in inputs}
    names: dict[str, str] = {}
    declared = []
    for blob in outputs:
        try:
            value = _held(holds, blob)
        except Unconvertible as error:
            raise LoadFailed(f"{predict.path}: {error}") from error
        name = graph.fresh(blob) if blob in taken else blob
        names[name] = blob
        graph.nodes.append(helper.make_node("Identity", [value], [name], name=f"output {blob}"))
        kind = graph.types.dtype(value)
        declared.append(
            helper.make_tensor_value_info(
                name, 0 if kind is None else helper.np_dtype_to_tensor_dtype(kind), graph.types.shape(value)
            )
        )
    used = {name for node in graph.nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            predict.name or "caffe2",
            [helper.make_tensor_value_info(s.name, helper.np_dtype_to_tensor_dtype(s.dtype), s.shape) for s in inputs],
            declared,
            [onnx.numpy_helper.from_array(w, name) for name, w in graph.weights.items() if name in used],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="stfs",
    )
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise LoadFailed(f"{predict.path}: does not make a sound ONNX model: {error}") from error
    return Converted(model, names)
