"""The head scan by itself: tables at every prefix length, arbitrary bytes, and aiohttp's own parser as the judge."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from web.rawhttp import get, parse, request, stock_parser

headscan = pytest.importorskip("stfs.web._headscan", reason="the head scan is not compiled")
OTHER, WHOLE = headscan.OTHER, headscan.WHOLE
HEAD_SHORT, BODY_SHORT = headscan.HEAD_SHORT, headscan.BODY_SHORT

PREDICT = "/v1/models/linear:predict"


def scan(data: bytes):
    head = headscan.Head()
    return head.scan(data), head


PLAIN = [
    request("/", b"{}"),
    request("/", b""),
    request("/", b"x" * 1000),
    request(PREDICT, b"{}", content_type=None),
    request("/", b"{}", "Connection: keep-alive", "Accept: */*", "User-Agent: me"),
    request("/", b"{}", "CONNECTION:KEEP-ALIVE"),
    request("/", b"{}", "Connection: keep-alive \t", "X-Empty:", "X-Spaces: \t "),
    request("/", b"{}", "Authorization: Basic YTpi"),
    request("/", b"{}", "X-Request-Timeout-Ms: 10"),
    request("/", b"{}", length="content-length:   2\t "),
    request("/", b"{}", length="Content-Length: 000000000002"),
    request("/", b"{}", host="hOST:"),
    request("/%41~!$&'()*+,;=:@\"<>\\^`{|}[]", b"{}"),
    get("/v1/models"),
    get("/", "Connection: keep-alive"),
    request("/" + "a" * 7999, b"{}"),
    request("/", b"{}", "X: " + "a" * 7997),
    request("/", b"{}", *(f"X-{i}: {i}" for i in range(97))),
]


@pytest.mark.parametrize("message", PLAIN, ids=range(len(PLAIN)))
def test_a_plain_request_is_whole_at_its_end_and_short_before(message):
    body_at = message.index(b"\r\n\r\n") + 4
    for size in range(len(message)):
        verdict, head = scan(message[:size])
        assert verdict == (HEAD_SHORT if size < body_at else BODY_SHORT), size
        if verdict == BODY_SHORT:
            assert (head.body_at, head.total) == (body_at, len(message))
    for behind in (b"", b"P", b"\x00", message):
        verdict, head = scan(message + behind)
        assert verdict == WHOLE
        assert (head.body_at, head.total) == (body_at, len(message))
        assert head.is_post == message.startswith(b"POST")


def test_the_parts_are_what_was_sent():
    message = request(
        PREDICT,
        b"{}",
        "authorization:  Basic YTpi \t",
        "X-Request-Timeout-Ms: 5",
        "Accept-Encoding: gzip, br;q=0",
        "x-REQUEST-id: a b",
        "TraceParent: 00-1-2-01",
        content_type="CONTENT-TYPE:text/plain",
    )
    verdict, head = scan(message)
    assert verdict == WHOLE
    assert head.path == PREDICT.encode()
    assert head.authorization == b"Basic YTpi"
    assert head.content_type == b"text/plain"
    assert head.accept_encoding == b"gzip, br;q=0"
    assert (head.request_id, head.traceparent) == (b"a b", b"00-1-2-01")
    assert head.asks_more
    # The same object, scanned again, keeps nothing of the last time.
    assert head.scan(get("/")) == WHOLE
    assert (head.path, head.content_type, head.authorization) == (b"/", None, None)
    assert (head.accept_encoding, head.request_id, head.traceparent) == (None, None, None)
    assert not head.asks_more
    assert not head.is_post


def without_end(message: bytes) -> bytes:
    return message.removesuffix(b"\r\n\r\n")


NOT_PLAIN = [
    b"\r\n" + request("/", b"{}"),
    b" " + request("/", b"{}"),
    request("/", b"{}", method="PUT"),
    request("/", b"{}", method="post"),
    request("/", b"{}", method="PATCH"),
    get("/").replace(b"GET", b"HEAD"),
    get("/").replace(b"GET", b"get"),
    get("/").replace(b"GET ", b"GET\t"),
    get("*"),
    get("http://x/"),
    get(""),
    get("/a b"),
    get("/?a"),
    get("/#a"),
    get("/\x7f"),
    get("/\xe9"),
    get("/\x01"),
    get("/").replace(b"1.1", b"1.0"),
    get("/").replace(b"1.1", b"2.0"),
    get("/").replace(b"HTTP", b"http"),
    get("/").replace(b"1.1\r\n", b"1.1 \r\n"),
    get("/").replace(b"\r\n", b"\n"),
    get("/").replace(b"1.1\r\n", b"1.1\n"),
    get("/").replace(b"x\r\n", b"x\n", 1),
    get("/").replace(b"x\r\n", b"x\r\r\n", 1),
    get("/").replace(b"x\r\n", b"x\r\n folded\r\n", 1),
    get("/").replace(b"x\r\n", b"x\r\n\tfolded\r\n", 1),
    request("/", b"{}", host=None),
    request("/", b"{}", "Host: x"),
    request("/", b"{}", length=None),
    request("/", b"{}", "Content-Length: 2"),
    request("/", b"{}", "content-length: 3"),
    request("/", b"{}", length="Content-Length:"),
    request("/", b"{}", length="Content-Length: +2"),
    request("/", b"{}", length="Content-Length: -2"),
    request("/", b"{}", length="Content-Length: 2 2"),
    request("/", b"{}", length="Content-Length: 2, 2"),
    request("/", b"{}", length="Content-Length: 0x2"),
    request("/", b"{}", length="Content-Length: 2.0"),
    request("/", b"{}", length="Content-Length: 1234567890123"),
    get("/", "Content-Length: 0"),
    request("/", b"{}", "Content-Type: application/json"),
    request("/", b"{}", "Authorization: a", "Authorization: b"),
    request("/", b"{}", "Transfer-Encoding: chunked"),
    request("/", b"0\r\n\r\n", "Transfer-Encoding: chunked", length=None),
    request("/", b"{}", "Transfer-Encoding: identity"),
    request("/", b"{}", "TE: trailers"),
    request("/", b"{}", "Trailer: x"),
    request("/", b"{}", "Expect: 100-continue"),
    request("/", b"{}", "Upgrade: websocket"),
    request("/", b"{}", "Connection: close"),
    request("/", b"{}", "Connection: keep-alive, x"),
    request("/", b"{}", "Connection: upgrade"),
    request("/", b"{}", "Connection:"),
    request("/", b"{}", "Proxy-Connection: close"),
    request("/", b"{}", "Content-Encoding: gzip"),
    request("/", b"{}", "no colon"),
    request("/", b"{}", "Space : x"),
    request("/", b"{}", ": x"),
    request("/", b"{}", "N\xe4me: x"),
    request("/", b"{}", "X: \x00"),
    request("/", b"{}", "X: \x7f"),
    request("/", b"{}", "X: \xe9"),
    request("/", b"{}", "X: a\rb"),
    request("/" + "a" * 8000, b"{}"),
    request("/", b"{}", "X: " + "a" * 7998),
    request("/", b"{}", "X" * 8001 + ": a"),
    request("/", b"{}", *(f"X-{i}: {i}" for i in range(98))),
    request("/", b"{}", *("X: " + "a" * 5000 for _ in range(4))),
    request("/", b"{}", "User-Agent: a", "user-agent: b"),
    request("/", b"{}", "ETag: a", "ETag: b"),
    request("/", b"{}", "Server: a", "Server: b"),
    request("/", b"{}", "Max-Forwards: 1", "Max-Forwards: 1"),
    request("/", b"{}", "Content-Location: a", "Content-Location: b"),
    request("/", b"{}", "Content-Range: a", "Content-Range: b"),
    get("/", "User-Agent: a", "User-Agent: a"),
    get("/", "Sec-WebSocket-Key1: a"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\x00",
]


@pytest.mark.parametrize("message", NOT_PLAIN, ids=range(len(NOT_PLAIN)))
def test_what_is_not_plain_never_looks_whole_and_once_found_out_stays_so(message):
    found_out = False
    for size in range(len(message) + 1):
        verdict, _ = scan(message[:size])
        assert verdict in (HEAD_SHORT, OTHER), size
        assert verdict == OTHER or not found_out, size
        found_out = verdict == OTHER
    assert found_out
    assert scan(message + PLAIN[0])[0] == OTHER


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_any_bytes_get_a_verdict(data):
    verdict, head = scan(data)
    assert verdict in (OTHER, WHOLE, HEAD_SHORT, BODY_SHORT)
    if verdict == WHOLE:
        assert head.total <= len(data)


@given(st.sampled_from(PLAIN[:15]), st.data())
@settings(max_examples=500, deadline=None)
def test_views_and_bytearrays_are_scanned_like_bytes(message, data):
    size = data.draw(st.integers(0, len(message)))
    offset = data.draw(st.integers(0, 7))
    view = memoryview(bytearray(offset) + message)[offset : offset + size]
    assert headscan.Head().scan(view) == headscan.Head().scan(bytearray(message[:size])) == scan(message[:size])[0]


def assert_stock_agrees(data: bytes) -> bool:
    """What is whole here is one message for aiohttp, with the same meaning and the same end. Whether it is whole."""
    verdict, head = scan(data)
    if verdict == BODY_SHORT:
        return assert_stock_agrees(data + b"x" * (head.total - len(data))) if head.total < 1 << 20 else False
    if verdict != WHOLE:
        return False
    message = data[: head.total]
    parser = stock_parser()
    messages, upgraded, tail = parser.feed_data(message)
    assert (len(messages), upgraded, tail) == (1, False, b"")
    told, payload = messages[0]
    assert told.method == ("POST" if head.is_post else "GET")
    assert told.path.encode() == head.path
    assert told.url.raw_path.encode() == head.path
    assert (told.should_close, told.upgrade, told.chunked, told.compression) == (False, False, False, None)
    assert (told.version.major, told.version.minor) == (1, 1)
    assert int(told.headers.get("Content-Length", 0)) == head.total - head.body_at
    assert payload.is_eof()
    if head.total > head.body_at:
        assert payload.read_nowait() == message[head.body_at :]
    parts = {
        "Content-Type": head.content_type,
        "Authorization": head.authorization,
        "Accept-Encoding": head.accept_encoding,
        "X-Request-Id": head.request_id,
        "traceparent": head.traceparent,
    }
    for name, mine in parts.items():
        theirs = told.headers.getall(name, [])
        assert theirs == ([] if mine is None else [mine.decode()])
    assert any(name in told.headers for name in ("X-Request-Timeout-Ms", "X-Server-Timing", "Origin")) == head.asks_more
    for name in ("Transfer-Encoding", "Expect", "Content-Encoding", "Upgrade"):
        assert name not in told.headers
    # Nothing of it is left in the parser: the next message is read by itself.
    again, _, _ = parser.feed_data(get("/next"))
    assert [one.path for one, _ in again] == ["/next"]
    return True


@pytest.mark.parametrize("message", PLAIN, ids=range(len(PLAIN)))
def test_every_plain_request_is_one_message_for_aiohttp(message):
    assert assert_stock_agrees(message)
    if len(message) < 1000:
        assert parse(message * 2).ends == (len(message), 2 * len(message))


HEADERS = [
    *(b"Accept", b"User-Agent", b"ETag", b"Server", b"Max-Forwards", b"Content-Location", b"Content-Range", b"Upgrade"),
    *(b"X-Request-Id", b"traceparent", b"Accept-Encoding", b"X-Server-Timing"),
    *(b"Connection", b"Proxy-Connection", b"Keep-Alive", b"TE", b"Trailer", b"Transfer-Encoding", b"Expect", b"Host"),
    *(b"Content-Type", b"Content-Length", b"Content-Encoding", b"Authorization", b"X-Request-Timeout-Ms", b"Cookie"),
    *(b"Sec-WebSocket-Key1", b"Sec-WebSocket-Key", b"Origin", b"Range", b"If-Match", b"HTTP2-Settings", b"Date"),
]
VALUES = [b"", b"x", b"2", b"chunked", b"keep-alive", b"close", b"upgrade", b"websocket", b"h2c", b"100-continue", b"0"]


@st.composite
def heads(draw):
    """Requests put together from headers that mean something to somebody."""
    method = draw(st.sampled_from([b"GET", b"POST"]))
    path = draw(st.sampled_from([b"/", b"/v1/models/a:predict", b"/%00", b"//x/y", b"/..", b"/@:[", b"/;a=b"]))
    lines = [b"Host: x"] if draw(st.booleans()) or draw(st.booleans()) else []
    body = draw(st.sampled_from([b"", b"{}"]))
    if method == b"POST":
        lines.append(b"Content-Length: %d" % len(body))
    space = st.sampled_from([b"", b" ", b"\t", b"  "])
    for name, value in draw(st.lists(st.tuples(st.sampled_from(HEADERS), st.sampled_from(VALUES)), max_size=4)):
        spelled = draw(st.sampled_from([name, name.lower(), name.upper()]))
        lines.append(spelled + b":" + draw(space) + value + draw(space))
    lines = draw(st.permutations(lines))
    return method + b" " + path + b" HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


@given(heads())
@settings(max_examples=1000, deadline=None)
@example(request("/", b"{}", "User-Agent: a", "User-Agent: b"))
@example(request("/", b"{}", "Sec-WebSocket-Key1: b"))
def test_whatever_is_whole_is_one_message_for_aiohttp(data):
    assert_stock_agrees(data)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One small change anywhere."""
    at = rng.randrange(len(data))
    kind = rng.randrange(5)
    if kind == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes([rng.choice(b"\r\n\t :,;/?#%aZ0\x00\x7f\xff")]) + data[at:]
    if kind == 2:
        return data[:at] + data[at + rng.randrange(1, 4) :]
    if kind == 3:
        return data[:at] + data[at : at + 1].swapcase() + data[at + 1 :]
    until = min(len(data), at + rng.randrange(1, 40))
    return data[:until] + data[at:until] + data[until:]


def test_mutated_heads_that_are_whole_are_one_message_for_aiohttp():
    rng = random.Random(20)
    whole = 0
    sources = [message for message in PLAIN if len(message) < 1000]
    for _ in range(10_000):
        data = rng.choice(sources)
        for _ in range(rng.randrange(1, 4)):
            data = mutate(rng, data)
        whole += assert_stock_agrees(data)
    assert whole > 1500
