"""Caffe2's operators on images, as ONNX: convolution, pooling, padding, resizing, shuffling.

Images are N, C, H, W, or N, H, W, C with ``order`` NHWC; those are turned before and after, as ONNX knows the first
only. One and three dimensions of space work as two do where Caffe2 has them. Must not live here: normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from stfs.platforms.caffe2_graph import Graph, Op, Unconvertible, operator
from stfs.platforms.caffe2_proto import Args

# Caffe2's enum LegacyPadding.
NOTSET, VALID, SAME, CAFFE = range(4)


@dataclass(frozen=True, slots=True)
class Window:
    """How a window moves over an image; ``pads`` holds what comes before in every dimension, then what comes after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]


def window(args: Args, sizes: Sequence[int]) -> Window:
    """The window that the arguments describe over an image of ``sizes``, every form of padding made explicit.

    Raises :class:`Unconvertible` where the arguments contradict each other or the image.
    """
    rank = len(sizes)
    kernel = _each(args, "kernel", ("kernel_h", "kernel_w"), None, rank)
    strides = _each(args, "stride", ("stride_h", "stride_w"), 1, rank)
    dilations = _each(args, "dilation", ("dilation_h", "dilation_w"), 1, rank)
    legacy = args.integer("legacy_pad", NOTSET)
    if legacy in (VALID, SAME) and any(name in args for name in ("pad", "pads", "pad_t")):
        raise Unconvertible("it has both legacy_pad and explicit pads")
    pads = explicit_pads(args, rank)
    if legacy == NOTSET:
        return Window(kernel, strides, dilations, pads)
    heads, tails = zip(
        *(_legacy_pads(legacy, sizes[i], kernel[i], strides[i], dilations[i], pads[i]) for i in range(rank)),
        strict=True,
    )
    return Window(kernel, strides, dilations, (*heads, *tails))


def explicit_pads(args: Args, rank: int) -> tuple[int, ...]:
    """``pads``, ``pad`` or ``pad_t``, ``pad_l``, ``pad_b``, ``pad_r``; zeros where none is said."""
    pads = args.integers("pads")
    if "pad" in args:
        pads = [args.integer("pad", 0)] * (2 * rank)
    elif all(f"pad_{side}" in args for side in "tlbr"):
        pads = [args.integer(f"pad_{side}", 0) for side in "tlbr"]
    pads = pads or [0] * (2 * rank)
    if len(pads) != 2 * rank:
        raise Unconvertible(f"its {len(pads)} pads do not fit an image of {rank} dimensions")
    return tuple(pads)


def _each(args: Args, name: str, names: tuple[str, str], default: int | None, rank: int) -> tuple[int, ...]:
    """One number for each dimension: from ``kernel``, ``kernel_h`` and ``kernel_w``, or ``kernels``, in that order."""
    listed = args.integers(f"{name}s")
    if name in args:
        listed = [args.integer(name, 0)] * rank
    elif all(part in args for part in names):
        listed = [args.integer(part, 0) for part in names]
    if not listed and default is not None:
        listed = [default] * rank
    if len(listed) != rank or min(listed, default=0) < 1:
        raise Unconvertible(f"its {name} {listed or 'is missing and'} does not fit an image of {rank} dimensions")
    return tuple(listed)


