"""``stfs tune``: the choice among timed settings, and the file that it writes, which serves."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import run_cli, running

from stfs.commands.timing import GOOD_SHARE
from stfs.commands.tune import Setting, choose, explain, setting_of

SETTINGS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from([1, 2, 4, 8]), st.floats(0.01, 100)), min_size=1, max_size=12
).map(
    lambda runs: [
        setting_of(threads, {"rows": rows, "worst_ms": ms, "rows_per_s": rows / ms * 1e3}) for threads, rows, ms in runs
    ]
)


@given(SETTINGS, st.floats(0.01, 300), st.just(0.0) | st.floats(1, 1e5))
def test_a_choice_that_fits_is_in_time_and_carries_enough(settings, latency_ms, rate):
    chosen, fits = choose(settings, latency_ms, rate)
    assert chosen in settings
    in_time = [one for one in settings if one.worst_ms <= latency_ms]
    wanted = rate or GOOD_SHARE * max((one.rows_per_s for one in in_time), default=0.0)
    good = [one for one in in_time if one.rows_per_s >= wanted]
    assert fits == bool(good)
    if fits:
        assert chosen in good
        assert chosen.worst_ms == min(one.worst_ms for one in good)
    elif in_time:
        assert chosen.rows_per_s == max(one.rows_per_s for one in in_time)
    else:
        assert chosen.worst_ms == min(one.worst_ms for one in settings)
    words = explain(chosen, fits, latency_ms, rate)
    assert ("nothing" in words) == (not fits)


def test_two_runs_are_what_a_request_waits_for():
    assert setting_of(2, {"rows": 8, "worst_ms": 5.0, "rows_per_s": 1600.0}) == Setting(2, 8, 5.0, 10.0, 1280.0)


SLOW_MODEL = """
import time

class Model:
    signature = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [None]}],
    }

    def __init__(self, folder):
        pass

    def predict(self, inputs):
        time.sleep(0.02 + 0.02 * len(inputs["x"]))
        return {"y": inputs["x"] * 2}
"""


@pytest.mark.slow  # loads a model twice and starts a server
def test_what_it_writes_serves_and_what_cannot_be_is_said(tmp_path):
    (tmp_path / "model.py").write_text(SLOW_MODEL)
    written = tmp_path / "models.json"
    argv = (str(tmp_path / "model.py"), "--try_threads=0", "--budget_s=0.5", "--max_batch_size=4", "--model_name=slow")
    done = run_cli("tune", *argv, "--latency_ms=9000", "--device=cpu", "--output", str(written), "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    chosen = report["chosen"]
    assert chosen["rows"] in (1, 2, 4)
    assert chosen["run_ms"] >= 20 + 20 * chosen["rows"]
    assert report["meets"]
    (entry,) = json.loads(written.read_text())["model_config_list"]
    assert (entry["name"], entry["device"], entry["latency_slo_ms"]) == ("slow", "cpu", 9000.0)
    assert entry["max_batch_size"] == chosen["rows"]
    with running(f"--model_config_file={written}") as server:
        assert server.post("/v1/models/slow:predict", {"instances": [1, 2]}).json == {"predictions": [2.0, 4.0]}
    done = run_cli("tune", *argv, "--latency_ms=30")
    assert done.returncode == 1, done.stderr
    assert "nothing that was tried is within 30 ms" in done.stdout


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere", "--latency_ms=5"], "there is no nowhere"),
        (["nowhere"], "--latency_ms"),
        (["nowhere", "--latency_ms=0"], "more than 0"),
        (["nowhere", "--latency_ms=5", "--try_threads=some"], "whole numbers"),
    ],
)
def test_wrong_arguments_end_with_status_2(argv, said):
    done = run_cli("tune", *argv)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("stfs tune: error: ")
    assert said in line
