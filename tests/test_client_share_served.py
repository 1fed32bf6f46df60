"""Clients of a real server that want more than it can do: who is refused, who is served, by every way in."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from access_users import with_password, write_users
from running import basic_auth, running
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

MODEL = """
import pathlib, time
class Model:
    signature = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 1]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [None, 1]}],
    }

    def __init__(self, folder):
        self.gate = pathlib.Path(GATE)

    def predict(self, inputs):
        while (inputs["x"] >= 1).any() and not self.gate.exists():
            time.sleep(0.005)
        return {"y": inputs["x"] * 2}
"""
LIMIT_S = 60.0
PATH = "/v1/models/default:predict"


class Client:
    """Asks from an address, or as a user, for rows that wait at the gate."""

    def __init__(self, server, address="127.0.0.1", headers=None):
        self.server, self.address, self.headers = server, address, headers or {}

    def ask(self, rows):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, LIMIT_S, (self.address, 0))
        try:
            body = json.dumps({"instances": [[float(i)] for i in range(1, rows + 1)]})
            connection.request("POST", PATH, body, {"Content-Type": "application/json", **self.headers})
            response = connection.getresponse()
            return response.status, dict(response.headers), json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.py").write_text(MODEL.replace("GATE", repr(str(tmp_path / "gate"))))
    return tmp_path / "model.py"


def metric(server, name, headers, *labels):
    """The sum of a metric's samples that have these labels."""
    page = server.call("GET", "/metrics", headers=headers).body.decode().splitlines()
    found = [line for line in page if line.startswith(name + "{") and all(label in line for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def queued(server, rows, headers, name="stfs_queued_rows"):
    """Wait until so many rows are queued."""
    wait_until(
        lambda: metric(server, name, headers) == rows,
        f"{rows} as {name}",
        log=lambda: f"{metric(server, name, headers)}",
    )


def test_who_has_more_than_its_share_is_refused_and_nobody_else(server_and_clients, model):
    server, hot, cold, headers = server_and_clients
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(hot.ask, 6)]
        queued(server, 5, headers)
        asked.append(threads.submit(cold.ask, 1))
        queued(server, 6, headers)
        status, told, answer = hot.ask(1)
        assert status == 429
        assert int(told["Retry-After"]) >= 1
        assert "5 of them this client's: more than its own share beside 1 other (client_share)" in answer["error"]
        asked.append(threads.submit(cold.ask, 1))
        queued(server, 7, headers)
        (model.parent / "gate").touch()
        answers = [one.result(LIMIT_S) for one in asked]
    assert [status for status, _, _ in answers] == [200] * 3
    assert answers[0][2]["predictions"] == [[2.0 * i] for i in range(1, 7)]
    assert metric(server, "stfs_requests_total", headers, 'outcome="share_exceeded"') == 1
    assert metric(server, "stfs_refused_total", headers, 'reason="share"') == 1


ADDRESSES = [
    ("--client_share=address",),
    ("--client_share=address", "--hot_path=off"),
    ("--client_share=address", "--workers=2", "--engine=shared"),
    ("--client_share=user", "--enable_auth"),
    ("--client_share=user", "--enable_auth", "--workers=2", "--engine=shared"),
]


@pytest.fixture(params=ADDRESSES, ids=" ".join)
def server_and_clients(request, model, tmp_path):
    argv = [str(model), "--isolation=thread", "--calibrate=false", "--max_batch_size=1", "--max_enqueued=8"]
    admin, users = {}, ({}, {})
    if "--enable_auth" in request.param:
        users_file = write_users(
            tmp_path / "users", *[with_password(name, "secret", "infer,metrics") for name in ("hot", "cold")]
        )
        argv.append(f"--auth_users_file={users_file}")
        users = tuple(basic_auth(name, "secret") for name in ("hot", "cold"))
        admin = users[0]
    with running(*argv, *request.param) as server:
        by_address = ("127.0.0.1", "127.0.0.2") if "--client_share=address" in request.param else ("127.0.0.1",) * 2
        yield server, *(Client(server, *each) for each in zip(by_address, users, strict=True)), admin
        (model.parent / "gate").touch()


def test_by_grpc_it_is_resource_exhausted_and_the_client_is_the_same(model):
    grpc = pytest.importorskip("grpc")
    from rpc_calls import PREDICT, predict_bytes, refused

    argv = [str(model), "--isolation=thread", "--calibrate=false", "--max_batch_size=1", "--max_enqueued=8"]
    with running(*argv, "--client_share=address", "--grpc_port=0") as server, ThreadPoolExecutor(3) as threads:
        hot, cold = Client(server), Client(server, "127.0.0.2")
        try:
            asked = [threads.submit(hot.ask, 6)]
            queued(server, 5, {})
            asked.append(threads.submit(cold.ask, 1))
            queued(server, 6, {})
            with grpc.insecure_channel(server.grpc) as channel:
                status, told = refused(channel, PREDICT, predict_bytes("default", x=np.ones((1, 1), "float32")))
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "more than its own share" in told
        finally:
            (model.parent / "gate").touch()
        assert [one.result(LIMIT_S)[0] for one in asked] == [200, 200]