def _legacy_pads(legacy: int, size: int, kernel: int, stride: int, dilation: int, pad: int) -> tuple[int, int]:
    """What comes before and after one dimension of ``size``.

    SAME puts the odd pixel at the end, and may take pixels away (negative) where the stride is wider than the kernel.
    CAFFE rounds the number of windows up, as Caffe did, and needs only so much at the end as the last window reaches.
    """
    if legacy == VALID:
        return 0, 0
    if dilation != 1:
        raise Unconvertible(f"it has both legacy_pad {legacy} and a dilation")
    if legacy == SAME:
        needed = (-(-size // stride) - 1) * stride + kernel - size
        head = int(needed / 2)  # towards zero, as C does
        return head, needed - head
    if legacy != CAFFE:
        raise Unconvertible(f"its legacy_pad {legacy} is not one of 0 to 3")
    windows = math.ceil((size + 2 * pad - kernel) / stride) + 1
    if pad > 0 and (windows - 1) * stride >= size + pad:
        windows -= 1
    if windows < 1 or (windows - 1) * stride - pad >= size:
        raise Unconvertible("its last window lies outside the image")
    return pad, max(0, (windows - 1) * stride + kernel - size - pad)


def _cropped(graph: Graph, image: str, w: Window) -> tuple[str, Window]:
    """Negative pads, which take pixels away, done by a node of their own: ONNX has no others."""
    if min(w.pads) >= 0:
        return image, w
    half = len(w.pads) // 2
    crop = [min(0, pad) for pad in w.pads]
    image = graph.emit("Pad", [image, graph.constant([0, 0, *crop[:half], 0, 0, *crop[half:]])])
    return image, Window(w.kernel, w.strides, w.dilations, tuple(max(0, pad) for pad in w.pads))


def _on_channels_first(op: Op, graph: Graph, image: str, work: Callable[[str], str]) -> str:
    """``work`` done on ``image`` with its channels first, whatever its order."""
    if graph.rank(image) < 3:
        raise Unconvertible(f"its input of shape {list(graph.shape(image))} is no image")
    if not op.channels_last:
        return work(image)
    return graph.channels_last(work(graph.channels_first(image)))


@operator("Conv", "Conv1D", "Conv2D", "Conv3D")
def conv(op: Op, graph: Graph) -> str:
    """Weights are M, C/group, kernel; M, kernel, C/group with NHWC. The bias may be left out."""
    weights = graph.channels_first(op[1]) if op.channels_last else op[1]

    def work(image: str) -> str:
        image, w = _cropped(graph, image, window(op.args, graph.shape(image)[2:]))
        return graph.emit(
            "Conv",
            [image, weights, *op.inputs[2:]],
            kernel_shape=w.kernel,
            strides=w.strides,
            dilations=w.dilations,
            pads=w.pads,
            group=op.args.integer("group", 1),
        )

    return _on_channels_first(op, graph, op[0], work)


@operator("ConvTranspose")
def conv_transpose(op: Op, graph: Graph) -> str:
    """Weights are C, M/group, kernel; C, kernel, M/group with NHWC. ``adj`` makes the output longer at its end."""
    weights = graph.channels_first(op[1]) if op.channels_last else op[1]

    def work(image: str) -> str:
        rank = graph.rank(image) - 2
        legacy = op.args.integer("legacy_pad", NOTSET)
        if legacy == CAFFE:
            raise Unconvertible("Caffe2 itself refuses legacy_pad 3 here")
        pads = explicit_pads(op.args, rank) if legacy == NOTSET else (0,) * (2 * rank)
        kernel = _each(op.args, "kernel", ("kernel_h", "kernel_w"), None, rank)
        strides = _each(op.args, "stride", ("stride_h", "stride_w"), 1, rank)
        adjustments = op.args.integers("adjs") or [op.args.integer("adj", 0)] * rank
        if "adj_h" in op.args and "adj_w" in op.args:
            adjustments = [op.args.integer("adj_h", 0), op.args.integer("adj_w", 0)]
        return graph.emit(
            "ConvTranspose",
            [image, weights, *op.inputs[2:]],
            kernel_shape=kernel,
            strides=strides,
            pads=pads,
            output_padding=adjustments,
            group=op.args.integer("group", 1),
        )

    return _on_channels_first(op, graph, op[0], work)


@operator(*(f"{kind}Pool{rank}" for kind in ("Max", "Average", "Lp") for rank in ("", "1D", "2D", "3D")))
def pool(op: Op, graph: Graph) -> str:
    """An average leaves padding out of its count, unless ``count_include_pad`` says otherwise."""
    kind = next(kind for kind in ("Max", "Average", "Lp") if op.type.startswith(kind))
    power = {"p": int(op.args.number("p", 2.0))} if kind == "Lp" else {}
    if power and power["p"] != op.args.number("p", 2.0):
        raise Unconvertible("its p is not a whole number")

    def work(image: str) -> str:
        if op.args.integer("global_pooling", 0):
            return graph.emit(f"Global{kind}Pool", [image], **power)
        w = window(op.args, graph.shape(image)[2:])
        if max(w.dilations) > 1:
            raise Unconvertible("Caffe2 itself refuses to pool with a dilation")
        image, w = _cropped(graph, image, w)
        if any(pad >= kernel for pad, kernel in zip(w.pads, w.kernel * 2, strict=True)):
            raise Unconvertible(f"its pads {list(w.pads)} are not smaller than its kernel {list(w.kernel)}")
        counted = {"count_include_pad": op.args.integer("count_include_pad", 0)} if kind == "Average" else {}
        return graph.emit(
            f"{kind}Pool", [image], kernel_shape=w.kernel, strides=w.strides, pads=w.pads, **power, **counted
        )

    return _on_channels_first(op, graph, op[0], work)


@operator("PadImage")
def pad_image(op: Op, graph: Graph) -> str:
    """``mode`` is constant (with ``value``), reflect or edge."""
    mode = op.args.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise Unconvertible(f'its mode "{mode}" is none of constant, reflect, edge')

    def work(image: str) -> str:
        pads = explicit_pads(op.args, graph.rank(image) - 2)
        half = len(pads) // 2
        inputs = [image, graph.constant([0, 0, *pads[:half], 0, 0, *pads[half:]])]
        if mode == "constant":
            inputs.append(graph.constant(np.array(op.args.number("value", 0.0), graph.dtype(image))))
        return graph.emit("Pad", inputs, mode=mode)

    return _on_channels_first(op, graph, op[0], work)


@operator("ResizeNearest", "UpsampleNearest", "UpsampleBilinear")
def resize(op: Op, graph: Graph) -> str:
    """``height_scale`` and ``width_scale``, the second input, or ``scale`` for both.

    Nearest takes the pixel at or before; bilinear lays the corners of the two images on each other.
    """
    if len(op) > 1:
        height, width = (float(v) for v in graph.known(op[1], "scales").ravel())
    elif op.type == "UpsampleNearest":
        height = width = float(op.args.integer("scale", 2))
    else:
        height, width = op.args.number("height_scale", 1.0), op.args.number("width_scale", 1.0)
    how = (
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
        if op.type == "UpsampleBilinear"
        else {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    )

    def work(image: str) -> str:
        scales = graph.constant(np.array([1, 1, height, width], np.float32), "scales")
        return graph.emit("Resize", [image, graph.constant(np.empty(0, np.float32), "roi"), scales], **how)

    return _on_channels_first(op, graph, op[0], work)


@operator("ChannelShuffle")
def channel_shuffle(op: Op, graph: Graph) -> str:
    """Channel ``k`` of group ``g`` goes to place ``k * groups + g``."""
    groups = op.args.integer("group", 1)

    def work(image: str) -> str:
        _, channels, *sizes = graph.shape(image)
        if groups < 1 or channels % groups:
            raise Unconvertible(f"its {channels} channels do not split into {groups} groups")
        # 0 keeps the number of rows, whatever it is at a run.
        parted = graph.emit("Reshape", [image, graph.constant([0, groups, channels // groups, *sizes])])
        turned = graph.transpose(parted, [0, 2, 1, *range(3, 3 + len(sizes))])
        return graph.emit("Reshape", [turned, graph.constant([0, channels, *sizes])])

    return _on_channels_first(op, graph, op[0], work)
