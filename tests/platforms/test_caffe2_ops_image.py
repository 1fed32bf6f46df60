"""Caffe2's operators on images against loops written after Caffe2's description of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from caffe2_nets import answers, load, noise, operator, save

from stfs.errors import LoadFailed

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def last(images):
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def conv(x, w, b, kernel, stride, pads, dilation=(1, 1), group=1):
    """Convolution of N, C, H, W; ``pads`` are top, left, bottom, right, and may be negative."""
    n, c, h, width = x.shape
    m = len(w)
    (kh, kw), (sh, sw), (dh, dw), (t, le, bo, r) = kernel, stride, dilation, pads
    oh = (h + t + bo - dh * (kh - 1) - 1) // sh + 1
    ow = (width + le + r - dw * (kw - 1) - 1) // sw + 1
    y = np.zeros((n, m, oh, ow))
    for k in range(m):
        first = (k // (m // group)) * (c // group)
        for i in range(oh):
            for j in range(ow):
                for p in range(kh):
                    for q in range(kw):
                        row, column = i * sh - t + p * dh, j * sw - le + q * dw
                        if 0 <= row < h and 0 <= column < width:
                            y[:, k, i, j] += x[:, first : first + c // group, row, column] @ w[k, :, p, q]
        y[:, k] += b[k]
    return y


def pooled(x, kernel, stride, head, out, kind, count_pads=False):
    """Pooling of N, C, H, W into ``out`` windows; what lies outside the image is never looked at."""
    n, c, h, w = x.shape
    y = np.zeros((n, c, *out))
    for i in range(out[0]):
        for j in range(out[1]):
            top, left = i * stride[0] - head[0], j * stride[1] - head[1]
            seen = x[:, :, max(top, 0) : min(top + kernel[0], h), max(left, 0) : min(left + kernel[1], w)]
            if kind == "max":
                y[:, :, i, j] = seen.max((2, 3))
            else:
                number = kernel[0] * kernel[1] if count_pads else seen.shape[2] * seen.shape[3]
                y[:, :, i, j] = seen.sum((2, 3)) / number
    return y


CONVS = {
    "kernel and pad": ({"kernel": 3, "pad": 1}, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "every side by itself": (
        {"kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 1, "pad_t": 1, "pad_l": 0, "pad_b": 2, "pad_r": 1},
        (3, 2), (2, 1), (1, 0, 2, 1), (1, 1),
    ),
    "lists": (
        {"kernels": [2, 3], "strides": [1, 2], "pads": [0, 2, 1, 0], "dilations": [2, 1]},
        (2, 3), (1, 2), (0, 2, 1, 0), (2, 1),
    ),
    "dilation": ({"kernel": 3, "dilation": 2, "pad": 2}, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "dilation of each": (
        {"kernel": 2, "dilation_h": 1, "dilation_w": 3}, (2, 2), (1, 1), (0, 0, 0, 0), (1, 3),
    ),
    "valid": ({"kernel": 3, "stride": 2, "legacy_pad": 1}, (3, 3), (2, 2), (0, 0, 0, 0), (1, 1)),
    # 7 by 6 pixels, 2 at a stride: 4 by 3 windows, which need 7 + 1 and 6 pixels and one more: the odd one at the end.
    "same": ({"kernel": 2, "stride": 2, "legacy_pad": 2}, (2, 2), (2, 2), (0, 0, 1, 0), (1, 1)),
    "same, wide": ({"kernel": 4, "legacy_pad": 2}, (4, 4), (1, 1), (1, 1, 2, 2), (1, 1)),
    # One pixel in three: 3 by 2 windows need 7 by 4 of 7 by 6 pixels, so one column goes on either side.
    "same, fewer": ({"kernel": 1, "stride": 3, "legacy_pad": 2}, (1, 1), (3, 3), (0, -1, 0, -1), (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", CONVS)
def test_conv(tmp_path, case, order):
    arguments, kernel, stride, pads, dilation = CONVS[case]
    x, w, b = noise(2, 3, 7, 6), noise(4, 3, *kernel), noise(4)
    want = conv(x, w, b, kernel, stride, pads, dilation)
    turn = last if order == "NHWC" else np.asarray
    op = operator("Conv", ["x", "w", "b"], ["y"], order=order, **arguments)
    (have,) = answers(tmp_path, [op], {"x": turn(x)}, weights={"w": turn(w), "b": b})
    np.testing.assert_allclose(have, turn(want), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["Conv", "Conv2D"])
def test_conv_of_groups_without_bias(tmp_path, kind):
    x, w = noise(2, 4, 5, 5), noise(6, 2, 3, 3)
    op = operator(kind, ["x", "w"], ["y"], kernel=3, group=2, engine="CUDNN", exhaustive_search=1)
    (have,) = answers(tmp_path, [op], {"x": x}, weights={"w": w})
    want = conv(x, w, np.zeros(6), (3, 3), (1, 1), (0, 0, 0, 0), group=2)
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_conv_of_one_and_of_three_dimensions(tmp_path):
    x, w = noise(2, 3, 9), noise(4, 3, 3)
    op = operator("Conv1D", ["x", "w"], ["y"], kernels=[3], strides=[2], pads=[1, 0], dilations=[1])
    (have,) = answers(tmp_path / "1", [op], {"x": x}, weights={"w": w})
    want = conv(x[:, :, None], w[:, :, None], np.zeros(4), (1, 3), (1, 2), (0, 1, 0, 0))[:, :, 0]
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    # Only the middle slice of the kernel is not zero, so every slice is a convolution of its own.
    x, w = noise(2, 3, 4, 5, 5), np.zeros((2, 3, 3, 3, 3), np.float32)
    w[:, :, 1] = noise(2, 3, 3, 3)
    op = operator("Conv3D", ["x", "w"], ["y"], kernels=[3, 3, 3], pads=[1, 0, 0, 1, 0, 0])
    (have,) = answers(tmp_path / "3", [op], {"x": x}, weights={"w": w})
    want = np.stack([conv(x[:, :, i], w[:, :, 1], np.zeros(2), (3, 3), (1, 1), (0, 0, 0, 0)) for i in range(4)], axis=2)
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


TRANSPOSED = {
    "plain": ({"kernel": 3}, (1, 1), (0, 0, 0, 0), (0, 0)),
    "strided": ({"kernel": 3, "stride": 2, "pad": 1, "adj": 1}, (2, 2), (1, 1, 1, 1), (1, 1)),
    "uneven": (
        {"kernels": [3, 3], "strides": [2, 1], "pads": [1, 0, 0, 1], "adjs": [1, 0]}, (2, 1), (1, 0, 0, 1), (1, 0),
    ),
    "of each": (
        {"kernel": 3, "stride_h": 2, "stride_w": 3, "adj_h": 0, "adj_w": 2}, (2, 3), (0, 0, 0, 0), (0, 2),
    ),
    "legacy": ({"kernel": 3, "stride": 2, "legacy_pad": 2}, (2, 2), (0, 0, 0, 0), (0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", TRANSPOSED)
def test_conv_transpose(tmp_path, case, order):
    arguments, stride, pads, adj = TRANSPOSED[case]
    x, w, b = noise(2, 3, 4, 5), noise(3, 2, 3, 3), noise(2)
    whole = np.zeros((2, 2, 3 * stride[0] + 3 + adj[0], 4 * stride[1] + 3 + adj[1]))
    for i in range(4):
        for j in range(5):
            y, z = i * stride[0], j * stride[1]
            whole[:, :, y : y + 3, z : z + 3] += np.einsum("nc,cmpq->nmpq", x[:, :, i, j], w)
    t, le, bo, r = pads
    want = whole[:, :, t : whole.shape[2] - bo, le : whole.shape[3] - r] + b[:, None, None]
    turn = last if order == "NHWC" else np.asarray
    op = operator("ConvTranspose", ["x", "w", "b"], ["y"], order=order, **arguments)
    (have,) = answers(tmp_path, [op], {"x": turn(x)}, weights={"w": turn(w), "b": b})
    np.testing.assert_allclose(have, turn(want), rtol=1e-4, atol=1e-5)


def caffe_out(size, kernel, stride, pad):
    """How many windows Caffe made: rounded up, less one that would begin outside the image."""
    out = math.ceil((size + 2 * pad - kernel) / stride) + 1
    return out - 1 if pad and (out - 1) * stride >= size + pad else out


# arguments, kernel, stride, what lies before the image, and the number of windows over 7 by 6 pixels
POOLS = {
    "plain": ({"kernel": 2, "stride": 2}, (2, 2), (2, 2), (0, 0), (3, 3)),
    "padded": ({"kernel": 3, "stride": 2, "pad": 1}, (3, 3), (2, 2), (1, 1), (4, 3)),
    "uneven": (
        {"kernel_h": 3, "kernel_w": 2, "stride_h": 1, "stride_w": 2, "pad_t": 2, "pad_l": 1, "pad_b": 0, "pad_r": 1},
        (3, 2), (1, 2), (2, 1), (7, 4),
    ),
    "valid": ({"kernel": 4, "stride": 2, "legacy_pad": 1}, (4, 4), (2, 2), (0, 0), (2, 2)),
    "same": ({"kernel": 3, "stride": 2, "legacy_pad": 2}, (3, 3), (2, 2), (1, 0), (4, 3)),
    "caffe": ({"kernel": 3, "stride": 2, "legacy_pad": 3}, (3, 3), (2, 2), (0, 0), (3, 3)),
    "caffe, small windows": ({"kernel": 2, "stride": 2, "legacy_pad": 3}, (2, 2), (2, 2), (0, 0), (4, 3)),
    "caffe, padded": ({"kernel": 3, "stride": 3, "pad": 1, "legacy_pad": 3}, (3, 3), (3, 3), (1, 1), (3, 3)),
    "caffe, last one dropped": ({"kernel": 2, "stride": 2, "pad": 1, "legacy_pad": 3}, (2, 2), (2, 2), (1, 1), (4, 4)),
}  # fmt: skip


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("case", POOLS)
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_pool(tmp_path, kind, case, order):
    arguments, kernel, stride, head, out = POOLS[case]
    if case.startswith("caffe"):
        assert out == tuple(caffe_out(s, k, t, h) for s, k, t, h in zip((7, 6), kernel, stride, head, strict=True))
    x = noise(2, 3, 7, 6)
    want = pooled(x, kernel, stride, head, out, "max" if kind == "MaxPool" else "average")
    turn = last if order == "NHWC" else np.asarray
    op = operator(kind, ["x"], ["y"], order=order, **arguments)
    (have,) = answers(tmp_path, [op], {"x": turn(x)})
    np.testing.assert_allclose(have, turn(want), rtol=1e-5, atol=1e-6)


def test_an_average_that_counts_the_padding(tmp_path):
    x = noise(2, 3, 7, 6)
    op = operator("AveragePool", ["x"], ["y"], kernel=3, stride=2, pad=1, count_include_pad=1)
    (have,) = answers(tmp_path, [op], {"x": x})
    want = pooled(x, (3, 3), (2, 2), (1, 1), (4, 3), "average", count_pads=True)
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_global_pooling(tmp_path, order):
    x = noise(2, 3, 4, 5)
    turn = last if order == "NHWC" else np.asarray
    wants = {
        "MaxPool": x.max((2, 3), keepdims=True),
        "AveragePool": x.mean((2, 3), keepdims=True),
        "LpPool": np.sqrt((x**2).sum((2, 3), keepdims=True)),
    }
    for kind, want in wants.items():
        op = operator(kind, ["x"], ["y"], order=order, global_pooling=1)
        (have,) = answers(tmp_path / kind, [op], {"x": turn(x)})
        np.testing.assert_allclose(have, turn(want), rtol=1e-5, atol=1e-6)


NAMED_POOLS = [
    *("MaxPool1D", "MaxPool2D", "MaxPool3D"),
    *("AveragePool1D", "AveragePool2D", "AveragePool3D"),
    *("LpPool1D", "LpPool2D", "LpPool3D"),
]


@pytest.mark.parametrize("name", NAMED_POOLS)
def test_pools_named_for_their_dimensions(tmp_path, name):
    kind, rank = name[:-2], int(name[-2])
    x = noise(2, 3, *[6] * rank)
    op = operator(name, ["x"], ["y"], kernels=[2] * rank, strides=[2] * rank)
    (have,) = answers(tmp_path, [op], {"x": x})
    parts = x.reshape(2, 3, *[3, 2] * rank)
    axes = tuple(range(3, 3 + 2 * rank, 2))
    want = {
        "MaxPool": lambda: parts.max(axes),
        "AveragePool": lambda: parts.mean(axes),
        "LpPool": lambda: np.sqrt((parts**2).sum(axes)),
    }[kind]()
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_lp_pool(tmp_path):
    x = noise(2, 3, 4, 4)
    (have,) = answers(tmp_path, [operator("LpPool", ["x"], ["y"], kernel=2, stride=2, p=3.0)], {"x": x})
    parts = np.abs(x).reshape(2, 3, 2, 2, 2, 2)
    np.testing.assert_allclose(have, ((parts**3).sum((3, 5))) ** (1 / 3), rtol=1e-5)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad_image(tmp_path, mode, order):
    x = noise(2, 3, 4, 5)
    turn = last if order == "NHWC" else np.asarray
    value = {"value": 0.5} if mode == "constant" else {}
    op = operator("PadImage", ["x"], ["y"], mode=mode, pad_t=1, pad_l=2, pad_b=0, pad_r=3, order=order, **value)
    (have,) = answers(tmp_path, [op], {"x": turn(x)})
    how = {"constant_values": 0.5} if mode == "constant" else {}
    np.testing.assert_array_equal(have, turn(np.pad(x, ((0, 0), (0, 0), (1, 0), (2, 3)), mode=mode, **how)))


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("scales", [(2.0, 2.0), (1.5, 0.5), (3.0, 1.0), (0.4, 2.7)])
def test_resize_nearest(tmp_path, scales, order):
    x = noise(2, 3, 5, 6)
    height, width = scales
    rows = [min(int(i / np.float32(height)), 4) for i in range(int(5 * height))]
    columns = [min(int(j / np.float32(width)), 5) for j in range(int(6 * width))]
    turn = last if order == "NHWC" else np.asarray
    op = operator("ResizeNearest", ["x"], ["y"], height_scale=height, width_scale=width, order=order)
    (have,) = answers(tmp_path, [op], {"x": turn(x)})
    np.testing.assert_array_equal(have, turn(x[:, :, rows][:, :, :, columns]))


def test_upsample_nearest(tmp_path):
    x = noise(2, 3, 4, 5)
    (have,) = answers(tmp_path, [operator("UpsampleNearest", ["x"], ["y"], scale=3)], {"x": x})
    np.testing.assert_array_equal(have, x.repeat(3, 2).repeat(3, 3))


@pytest.mark.parametrize("as_input", [False, True])
def test_upsample_bilinear(tmp_path, as_input):
    x = noise(2, 3, 4, 5)
    if as_input:
        op = operator("UpsampleBilinear", ["x", "scales"], ["y"])
        (have,) = answers(tmp_path, [op], {"x": x}, weights={"scales": np.array([2, 1.5], np.float32)})
    else:
        op = operator("UpsampleBilinear", ["x"], ["y"], height_scale=2.0, width_scale=1.5)
        (have,) = answers(tmp_path, [op], {"x": x})
    want = np.zeros((2, 3, 8, 7))
    for i in range(8):
        for j in range(7):
            row, column = i * 3 / 7, j * 4 / 6  # the corners of both images lie on each other
            r, c = min(int(row), 3), min(int(column), 4)
            below, right = min(r + 1, 3), min(c + 1, 4)
            a, b = row - r, column - c
            want[:, :, i, j] = (1 - a) * ((1 - b) * x[:, :, r, c] + b * x[:, :, r, right]) + a * (
                (1 - b) * x[:, :, below, c] + b * x[:, :, below, right]
            )
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
def test_channel_shuffle(tmp_path, order):
    x = noise(2, 6, 3, 2)
    turn = last if order == "NHWC" else np.asarray
    op = operator("ChannelShuffle", ["x"], ["y"], group=2, kernel=1, order=order)
    (have,) = answers(tmp_path, [op], {"x": turn(x)})
    np.testing.assert_array_equal(have, turn(x[:, [0, 3, 1, 4, 2, 5]]))


REFUSED = [
    ("Conv", {"kernel": 3, "legacy_pad": 2, "pad": 1}, "both legacy_pad and explicit pads"),
    ("Conv", {"kernel": 3, "legacy_pad": 2, "dilation": 2}, "both legacy_pad 2 and a dilation"),
    ("Conv", {"kernel": 3, "legacy_pad": 9}, "legacy_pad 9 is not one of"),
    ("Conv", {}, "kernel is missing"),
    ("Conv", {"kernels": [3]}, r"kernel \[3\] does not fit an image of 2 dimensions"),
    ("Conv", {"kernel": 3, "pads": [1, 1]}, "2 pads do not fit"),
    ("Conv", {"kernel": 3, "order": "CHWN"}, 'order "CHWN"'),
    ("ConvTranspose", {"kernel": 3, "legacy_pad": 3}, "legacy_pad 3"),
    ("MaxPool", {"kernel": 2, "dilation": 2}, "dilation"),
    ("MaxPool", {"kernel": 2, "pad": 2}, "not smaller than its kernel"),
    ("MaxPool", {"kernel": 1, "stride": 5, "legacy_pad": 3}, "outside the image"),
    ("LpPool", {"kernel": 2, "p": 1.5}, "p is not a whole number"),
    ("PadImage", {"pad": 1, "mode": "wrap"}, 'mode "wrap"'),
    ("ChannelShuffle", {"group": 2}, "3 channels do not split into 2 groups"),
]


@pytest.mark.parametrize(("kind", "arguments", "reason"), REFUSED)
def test_what_is_refused(tmp_path, kind, arguments, reason):
    takes = ["x", "w"] if kind.startswith("Conv") else ["x"]
    weights = {"w": noise(3, 3, 3, 3)} if kind.startswith("Conv") else {}
    save(tmp_path, [operator(kind, takes, ["y"], **arguments)], ["y"], weights, {"x": noise(1, 3, 7, 6)})
    with pytest.raises(LoadFailed, match=reason) as caught:
        load(tmp_path)
    assert f'{tmp_path / "predict_net.pb"}: operator 1 "y" ({kind}): ' in str(caught.value)
    assert "\n" not in str(caught.value)
