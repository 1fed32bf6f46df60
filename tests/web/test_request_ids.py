"""What requests are called, on every path and over gRPC: the client's word, or one made where it is kept."""

import json
import re

import grpc
import pytest
from odd_estimators import Odd, write_odd
from rpc_calls import PREDICT, predict_bytes
from running import running
from simple_models import write_linear

from stfs.carry import MAX_ECHOED_CHARACTERS, is_sane

pytestmark = pytest.mark.slow  # starts servers

MADE = re.compile("[0-9a-f]{32}")
GOOD = {"data": {"x": [[1, 2, 3]]}, "model_name": "linear"}
LARGE = {"data": {"x": [[1.5, 2.5, 3.5]] * 8000}, "model_name": "linear"}  # is received by itself
CURSED = {"data": [[Odd.RAISE]], "model_name": "odd"}

CALLS = {
    "an answer": ("POST", "/", GOOD, 200),
    "a large one": ("POST", "/", LARGE, 200),
    "rows": ("POST", "/v1/models/linear:predict", {"instances": [[1, 2, 3]]}, 200),
    "a wrong request": ("POST", "/", {"data": 1}, 400),
    "a model that fails": ("POST", "/", CURSED, 500),
    "a probe": ("GET", "/health", None, 200),
    "a page": ("GET", "/", None, 200),
    "a file": ("GET", "/static/style.css", None, 200),
    "metrics": ("GET", "/metrics", None, 200),
    "nothing there": ("GET", "/nowhere", None, 404),
    "the wrong method": ("DELETE", "/health", None, 405),
    "a preflight": ("OPTIONS", "/", None, 204),
}
INSANE = ("", "two words", "x" * (MAX_ECHOED_CHARACTERS + 1), "caf\xe9", "tab\there")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_linear(folder / "linear" / "1")
    write_odd(folder / "odd" / "1")
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "odd")]
    (folder / "models.json").write_text(json.dumps({"model_config_list": entries}))
    return f"--model_config_file={folder / 'models.json'}"


def call(server, method, path, body, headers):
    """One request; a preflight says that it is one."""
    more = {"Origin": "http://a", "Access-Control-Request-Method": "POST"} if method == "OPTIONS" else {}
    if body is not None:
        more["Content-Type"] = "application/json"
    return server.call(method, path, None if body is None else json.dumps(body), {**more, **headers})


def predict(server, headers, model="linear", value=(1, 2, 3)):
    """Status and trailing metadata of a call over gRPC."""
    with grpc.insecure_channel(server.grpc) as channel:
        method = channel.unary_unary(PREDICT)
        inputs = {"x": [value]}
        _, done = None, None
        try:
            _, done = method.with_call(predict_bytes(model, **inputs), metadata=tuple(headers.items()), timeout=30)
        except grpc.RpcError as error:
            done = error
        return done.code(), dict(done.trailing_metadata())


@pytest.mark.parametrize("hot_path", ["auto", "off"])
def test_the_clients_word_comes_back_with_everything_and_none_is_made(config, hot_path):
    with running(config, f"--hot_path={hot_path}") as server:
        for what, (*asked, status) in CALLS.items():
            name = f"{what.replace(' ', '-')}/#42"
            answer = call(server, *asked, {"X-Request-Id": name})
            assert (answer.status, answer.headers.get("X-Request-Id")) == (status, name), what
            assert "X-Request-Id" not in call(server, *asked, {}).headers, what
        for insane in INSANE:
            for asked in (CALLS["an answer"][:3], CALLS["a probe"][:3], CALLS["a large one"][:3]):
                answer = call(server, *asked, {"X-Request-Id": insane})
                assert (answer.status, "X-Request-Id" in answer.headers) == (200, False), insane
        failed = [line for line in server.log().splitlines() if "(X-Request-Id: a-model-that-fails/#42)" in line]
        assert len(failed) == 1
        assert "cursed" in failed[0]
    assert is_sane("x" * MAX_ECHOED_CHARACTERS)


@pytest.mark.parametrize("hot_path", ["auto", "off"])
def test_with_an_access_log_each_has_one_and_it_is_that_of_its_line(config, tmp_path, hot_path):
    log = tmp_path / "access.log"
    seen = []
    with running(config, f"--hot_path={hot_path}", "--access_log=json", f"--access_log_file={log}") as server:
        for what, (*asked, _) in CALLS.items():
            for headers in ({}, {"X-Request-Id": "two words"}):
                name = call(server, *asked, headers).headers["X-Request-Id"]
                assert MADE.fullmatch(name), what
                seen.append((asked[1], name))
        kept = call(server, *CALLS["an answer"][:3], {"X-Request-Id": "mine"})
        assert kept.headers["X-Request-Id"] == "mine"
        assert server.stop() == 0
        told = server.log()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["path"], line["request_id"]) for line in lines] == [*seen, ("/", "mine")]
    assert len({name for _, name in seen}) == len(seen)
    failed = [line["request_id"] for line in lines if line["status"] == 500]
    assert len(failed) == 2
    assert all(f"(X-Request-Id: {name})" in told for name in failed)


def test_over_grpc_it_is_metadata(tmp_path):
    write_linear(tmp_path / "linear" / "1")
    argv = (str(tmp_path / "linear"), "--model_name=linear", "--grpc_port=0")
    with running(*argv) as server:
        code, told = predict(server, {"x-request-id": "mine"})
        assert (code, told["x-request-id"]) == (grpc.StatusCode.OK, "mine")
        code, told = predict(server, {"x-request-id": "mine"}, model="none")
        assert (code, told["x-request-id"]) == (grpc.StatusCode.NOT_FOUND, "mine")
        for insane in ("two words", "x" * (MAX_ECHOED_CHARACTERS + 1)):
            assert "x-request-id" not in predict(server, {"x-request-id": insane})[1]
        assert "x-request-id" not in predict(server, {})[1]
    with running(*argv, "--access_log=json", f"--access_log_file={tmp_path / 'log'}") as server:
        assert MADE.fullmatch(predict(server, {})[1]["x-request-id"])
        assert MADE.fullmatch(predict(server, {}, model="none")[1]["x-request-id"])
        assert predict(server, {"x-request-id": "mine"})[1]["x-request-id"] == "mine"
