"""Run slots of a real server: whose runs go on at once, in what proportion, and what the metrics tell of it."""

import json
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from running import running

pytestmark = pytest.mark.slow  # starts servers

MODEL = """
import time
class Model:
    signature = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 1]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [None, 1]}],
    }

    def __init__(self, folder):
        self.log = open(LOG, "a", buffering=1)

    def predict(self, inputs):
        if (inputs["x"] >= 1).any():
            began = time.monotonic()
            time.sleep(0.01)
            self.log.write(f"NAME {began} {time.monotonic()}\\n")
        return {"y": inputs["x"] * 2}
"""
ROWS = 60


@pytest.fixture
def two_models(tmp_path):
    """A configuration of two models that sleep, and the file that they write their runs to."""
    log = tmp_path / "log"
    entries = []
    for name, weight in (("light", 1), ("heavy", 3)):
        folder = tmp_path / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(MODEL.replace("LOG", repr(str(log))).replace("NAME", name))
        entries.append(
            {"name": name, "base_path": str(folder.parent), "share_weight": weight, "max_batch_size": 1}
            | {"isolation": "thread", "calibrate": False}
        )
    config = tmp_path / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    return config, log


def ask_both(server):
    """A request of many rows of each, which are run one by one."""

    def ask(name):
        answer = server.post(f"/v1/models/{name}:predict", {"instances": [[float(i)] for i in range(1, ROWS + 1)]})
        return answer.json["predictions"]

    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(ask, ("light", "heavy")))
    assert answers == [[[2.0 * i] for i in range(1, ROWS + 1)]] * 2


def runs_of(log: Path):
    runs = [line.split() for line in log.read_text().splitlines()]
    return sorted((float(began), float(ended), name) for name, began, ended in runs)


def test_one_slot_is_shared_by_weight(two_models):
    config, log = two_models
    with running(f"--model_config_file={config}", "--run_slots=1") as server:
        ask_both(server)
        waits = {name: server.metric("stfs_slot_waits_total", model=name) for name in ("light", "heavy")}
        waited_s = server.metric("stfs_slot_wait_seconds_total", model="light")
    runs = runs_of(log)
    assert len(runs) == 2 * ROWS
    assert all(one[1] <= next_[0] for one, next_ in pairwise(runs)), "never two at once"
    both_want = runs[8 : ROWS + 8]  # by then both have asked, and neither has run out of rows
    light = sum(name == "light" for _, _, name in both_want)
    assert len(both_want) / 4 * 0.6 <= light <= len(both_want) / 4 * 1.5
    assert waits["light"] > 0
    assert waits["heavy"] > 0
    assert waited_s > 0


def test_without_slots_nobody_waits(two_models):
    config, log = two_models
    with running(f"--model_config_file={config}", "--run_slots=off") as server:
        ask_both(server)
        assert server.metric("stfs_slot_waits_total") == 0
    runs = runs_of(log)
    assert any(one[1] > next_[0] for one, next_ in pairwise(runs)), "they run side by side"


def test_models_that_sleep_do_not_wait_unless_told_to(two_models):
    config, log = two_models
    with running(f"--model_config_file={config}") as server:
        ask_both(server)
        # There are as many processors as models, or else these are idle but for what happens beside this test.
        assert server.metric("stfs_slot_waits_total") < ROWS
    assert len(runs_of(log)) == 2 * ROWS


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--run_slots=0", "1 or more"),
        ("--run_slots=many", "auto, off or a whole number"),
        ("--share_weight=0", "0.001 to 1000"),
        ("--share_weight=nan", "0.001 to 1000"),
    ],
)
def test_what_cannot_be_meant_is_refused(flag, told):
    from stfs.config import load
    from stfs.errors import ConfigError

    with pytest.raises(ConfigError, match=told) as caught:
        load(["model", flag], {}, prog="test", positional=True)
    assert flag.split("=")[0] in str(caught.value)
