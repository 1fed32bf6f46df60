"""Pages of other origins on real servers: who may read answers, who may change what is served."""

import json

import pytest
from running import basic_auth, running
from simple_models import write_linear

pytestmark = pytest.mark.slow  # starts servers

OURS, THEIRS = {"Origin": "https://a.example"}, {"Origin": "https://evil.example"}
BODY = {"data": [[1.0, 2.0, 3.0]]}
ALLOWED = "Access-Control-Allow-Origin"


@pytest.fixture(scope="module", params=["auto", "off"])
def server(request, tmp_path_factory):
    file = write_linear(tmp_path_factory.mktemp("cors"))
    flags = (
        f"--hot_path={request.param}",
        "--model_control=explicit",
        "--cors_origins=https://a.example,https://b.example",
    )
    with running(str(file), *flags, "--enable_auth", "--auth_username=ana", "--auth_password=a") as server:
        yield server


def test_listed_origins_may_read_every_answer_and_no_other_may(server):
    ana = basic_auth("ana", "a")
    for _ in range(2):  # looked at, then remembered
        for headers, status in ((ana, 200), (basic_auth("ana", "x"), 401), ({}, 401)):
            for origin, told in ((OURS, "https://a.example"), (THEIRS, None), ({}, None)):
                answers = [
                    server.post("/", BODY, headers | origin),
                    server.post("/v1/models/default:predict", {"instances": BODY["data"]}, headers | origin),
                    server.call("GET", "/v1/models", headers=headers | origin),
                ]
                for answer in answers:
                    assert answer.status == status
                    assert answer.headers.get(ALLOWED) == told
                    assert answer.headers["Vary"] == "Origin"  # for a cache must not give one origin the other's
                if status == 200:
                    assert answers[0].json == {"y": [[2.0, 4.0, 6.0]]}


def test_a_preflight_needs_no_credentials_and_tells_what_may_be_sent(server):
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    answer = server.call("OPTIONS", "/v1/models/default:predict", headers=OURS | asking)
    assert answer.status == 204
    assert answer.headers[ALLOWED] == "https://a.example"
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    answer = server.call("OPTIONS", "/v1/models/default:predict", headers=THEIRS | asking)
    assert answer.status == 204
    assert not [name for name in answer.headers if name.startswith("Access-Control-")]


def test_pages_of_other_origins_change_nothing_though_the_browser_sends_credentials_along(server):
    ana = basic_auth("ana", "a") | {"Content-Type": "text/plain"}
    path = "/v2/repository/models/default/load"
    for foreign in (THEIRS, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        answer = server.call("POST", path, "{}", ana | foreign)
        assert answer.status == 403
        assert "--cors_origins" in answer.error
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    for ours in (OURS, own, {"Origin": server.url}, {}):
        assert server.call("POST", path, "{}", ana | ours).status == 200


def test_any_origin_may_read_but_none_may_change_by_default(tmp_path):
    with running(str(write_linear(tmp_path)), "--model_control=explicit") as server:
        answer = server.post("/", BODY, THEIRS)
        assert (answer.status, answer.headers[ALLOWED], answer.json) == (200, "*", {"y": [[2.0, 4.0, 6.0]]})
        assert "Vary" not in answer.headers
        asking = THEIRS | {"Access-Control-Request-Method": "POST"}
        assert "Authorization" in server.call("OPTIONS", "/", headers=asking).headers["Access-Control-Allow-Headers"]
        assert server.call("POST", "/v2/repository/models/default/unload", "{}", THEIRS).status == 403
        assert server.post("/", BODY).status == 200
        assert json.loads(server.call("POST", "/v2/repository/index").body)[0]["state"] == "READY"
