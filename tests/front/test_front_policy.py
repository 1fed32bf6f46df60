import pytest

from stfs.front import policy
from stfs.front.policy import cores_left_by_engine, cores_left_by_front, replicates

SMALL = {"in_process": True, "device": "auto", "file_bytes": 1 << 20, "run_s": [5e-5]}


@pytest.mark.parametrize(
    ("engine", "changed", "expected"),
    [
        ("auto", {}, True),
        ("auto", {"device": "cpu"}, True),
        ("auto", {"device": "cuda"}, False),
        ("auto", {"in_process": False}, False),
        ("auto", {"file_bytes": policy.REPLICATED_BYTES + 1}, False),
        ("auto", {"run_s": []}, False),
        ("auto", {"run_s": [5e-5, 5e-2]}, False),
        ("shared", {}, False),
        ("replicated", {"file_bytes": 1 << 40, "run_s": [], "device": "cuda"}, True),
        ("replicated", {"in_process": False}, False),
    ],
)
def test_which_models_are_replicated(engine, changed, expected):
    assert replicates(engine, **(SMALL | changed)) is expected


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("fronts", [2, 3, 8])
def test_everybody_has_a_core_and_replicas_do_not_take_more_than_there_are(cores, fronts):
    assert 0 <= cores_left_by_engine(cores, fronts) < cores
    each = cores - cores_left_by_front(cores, fronts)
    assert each >= 1
    assert each * fronts <= max(cores, fronts)
