"""Users with scopes on real servers: every call with each scope and without, on the hot path, off it, and over gRPC."""

import asyncio
import concurrent.futures
import json

import grpc
import pytest
from access_users import with_password, with_token, write_users
from rpc_calls import CHECK, PREDICT, WATCH, address, call, predict_bytes, refused
from running import basic_auth, run_cli, running
from simple_models import write_linear
from waiting import wait_until

from stfs.access.door import NEED_AUTH
from stfs.access.scopes import Scope

pytestmark = pytest.mark.slow  # starts servers

USERS = {
    "infer": basic_auth("ana", "näive:pass"),
    "metrics": {"Authorization": "Bearer token-of-prometheus"},
    "admin": basic_auth("eve", "e"),
}
FILE = (
    with_password("ana", "näive:pass", "infer"),
    with_token("prometheus", "token-of-prometheus", "metrics"),
    with_password("eve", "e", "admin"),
)
ROW = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}

# Method, address, body, status with the scope. What is loaded stays loaded.
CALLS = {
    "infer": [
        ("POST", "/", {"data": [[1.0, 2.0, 3.0]]}, 200),
        ("POST", "/v1/models/default:predict", {"instances": [[1.0, 2.0, 3.0]]}, 200),
        ("POST", "/v1/models/default/versions/1:predict", {"instances": [[1.0, 2.0, 3.0]]}, 200),
        ("POST", "/v2/models/default/infer", {"inputs": [ROW]}, 200),
        ("GET", "/", None, 200),
        ("GET", "/static/style.css", None, 200),
        ("GET", "/openapi.json", None, 200),
        ("GET", "/v1/models", None, 200),
        ("GET", "/v1/models/default", None, 200),
        ("GET", "/v1/models/default/metadata", None, 200),
        ("GET", "/v2", None, 200),
        ("GET", "/v2/models/default", None, 200),
        ("GET", "/v2/models/default/ready", None, 200),
        ("GET", "/v2/models/default/config", None, 200),
        ("GET", "/v2/models/stats", None, 200),
    ],
    "metrics": [("GET", "/metrics", None, 200)],
    "admin": [
        ("POST", "/v2/repository/index", {}, 200),
        ("POST", "/v2/repository/models/default/load", {}, 200),
        ("POST", "/v2/repository/models/nope/unload", {}, 400),
        ("POST", "/v2/logging", {}, 501),
        ("DELETE", "/v1/models/default", None, 400),
    ],
}
OPEN = ("/health", "/ready", "/v2/health/live", "/v2/health/ready")


