"""Models in worker processes over HTTP: the status, the metrics, 503 while one is away and 200 when it is back."""

import json
import os
import signal

import joblib
import numpy as np
import pytest
from odd_estimators import Odd
from running import running
from sklearn.linear_model import LogisticRegression
from waiting import is_alive, wait_until

pytestmark = pytest.mark.slow  # starts real servers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    x, y = rng.random((200, 4)), rng.integers(0, 3, 200)
    joblib.dump(LogisticRegression().fit(x, y), folder / "model.joblib")
    joblib.dump(Odd().fit([[0.0]]), folder / "odd.joblib")
    models = [
        {"name": "here", "base_path": str(folder / "model.joblib")},
        {"name": "apart", "base_path": str(folder / "model.joblib"), "isolation": "process"},
        {"name": "odd", "base_path": str(folder / "odd.joblib"), "isolation": "process"},
    ]
    (folder / "models.json").write_text(json.dumps({"model_config_list": models}))
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with running(f"--model_config_file={folder / 'models.json'}") as server:
        yield server


def worker(server, name):
    return server.get(f"/v1/models/{name}").json["workers"]["1"]


def test_the_answers_are_those_of_a_thread(server):
    rows = np.random.default_rng(1).random((32, 4)).tolist()
    here, apart = (server.post("/", {"model_name": name, "data": {"data": rows}}) for name in ("here", "apart"))
    assert (here.status, apart.status) == (200, 200)
    assert apart.json == here.json
    detail = server.get("/v1/models/apart").json
    assert detail["signatures"] == server.get("/v1/models/here").json["signatures"]
    assert detail["runtime"].endswith("in a worker process")
    assert detail["platform"] == "scikitlearn"


def test_the_status_tells_of_the_process(server):
    assert "workers" not in server.get("/v1/models/here").json
    status = worker(server, "apart")
    assert status["state"] == "up"
    assert is_alive(status["pid"])
    assert status["pid"] not in (server.process.pid, worker(server, "odd")["pid"])
    assert status["resident_bytes"] > 1 << 20


def test_a_bad_request_fails_as_on_a_thread(server):
    refused = server.post("/", {"model_name": "odd", "data": {"data": [[Odd.RAISE]]}})
    assert refused.status == 500
    assert "RuntimeError: the value -1 is cursed" in refused.error
    assert server.post("/", {"model_name": "odd", "data": {"data": [[3.0]]}}).json["predict"] == [6.0]
    assert "Traceback" in server.log()
    assert "the value -1 is cursed" in server.log()


def test_while_a_worker_is_away_its_model_gets_503_and_others_are_served(server, folder):
    pid = worker(server, "apart")["pid"]
    restarts = server.metric("stfs_worker_restarts_total", model="apart")
    body = {"model_name": "apart", "data": {"data": [[0.0] * 4]}}
    assert server.post("/", body).status == 200
    (folder / "model.joblib").rename(folder / "away")  # so that it stays away until it is seen to be
    try:
        os.kill(pid, signal.SIGKILL)
        refused = wait_until(
            lambda: answer if (answer := server.post("/", body)).status != 200 else None, "the first refusal"
        )
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert 'model "apart"' in refused.error
        assert server.get("/health").status == 200
        assert server.get("/ready").status == 200
        assert server.post("/", body | {"model_name": "here"}).status == 200
        assert server.post("/", {"model_name": "odd", "data": {"data": [[3.0]]}}).status == 200
        wait_until(lambda: "does not load again" in worker(server, "apart")["error"], "the error in the status")
        assert server.metric("stfs_worker_up", model="apart") == 0
    finally:
        (folder / "away").rename(folder / "model.joblib")
    wait_until(lambda: server.post("/", body).status == 200, "the answer after the restart")
    assert worker(server, "apart")["pid"] != pid
    assert server.metric("stfs_worker_up", model="apart") == 1
    assert server.metric("stfs_worker_restarts_total", model="apart") == restarts + 1
    assert server.metric("stfs_worker_resident_memory_bytes", model="apart") > 1 << 20
    assert server.metric("stfs_worker_up", model="here") == 0
    assert "died of SIGKILL" in server.log()


def test_stopping_the_server_ends_its_workers(folder):
    with running(f"--model_base_path={folder / 'model.joblib'}", "--isolation=process") as server:
        pid = worker(server, "default")["pid"]
        assert is_alive(pid)
        assert server.stop() == 0
        assert not is_alive(pid)
        assert "Traceback" not in server.log()


def test_killing_the_server_ends_its_workers(folder):
    with running(f"--model_base_path={folder / 'model.joblib'}", "--isolation=process") as server:
        pid = worker(server, "default")["pid"]
        server.stop(signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the end of the worker")
