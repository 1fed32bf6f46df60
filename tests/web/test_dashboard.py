"""The pages for people, over real sockets: what they show, what they are made of, and labels given through them."""

import hashlib
import json
import re

import pytest
from running import basic_auth, running
from simple_models import write_linear, write_many
from waiting import wait_until

from stfs.web.assets import CHARTS, Assets
from stfs.web.pages import HERE

NASTY = "<script>alert(1)</script>"

PAGES = ["/", "/dashboard", "/dashboard/models/linear", "/json_inference", "/image_inference", "/generate_clients"]


def assets_of(page: str) -> set[str]:
    return set(re.findall(r'(?:src|href)="(/dashboard/assets/[^"]+)"', page))


def data_of(page: str):
    """What the page tells its scripts."""
    return json.loads(re.search(r'<script type="application/json" id="page">(.*?)</script>', page, re.DOTALL)[1])


def test_the_overview_shows_models_versions_and_states_without_scripts(server):
    answer = server.get("/")
    page = answer.body.decode()
    assert answer.headers["Content-Type"].startswith("text/html")
    for part in ("linear", "many", "odd", "1 AVAILABLE", "3 AVAILABLE", "scikitlearn", "onnx", "curl "):
        assert part in page
    assert '{"x":[[0.0,0.0,0.0]]}' not in page
    assert "{&#34;x&#34;:[[0.0,0.0,0.0]]}" in page


def test_a_models_page_shows_its_signature_and_why_it_cannot_be_changed(server):
    page = server.get("/dashboard/models/many").body.decode()
    for part in ("serving_default", "float64", "[?, 2]", "the latest version", "--model_control=explicit"):
        assert part in page
    told = data_of(page)
    assert (told["model"], told["explicit"], told["charts"]) == ("many", False, True)
    assert told["models"] == [{"name": "many", "versions": [3], "signatures": ["serving_default"]}]
    assert server.get("/dashboard/models/nope").status == 404


@pytest.mark.parametrize("path", PAGES)
def test_each_page_runs_nothing_but_this_servers_files_and_they_are_all_there(server, path):
    answer = server.get(path)
    assert answer.status == 200
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    page = answer.body.decode()
    assert not re.search(r"https?://(?!127\.0\.0\.1)", page)
    assert not re.search(r'\son\w+="|style="|<script>', page)
    found = assets_of(page)
    assert any(name.endswith("style.css") for name in found)
    for address in found:
        file = server.get(address)
        assert (file.status, "immutable" in file.headers["Cache-Control"]) == (200, True)
        for imported in re.findall(r'from "\./([^"]+)"', file.body.decode()):
            assert server.get(address.rpartition("/")[0] + "/" + imported).status == 200


def test_files_are_found_under_their_own_release_only(server):
    (style,) = {name for name in assets_of(server.get("/").body.decode()) if name.endswith("style.css")}
    folder, _, name = style.rpartition("/")
    assert server.get(f"{folder}x/{name}").status == 404
    assert server.get(f"{folder}/nope.js").status == 404
    assert server.get(f"{folder}/..%2fpages.py").status == 404
    assert server.get(f"{folder}/docs.html").status == 404


def test_the_address_of_the_files_changes_with_them(tmp_path):
    (tmp_path / "one.css").write_text("a { }")
    before = Assets(tmp_path)
    assert Assets(tmp_path).key == before.key
    (tmp_path / "one.css").write_text("b { }")
    assert Assets(tmp_path).key != before.key
    assert before.address("one.css") == f"/dashboard/assets/{before.key}/one.css"


