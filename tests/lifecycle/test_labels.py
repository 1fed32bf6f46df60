import pytest

from stfs.errors import LabelRefused
from stfs.lifecycle.labels import check_labels


@pytest.mark.parametrize(
    ("wanted", "current", "available", "allow_unavailable", "is_fine"),
    [
        ({}, {"a": 1}, (), False, True),
        ({"a": 1}, {}, (1, 2), False, True),
        ({"a": 1}, {}, (), False, False),
        ({"a": 1}, {}, (), True, True),
        ({"a": 1, "b": 3}, {}, (1, 2), False, False),
        # A label that stays where it is passes, whatever has become of its version.
        ({"a": 1}, {"a": 1}, (), False, True),
        ({"a": 1}, {"a": 1}, (), True, True),
        # One that would move is never taken to a version that does not serve.
        ({"a": 2}, {"a": 1}, (1,), True, False),
        ({"a": 2}, {"a": 1}, (1,), False, False),
        ({"a": 2}, {"a": 1}, (1, 2), False, True),
    ],
)
def test_which_labels_may_be_given(wanted, current, available, allow_unavailable, is_fine):
    if is_fine:
        check_labels("m", wanted, current, available, allow_unavailable=allow_unavailable)
        return
    with pytest.raises(LabelRefused, match=r"version \d of model m, which is not currently available for inference"):
        check_labels("m", wanted, current, available, allow_unavailable=allow_unavailable)
