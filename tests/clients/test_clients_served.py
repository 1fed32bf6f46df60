"""``gen_json`` and ``gen_client`` of real servers."""

import json

import modelzoo
import pytest
from running import SHARED_MODELS, basic_auth, running
from simple_models import write_linear, write_many

from stfs.clients.languages import LANGUAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for version in (1, 2):
        write_linear(folder / "linear" / str(version))
    write_many(folder / "many" / "3")
    modelzoo.onnx_mlp(folder / "mlp" / "1")
    modelzoo.onnx_several_inputs(folder / "several" / "1")
    modelzoo.onnx_fixed_batch(folder / "fixed" / "1")
    modelzoo.onnx_strings(folder / "strings" / "1")
    modelzoo.sklearn_forest(folder / "forest" / "1")
    modelzoo.sklearn_pipeline(folder / "table" / "1")
    entries = [{"name": p.name, "base_path": str(p), "version_policy": "all"} for p in sorted(folder.iterdir())]
    shared = {"boosted": "xgboost_iris", "iris": "scikitlearn_iris"}
    entries += [
        {"name": name, "base_path": str(SHARED_MODELS / where)}
        for name, where in shared.items()
        if (SHARED_MODELS / where / "1").is_dir()
    ]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}") as server:
        yield server


def test_every_example_is_answered(server):
    models = server.get("/v1/models").json
    assert len(models) >= 8
    for model in models:
        example = server.get(f"/v1/models/{model['model_name']}/gen_json")
        assert example.status == 200, example.body
        assert example.headers["Content-Type"].startswith("application/json")
        body = example.json
        assert body["model_name"] == model["model_name"]
        assert body["model_version"] == max(model["model_version_list"])
        assert set(body) == {"model_name", "model_version", "data"}
        answer = server.post("/", example.body)
        assert answer.status == 200, (body, answer.body)


def test_version_and_signature(server):
    assert server.get("/v1/models/linear/gen_json").json["model_version"] == 2
    assert server.get("/v1/models/linear/gen_json?version=1").json["model_version"] == 1
    assert server.get("/v1/models/linear/gen_json?version=&signature_name=").json["model_version"] == 2
    assert '"model_version": 1' in server.get("/v1/models/linear/gen_client?language=python&version=1").body.decode()


def test_the_languages_are_listed(server):
    told = server.get("/v1/models/linear/gen_client").json["languages"]
    assert [one["name"] for one in told] == [language.name for language in LANGUAGES]
    for one in told:
        answer = server.get(f"/v1/models/linear/gen_client?language={one['name']}")
        assert answer.status == 200
        kind = "application/json" if one["name"] == "postman" else "text/plain"
        assert answer.headers["Content-Type"].startswith(kind)
        assert answer.headers["Content-Disposition"] == f'inline; filename="{one["file"]}"'
        assert server.url in answer.body.decode()


def test_the_address_is_the_one_that_was_called(server):
    path = "/v1/models/linear/gen_client?language=python"
    called = server.call("GET", path, headers={"Host": "models.example:81"}).body.decode()
    assert '"http://models.example:81/"' in called
    strange = server.call("GET", path, headers={"Host": 'a"; import os #'})
    assert strange.status == 400
    assert "no address of a server" in strange.error


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("linear/gen_client?language=cobol", 400, 'no client in "cobol": there are bash, python, golang'),
        ("linear/gen_client?language=", 400, "there are bash"),
        ("linear/gen_client?lang=go", 400, "unknown query parameter 'lang'"),
        ("linear/gen_json?version=x", 400, "whole number"),
        ("linear/gen_json?version=99999999999999999999", 400, "whole number"),
        ("linear/gen_json?version=9", 404, "9"),
        ("linear/gen_json?signature_name=none", 400, "none"),
        ("absent/gen_json", 404, "absent"),
        ("absent/gen_client?language=go", 404, "absent"),
        ("absent/gen_client", 404, "absent"),
    ],
)
def test_what_cannot_be_made(server, path, status, text):
    answer = server.get(f"/v1/models/{path}")
    assert answer.status == status
    assert text in answer.error


def test_with_credentials(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path), "--enable_auth", "--auth_username=someone", "--auth_password=never-printed") as server:
        right = basic_auth("someone", "never-printed")
        for path in ("gen_json", "gen_client", "gen_client?language=go"):
            assert server.get(f"/v1/models/default/{path}").status == 401
            assert server.call("GET", f"/v1/models/default/{path}", headers=right).status == 200
        for language in LANGUAGES:
            path = f"/v1/models/default/gen_client?language={language.name}"
            text = server.call("GET", path, headers=right).body.decode()
            assert "never-printed" not in text
            assert "someone" not in text
            assert "STFS_AUTH_PASSWORD" in text or language.name == "postman"
