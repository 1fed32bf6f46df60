"""Who is let in: basic authentication, TLS, cross-origin calls."""

import http.client
import json
import ssl
import subprocess
import urllib.request

import pytest
from running import basic_auth, running
from simple_models import write_linear

BODY = {"data": [[1.0, 2.0, 3.0]]}
PATHS = [
    "/",
    "/v1/models",
    "/v1/models/default",
    "/v1/models/default/metadata",
    "/metrics",
    "/static/style.css",
    "/nope",
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    file = write_linear(tmp_path_factory.mktemp("guarded"))
    with running(str(file), "--enable_auth=True", "--auth_username=ana", "--auth_password=näive:pass") as server:
        yield server


@pytest.mark.parametrize("path", PATHS)
def test_every_page_asks_for_credentials(guarded, path):
    answer = guarded.get(path)
    assert answer.status == 401
    assert answer.body == b"Need basic auth to request the resources"
    assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic_auth("ana", "wrong"),
        basic_auth("bob", "näive:pass"),
        basic_auth("ana", "näive"),
        basic_auth("", ""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic bm9jb2xvbg=="},
        {"Authorization": "Bearer ana"},
    ],
)
def test_wrong_credentials_infer_nothing(guarded, headers):
    before = guarded.call("GET", "/metrics", headers=basic_auth("ana", "näive:pass")).body.count(b'outcome="ok"')
    assert guarded.post("/", BODY, headers).status == 401
    assert guarded.post("/v1/models/default:predict", {"instances": BODY["data"]}, headers).status == 401
    after = guarded.call("GET", "/metrics", headers=basic_auth("ana", "näive:pass")).body.count(b'outcome="ok"')
    assert before == after


def test_right_credentials_serve_and_probes_need_none(guarded):
    assert guarded.post("/", BODY, basic_auth("ana", "näive:pass")).json == {"y": [[2.0, 4.0, 6.0]]}
    assert guarded.get("/health").body == b"healthy"
    assert guarded.get("/ready").status == 200


def test_the_password_is_not_written_anywhere(guarded):
    assert "näive" not in guarded.log()
    assert "näive" not in guarded.call("GET", "/", headers=basic_auth("ana", "näive:pass")).body.decode()


def test_tls_serves_https_and_nothing_else(tmp_path):
    pem, key = tmp_path / "secret.pem", tmp_path / "secret.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", pem, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    file = write_linear(tmp_path / "m")
    with running(str(file), "--enable_ssl=True", f"--secret_pem={pem}", f"--secret_key={key}") as server:
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(pem))
        with urllib.request.urlopen(f"{server.url}/health", context=trusting) as response:
            assert response.read() == b"healthy"
        with pytest.raises(OSError, match=r".*"):
            server.get("/health")
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trusting, timeout=60)
        for path, body, expected in (
            ("/", BODY, {"y": [[2.0, 4.0, 6.0]]}),
            ("/v1/models/default:predict", {"instances": BODY["data"]}, {"predictions": [[2.0, 4.0, 6.0]]}),
        ):
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            assert json.loads(connection.getresponse().read()) == expected
        connection.close()
        with urllib.request.urlopen(f"{server.url}/health", context=trusting) as response:
            assert response.status == 200


def test_pages_of_other_origins_may_call_unless_forbidden(tmp_path):
    file = str(write_linear(tmp_path))
    asking = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    with running(file) as server:
        assert server.get("/health").headers["Access-Control-Allow-Origin"] == "*"
        preflight = server.call("OPTIONS", "/", headers=asking | {"Access-Control-Request-Headers": "content-type"})
        assert preflight.status == 204
        assert preflight.headers["Access-Control-Allow-Headers"] == "content-type"
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    with running(file, "--enable_cors=False") as server:
        assert "Access-Control-Allow-Origin" not in server.get("/health").headers
        assert server.call("OPTIONS", "/", headers=asking).status == 405
