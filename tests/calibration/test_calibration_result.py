"""A calibration as a value: its words, its JSON, and that nothing else is taken for one."""

import json
import math

import pytest

from stfs.calibration.result import Calibration, fitted, from_json

TIMES = ((1, 0.0011), (2, 0.0012), (4, 0.0014))
MEASURED = fitted(TIMES, overlap=1.5, ran_on="generated values", measured_at_s=1.7e9, machine="ab", why_no_overlap="")


def test_the_line_through_the_times_is_told():
    assert (MEASURED.alpha_s, MEASURED.beta_s) == (pytest.approx(1e-3), pytest.approx(1e-4))
    assert MEASURED.cost == (MEASURED.alpha_s, MEASURED.beta_s, MEASURED.sigma, False)
    assert "1 + 0.1 b ms" in MEASURED.words
    assert "1.50 times" in MEASURED.words
    assert "this start (2023-11-14 22:13 UTC)" in MEASURED.origin
    assert MEASURED.in_flight == 2


def test_what_is_not_known_is_said():
    assert Calibration(why_skipped="an input is of strings").words == "not timed: an input is of strings"
    assert Calibration(why_skipped="an input is of strings").cost is None
    assert fitted(TIMES[:2]).alpha_s is None
    assert "too few sizes" in fitted(TIMES[:2]).words
    assert Calibration().origin == ""
    assert fitted(TIMES, overlap=None).in_flight == 1
    assert fitted(TIMES, overlap=1.09).in_flight == 1


def test_few_sizes_let_guess():
    one, two = fitted(TIMES[:1]).cost, fitted(TIMES[:2]).cost
    assert (one.is_guess, two.is_guess) == (True, True)
    assert (one.of(1), one.of(4)) == (pytest.approx(0.0011), pytest.approx(0.0044)), "each row may cost as much"
    assert two.of(4) == pytest.approx(0.0014)


@pytest.mark.parametrize("one", [MEASURED, fitted(TIMES[:1], why_no_overlap="slow"), Calibration(why_skipped="no")])
def test_json_tells_all_of_it(one):
    read = from_json(json.loads(json.dumps(one.as_json())))
    assert read.cached
    assert read == Calibration(
        tuple((rows, pytest.approx(seconds)) for rows, seconds in one.times),
        *(value if value is None else pytest.approx(value) for value in (one.alpha_s, one.beta_s)),
        pytest.approx(one.sigma),
        one.overlap,
        one.why_no_overlap,
        one.ran_on,
        one.measured_at_s,
        one.machine,
        True,
        one.why_skipped,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"times": None},
        {"times": [{"rows": 0, "ms": 1}]},
        {"times": [{"rows": True, "ms": 1}]},
        {"times": [{"rows": 2.0, "ms": 1}]},
        {"times": [{"rows": 1, "ms": 0}]},
        {"times": [{"rows": 1, "ms": -1}]},
        {"times": [{"rows": 1, "ms": math.nan}]},
        {"times": [{"rows": 1, "ms": math.inf}]},
        {"times": [{"rows": 1, "ms": "1"}]},
        {"times": [{"rows": 1, "ms": 10**400}]},
        {"times": [{"rows": 1}]},
        {"times": [1]},
        {"times": [{"rows": 2, "ms": 1}, {"rows": 2, "ms": 1}]},
        {"overlap": 0},
        {"overlap": "2"},
        {"ran_on": None},
        {"machine": 1},
        {"measured_at_s": None},
        {"why_skipped": []},
    ],
    ids=str,
)
def test_what_it_cannot_have_told_is_refused(change):
    with pytest.raises(ValueError, match=r"\w"):
        from_json(MEASURED.as_json() | change)


@pytest.mark.parametrize("key", MEASURED.as_json().keys() - {"alpha_ms", "beta_ms", "relative_error", "cached"})
def test_no_key_may_be_missing(key):
    with pytest.raises(ValueError, match="no calibration"):
        from_json({k: v for k, v in MEASURED.as_json().items() if k != key})


def test_a_fit_that_was_edited_is_not_believed():
    assert from_json(MEASURED.as_json() | {"alpha_ms": 1e9}).alpha_s == pytest.approx(1e-3)
