"""Bytes to servers over raw sockets, in segments, and what comes back. Owns no expectation of any answer.

Segments arrive at the server one by one because between two of them a request on another connection (a beat) is sent
and answered: the loop that answered it has read what was there before. The same beats tell when all is quiet, so that
nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Any

from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

QUIET_BEATS = 3
"""Beats in a row that must bring nothing new."""

SILENCE_S = 2.0
"""What has not come after so long is not coming."""

STUCK_S = 60.0
"""A send or a beat that takes longer fails the test."""

EVENTS = b"\r\nContent-Type: text/event-stream"
"""In the head of an answer that never ends."""

Play = Sequence[bytes]
"""What is sent on one connection: its segments."""


def request(
    path: str = "/",
    body: bytes | str = b"",
    *headers: str,
    method: str = "POST",
    host: str | None = "Host: x",
    content_type: str | None = "Content-Type: application/json",
    length: str | None = "Content-Length: %d",
) -> bytes:
    """One request; ``None`` leaves a header out. ``length`` may hold ``%d``, the length of the body."""
    content = body.encode() if isinstance(body, str) else body
    if length is not None and "%d" in length:
        length = length % len(content)
    lines = [f"{method} {path} HTTP/1.1", host, content_type, length, *headers]
    return "\r\n".join(line for line in lines if line is not None).encode("latin-1") + b"\r\n\r\n" + content


def get(path: str, *headers: str) -> bytes:
    return request(path, b"", *headers, method="GET", content_type=None, length=None)


def cut_at(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """``stream`` in pieces, cut at these offsets; no piece is empty."""
    marks = [0, *sorted({place for place in places if 0 < place < len(stream)}), len(stream)]
    return [stream[start:end] for start, end in pairwise(marks)]


@dataclass(frozen=True)
class Reply:
    """One answer. ``headers`` are sorted, without the date."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)


@dataclass(frozen=True)
class Heard:
    """What came on one connection: whole answers, bytes that are none, and whether the server has closed it."""

    replies: tuple[Reply, ...]
    rest: bytes
    closed: bool

    @property
    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies]


def understand(raw: bytes, closed: bool) -> Heard:
    """Answers as they can be compared: without dates and times, and without what tells how the bytes were cut.

    aiohttp's 400 quotes the part of the line that came in the last segment; only its first line is kept. Pages,
    metrics and what runs took when a model was loaded tell of the server they come from; only their head is kept. Of a
    stream of events, which has no end, the head is all, and it is the last that a connection brings.
    """
    raw = re.sub(rb"\r\nDate: [^\r\n]*", b"", raw)
    raw = re.sub(rb"(?<=;dur=)[0-9.]+|(?<=rows=)\d+|(?<=position=)\d+", b"0", raw)
    raw = re.sub(rb"(?<=deadline passed )\d\.\d{3}", b"0.000", raw)
    found: list[Reply] = []
    while (end := raw.find(b"\r\n\r\n")) >= 0:
        first, *lines = raw[:end].decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/\d\.\d (\d{3}) .*", first)
        if match is None:
            break
        status = int(match[1])
        if EVENTS in raw[:end]:
            raw = raw[:end] + b"\r\n\r\n"
        headers = sorted((n.lower(), v.strip()) for n, _, v in (line.partition(":") for line in lines))
        kind = dict(headers).get("content-type", "")
        length = 0 if status < 200 or status == 204 else int(dict(headers).get("content-length", 0))
        if len(raw) < end + 4 + length:
            break
        body, raw = raw[end + 4 : end + 4 + length], raw[end + 4 + length :]
        is_timed = b'"calibration"' in body
        if (status == 400 and kind.startswith("text/plain")) or "html" in kind or "version=" in kind or is_timed:
            headers = [(name, value) for name, value in headers if name != "content-length"]
            body = body.partition(b"\n")[0] if status == 400 else b""
        found.append(Reply(status, tuple(headers), body))
    return Heard(tuple(found), raw, closed)


