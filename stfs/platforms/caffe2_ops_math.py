"""Caffe2's arithmetic as ONNX: element by element, products of matrices, reductions.

Must not live here: images, normalisation, the moving about of elements.
"""

from __future__ import annotations

import numpy as np

from stfs.platforms.caffe2_graph import Graph, Op, Unconvertible, operator

SAME_NAME = (
    "Relu", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Abs", "Sign", "Ceil", "Floor", "Cos", "Sin", "Tan", "Acos",
    "Asin", "Atan", "Cosh", "Sinh", "Softplus", "Softsign", "Reciprocal", "Erf", "Not",
)  # fmt: skip
UNARY = {name: name for name in SAME_NAME} | {"Negative": "Neg"}
BINARY = {
    "Add": "Add", "Sub": "Sub", "Mul": "Mul", "Div": "Div", "And": "And", "Or": "Or", "Xor": "Xor", "LT": "Less",
    "LE": "Less", "GT": "Greater", "GE": "Greater", "EQ": "Equal", "NE": "Equal",
}  # fmt: skip
FLOAT_MAX = float(np.finfo(np.float32).max)


@operator(*UNARY)
def unary(op: Op, graph: Graph) -> str:
    """One number at a time."""
    return graph.emit(UNARY[op.type], [op[0]])


@operator("Sqr", "Cube", "Rsqrt", "Swish")
def composed(op: Op, graph: Graph) -> str:
    """What ONNX writes with two nodes."""
    x = op[0]
    match op.type:
        case "Sqr":
            return graph.emit("Mul", [x, x])
        case "Cube":
            return graph.emit("Mul", [graph.emit("Mul", [x, x]), x])
        case "Rsqrt":
            return graph.emit("Reciprocal", [graph.emit("Sqrt", [x])])
    return graph.emit("Mul", [x, graph.emit("Sigmoid", [x])])


@operator("LeakyRelu", "Elu", "Selu", "HardSigmoid", "ThresholdedRelu")
def with_numbers(op: Op, graph: Graph) -> str:
    """Activations with parameters; each keeps Caffe2's own defaults."""
    defaults: dict[str, tuple[tuple[str, str, float], ...]] = {
        "LeakyRelu": (("alpha", "alpha", 0.01),),
        "Elu": (("alpha", "alpha", 1.0),),
        "Selu": (("alpha", "alpha", 1.6732632423543772), ("gamma", "scale", 1.0507009873554805)),
        "HardSigmoid": (("alpha", "alpha", 0.2), ("beta", "beta", 0.5)),
        "ThresholdedRelu": (("alpha", "alpha", 1.0),),
    }
    numbers = {theirs: op.args.number(ours, default) for theirs, ours, default in defaults[op.type]}
    return graph.emit(op.type, [op[0]], **numbers)


@operator("PRelu")
def prelu(op: Op, graph: Graph) -> str:
    """The second input holds one slope, or one for each channel."""
    slopes = graph.shape(op[1])
    if slopes and slopes != (1,) and not op.channels_last:
        shape = [-1] + [1] * (graph.rank(op[0]) - 2)
        return graph.emit("PRelu", [op[0], graph.emit("Reshape", [op[1], graph.constant(shape)])])
    return graph.emit("PRelu", [op[0], op[1]])


@operator("Clip", "ReluN")
def clip(op: Op, graph: Graph) -> str:
    """Between ``min`` and ``max``; between 0 and ``n`` (6)."""
    low, high = op.args.number("min", -FLOAT_MAX), op.args.number("max", FLOAT_MAX)
    if op.type == "ReluN":
        low, high = 0.0, op.args.number("n", 6.0)
    bounds = [graph.constant(np.array(bound, np.float32)) for bound in (low, high)]
    return graph.emit("Clip", [op[0], *bounds])


@operator("Scale")
def scale(op: Op, graph: Graph) -> str:
    """Times ``scale`` (1)."""
    return graph.emit("Mul", [op[0], graph.constant(np.array(op.args.number("scale", 1.0), graph.dtype(op[0])))])


