"""``/openapi.json`` and ``/docs`` of real servers: what they say is what the server does."""

import asyncio
import shutil
import subprocess

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from openapi_spec_validator import OpenAPIV31SpecValidator
from running import basic_auth, running
from simple_models import write_linear, write_many
from waiting import wait_until

from stfs.protocols.openapi_about import STREAM
from stfs.web import openapi
from stfs.web.assets import ASSETS, Assets
from stfs.web.pages import HERE

pytestmark = pytest.mark.slow  # starts servers

ALTERNATIVES = ("/v1/models/linear/versions/1:predict", "/v2/models/linear/versions/1/infer")


def parts(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def examples(document):
    for path, _, operation in parts(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for name, one in content.get("examples", {}).items():
            yield path, name, one["value"]


def document_of(server, **headers):
    answer = server.call("GET", "/openapi.json", headers=headers)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    OpenAPIV31SpecValidator(answer.json).validate()
    return answer.json


def begins(server, path):
    """Status and content type of an answer that is not read to its end."""
    connection = server.connect()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"]
    finally:
        connection.close()


def test_every_example_body_is_answered(server):
    sent = 0
    document = document_of(server)
    assert document["servers"] == [{"url": server.url}]
    for path, name, value in examples(document):
        answer = server.post(path, value)
        assert answer.status == 200, (path, name, value, answer.body)
        sent += 1
    assert sent >= 3 * 4
    assert {path for path, _, _ in examples(document)} >= {"/", *ALTERNATIVES}


def test_every_call_without_a_body_answers_as_told(server):
    document = document_of(server)
    called = 0
    for path, method, operation in parts(document):
        if method != "get":
            continue
        filled = path.replace("{model}", "linear").replace("{version}", "1")
        if path == "/live":  # does not end by itself
            assert begins(server, path) == (200, STREAM)
            continue
        answer = server.get(filled)
        assert answer.status == 200, filled
        content = operation["responses"]["200"].get("content")
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        assert (kind in content) if content else answer.body == b"", (filled, kind)
        called += 1
    assert called > 20
    assert server.call("POST", "/v2/repository/index").json[0]["name"] == "linear"


def test_failures_have_the_status_and_the_form_that_are_told(server):
    document = document_of(server)
    for path, method, operation in parts(document):
        if method == "post" and "repository" not in path:
            path = path.replace("{model}", "linear")
            answer = server.post(path, {"nonsense": 1})
            assert str(answer.status) in operation["responses"], path
            assert set(answer.json) == {"error"}


def test_the_address_is_the_one_that_the_client_used(server):
    assert document_of(server, Host="models.example:81")["servers"] == [{"url": "http://models.example:81"}]
    assert document_of(server)["servers"] == [{"url": server.url}]


def test_the_document_follows_what_is_served(tmp_path):
    write_linear(tmp_path / "linear" / "1")
    with running(str(tmp_path / "linear"), "--model_name=linear", "--model_poll_interval_s=0.1") as server:
        before = document_of(server)
        assert "/v1/models/linear/versions/1:predict" in before["paths"]
        assert server.get("/openapi.json").body == server.get("/openapi.json").body
        write_many(tmp_path / "new")
        (tmp_path / "new").rename(tmp_path / "linear" / "2")
        wait_until(lambda: server.get("/v1/models/linear/versions/2").status == 200, "version 2")
        wait_until(
            lambda: "/v1/models/linear/versions/1:predict" not in document_of(server)["paths"], "the end of version 1"
        )
        after = document_of(server)
        assert "/v1/models/linear/versions/2:predict" in after["paths"]
        for path, name, value in examples(after):
            assert server.post(path, value).status == 200, (path, name)


def test_models_of_tables_categories_and_wide_inputs(tmp_path):
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    joblib, pandas = pytest.importorskip("joblib"), pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [20.0, 30.0, 40.0, 50.0], "sex": ["f", "m", "f", "m"]})
    encode = make_column_transformer((OneHotEncoder(), ["sex"]), remainder="passthrough")
    model = make_pipeline(encode, LogisticRegression()).fit(frame, [0, 1, 0, 1])
    joblib.dump(model, tmp_path / "model.joblib")
    with running(str(tmp_path / "model.joblib"), "--model_name=people") as server:
        document = document_of(server)
        assert len(list(examples(document))) >= 4
        for path, name, value in examples(document):
            answer = server.post(path, value)
            assert answer.status == 200, (path, name, value, answer.body)


