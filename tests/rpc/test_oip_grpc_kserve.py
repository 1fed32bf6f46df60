"""KServe's own client for gRPC against a running server; where it is, see ``tests/web/test_oip_kserve.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
from kserve_client import told_by
from running import running
from simple_models import write_linear

pytestmark = pytest.mark.slow  # starts a server

CLIENT = """
import asyncio, json, sys
import numpy as np
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceGRPCClient

async def main(address):
    client = InferenceGRPCClient(address)
    told = {"live": await client.is_server_live(), "ready": await client.is_server_ready()}
    told["models"] = [await client.is_model_ready(name) for name in ("default", "nope")]
    told["answers"] = []
    x = np.array([[1, 2.5, -3]], np.float32)
    for binary in (False, True):
        tensor = InferInput("x", [1, 3], "FP32")
        tensor.set_data_from_numpy(x, binary_data=binary)
        answer = await client.infer(InferRequest("default", [tensor], request_id="7"))
        told["answers"].append([answer.id, answer.model_name, answer.outputs[0].as_numpy().tolist()])
    try:
        await client.infer(InferRequest("nope", [tensor]))
    except Exception as error:
        told["error"] = [error.code().name, error.details()]
    print(json.dumps(told))

asyncio.run(main(sys.argv[1]))
"""


def test_kserve_client(tmp_path: Path) -> None:
    write_linear(tmp_path / "1")
    with running(str(tmp_path), "--grpc_port=0") as server:
        told = told_by(CLIENT, server.grpc)
    assert (told["live"], told["ready"], told["models"]) == (True, True, [True, False])
    assert told["answers"] == [["7", "default", [[2.0, 5.0, -6.0]]]] * 2
    status, text = told["error"]
    assert status == "NOT_FOUND"
    assert text.startswith("Request for unknown model: 'nope' is not found")
