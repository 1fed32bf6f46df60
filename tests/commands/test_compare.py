"""What counts as the same in two answers, and how differences are told."""

import base64
import copy
import json

from hypothesis import given
from hypothesis import strategies as st

from stfs.commands.compare import Tolerance, differences

EXACT = Tolerance(0.0, 0.0)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


def told(first, second, tolerance=EXACT):
    return [str(one) for one in differences(first, second, tolerance)]


@given(VALUES)
def test_every_answer_is_the_same_as_itself_and_as_its_json(value):
    assert told(value, copy.deepcopy(value)) == []
    assert told(value, json.loads(json.dumps(value))) == []


@given(VALUES, VALUES, st.floats(0, 1), st.floats(0, 1))
def test_there_are_differences_one_way_where_there_are_the_other(first, second, rtol, atol):
    assert bool(told(first, second, EXACT)) == bool(told(second, first, EXACT))
    if told(first, second, Tolerance(rtol, atol)):
        assert told(first, second, EXACT), "a tolerance takes differences away"


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6), st.data())
def test_one_changed_number_is_told_by_its_place(numbers, data):
    at = data.draw(st.integers(0, len(numbers) - 1))
    changed = [*numbers]
    changed[at] = numbers[at] + 0.01 * abs(numbers[at]) + 1.0
    (only,) = differences({"y": [numbers]}, {"y": [changed]}, Tolerance(1e-5, 1e-8))
    assert only.path == f"y[0][{at}]"
    nearly = [number * (1 + 1e-7) for number in numbers]
    assert told([numbers], [nearly], Tolerance(1e-5, 1e-8)) == []


def test_what_is_the_same_though_written_otherwise():
    assert told({"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}) == []
    assert told([float("nan"), "NaN"], ["NaN", float("nan")]) == []
    assert told(["Grüße"], [{"b64": base64.b64encode("Grüße".encode()).decode()}]) == []


def test_what_differs():
    assert told(True, 1) == ["the answer: True and 1"]
    assert told([float("inf")], [1e308], Tolerance(1.0, 1.0)) == ["[0]: inf and 1e+308"]
    assert told({"y": [1, 2]}, {"y": [1]}) == ["y: 2 items and 1 items"]
    assert told({"y": 1}, {"z": 1}) == ["y: 1 and missing", "z: missing and 1"]
    assert told({"y": ["a"]}, {"y": ["b"]}) == ['y[0]: "a" and "b"']
    assert told("1", 1) == ['the answer: "1" and 1']
    assert told(10**400, 1.0) != []
    assert told(2**63, 2**63 + 1) != []