@pytest.fixture(scope="module", params=["--hot_path=auto", "--hot_path=off", "--workers=2"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scopes")
    users = write_users(folder / "users", *FILE)
    argv = (
        str(write_linear(folder / "m" / "1").parent.parent), f"--auth_users_file={users}", "--model_control=explicit",
        request.param, "--grpc_port=0", "--auth_failures_per_minute=0",
    )  # fmt: skip
    with running(*argv) as server:
        yield server


def send(server, method, path, body, headers):
    return server.call(method, path, None if body is None else json.dumps(body), {**headers, **JSON})


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("needed", CALLS)
def test_each_call_is_answered_with_its_scope_and_refused_with_any_other(server, needed):
    for method, path, body, status in CALLS[needed]:
        for scope, headers in USERS.items():
            for _ in range(2):  # looked at, then remembered
                answer = send(server, method, path, body, headers)
                if scope == needed:
                    assert answer.status == status, (method, path, answer.body)
                else:
                    assert answer.status == 403, (method, path, scope, answer.body)
                    assert f"has no scope '{needed}'" in answer.error
        for headers in ({}, basic_auth("ana", "x"), basic_auth("x", "e"), {"Authorization": "Bearer x"}):
            answer = send(server, method, path, body, headers)
            assert (answer.status, answer.body) == (401, NEED_AUTH.encode()), (method, path, headers)


def test_probes_need_none_and_what_is_not_there_needs_any(server):
    for path in OPEN:
        assert server.get(path).status == 200
    for headers in USERS.values():
        assert server.call("GET", "/nope", headers=headers).status == 404
        assert server.call("PUT", "/metrics", headers=headers).status == 405
    assert server.get("/nope").status == 401
    assert server.call("PUT", "/metrics").status == 401
    assert server.post("/v1/models/default:reload", {}, USERS["infer"]).status == 403


def test_both_ways_to_show_who_one_is_are_offered(server):
    connection = server.connect()
    connection.request("GET", "/")
    offered = connection.getresponse().headers.get_all("WWW-Authenticate")
    connection.close()
    assert [challenge.partition(" ")[0] for challenge in offered] == ["Basic", "Bearer"]


def test_the_default_password_is_none_where_users_have_a_file(server):
    assert server.call("GET", "/", headers=basic_auth("admin", "admin")).status == 401


def test_a_connection_is_not_a_user(server):
    """What one request of a kept connection has shown holds for no other."""
    connection = server.connect()
    body = json.dumps({"data": [[1.0, 2.0, 3.0]]})
    for headers, status in ((USERS["infer"], 200), ({}, 401), (USERS["admin"], 403), (USERS["infer"], 200)):
        connection.request("POST", "/", body, {**JSON, **headers})
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_the_hot_path_takes_requests_of_users_that_are_known(tmp_path):
    headscan = pytest.importorskip("stfs.web._headscan")
    from stfs.config import ServerConfig
    from stfs.server import Server
    from stfs.web.hot_shared import HotPath

    file = write_users(tmp_path / "users", *FILE)
    context = Server(ServerConfig(models=(), enable_auth=True, auth_by_password=False, auth_users_file=file)).context
    hot, head = HotPath(context), headscan.Head()

    def takes(headers, more=""):
        (value,) = headers.values()
        start = "POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
        assert head.scan(f"{start}Authorization: {value}\r\n{more}\r\n".encode()) == headscan.WHOLE
        return hot.takes(head) is not None

    assert not takes(USERS["infer"])
    for headers in USERS.values():
        asyncio.run(context.door.refusal(headers["Authorization"].encode(), "10.0.0.1", Scope.INFER))
    assert [takes(headers) for headers in USERS.values()] == [True, False, False]
    assert not takes(USERS["infer"], "Origin: https://a.example\r\n")
    assert not takes(basic_auth("ana", "x"))
    assert hot.express() is None


RPC_CALLS = {
    "infer": [PREDICT, "/tensorflow.serving.ModelService/GetModelStatus", "/inference.GRPCInferenceService/ServerLive"],
    "admin": [
        "/inference.GRPCInferenceService/RepositoryIndex",
        "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
        "/nope.Nope/Nope",
    ],
}
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def metadata_of(headers):
    return [("authorization", value) for value in headers.values()]


def test_calls_over_grpc_obey_the_same_rules(server):
    ask = predict_bytes("default", x=[[1.0, 2.0, 3.0]])
    with grpc.insecure_channel(address(server)) as channel:
        assert call(channel, CHECK, b"") == b"\x08\x01"
        watching = channel.unary_stream(WATCH)(b"", timeout=60)
        assert next(watching) == b"\x08\x01"
        watching.cancel()
        for needed, methods in RPC_CALLS.items():
            for method in methods:
                for scope, headers in USERS.items():
                    for _ in range(2):
                        try:
                            call(channel, method, ask, metadata=metadata_of(headers))
                            code = grpc.StatusCode.OK
                        except grpc.RpcError as error:
                            code = error.code()
                        allowed = code not in REFUSED
                        assert allowed == (scope == needed), (method, scope, code)
                for given in ([], metadata_of(basic_auth("ana", "x")), metadata_of(USERS["admin"]) * 2):
                    assert refused(channel, method, ask, metadata=given)[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_stream_over_grpc_is_let_in_whether_its_user_is_known_or_not(server):
    tritonclient = pytest.importorskip("tritonclient.grpc")
    import numpy as np

    for _ in range(2):
        answers = []
        with tritonclient.InferenceServerClient(server.grpc) as client:
            client.start_stream(
                lambda result, error, answers=answers: answers.append((result, error)),
                headers={"authorization": USERS["infer"]["Authorization"]},
            )
            tensor = tritonclient.InferInput("x", [1, 3], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
            for _ in range(3):
                client.async_stream_infer("default", [tensor])
            client.stop_stream()
        assert [error for _, error in answers] == [None] * 3
        assert answers[0][0].as_numpy("y").tolist() == [[2.0, 2.0, 2.0]]


def test_users_come_and_go_without_a_restart(tmp_path):
    write_linear(tmp_path / "m")
    file = write_users(tmp_path / "users", with_password("ana", "a"))
    new, ana = basic_auth("bob", "b"), basic_auth("ana", "a")
    with running(str(tmp_path / "m" / "model.onnx"), f"--auth_users_file={file}") as server:

        def status(headers):
            return server.post("/", {"data": [[1, 2, 3]]}, headers).status

        assert (status(ana), status(new)) == (200, 401)
        write_users(file, with_password("ana", "a"), with_password("bob", "b"))
        # Not as often as other waits: each wrong try of an address counts.
        wait_until(lambda: status(new) == 200, poll_s=0.05)
        file.write_text("nonsense")
        wait_until(lambda: "line 1: it is not NAME:SCOPES:HASH" in server.log())
        assert (status(ana), status(new)) == (200, 200)
        write_users(file, with_password("bob", "b", "metrics"))
        wait_until(lambda: status(ana) == 401)
        assert status(new) == 403
        done = run_cli("user", "add", str(file), "app", "--token", "--scopes=infer")
        assert done.returncode == 0, done.stderr
        wait_until(lambda: status({"Authorization": f"Bearer {done.stdout.strip()}"}) == 200, poll_s=0.05)
        assert server.log().count("nonsense") == 0


def test_who_guesses_is_slowed_and_nobody_is_locked_out(tmp_path):
    """From 127.0.0.1; a client of ::1 or of another machine is another address. 300 tries over the wire."""
    file = write_linear(tmp_path)
    right = basic_auth("ana", "geheim")
    argv = ("--enable_auth", "--auth_username=ana", "--auth_password=geheim", "--auth_failures_per_minute=20")
    with running(str(file), *argv, "--grpc_port=0") as server:
        body = {"data": [[1.0, 2.0, 3.0]]}
        assert server.post("/", body, right).status == 200
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            tries = [pool.submit(server.post, "/", body, basic_auth("ana", f"guess{n}")) for n in range(300)]
            answers = [one.result() for one in tries]
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {401, 429}
        assert statuses.count(401) < 60
        slowed = next(answer for answer in answers if answer.status == 429)
        assert 1 <= int(slowed.headers["Retry-After"]) <= 120
        assert "too many wrong credentials" in slowed.error
        for _ in range(3):
            assert server.post("/", body, right).json == {"y": [[2.0, 4.0, 6.0]]}
        assert server.get("/health").status == 200
        with grpc.insecure_channel(address(server)) as channel:
            code, _ = refused(channel, PREDICT, b"", metadata=metadata_of(basic_auth("ana", "other")))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            code, _ = refused(channel, PREDICT, b"", metadata=metadata_of(right))
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        told = server.log()
        assert "wrong credentials for user 'ana' from 127.0.0.1" in told
        assert "127.0.0.1 has been wrong too often" in told
        assert "guess" not in told
        assert "geheim" not in told
