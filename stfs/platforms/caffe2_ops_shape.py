"""Caffe2's operators that fill, copy, cut, join and move elements without computing with them, as ONNX."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stfs.platforms.caffe2_graph import INT64_MAX, Graph, Op, Unconvertible, operator
from stfs.signature import Array

GIVEN = {
    "GivenTensorFill": "float32",
    "GivenTensorDoubleFill": "float64",
    "GivenTensorIntFill": "int32",
    "GivenTensorInt16Fill": "int16",
    "GivenTensorInt64Fill": "int64",
    "GivenTensorBoolFill": "bool",
}
RANDOM = ("XavierFill", "MSRAFill", "GaussianFill", "UniformFill", "UniformIntFill", "UniqueUniformFill")


@operator(*GIVEN)
def given_tensor(op: Op, graph: Graph) -> str:
    """The ``values`` in ``shape``."""
    values = op.args.values("values", np.dtype(GIVEN[op.type]))
    return graph.constant(_filled(values, op.args.integers("shape")), op.outputs[0])


@operator("GivenTensorByteStringToUInt8Fill")
def given_bytes(op: Op, graph: Graph) -> str:
    """The bytes of the one string in ``values``, in ``shape``."""
    values = np.frombuffer(op.args.string("values"), np.uint8)
    return graph.constant(_filled(values, op.args.integers("shape")), op.outputs[0])


def _filled(values: Array, shape: list[int]) -> Array:
    if values.size != np.prod(shape):
        raise Unconvertible(f"it has {values.size} values for shape {shape}: is the file whole?")
    return values.reshape(shape)


@operator("ConstantFill")
def constant_fill(op: Op, graph: Graph) -> str:
    """``value`` (0) everywhere, in ``shape``, in the shape of the input, or in the shape that the input holds."""
    dtype = op.args.dtype("dtype", 1)
    if dtype is None:
        raise Unconvertible("its dtype is not a number's")
    number = op.args.number("value", 0.0) if dtype.kind == "f" else op.args.integer("value", 0)
    value = np.array([number]).astype(dtype)
    if not len(op):
        return graph.constant(np.full(op.args.integers("shape"), value[0]), op.outputs[0])
    if op.args.integer("input_as_shape", 0):
        shape = graph.emit("Cast", [op[0]], to=_onnx_type(np.dtype("int64")))
    else:
        shape = graph.emit("Shape", [op[0]])
    if extra := op.args.integers("extra_shape"):
        shape = graph.emit("Concat", [shape, graph.constant(extra)], axis=0)
    import onnx

    return graph.emit("ConstantOfShape", [shape], value=onnx.numpy_helper.from_array(value))


@operator(*RANDOM)
def random_fill(op: Op, graph: Graph) -> str:
    """Never written: a served model answers the same to the same request."""
    raise Unconvertible("it fills with random numbers: save the net with the weights that it was trained to")


@operator(
    "Copy", "Alias", "StopGradient", "EnsureCPUOutput", "EnsureDense", "CopyFromCPUInput", "CopyCPUToGPU",
    "CopyGPUToCPU", "CopyOnDeviceLike",
)  # fmt: skip
def same(op: Op, graph: Graph) -> str:
    """The input itself: values of an ONNX graph are never written twice."""
    return op[0]


@operator("Cast")
def cast(op: Op, graph: Graph) -> str:
    """To a dtype, given by number or by name."""
    dtype = op.args.dtype("to", 1)
    if dtype is None:
        raise Unconvertible("it casts to something that is not a number")
    return graph.emit("Cast", [op[0]], to=_onnx_type(dtype))


def _onnx_type(dtype: np.dtype[Any]) -> int:
    import onnx

    return int(onnx.helper.np_dtype_to_tensor_dtype(dtype))


@operator("Reshape")
def reshape(op: Op, graph: Graph) -> list[str]:
    """To the argument ``shape`` or the second input; 0 keeps a dimension, -1 is what is left. Also the old shape."""
    old = graph.emit("Shape", [op[0]])
    if "shape" in op.args:
        wanted = graph.constant(op.args.integers("shape"))
    else:
        wanted = op[1]
        if graph.dtype(wanted) != np.int64:
            wanted = graph.emit("Cast", [wanted], to=_onnx_type(np.dtype("int64")))
    _refuse_misfit(graph, op[0], wanted)
    return [graph.emit("Reshape", [op[0], wanted]), old]


def _refuse_misfit(graph: Graph, data: str, wanted: str) -> None:
    """ONNX's inference lets a shape pass that holds more or fewer elements than there are."""
    value, have = graph.types.value(wanted), graph.shape(data)
    if value is None:
        return
    sizes = [have[i] if v == 0 and i < len(have) else int(v) for i, v in enumerate(value.tolist())]
    total, said = math.prod(have), math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) > 1 or (total % said if -1 in sizes and said else total != said):
        raise Unconvertible(f"its input of shape {list(have)} does not fit shape {value.tolist()}")


@operator("Flatten")
def flatten(op: Op, graph: Graph) -> str:
    """To a matrix, cut before ``axis`` (1)."""
    return graph.emit("Flatten", [op[0]], axis=op.args.integer("axis", 1))


@operator("FlattenToVec")
def flatten_to_vec(op: Op, graph: Graph) -> str:
    """To one dimension."""
    return graph.emit("Reshape", [op[0], graph.constant([-1])])


@operator("Squeeze")
def squeeze(op: Op, graph: Graph) -> str:
    """Without the dimensions ``dims``, which are 1."""
    return graph.emit("Squeeze", [op[0]], axes=sorted(set(op.args.integers("dims"))))


