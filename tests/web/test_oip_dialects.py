"""One model asked in every HTTP dialect: the same numbers, and batches that they share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
from odd_estimators import write_odd
from running import running
from simple_models import write_linear

pytestmark = pytest.mark.slow  # starts servers

LENGTH = "Inference-Header-Content-Length"

Ask = tuple[str, bytes, dict[str, str]]


def stfs(x: np.ndarray) -> Ask:
    return "/", json.dumps({"data": x.tolist()}).encode(), {"Content-Type": "application/json"}


def rows(x: np.ndarray) -> Ask:
    return "/v1/models/default:predict", json.dumps({"instances": x.tolist()}).encode(), {}


def columns(x: np.ndarray) -> Ask:
    return "/v1/models/default:predict", json.dumps({"inputs": x.tolist()}).encode(), {}


def entry(x: np.ndarray, name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(x.shape), "datatype": f"FP{x.dtype.itemsize * 8}", **more}


def oip(name: str) -> Callable[[np.ndarray], Ask]:
    def ask(x: np.ndarray) -> Ask:
        body = {"inputs": [entry(x, name, data=x.ravel().tolist())]}
        return "/v2/models/default/infer", json.dumps(body).encode(), {}

    return ask


def oip_raw(name: str) -> Callable[[np.ndarray], Ask]:
    def ask(x: np.ndarray) -> Ask:
        body = {
            "inputs": [entry(x, name, parameters={"binary_data_size": x.nbytes})],
            "parameters": {"binary_data_output": True},
        }
        head = json.dumps(body).encode()
        return "/v2/models/default/infer", head + x.tobytes(), {LENGTH: str(len(head))}

    return ask


def values(headers: Any, body: bytes, dtype: type, output: str) -> np.ndarray:
    if LENGTH in headers:
        size = int(headers[LENGTH])
        told = json.loads(body[:size])["outputs"][0]
        return np.frombuffer(body[size:], dtype).reshape(told["shape"])
    told = json.loads(body)
    if (found := told.get("predictions", told.get(output))) is not None:
        return np.array(found, dtype)
    if isinstance(told["outputs"][0], dict):
        return np.array(told["outputs"][0]["data"], dtype).reshape(told["outputs"][0]["shape"])
    return np.array(told["outputs"], dtype)


def test_the_same_numbers_in_every_dialect(tmp_path):
    write_linear(tmp_path / "1", scale=0.3)
    rng = np.random.default_rng(7)
    x = (rng.standard_normal((50, 3)) * 10.0 ** rng.integers(-30, 30, (50, 3))).astype(np.float32)
    wanted = x * np.float32(0.3)
    for flags in ((), ("--hot_path=off",)):
        with running(str(tmp_path), *flags) as server:
            for dialect in (stfs, rows, columns, oip("x"), oip_raw("x")):
                path, body, headers = dialect(x)
                answer = server.call("POST", path, body, headers)
                assert answer.status == 200, answer.body
                np.testing.assert_array_equal(values(answer.headers, answer.body, np.float32, "y"), wanted)


def test_concurrent_calls_of_all_dialects_share_batches(tmp_path):
    """A run takes so long that what arrives meanwhile gathers. Each dialect sends 20 rows: a larger batch is shared."""
    write_odd(tmp_path / "1", sleep_s=0.3)
    with running(str(tmp_path)) as server:
        (told,) = server.get("/v2/models/default").json["inputs"]
        name, dtype = told["name"], {"FP64": np.float64, "FP32": np.float32}[told["datatype"]]
        dialects = [stfs, rows, columns, oip(name), oip_raw(name)]

        async def ask(session: aiohttp.ClientSession, number: int) -> None:
            x = np.array([[number + 1.0]], dtype)
            path, body, headers = dialects[number % len(dialects)](x)
            async with session.post(server.url + path, data=body, headers=headers) as answer:
                text = await answer.read()
                assert answer.status == 200, text
                assert values(answer.headers, text, dtype, "predict").ravel().tolist() == [2 * (number + 1.0)]

        async def main() -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
                await asyncio.gather(*(ask(session, number) for number in range(100)))

        asyncio.run(main())
        assert server.metric("stfs_requests_total", dialect="oip", outcome="ok") == 40
        assert server.metric("stfs_requests_total", outcome="ok") == 100
        assert server.metric("stfs_batch_rows_sum") == 100
        assert server.metric("stfs_batch_rows_bucket", le="32.0") < server.metric("stfs_batch_rows_count")