def test_with_credentials_asked_for(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path), "--enable_auth", "--auth_password=secret") as server:
        for path in ("/openapi.json", "/docs", "/docs/assets/swagger-ui.css"):
            assert server.get(path).status == 401
            assert server.call("GET", path, headers=basic_auth("admin", "secret")).status == 200
        document = document_of(server, **basic_auth("admin", "secret"))
        assert document["security"] == [{"basic": []}, {"bearer": []}]
        for path, method, operation in parts(document):
            if method == "get":
                filled = path.replace("{model}", "default").replace("{version}", "1")
                answer = server.get(filled)
                assert (answer.status == 401) == ("401" in operation["responses"]), filled


@pytest.mark.parametrize("dialect", ["tfserving", "kserve"])
def test_listeners_of_other_dialects(tmp_path, dialect):
    write_linear(tmp_path / "1")
    with running(str(tmp_path), f"--dialect={dialect}") as server:
        document = document_of(server)
        for path, name, value in examples(document):
            assert server.post(path, value).status == 200, (path, name, value)
        for path, method, operation in parts(document):
            if method == "get" and path != "/live":
                filled = path.replace("{model}", "default").replace("{version}", "1")
                headers = {"Accept": "text/html"} if path == "/" else {}
                assert str(server.call("GET", filled, headers=headers).status) in operation["responses"], filled


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_and_what_it_is_made_of_come_from_this_server(server):
    page = server.get("/docs")
    assert (page.status, page.headers["Content-Type"].partition(";")[0]) == (200, "text/html")
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    text = page.body.decode()
    assert "://" not in text
    assets = ("/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/static/docs.js", "/static/docs.css")
    for path in assets:
        assert f'"{path}"' in text
        assert server.get(path).status == 200
    for path in ("/docs/assets/LICENSE", "/docs/assets/..%2F__init__.py", "/docs/assets/none"):
        assert server.get(path).status == 404


def test_without_its_package_the_page_tells_how_to_install_it(monkeypatch):
    monkeypatch.setattr(openapi, "find_spec", lambda name: None)
    app = web.Application()
    app[ASSETS] = Assets(HERE / "static")
    response = asyncio.run(openapi.docs(make_mocked_request("GET", "/docs", app=app)))
    assert (response.status, response.content_type) == (501, "text/html")
    assert "stfs[docs]" in response.text
    assert '<a href="/docs" aria-current="page">API</a>' in response.text, "a page like the others"
    assert 'href="/openapi.json"' in response.text
    with pytest.raises(web.HTTPNotFound):
        asyncio.run(openapi.asset(make_mocked_request("GET", "/docs/assets/x", match_info={"name": "swagger-ui.css"})))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium here to look at the page with")
@pytest.mark.parametrize("auth", [False, True])
def test_a_browser_shows_the_page_without_complaint(tmp_path, auth):
    write_linear(tmp_path / "models" / "1")
    flags = ["--enable_auth", "--auth_password=secret"] if auth else []
    with running(str(tmp_path / "models"), *flags) as server:
        who = "admin:secret@" if auth else ""
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=10000"]
        command += ["--window-size=500,1200", "--dump-dom", f"http://{who}127.0.0.1:{server.port}/docs"]
        seen = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "/v2/models/default/infer" in seen.stdout.replace("\u200b", "")
    assert "Failed to load" not in seen.stdout
    assert [line for line in seen.stderr.splitlines() if "CONSOLE" in line] == []
