"""Damaged streams of requests to the server with the hot path and to the one without, which must answer alike.

Owns how streams are made and when two ways to answer them count as the same; ``rawhttp`` sends and listens. From the
command line it starts both servers itself: ``python tests/web/fuzz_hot.py --cases 100000 --seed 1``.

Where aiohttp's parser meets a protocol error it loses the requests that came in the same segment before the error, so
its answers depend on how a broken stream was cut. Then the hot path may answer more than the stock path did, never
other than the stock path does when each request comes in a segment of its own, and less only where a request in flight
made segments wait for it, which then reach aiohttp's parser as one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from odd_estimators import write_odd
from running import Running, running
from simple_models import write_linear, write_many
from web.rawhttp import Heard, Pair, Parsed, Reply, cut_at, exchange, get, parse, request

SIDE_BY_SIDE = 24
"""Streams in flight together: they share the beats, and batches."""

PREDICT = "/v1/models/linear:predict"
INFER = '{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [%s, 0.5, 2e1]}]}'
GOOD = request(PREDICT, '{"instances": [[1.0, 2.5, -3.0]]}')
BEAT = request("/", '{"model_name": "linear", "data": {"x": [[7, 7, 7]]}}')


RAW = struct.pack("<3f", 1.5, -2.0, 0.25)


def raw_infer(path: str, data: bytes) -> bytes:
    """A request whose tensor follows its JSON as bytes."""
    entry = {"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": len(data)}}
    text = json.dumps({"inputs": [entry]}).encode()
    return request(path, text + data, f"Inference-Header-Content-Length: {len(text)}")


def seeds() -> list[bytes]:
    """Sound requests, and refused ones, of every sort that either path treats in a way of its own."""
    row = '{"instances": [[%s, 2, 3]]}'
    stfs = '{"model_name": "linear", "data": {"x": [[%s, 0, -1]]}}'
    entry = INFER
    infer = "/v2/models/linear/infer"
    row_of_chunks = (row % 3).encode()
    return [
        request(PREDICT, ' {\t"instances" :\n[ [1.5e-3 , -0.0, 123456789012345678901234567890] , [ 1,2,3]] } '),
        request(PREDICT, '{"inputs": [[0.1, 3.4028234e38, 5]]}'),
        request("/", '{"model_name": "linear", "model_version": 1, "data": [[1, 2, 3], [4, 5, 6]]}'),
        request("/", stfs % "7.25", "Accept-Encoding: gzip"),
        request(infer, entry % 4),
        request(infer, '{"id": "a", ' + (entry % 4)[1:]),
        request("/v2/models/linear/versions/1/infer", (entry % "4, 5, 6, 7").replace("[1, 3]", "[2, 3]")),
        request(
            infer, (entry % 4).replace('"shape": [1, 3], "datatype": "FP32"', '"datatype": "FP32", "shape": [1, 3]')
        ),
        request(infer, (entry % "[1, 2").replace("0.5, 2e1", "3]")),
        request(infer, (entry % 4)[:-1] + ', "outputs": [{"name": "y"}]}'),
        request(infer, (entry % 4).replace("FP32", "FP64")),
        request(infer, (entry % 4).replace("[1, 3]", "[3, 1]")),
        request(infer, (entry % 4).replace('"x"', '"z"')),
        raw_infer(infer, RAW),
        raw_infer(infer, RAW[:-1]),
        request("/v2/models/nope/infer", entry % 4),
        request(infer + "?x", entry % 5),
        get("/v2/models/linear"),
        get("/v2/health/ready"),
        request("/v1/models/odd:predict", '{"instances": [[3], [7]]}'),
        *(request(PREDICT, row % i) for i in range(4)),
        *(request("/", stfs % i, "Connection: keep-alive", "User-Agent: fuzz", "Accept: */*") for i in range(3)),
        request("/V1/models/lin%65ar/versions/1:Predict", row % 9),
        request("/v1/models/nope:predict", row % 1),
        request("/v1/models/linear:predict?x=1", row % 1),
        request(PREDICT, '{"instances": [[1, 2]]}'),
        request(PREDICT, '{"instances": [[1, 2'),
        request("/v1/models/odd:predict", '{"instances": [[-1]]}'),
        request("/v1/models/odd:predict", '{"instances": [[4], [5]]}'),
        request("/", stfs % 1, content_type="Content-Type: text/plain"),
        request("/", stfs % 1, content_type="Content-Type: application/json; charset=utf-8"),
        request("/", stfs % 1, content_type=None),
        request("/", "", "X-Request-Timeout-Ms: 60000"),
        request("/", stfs % 2, "X-Request-Timeout-Ms: 60000"),
        request("/nope", "{}"),
        request("/", "{}", method="PUT"),
        request("/", stfs % 5, "Connection: close"),
        request("/", stfs % 5, "Expect: 100-continue"),
        request(
            PREDICT, b"8\r\n" + (row % 1).encode()[:8] + b"\r\n0\r\n\r\n", "Transfer-Encoding: chunked", length=None
        ),
        request(
            PREDICT,
            b"".join(b"1\r\n%c\r\n" % byte for byte in row_of_chunks) + b"0\r\n\r\n",
            "Transfer-Encoding: chunked",
            length=None,
        ),
        request("/nope", b"2;a=b\r\n{}\r\n0\r\nName: x\r\n\r\n", "Transfer-Encoding: chunked", length=None),
        request(PREDICT, row % 6).replace(b"HTTP/1.1", b"HTTP/1.0"),
        request(PREDICT, row % 6, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        request(PREDICT, row % 7, "Name: \xe4"),
        request("/", row % 8, method="GET"),
        request("/nope", GOOD, method="DELETE"),
        get("/v1/models/linear"),
        get("/v1/models/linear"),
        get("/health", "Connection: keep-alive"),
        get("/nope"),
        b"\r\n" + GOOD,
    ]


SEEDS = seeds()
TURNS = [GOOD, BEAT, request("/v2/models/linear/infer", INFER % 8)]
"""Between two messages that the stock path has, in streams of both sorts."""

LINES = [
    *(b"Host: x", b"Content-Type: application/json", b"Content-Type: text/plain", b"Authorization: Basic x"),
    *(b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: +5", b"Content-Length: 99999999999999999999"),
    *(b"Transfer-Encoding: chunked", b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue"),
    *(b"User-Agent: x", b"Upgrade: x", b"TE: trailers", b"X-Request-Timeout-Ms: 60000", b"X-Request-Timeout-Ms: soon"),
    *(b" folded", b"no colon", b"Bad Name: x", b"X: " + b"y" * 8100, b"Content-Encoding: gzip", b"Origin: x"),
    *(
        b"X-Request-Id: a",
        b"traceparent: 0",
        b"Accept-Encoding: gzip",
        b"X-Server-Timing: 1",
        b"Content-Encoding: zstd",
    ),
]
SNIPPETS = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b":",
    b" ",
    b"\t",
    b"?",
    b"#",
    b"%2F",
    b"%0A",
    b"%",
    b"/",
    b"\x00",
    b"\xff",
    b"POST ",
]
IN_BODIES = [
    b"1",
    b"-",
    b".",
    b"e9",
    b"0",
    b"[",
    b"]",
    b"],[",
    b",",
    b" ",
    b"null",
    b"true",
    b'"',
    b'"x"',
    b"{",
    b"}",
    b"\\u0031",
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One change of ``data``."""
    at = rng.randrange(len(data) + 1)
    until = min(len(data), at + rng.randrange(1, 1 << rng.randrange(1, 8)))
    kind = rng.randrange(12)
    if kind > 9 and (ends := [i for i in range(len(data)) if data.startswith(b"\r\n\r\n{", i)]):
        # In a body, with the length of the message kept: what follows is still read as it was meant.
        start = rng.choice(ends) + 4
        end = data.find(b"POST ", start)
        place = rng.randrange(start, len(data) if end < 0 else end)
        snippet = rng.choice(IN_BODIES)
        return data[:place] + snippet + data[place + len(snippet) :]
    if kind == 0:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.choice(SNIPPETS) + data[at:]
    if kind == 2:
        return data[:at] + data[until:]
    if kind == 3:
        return data[:until] + data[at:until] + data[until:]
    if kind == 4:
        return data[:at]
    if kind == 5:
        other = rng.choice(SEEDS)
        return data[:at] + other[rng.randrange(len(other)) :] + data[until:]
    if kind == 6:
        return data[:at] + data[at:until].swapcase() + data[until:]
    if kind == 7 and (lengths := [i for i in range(len(data)) if data.startswith(b"Content-Length: ", i)]):
        start = rng.choice(lengths) + len(b"Content-Length: ")
        end = data.find(b"\r\n", start)
        return data[:start] + b"%d" % (len(data[start:end]) * rng.randrange(20)) + data[end:]
    breaks = [i + 2 for i in range(len(data) - 1) if data[i : i + 2] == b"\r\n"]
    if kind == 8 and breaks:
        at = rng.choice(breaks)
        return data[:at] + rng.choice(LINES) + b"\r\n" + data[at:]
    if kind == 9 and len(breaks) > 1:
        i = rng.randrange(len(breaks) - 1)
        return data[: breaks[i + 1]] + data[breaks[i] : breaks[i + 1]] + data[breaks[i + 1] :]
    return data


