"""KServe's own inference client against a running server.

KServe brings a web framework and pins of its own, so ``make test`` installs it in an environment beside; say with
``STFS_TEST_KSERVE_PYTHON`` which other interpreter has it. The requests that it makes are in ``test_oip``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from kserve_client import told_by
from running import running
from simple_models import write_linear

pytestmark = pytest.mark.slow

CLIENT = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

async def main(url):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    told = {"live": await client.is_server_live(url), "ready": await client.is_server_ready(url)}
    told["models"] = [await client.is_model_ready(url, name) for name in ("default", "nope")]
    told["answers"] = []
    x = np.array([[1, 2.5, -3]], np.float32)
    for binary in (False, True):
        for parameters in ({}, {"binary_data_output": True}):
            tensor = InferInput("x", [1, 3], "FP32")
            tensor.set_data_from_numpy(x, binary_data=binary)
            request = InferRequest("default", [tensor], request_id="7", parameters=parameters)
            answer = await client.infer(url, request, model_name="default")
            told["answers"].append([answer.id, answer.model_name, answer.outputs[0].as_numpy().tolist()])
    try:
        await client.infer(url, request, model_name="nope")
    except Exception as error:
        told["error"] = str(error)
    print(json.dumps(told))

asyncio.run(main(sys.argv[1]))
"""


def test_kserve_client(tmp_path: Path) -> None:
    write_linear(tmp_path / "1")
    with running(str(tmp_path)) as server:
        told = told_by(CLIENT, server.url)
    assert (told["live"], told["ready"], told["models"]) == (True, True, [True, False])
    assert told["answers"] == [["7", "default", [[2.0, 5.0, -6.0]]]] * 4
    assert "Request for unknown model: 'nope' is not found" in told["error"]
