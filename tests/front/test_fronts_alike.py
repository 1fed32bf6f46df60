"""Two front processes answer what one process answers: the same bytes to both, the same answers in the same order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from odd_estimators import write_odd
from running import running
from simple_models import write_linear, write_many
from web.fuzz_hot import BEAT, GOOD
from web.rawhttp import Heard, Pair, exchange, get, request
from web.test_hot import CUT, REFUSED_BY_ITS_HEAD, TRAPS
from web.test_infer import BAD_STFS, BAD_TFSERVING

pytestmark = pytest.mark.slow  # servers of several processes

CONNECTIONS = 6
"""On each of so many connections: the chance that one front gets none of them is 1 in 32."""


@pytest.fixture(scope="module", params=["shared", "replicated"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_linear(folder / "linear" / "1")
    write_many(folder / "many" / "3")
    write_odd(folder / "odd" / "1")
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "many", "odd")]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries, "version_labels": {"stable": 1}}))
    argv = ["--compress_over=1K", f"--model_config_file={config}", "--max_request_bytes=1M", "--log_level=warning"]
    argv.append("--max_enqueued=1000000")  # rows of the large requests, all at once
    argv.append("--calibrate=false")  # what /v1/models tells of it differs between any two servers
    with running(*argv, "--workers=2", f"--engine={request.param}") as fronts, running(*argv) as plain:
        pair = Pair(fronts.port, plain.port, BEAT)
        yield pair
        pair.close()
        assert fronts.stop() == 0
        for told in ("a request of a front process", "what is no", "CRITICAL", "stays with the main process"):
            assert told not in fronts.log()


def many(**values: object) -> str:
    data = {"whole": [1, 2], "long": [3, 4], "flag": [True, False], "text": ["a", "ü"], "real": [[1, 2], [3, 4]]}
    return json.dumps({"model_name": "many", "data": data | values})


def binary(array: np.ndarray) -> bytes:
    """An inference of ``linear`` in the Open Inference Protocol, the tensor as raw bytes, the answer too."""
    data = array.astype(np.float32).tobytes()
    head = {
        "inputs": [
            {
                "name": "x",
                "shape": list(array.shape),
                "datatype": "FP32",
                "parameters": {"binary_data_size": len(data)},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    kind = "Content-Type: application/octet-stream"
    return request("/v2/models/linear/infer", text + data, length, content_type=kind)


V2 = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
LARGE = [[float(row), 2, 3] for row in range(20_000)]  # its tensor does not fit into a record
CALLS = [
    ("a good one", GOOD),
    ("every kind of tensor", request("/", many())),
    ("strings that are wrong", request("/", many(text=[1, 2]))),
    ("rows that differ", request("/", many(flag=[True]))),
    ("columns", request("/v1/models/many:predict", json.dumps({"inputs": json.loads(many())["data"]}))),
    ("a version", request("/v1/models/many/versions/3:predict", json.dumps({"inputs": json.loads(many())["data"]}))),
    ("no such version", request("/v1/models/linear/versions/9:predict", '{"instances": [[1, 2, 3]]}')),
    ("a label", request("/v1/models/linear/labels/stable:predict", '{"instances": [[1, 2, 3]]}')),
    ("no such label", request("/v1/models/linear/labels/nope:predict", '{"instances": [[1, 2, 3]]}')),
    ("classify", request("/v1/models/linear:classify", '{"examples": [{"x": 1}]}')),
    ("the open protocol", request("/v2/models/linear/infer", json.dumps(V2))),
    ("the open protocol, in binary", binary(np.arange(6.0).reshape(2, 3))),
    ("the open protocol, large", binary(np.arange(60_000.0).reshape(20_000, 3))),
    ("a large body", request("/v1/models/linear:predict", json.dumps({"instances": LARGE}))),
    ("a large body by columns", request("/", json.dumps({"model_name": "linear", "data": LARGE}))),
    ("timed", request("/", '{"model_name": "linear", "data": [[1, 2, 3]]}', "X-Server-Timing: 1")),
    ("named", request("/", '{"model_name": "linear", "data": [[1, 2, 3]]}', "X-Request-Id: me")),
    ("from a page", request("/", '{"model_name": "linear", "data": [[1, 2, 3]]}', "Origin: http://a.example")),
    ("a model that raises", request("/", '{"model_name": "odd", "data": [[-1]]}')),
    ("a model of wrong rows", request("/", '{"model_name": "odd", "data": [[-2]]}')),
    ("a model that exits", request("/", '{"model_name": "odd", "data": [[-3]]}')),
    ("no such model", request("/", '{"model_name": "nope", "data": [[1]]}')),
    ("models", get("/v1/models")),
    ("a model", get("/v1/models/linear")),
    ("a model's metadata", get("/v1/models/linear/metadata")),
    ("another spelling", get("/V1/Models/linear")),
    ("a model that is not", get("/v1/models/nope")),
    ("health", get("/health")),
    ("ready", get("/ready")),
    ("no such page", get("/nope?a=%20b&c")),
    ("not this method", request("/health", "{}")),
    ("a page of ours", get("/static/style.css")),
    ("a page that is not", get("/static/../server.py")),
    ("the description", get("/openapi.json", "Host: there")),
    ("the open protocol's metadata", get("/v2/models/linear")),
    ("the repository", request("/v2/repository/index", "{}")),
    ("a load that is not allowed", request("/v2/repository/models/linear/load", "{}")),
    ("a long body where none belongs", request("/v2/repository/index", " " * 900_000)),
    (
        "a question before a page of another origin asks",
        request("/", "", "Access-Control-Request-Method: POST", method="OPTIONS"),
    ),
    ("a form", request("/", "--x--", content_type="Content-Type: multipart/form-data; boundary=x")),
    ("a timeout that passes", request("/v1/models/linear:predict", '{"instances": []}', "X-Request-Timeout-Ms: 0")),
]


@pytest.mark.parametrize("message", [case[1] for case in CALLS], ids=[case[0] for case in CALLS])
def test_a_call(pair, message):
    pair.agree([[message, GOOD]] * CONNECTIONS, least=1)


def test_bodies_that_are_wrong(pair):
    bodies = [("/", body) for _, body, _, _ in BAD_STFS]
    bodies += [(f"/v1/models/{path}", body) for _, path, body, _, _ in BAD_TFSERVING]
    texts = [(path, body if isinstance(body, str | bytes) else json.dumps(body)) for path, body in bodies]
    pair.agree([[request(path, text), GOOD] for path, text in texts for _ in range(2)], least=2)


def test_a_head_has_no_body(pair):
    asked = request("/v1/models", "", method="HEAD", content_type=None, length=None)
    plays = [[asked, GOOD]] * CONNECTIONS

    def parts(one: Heard) -> list[list[bytes]]:
        """Both heads, whose headers may stand in any order, and the body of the second."""
        first, second, body = one.rest.split(b"\r\n\r\n")
        return [sorted(first.split(b"\r\n")), sorted(second.split(b"\r\n")), [body]]

    def are_done(heard: list[list[Heard]]) -> bool:
        return all(one.rest.endswith(b"]}") for side in heard for one in side)

    fronts, plain = exchange([(pair.hot, plays), (pair.stock, plays)], are_done)
    for one, other in zip(fronts, plain, strict=True):
        assert parts(one) == parts(other)
        assert one.rest.startswith(b"HTTP/1.1 200 OK")
        assert one.rest.count(b"HTTP/1.1 200 OK") == 2


ONCE = pytest.mark.parametrize("pair", ["shared"], indirect=True)
"""What HTTP alone decides is the same whatever stands behind it."""


@ONCE
@pytest.mark.parametrize("message", [case[1] for case in TRAPS + CUT], ids=[case[0] for case in TRAPS + CUT])
def test_a_trap_on_a_kept_connection(pair, message):
    pair.agree([[message, GOOD]] * 2)


@ONCE
@pytest.mark.parametrize(
    "message", [case[1] for case in REFUSED_BY_ITS_HEAD], ids=[case[0] for case in REFUSED_BY_ITS_HEAD]
)
def test_what_its_head_alone_decides(pair, message):
    pair.agree([[message]] * 2)