@dataclass(frozen=True)
class Case:
    """A stream, how it is cut for both servers, and where aiohttp's parser sees its messages end."""

    stream: bytes
    segments: tuple[bytes, ...]
    parsed: Parsed

    @property
    def by_message(self) -> list[bytes]:
        """Cut behind every message as well, so that the stock path loses none to a later error."""
        places, at = list(self.parsed.ends), 0
        for segment in self.segments:
            at += len(segment)
            places.append(at)
        return cut_at(self.stream, places)


def make_case(rng: random.Random) -> Case:
    """One to six requests, in every third stream with a plain one behind each; changed in none to four places, in one
    to five segments."""
    messages = [rng.choice(SEEDS) for _ in range(rng.randrange(1, 7))]
    if not rng.randrange(3):
        messages = [part for message in messages for part in (message, rng.choice(TURNS))]
    stream = b"".join(messages)
    for _ in range(rng.randrange(5)):
        stream = mutate(rng, stream)
    stream = stream or b"\r"
    parsed = parse(stream)
    if parsed.broken:
        stream += b"\r\n\r\n"  # the head scan judges whole lines, aiohttp's parser some of them in their middle
    cuts = [rng.randrange(len(stream)) for _ in range(rng.randrange(5))]
    return Case(stream, tuple(cut_at(stream, cuts)), parsed)


