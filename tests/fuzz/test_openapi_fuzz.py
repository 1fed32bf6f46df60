"""What the document says of the interface, put to a real server by schemathesis: right requests, and wrong ones.

No answer is 500, none keeps a caller waiting, each has a status, a content type and a body of those that are told.
"""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from running import running
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS as ALL_CHECKS
from schemathesis.checks import load_all_checks
from simple_models import write_linear, write_many

load_all_checks()

CHECKS = ALL_CHECKS.get_by_names(["status_code_conformance", "content_type_conformance", "response_schema_conformance"])

ANSWER_LIMIT_S = 30.0
"""A call that takes longer hangs; the slowest of these takes milliseconds."""

CHANGES = ("/load", "/unload", "/labels")
"""What changes which models are served."""

pytestmark = [
    pytest.mark.slow,
    # The deprecations of a library that schemathesis uses are not ours to mend.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for version in ("1", "2"):
        write_linear(folder / "linear" / version, scale=1.0)  # a larger one makes Infinity, which schemas do not know
    write_many(folder / "many" / "3")
    write_linear(folder / "odd name" / "1", scale=0.5)
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "many", "odd name")]
    entries[0] |= {"version_policy": "all", "version_labels": {"stable": 1}}
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}", "--max_request_bytes=1M") as server:
        yield server


def operations(server, wanted):
    schema = schemathesis.openapi.from_dict(server.get("/openapi.json").json)
    schema.config.base_url = server.url
    found = [result.ok() for result in schema.get_all_operations()]
    return [operation for operation in found if wanted(operation.path)]


def put_to(operation, mode, max_examples):
    """How many calls were made."""
    calls = []

    @settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        response = case.call(timeout=ANSWER_LIMIT_S)
        calls.append(response.status_code)
        assert response.status_code != 500, (case.body, response.text)
        case.validate_response(response, checks=CHECKS)

    check()
    return calls


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
def test_requests_that_fit_the_document_and_some_that_do_not(server, mode):
    statuses = []
    # A stream does not end by itself.
    for operation in operations(server, lambda path: not path.endswith(CHANGES) and path != "/live"):
        has_input = operation.body or operation.path_parameters
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue
        statuses += put_to(operation, mode, max_examples=12 if has_input else 2)
    assert len(statuses) > 200
    assert (200 if mode is GenerationMode.POSITIVE else 400) in statuses
    row = [1.0, 2.0, 3.0]
    answer = server.post("/v1/models/linear:predict", {"instances": [row]})
    assert answer.json == {"predictions": [row]}, "it still serves"


def test_models_that_are_loaded_and_unloaded_in_any_way(tmp_path):
    write_linear(tmp_path / "linear" / "1")
    with running(str(tmp_path / "linear"), "--model_name=linear", "--model_control=explicit") as server:
        statuses = []
        for operation in operations(server, lambda path: path.endswith(CHANGES)):
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                statuses += put_to(operation, mode, max_examples=10)
        assert 200 in statuses
        assert server.post("/v2/repository/models/linear/load", {}).status == 200
        answer = server.post("/v1/models/linear:predict", {"instances": [[1.0, 2.0, 3.0]]})
        assert answer.json == {"predictions": [[2.0, 4.0, 6.0]]}
