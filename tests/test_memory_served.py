"""Batches that do not fit into memory, through a real server: all are answered, and the size that fitted is kept to."""

import asyncio
import json

import aiohttp
import memory_models
import pytest
from running import running
from simple_models import write_linear

# Starts real servers; and torch would rather have torch.export.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CLIENTS = 128


WRITERS = {
    "onnx": memory_models.write_onnx,
    "apart": memory_models.write_onnx,
    "torch": memory_models.write_torchscript,
    "estimator": memory_models.write_estimator,
    "beside": write_linear,
}


def write_config(folder, names):
    models = []
    for name in names:
        WRITERS[name](folder / name)
        apart = {"isolation": "process"} if name == "apart" else {}
        models.append({"name": name, "base_path": str(folder / name), **apart})
    path = folder / "models.json"
    path.write_text(json.dumps({"model_config_list": models}))
    return path


def ask_at_once(server, requests):
    """POST all of ``(model, first)`` at the same time, a row each; the answers' statuses and rows in order."""

    async def main():
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(server.url, connector=connector) as session:

            async def ask(model, first):
                body = json.dumps({"instances": [[first, first + 1, first + 2]]})
                async with session.post(f"/v1/models/{model}:predict", data=body) as answer:
                    return answer.status, await answer.json()

            return await asyncio.gather(*(ask(*request) for request in requests))

    return asyncio.run(main())


def expect_right(server, names):
    """Requests of several models at once, each with numbers of its own: nobody gets somebody else's answer."""
    asked = [(name, float(i)) for i in range(CLIENTS) for name in names]
    for (name, first), (status, body) in zip(asked, ask_at_once(server, asked), strict=True):
        assert status == 200, (name, body)
        assert body["predictions"] == [[2 * first, 2 * first + 2, 2 * first + 4]], name


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ((), ["onnx", "apart", "torch", "estimator"]),
        (("--hot_path=off",), ["onnx"]),
        (("--workers=2", "--engine=shared"), ["onnx", "apart"]),
    ],
    ids=["hot", "stock", "fronts"],
)
def test_every_request_is_answered_and_the_limit_remembered(tmp_path, argv, names):
    config = write_config(tmp_path, [*names, "beside"])
    with running(f"--model_config_file={config}", "--calibrate=false", *argv) as server:
        for name in names:
            many = server.post(f"/v1/models/{name}:predict", {"instances": [[float(i)] * 3 for i in range(32)]})
            assert many.status == 200, many.body
            assert many.json["predictions"] == [[2.0 * i] * 3 for i in range(32)]
            assert server.metric("stfs_batch_limit_rows", model=name) == 16
            assert server.metric("stfs_failed_batches_total", model=name) == 1
            assert server.get(f"/v1/models/{name}").json["batch_limit_rows"] == 16
        assert server.metric("stfs_batch_limit_rows", model="beside") == 128
        for _ in range(3):
            expect_right(server, [*names, "beside"])
        for name in [*names, "beside"]:
            assert server.metric("stfs_failed_batches_total", model=name) == (name != "beside"), "it was remembered"
            rows = server.metric("stfs_batch_rows_count", model=name)
            assert (
                server.metric("stfs_batch_rows_bucket", model=name, le="16.0") >= rows - 1 - (name == "beside") * rows
            )
        log = server.log()
        for name in names:
            told = f'model "{name}" version 1: a run did not fit into memory: runs of such requests take up to 16 rows'
            assert log.count(told) == 1


def test_a_row_that_does_not_fit_alone_is_503_and_says_so(tmp_path):
    memory_models.write_onnx(tmp_path, most_rows=0)
    with running(str(tmp_path), "--calibrate=false") as server:
        for path, body in (
            ("/", {"data": {"x": [[1.0, 2.0, 3.0]]}}),
            ("/v1/models/default:predict", {"instances": [[1.0, 2.0, 3.0]]}),
            (
                "/v2/models/default/infer",
                {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}]},
            ),
        ):
            answer = server.post(path, body)
            assert answer.status == 503, answer.body
            assert "has not enough memory: one row does not fit" in answer.error
            assert int(answer.headers["Retry-After"]) >= 1
        assert server.metric("stfs_requests_total", outcome="out_of_memory") == 3
        assert server.metric("stfs_batch_limit_rows") == 128
