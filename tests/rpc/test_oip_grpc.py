"""The Open Inference Protocol over gRPC: Triton's own client, unmodified, against a real server."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from odd_estimators import write_odd
from onnx import TensorProto, helper
from running import Running, basic_auth, running
from simple_models import save, write_linear, write_many
from tritonclient.grpc import service_pb2 as service
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

MODELS = ("linear", "many", "half", "odd", "slow", "sleepy")
X = np.array([[1, 2.5, -3], [0, 1e-30, 7]], np.float32)

MANY = {
    "whole": np.array([1, -2], np.int32),
    "long": np.array([2**62 + 1, -1], np.int64),
    "flag": np.array([True, False]),
    "text": np.array(["é".encode(), b""], object),
    "real": np.array([[0.1, np.pi], [-0.0, 1e300]], np.float64),
}


def write_half(folder):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", 2])],
    )
    assert isinstance(graph, onnx.GraphProto)
    return save(graph, folder)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    write_linear(folder / "linear" / "1")
    write_linear(folder / "linear" / "2", scale=3.0)
    write_many(folder / "many" / "3")
    write_half(folder / "half" / "1")
    write_odd(folder / "odd" / "1")
    write_odd(folder / "slow" / "1", sleep_s=0.5)
    write_odd(folder / "sleepy" / "1", sleep_s=5.0)
    entries = [{"name": name, "base_path": str(folder / name)} for name in MODELS]
    entries[0]["version_policy"] = "all"
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(
        f"--model_config_file={config}", "--grpc_port=0", "--max_request_bytes=1M", "--model_control=explicit"
    ) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture
def stub(server) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(name: str, array: np.ndarray) -> triton.InferInput:
    kind = {"f": "FP", "i": "INT", "u": "UINT"}.get(array.dtype.kind, "")
    datatype = {"b": "BOOL", "O": "BYTES"}.get(array.dtype.kind) or f"{kind}{array.dtype.itemsize * 8}"
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


# --- what the server tells ------------------------------------------------------------------------------------------


def test_what_is_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("linear", "9")
    assert not client.is_model_ready("nobody")


def test_metadata(client):
    told = client.get_server_metadata()
    assert told.name == "stfs"
    assert "model_repository" in told.extensions
    told = client.get_model_metadata("many")
    assert (told.name, list(told.versions), told.platform) == ("many", ["3"], "onnxruntime_onnx")
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [
        ("whole", "INT32", [-1]),
        ("long", "INT64", [-1]),
        ("flag", "BOOL", [-1]),
        ("text", "BYTES", [-1]),
        ("real", "FP64", [-1, 2]),
    ]
    assert list(client.get_model_metadata("linear").versions) == ["1", "2"]


def test_configuration_is_the_one_told_over_http(client, server):
    told = client.get_model_config("linear", as_json=True)["config"]
    http = server.get("/v2/models/linear/config").json
    assert told["max_batch_size"] == http["max_batch_size"] == 128
    assert told["version_policy"] == http["version_policy"] == {"all": {}}
    assert told["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["3"]}]


def test_statistics_count_what_was_asked(client):
    def told():
        (one,) = client.get_inference_statistics("half").model_stats
        return one

    before = told()
    x = np.ones((3, 2), np.float16)
    client.infer("half", [tensor("x", x)])
    with pytest.raises(InferenceServerException):
        client.infer("half", [tensor("x", x[:, :1])])
    after = told()
    assert (after.name, after.version) == ("half", "1")
    assert after.inference_count == before.inference_count + 3
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_stats.compute_input.ns > before.inference_stats.compute_input.ns
    assert after.inference_stats.compute_output.ns > before.inference_stats.compute_output.ns
    assert {one.batch_size for one in after.batch_stats} == {3}
    assert {one.name for one in client.get_inference_statistics().model_stats} == set(MODELS)
    assert [one.version for one in client.get_inference_statistics("linear", "2").model_stats] == ["2"]


# --- inference ------------------------------------------------------------------------------------------------------


def test_numbers_come_back_as_the_model_gives_them(client):
    result = client.infer("linear", [tensor("x", X)], request_id="one")
    assert result.as_numpy("y").tobytes() == (X * np.float32(3)).tobytes()
    told = result.get_response()
    assert (told.model_name, told.model_version, told.id) == ("linear", "2", "one")
    assert len(told.raw_output_contents) == 1
    assert client.infer("linear", [tensor("x", X)], model_version="1").as_numpy("y").tolist() == (X * 2).tolist()


def test_every_kind_of_tensor(client):
    result = client.infer("many", [tensor(name, array) for name, array in MANY.items()])
    for name, array in MANY.items():
        assert result.as_numpy(f"{name}_out").tolist() == array.tolist()
    half = np.array([[0.1, -65504], [np.inf, 6e-8]], np.float16)
    assert client.infer("half", [tensor("x", half)]).as_numpy("y").tobytes() == half.tobytes()


def test_typed_contents_are_taken_and_answered_raw(stub):
    """As a client does that was generated from the public file."""
    fields = {"whole": "int", "long": "int64", "flag": "bool", "text": "bytes", "real": "fp64"}
    datatypes = {"whole": "INT32", "long": "INT64", "flag": "BOOL", "text": "BYTES", "real": "FP64"}
    asked = service.ModelInferRequest(model_name="many")
    for name, array in MANY.items():
        contents = service.InferTensorContents(**{f"{fields[name]}_contents": array.ravel().tolist()})
        asked.inputs.add(name=name, datatype=datatypes[name], shape=array.shape, contents=contents)
    result = triton.InferResult(stub.ModelInfer(asked))
    for name, array in MANY.items():
        assert result.as_numpy(f"{name}_out").tolist() == array.tolist()


def test_outputs_asked_for(client):
    inputs = [tensor(name, array) for name, array in MANY.items()]
    wanted = [triton.InferRequestedOutput(name) for name in ("text_out", "whole_out")]
    told = client.infer("many", inputs, outputs=wanted).get_response()
    assert [one.name for one in told.outputs] == ["text_out", "whole_out"]


def test_classification(client):
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    told = client.infer("linear", [tensor("x", X)], outputs=wanted).as_numpy("y")
    assert told.tolist() == [[b"7.500000:1", b"3.000000:0"], [b"21.000000:2", b"0.000000:1"]]


def test_callbacks_and_futures(client):
    done: list[object] = []
    arrived = threading.Event()

    def told(result, error):
        done.append(error or result.as_numpy("y"))
        arrived.set()

    client.async_infer("linear", [tensor("x", X)], callback=told)
    assert arrived.wait(60)
    assert np.array_equal(done[0], X * 3)


def test_the_asynchronous_client(server):
    async def main():
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_model_ready("linear")
            rows = [np.full((1, 3), place, np.float32) for place in range(50)]
            results = await asyncio.gather(*(client.infer("linear", [tensor("x", row)]) for row in rows))
            for row, result in zip(rows, results, strict=True):
                assert np.array_equal(result.as_numpy("y"), row * 3)
            with pytest.raises(InferenceServerException, match="unknown model"):
                await client.infer("nobody", [tensor("x", X)])

    asyncio.run(main())


def test_concurrent_callers_get_their_own_rows(client):
    def ask(place):
        x = np.random.default_rng(place).normal(size=(place % 5 + 1, 3)).astype(np.float32)
        return x, client.infer("linear", [tensor("x", x)], request_id=str(place))

    with ThreadPoolExecutor(16) as pool:
        for place, (x, result) in enumerate(pool.map(ask, range(300))):
            assert result.get_response().id == str(place)
            assert result.as_numpy("y").tobytes() == (x * np.float32(3)).tobytes()


def test_compressed_messages(client):
    for algorithm in ("gzip", "deflate"):
        result = client.infer("linear", [tensor("x", X)], compression_algorithm=algorithm)
        assert np.array_equal(result.as_numpy("y"), X * 3)


def test_requests_count_as_the_dialects_own(client, server):
    def count(**labels):
        return server.metric("stfs_requests_total", dialect="oip_grpc", model="linear", **labels)

    before, wrong = count(outcome="ok"), count(outcome="invalid_input")
    client.infer("linear", [tensor("x", X)])
    with pytest.raises(InferenceServerException):
        client.infer("linear", [tensor("x", X[:, :2])])
    assert (count(outcome="ok"), count(outcome="invalid_input")) == (before + 1, wrong + 1)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def status_of(call) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_errors_have_tritons_statuses(client):
    x = [tensor("x", X)]
    status, text = status_of(lambda: client.infer("nobody", x))
    assert (status, text[:49]) == ("NOT_FOUND", "Request for unknown model: 'nobody' is not found;")
    assert status_of(lambda: client.infer("linear", x, model_version="9"))[0] == "NOT_FOUND"
    assert status_of(lambda: client.infer("linear", x, model_version="two"))[0] == "INVALID_ARGUMENT"
    assert status_of(lambda: client.infer("", x)) == ("INVALID_ARGUMENT", "model_name is missing")
    assert status_of(lambda: client.get_model_metadata("nobody"))[0] == "NOT_FOUND"
    assert status_of(lambda: client.get_model_config("nobody"))[0] == "NOT_FOUND"
    assert status_of(lambda: client.get_inference_statistics("nobody"))[0] == "NOT_FOUND"
    status, text = status_of(lambda: client.infer("linear", [tensor("x", X[:, :2])]))
    assert status == "INVALID_ARGUMENT"
    assert text == 'model "linear" version 2: input "x": shape [2, 2] does not match [?, 3]'
    wanted = [triton.InferRequestedOutput("z")]
    status, text = status_of(lambda: client.infer("linear", x, outputs=wanted))
    assert (status, 'unknown output "z"' in text) == ("INVALID_ARGUMENT", True)
    odd = [tensor("data", np.full((1, 1), -1.0))]
    status, text = status_of(lambda: client.infer("odd", odd))
    assert (status, "the value -1 is cursed" in text) == ("INTERNAL", True)
    large = [tensor("x", np.zeros((1 << 17, 3), np.float32))]
    assert status_of(lambda: client.infer("linear", large))[0] == "RESOURCE_EXHAUSTED"
    assert np.array_equal(client.infer("linear", x).as_numpy("y"), X * 3)  # and it goes on


def test_what_is_not_supported_says_so(client):
    calls = {
        "shared memory": [
            lambda: client.register_system_shared_memory("r", "/r", 64),
            lambda: client.register_cuda_shared_memory("r", b"", 0, 64),
        ],
        "--log_level": [client.get_log_settings, lambda: client.update_log_settings({"log_info": False})],
        "traceparent": [client.get_trace_settings, lambda: client.update_trace_settings(settings={"trace_rate": "1"})],
    }
    for word, made in calls.items():
        for call in made:
            status, text = status_of(call)
            assert (status, word in text) == ("UNIMPLEMENTED", True), text
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory()


def test_deadlines_of_the_call_and_of_the_request(client):
    slow = [tensor("data", np.ones((1, 1)))]
    assert status_of(lambda: client.infer("slow", slow, client_timeout=0.05))[0] == "DEADLINE_EXCEEDED"
    assert status_of(lambda: client.infer("slow", slow, timeout=50_000))[0] == "DEADLINE_EXCEEDED"
    assert client.infer("slow", slow).as_numpy("predict").tolist() == [2.0]


def test_a_cancelled_call_is_withdrawn(client, server):
    def cancelled():
        return server.metric("stfs_requests_total", dialect="oip_grpc", model="sleepy", outcome="cancelled")

    def rows(where):
        return server.metric(f"stfs_{where}_rows", model="sleepy")

    def gone():
        return cancelled() >= before + 2 and len(told) == 2

    before = cancelled()
    told: list[InferenceServerException] = []
    sleepy = [tensor("data", np.ones((1, 1)))]
    calls = [client.async_infer("sleepy", sleepy, lambda result, error: told.append(error)) for _ in range(2)]
    wait_until(lambda: rows("in_flight") + rows("queued") == 2)
    for call in calls:
        call.cancel()
    wait_until(gone)
    assert {error.status() for error in told} == {"StatusCode.CANCELLED"}
    assert cancelled() == before + 2


def test_messages_that_are_none(server):
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"{}")
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "no valid protobuf" in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/inference.GRPCInferenceService/ModelGuess")(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- the repository -------------------------------------------------------------------------------------------------


def test_models_are_unloaded_and_loaded_by_name(tmp_path):
    write_linear(tmp_path / "linear" / "1")
    argv = (f"--model_base_path={tmp_path / 'linear'}", "--model_name=linear", "--grpc_port=0")
    with running(*argv) as server, triton.InferenceServerClient(server.grpc) as client:
        status, text = status_of(lambda: client.unload_model("linear"))
        assert (status, "--model_control=explicit" in text) == ("INVALID_ARGUMENT", True)
        assert client.is_model_ready("linear")
    argv += ("--model_control=explicit",)
    with running(*argv) as server, triton.InferenceServerClient(server.grpc) as client:

        def index():
            return [
                (one.name, one.version, one.state, one.reason) for one in client.get_model_repository_index().models
            ]

        assert index() == [("linear", "1", "READY", "")]
        client.unload_model("linear")
        assert index() == [("linear", "1", "UNAVAILABLE", "unloaded")]
        assert not client.is_model_ready("linear")
        assert status_of(lambda: client.infer("linear", [tensor("x", X)]))[0] == "NOT_FOUND"
        client.load_model("linear", config=json.dumps({"max_batch_size": 7}))
        assert client.get_model_config("linear").config.max_batch_size == 7
        assert np.array_equal(client.infer("linear", [tensor("x", X)]).as_numpy("y"), X * 2)
        write_linear(tmp_path / "linear" / "2", scale=5.0)
        client.load_model("linear")
        assert client.infer("linear", [tensor("x", X)]).get_response().model_version == "2"
        status, text = status_of(lambda: client.load_model("nobody"))
        assert (status, text.startswith("Request for unknown model: 'nobody'")) == ("NOT_FOUND", True)
        assert status_of(lambda: client.unload_model("nobody"))[0] == "NOT_FOUND"
        status, text = status_of(lambda: client.load_model("linear", config="{", files={"file:1/a": b""}))
        assert (status, "files cannot be sent" in text) == ("INVALID_ARGUMENT", True)
        client.unload_model("linear")
        shutil.rmtree(tmp_path / "linear" / "2")
        (tmp_path / "linear" / "1" / "model.onnx").write_bytes(b"no model")
        status, text = status_of(lambda: client.load_model("linear"))
        assert (status, "failed to load 'linear'" in text) == ("INVALID_ARGUMENT", True)


def test_credentials_are_asked_for(tmp_path):
    write_linear(tmp_path / "1")
    argv = ("--enable_auth=true", "--auth_username=a", "--auth_password=b", "--grpc_port=0")
    argv = (f"--model_base_path={tmp_path}", "--model_name=linear", *argv)
    with running(*argv) as server, triton.InferenceServerClient(server.grpc) as client:
        assert status_of(lambda: client.infer("linear", [tensor("x", X)]))[0] == "UNAUTHENTICATED"
        assert status_of(client.is_server_live)[0] == "UNAUTHENTICATED"
        headers = {"authorization": basic_auth("a", "b")["Authorization"]}
        assert np.array_equal(client.infer("linear", [tensor("x", X)], headers=headers).as_numpy("y"), X * 2)


def test_the_documentation_lists_every_call():
    table = (Path(__file__).parents[2] / "docs" / "protocols" / "open-inference-grpc.md").read_text()
    calls = [method.name for method in service.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods]
    assert [call for call in calls if f"`{call}`" not in table] == []


def test_every_call_is_answered(server):
    """What is not supported is refused with words of ours, and nothing by gRPC for want of a handler."""
    refused = {}
    with grpc.insecure_channel(server.grpc) as channel:
        for method in service.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            if method.name != "ModelStreamInfer":
                call = channel.unary_unary(f"/inference.GRPCInferenceService/{method.name}").future(b"", timeout=60)
                if call.code() is grpc.StatusCode.UNIMPLEMENTED:
                    refused[method.name] = call.details()
    memory = "shared memory is not supported here: send tensors in the request"
    assert refused.pop("SystemSharedMemoryRegister") == refused.pop("CudaSharedMemoryRegister") == memory
    assert "traceparent" in refused.pop("TraceSetting")
    assert "--log_level" in refused.pop("LogSettings")
    assert refused == {}