def within(part: Sequence[object], whole: Sequence[object]) -> bool:
    """Whether ``part`` can be had from ``whole`` by leaving out."""
    rest = iter(whole)
    return all(one in rest for one in part)


def is_protocol_error(reply: Reply) -> bool:
    """Whether it is aiohttp's own answer to what is not HTTP; ours are JSON."""
    return reply.status == 400 and (reply.header("content-type") or "").startswith("text/plain")


def same(case: Case, hot: Heard, stock: Heard, by_message: Heard) -> bool:
    """Whether the hot path answered as it should, given both ways in which the stock path did."""
    if hot.closed != stock.closed or hot.rest != stock.rest:
        return False
    if not (case.parsed.broken or case.parsed.upgraded):
        return hot == stock
    # The protocol error itself may be met or not, where the connection was to be closed before it anyway.
    sound = [[reply for reply in one.replies if not is_protocol_error(reply)] for one in (stock, hot, by_message)]
    return within(sound[0], sound[1]) and within(sound[1], sound[2])


def complete(case: Case, heard: Heard) -> bool:
    """Whether every message has its answer, so that there is no need to wait for silence."""
    final = sum(status >= 200 for status in heard.statuses)
    return heard.closed or (final >= len(case.parsed.ends) and not case.parsed.broken)


