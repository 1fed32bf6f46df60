"""The Open Inference Protocol over HTTP: real clients against a real server, on the hot path and without it."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import struct
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from odd_estimators import write_odd
from running import Running, basic_auth, running
from simple_models import write_linear, write_many
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.slow  # starts servers

LENGTH = "Inference-Header-Content-Length"
ROW = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.5, -3.0]}
X = np.array([[1, 2.5, -3], [0, 1e-30, 7]], np.float32)


@pytest.fixture(scope="module", params=["auto", "off"])
def server(request, tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    write_linear(folder / "linear" / "1")
    write_linear(folder / "linear" / "2", scale=3.0)
    write_many(folder / "many" / "3")
    write_odd(folder / "odd" / "1")
    write_odd(folder / "slow" / "1", sleep_s=0.5)
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "many", "odd", "slow")]
    entries[0]["version_policy"] = "all"
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(
        f"--model_config_file={config}",
        f"--hot_path={request.param}",
        "--max_request_bytes=1M",
        "--model_control=explicit",
    ) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        yield client


def tensor(name: str, array: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    kind = {"f": "FP", "i": "INT", "u": "UINT"}.get(array.dtype.kind, "")
    datatype = {"b": "BOOL", "O": "BYTES"}.get(array.dtype.kind) or f"{kind}{array.dtype.itemsize * 8}"
    found = triton.InferInput(name, list(array.shape), datatype)
    return found.set_data_from_numpy(array, binary_data=binary)


MANY = {
    "whole": np.array([1, -2], np.int32),
    "long": np.array([2**62 + 1, -1], np.int64),
    "flag": np.array([True, False]),
    "text": np.array(["é", "plain"], object),
    "real": np.array([[0.1, np.pi], [-0.0, 1e300]], np.float64),
}


# --- tritonclient ---------------------------------------------------------------------------------------------------


def test_what_the_server_tells(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "2")
    assert not client.is_model_ready("linear", "9")
    assert not client.is_model_ready("nope")
    told = client.get_server_metadata()
    assert told["name"] == "stfs"
    assert {"binary_tensor_data", "classification", "statistics", "model_repository"} <= set(told["extensions"])
    told = client.get_model_metadata("linear")
    assert told["versions"] == ["1", "2"]
    assert told["platform"] == "onnxruntime_onnx"
    assert told["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    types = {one["name"]: (one["datatype"], one["shape"]) for one in client.get_model_metadata("many")["inputs"]}
    assert types["text"] == ("BYTES", [-1])
    assert types["real"] == ("FP64", [-1, 2])
    told = client.get_model_config("linear", "1")
    assert told["max_batch_size"] == 128
    assert told["input"][0]["dims"] == [3]
    assert told["input"][0]["data_type"] == "TYPE_FP32"
    assert told["version_policy"] == {"all": {}}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_kind_of_tensor_both_ways(client, binary, binary_out):
    inputs = [tensor(name, array, binary=binary) for name, array in MANY.items()]
    outputs = [triton.InferRequestedOutput(f"{name}_out", binary_data=binary_out) for name in MANY]
    result = client.infer("many", inputs, outputs=outputs, request_id="r-1")
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "3"
    for name, array in MANY.items():
        got = result.as_numpy(f"{name}_out")
        if name == "text":
            texts = [text.decode() if isinstance(text, bytes) else text for text in got]
            assert texts == array.tolist()
        else:
            np.testing.assert_array_equal(got, array)
            assert got.dtype == array.dtype


def test_versions_and_asynchronous_calls(client):
    pending = [
        client.async_infer("linear", [tensor("x", X * i)], model_version=str(1 + i % 2), timeout=60_000_000)
        for i in range(8)
    ]
    for i, call in enumerate(pending):
        np.testing.assert_array_equal(call.get_result().as_numpy("y"), X * i * np.float32(2 + i % 2))


def test_asyncio_client(server):
    async def main() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            assert await client.is_server_ready()
            answers = await asyncio.gather(*(client.infer("linear", [tensor("x", X * i)]) for i in range(8)))
            for i, answer in enumerate(answers):
                np.testing.assert_array_equal(answer.as_numpy("y"), X * i * 3)
            large = np.arange(90_000, dtype=np.float32).reshape(-1, 3)
            answer = await client.infer("linear", [tensor("x", large)])
            np.testing.assert_array_equal(answer.as_numpy("y"), large * 3)
            wanted = [triton_aio.InferRequestedOutput("y", binary_data=False)]
            answer = await client.infer("linear", [tensor("x", large)], outputs=wanted)
            np.testing.assert_array_equal(answer.as_numpy("y"), large * 3)

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_both_ways(client, algorithm):
    large = np.arange(30_000, dtype=np.float32).reshape(-1, 3)
    result = client.infer(
        "linear",
        [tensor("x", large)],
        outputs=[triton.InferRequestedOutput("y", binary_data=False)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), large * 3)


def test_classification(client):
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    got = client.infer("linear", [tensor("x", X)], outputs=wanted).as_numpy("y")
    assert got.tolist() == [[b"7.500000:1", b"3.000000:0"], [b"21.000000:2", b"0.000000:1"]]


def test_statistics_count_requests_and_runs(client, server):
    def sums():
        (told,) = client.get_inference_statistics("linear", "1")["model_stats"]
        return told

    before = sums()
    for _ in range(3):
        client.infer("linear", [tensor("x", X)], model_version="1")
    with pytest.raises(InferenceServerException):
        client.infer("linear", [tensor("x", X[:, :2])], model_version="1")
    after = sums()
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 3
    old, new = before["inference_stats"], after["inference_stats"]
    grown = {key: new[key]["count"] - old[key]["count"] for key in new}
    assert grown == {
        "success": 3,
        "fail": 1,
        "queue": 3,
        "compute_input": 3,
        "compute_infer": 3,
        "compute_output": 3,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    for key in ("success", "fail", "compute_input", "compute_infer", "compute_output"):
        assert new[key]["ns"] > old[key]["ns"]
    by_size = {one["batch_size"]: one["compute_infer"]["count"] for one in after["batch_stats"]}
    old_by_size = {one["batch_size"]: one["compute_infer"]["count"] for one in before["batch_stats"]}
    assert by_size[2] - old_by_size.get(2, 0) == 3
    assert after["last_inference"] > 1_600_000_000_000
    names = {(one["name"], one["version"]) for one in client.get_inference_statistics()["model_stats"]}
    assert {("linear", "1"), ("linear", "2"), ("many", "3")} <= names
    assert server.metric("stfs_requests_total", dialect="oip", outcome="ok", model="linear", version="1") >= 3


def test_clients_load_and_unload_nothing_unless_they_may(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path)) as server:
        for call in ("load", "unload"):
            answer = server.post(f"/v2/repository/models/default/{call}", {})
            assert answer.status == 400
            assert "--model_control=explicit" in answer.error
        assert server.get("/v2/models/default/ready").status == 200
        (entry,) = server.post("/v2/repository/index", {}).json
        assert entry["state"] == "READY"


def test_models_are_unloaded_and_loaded_by_name(client):
    def index():
        return {
            (one["name"], one.get("version")): (one["state"], one.get("reason"))
            for one in client.get_model_repository_index()
        }

    assert index()["many", "3"] == ("READY", None)
    client.unload_model("many")
    assert index()["many", "3"] == ("UNAVAILABLE", "unloaded")
    assert not client.is_model_ready("many")
    assert client.is_model_ready("linear")
    assert client.is_server_ready()
    client.load_model("many", config=json.dumps({"max_batch_size": 4, "backend": "onnxruntime"}))
    assert index()["many", "3"] == ("READY", None)
    assert client.get_model_config("many")["max_batch_size"] == 4
    client.load_model("many", config=json.dumps(client.get_model_config("many")))
    client.load_model("many")
    assert client.get_model_config("many")["max_batch_size"] == 128
    with pytest.raises(InferenceServerException, match="files cannot be sent"):
        client.load_model("many", config="{}", files={"file:1/model.onnx": b"x"})
    with pytest.raises(InferenceServerException, match='"sequence_batching" cannot be set here'):
        client.load_model("many", config='{"sequence_batching": {}}')
    with pytest.raises(InferenceServerException, match="unknown model: 'nope'"):
        client.load_model("nope")
    with pytest.raises(InferenceServerException, match="unknown model: 'nope'"):
        client.unload_model("nope")
    assert client.is_model_ready("many")


def test_only_what_is_ready(client, server):
    client.unload_model("odd")
    listed = server.post("/v2/repository/index", {"ready": True}).json
    assert {one["name"] for one in listed} == {"linear", "many", "slow"}
    assert {one["state"] for one in listed} == {"READY"}
    client.load_model("odd")
    assert server.post("/v2/repository/index", {"ready": "yes"}).status == 400


def test_what_has_no_counterpart_here(client):
    assert client.get_system_shared_memory_status() == []
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()
    calls = [
        lambda: client.register_system_shared_memory("r", "/r", 8),
        lambda: client.register_cuda_shared_memory("r", b"x", 0, 8),
        lambda: client.get_trace_settings(),
        lambda: client.update_trace_settings("linear", {"trace_level": "OFF"}),
        lambda: client.get_log_settings(),
        lambda: client.update_log_settings({"log_info": False}),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match=r"not supported|cannot be changed") as caught:
            call()
        assert caught.value.status() == "501"


@pytest.mark.parametrize(
    ("model", "inputs", "how", "told"),
    [
        ("nope", [("x", X)], {}, "Request for unknown model: 'nope' is not found"),
        ("linear", [("x", X)], {"model_version": "9"}, "Request for unknown model: 'linear' is not found"),
        ("linear", [("x", X)], {"model_version": "new"}, "must be a whole number"),
        ("linear", [("x", X.astype(np.float64))], {}, "its datatype is FP64, but the model takes FP32"),
        ("linear", [("x", X[:, :2])], {}, "shape [2, 2] does not match [?, 3]"),
        ("linear", [("q", X)], {}, 'input "q": unknown'),
        ("linear", [("x", X)], {"outputs": [triton.InferRequestedOutput("z")]}, 'unknown output "z"'),
        ("linear", [("x", X)], {"sequence_id": 3}, "keep no state"),
        ("many", [("whole", MANY["whole"])], {}, 'input "long": missing'),
    ],
)
def test_errors_reach_the_client(client, model, inputs, how, told):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, [tensor(name, array) for name, array in inputs], **how)
    assert caught.value.status() == "400"
    assert told in caught.value.message()


# --- by hand --------------------------------------------------------------------------------------------------------


def test_curl(server):
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    url = f"http://127.0.0.1:{server.port}/v2/models/linear/versions/1/infer"
    done = subprocess.run([curl, "-sS", "-d", json.dumps({"inputs": [ROW]}), url], capture_output=True, check=True)
    assert json.loads(done.stdout)["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 5.0, -6.0]}
    ]


def test_health_is_told_by_the_status(server):
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/linear/ready",
        "/v2/models/linear/versions/1/ready",
    ):
        answer = server.get(path)
        assert (answer.status, answer.body) == (200, b"")
    assert (server.get("/v2/models/nope/ready").status, server.get("/v2/models/nope/ready").body) == (400, b"")
    accepts = {"Accept": "*/*"}
    assert server.call("GET", "/v2/health/live", headers=accepts).json == {"live": True}
    assert server.call("GET", "/v2/health/ready", headers=accepts).json == {"ready": True}
    assert server.call("GET", "/v2/models/nope/ready", headers=accepts).json == {"name": "nope", "ready": False}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/linear/infer", 405),
        ("PUT", "/v2/models/linear/infer", 405),
        ("POST", "/v2/models/linear", 405),
        ("POST", "/v2/health/live", 405),
        ("GET", "/v2/repository/index", 405),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/nope", 404),
        ("POST", "/v2/models/linear:predict", 405),
        ("POST", "/v2/models/linear/versions/1/versions/2/infer", 404),
    ],
)
def test_no_such_address_or_verb(server, method, path, status):
    answer = server.call(method, path, b"{}" if method != "GET" else None)
    assert answer.status == status
    assert path in answer.error
    assert ("Allow" in answer.headers) == (status == 405)


def test_a_raw_request(server):
    answer = server.call("POST", "/v2/models/linear/infer", X[0].tobytes(), {LENGTH: "0"})
    assert answer.status == 200, answer.body
    size = int(answer.headers[LENGTH])
    assert json.loads(answer.body[:size])["outputs"][0]["shape"] == [1, 3]
    assert np.frombuffer(answer.body[size:], "<f4").tolist() == (X[0] * 3).tolist()


@pytest.mark.parametrize("length", ["-1", "x", "", "1.0", "9" * 13, "²"])
def test_a_length_that_is_none(server, length):
    body = json.dumps({"inputs": [ROW]}).encode()
    answer = server.call("POST", "/v2/models/linear/infer", body, {LENGTH: length.encode()})
    assert answer.status == 400
    assert LENGTH in answer.error


def test_a_length_beyond_the_body(server):
    answer = server.call("POST", "/v2/models/linear/infer", b"{}", {LENGTH: "3"})
    assert (answer.status, LENGTH in answer.error) == (400, True)


def test_two_forms_in_one_request(server):
    head = json.dumps({"inputs": [ROW | {"parameters": {"binary_data_size": 12}}]}).encode()
    answer = server.call("POST", "/v2/models/linear/infer", head + bytes(12), {LENGTH: str(len(head))})
    assert answer.status == 400
    assert 'either "data" or "binary_data_size", not both' in answer.error


def test_the_content_type_is_not_looked_at(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        body = json.dumps({"inputs": [ROW]})
        answer = server.call("POST", "/v2/models/linear/infer", body, {"Content-Type": kind})
        assert answer.status == 200


def test_a_body_over_the_limit(server):
    answer = server.call("POST", "/v2/models/linear/infer", b" " * ((1 << 20) + 1))
    assert answer.status == 413
    assert "over the limit" in answer.error


def test_an_encoding_that_is_not_known(server):
    answer = server.call("POST", "/v2/models/linear/infer", b"{}", {"Content-Encoding": "br"})
    assert answer.status == 501
    assert answer.headers["Accept-Encoding"] == "zstd, gzip, deflate"
    assert "br" in answer.error


def test_the_length_is_that_of_the_plain_json(server):
    head = json.dumps({"inputs": [{**ROW, "data": None, "parameters": {"binary_data_size": 12}}]})
    head = head.replace('"data": null, ', "")
    body = gzip.compress(head.encode() + X[0].tobytes())
    answer = server.call("POST", "/v2/models/linear/infer", body, {LENGTH: str(len(head)), "Content-Encoding": "gzip"})
    assert answer.status == 200, answer.body


def test_a_deadline_in_the_body(server):
    """In microseconds; the model takes half a second."""
    (told,) = server.get("/v2/models/slow").json["inputs"]
    body = {"inputs": [{"name": told["name"], "shape": [1, 1], "datatype": told["datatype"], "data": [4]}]}
    answer = server.post("/v2/models/slow/infer", body | {"parameters": {"timeout": 20_000}})
    assert answer.status == 503
    assert "deadline" in answer.error
    for parameters in ({"timeout": 60_000_000, "priority": 2}, {"timeout": 0}):
        answer = server.post("/v2/models/slow/infer", body | {"parameters": parameters})
        assert answer.status == 200, answer.body
        assert answer.json["outputs"][0]["data"] == [8.0]


def test_a_model_that_fails(server):
    signature = server.get("/v2/models/odd").json["inputs"][0]
    bad = {"name": signature["name"], "shape": [1, 1], "datatype": signature["datatype"], "data": [-1]}
    answer = server.post("/v2/models/odd/infer", {"inputs": [bad]})
    assert answer.status == 500
    assert 'model "odd"' in answer.error


def test_bytes_cut_short(server):
    raw = struct.pack("<I", 9) + b"abc"
    rest = [{"name": n, "shape": [1], "datatype": t, "data": [1]} for n, t in (("whole", "INT32"), ("long", "INT64"))]
    rest += [{"name": "flag", "shape": [1], "datatype": "BOOL", "data": [True]}]
    rest += [{"name": "real", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}]
    text = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [*rest, text]}).encode()
    answer = server.call("POST", "/v2/models/many/infer", head + raw, {LENGTH: str(len(head))})
    assert answer.status == 400
    assert 'input "text": its 7 bytes are cut short in element 0 of 1' in answer.error


def test_control_bodies_that_are_none(server):
    assert server.post("/v2/repository/index", b"{").status == 400
    assert server.post("/v2/repository/index", b"[]").status == 400
    assert server.post("/v2/repository/index", b"").status == 200
    assert server.post("/v2/repository/models/linear/load", {"parameters": []}).status == 400
    assert server.post("/v2/repository/models/linear/load", {"parameters": {"config": {}}}).status == 400
    assert server.post("/v2/repository/models/linear/load", {"parameters": {"other": 1}}).status == 400


def test_credentials_are_asked_of_all_but_the_probes(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path), "--enable_auth=true") as server:
        body = json.dumps({"inputs": [ROW]})
        for method, path in (
            ("POST", "/v2/models/default/infer"),
            ("GET", "/v2"),
            ("GET", "/v2/models/default/ready"),
            ("POST", "/v2/repository/index"),
            ("POST", "/v2/repository/models/default/unload"),
        ):
            assert server.call(method, path, body if method == "POST" else None).status == 401
        assert server.get("/v2/health/ready").status == 200
        assert server.get("/v2/health/live").status == 200
        ours = basic_auth("admin", "admin")
        assert server.call("POST", "/v2/models/default/infer", body, ours).status == 200
