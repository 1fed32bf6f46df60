"""Where messages end that the stock path has: tables, at every place where they may be cut, and its parser as judge."""

from __future__ import annotations

import random

import pytest
from web.fuzz_hot import make_case
from web.rawhttp import get, parse, request

headscan = pytest.importorskip("stfs.web._headscan", reason="the head scan is not compiled")


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n", extra: str = "") -> bytes:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extra.encode(), piece) for piece in pieces) + end
    return request("/", body, "Transfer-Encoding: chunked", length=None)


KNOWN = {
    "a body": request("/", b"hello"),
    "no body": request("/", b""),
    "no length": get("/"),
    "another method": request("/x?y#z", b"{}", method="DELETE"),
    "a body of a GET": request("/", b"{}", method="GET"),
    "HTTP/1.0": request("/", b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "empty lines before": b"\r\n\r\n" + request("/", b"{}"),
    "bytes above ASCII": request("/", b"{}", "Name: \xe4\xf6"),
    "a target above ASCII": request("/\xc3\xa4", b"{}"),
    "an expectation": request("/", b"{}", "Expect: 100-continue"),
    "an old parser's extension": request("/", b"{}", "Connection: upgrade"),
    "a close": request("/", b"{}", "Connection: close"),
    "a request as a body": request("/", get("/")),
    "chunks": chunked(b"hello", b"x" * 20, b"y"),
    "no chunk": chunked(),
    "chunks that look like ends": chunked(b"0\r\n\r\n", b"\r\n", b"0"),
    "a size in capitals, with zeros": request(
        "/", b"0000000A\r\n0123456789\r\n000\r\n\r\n", "transfer-encoding: CHUNKED", length=None
    ),
}

UNKNOWN = {
    "an upgrade": request("/", b"{}", "Connection: upgrade", "Upgrade: h2c"),
    "a tunnel": get("/").replace(b"GET /", b"CONNECT x:1"),
    "another coding": request("/", b"", "Transfer-Encoding: gzip, chunked", length=None),
    "two codings": request("/", b"", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked", length=None),
    "a coding and a length": chunked().replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n", 1),
    "a length and a coding": request("/", b"{}", "Transfer-Encoding: chunked"),
    "a coding in HTTP/1.0": chunked().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "two lengths": request("/", b"{}", "Content-Length: 2"),
    "a length with a sign": request("/", b"{}", length="Content-Length: +2"),
    "a length that overflows": request("/", b"{}", length=f"Content-Length: {1 << 64}"),
    "an empty length": request("/", b"{}", length="Content-Length:"),
    "a folded line": request("/", b"{}", "Name: a\r\n b"),
    "a space before a colon": request("/", b"{}", "Transfer-Encoding : chunked"),
    "bare line feeds": request("/", b"{}").replace(b"\r\n", b"\n"),
    "a lone line feed": b"\n" + get("/"),
    "a carriage return in a value": request("/", b"{}", "Name: a\rb"),
    "a zero in a value": request("/", b"{}", "Name: a\0b"),
    "two spaces": get("/").replace(b"GET ", b"GET  "),
    "a space in a target": get("/a b"),
    "HTTP/2.0": get("/").replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/1.2": get("/").replace(b"HTTP/1.1", b"HTTP/1.2"),
    "a method in small letters": get("/").replace(b"GET", b"get"),
    "no method": b" / HTTP/1.1\r\n\r\n",
    "a head that has no end": b"GET / HTTP/1.1\r\n" + b"Name: value\r\n" * 2000,
    "a chunk's extension": chunked(b"hello", extra=";a=b"),
    "trailers": chunked(b"hello", end=b"0\r\nName: x\r\n\r\n"),
    "a chunk without a size": chunked(b"", end=b"\r\n\r\n").replace(b"0\r\n", b"\r\n", 1),
    "a long size": chunked(b"hello").replace(b"\r\n5\r\n", b"\r\n000000005\r\n"),
    "a chunk longer than its size": chunked(b"hello").replace(b"hello", b"hello!"),
    "a size in no hexadecimal": chunked(b"hello").replace(b"\r\n5\r\n", b"\r\n0x5\r\n"),
}


def follow(segments: list[bytes]) -> tuple[int, bool | None]:
    """How many bytes a frame takes, and whether it is done then; ``None`` if it cannot tell."""
    frame = headscan.Frame()
    taken = 0
    for segment in segments:
        count = frame.take(segment)
        if count < 0:
            return taken, None
        taken += count
        if frame.done:
            return taken, True
        assert count == len(segment), "more is wanted, so nothing may be left"
    return taken, False


@pytest.mark.parametrize("message", KNOWN.values(), ids=KNOWN)
def test_an_end_is_seen_wherever_a_message_is_cut(message):
    for behind in (b"", b"P", b"\r\n\r\n", b"0\r\n\r\n", message):
        for cut in range(1, len(message) + 1):
            assert follow([message[:cut], message[cut:] + behind][: 1 if cut == len(message) else 2]) == (
                len(message),
                True,
            )
        assert follow([bytes([byte]) for byte in message + behind]) == (len(message), True)
    for size in range(1, len(message)):
        assert follow([message[:size]]) == (size, False)


@pytest.mark.parametrize("message", UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_told_is_not_told_wherever_it_is_cut(message):
    for cut in range(1, len(message), max(1, len(message) // 300)):
        _, done = follow([message[:cut], message[cut:]])
        assert done is None, cut
    if len(message) < 1000:
        assert follow([bytes([byte]) for byte in message])[1] is None


def test_aiohttps_parser_sees_the_same_ends_in_damaged_streams():
    rng = random.Random(11)
    seen = broken = 0
    for _ in range(4000):
        stream = make_case(rng).stream
        at = 0
        ends: list[int] = []
        while at < len(stream):
            frame = headscan.Frame()
            cut = rng.randrange(len(stream) - at + 1)
            count = frame.take(stream[at : at + cut])
            if count == cut and not frame.done:
                more = frame.take(stream[at + cut :])
                count = -1 if more < 0 else count + more
            if count < 0 or not frame.done:
                break
            at += count
            ends.append(at)
            parsed = parse(stream[:at])
            if parsed.broken:
                broken += 1
                break
            assert list(parsed.ends) == ends, stream
            seen += 1
    assert seen > 3000
    assert broken > 100