def disagreements(
    pair: Pair, rng: random.Random, cases: int, count: Callable[[int], object] = lambda requests: None
) -> Iterator[tuple[Case, Heard, Heard, Heard]]:
    """Play that many streams; those that the two servers answer differently. ``count`` is told how many requests of
    theirs aiohttp's parser sees as whole."""
    while cases > 0:
        group = [make_case(rng) for _ in range(min(cases, SIDE_BY_SIDE))]
        cases -= len(group)
        count(sum(len(case.parsed.ends) for case in group))

        def done(heard: list[list[Heard]], group: list[Case] = group) -> bool:
            return all(
                same(case, *three) and all(complete(case, one) for one in three[::2])
                for case, *three in zip(group, *heard, strict=True)
            )

        for case, *heard in zip(group, *_play(pair, group, done), strict=True):
            if case.parsed.broken and not same(case, *heard):  # again, alone, each segment when the one before is done
                (heard,) = zip(*_play(pair, [case], lambda heard: True, beats=50), strict=True)
            if not same(case, *heard):
                yield (case, *heard)


def _play(
    pair: Pair, group: Sequence[Case], done: Callable[[list[list[Heard]]], bool], beats: int = 1
) -> list[list[Heard]]:
    as_cut = [case.segments for case in group]
    by_message = [case.by_message for case in group]
    return exchange([(pair.hot, as_cut), (pair.stock, as_cut), (pair.stock, by_message)], done, beats)


@contextmanager
def both(folder: Path, *flags: str) -> Iterator[tuple[Running, Running, Pair]]:
    """Two servers of the models linear, many and odd, one with the hot path and one without."""
    write_linear(folder / "linear" / "1")
    write_many(folder / "many" / "3")
    write_odd(folder / "odd" / "1")
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "many", "odd")]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    argv = [
        "--compress_over=1K",
        f"--model_config_file={config}",
        "--max_request_bytes=1M",
        "--log_level=warning",
        *flags,
    ]
    with running(*argv) as hot, running(*argv, "--hot_path=off") as stock:
        pair = Pair(hot.port, stock.port, BEAT)
        try:
            yield hot, stock, pair
        finally:
            pair.close()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def main() -> int:
    """Returns how many streams were answered differently, 100 at most."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--minutes", type=float, default=float("inf"))
    asked = options.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder, both(Path(folder)) as (hot, stock, pair):

        def tell(played: int, found: int) -> None:
            sizes = ", ".join(
                f"{name} {resident_bytes(server.process.pid) >> 20} MiB {open_files(server.process.pid)} files"
                for name, server in (("hot", hot), ("stock", stock))
            )
            print(f"{played} streams, {requests} requests, {found} answered differently; {sizes}", flush=True)

        def count_requests(more: int) -> None:
            nonlocal requests
            requests += more

        played = found = requests = 0
        end_s = time.monotonic() + asked.minutes * 60
        while played < asked.cases and time.monotonic() < end_s:
            tell(played, found)
            count = min(asked.cases - played, 100 * SIDE_BY_SIDE)
            for case, with_hot, without, by_message in disagreements(pair, rng, count, count_requests):
                found += 1
                print(
                    f"\nsent {list(case.segments)!r}\n  hot   {with_hot}\n  stock {without}\n  by message {by_message}"
                )
            played += count
        tell(played, found)
        print(hot.log() + stock.log())
    return min(found, 100)


if __name__ == "__main__":
    sys.exit(main())