@operator("ExpandDims")
def expand_dims(op: Op, graph: Graph) -> str:
    """With dimensions of 1 that stand at ``dims`` of the result."""
    return graph.emit("Unsqueeze", [op[0]], axes=sorted(set(op.args.integers("dims"))))


@operator("Transpose")
def transpose(op: Op, graph: Graph) -> str:
    """In the order ``axes``; turned round where none is said."""
    rank = graph.rank(op[0])
    axes = op.args.integers("axes") or list(range(rank))[::-1]
    if sorted(axes) != list(range(rank)):
        raise Unconvertible(f"its axes {axes} are not the {rank} of its input")
    return graph.transpose(op[0], axes)


@operator("NHWC2NCHW")
def to_channels_first(op: Op, graph: Graph) -> str:
    """The last dimension becomes the second."""
    return graph.channels_first(op[0])


@operator("NCHW2NHWC")
def to_channels_last(op: Op, graph: Graph) -> str:
    """The second dimension becomes the last."""
    return graph.channels_last(op[0])


def _joined_axis(op: Op, rank: int) -> int:
    """Of ``Concat`` and ``Split``: ``axis``, else where ``order`` has the channels."""
    default = 3 if op.channels_last else 1
    return op.axis("axis", default, rank)


@operator("Concat", "DepthConcat")
def concat(op: Op, graph: Graph) -> list[str]:
    """Along ``axis``, or stacked along a new one with ``add_axis``. Also how long each part was, int32."""
    added = bool(op.args.integer("add_axis", 0))
    axis = _joined_axis(op, graph.rank(op[0]) + added)
    parts = [graph.emit("Unsqueeze", [part], axes=[axis]) for part in op.inputs] if added else op.inputs
    sizes = np.array([graph.shape(part)[axis] for part in parts], np.int32)
    return [graph.emit("Concat", parts, axis=axis), graph.constant(sizes)]


@operator("Split", "DepthSplit")
def split(op: Op, graph: Graph) -> list[str]:
    """Into parts as long as ``split`` or the second input says, else of one length. ``add_axis`` drops the axis."""
    shape = graph.shape(op[0])
    axis = _joined_axis(op, len(shape))
    sizes = op.args.integers("split")
    if not sizes and len(op) > 1:
        sizes = [int(v) for v in graph.known(op[1], "split").ravel()]
    count = len(op.outputs)
    if not sizes:
        if shape[axis] % count:
            raise Unconvertible(f"its {shape[axis]} elements along axis {axis} do not split into {count}")
        sizes = [shape[axis] // count] * count
    if len(sizes) != count or sum(sizes) != shape[axis]:
        raise Unconvertible(f"its split {sizes} does not make {count} parts of {shape[axis]}")
    parts = graph.emit_several("Split", [op[0]], count, axis=axis, split=sizes)
    if op.args.integer("add_axis", 0):
        parts = [graph.emit("Squeeze", [part], axes=[axis]) for part in parts]
    return parts


@operator("Slice")
def slice_(op: Op, graph: Graph) -> str:
    """From ``starts`` to before ``ends`` in the first dimensions; -1 is the place behind the last element."""
    if len(op) > 1:
        starts, ends = ([int(v) for v in graph.known(op[i], "starts and ends").ravel()] for i in (1, 2))
    else:
        starts, ends = op.args.integers("starts"), op.args.integers("ends")
    shape = graph.shape(op[0])
    if len(starts) != len(ends) or len(starts) > len(shape):
        raise Unconvertible(f"its starts {starts} and ends {ends} do not fit an input of {len(shape)} dimensions")
    cuts = []
    for axis, (start, end) in enumerate(zip(starts, ends, strict=True)):
        size = shape[axis]
        first = min(size, start if start >= 0 else size + 1 + start)
        last = min(size, end if end >= 0 else size + 1 + end)
        if not 0 <= first <= last:
            raise Unconvertible(f"it cuts from {start} to {end} in a dimension of {size}")
        if end == -1:
            last = INT64_MAX  # to the end, wherever it is at a run
        if (first, last) != (0, INT64_MAX):
            cuts.append((axis, first, last))
    if not cuts:
        return op[0]
    axes, firsts, lasts = (graph.constant(list(column)) for column in zip(*cuts, strict=True))
    return graph.emit("Slice", [op[0], firsts, lasts, axes])


@operator("Gather", "BatchGather")
def gather(op: Op, graph: Graph) -> str:
    """The places that the second input names, along ``axis`` (0); along 1 in ``BatchGather``."""
    if op.args.integer("match_outer", 0):
        raise Unconvertible("its match_outer is not supported")
    axis = 1 if op.type == "BatchGather" else op.axis("axis", 0, graph.rank(op[0]))
    return graph.emit("Gather", [op[0], op[1]], axis=axis)


@operator("Shape")
def shape(op: Op, graph: Graph) -> str:
    """The shape of the input, or of its dimensions ``axes``."""
    out = graph.emit("Shape", [op[0]])
    axes = op.args.integers("axes")
    return graph.emit("Gather", [out, graph.constant(axes)], axis=0) if axes else out


@operator("Tile")
def tile(op: Op, graph: Graph) -> str:
    """``tiles`` times along ``axis`` (0), each a second or third input where there is one."""
    rank = graph.rank(op[0])
    tiles, axis = op.args.integer("tiles", 1), op.args.integer("axis", 0)
    if len(op) > 1:
        tiles = int(graph.known(op[1], "tiles").ravel()[0])
    if len(op) > 2:
        axis = int(graph.known(op[2], "axis").ravel()[0])
    repeats = [1] * rank
    repeats[axis % rank] = tiles
    return graph.emit("Tile", [op[0], graph.constant(repeats)])
