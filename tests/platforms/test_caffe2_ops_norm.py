"""Caffe2's normalising operators against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from caffe2_nets import answers, load, noise, operator, save

from stfs.errors import LoadFailed

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

ORDERS = pytest.mark.parametrize("order", ["NCHW", "NHWC"])


def turned(order, images):
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1)) if order == "NHWC" else images


def per_channel(numbers):
    return numbers[:, None, None]


@ORDERS
@pytest.mark.parametrize("epsilon", [None, 0.01])
def test_spatial_bn(tmp_path, order, epsilon):
    x = noise(2, 3, 4, 5)
    w = {"scale": noise(3), "bias": noise(3, seed=1), "mean": noise(3, seed=2), "var": noise(3, low=0.5)}
    said = {} if epsilon is None else {"epsilon": epsilon}
    op = operator("SpatialBN", ["x", *w], ["y"], is_test=1, order=order, **said)
    (have,) = answers(tmp_path, [op], {"x": turned(order, x)}, weights=w)
    scale, bias, mean, var = (per_channel(v) for v in w.values())
    want = scale * (x - mean) / np.sqrt(var + (epsilon or 1e-5)) + bias
    np.testing.assert_allclose(have, turned(order, want), rtol=1e-4, atol=1e-5)


def test_spatial_bn_of_training_is_refused(tmp_path):
    w = {name: noise(3, low=0.5) for name in ("scale", "bias", "mean", "var")}
    save(tmp_path, [operator("SpatialBN", ["x", *w], ["y"])], ["y"], w, {"x": noise(1, 3, 4, 5)})
    with pytest.raises(LoadFailed, match=r'operator 1 "y" \(SpatialBN\): it is in its training form.*is_test=1'):
        load(tmp_path)


@ORDERS
def test_instance_norm(tmp_path, order):
    x, scale, bias = noise(2, 3, 4, 5), noise(3), noise(3, seed=1)
    op = operator("InstanceNorm", ["x", "scale", "bias"], ["y"], epsilon=0.001, order=order)
    (have,) = answers(tmp_path, [op], {"x": turned(order, x)}, weights={"scale": scale, "bias": bias})
    mean, var = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    want = per_channel(scale) * (x - mean) / np.sqrt(var + 0.001) + per_channel(bias)
    np.testing.assert_allclose(have, turned(order, want), rtol=1e-4, atol=1e-5)


@ORDERS
def test_group_norm(tmp_path, order):
    x, gamma, beta = noise(2, 6, 4, 5), noise(6), noise(6, seed=1)
    op = operator("GroupNorm", ["x", "gamma", "beta"], ["y"], group=3, epsilon=0.001, order=order)
    (have,) = answers(tmp_path, [op], {"x": turned(order, x)}, weights={"gamma": gamma, "beta": beta})
    parts = x.reshape(2, 3, -1)
    normal = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + 0.001)
    want = per_channel(gamma) * normal.reshape(x.shape) + per_channel(beta)
    np.testing.assert_allclose(have, turned(order, want), rtol=1e-4, atol=1e-5)


def test_layer_norm(tmp_path):
    x, weight, bias = noise(2, 3, 4), noise(3, 4), noise(3, 4, seed=1)
    flat = x.reshape(2, -1)
    want = ((flat - flat.mean(1, keepdims=True)) / np.sqrt(flat.var(1, keepdims=True) + 1e-5)).reshape(x.shape)
    op = operator("LayerNorm", ["x"], ["y", "mean", "deviation"])
    (have,) = answers(tmp_path / "plain", [op], {"x": x})
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    op = operator("LayerNorm", ["x", "weight", "bias"], ["y", "mean", "deviation"], elementwise_affine=1)
    (have,) = answers(tmp_path / "affine", [op], {"x": x}, weights={"weight": weight, "bias": bias})
    np.testing.assert_allclose(have, want * weight + bias, rtol=1e-4, atol=1e-5)
    op = operator("LayerNorm", ["x"], ["y", "mean", "deviation"], axis=2, epsilon=0.1)
    (have,) = answers(tmp_path / "axis", [op], {"x": x})
    want = (x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 0.1)
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("axis", [-1, 1])
def test_normalize(tmp_path, axis):
    x = noise(2, 3, 4)
    x[0, 0] = 0
    x[0, :, 0] = 0
    op = operator("Normalize", ["x"], ["y"], axis=axis)
    (have,) = answers(tmp_path, [op], {"x": x})
    length = np.maximum(np.sqrt((x**2).sum(axis, keepdims=True)), 1e-12)
    np.testing.assert_allclose(have, x / length, rtol=1e-5)


@ORDERS
def test_lrn(tmp_path, order):
    x = noise(2, 7, 3, 4)
    op = operator("LRN", ["x"], ["y", "scale"], size=5, alpha=0.3, beta=0.75, bias=2.0, order=order)
    (have,) = answers(tmp_path, [op], {"x": turned(order, x)})
    want = np.empty_like(x)
    for c in range(7):
        squares = (x[:, max(0, c - 2) : c + 3] ** 2).sum(1)
        want[:, c] = x[:, c] / (2 + 0.3 / 5 * squares) ** 0.75
    np.testing.assert_allclose(have, turned(order, want), rtol=1e-4, atol=1e-6)


def test_lrn_of_an_even_size_is_refused(tmp_path):
    save(tmp_path, [operator("LRN", ["x"], ["y"], size=4)], ["y"], inputs={"x": noise(1, 7, 3, 4)})
    with pytest.raises(LoadFailed, match="size 4 is not an odd number"):
        load(tmp_path)


@pytest.mark.parametrize("said", [{"is_test": 1}, {}])
def test_dropout_drops_nothing(tmp_path, caplog, said):
    x = noise(2, 30)
    operators = [operator("Dropout", ["x"], ["d", "mask"], ratio=0.5, **said), operator("Sqr", ["d"], ["y"])]
    (have,) = answers(tmp_path, operators, {"x": x})
    np.testing.assert_allclose(have, x**2, rtol=1e-6)
    assert ("has no is_test=1" in caplog.text) == (not said)


@ORDERS
@pytest.mark.parametrize("brought", [False, True])
def test_affine_channel(tmp_path, order, brought):
    x, scale, bias = noise(1, 3, 4, 5), noise(3), noise(3, seed=1)
    op = operator("AffineChannel", ["x", "scale", "bias"], ["y"], order=order)
    want = turned(order, per_channel(scale) * x + per_channel(bias))
    inputs = {"x": turned(order, x)}
    if brought:
        (have,) = answers(tmp_path, [op], inputs | {"scale": scale, "bias": bias}, batches=False)
    else:
        (have,) = answers(tmp_path, [op], inputs, weights={"scale": scale, "bias": bias})
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


def test_groups_that_do_not_fit_are_refused(tmp_path):
    w = {"gamma": noise(6), "beta": noise(6)}
    save(tmp_path, [operator("GroupNorm", ["x", *w], ["y"], group=4)], ["y"], w, {"x": noise(1, 6, 4, 5)})
    with pytest.raises(LoadFailed, match="6 channels do not split into 4 groups"):
        load(tmp_path)
