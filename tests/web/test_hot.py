"""The hot path against the stock path: the same bytes to two servers, the same answers in the same order."""

from __future__ import annotations

import gzip
import json
import random
import zlib

import pytest
import zstandard
from running import basic_auth, running
from simple_models import write_linear
from web.fuzz_hot import BEAT, GOOD, PREDICT, both, disagreements
from web.rawhttp import Pair, cut_at, get, parse, request
from web.test_infer import BAD_STFS, BAD_TFSERVING

pytest.importorskip("stfs.web._headscan", reason="the hot path is not compiled")

pytestmark = pytest.mark.slow  # four servers, and a few thousand requests

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


# --- how requests are cut -------------------------------------------------------------------------------------------

LARGE = json.dumps({"instances": [[i, 2, 3] for i in range(300)]})
LARGE_STFS = json.dumps({"model_name": "linear", "data": [[i, 2, 3] for i in range(300)]})
"""Their answers are over the size from which the two servers compress."""

FROM_HTTP_CLIENT = stfs(4, "Accept-Encoding: identity", "User-Agent: Python-http.client", "Connection: keep-alive")

CUT = [
    ("tfserving", GOOD, [200]),
    ("stfs", FROM_HTTP_CLIENT, [200]),
    ("a refusal", request(PREDICT, '{"instances": [[1, 2]]}'), [400]),
    ("no body", request("/", ""), [400]),
    ("a stock address", get("/v1/models/linear"), [200]),
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


# --- what its head alone decides ------------------------------------------------------------------------------------

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


# --- one request on a kept connection, and the next -----------------------------------------------------------------

Q = '{"instances": [[1, 2, 3]]}'
GET = get("/v1/models/linear")

# What is sent, and the statuses; a good request follows each, and gets its 200 unless the connection has been closed.
TRAPS = [
    ("a plain one", GOOD, [200]),
    ("HTTP/1.0", GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"), [200, "closed"]),
    ("HTTP/1.0 kept", predict(1, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"), [200]),
    ("HTTP/2.0", GOOD.replace(b"HTTP/1.1", b"HTTP/2.0"), [200, "closed"]),
    ("HTTP/1.2", GOOD.replace(b"HTTP/1.1", b"HTTP/1.2"), [400, "closed"]),
    ("Connection: close", predict(1, "Connection: close"), [200, "closed"]),
    ("Connection: Close", predict(1, "Connection: Close"), [200, "closed"]),
    ("Connection: keep-alive, close", predict(1, "Connection: keep-alive, close"), [200, "closed"]),
    ("two Connections", predict(1, "Connection: keep-alive", "Connection: close"), [200, "closed"]),
    ("Connection: Keep-Alive", predict(1, "Connection: Keep-Alive"), [200]),
    ("Upgrade", predict(1, "Connection: upgrade", "Upgrade: h2c"), [200]),
    ("expectation", predict(1, "Expect: 100-continue"), [100, 200]),
    ("unknown expectation", predict(1, "Expect: more"), [417]),
    ("chunks", chunked("{", '"instances": [[1,', "2, 3]]}"), [200]),
    ("chunks in the other dialect", chunked('{"model_name": "linear", ', '"data": [[1, 2, 3]]}', path="/"), [200]),
    ("chunks and a length", chunked(Q, headers=("Content-Length: 26",)), [400, "closed"]),
    ("a length and chunks", request(PREDICT, Q, "Transfer-Encoding: chunked"), [400, "closed"]),
    ("identity coding", request(PREDICT, Q, "Transfer-Encoding: identity"), [400, "closed"]),
    ("two lengths", request(PREDICT, Q, "Content-Length: 26"), [400, "closed"]),
    ("two other lengths", request(PREDICT, Q, "Content-Length: 5"), [400, "closed"]),
    ("two hosts", predict(1, "Host: x"), [400, "closed"]),
    ("two content types", predict(1, "Content-Type: application/json"), [400, "closed"]),
    ("two user agents", predict(1, "User-Agent: a", "User-Agent: b"), [400, "closed"]),
    ("two authorizations", predict(1, "Authorization: a", "Authorization: b"), [200]),
    ("no host", predict(1, host=None), [400, "closed"]),
    ("an empty host", predict(1, host="Host:"), [200]),
    ("a space in a name", predict(1, "Bad Name: x"), [400, "closed"]),
    ("a space before the colon", predict(1, "Name : x"), [400, "closed"]),
    ("no name", predict(1, ": x"), [400, "closed"]),
    ("no colon", predict(1, "name"), [400, "closed"]),
    ("a byte over 127 in a name", predict(1, "N\xe4me: x"), [400, "closed"]),
    ("a byte over 127 in a value", predict(1, "Name: \xe4"), [200]),
    ("a zero in a value", predict(1, "Name: a\0b"), [400, "closed"]),
    ("a folded line", predict(1, "Name: a\r\n b"), [400, "closed"]),
    ("bare line feeds", GOOD.replace(b"\r\n", b"\n"), [400, "closed"]),
    ("one bare line feed", GOOD.replace(b"x\r\n", b"x\n"), [400, "closed"]),
    ("line feeds at the end of the head", GOOD.replace(b"\r\n\r\n", b"\n\n"), [400, "closed"]),
    ("empty lines before", b"\r\n\r\n" + GOOD, [200]),
    ("absolute form", predict(1, path="http://x" + PREDICT), [200]),
    ("absolute form of the root", stfs(1).replace(b"POST /", b"POST http://x/"), [200]),
    ("a query", predict(1, path=PREDICT + "?a=b"), [200]),
    ("an empty query", predict(1, path=PREDICT + "?"), [200]),
    ("a query for the root", stfs(1).replace(b"POST /", b"POST /?a=b"), [200]),
    ("a fragment", predict(1, path=PREDICT + "#a"), [200]),
    ("two slashes", predict(1, path="/" + PREDICT), None),
    ("two slashes for the root", stfs(1).replace(b"POST /", b"POST //"), None),
    ("an encoded letter", predict(1, path="/v1/models/line%61r:predict"), [200]),
    ("an encoded colon", predict(1, path="/v1/models/linear%3Apredict"), None),
    ("an encoded slash", predict(1, path="/v1/models/lin%2Fear:predict"), [404]),
    ("an encoded percent", predict(1, path="/v1/models/lin%25ear:predict"), [404]),
    ("an encoded line feed", predict(1, path="/v1/models/lin%0Aear:predict"), [404]),
    ("an encoded zero", predict(1, path="/v1/models/lin%00ear:predict"), [404]),
    ("an encoded half character", predict(1, path="/v1/models/lin%C3ear:predict"), [404]),
    ("an encoded character", predict(1, path="/v1/models/lin%C3%A4ear:predict"), [404]),
    ("no hexadecimal", predict(1, path="/v1/models/lin%zzear:predict"), [404]),
    ("a percent at the end", predict(1, path="/v1/models/linear%:predict"), [404]),
    ("a plus", predict(1, path="/v1/models/lin+ear:predict"), [404]),
    ("an encoded v1", predict(1, path="/v%31/models/linear:predict"), [400]),
    ("odd characters", predict(1, path='/v1/models/"<>\\^`{|}[]@;=&:predict'), [404]),
    ("dots", predict(1, path="/v1/models/../models/linear:predict"), [400]),
    ("dots for a name", predict(1, path="/v1/models/..:predict"), None),
    ("a dot for a name", predict(1, path="/v1/models/.:predict"), None),
    ("odd case", predict(1, path="/V1/mODELS/linear/VERSIONS/1:PREDICT"), [200]),
    ("a name in another case", predict(1, path="/v1/models/Linear:predict"), [404]),
    ("a version with zeros", predict(1, path="/v1/models/linear/versions/001:predict"), [200]),
    ("version zero", predict(1, path="/v1/models/linear/versions/0:predict"), [404]),
    ("a long version", predict(1, path=f"/v1/models/linear/versions/{'9' * 18}:predict"), [404]),
    ("a longer version", predict(1, path=f"/v1/models/linear/versions/{'9' * 19}:predict"), None),
    ("zeros for a version", predict(1, path=f"/v1/models/linear/versions/{'0' * 30}1:predict"), None),
    ("a negative version", predict(1, path="/v1/models/linear/versions/-1:predict"), [400]),
    ("post in small letters", GOOD.replace(b"POST", b"post"), [400, "closed"]),
    ("an unknown method", GOOD.replace(b"POST", b"PREDICT"), [400, "closed"]),
    ("PUT", GOOD.replace(b"POST", b"PUT"), [400]),
    ("GET of a predict address", get(PREDICT), [400]),
    ("GET with a body", request(PREDICT, Q, method="GET"), [400]),
    ("OPTIONS", get(PREDICT, "Origin: x", "Access-Control-Request-Method: POST").replace(b"GET", b"OPTIONS"), [204]),
    ("a cross-origin request", predict(1, "Origin: http://x"), [200]),
    ("two spaces", GOOD.replace(b"POST ", b"POST  "), None),
    ("a tab", GOOD.replace(b"POST ", b"POST\t"), [400, "closed"]),
    ("a header near the limit", predict(1, "Name: " + "x" * 7990), [200]),
    ("a header between the limits", predict(1, "Name: " + "x" * 8100), [200]),
    ("a header over the limit", predict(1, "Name: " + "x" * 8200), [400, "closed"]),
    ("a path near the limit", predict(1, path=f"/v1/models/{'x' * 7900}:predict"), [404]),
    ("a path between the limits", predict(1, path=f"/v1/models/{'x' * 8100}:predict"), [404]),
    ("a path over the limit", predict(1, path=f"/v1/models/{'x' * 8200}:predict"), [400, "closed"]),
    ("a long head of short lines", predict(1, *(f"X-{i}: {'x' * 150}" for i in range(96))), [200]),
    ("a longer head", predict(1, *(f"X-{i}: {'x' * 200}" for i in range(96))), [200]),
    ("100 headers", predict(1, *(f"X-{i}: x" for i in range(97))), [200]),
    ("101 headers", predict(1, *(f"X-{i}: x" for i in range(98))), [200]),
    ("128 headers", predict(1, *(f"X-{i}: x" for i in range(125))), [200]),
    ("129 headers", predict(1, *(f"X-{i}: x" for i in range(126))), [400, "closed"]),
    ("an empty body", request(PREDICT, ""), [400]),
    ("an empty body for the root", request("/", ""), [400]),
    ("no length", request(PREDICT, "", length=None), [400]),
    ("a negative length", predict(1, length="Content-Length: -26"), [400, "closed"]),
    ("a length with a sign", predict(1, length="Content-Length: +26"), [400, "closed"]),
    ("a length in spaces", predict(1, length="Content-Length:   26  "), [200]),
    ("a length with a space in it", predict(1, length="Content-Length: 2 6"), [400, "closed"]),
    ("a length with zeros", predict(1, length="Content-Length: 0000000026"), [200]),
    ("a length with more zeros", predict(1, length="Content-Length: 000000000000000000026"), [200]),
    ("an empty length", predict(1, length="Content-Length:"), [400, "closed"]),
    ("a length in words", predict(1, length="Content-Length: ten"), [400, "closed"]),
    ("a length that overflows", predict(1, length="Content-Length: 18446744073709551642"), [400, "closed"]),
    ("a body at the limit", request(PREDICT, Q.ljust(LIMIT_BYTES)), [200]),
    ("a body one byte over the limit", request(PREDICT, Q.ljust(LIMIT_BYTES + 1)), None),
    ("a request too short by the next", request("/", "", length=f"Content-Length: {len(GOOD)}"), None),
    ("text/plain", stfs(1, content_type="Content-Type: text/plain"), [400]),
    ("text/plain in the other dialect", predict(1, content_type="Content-Type: text/plain"), [200]),
    ("a content type in capitals", stfs(1, content_type="CONTENT-TYPE: APPLICATION/JSON"), [200]),
    ("a charset", stfs(1, content_type="Content-Type: application/json ; charset=utf-8"), [200]),
    ("another charset", stfs(1, content_type="Content-Type: application/json; charset=latin-1"), [200]),
    ("a broken charset", stfs(1, content_type='Content-Type: application/json; charset="'), [200]),
    ("two types in one", stfs(1, content_type="Content-Type: application/json, text/plain"), [400]),
    ("a suffix", stfs(1, content_type="Content-Type: application/problem+json"), [400]),
    ("an empty content type", stfs(1, content_type="Content-Type:"), None),
    ("no content type", stfs(1, content_type=None), [200]),
    ("a semicolon", stfs(1, content_type="Content-Type: ;"), None),
    ("not gzip", predict(1, "Content-Encoding: gzip"), [400]),
    ("gzip", request(PREDICT, gzip.compress(Q.encode(), mtime=0), "Content-Encoding: gzip"), [200]),
    ("deflate", request(PREDICT, zlib.compress(Q.encode()), "Content-Encoding: DEFLATE"), [200]),
    ("zstd", request(PREDICT, zstandard.compress(Q.encode()), "Content-Encoding: zstd"), [200]),
    ("a bomb", request(PREDICT, gzip.compress(b" " * (LIMIT_BYTES + 1)), "Content-Encoding: gzip"), None),
    ("an unknown coding", predict(1, "Content-Encoding: br"), [415]),
    ("two codings", predict(1, "Content-Encoding: gzip, gzip"), [415]),
    ("a small answer for gzip", predict(1, "Accept-Encoding: gzip, deflate"), [200]),
    ("a large answer for gzip", request(PREDICT, LARGE, "Accept-Encoding: gzip, deflate"), [200]),
    ("a large answer for zstd", request("/", LARGE_STFS, "Accept-Encoding: *"), [200]),
    ("a large answer for nobody", request(PREDICT, LARGE, "Accept-Encoding: br"), [200]),
    ("a large answer for a refusal", request(PREDICT, LARGE, "Accept-Encoding: gzip;q=0, zstd;q=x"), [200]),
    ("a large answer, twice accepted", request(PREDICT, LARGE, "Accept-Encoding: br", "Accept-Encoding: gzip"), [200]),
    ("a large answer for everybody", request(PREDICT, LARGE), [200]),
    ("a name for the request", predict(1, "X-Request-Id: 7 of 9", "TRACEPARENT: 00-ab-cd-01"), [200]),
    ("a name for a wrong request", predict("x", "x-request-id: 7", "traceparent: 00-ab-cd-01"), [400]),
    ("a name for a large answer", request(PREDICT, LARGE, "Accept-Encoding: gzip", "X-Request-Id: 7"), [200]),
    ("two names for the request", predict(1, "X-Request-Id: 7", "X-Request-Id: 8"), [200]),
    ("a longest name", predict(1, "X-Request-Id: " + "x" * 512), [200]),
    ("too long a name", predict(1, "X-Request-Id: " + "x" * 513), [200]),
    ("an empty name", predict(1, "X-Request-Id:"), [200]),
    ("a timing", predict(1, "X-Server-Timing: 1"), [200]),
    ("identity", predict(1, "Content-Encoding: identity"), [200]),
    ("a timeout", predict(1, "X-Request-Timeout-Ms: 60000"), [200]),
    ("a wrong timeout", predict(1, "X-Request-Timeout-Ms: -1"), [400]),
    ("an empty timeout", predict(1, "X-Request-Timeout-Ms:"), [400]),
    ("no timeout", predict(1, "X-Request-Timeout-Ms: 0"), [504]),
    ("credentials nobody asks for", predict(1, "Authorization: Basic eDp5"), [200]),
    ("TE", predict(1, "TE: trailers"), [200]),
    ("an old web socket", predict(1, "Sec-WebSocket-Key1: x"), [400, "closed"]),
    ("garbage", b"\x00\x01\x02\xff\xfe" * 10, [400, "closed"]),
    ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, [400, "closed"]),
    ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n", [400, "closed"]),
]


@pytest.mark.parametrize(("message", "statuses"), [case[1:] for case in TRAPS], ids=[case[0] for case in TRAPS])
def test_a_trap_on_a_kept_connection(pair, message, statuses):
    """Before a good request, behind one, between two, and between two stock requests; and dribbled."""
    plays = [
        (message, GOOD),
        (GOOD, message, GOOD),
        (GOOD + GOOD, message, GOOD + GET),
        (GET, message, GET, GOOD),
        (GET + GOOD, message, GOOD),
    ]
    at_once = (message + GOOD, GOOD + message + GOOD, GET + message + GOOD, message * 3 + GOOD)
    if b"Upgrade" not in message:  # aiohttp drops what comes in one segment with an upgrade that it does not know
        plays += [(stream,) for stream in at_once if not parse(stream).broken]
    least = 1 if statuses is None else len(statuses) + ("closed" not in statuses) - ("closed" in statuses)
    heard = pair.agree(plays, least)
    if statuses is not None:
        closed = "closed" in statuses
        assert heard[0].closed == closed
        assert heard[0].statuses == (statuses[:-1] if closed else [*statuses, 200])
        assert heard[1].statuses == [200, *heard[0].statuses]
    if len(message) < 1000:
        (dribbled,) = pair.agree([[bytes([byte]) for byte in message + GOOD]], len(heard[0].replies))
        assert dribbled.statuses == heard[0].statuses


@pytest.mark.parametrize(
    ("name", "message", "status"),
    [
        (case[0], request("/", case[1] if isinstance(case[1], str | bytes) else json.dumps(case[1])), case[2])
        for case in BAD_STFS
    ]
    + [
        (
            f"tfserving {case[0]}",
            request(f"/v1/models/{case[1]}", case[2] if isinstance(case[2], str) else json.dumps(case[2])),
            case[3],
        )
        for case in BAD_TFSERVING
    ],
)
def test_an_application_error_on_a_kept_connection(pair, name, message, status):
    plays = [(message, GOOD), (GOOD, message, GOOD), (message + GOOD,), (GOOD + message * 2 + GET + message + GOOD,)]
    heard = pair.agree(plays, least=2)
    assert [one.statuses for one in heard] == [
        [status, 200],
        [200, status, 200],
        [status, 200],
        [200, status, status, 200, status, 200],
    ]


# --- one behind the other -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [GOOD, GET, chunked(Q), stfs(2), request("/", "[")], ids=range(5))
@pytest.mark.parametrize("first", [GOOD, GET, stfs(1, content_type="Content-Type: text/plain")], ids=range(3))
def test_two_in_a_row_with_the_second_cut_anywhere(pair, first, second):
    plays = [cut_at(first + second + GOOD, [place]) for place in range(len(first), len(first + second) + 1, 3)]
    for heard in pair.agree(plays, least=3):
        assert len(heard.replies) == 3


def test_a_thousand_at_once_are_answered_in_order(pair):
    heard = pair.agree_on(b"".join(predict(i) for i in range(1000)), least=1000)
    assert [json.loads(reply.body)["predictions"][0][0] for reply in heard.replies] == [2.0 * i for i in range(1000)]


def test_many_of_all_sorts_at_once_are_answered_in_order(pair):
    sorts = [
        predict(1),
        GET,
        request("/", "["),
        stfs(3),
        request("/nope", "{}"),
        chunked(Q),
        get("/health"),
        predict(2),
    ]
    expected = [200, 200, 400, 200, 404, 200, 200, 200]
    rng = random.Random(7)
    orders = [[rng.randrange(len(sorts)) for _ in range(150)] for _ in range(8)]
    streams = [b"".join(sorts[i] for i in order) for order in orders]
    plays = [[stream] for stream in streams]
    plays += [cut_at(stream, [rng.randrange(len(stream)) for _ in range(10)]) for stream in streams]
    for order, heard in zip(orders * 2, pair.agree(plays, least=150), strict=True):
        assert heard.statuses == [expected[i] for i in order]


def test_a_body_longer_than_its_length_is_answered_before_what_is_no_request(pair):
    message = request(PREDICT, Q + "x", length=f"Content-Length: {len(Q)}")
    heard = pair.agree([(message[:-1], b"x", GOOD), (GOOD, message[:-1], b"x" + GOOD)], least=2)
    assert [one.statuses for one in heard] == [[200, 400], [200, 200, 400]]


def test_a_request_inside_another_is_not_taken_for_one(pair):
    """The second segment is a whole plain request, but it is the value of a header, or the body, of what is no such."""
    chunk = f"{len(GOOD):x}\r\n".encode()
    plays = [
        (b"PUT / HTTP/1.1\r\nName: ", GOOD, GOOD),
        (GOOD + b"PUT / HTTP/1.1\r\nName: ", GOOD, GOOD),
        (request("/nope", "", "Transfer-Encoding: chunked", length=None) + chunk, GOOD, b"\r\n0\r\n\r\n", GOOD),
        (request("/nope", "", length=f"Content-Length: {len(GOOD)}"), GOOD, GOOD),
        (request("/", "", length=f"Content-Length: {len(GOOD)}"), GOOD, GOOD),
    ]
    heard = pair.agree(plays, least=2)
    assert [one.statuses for one in heard] == [[405, 200], [200, 405, 200], [404, 200], [404, 200], [400, 200]]


def test_broken_chunks(pair):
    """aiohttp answers them if they come with the head. Behind a head whose request has begun, it leaves the request
    waiting until the client goes; the hot path must not be in the way of that either."""
    head = request(PREDICT, "", "Transfer-Encoding: chunked", length=None)
    heard = pair.agree([(head + b"xyz\r\n", GOOD), (GOOD, head + b"xyz\r\n" + GOOD)], least=1)
    assert [one.statuses for one in heard] == [[400], [200, 400]]
    assert pair.agree_on(GOOD, head, b"xyz\r\n", least=1).statuses == [200]


def test_hot_then_stock_then_hot_one_by_one(pair):
    heard = pair.agree_on(*[GOOD, GET, stfs(5), get("/health"), GOOD, request("/nope", "{}"), GOOD], least=7)
    assert heard.statuses == [200, 200, 200, 200, 200, 404, 200]


# --- credentials, and no cross-origin headers -----------------------------------------------------------------------

NAME, PASSWORD = "nä:me".replace(":", ""), "pass word:ü"
RIGHT = "Authorization: " + basic_auth(NAME, PASSWORD)["Authorization"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    write_linear(folder / "linear" / "1")
    flags = [
        "--model_name=linear",
        f"--model_base_path={folder / 'linear'}",
        "--enable_auth=true",
        "--enable_cors=false",
        "--auth_failures_per_minute=0",
    ]
    flags += [f"--auth_username={NAME}", f"--auth_password={PASSWORD}", "--log_level=warning"]
    with running(*flags) as hot, running(*flags, "--hot_path=off") as stock:
        pair = Pair(hot.port, stock.port, BEAT.replace(b"\r\nHost", f"\r\n{RIGHT}\r\nHost".encode()))
        yield pair
        pair.close()


TOKEN = RIGHT.rpartition(" ")[2]

CREDENTIALS = [
    ("right", RIGHT, 200),
    ("in another case", f"aUTHORIZATION: basic {TOKEN}", 200),
    ("with spaces", f"Authorization:  \t Basic   {TOKEN} ", None),
    ("without padding", f"Authorization: Basic {TOKEN.rstrip('=')}", None),
    ("with more padding", f"Authorization: Basic {TOKEN}=", None),
    ("cut short", f"Authorization: Basic {TOKEN[:-4]}", 401),
    ("longer", f"Authorization: Basic {TOKEN}AAAA", 401),
    ("another password", "Authorization: " + basic_auth(NAME, "x")["Authorization"], 401),
    ("another name", "Authorization: " + basic_auth("x", PASSWORD)["Authorization"], 401),
    ("no password", "Authorization: " + basic_auth(NAME, "")["Authorization"], 401),
    ("empty", "Authorization:", 401),
    ("no token", "Authorization: Basic", 401),
    ("another scheme", f"Authorization: Bearer {TOKEN}", 401),
    ("no scheme", f"Authorization: {TOKEN}", 401),
    ("twice", f"{RIGHT}\r\n{RIGHT}", None),
    ("right, then wrong", f"{RIGHT}\r\nAuthorization: Basic eDp5", None),
    ("wrong, then right", f"Authorization: Basic eDp5\r\n{RIGHT}", None),
    ("missing", "Accept: */*", 401),
]


@pytest.mark.parametrize(("line", "status"), [case[1:] for case in CREDENTIALS], ids=[case[0] for case in CREDENTIALS])
def test_credentials(guarded, line, status):
    good = predict(1, RIGHT)
    messages = [predict(2, line), stfs(2, line), request("/", "[", line), request("/nope", "{}", line)]
    for message in messages:
        plays = [(message, good), (good + message + good,), cut_at(message + good, [len(message) - 5])]
        heard = guarded.agree(plays, least=2)
        assert heard[0].statuses[-1] == 200
        assert all(reply.header("access-control-allow-origin") is None for reply in heard[0].replies)
        if status is not None and message in messages[:2]:
            assert heard[0].statuses == [status, 200]
        if status == 401:
            assert [one.statuses[-2] for one in heard] == [401, 401, 401]


def test_who_has_no_credentials_is_refused_before_the_body_is_kept(guarded):
    start = request("/", "{" + " " * 1000, length="Content-Length: 100000000")
    assert guarded.agree_on(start, least=1).statuses == [401]
    assert guarded.agree_on(predict(1, RIGHT), start, b" " * 100_000, least=2).statuses == [200, 401]


# --- damaged streams ------------------------------------------------------------------------------------------------


def test_the_live_channel_opens_alike_behind_what_the_hot_path_answered(pair):
    """It has no end, so its head is the last that is compared, though a message follows it."""
    assert pair.agree_on(GOOD + get("/live") + GOOD, least=2).statuses == [200, 200]


def test_damaged_streams_are_answered_alike(servers):
    """See ``fuzz_hot``, which plays as many more as one likes."""
    for different in disagreements(servers[2], random.Random(3), 3000):
        pytest.fail(repr(different))
