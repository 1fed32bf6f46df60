"""Levels of priority and deadlines on real servers, by every protocol, with one process and with several."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from odd_estimators import Odd, write_odd
from rpc_calls import PREDICT, predict_bytes
from running import running
from simple_models import write_linear
from tritonclient.utils import InferenceServerException
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

LIMIT_S = 60.0
RANGE = "priority must be 1 (the highest) to 3, or 0 for the default, which is 3, not 9"
NO_NUMBER = "must be a whole number"


@pytest.fixture(scope="module", params=["1", "2"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("levels")
    odd = write_odd(folder / "odd", hold=str(folder / "hold"))
    models = [
        {"name": "odd", "base_path": str(odd), "priority_levels": 3, "max_batch_size": 1, "max_enqueued": 1},
        {"name": "linear", "base_path": str(write_linear(folder / "linear"))},
    ]
    (folder / "models.json").write_text(json.dumps({"model_config_list": models}))
    argv = [f"--model_config_file={folder / 'models.json'}", "--grpc_port=0", "--engine=shared"]
    with running(*argv, f"--workers={request.param}") as server:
        server.hold = folder / "hold"
        (spec,) = server.get("/v2/models/odd").json["inputs"]
        server.spec = spec["name"], spec["datatype"], np.float64 if spec["datatype"] == "FP64" else np.float32
        yield server


def tensor(kind, server, value):
    name, datatype, dtype = server.spec
    made = kind.InferInput(name, [1, 1], datatype)
    made.set_data_from_numpy(np.array([[value]], dtype))
    return [made]


def stfs(server, value, priority):
    headers = {} if priority is None else {"X-Request-Priority": str(priority)}
    answer = server.post("/", {"model_name": "odd", "data": [[value]]}, headers)
    return answer.status, "" if answer.status == 200 else answer.error


def tfserving(server, value, priority):
    body = {"inputs": [[value]]}
    answer = server.post("/v1/models/odd:predict", body, {"X-Request-Priority": str(priority)})
    return answer.status, "" if answer.status == 200 else answer.error


def oip(server, value, priority):
    answer = infer_by_triton(server, value, priority=priority)
    return answer.status, "" if answer.status == 200 else answer.error


def infer_by_triton(server, value, **asked):
    """What Triton's client sends; the client itself must not be let go of by another thread than it was made by."""
    inputs = tensor(triton_http, server, value)
    body, json_bytes = triton_http.InferenceServerClient.generate_request_body(inputs, **asked)
    headers = {} if json_bytes is None else {"Inference-Header-Content-Length": str(json_bytes)}
    return server.post("/v2/models/odd/infer", body, headers)


def oip_grpc(server, value, priority):
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        try:
            client.infer("odd", tensor(triton_grpc, server, value), priority=priority)
        except InferenceServerException as error:
            return {"StatusCode.INVALID_ARGUMENT": 400, "StatusCode.UNAVAILABLE": 503}[error.status()], error.message()
    return 200, ""


def tfserving_grpc(server, value, priority):
    name, _, dtype = server.spec
    with grpc.insecure_channel(server.grpc) as channel:
        try:
            body = predict_bytes("odd", **{name: np.array([[value]], dtype)})
            channel.unary_unary(PREDICT)(body, metadata=(("x-request-priority", str(priority)),), timeout=LIMIT_S)
        except grpc.RpcError as error:
            return {"INVALID_ARGUMENT": 400, "UNAVAILABLE": 503}[error.code().name], error.details()
    return 200, ""


PROTOCOLS = [stfs, tfserving, oip, oip_grpc, tfserving_grpc]


@contextmanager
def busy(server):
    """The model hangs while the block runs."""
    server.hold.write_text("")
    with ThreadPoolExecutor(4) as pool:
        hanging = pool.submit(stfs, server, Odd.HANG, None)
        try:
            wait_until(lambda: server.metric("stfs_in_flight_rows", model="odd") == 1)
            yield pool
        finally:
            server.hold.unlink()
        assert hanging.result(LIMIT_S)[0] == 200