@operator(*BINARY)
def binary(op: Op, graph: Graph) -> str:
    """Two tensors, broadcast as numpy does, or with ``broadcast`` as Caffe2 used to."""
    pair = [op[0], _aligned(op, graph)]
    out = graph.emit(BINARY[op.type], pair)
    match op.type:
        case "NE":
            return graph.emit("Not", [out])
        case "LE" | "GE":
            return graph.emit("Or", [out, graph.emit("Equal", pair)])
    return out


@operator("Pow")
def power(op: Op, graph: Graph) -> str:
    """To the ``exponent``, or to what the second input holds."""
    if len(op) > 1:
        return graph.emit("Pow", [op[0], _aligned(op, graph)])
    if "exponent" not in op.args:
        raise Unconvertible("it has neither an exponent nor a second input")
    return graph.emit("Pow", [op[0], graph.constant(np.array(op.args.number("exponent", 0.0), np.float32))])


def _aligned(op: Op, graph: Graph) -> str:
    """The second input, in a shape that numpy's rules broadcast as Caffe2's old rules would.

    With ``broadcast`` its dimensions lie on those of the first input from ``axis`` on (or from the letter ``axis_str``
    of ``order``), at the end where neither is said. One number goes with everything.
    """
    a, b = op[0], op[1]
    axis, letter = op.args.integer("axis", -1), op.args.text("axis_str", "")
    if not op.args.integer("broadcast", 0):
        if axis != -1 or letter:
            raise Unconvertible("it has an axis but no broadcast=1")
        return b
    a_shape, b_shape = graph.shape(a), graph.shape(b)
    if np.prod(b_shape) == 1:
        return _reshaped(graph, b, [])
    if letter:
        axis = op.args.text("order", "NCHW").find(letter)
    elif axis == -1:
        axis = len(a_shape) - len(b_shape)
    if not 0 <= axis <= len(a_shape) - len(b_shape):
        raise Unconvertible(f"shape {list(b_shape)} does not lie on {list(a_shape)} from axis {axis} on")
    return _reshaped(graph, b, [*b_shape, *[1] * (len(a_shape) - axis - len(b_shape))])


def _reshaped(graph: Graph, name: str, shape: list[int]) -> str:
    """The value in that shape. Dimensions of 1 are put at its end, so that the number of rows may vary."""
    old = graph.shape(name)
    if list(old) == shape:
        return name
    if name in graph.weights:
        return graph.constant(graph.weights[name].reshape(shape), name)
    if not shape:
        return graph.emit("Squeeze", [name], axes=list(range(len(old))))
    return graph.emit("Unsqueeze", [name], axes=list(range(len(old), len(shape))))


@operator("Sum", "Max", "Min", "Mean")
def several(op: Op, graph: Graph) -> str:
    """Any number of tensors of one shape."""
    return graph.emit(op.type, op.inputs)


@operator("Where")
def where(op: Op, graph: Graph) -> str:
    """Inputs are the condition, what stands where it holds, and what stands elsewhere."""
    if op.args.integer("broadcast_on_rows", 0):
        condition = graph.emit("Unsqueeze", [op[0]], axes=list(range(1, graph.rank(op[1]))))
        return graph.emit("Where", [condition, op[1], op[2]])
    return graph.emit("Where", [op[0], op[1], op[2]])


@operator("FC", "FCTransposed")
def fully_connected(op: Op, graph: Graph) -> str:
    """X is flattened at ``axis`` (1), W at ``axis_w`` (1); the output keeps X's dimensions before ``axis``."""
    shape = graph.shape(op[0])
    axis = op.axis("axis", 1, len(shape))
    x = op[0] if len(shape) == 2 and axis == 1 else graph.emit("Flatten", [op[0]], axis=axis)
    w_axis = op.axis("axis_w", 1, graph.rank(op[1]))
    w = op[1] if graph.rank(op[1]) == 2 and w_axis == 1 else graph.emit("Flatten", [op[1]], axis=w_axis)
    have, wanted = graph.shape(x)[1], graph.shape(w)[1 if op.type == "FC" else 0]
    if have != wanted:
        raise Unconvertible(f"{have} numbers do not go with weights for {wanted}")
    out = graph.emit("Gemm", [x, w, op[2]], transB=int(op.type == "FC"))
    if axis == 1:
        return out
    # -1 stands for the rows, so that their number may vary.
    return graph.emit("Reshape", [out, graph.constant([*([-1, *shape[1:axis]] if axis else []), graph.shape(out)[1]])])