def test_the_charts_are_uplots_own_files():
    """SHA-256 of ``uPlot.iife.min.js`` and ``uPlot.min.css`` of uPlot 1.6.31, as its author published them."""
    contents = Assets(HERE / "static")._contents
    told = {name: hashlib.sha256(contents[name]).hexdigest() for name in ("uplot.js", "uplot.css")}
    assert told == {
        "uplot.js": "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2",
        "uplot.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }


def test_without_the_package_of_charts_there_are_pages_all_the_same(monkeypatch):
    monkeypatch.setattr("stfs.web.assets.find_spec", lambda name: None)
    assets = Assets(HERE / "static")
    assert CHARTS not in assets
    assert "style.css" in assets


@pytest.mark.slow
def test_names_that_are_markup_are_text(tmp_path):
    write_linear(tmp_path / "m" / "1")
    config = tmp_path / "models.json"
    named = NASTY.replace("/", "\u2215")  # a name has no slash
    config.write_text(json.dumps({"model_config_list": [{"name": named, "base_path": str(tmp_path / "m")}]}))
    with running(f"--model_config_file={config}") as server:
        overview = server.get("/").body.decode()
        (address,) = re.findall(r'href="(/dashboard/models/[^"]+)"', overview)
        for page in (overview, server.get(address).body.decode(), server.get("/json_inference").body.decode()):
            assert "<script>alert" not in page
            assert "alert(1)" in page
        assert data_of(server.get(address).body.decode())["model"] == named


@pytest.mark.slow
def test_labels_are_given_moved_and_taken_away(tmp_path):
    for version in (1, 2):
        write_linear(tmp_path / "linear" / str(version), scale=10 * version)
    flags = ("--model_version_policy=all", "--model_control=explicit", "--model_poll_interval_s=0.05")
    with running(str(tmp_path / "linear"), *flags) as server:
        labels = "/dashboard/models/default/labels"
        wait_until(lambda: server.get("/v1/models/default").json["model_version_list"] == [1, 2])

        def by_label(label):
            answer = server.post(f"/v1/models/default/labels/{label}:predict", {"instances": [[1, 0, 0]]})
            return answer.json["predictions"][0][0] if answer.status == 200 else answer.status

        assert server.post(labels, {"labels": {"stable": 1, "new": 2}}).json == {"labels": {"stable": 1, "new": 2}}
        assert (by_label("stable"), by_label("new")) == (10, 20)
        assert server.post(labels, {"labels": {"stable": 2}}).status == 200
        assert (by_label("stable"), by_label("new")) == (20, 400)
        for wrong, told in (
            ({"labels": {"stable": 7}}, "not currently available"),
            ({"labels": {"a/b": 1}}, "stands in addresses"),
            ({"labels": {"stable": "1"}}, "whole number"),
            ({"labels": [1]}, "must be"),
            ("{", "not JSON"),
        ):
            answer = server.post(labels, wrong)
            assert (answer.status, told in answer.error) == (400, True), answer.body
        assert by_label("stable") == 20
        assert server.post("/dashboard/models/nope/labels", {"labels": {}}).status == 404
        # What a page of another origin could send with the user's credentials is refused.
        plain = server.call("POST", labels, b'{"labels": {}}', {"Content-Type": "text/plain"})
        assert (plain.status, by_label("stable")) == (400, 20)
        # A label outlives the unloading and loading of its model, and a version that is pinned and let go again.
        config = json.dumps({"version_policy": {"specific": {"versions": [2]}}})
        assert server.post("/v2/repository/models/default/load", {"parameters": {"config": config}}).status == 200
        assert server.get("/v1/models/default").json["model_version_list"] == [2]
        assert by_label("stable") == 20
        assert server.post("/v2/repository/models/default/unload", {}).status == 200
        assert server.post(labels, {"labels": {}}).status == 404
        assert server.post("/v2/repository/models/default/load", {}).status == 200
        wait_until(lambda: server.get("/v1/models/default").json["model_version_list"] == [1, 2])
        assert by_label("stable") == 20


@pytest.mark.slow
def test_labels_are_the_operators_unless_clients_may_change_what_is_served(tmp_path):
    write_many(tmp_path / "many" / "1")
    flags = ("--enable_auth", "--auth_username=ana", "--auth_password=secret")
    with running(str(tmp_path / "many"), *flags) as server:
        path, body = "/dashboard/models/default/labels", {"labels": {"stable": 1}}
        assert server.post(path, body).status == 401
        answer = server.post(path, body, basic_auth("ana", "secret"))
        assert (answer.status, "--model_control=explicit" in answer.error) == (400, True)
        for page in PAGES[:2] + PAGES[3:]:
            assert server.get(page).status == 401
            assert server.call("GET", page, headers=basic_auth("ana", "secret")).status == 200
        assert server.get("/live").status == 401


@pytest.mark.slow
def test_a_listener_of_kserves_has_the_dashboard_too(tmp_path):
    write_linear(tmp_path / "1")
    with running(str(tmp_path), "--dialect=kserve") as server:
        assert server.get("/").json == {"status": "alive"}
        assert b"Overview" in server.call("GET", "/", headers={"Accept": "text/html"}).body
        assert b"Overview" in server.get("/dashboard").body