@pytest.mark.parametrize("ask", PROTOCOLS)
def test_a_higher_level_takes_the_place_of_a_lower_one(server, ask):
    refused = server.metric("stfs_refused_total", model="odd", reason="displaced")
    with busy(server) as pool:
        low = pool.submit(server.post, "/", {"model_name": "odd", "data": [[2.0]]})
        wait_until(lambda: server.metric("stfs_queued_rows", model="odd") == 1)
        high = pool.submit(ask, server, 3.0, 1)
        displaced = low.result(LIMIT_S)
        assert displaced.status == 503
        assert int(displaced.headers["Retry-After"]) >= 1
        assert not high.done()
        status, text = stfs(server, 4.0, 2)
        assert (status, "1 rows queued of 1 allowed" in text) == (503, True)
    assert high.result(LIMIT_S) == (200, "")
    assert server.metric("stfs_refused_total", model="odd", reason="displaced") == refused + 1


@pytest.mark.parametrize("ask", PROTOCOLS)
def test_a_level_that_is_not_there(server, ask):
    status, text = ask(server, 1.0, 9)
    assert status == 400
    assert RANGE in text


@pytest.mark.parametrize("ask", [stfs, tfserving, tfserving_grpc])
@pytest.mark.parametrize("priority", ["high", "-1", "1.5"])
def test_what_is_no_level(server, ask, priority):
    status, text = ask(server, 1.0, priority)
    assert status == 400
    assert f"X-Request-Priority {NO_NUMBER}" in text


@pytest.mark.parametrize("key", ["priority", "timeout"])
@pytest.mark.parametrize("value", [-1, 1.5, "soon", [1], True])
def test_parameters_that_are_no_whole_numbers(server, key, value):
    name, datatype, _ = server.spec
    inputs = [{"name": name, "shape": [1, 1], "datatype": datatype, "data": [1.0]}]
    answer = server.post("/v2/models/odd/infer", {"inputs": inputs, "parameters": {key: value}})
    assert answer.status == 400
    assert f'the parameter "{key}" must be a' in answer.error


def test_a_model_without_levels_takes_any(server):
    body = {"model_name": "linear", "data": {"x": [[1, 2, 3]]}}
    for priority in (0, 1, 9, 2**62):
        assert server.post("/", body, {"X-Request-Priority": str(priority)}).status == 200
    inputs = [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]
    answer = server.post("/v2/models/linear/infer", {"inputs": inputs, "parameters": {"priority": 2**63 + 1}})
    assert answer.status == 200


def test_the_header_beats_the_body(server):
    name, datatype, _ = server.spec
    inputs = [{"name": name, "shape": [1, 1], "datatype": datatype, "data": [1.0]}]
    asked = {"inputs": inputs, "parameters": {"priority": 9}}
    assert server.post("/v2/models/odd/infer", asked, {"X-Request-Priority": "1"}).status == 200
    assert server.post("/v2/models/odd/infer", asked).status == 400


def test_deadlines_by_every_protocol(server):
    with busy(server):
        late = server.post("/", {"model_name": "odd", "data": [[2.0]]}, {"X-Request-Timeout-Ms": "50"})
        assert late.status == 504
        assert infer_by_triton(server, 2.0, timeout=50_000).status == 503
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            for how in ({"timeout": 50_000}, {"client_timeout": 0.05}, {"timeout": 50_000, "client_timeout": 30.0}):
                with pytest.raises(InferenceServerException) as caught:
                    client.infer("odd", tensor(triton_grpc, server, 2.0), **how)
                assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED", how
        wait_until(lambda: server.metric("stfs_queued_rows", model="odd") == 0)


def test_a_time_that_is_up(server):
    body = {"model_name": "odd", "data": [[2.0]]}
    answer = server.post("/", body, {"X-Request-Timeout-Ms": "0"})
    assert (answer.status, answer.error) == (504, "X-Request-Timeout-Ms is 0, so the time for an answer is up")
    for wrong in ("-1", "soon", "1.5", "1e3"):
        answer = server.post("/", body, {"X-Request-Timeout-Ms": wrong})
        assert answer.status == 400
        assert "X-Request-Timeout-Ms must be a whole number of milliseconds, 1 or more" in answer.error
