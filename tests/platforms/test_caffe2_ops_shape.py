"""Caffe2's operators that fill and move elements, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from caffe2_nets import S, answers, load, net, noise, operator, save

from stfs.errors import LoadFailed

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

GIVEN = [
    ("GivenTensorFill", [1.5, -2.0], "float32"),
    ("GivenTensorDoubleFill", [1.5, -2.0], "float64"),
    ("GivenTensorIntFill", [1, -2], "int32"),
    ("GivenTensorInt16Fill", [1, -2], "int16"),
    ("GivenTensorInt64Fill", [1, -(2**40)], "int64"),
    ("GivenTensorBoolFill", [1, 0], "bool"),
]


@pytest.mark.parametrize(("kind", "values", "dtype"), GIVEN)
def test_given_values(tmp_path, kind, values, dtype):
    operators = [
        operator(kind, [], ["given"], values=values, shape=[2, 1]),
        operator("Cast", ["given"], ["as_double"], to="DOUBLE"),
        operator("Cast", ["x"], ["x_double"], to=13),
        operator("Mul", ["x_double", "as_double"], ["y"]),
        operator("Copy", ["given"], ["same"]),
    ]
    x = noise(3, 2, 2)
    folder = save(tmp_path, operators, ["y", "same"], inputs={"x": x})
    have = load(folder).run(S, {"x": x})
    np.testing.assert_allclose(have["y"], x * np.array(values, "float64")[:, None], rtol=1e-6)
    assert have["same"].dtype == dtype
    np.testing.assert_array_equal(have["same"], np.array(values)[:, None])


def test_given_bytes(tmp_path):
    operators = [
        operator("GivenTensorByteStringToUInt8Fill", [], ["given"], values=["\x01\x7f\x02"], shape=[3]),
        operator("Cast", ["given"], ["numbers"], to=1),
        operator("Add", ["x", "numbers"], ["y"]),
    ]
    x = noise(2, 3)
    (have,) = answers(tmp_path, operators, {"x": x})
    np.testing.assert_allclose(have, x + np.array([1, 127, 2]), rtol=1e-6)


def test_constant_fills(tmp_path):
    operators = [
        operator("ConstantFill", [], ["threes"], shape=[4], value=3.0),
        operator("ConstantFill", [], ["ones"], shape=[4], value=1, dtype=10),
        operator("Cast", ["ones"], ["ones_float"], to=1),
        operator("Add", ["threes", "ones_float"], ["fours"]),
        operator("ConstantFill", ["x"], ["halves"], value=0.5),
        operator("Mul", ["x", "fours"], ["a"]),
        operator("Add", ["a", "halves"], ["y"]),
        operator("ConstantFill", ["x"], ["zeros"], dtype="INT32", extra_shape=[2]),
        operator("Shape", ["x"], ["shape"]),
        operator("ConstantFill", ["shape"], ["sevens"], value=7, dtype=2, input_as_shape=1),
    ]
    x = noise(2, 4)
    y, zeros, sevens = answers(tmp_path, operators, {"x": x}, ("y", "zeros", "sevens"))
    np.testing.assert_allclose(y, 4 * x + 0.5, rtol=1e-6)
    np.testing.assert_array_equal(zeros, np.zeros((2, 4, 2), np.int32))
    np.testing.assert_array_equal(sevens, np.full((2, 4), 7, np.int32))


RANDOM = ["XavierFill", "MSRAFill", "GaussianFill", "UniformFill", "UniformIntFill", "UniqueUniformFill"]


@pytest.mark.parametrize("kind", RANDOM)
def test_random_weights_are_refused(tmp_path, kind):
    save(tmp_path, [operator("Add", ["x", "w"], ["y"])], ["y"], inputs={"x": noise(1, 4)})
    init = net([operator(kind, [], ["w"], shape=[4])])
    (tmp_path / "init_net.pb").write_bytes(init.SerializeToString())
    with pytest.raises(LoadFailed, match=rf'init_net\.pb: operator 1 "w" \({kind}\): it fills with random numbers'):
        load(tmp_path)


COPIES = [
    "Copy", "Alias", "StopGradient", "EnsureCPUOutput", "EnsureDense", "CopyFromCPUInput", "CopyCPUToGPU",
    "CopyGPUToCPU", "CopyOnDeviceLike",
]  # fmt: skip


@pytest.mark.parametrize("kind", COPIES)
def test_copies(tmp_path, kind):
    x = noise(2, 3)
    operators = [operator(kind, ["x"], ["c"]), operator("Sqr", ["x"], ["x"]), operator("Add", ["c", "x"], ["y"])]
    (have,) = answers(tmp_path, operators, {"x": x})
    np.testing.assert_allclose(have, x + x**2, rtol=1e-6)  # the copy was made before x was overwritten


@pytest.mark.parametrize(
    ("shape", "want"),
    [
        ([-1, 12], (2, 12)),
        ([0, 0, -1], (2, 3, 4)),
        ([0, -1, 2], (2, 6, 2)),
        ([0, 4, 3], (2, 4, 3)),
        ([1, 12], (2, 12)),  # written for one row: the 1 is the number of rows
        ([1, -1, 4], (2, 3, 4)),
    ],
)
def test_reshape(tmp_path, shape, want):
    x = noise(2, 3, 2, 2)
    operators = [operator("Reshape", ["x"], ["y", "old"], shape=shape)]
    (have,) = answers(tmp_path, operators, {"x": x})
    np.testing.assert_array_equal(have, x.reshape(want))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_reshape_by_an_input_and_back(tmp_path, dtype):
    x = noise(2, 3, 4)
    operators = [
        operator("Reshape", ["x", "wanted"], ["flat", "old"]),
        operator("Softmax", ["flat"], ["soft"]),
        operator("Reshape", ["soft", "old"], ["y", "_"]),
    ]
    weights = {"wanted": np.array([-1, 12], dtype)}
    (have,) = answers(tmp_path, operators, {"x": x}, weights=weights)
    want = np.exp(x) / np.exp(x).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(have, want, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "want"),
    [
        ("Flatten", {}, lambda x: x.reshape(2, -1)),
        ("Flatten", {"axis": 2}, lambda x: x.reshape(6, -1)),
        ("FlattenToVec", {}, lambda x: x.reshape(-1)),
        ("ExpandDims", {"dims": [1]}, lambda x: x[:, None]),
        ("ExpandDims", {"dims": [3, 1]}, lambda x: x[:, None, :, None]),
        ("Transpose", {"axes": [0, 3, 1, 2]}, lambda x: x.transpose(0, 3, 1, 2)),
        ("Transpose", {}, lambda x: x.transpose()),
        ("NHWC2NCHW", {}, lambda x: x.transpose(0, 3, 1, 2)),
        ("NCHW2NHWC", {}, lambda x: x.transpose(0, 2, 3, 1)),
        ("Tile", {"tiles": 2, "axis": 2}, lambda x: np.tile(x, (1, 1, 2, 1))),
        ("Tile", {"tiles": 3, "axis": -1}, lambda x: np.tile(x, (1, 1, 1, 3))),
        ("Slice", {"starts": [0, 1, 0], "ends": [-1, 3, -1]}, lambda x: x[:, 1:3]),
        ("Slice", {"starts": [0, 0, 1, -3], "ends": [-1, -1, -2, -1]}, lambda x: x[:, :, 1:-1, -2:]),
        ("Slice", {"starts": [0, 0], "ends": [-1, 99]}, lambda x: x),
    ],
)
def test_moves(tmp_path, kind, arguments, want):
    x = noise(2, 3, 4, 5)
    if kind == "ExpandDims":
        x = x[:, :, 0, 0]
    mixes = (kind, arguments) in [("Flatten", {"axis": 2}), ("FlattenToVec", {}), ("Transpose", {})]
    (have,) = answers(tmp_path, [operator(kind, ["x"], ["y"], **arguments)], {"x": x}, batches=not mixes)
    np.testing.assert_array_equal(have, want(x))


def test_squeeze(tmp_path):
    x = noise(2, 1, 3, 1)
    (have,) = answers(tmp_path, [operator("Squeeze", ["x"], ["y"], dims=[3, 1])], {"x": x})
    np.testing.assert_array_equal(have, x[:, 0, :, 0])


def test_slice_and_tile_by_inputs(tmp_path):
    x = noise(2, 3, 4)
    weights = {
        "starts": np.array([0, 1], np.int32),
        "ends": np.array([-1, 2], np.int32),
        "tiles": np.array([2], np.int32),
        "axis": np.array([1], np.int32),
    }
    operators = [
        operator("Slice", ["x", "starts", "ends"], ["middle"]),
        operator("Tile", ["middle", "tiles", "axis"], ["y"]),
    ]
    (have,) = answers(tmp_path, operators, {"x": x}, weights=weights)
    np.testing.assert_array_equal(have, np.tile(x[:, 1:2], (1, 2, 1)))


@pytest.mark.parametrize(
    ("kind", "arguments", "axis"),
    [
        ("Concat", {}, 1),
        ("Concat", {"axis": 2}, 2),
        ("Concat", {"order": "NHWC"}, 3),
        ("DepthConcat", {"order": "NCHW"}, 1),
    ],
)
def test_concat(tmp_path, kind, arguments, axis):
    a = noise(2, 3, 4, 5)
    b = np.concatenate([noise(2, 3, 4, 5, seed=1)] * 2, axis=axis)
    operators = [operator(kind, ["a", "b"], ["y", "sizes"], **arguments), operator("Copy", ["sizes"], ["told"])]
    folder = save(tmp_path, operators, ["y", "told"], inputs={"a": a, "b": b})
    have = load(folder).run(S, {"a": a, "b": b})
    np.testing.assert_array_equal(have["y"], np.concatenate([a, b], axis=axis))
    np.testing.assert_array_equal(have["told"], [a.shape[axis], b.shape[axis]])
    assert have["told"].dtype == np.int32


def test_concat_stacks_along_a_new_axis(tmp_path):
    a, b = noise(2, 3), noise(2, 3, seed=1)
    for axis in (1, 2, -1):
        op = operator("Concat", ["a", "b"], ["y", "sizes"], axis=axis, add_axis=1)
        (have,) = answers(tmp_path / str(axis), [op], {"a": a, "b": b})
        np.testing.assert_array_equal(have, np.stack([a, b], axis))


@pytest.mark.parametrize(
    ("kind", "arguments", "cuts", "axis"),
    [
        ("Split", {}, [2, 4], 1),
        ("Split", {"axis": 1, "split": [1, 2, 3]}, [1, 3], 1),
        ("Split", {"order": "NHWC", "split": [2, 2, 2]}, [2, 4], 3),
        ("DepthSplit", {"axis": -1, "split": [4, 1, 1]}, [4, 5], 3),
    ],
)
def test_split(tmp_path, kind, arguments, cuts, axis):
    x = noise(2, 6, 4, 6)
    outputs = ("a", "b", "c")
    have = answers(tmp_path, [operator(kind, ["x"], outputs, **arguments)], {"x": x}, outputs)
    for part, want in zip(have, np.split(x, cuts, axis), strict=True):
        np.testing.assert_array_equal(part, want)


def test_split_by_an_input_and_what_concat_says(tmp_path):
    a, b = noise(2, 3), noise(2, 4)
    operators = [
        operator("Concat", ["a", "b"], ["both", "sizes"], axis=1),
        operator("Sqr", ["both"], ["both"]),
        operator("Split", ["both", "sizes"], ["y", "z"], axis=1),
    ]
    y, z = answers(tmp_path, operators, {"a": a, "b": b}, ("y", "z"))
    np.testing.assert_allclose(y, a**2, rtol=1e-6)
    np.testing.assert_allclose(z, b**2, rtol=1e-6)


def test_split_that_drops_its_axis(tmp_path):
    x = noise(2, 3, 4)
    outputs = ("a", "b", "c")
    have = answers(tmp_path, [operator("Split", ["x"], outputs, axis=1, add_axis=1)], {"x": x}, outputs)
    for i, part in enumerate(have):
        np.testing.assert_array_equal(part, x[:, i])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_gather(tmp_path, dtype):
    table = noise(7, 5)
    places = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    (have,) = answers(tmp_path / "0", [operator("Gather", ["w", "x"], ["y"])], {"x": places}, weights={"w": table})
    np.testing.assert_array_equal(have, table[places])
    x, places = noise(2, 4, 5), np.array([3, 0], dtype)
    for kind, said in (("Gather", {"axis": 1}), ("BatchGather", {})):
        op = operator(kind, ["x", "places"], ["y"], **said)
        (have,) = answers(tmp_path / kind, [op], {"x": x}, weights={"places": places})
        np.testing.assert_array_equal(have, x[:, [3, 0]])


@pytest.mark.parametrize("name", [1, "FLOAT"])
def test_cast_and_shape(tmp_path, name):
    x = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    operators = [
        operator("Cast", ["x"], ["f"], to=name),
        operator("Shape", ["f"], ["columns"], axes=[1]),
        operator("Cast", ["columns"], ["n"], to=1),
        operator("Div", ["f", "n"], ["y"]),
    ]
    (have,) = answers(tmp_path, operators, {"x": x})
    np.testing.assert_allclose(have, x / np.float32(3), rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("Reshape", {}, "needs more than 1 inputs"),
        ("Reshape", {"shape": [5, 5]}, r"input of shape \[1, 3, 4\] does not fit shape \[5, 5\]"),
        ("Reshape", {"shape": [-1, 5]}, "does not fit shape"),
        ("Reshape", {"shape": [-1, -1]}, "does not fit shape"),
        ("Transpose", {"axes": [0, 1]}, r"axes \[0, 1\] are not the 3"),
        ("Split", {"axis": 1, "split": [1, 1]}, r"split \[1, 1\] does not make 2 parts of 3"),
        ("Split", {"axis": 1}, "3 elements along axis 1 do not split into 2"),
        ("Split", {"axis": 7}, "axis 7 is not among the 3 dimensions"),
        ("Slice", {"starts": [0, 2], "ends": [-1, 1]}, "cuts from 2 to 1 in a dimension of 3"),
        ("Slice", {"starts": [0], "ends": []}, "do not fit"),
        ("Cast", {"to": "STRING"}, "not a number"),
    ],
)
def test_what_is_refused(tmp_path, kind, arguments, reason):
    save(tmp_path, [operator(kind, ["x"], ["y", "z"], **arguments)], ["y"], inputs={"x": noise(1, 3, 4)})
    with pytest.raises(LoadFailed, match=reason) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_that_do_not_fill_their_shape_are_refused(tmp_path):
    op = operator("GivenTensorFill", [], ["w"], values=[1.0, 2.0], shape=[3])
    save(tmp_path, [op, operator("Add", ["x", "w"], ["y"])], ["y"], inputs={"x": noise(1, 3)})
    with pytest.raises(LoadFailed, match=r"2 values for shape \[3\]: is the file whole"):
        load(tmp_path)
