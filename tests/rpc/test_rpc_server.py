"""The gRPC server as a process: addresses, credentials, limits, deadlines, health, its end."""

import concurrent.futures
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from odd_estimators import write_odd
from rpc_calls import CHECK, PREDICT, WATCH, address, call, outputs_of, predict_bytes, refused
from running import basic_auth, environment, run_cli, running
from simple_models import write_linear, write_many
from waiting import wait_until

from stfs.protocols import wire

pytestmark = pytest.mark.slow  # starts servers

X = np.array([[1.0, 2.0, 3.0]], np.float32)
ASK = predict_bytes("linear", x=X)
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rpc")
    write_linear(folder / "linear" / "1")
    write_linear(folder / "linear" / "2", scale=3.0)
    write_many(folder / "many" / "1")
    write_odd(folder / "slow" / "1", sleep_s=0.3)
    models = [
        {"name": "linear", "base_path": str(folder / "linear"), "version_policy": "all", "version_labels": {"old": 1}},
        {"name": "many", "base_path": str(folder / "many")},
        {"name": "slow", "base_path": str(folder / "slow"), "max_batch_size": 1},
    ]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": models}))
    with running(
        f"--model_config_file={config}", "--grpc_port=0", f"--grpc_socket_path={folder}/s", "--max_request_bytes=1M"
    ) as server:
        yield server


@pytest.fixture(params=["tcp", "unix"])
def either(server, request):
    with grpc.insecure_channel(address(server, request.param)) as channel:
        yield channel


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(address(server)) as channel:
        yield channel


def spec(name="", version=None, label=None, signature=""):
    told = wire.encode_bytes(1, name.encode()) if name else b""
    told += b"" if version is None else wire.encode_bytes(2, wire.encode_number(1, version))
    told += wire.encode_bytes(3, signature.encode()) if signature else b""
    told += b"" if label is None else wire.encode_bytes(4, label.encode())
    return wire.encode_bytes(1, told)


def test_predict_over_tcp_and_a_unix_socket(either):
    assert outputs_of(call(either, PREDICT, ASK))["y"].tolist() == [[3.0, 6.0, 9.0]]


def test_every_kind_of_tensor_comes_back(channel):
    text = np.array([b"a\0", "ü".encode()], object)
    sent = {
        "whole": np.array([-1, 7], np.int32),
        "long": np.array([-(2**60), 2**60], np.int64),
        "flag": np.array([True, False]),
        "text": text,
        "real": np.array([[0.5, -0.0], [np.inf, 1e-300]]),
    }
    got = outputs_of(call(channel, PREDICT, predict_bytes("many", **sent)))
    assert {name.removesuffix("_out"): array.tolist() for name, array in got.items()} == {
        name: array.tolist() for name, array in sent.items()
    }


def test_versions_and_labels(channel):
    for more, scale in ((spec(version=1), 2.0), (spec(version=2), 3.0), (spec(label="old"), 2.0), (b"", 3.0)):
        assert outputs_of(call(channel, PREDICT, ASK + more))["y"].tolist() == (X * scale).tolist()


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        (b"", Code.INVALID_ARGUMENT, "Missing ModelSpec"),
        (predict_bytes(""), Code.INVALID_ARGUMENT, "ModelSpec has no name specified"),
        (b"\xff\xff", Code.INVALID_ARGUMENT, "no valid protobuf"),
        (predict_bytes("nope", x=X), Code.NOT_FOUND, "Servable not found for request: Latest(nope)"),
        (ASK + spec(version=9), Code.NOT_FOUND, "Servable not found for request: Specific(linear, 9)"),
        (ASK + spec(version=-1), Code.NOT_FOUND, "Servable not found for request: Specific(linear, -1)"),
        (ASK + spec(label="new"), Code.INVALID_ARGUMENT, "Unrecognized servable version label: new"),
        (ASK + spec(signature="s"), Code.FAILED_PRECONDITION, 'Serving signature key "s" not found'),
        (predict_bytes("linear"), Code.INVALID_ARGUMENT, 'input "x": missing'),
        (predict_bytes("linear", z=X), Code.INVALID_ARGUMENT, 'input "x": missing'),
        (predict_bytes("linear", x=X, z=X), Code.INVALID_ARGUMENT, 'input "z": unknown'),
        (predict_bytes("linear", x=X[:, :2]), Code.INVALID_ARGUMENT, "shape [1, 2] does not match [?, 3]"),
        (predict_bytes("linear", x=np.array([[b"a"]], object)), Code.INVALID_ARGUMENT, "dtype string cannot be used"),
        (ASK + wire.encode_bytes(3, b"z"), Code.INVALID_ARGUMENT, "output tensor alias not found in signature: z"),
        (ASK + wire.encode_bytes(3, b"y") * 2, Code.INVALID_ARGUMENT, "duplicate output tensor alias: y"),
    ],
)
def test_what_is_wrong_is_told(channel, body, code, text):
    got, details = refused(channel, PREDICT, body)
    assert (got, text in details) == (code, True), details


