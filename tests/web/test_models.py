"""What is served, told: details, status, metadata, metrics."""

import pytest


def test_models_are_listed_as_the_seed_lists_them(server):
    shown = {model["model_name"]: model for model in server.get("/v1/models").json}
    assert set(shown) == {"linear", "many", "odd"}
    linear = shown["linear"]
    assert linear["model_version_list"] == [1]
    assert linear["platform"] == "onnx"
    assert linear["model_base_path"].endswith("linear")
    assert linear["model_signature"] == {
        "inputs": [{"name": "x", "dtype": 1, "dtype_name": "float32", "shape": [-1, 3]}],
        "outputs": [{"name": "y", "dtype": 1, "dtype_name": "float32", "shape": [-1, 3]}],
    }
    assert "CPUExecutionProvider" in linear["runtime"]
    assert shown["odd"]["platform"] == "scikitlearn"


def test_a_models_detail_carries_tfservings_status_beside_it(server):
    detail = server.get("/v1/models/many").json
    assert detail["model_name"] == "many"
    assert detail["model_version_status"] == [
        {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    assert server.get("/v1/models/many/versions/3").json == {"model_version_status": detail["model_version_status"]}


def test_metadata_is_tfservings(server):
    metadata = server.get("/v1/models/many/versions/3/metadata").json
    assert metadata["model_spec"] == {"name": "many", "signature_name": "", "version": "3"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["real"]["dtype"] == "DT_DOUBLE"
    assert signature["inputs"]["real"]["tensor_shape"]["dim"] == [
        {"size": "-1", "name": ""},
        {"size": "2", "name": ""},
    ]
    assert signature["inputs"]["text"]["dtype"] == "DT_STRING"
    assert signature["defaults"] == {}


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models/linear/versions/7", 404, "Could not find version 7 of model linear"),
        ("/v1/models/linear/versions/7/metadata", 404, "Servable not found for request: Specific(linear, 7)"),
        ("/v1/models/linear/nope", 400, "Malformed request: GET /v1/models/linear/nope"),
        ("/v1/", 400, "Malformed request"),
        ("/v1/models/linear:predict", 400, "Malformed request: GET"),
    ],
)
def test_what_is_not_there_is_told(server, path, status, told):
    answer = server.get(path)
    assert answer.status == status
    assert told in answer.error


def test_metrics_count_requests_batches_and_states(server):
    before = server.metric("stfs_requests_total", model="linear", dialect="tfserving", outcome="ok")
    refused = server.metric("stfs_requests_total", model="linear", outcome="invalid_input")
    for _ in range(3):
        server.post("/v1/models/linear:predict", {"instances": [[1, 2, 3]]})
    server.post("/v1/models/linear:predict", {"instances": [[1, 2]]})
    assert server.metric("stfs_requests_total", model="linear", dialect="tfserving", outcome="ok") == before + 3
    assert server.metric("stfs_requests_total", model="linear", outcome="invalid_input") == refused + 1
    assert server.metric("stfs_version_state", model="many", version="3", state="AVAILABLE") == 1
    assert server.metric("stfs_ready") == 1
    assert server.metric("stfs_request_duration_seconds_count", model="linear", version="1") >= 3
    assert server.metric("process_resident_memory_bytes") > 0


def test_made_up_model_names_are_no_label_values(server):
    for number in range(5):
        server.post("/", {"model_name": f"made-up-{number}", "data": []})
        server.post(f"/v1/models/made-up-{number}:predict", {"instances": [1]})
    assert "made-up" not in server.get("/metrics").body.decode()


def test_metrics_speak_openmetrics_when_asked(server):
    answer = server.call("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
