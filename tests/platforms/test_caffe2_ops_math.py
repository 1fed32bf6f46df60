"""Caffe2's arithmetic against numpy, and that no operator of the converter goes without a test."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from caffe2_nets import answers, load, noise, operator, save

from stfs.errors import LoadFailed
from stfs.platforms.caffe2_ops import HANDLERS

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

UNARY = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Exp": np.exp,
    "Abs": np.abs,
    "Sign": np.sign,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Cos": np.cos,
    "Sin": np.sin,
    "Tan": np.tan,
    "Atan": np.arctan,
    "Cosh": np.cosh,
    "Sinh": np.sinh,
    "Softplus": lambda x: np.log1p(np.exp(x)),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Erf": lambda x: np.vectorize(math.erf)(x),
    "Negative": np.negative,
    "Sqr": np.square,
    "Cube": lambda x: x**3,
    "Swish": lambda x: x / (1 + np.exp(-x)),
}
POSITIVE = {
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Acos": np.arccos,
    "Asin": np.arcsin,
}


def test_every_operator_that_the_converter_knows_is_tested():
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_caffe2_ops_*.py"))
    missing = [kind for kind in HANDLERS if not re.search(rf'"{kind}"', sources)]
    assert missing == []


@pytest.mark.parametrize("kind", [*UNARY, *POSITIVE])
def test_one_number_at_a_time(tmp_path, kind):
    # A logarithm and the like of what lies outside their domain is NaN there as here, but compares as equal to nothing.
    x = noise(3, 4, 5, low=0.0) * np.float32(0.9) + np.float32(0.05) if kind in POSITIVE else noise(3, 4, 5)
    if kind in POSITIVE:
        servable = load(save(tmp_path, [operator(kind, ["x"], ["y"])], ["y"], inputs={"x": x[:1]}))
        have = np.concatenate([servable.run("serving_default", {"x": row[None]})["y"] for row in x])
        want = POSITIVE[kind](x)
    else:
        (have,) = answers(tmp_path, [operator(kind, ["x"], ["y"])], {"x": x})
        want = UNARY[kind](x)
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "arguments", "want"),
    [
        ("LeakyRelu", {}, lambda x: np.where(x > 0, x, 0.01 * x)),
        ("LeakyRelu", {"alpha": 0.2}, lambda x: np.where(x > 0, x, 0.2 * x)),
        ("Elu", {}, lambda x: np.where(x > 0, x, np.exp(x) - 1)),
        ("Elu", {"alpha": 0.5}, lambda x: np.where(x > 0, x, 0.5 * (np.exp(x) - 1))),
        ("Selu", {}, lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1))),
        ("Selu", {"alpha": 1.5, "scale": 2.0}, lambda x: 2 * np.where(x > 0, x, 1.5 * (np.exp(x) - 1))),
        ("HardSigmoid", {}, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
        ("HardSigmoid", {"alpha": 0.5, "beta": 0.1}, lambda x: np.clip(0.5 * x + 0.1, 0, 1)),
        ("ThresholdedRelu", {}, lambda x: np.where(x > 1, x, 0)),
        ("ThresholdedRelu", {"alpha": 0.3}, lambda x: np.where(x > np.float32(0.3), x, 0)),
        ("Clip", {"min": -0.5, "max": 0.25}, lambda x: np.clip(x, -0.5, 0.25)),
        ("Clip", {"max": 0.25}, lambda x: np.minimum(x, 0.25)),
        ("Clip", {}, lambda x: x),
        ("ReluN", {}, lambda x: np.clip(x, 0, 6)),
        ("ReluN", {"n": 1.0}, lambda x: np.clip(x, 0, 1)),
        ("Scale", {"scale": -2.5}, lambda x: -2.5 * x),
        ("Pow", {"exponent": 3.0}, lambda x: x**3),
    ],
)
def test_with_parameters(tmp_path, kind, arguments, want):
    x = noise(3, 4, 5) * np.float32(3)
    (have,) = answers(tmp_path, [operator(kind, ["x"], ["y"], **arguments)], {"x": x})
    np.testing.assert_allclose(have, want(x), rtol=1e-4, atol=1e-5)


def test_a_whole_number_where_a_float_is_meant(tmp_path):
    x = noise(3, 4)
    (have,) = answers(tmp_path, [operator("Scale", ["x"], ["y"], scale=3)], {"x": x})
    np.testing.assert_allclose(have, 3 * x, rtol=1e-6)


@pytest.mark.parametrize("order", ["NCHW", "NHWC"])
@pytest.mark.parametrize("shared", [True, False])
def test_prelu(tmp_path, order, shared):
    x, slope = noise(2, 3, 4, 3), noise(1 if shared else 3)
    axis = (1, 3) if order == "NHWC" else (3, 1)
    x = x if order == "NCHW" else x.swapaxes(*axis)
    along = slope if shared or order == "NHWC" else slope[:, None, None]
    op = operator("PRelu", ["x", "slope"], ["y"], order=order)
    (have,) = answers(tmp_path, [op], {"x": x}, weights={"slope": slope})
    np.testing.assert_allclose(have, np.where(x > 0, x, along * x), rtol=1e-5)


ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
# arguments of the old broadcasting, the shape of the second tensor, the shape that numpy needs for the same
OLD = {
    "at the end": ({}, (5,), (5,)),
    "at the end, two": ({}, (4, 5), (4, 5)),
    "channels": ({"axis": 1}, (3,), (3, 1, 1)),
    "channels and rows": ({"axis": 1}, (3, 4), (3, 4, 1)),
    "with ones before": ({"axis": 0}, (1, 3), (1, 3, 1, 1)),
    "with ones after": ({"axis": 1}, (3, 1, 1), (3, 1, 1)),
    "by its letter": ({"axis_str": "C"}, (3,), (3, 1, 1)),
    "by a letter of the other order": ({"axis_str": "C", "order": "NHWC"}, (5,), (5,)),
    "one number": ({"axis": 1}, (1,), ()),
    "one number of many dimensions": ({}, (1, 1, 1), ()),
}


@pytest.mark.parametrize("case", OLD)
@pytest.mark.parametrize("kind", ARITHMETIC)
def test_old_broadcasting(tmp_path, kind, case):
    arguments, shape, aligned = OLD[case]
    x, b = noise(2, 3, 4, 5), noise(*shape, low=1.0)
    op = operator(kind, ["x", "b"], ["y"], broadcast=1, **arguments)
    (have,) = answers(tmp_path, [op], {"x": x}, weights={"b": b})
    np.testing.assert_allclose(have, ARITHMETIC[kind](x, b.reshape(aligned)), rtol=1e-5)


def test_old_broadcasting_of_what_a_request_brings(tmp_path):
    x, b = noise(2, 3, 4, 5), noise(2, 3)
    op = operator("Mul", ["x", "b"], ["y"], broadcast=1, axis=0)
    (have,) = answers(tmp_path / "rows", [op], {"x": x, "b": b})
    np.testing.assert_allclose(have, x * b[:, :, None, None], rtol=1e-5)
    one = noise(1, 1)
    op = operator("Add", ["x", "b"], ["y"], broadcast=1)
    (have,) = answers(tmp_path / "one", [op], {"x": x[:1], "b": one}, batches=False)
    np.testing.assert_allclose(have, x[:1] + one, rtol=1e-5)


def test_new_broadcasting(tmp_path):
    x, b = noise(2, 3, 4), noise(3, 1)
    for kind, compute in ARITHMETIC.items():
        (have,) = answers(tmp_path / kind, [operator(kind, ["x", "b"], ["y"])], {"x": x}, weights={"b": b})
        np.testing.assert_allclose(have, compute(x, b), rtol=1e-5)


@pytest.mark.parametrize("old", [False, True])
def test_pow_of_two_tensors(tmp_path, old):
    x, b = noise(2, 3, 4, low=0.5), noise(3, low=1.0)
    arguments = {"broadcast": 1, "axis": 1} if old else {}
    exponents = b if old else b[:, None]
    op = operator("Pow", ["x", "b"], ["y"], **arguments)
    (have,) = answers(tmp_path, [op], {"x": x}, weights={"b": exponents})
    np.testing.assert_allclose(have, x ** b[:, None], rtol=1e-5)


COMPARISONS = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip
LOGIC = {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}


def test_comparisons_logic_and_where(tmp_path):
    # Whole numbers, so that some are equal; rows enough for the check of batching to tell them apart.
    x, b = np.round(noise(4, 30)), np.round(noise(30, seed=1))
    pairs = [operator(kind, ["x", "b"], [kind], broadcast=1) for kind in COMPARISONS]
    logic = [operator(kind, ["LT", "EQ"], [kind]) for kind in LOGIC]
    rest = [
        operator("Not", ["LT"], ["Not"]),
        operator("Where", ["LT", "x", "double"], ["Where"]),
        operator("Scale", ["x"], ["double"], scale=2.0),
    ]
    order = [*pairs, *logic, rest[0], rest[2], rest[1]]
    outputs = [*COMPARISONS, *LOGIC, "Not", "Where"]
    have = dict(zip(outputs, answers(tmp_path, order, {"x": x}, outputs, {"b": b}), strict=True))
    for kind, compute in COMPARISONS.items():
        np.testing.assert_array_equal(have[kind], compute(x, b))
    for kind, compute in LOGIC.items():
        np.testing.assert_array_equal(have[kind], compute(x < b, x == b))
    np.testing.assert_array_equal(have["Not"], x >= b)
    np.testing.assert_array_equal(have["Where"], np.where(x < b, x, 2 * x))


def test_where_by_rows(tmp_path):
    x, flags = noise(2, 3, 4), np.array([0.5, -0.5], np.float32)
    zero = np.zeros(1, np.float32)
    operators = [
        operator("GT", ["flag", "zero"], ["positive"], broadcast=1),
        operator("Negative", ["x"], ["minus"]),
        operator("Where", ["positive", "x", "minus"], ["y"], broadcast_on_rows=1),
    ]
    (have,) = answers(tmp_path, operators, {"x": x, "flag": flags}, weights={"zero": zero})
    np.testing.assert_array_equal(have, np.stack([x[0], -x[1]]))


@pytest.mark.parametrize(
    ("kind", "compute"),
    [("Sum", np.sum), ("Max", np.max), ("Min", np.min), ("Mean", np.mean)],
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_tensors(tmp_path, kind, compute, count):
    arrays = {f"x{i}": noise(2, 3, 4, seed=i) for i in range(count)}
    (have,) = answers(tmp_path, [operator(kind, list(arrays), ["y"])], arrays)
    np.testing.assert_allclose(have, compute(np.stack(list(arrays.values())), axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "x_shape", "w_shape", "y_shape"),
    [
        ({}, (2, 6), (4, 6), (2, 4)),
        ({}, (2, 3, 2), (4, 6), (2, 4)),
        ({}, (2, 6), (4, 3, 2), (2, 4)),
        ({"axis": 2}, (2, 3, 6), (4, 6), (2, 3, 4)),
        ({"axis": -1}, (2, 3, 5, 6), (4, 6), (2, 3, 5, 4)),
        ({"axis_w": 2}, (2, 6), (2, 2, 6), (2, 4)),
    ],
)
@pytest.mark.parametrize("kind", ["FC", "FCTransposed"])
def test_fully_connected(tmp_path, kind, arguments, x_shape, w_shape, y_shape):
    x, b = noise(*x_shape), noise(4)
    w = noise(4, 6)
    laid = w.reshape(w_shape) if kind == "FC" else np.ascontiguousarray(w.T)
    if kind == "FCTransposed" and "axis_w" in arguments:
        laid = laid.reshape(3, 2, 4)
    (have,) = answers(
        tmp_path, [operator(kind, ["x", "w", "b"], ["y"], **arguments)], {"x": x}, weights={"w": laid, "b": b}
    )
    np.testing.assert_allclose(have, (x.reshape(-1, 6) @ w.T + b).reshape(y_shape), rtol=1e-4, atol=1e-5)


def test_fully_connected_over_everything(tmp_path):
    x, w, b = noise(2, 3), noise(4, 6), noise(4)
    op = operator("FC", ["x", "w", "b"], ["y"], axis=0)
    (have,) = answers(tmp_path, [op], {"x": x}, weights={"w": w, "b": b}, batches=False)
    np.testing.assert_allclose(have, x.ravel() @ w.T + b, rtol=1e-4, atol=1e-5)


def test_matmul(tmp_path):
    x, w = noise(2, 6), noise(6, 4)
    (have,) = answers(tmp_path / "plain", [operator("MatMul", ["x", "w"], ["y"])], {"x": x}, weights={"w": w})
    np.testing.assert_allclose(have, x @ w, rtol=1e-4, atol=1e-5)
    op = operator("MatMul", ["x", "w"], ["y"], trans_b=1, axis_a=1, axis_b=2)
    flat = noise(2, 2, 3)
    (have,) = answers(tmp_path / "flat", [op], {"x": flat}, weights={"w": w.T.reshape(2, 2, 6)})
    np.testing.assert_allclose(have, flat.reshape(2, 6) @ w, rtol=1e-4, atol=1e-5)
    op = operator("MatMul", ["w", "x"], ["y"], trans_a=1, trans_b=1)
    (have,) = answers(tmp_path / "turned", [op], {"x": x}, weights={"w": w}, batches=False)
    np.testing.assert_allclose(have, w.T @ x.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("turned", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_batch_matmul(tmp_path, turned):
    a, b = noise(2, 3, 4), noise(2, 4, 5)
    op = operator("BatchMatMul", ["a", "b"], ["y"], trans_a=turned[0], trans_b=turned[1])
    laid = {
        "a": np.ascontiguousarray(a.swapaxes(1, 2)) if turned[0] else a,
        "b": np.ascontiguousarray(b.swapaxes(1, 2)) if turned[1] else b,
    }
    (have,) = answers(tmp_path, [op], laid)
    np.testing.assert_allclose(have, a @ b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("shape", "axis"), [((2, 5), None), ((2, 3, 4), None), ((2, 3, 4), 2), ((2, 3, 4), -1)])
def test_softmax_is_over_all_that_follows_the_axis(tmp_path, shape, axis):
    x = noise(*shape)
    op = operator("Softmax", ["x"], ["y"], **({} if axis is None else {"axis": axis}))
    (have,) = answers(tmp_path, [op], {"x": x})
    first = 1 if axis is None else axis % len(shape)
    flat = np.exp(x.reshape(int(np.prod(shape[:first])), -1))
    np.testing.assert_allclose(have, (flat / flat.sum(1, keepdims=True)).reshape(shape), rtol=1e-5)


REDUCTIONS = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceMax": np.max,
    "ReduceMin": np.min,
    "ReduceL1": lambda x, axis, keepdims: np.abs(x).sum(axis, keepdims=keepdims),
    "ReduceL2": lambda x, axis, keepdims: np.sqrt((x**2).sum(axis, keepdims=keepdims)),
}


@pytest.mark.parametrize("kind", REDUCTIONS)
def test_reductions(tmp_path, kind):
    x = noise(2, 3, 4)
    for keepdims in (True, False):
        op = operator(kind, ["x"], ["y"], axes=[1, -1], keepdims=int(keepdims))
        (have,) = answers(tmp_path / str(keepdims), [op], {"x": x})
        np.testing.assert_allclose(have, REDUCTIONS[kind](x, axis=(1, 2), keepdims=keepdims), rtol=1e-5)
    (have,) = answers(tmp_path / "all", [operator(kind, ["x"], ["y"], keepdims=0)], {"x": x}, batches=False)
    np.testing.assert_allclose(have, REDUCTIONS[kind](x, axis=(0, 1, 2), keepdims=False), rtol=1e-5)


ENDS = {
    "ReduceFrontMean": np.mean, "ReduceFrontSum": np.sum, "ReduceFrontMax": np.max,
    "ReduceBackMean": np.mean, "ReduceBackSum": np.sum, "ReduceBackMax": np.max,
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDS)
def test_reductions_of_one_end(tmp_path, kind):
    x = noise(2, 3, 4)
    back = "Back" in kind
    (have,) = answers(tmp_path / "1", [operator(kind, ["x"], ["y"])], {"x": x}, batches=back)
    np.testing.assert_allclose(have, ENDS[kind](x, axis=2 if back else 0), rtol=1e-5)
    (have,) = answers(tmp_path / "2", [operator(kind, ["x"], ["y"], num_reduce_dim=2)], {"x": x}, batches=back)
    np.testing.assert_allclose(have, ENDS[kind](x, axis=(1, 2) if back else (0, 1)), rtol=1e-5)


def test_the_best_places(tmp_path):
    x = noise(3, 20)
    operators = [
        operator("ArgMax", ["x"], ["high"]),
        operator("ArgMin", ["x"], ["low"], axis=1, keepdims=0),
        operator("TopK", ["x"], ["values", "places"], k=3),
    ]
    outputs = ("high", "low", "values", "places")
    high, low, values, places = answers(tmp_path, operators, {"x": x}, outputs)
    np.testing.assert_array_equal(high, x.argmax(1)[:, None])
    np.testing.assert_array_equal(low, x.argmin(1))
    np.testing.assert_array_equal(places, np.argsort(-x, axis=1)[:, :3])
    np.testing.assert_array_equal(values, -np.sort(-x, axis=1)[:, :3])
    assert high.dtype == places.dtype == np.int64


@pytest.mark.parametrize(
    ("kind", "arguments", "shape", "reason"),
    [
        ("Add", {"axis": 1}, (3,), "an axis but no broadcast=1"),
        ("Add", {"axis": 3, "broadcast": 1}, (3, 4), r"\[3, 4\] does not lie on \[1, 3, 4, 5\] from axis 3 on"),
        ("Add", {}, (7,), "its inputs do not fit"),
        ("Pow", {"axis": 2}, (5,), "an axis but no broadcast=1"),
        ("BatchMatMul", {}, (5,), "input 2 is no matrix"),
        ("FC", {}, (2, 60), "needs more than 2 inputs"),
        ("MatMul", {}, (7, 2), "rows of 60 numbers cannot be multiplied with columns of 7"),
        ("MatMul", {"axis_b": 4}, (60, 2), "axis_b 4 is not among the 2 dimensions"),
        ("ReduceBackSum", {}, (1,), "lengths"),
    ],
)
def test_what_is_refused(tmp_path, kind, arguments, shape, reason):
    op = operator(kind, ["x", "b"], ["y"], **arguments)
    save(tmp_path, [op], ["y"], {"b": noise(*shape)}, {"x": noise(1, 3, 4, 5)})
    with pytest.raises(LoadFailed, match=reason) as caught:
        load(tmp_path)
    assert f'operator 1 "y" ({kind}): ' in str(caught.value)
