"""Rows parted and padded to the sizes that a compiled model takes, and the sizes that it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.errors import InvalidInput, InvalidRequest, ModelFailed
from stfs.platforms.row_range import RowRange, run_in_range
from stfs.platforms.size_limits import Limits, OpenSize, check_sizes


@given(st.integers(1, 40), st.integers(0, 9), st.one_of(st.none(), st.integers(0, 9)))
def test_every_row_is_answered_once_in_runs_of_the_right_size(rows, fewest, more):
    most = None if more is None else max(1, fewest + more)
    sizes = []

    def double(inputs):
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2}

    x = np.arange(rows * 2).reshape(rows, 2)
    y = run_in_range(double, {"x": x}, rows, RowRange(fewest, most))["y"]
    np.testing.assert_array_equal(y, x * 2)
    assert all(size >= fewest and (most is None or size <= most) for size in sizes)
    assert len(sizes) == (1 if most is None else -(-rows // most))


def test_no_rows():
    same = {"x": np.zeros((0, 2))}
    assert run_in_range(lambda inputs: inputs, same, 0, RowRange()) is same
    with pytest.raises(InvalidRequest, match="no empty batch"):
        run_in_range(lambda inputs: inputs, same, 0, RowRange(1))


def test_a_model_that_loses_rows_is_told():
    with pytest.raises(ModelFailed, match=r'"y" has shape \[1\] after a run of 2 rows'):
        run_in_range(lambda inputs: {"y": inputs["x"][:1]}, {"x": np.zeros(4)}, 4, RowRange(0, 2))


SIZES = [OpenSize("a", 1, "s", 1, 0), OpenSize("b", 0, "s", 2, 1)]


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        (3, 7, None),
        (3, 5, 'input "b": dimension 0 is 5, which does not go with dimension 1 of "a"'),
        (3, 8, 'input "b": dimension 0 is 8, and must be 2 times a whole number plus 1'),
        (1, 3, 'input "a": dimension 1 is 1, and must be 2 to 5'),
        (6, 13, 'input "a": dimension 1 is 6, and must be 2 to 5'),
    ],
)
def test_sizes(a, b, problem):
    inputs = {"a": np.zeros((1, a)), "b": np.zeros(b)}
    if problem is None:
        check_sizes(inputs, SIZES, {"s": Limits(2, 5)})
        return
    with pytest.raises(InvalidInput) as caught:
        check_sizes(inputs, SIZES, {"s": Limits(2, 5)})
    assert str(caught.value) == problem


def test_no_upper_limit_is_told_as_such():
    with pytest.raises(InvalidInput, match="must be at least 2"):
        check_sizes({"a": np.zeros((1, 1))}, SIZES[:1], {"s": Limits(2, None)})
