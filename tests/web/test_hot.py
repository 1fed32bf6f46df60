"""The hot path against the stock path: the same bytes to two servers, the same answers in the same order."""

from __future__ import annotations

import json

import pytest
from web.fuzz_hot import GOOD, PREDICT, both
from web.rawhttp import Pair, cut_at, get, request

pytest.importorskip("stfs.web._headscan", reason="the hot path is not compiled")

LIMIT_BYTES = 1 << 20


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with both(tmp_path_factory.mktemp("models")) as (hot, stock, pair):
        yield hot, stock, pair
        for server in (hot, stock):
            assert "aiohttp's own path" not in server.log()
            assert server.stop() == 0


@pytest.fixture
def pair(servers) -> Pair:
    return servers[2]


def stfs(value: object = 1, *headers: str, **how: str | None) -> bytes:
    body = json.dumps({"model_name": "linear", "data": {"x": [[value, 0, -1]]}})
    return request("/", body, *headers, **how)


def predict(value: object = 1, *headers: str, path: str = PREDICT, **how: str | None) -> bytes:
    return request(path, json.dumps({"instances": [[value, 2, 3]]}), *headers, **how)


def chunked(*pieces: str, path: str = PREDICT, headers: tuple[str, ...] = ()) -> bytes:
    body = "".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in (*pieces, ""))
    return request(path, body, "Transfer-Encoding: chunked", *headers, length=None)


# --- how requests are cut --------------------------------------------------------------------------------------------

FROM_HTTP_CLIENT = stfs(4, "Accept-Encoding: identity", "User-Agent: Python-http.client", "Connection: keep-alive")

CUT = [
    ("tfserving", GOOD, [200]),
    ("stfs", FROM_HTTP_CLIENT, [200]),
    ("a refusal", request(PREDICT, '{"instances": [[1, 2]]}'), [400]),
    ("no body", request("/", ""), [400]),
    ("a stock address", get("/v1/models"), [200]),
    ("a stock address with a body", request("/nope", "{}"), [404]),
    ("a wrong content type", stfs(1, content_type="Content-Type: text/plain"), [400]),
    ("its own timeout", stfs(1, "X-Request-Timeout-Ms: 60000"), [200]),
    ("an expectation", stfs(1, "Expect: 100-continue"), [100, 200]),
    ("chunks", chunked('{"instances": ', "[[1, 2, 3]]}"), [200]),
]


@pytest.mark.parametrize(("message", "statuses"), [case[1:] for case in CUT], ids=[case[0] for case in CUT])
def test_a_request_cut_anywhere_and_the_one_behind_it(pair, message, statuses):
    """In two segments, cut at every byte, a good request at the end of the second or in a third."""
    plays = [cut_at(message + GOOD, [place]) for place in range(1, len(message))]
    plays += [cut_at(message + GOOD, [place, len(message)]) for place in range(1, len(message), 7)]
    for heard in pair.agree(plays, least=2):
        assert heard.statuses == [*statuses, 200]


# --- what its head alone decides --------------------------------------------------------------------------------------

REFUSED_BY_ITS_HEAD = [
    ("a wrong content type", stfs(1, content_type="Content-Type: text/plain"), 400),
    ("over the limit", request("/", "{}", length=f"Content-Length: {LIMIT_BYTES + 1}"), 413),
    ("over the limit of the other dialect", request(PREDICT, "{}", length=f"Content-Length: {LIMIT_BYTES + 1}"), 413),
    ("far over the limit", request("/", "{}", length="Content-Length: 999999999999"), 413),
    ("a wrong timeout", stfs(1, "X-Request-Timeout-Ms: soon"), 400),
    ("a timeout that passes", stfs(1, "X-Request-Timeout-Ms: 20"), 504),
    ("no such page", request("/nope", "{}"), 404),
    ("no such verb", request("/v1/models/linear:guess", "{}"), 400),
    ("a label", request("/v1/models/linear/labels/x:predict", "{}"), 400),
    ("two hosts, before the end of the head", b"POST / HTTP/1.1\r\nHost: x\r\nHost: x\r\nX", 400),
    ("a folded line", b"POST / HTTP/1.1\r\n folded", 400),
    ("a bare line feed", b"POST / HTTP/1.1\n", 400),
    ("no HTTP", b"hello\r\n", 400),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
]


@pytest.mark.parametrize(
    ("message", "status"), [case[1:] for case in REFUSED_BY_ITS_HEAD], ids=[case[0] for case in REFUSED_BY_ITS_HEAD]
)
def test_the_answer_does_not_wait_for_a_body_that_never_comes(pair, message, status):
    start = message[:-1] if message.endswith(b"}") else message
    assert pair.agree_on(start, least=1).statuses == [status]
    assert pair.agree_on(GOOD, start, least=2).statuses == [200, status]
    if b"\r\n\r\n" in start:  # else aiohttp loses what came in one segment with the broken head: see fuzz_hot
        assert pair.agree_on(GOOD + start, least=2).statuses == [200, status]
