"""One server, three listeners: what GET /v1/models and the rest of /v1 answer on each, on the hot path and off it."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from running import Running, running
from simple_models import write_linear, write_many
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

ROW, DOUBLE = [1.0, 2.0, 3.0], [2.0, 4.0, 6.0]

AVAILABLE = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_linear(folder / "linear" / "1")
    write_linear(folder / "linear" / "2")
    write_many(folder / "many" / "1")
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "many")]
    entries[0] |= {"version_policy": "all", "version_labels": {"stable": 1, "a b": 2}}
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    return config


@pytest.fixture(scope="module", params=["auto", "off"])
def tfserving(config, request) -> Running:
    with running(f"--model_config_file={config}", "--dialect=tfserving", f"--hot_path={request.param}") as server:
        yield server


@pytest.fixture(scope="module", params=["auto", "off"])
def kserve(config, request) -> Running:
    with running(f"--model_config_file={config}", "--dialect=kserve", f"--hot_path={request.param}") as server:
        yield server


@pytest.fixture(scope="module")
def stfs(config) -> Running:
    with running(f"--model_config_file={config}") as server:
        yield server


def states(answer):
    assert answer.status == 200, answer.body
    assert answer.json.keys() == {"model_version_status"}
    return [int(version["version"]) for version in answer.json["model_version_status"]]


# --- TensorFlow Serving -----------------------------------------------------------------------------------------------


def test_tfserving_status(tfserving):
    assert states(tfserving.get("/v1/models/linear")) == [2, 1]
    assert tfserving.get("/v1/models/many").json == {"model_version_status": [AVAILABLE]}
    assert states(tfserving.get("/v1/models/linear/versions/1")) == [1]
    assert states(tfserving.get("/v1/models/linear/versions/0001")) == [1]
    assert states(tfserving.get("/V1/MODELS/lin%65ar/LABELS/stable")) == [1]
    assert states(tfserving.get("/v1/models/linear/labels/a%20b")) == [2]
    assert tfserving.get("/v1/models/linear").headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "version"), [("", "2"), ("/versions/1", "1"), ("/labels/stable", "1"), ("/labels/a%20b", "2")]
)
def test_tfserving_metadata(tfserving, path, version):
    told = tfserving.get(f"/v1/models/linear{path}/metadata").json
    assert told["model_spec"] == {"name": "linear", "signature_name": "", "version": version}
    (signature,) = told["metadata"]["signature_def"]["signature_def"].values()
    assert signature["method_name"] == "tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/metadata", 404, "Could not find any versions of model metadata"),
        ("GET", "/v1/models/versions/1", 400, "Missing model name in request."),
        ("GET", "/v1/models/labels/x/metadata", 400, "Missing model name in request."),
        ("GET", "/v1/models/", 400, "Malformed request: GET /v1/models/"),
        ("GET", "/v1", 400, "Malformed request: GET /v1"),
        ("GET", "/v1/models/linear:predict", 400, "Malformed request: GET /v1/models/linear:predict"),
        ("GET", "/v1/models/linear/versions/x", 400, "Malformed request: GET /v1/models/linear/versions/x"),
        ("POST", "/v1/models/linear", 400, "Malformed request: POST /v1/models/linear"),
        ("POST", "/v1/models/linear/metadata", 400, "Malformed request: POST /v1/models/linear/metadata"),
        ("POST", "/v1/models/linear:guess", 400, "Malformed request: POST /v1/models/linear:guess"),
        ("POST", "/v1/models/linear:predict?x=1", 400, "JSON Parse error: "),
        ("DELETE", "/v1/models/linear", 400, "Malformed request: DELETE /v1/models/linear"),
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/linear/versions/7", 404, "Could not find version 7 of model linear"),
        ("GET", "/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("GET", "/v1/models/linear/versions/7/metadata", 404, "Servable not found for request: Specific(linear, 7)"),
        ("GET", "/v1/models/linear/labels/no/metadata", 400, "Unrecognized servable version label: no"),
        ("GET", "/v1/models/nope/labels/no", 400, "Unrecognized servable version label: no"),
        ("POST", "/v1/models/linear/labels/no:predict", 400, "Unrecognized servable version label: no"),
        ("POST", "/v1/models/nope/labels/no:classify", 400, "Unrecognized servable version label: no"),
    ],
)
def test_tfserving_errors(tfserving, method, path, status, told):
    answer = tfserving.call(method, path, "" if method == "POST" else None)
    assert answer.status == status, answer.body
    assert answer.json.keys() == {"error"}
    assert answer.error.startswith(told) if told.endswith(" ") else answer.error == told


@pytest.mark.parametrize("path", ["linear/versions/{}:predict", "linear/versions/{}:regress", "no/versions/{}:predict"])
@pytest.mark.parametrize("version", [1 << 63, 10**400])
def test_a_version_too_large_gets_an_empty_answer(tfserving, path, version):
    answer = tfserving.post("/v1/models/" + path.format(version), {"instances": [ROW]})
    assert (answer.status, answer.body) == (400, b"")
    told = tfserving.get(f"/v1/models/linear/versions/{version}")
    assert (told.status, told.body) == (400, b"")
    largest = tfserving.post(f"/v1/models/linear/versions/{(1 << 63) - 1}:predict", {"instances": [ROW]})
    assert largest.error == f"Servable not found for request: Specific(linear, {(1 << 63) - 1})"


@pytest.mark.parametrize(
    "path", ["linear:predict", "LINEAR", "linear/labels/a%20b:Predict", "linear/versions/02:predict"]
)
def test_tfserving_predict_whatever_the_case_and_content_type(tfserving, path):
    answer = tfserving.call("POST", f"/V1/models/{path}", json.dumps({"instances": [ROW]}), {"Content-Type": "a/b"})
    if path == "LINEAR":
        assert answer.error == "Malformed request: POST /V1/models/LINEAR"
    else:
        assert answer.json == {"predictions": [DOUBLE]}


def test_a_model_that_does_not_classify(tfserving):
    answer = tfserving.post("/v1/models/many:classify", {"examples": [{}]})
    assert (answer.status, answer.error) == (400, "Expected one input Tensor.")
    answer = tfserving.post("/v1/models/linear:classify", {"examples": [{}]})
    assert (answer.status, answer.json.keys()) == (400, {"error"})
    assert re.fullmatch("No classification inputs found in SignatureDef: .*", answer.error)
    answer = tfserving.post("/v1/models/nope:regress", {"examples": [{}]})
    assert (answer.status, answer.error) == (404, "Servable not found for request: Latest(nope)")


# --- KServe -----------------------------------------------------------------------------------------------------------


def test_kserve_models_and_readiness(kserve):
    assert kserve.get("/v1/models").json == {"models": ["linear", "many"]}
    assert kserve.get("/v1/models/linear").json == {"name": "linear", "ready": True}
    assert kserve.get("/").json == {"status": "alive"}
    page = kserve.call("GET", "/", headers={"Accept": "text/html,*/*"})
    assert page.headers["Content-Type"].startswith("text/html")
    answer = kserve.get("/v1/models/nope")
    assert (answer.status, answer.error) == (404, "Model with name nope does not exist.")
    # What does not collide is TensorFlow Serving's on every listener.
    assert states(kserve.get("/v1/models/linear/versions/1")) == [1]
    assert kserve.get("/v1/models/linear/metadata").json["model_spec"]["version"] == "2"


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_kserve_predictions(kserve, key):
    path = "/v1/models/linear:predict"
    assert kserve.post(path, {key: [ROW, DOUBLE]}).json == {"predictions": [DOUBLE, [4.0, 8.0, 12.0]]}
    assert kserve.post(path, {key: [{"x": ROW}]}).json == {"predictions": [DOUBLE]}
    # As many digits as the number needs, where TensorFlow Serving writes 0.666666687.
    assert kserve.post(path, {key: [[1 / 3, 0, 0]]}).body == b'{"predictions":[[0.6666667,0.0,0.0]]}'


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("nope:predict", {"instances": [ROW]}, 404, "Model with name nope does not exist."),
        ("linear:explain", {"instances": [ROW]}, 501, "explain is not supported: this server predicts only"),
        ("linear:predict", {"instances": {"x": ROW}}, 400, '"instances" must be a list, not object'),
        ("linear:predict", {"inputs": {"x": ROW}}, 400, '"inputs" must be a list, not object'),
        ("linear:predict", {"inputs": []}, 400, '"inputs" is empty'),
        ("linear:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("linear:predict", {"instances": [ROW], "inputs": [ROW]}, 400, "Expecting only one of 'inputs' or 'instances'"),
        ("linear:predict", "[", 400, "malformed JSON at byte 0"),
        ("linear:predict", {"instances": [[1, 2]]}, 400, "does not match [?, 3]"),
        ("linear:guess", {}, 400, "Malformed request: POST /v1/models/linear:guess"),
    ],
)
def test_kserve_errors(kserve, path, body, status, told):
    answer = kserve.post(f"/v1/models/{path}", body)
    assert answer.status == status, answer.body
    assert told in answer.error
    assert kserve.post("/v1/models/linear:predict", {"instances": [ROW]}).json == {"predictions": [DOUBLE]}


def test_kserve_tells_a_model_that_is_not_ready(tmp_path):
    folder = tmp_path / "linear"
    write_linear(folder / "1")
    with running(f"--model_base_path={folder}", "--model_name=linear", "--dialect=kserve") as server:
        assert server.get("/v1/models/linear").json == {"name": "linear", "ready": True}
        shutil.rmtree(folder / "1")
        answer = wait_until(
            lambda: (told := server.get("/v1/models/linear")).status != 200 and told, "the end of the model"
        )
        assert (answer.status, answer.error) == (503, "Model with name linear is not ready.")
        assert server.get("/v1/models").json == {"models": ["linear"]}


def test_kserve_requests_are_counted_as_such(kserve):
    before = kserve.metric("stfs_requests_total", model="linear", dialect="kserve", outcome="ok")
    kserve.post("/v1/models/linear:predict", {"instances": [ROW]})
    assert kserve.metric("stfs_requests_total", model="linear", dialect="kserve", outcome="ok") == before + 1


# --- the seed ---------------------------------------------------------------------------------------------------------


def test_the_default_listener_keeps_both(stfs):
    assert [model["model_name"] for model in stfs.get("/v1/models").json] == ["linear", "many"]
    assert stfs.get("/V1/models").json == stfs.get("/v1/models").json
    detail = stfs.get("/v1/models/linear").json
    assert detail["model_name"] == "linear"
    assert [version["version"] for version in detail["model_version_status"]] == ["2", "1"]
    assert stfs.get("/v1/models/versions/1").error == "Missing model name in request."
    assert stfs.get("/").headers["Content-Type"].startswith("text/html")
    assert stfs.post("/v1/models/linear:predict", {"inputs": [ROW]}).json == {"outputs": [DOUBLE]}


def test_a_dialect_that_there_is_not(config):
    with (
        pytest.raises(AssertionError, match=r"dialect.*expected one of stfs, tfserving, kserve"),
        running(f"--model_config_file={config}", "--dialect=triton"),
    ):
        pass