class Line:
    """One connection. What the server sends is kept in ``received`` as it comes."""

    def __init__(self, port: int, receive_buffer_bytes: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.received = bytearray()
        self.closed = False
        self._understood: tuple[int, bool, Heard] | None = None

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """All of it, reading meanwhile; what cannot be sent because the server has closed is dropped."""
        view = memoryview(data)
        while view and not self.closed:
            readable, writable, _ = select.select([self.socket], [self.socket], [], STUCK_S)
            assert readable or writable, "the server does not read"
            if readable:
                self.pump()
            if writable and not self.closed:
                try:
                    view = view[self.socket.send(view) :]
                except BlockingIOError:
                    continue
                except OSError:
                    self.pump()
                    self.closed = True

    def pump(self) -> bool:
        """Take what has come; whether anything had."""
        before = len(self.received), self.closed
        with contextlib.suppress(BlockingIOError):
            while not self.closed:
                try:
                    data = self.socket.recv(1 << 16)
                except (ConnectionResetError, BrokenPipeError):
                    data = b""
                self.received += data
                self.closed = not data
        return before != (len(self.received), self.closed)

    def until(self, enough: Callable[[Line], Any], limit_s: float = STUCK_S) -> Line:
        """Wait until ``enough(self)``; fails if the server closes or stays silent before."""
        while not enough(self):
            assert not self.closed, f"closed after {bytes(self.received)!r}"
            readable, _, _ = select.select([self.socket], [], [], limit_s)
            assert readable, f"silent after {bytes(self.received)!r}"
            self.pump()
        return self

    def ask(self, data: bytes, count: int = 1) -> list[Reply]:
        """Send, and wait for that many answers."""
        self.received.clear()
        self._understood = None
        self.send(data)
        self.until(lambda line: len(line.heard().replies) >= count)
        return list(self.heard().replies)

    def heard(self) -> Heard:
        """What has come by now, understood once for as long as nothing more comes."""
        if self._understood is None or self._understood[:2] != (len(self.received), self.closed):
            heard = understand(bytes(self.received), self.closed)
            self._understood = (len(self.received), self.closed, heard)
        return self._understood[2]


class Side:
    """One server, and a connection to it that beats. ``beat`` is a request that the server's model answers."""

    def __init__(self, port: int, beat: bytes) -> None:
        self.port = port
        self._beat = beat
        self._line = Line(port)

    def beat(self) -> None:
        """A request through the model and back: what was sent before on other connections has been read by then."""
        (reply,) = self._line.ask(self._beat)
        assert reply.status == 200, reply

    def close(self) -> None:
        self._line.socket.close()


def exchange(
    parts: Sequence[tuple[Side, Sequence[Play]]], done: Callable[[list[list[Heard]]], bool], beats: int = 1
) -> list[list[Heard]]:
    """Send every play on a connection of its own, all of them side by side, ``beats`` between two segments.

    Returns when all is quiet and ``done`` likes what was heard, or when :data:`SILENCE_S` have passed without news.
    """
    sides = [side for side, _ in parts]
    with contextlib.ExitStack() as stack:
        lines = [[stack.enter_context(Line(side.port)) for _ in plays] for side, plays in parts]
        for side in sides * 2:
            side.beat()  # until the connections have been accepted
        for step in range(max((len(play) for _, plays in parts for play in plays), default=0)):
            for row, (_, plays) in zip(lines, parts, strict=True):
                for line, play in zip(row, plays, strict=True):
                    if step < len(play):
                        line.send(play[step])
            for side in sides * beats:
                side.beat()
        quiet = 0
        last_news_s = time.monotonic()
        while True:
            for side in sides:
                side.beat()
            news = [line.pump() and EVENTS not in line.received for row in lines for line in row]
            if any(news):
                quiet, last_news_s = 0, time.monotonic()
                continue
            quiet += 1
            if quiet >= QUIET_BEATS:
                heard = [[line.heard() for line in row] for row in lines]
                silent_s = time.monotonic() - last_news_s
                if done(heard) or silent_s > SILENCE_S:
                    return heard
                talking = [line for row in lines for line in row if not (line.closed or EVENTS in line.received)]
                select.select([line.socket for line in talking], [], [], SILENCE_S - silent_s)


class Pair:
    """The server with the hot path and the one without, serving the same models."""

    def __init__(self, hot_port: int, stock_port: int, beat: bytes) -> None:
        self.hot = Side(hot_port, beat)
        self.stock = Side(stock_port, beat)

    def close(self) -> None:
        self.hot.close()
        self.stock.close()

    def agree(self, plays: Sequence[Play], least: int = 0) -> list[Heard]:
        """What both answered to the same bytes in the same segments, ``least`` answers to each or more.

        Fails if they differ in the status, headers, body or order of answers, or in closing the connection.
        """

        def done(heard: list[list[Heard]]) -> bool:
            return heard[0] == heard[1] and all(len(one.replies) >= least for one in heard[0])

        hot, stock = exchange([(self.hot, plays), (self.stock, plays)], done)
        for play, with_hot, without in zip(plays, hot, stock, strict=True):
            assert with_hot == without, f"sent {play!r}"
            assert len(with_hot.replies) >= least, f"sent {play!r}, heard {with_hot}"
        return hot

    def agree_on(self, *segments: bytes, least: int = 0) -> Heard:
        """:meth:`agree` on one connection."""
        return self.agree([segments], least)[0]


# --- aiohttp's own parser, as the reference ---------------------------------------------------------------------------


class _Reader:
    """What the parser's payloads want of a connection."""

    _reading_paused = False

    def pause_reading(self) -> None:
        raise AssertionError("a payload larger than its buffer")

    def resume_reading(self, resume_parser: bool = True) -> None:
        pass


_loop = asyncio.new_event_loop()
_loop.close()  # payloads keep it for futures that nobody here makes


def stock_parser() -> Any:
    """aiohttp's parser, configured as its server does for ours."""
    return HttpRequestParser(
        _Reader(),
        _loop,
        1 << 26,
        max_line_size=8190,
        max_headers=128,
        max_field_size=8190,
        auto_decompress=False,
    )


@dataclass(frozen=True)
class Parsed:
    """``ends`` are the offsets behind each whole message; ``broken`` that a protocol error follows the last of them."""

    ends: tuple[int, ...]
    broken: bool
    upgraded: bool = False


def parse(stream: bytes) -> Parsed:
    """Where aiohttp's parser sees messages end, fed byte by byte."""
    parser = stock_parser()
    ends: list[int] = []
    payload: Any = EMPTY_PAYLOAD
    for offset in range(len(stream)):
        try:
            messages, upgraded, _ = parser.feed_data(stream[offset : offset + 1])
        except HttpProcessingError:
            return Parsed(tuple(ends), True)
        pending = payload is not EMPTY_PAYLOAD
        if messages:
            (_, payload), pending = messages[0], True
        if pending and (payload is EMPTY_PAYLOAD or payload.is_eof()):
            ends.append(offset + 1)
            payload = EMPTY_PAYLOAD
        if upgraded:
            return Parsed(tuple(ends), False, True)
    return Parsed(tuple(ends), False)
