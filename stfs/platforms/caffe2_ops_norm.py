"""Caffe2's operators that normalise, as ONNX, in the form that they have outside training."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from stfs.platforms.caffe2_graph import Graph, Op, Unconvertible, operator

logger = logging.getLogger(__name__)


@operator("SpatialBN")
def spatial_bn(op: Op, graph: Graph) -> str:
    """Inputs are X, scale, bias, mean, variance. Only with ``is_test``: else it would use the batch's statistics."""
    if not op.args.integer("is_test", 0):
        raise Unconvertible("it is in its training form: export the net for inference, with is_test=1")
    image = graph.channels_first(op[0]) if op.channels_last else op[0]
    epsilon = op.args.number("epsilon", 1e-5)
    out = graph.emit("BatchNormalization", [image, op[1], op[2], op[3], op[4]], epsilon=epsilon)
    return graph.channels_last(out) if op.channels_last else out


@operator("InstanceNorm")
def instance_norm(op: Op, graph: Graph) -> str:
    """Inputs are X, scale, bias; every row and channel is normalised by itself."""
    image = graph.channels_first(op[0]) if op.channels_last else op[0]
    out = graph.emit("InstanceNormalization", [image, op[1], op[2]], epsilon=op.args.number("epsilon", 1e-5))
    return graph.channels_last(out) if op.channels_last else out


@operator("GroupNorm")
def group_norm(op: Op, graph: Graph) -> str:
    """Inputs are X, gamma, beta; the channels are normalised in ``group`` (32) groups."""
    image = graph.channels_first(op[0]) if op.channels_last else op[0]
    _, channels, *sizes = graph.shape(image)
    groups = op.args.integer("group", 32)
    if groups < 1 or channels % groups:
        raise Unconvertible(f"its {channels} channels do not split into {groups} groups")
    parted = graph.emit("Reshape", [image, graph.constant([0, groups, -1])])
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    normal = graph.emit(
        "InstanceNormalization",
        [parted, graph.constant(ones), graph.constant(zeros)],
        epsilon=op.args.number("epsilon", 1e-5),
    )
    whole = graph.emit("Reshape", [normal, graph.constant([0, channels, *sizes])])
    out = scaled(graph, whole, op[1], op[2], 1)
    return graph.channels_last(out) if op.channels_last else out


@operator("LayerNorm")
def layer_norm(op: Op, graph: Graph) -> str:
    """Everything from ``axis`` (1) on is normalised together; a weight and a bias with ``elementwise_affine``."""
    rank = graph.rank(op[0])
    axes = list(range(op.axis("axis", 1, rank), rank))
    centred = graph.emit("Sub", [op[0], graph.emit("ReduceMean", [op[0]], axes=axes)])
    variance = graph.emit("ReduceMean", [graph.emit("Mul", [centred, centred])], axes=axes)
    epsilon = graph.constant(np.array(op.args.number("epsilon", 1e-5), np.float32))
    out = graph.emit("Div", [centred, graph.emit("Sqrt", [graph.emit("Add", [variance, epsilon])])])
    if op.args.integer("elementwise_affine", 0):
        out = graph.emit("Add", [graph.emit("Mul", [out, op[1]]), op[2]])
    return out


@operator("Normalize")
def normalize(op: Op, graph: Graph) -> str:
    """Divided by its length along ``axis`` (the last), which counts as 1e-12 at least."""
    axis = op.axis("axis", -1, graph.rank(op[0]))
    length = graph.emit("ReduceL2", [op[0]], axes=[axis])
    return graph.emit("Div", [op[0], graph.emit("Max", [length, graph.constant(np.array(1e-12, np.float32))])])


@operator("LRN")
def lrn(op: Op, graph: Graph) -> str:
    """Across channels: ``size`` of them, which Caffe2 wants odd."""
    size = op.args.integer("size", 0)
    if size < 1 or size % 2 == 0:
        raise Unconvertible(f"its size {size} is not an odd number")
    image = graph.channels_first(op[0]) if op.channels_last else op[0]
    out = graph.emit(
        "LRN",
        [image],
        size=size,
        alpha=op.args.number("alpha", 0.0),
        beta=op.args.number("beta", 0.0),
        bias=op.args.number("bias", 1.0),
    )
    return graph.channels_last(out) if op.channels_last else out


@operator("Dropout")
def dropout(op: Op, graph: Graph) -> str:
    """Nothing is dropped: a served net infers, also if it was saved in its training form."""
    if not op.args.integer("is_test", 0):
        logger.warning("%s has no is_test=1: it is served as if it had, dropping nothing", op.definition)
    return op[0]


@operator("AffineChannel")
def affine_channel(op: Op, graph: Graph) -> str:
    """Inputs are X, scale, bias: one of each for a channel."""
    return scaled(graph, op[0], op[1], op[2], graph.rank(op[0]) - 1 if op.channels_last else 1)


def scaled(graph: Graph, image: str, scale: str, bias: str, axis: int) -> str:
    """``image * scale + bias``, with a number for each place along ``axis``."""
    shape: Sequence[int] = [1] * axis + [-1] + [1] * (graph.rank(image) - axis - 1)

    def aligned(name: str) -> str:
        if name in graph.weights:
            return graph.constant(graph.weights[name].reshape(shape), name)
        return graph.emit("Reshape", [name, graph.constant(shape)])

    return graph.emit("Add", [graph.emit("Mul", [image, aligned(scale)]), aligned(bias)])
