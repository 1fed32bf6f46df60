"""What a model is timed on: never zeros where something better is known, and always bound to its signature."""

import numpy as np
import pytest

from stfs.calibration.inputs import (
    EXAMPLE_ROWS,
    GENERATED,
    RECORDED,
    ZEROS,
    generated_sample,
    recorded_sample,
    ways,
)
from stfs.signature import Signature, TensorSpec


def signature(*specs):
    return Signature("s", specs, (TensorSpec("y", np.dtype("float32"), (None,)),), True)


def spec(dtype, shape=(None, 3), **more):
    return TensorSpec("x", np.dtype(dtype), shape, **more)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint32", "bool"])
@pytest.mark.parametrize("shape", [(None,), (None, 3), (None, None, 4), None])
@pytest.mark.parametrize("rows", [1, 7, 100])
def test_generated_rows_are_bound_as_they_are_and_differ(dtype, shape, rows):
    one = signature(spec(dtype, shape))
    made = generated_sample(one)(rows)
    assert one.bind(made)["x"] is made["x"]
    assert made["x"].dtype == np.dtype(dtype)
    assert made["x"].shape == (rows, *(size or 1 for size in (shape or (None,))[1:]))
    assert 0 <= made["x"].min() <= made["x"].max() <= 1
    if rows > EXAMPLE_ROWS:
        different = len(np.unique(made["x"]))
        assert different > EXAMPLE_ROWS // 2 if made["x"].dtype.kind == "f" else different == 2


def test_they_are_the_same_each_time():
    one = signature(spec("float64"))
    np.testing.assert_array_equal(generated_sample(one)(40)["x"], generated_sample(one)(40)["x"])


def test_pixels_ranges_and_categories():
    pixels = generated_sample(signature(spec("uint8", (None, 8, 8, 3))))(4)["x"]
    assert pixels.max() > 200
    ranged = generated_sample(signature(spec("float32", (None,), doc="a temperature [-5 to 40]")))(16)["x"]
    assert (ranged >= -5).all()
    assert (ranged <= 40).all()
    assert (abs(ranged) > 1).any()
    words = generated_sample(signature(spec(object, (None,), values=("red", "green"))))(16)["x"]
    assert set(words.tolist()) == {b"red", b"green"}
    codes = signature(spec("int64", (None,), values=("3", "5")))
    made = generated_sample(codes)(16)
    assert set(made["x"].tolist()) == {3, 5}
    assert codes.bind(made)["x"] is made["x"]


def test_text_cannot_be_made_up():
    one = signature(spec("float32"), TensorSpec("t", np.dtype(object), (None,)))
    assert generated_sample(one) is None
    assert ways(one, (), lambda rows: {}) == []


def test_recorded_rows_come_before_all_others():
    one = signature(spec("float32"))
    recorded = [{"x": np.full((1, 3), 7, "float32")}, {"x": np.full((2, 3), 8, "float32")}]
    ((what, make),) = ways(one, recorded, lambda rows: {})
    assert what == RECORDED
    assert make(5)["x"][:, 0].tolist() == [7, 8, 8, 7, 8]
    assert make(1)["x"].tolist() == [[7, 7, 7]]


def test_recorded_rows_of_another_shape_and_none_are_left_out():
    one = signature(spec("float32", (None, None)))
    recorded = [np.zeros((0, 2), "float32"), np.ones((1, 2), "float32"), np.ones((4, 5), "float32")]
    assert recorded_sample(one, [{"x": array} for array in recorded]).rows == 1
    assert recorded_sample(one, [{"x": recorded[0]}]) is None
    many = recorded_sample(one, [{"x": np.ones((3, 2), "float32")}] * 100)
    assert many.rows == 18


def test_text_that_was_recorded_is_used():
    one = signature(TensorSpec("t", np.dtype(object), (None,)))
    text = np.array([b"a", b"bc"], dtype=object)
    ((what, make),) = ways(one, [{"t": text}], lambda rows: {})
    assert (what, make(3)["t"].tolist()) == (RECORDED, [b"a", b"bc", b"a"])


def test_zeros_are_the_last_resort():
    assert [what for what, _ in ways(signature(spec("float32")), (), lambda rows: {})] == [GENERATED, ZEROS]