@operator("MatMul")
def matmul(op: Op, graph: Graph) -> str:
    """Both are flattened to matrices, at ``axis_a`` (1) and ``axis_b`` (1)."""
    flat = []
    turned = [int(bool(op.args.integer(f"trans_{side}", 0))) for side in "ab"]
    for position, side in enumerate("ab"):
        rank = graph.rank(op[position])
        axis = op.axis(f"axis_{side}", 1, rank)
        matrix = rank == 2 and axis == 1
        flat.append(op[position] if matrix else graph.emit("Flatten", [op[position]], axis=axis))
    have, wanted = graph.shape(flat[0])[1 - turned[0]], graph.shape(flat[1])[turned[1]]
    if have != wanted:
        raise Unconvertible(f"rows of {have} numbers cannot be multiplied with columns of {wanted}")
    return graph.emit("Gemm", flat, transA=turned[0], transB=turned[1])


@operator("BatchMatMul")
def batch_matmul(op: Op, graph: Graph) -> str:
    """Products of the matrices that the last two dimensions make."""
    sides = []
    for position, side in enumerate("ab"):
        rank = graph.rank(op[position])
        if rank < 2:
            raise Unconvertible(f"its input {position + 1} is no matrix")
        turned = bool(op.args.integer(f"trans_{side}", 0))
        axes = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(graph.transpose(op[position], axes) if turned else op[position])
    return graph.emit("MatMul", sides)


@operator("Softmax")
def softmax(op: Op, graph: Graph) -> str:
    """Over everything from ``axis`` (1) on, together."""
    return graph.emit("Softmax", [op[0]], axis=op.axis("axis", 1, graph.rank(op[0])))


@operator("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")
def reduce(op: Op, graph: Graph) -> str:
    """Over ``axes``, all where none are said; they stay as 1 unless ``keepdims`` is 0."""
    rank = graph.rank(op[0])
    axes = [axis % rank for axis in op.args.integers("axes") if -rank <= axis < rank] or list(range(rank))
    return graph.emit(op.type, [op[0]], axes=axes, keepdims=op.args.integer("keepdims", 1))


@operator(*(f"Reduce{end}{how}" for end in ("Front", "Back") for how in ("Mean", "Sum", "Max")))
def reduce_end(op: Op, graph: Graph) -> str:
    """Over the first or the last ``num_reduce_dim`` (1) dimensions, which go."""
    if len(op) > 1:
        raise Unconvertible("its second input, lengths, is not supported")
    rank, count = graph.rank(op[0]), op.args.integer("num_reduce_dim", 1)
    front = op.type.startswith("ReduceFront")
    if not 0 < count <= rank:
        raise Unconvertible(f"its input has no {count} dimensions to reduce")
    axes = range(count) if front else range(rank - count, rank)
    return graph.emit(
        f"Reduce{op.type[-4:] if op.type.endswith('Mean') else op.type[-3:]}", [op[0]], axes=list(axes), keepdims=0
    )


@operator("ArgMax", "ArgMin")
def arg_best(op: Op, graph: Graph) -> str:
    """Along ``axis`` (the last), which stays as 1 unless ``keepdims`` is 0."""
    axis = op.axis("axis", -1, graph.rank(op[0]))
    return graph.emit(op.type, [op[0]], axis=axis, keepdims=op.args.integer("keepdims", 1))


@operator("TopK")
def top_k(op: Op, graph: Graph) -> list[str]:
    """The ``k`` largest along ``axis`` (the last), sorted, and where they stood."""
    axis = op.axis("axis", -1, graph.rank(op[0]))
    return graph.emit_several("TopK", [op[0], graph.constant([op.args.integer("k", 1)])], 2, axis=axis)
