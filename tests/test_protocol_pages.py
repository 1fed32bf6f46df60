"""The pages of docs/protocols: every example on them is run against a real server, and no call is left out."""

import ast
import json
import re
import shlex
import subprocess
import sys

import grpc
import pytest
from pages import DOCS, blocks, commands
from rpc_calls import address
from running import running
from simple_models import write_linear

from stfs import errors
from stfs.protocols import oip, oip_pb, stfs, tfserving, tfserving_pb

GRPC_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
PAGES = DOCS / "protocols"
NAMES = sorted(path.name for path in PAGES.glob("*.md"))

# Needs a SavedModel that parses examples; tests/web has such a one and asks it the same.
NOT_RUN = ("/v1/models/m:classify",)


def texts(name, language):
    return [block.text for block in blocks(PAGES / name, language)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    write_linear(folder / "1")
    with running(str(folder), "--model_name=linear", "--grpc_port=0") as server:
        yield server


EXAMPLES = [
    (name, line, output) for name in NAMES for text in texts(name, "console") for line, output in commands(text)
]


@pytest.mark.parametrize(
    ("page", "line", "output"), EXAMPLES, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(EXAMPLES)]
)
def test_every_command_on_a_page_prints_what_stands_below_it(server, page, line, output):
    if any(part in line for part in NOT_RUN):
        pytest.skip("it needs a SavedModel")
    assert shlex.split(line)[0] == "curl", "only curl is run"
    local = line.replace("http://127.0.0.1:8500", server.url)
    assert local != line, "it must go to 127.0.0.1:8500"
    ended = subprocess.run(
        ["bash", "-c", local.replace("curl ", "curl -s ", 1)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    try:
        assert json.loads(ended.stdout) == json.loads(output)
    except json.JSONDecodeError:
        assert ended.stdout.strip() == output.strip()


def test_there_are_examples_of_every_protocol_over_http():
    pages = {name for name, *_ in EXAMPLES}
    assert pages >= {"stfs.md", "tensorflow-serving-rest.md", "open-inference-rest.md", "kserve-v1.md", "http.md"}


@pytest.mark.slow  # imports TensorFlow
@pytest.mark.parametrize("page", [name for name in NAMES if texts(name, "python")])
def test_every_script_on_a_page_runs(server, page):
    pytest.importorskip("tensorflow_serving.apis" if "tensorflow" in page else "tritonclient.grpc")
    for text in texts(page, "python"):
        local = re.sub(r"127\.0\.0\.1:(8500|9000)", address(server), text)
        assert local != text
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", local], capture_output=True, text=True, timeout=200
        )
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("page", NAMES)
def test_json_is_json_and_python_is_python(page):
    for block in texts(page, "json"):
        json.loads(block)
    for block in texts(page, "python"):
        ast.parse(block)


def test_the_table_has_every_method_of_the_public_services():
    text = (PAGES / "README.md").read_text()
    service = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert [method.name for method in service.methods if f"`{method.name}`" not in text] == []


@pytest.mark.slow  # imports TensorFlow
def test_the_table_has_every_method_of_tensorflow_serving():
    text = (PAGES / "README.md").read_text()
    for module in ("prediction_service", "model_service", "session_service"):
        found = pytest.importorskip(f"tensorflow_serving.apis.{module}_pb2").DESCRIPTOR.services_by_name
        for service in found.values():
            missing = [m.name for m in service.methods if f"`{service.name}/{m.name}`" not in text]
            assert missing == []


WRONG = {
    "malformed, mistyped, misshaped": errors.InvalidRequest("x"),
    "no such model or version": errors.ModelNotFound("x"),
    "no such signature": errors.SignatureNotFound("x"),
    "message over `--max_request_bytes`": errors.TooLarge("x"),
    "unknown `Content-Encoding`": errors.UnsupportedEncoding("x"),
    "queue full, model loading, shutting down": errors.Overloaded("x"),
    "deadline passed": errors.DeadlineExceeded("x"),
    "the model failed": errors.ModelFailed("x"),
}
COLUMNS = (stfs.status_of, tfserving.status_of, oip.status_of, tfserving_pb.status_of, oip_pb.status_of)


def test_the_table_of_errors_is_what_the_tables_in_the_code_say():
    rows = re.findall(r"^\| (.+?) \|(.+)\|$", (PAGES / "README.md").read_text().partition("## Errors")[2], re.MULTILINE)
    told = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    assert WRONG.keys() <= told.keys()
    for name, error in WRONG.items():
        for cell, status_of in zip(told[name], COLUMNS, strict=True):
            number = int(status_of(error))
            assert cell in ("-", str(number), GRPC_CODES.get(number, "")), (name, cell, number)