def test_unknown_methods_and_services_are_unimplemented(channel):
    for method in ("/tensorflow.serving.PredictionService/Nope", "/nope.Nope/Predict"):
        assert refused(channel, method, b"")[0] is Code.UNIMPLEMENTED


def test_metadata_tells_who_answered_and_how_long_it_took(channel):
    asked = [("x-request-id", "abc"), ("traceparent", "00-1-2-03"), ("x-server-timing", "1"), ("odd-bin", b"\xff")]
    _, rpc = channel.unary_unary(PREDICT).with_call(ASK, metadata=asked, timeout=60)
    told = dict(rpc.trailing_metadata())
    assert (told["x-served-model-version"], told["x-request-id"], told["traceparent"]) == ("2", "abc", "00-1-2-03")
    assert "rows=1" in told["server-timing"]
    _, rpc = channel.unary_unary(PREDICT).with_call(ASK, timeout=60)
    assert {name for name, _ in rpc.trailing_metadata()} == {"x-served-model-version"}


def test_requests_are_counted(server, channel):
    labels = {"dialect": "tfserving_grpc"}

    def counts():
        return [
            server.metric("stfs_requests_total", outcome=outcome, **labels)
            for outcome in ("ok", "invalid_input", "model_not_found")
        ]

    before = counts()
    call(channel, PREDICT, ASK)
    refused(channel, PREDICT, predict_bytes("linear", x=X[:, :2]))
    refused(channel, PREDICT, predict_bytes("nope"))
    assert [b - a for a, b in zip(before, counts(), strict=True)] == [1, 1, 1]


def test_messages_over_the_limit_are_refused(channel):
    many = np.zeros((100_000, 3), np.float32)
    for compression in (None, grpc.Compression.Gzip):
        code, _ = refused(channel, PREDICT, predict_bytes("linear", x=many), compression=compression)
        assert code is Code.RESOURCE_EXHAUSTED
    rows = np.ones((5_000, 3), np.float32)
    answer = call(channel, PREDICT, predict_bytes("linear", x=rows), compression=grpc.Compression.Gzip)
    assert outputs_of(answer)["y"].shape == (5_000, 3)
    call(channel, PREDICT, ASK)  # the connection serves on


def test_a_request_may_not_ask_for_more_than_it_sends(channel):
    """A few bytes stand for many values, by a shape; what that may cost is bounded."""
    tensor = wire.encode_number(1, 1) + wire.encode_bytes(
        2, wire.encode_bytes(2, wire.encode_number(1, 1 << 40)) + wire.encode_bytes(2, wire.encode_number(1, 3))
    )
    body = predict_bytes("linear", wire.encode_bytes(2, wire.encode_bytes(1, b"x") + wire.encode_bytes(2, tensor)))
    code, text = refused(channel, PREDICT, body)
    assert code is Code.INVALID_ARGUMENT
    assert "left to be filled in" in text


