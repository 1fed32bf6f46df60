"""How long a thread may keep the interpreter from the loop, asked of a model where it runs."""

import pytest
from running import running

from stfs.batcher.thread import SWITCH_INTERVAL_S

pytestmark = pytest.mark.slow  # starts servers

MODEL = """
import sys

import numpy as np


class Model:
    signature = {
        "inputs": [{"name": "x", "dtype": "float64", "shape": [None]}],
        "outputs": [{"name": "y", "dtype": "float64", "shape": [None]}],
    }

    def __init__(self, folder):
        pass

    def predict(self, inputs):
        return {"y": np.full(len(inputs["x"]), sys.getswitchinterval())}
"""


@pytest.mark.parametrize("flags", [(), ("--workers=2", "--engine=replicated")], ids=["one process", "fronts"])
def test_the_loop_and_a_model_wait_for_each_other_no_longer_than_said(tmp_path, flags):
    (tmp_path / "model.py").write_text(MODEL)
    with running(str(tmp_path / "model.py"), "--isolation=thread", *flags) as server:
        answer = server.post("/v1/models/default:predict", {"instances": [0.0]})
    assert answer.json == {"predictions": [pytest.approx(SWITCH_INTERVAL_S)]}