def test_callers_share_batches_with_http_and_get_their_own_rows(server, channel):
    """One slow run after another: what comes meanwhile gathers, from both sides."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        over_rpc = [pool.submit(call, channel, PREDICT, predict_bytes("linear", x=X * value)) for value in range(60)]
        over_http = [
            pool.submit(server.post, "/v1/models/linear:predict", {"instances": (X * value).tolist()})
            for value in range(20)
        ]
        for value, future in enumerate(over_rpc):
            assert outputs_of(future.result())["y"].tolist() == (X * value * 3).tolist()
        for value, answer in enumerate(over_http):
            assert answer.result().json == {"predictions": (X * value * 3).tolist()}


def test_a_deadline_ends_the_call(server, channel):
    name = next(iter(server.get("/v1/models/slow").json["signatures"]["serving_default"]["inputs"]))["name"]
    body = predict_bytes("slow", **{name: np.ones((1, 1))})
    before = server.metric("stfs_requests_total", model="slow", outcome="ok")
    assert refused(channel, PREDICT, body, timeout=0.05)[0] is Code.DEADLINE_EXCEEDED
    wait_until(lambda: server.metric("stfs_in_flight_rows") + server.metric("stfs_queued_rows") == 0)
    assert server.metric("stfs_requests_total", model="slow", outcome="ok") == before
    assert outputs_of(call(channel, PREDICT, body))


def test_a_cancelled_call_withdraws_its_request(server, channel):
    name = next(iter(server.get("/v1/models/slow").json["signatures"]["serving_default"]["inputs"]))["name"]
    body = predict_bytes("slow", **{name: np.ones((1, 1))})
    before = server.metric("stfs_requests_total", model="slow", outcome="cancelled")
    running_one = channel.unary_unary(PREDICT).future(body, timeout=60)
    wait_until(lambda: server.metric("stfs_in_flight_rows") == 1)
    queued = [channel.unary_unary(PREDICT).future(body, timeout=60) for _ in range(3)]
    wait_until(lambda: server.metric("stfs_queued_rows") == 3)
    for future in queued:
        future.cancel()
    wait_until(lambda: server.metric("stfs_requests_total", model="slow", outcome="cancelled") == before + 3)
    assert server.metric("stfs_queued_rows") == 0
    assert outputs_of(running_one.result())


def test_health(channel):
    for service in ("", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"):
        assert call(channel, CHECK, wire.encode_bytes(1, service.encode())) == b"\x08\x01"
    assert refused(channel, CHECK, wire.encode_bytes(1, b"nope"))[0] is Code.NOT_FOUND
    assert refused(channel, CHECK, b"\xff")[0] is Code.INVALID_ARGUMENT
    watching = channel.unary_stream(WATCH)(wire.encode_bytes(1, b"nope"), timeout=60)
    assert next(watching) == b"\x08\x03"
    watching.cancel()


def test_credentials(tmp_path):
    file = write_linear(tmp_path)
    with (
        running(
            str(file),
            "--model_name=linear",
            "--grpc_port=0",
            "--enable_auth=1",
            "--auth_username=ana",
            "--auth_password=näive:pass",
        ) as server,
        grpc.insecure_channel(address(server)) as channel,
    ):
        good = ("authorization", basic_auth("ana", "näive:pass")["Authorization"])
        bad = ("authorization", basic_auth("ana", "wrong")["Authorization"])
        assert outputs_of(call(channel, PREDICT, ASK, metadata=[good]))["y"].tolist() == (X * 2).tolist()
        for given in (
            [],
            [bad],
            [good, bad],
            [
                ("authorization", "Basic"),
            ],
            [("authorization", "Basic !!!")],
        ):
            for method in (PREDICT, "/tensorflow.serving.ModelService/HandleReloadConfigRequest", "/nope.Nope/Nope"):
                assert refused(channel, method, ASK, metadata=given)[0] is Code.UNAUTHENTICATED
        assert call(channel, CHECK, b"") == b"\x08\x01"
        assert "näive" not in server.log()


def test_tls(tmp_path):
    pem, key = tmp_path / "secret.pem", tmp_path / "secret.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", pem, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    file = write_linear(tmp_path / "m")
    with running(
        str(file),
        "--model_name=linear",
        "--grpc_port=0",
        "--enable_ssl=1",
        f"--secret_pem={pem}",
        f"--secret_key={key}",
    ) as server:
        credentials = grpc.ssl_channel_credentials(pem.read_bytes())
        with grpc.secure_channel(address(server), credentials) as channel:
            assert outputs_of(call(channel, PREDICT, ASK))["y"].tolist() == (X * 2).tolist()
        with grpc.insecure_channel(address(server)) as channel:
            assert refused(channel, PREDICT, ASK, timeout=20)[0] in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)


def test_the_socket_of_a_killed_server_is_replaced_and_that_of_a_live_one_is_not(tmp_path):
    file, path = write_linear(tmp_path), tmp_path / "s"
    argv = (str(file), "--model_name=linear", f"--grpc_socket_path={path}")
    with running(*argv) as server:
        server.stop(signal.SIGKILL)
    assert path.exists()
    with running(*argv) as server, grpc.insecure_channel(f"unix:{path}") as channel:
        assert outputs_of(call(channel, PREDICT, ASK))["y"].tolist() == (X * 2).tolist()
        done = run_cli("serve", *argv, "--port=0")
        assert done.returncode == 2
        assert "another server listens there" in done.stderr
        assert outputs_of(call(channel, PREDICT, ASK))
        assert server.stop() == 0
    assert not path.exists()
    for made, problem in ((lambda: path.write_text("mine"), "no socket"), (lambda: path.unlink(), "does not exist")):
        made()
        where = path if path.exists() else tmp_path / "none" / "s"
        done = run_cli("serve", str(file), f"--grpc_socket_path={where}", "--port=0")
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
    assert not path.exists()
    done = run_cli("serve", str(file), f"--grpc_socket_path={tmp_path / ('x' * 120)}", "--port=0")
    assert (done.returncode, "107 bytes" in done.stderr) == (2, True), done.stderr


def test_a_port_that_is_taken_is_named(tmp_path):
    file = write_linear(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_cli("serve", str(file), "--port=0", "--host=127.0.0.1", f"--grpc_port={taken.getsockname()[1]}")
    assert done.returncode == 2
    assert "choose another --grpc_port" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_grpc_installed_it_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['grpc'] = None; from stfs.cli import main; main()"
    file = write_linear(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(file), "--port=0", "--grpc_port=0"],
        capture_output=True, text=True, env=environment(), timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert 'pip install "stfs[grpc]"' in done.stderr


def test_no_framework_is_imported_for_grpc(server):
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "cygrpc" in maps
    assert "tensorflow" not in maps


def test_the_end_answers_what_was_taken_and_those_who_watch(tmp_path):
    write_odd(tmp_path, sleep_s=0.4)
    with (
        running(
            str(tmp_path), "--model_name=slow", "--grpc_port=0", "--max_batch_size=1", "--shutdown_delay_s=0.2"
        ) as server,
        grpc.insecure_channel(address(server)) as channel,
    ):
        name = server.get("/v1/models/slow").json["signatures"]["serving_default"]["inputs"][0]["name"]
        watching = channel.unary_stream(WATCH)(b"", timeout=60)
        assert next(watching) == b"\x08\x01"
        asked = [
            channel.unary_unary(PREDICT).future(predict_bytes("slow", **{name: np.full((1, 1), float(i))}), timeout=60)
            for i in range(1, 5)
        ]
        wait_until(lambda: server.metric("stfs_in_flight_rows") + server.metric("stfs_queued_rows") == 4)
        server.process.send_signal(signal.SIGTERM)
        assert next(watching) == b"\x08\x02"
        for i, future in enumerate(asked, start=1):
            ((_, got),) = outputs_of(future.result()).items()
            assert got.tolist() == [2.0 * i]
        assert list(watching) == []
        assert server.process.wait(30) == 0
        assert "Traceback" not in server.log()
