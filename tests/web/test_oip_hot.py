"""The Open Inference Protocol on the hot path: taken there, and answered as on the stock path whatever the cut."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from simple_models import write_linear
from web.fuzz_hot import GOOD, both
from web.rawhttp import Pair, cut_at, request

from stfs import config
from stfs.server import Server
from stfs.web.hot_shared import HotPath

headscan = pytest.importorskip("stfs.web._headscan", reason="the hot path is not compiled")

INFER = "/v2/models/linear/infer"
LENGTH = "Inference-Header-Content-Length"
ROW = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.5, -3.0]}
JSON = json.dumps({"inputs": [ROW]})
RAW = np.array([1, 2.5, -3], "<f4").tobytes()
HEAD = json.dumps(
    {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}],
        "parameters": {"binary_data_output": True},
    }
).encode()
LARGE = json.dumps({"inputs": [{**ROW, "shape": [300, 3], "data": list(range(900))}]})


def binary(*headers: str, length: object = len(HEAD), body: bytes = HEAD + RAW) -> bytes:
    return request(INFER, body, f"{LENGTH}: {length}", *headers, content_type=None)


SOUND = [
    ("JSON", request(INFER, JSON)),
    ("JSON with a version", request("/v2/models/linear/versions/1/infer", JSON)),
    ("JSON for an escaped name", request("/v2/models/lin%65ar/infer", JSON)),
    ("raw tensors", binary()),
    ("raw tensors as octets", binary("Content-Type: application/octet-stream")),
    ("one raw tensor alone", binary(length=0, body=RAW)),
    ("a large answer", request(INFER, LARGE, "Accept-Encoding: gzip")),
]
REFUSED = [
    ("bad JSON", request(INFER, JSON[:-1])),
    ("no body", request(INFER, b"")),
    ("a model that is not here", request("/v2/models/nope/infer", JSON)),
    ("a version that is not here", request("/v2/models/linear/versions/7/infer", JSON)),
    ("a version that is none", request("/v2/models/linear/versions/new/infer", JSON)),
    ("a length that is none", binary(length="x")),
    ("a length beyond the body", binary(length=10**9)),
    ("sizes that do not add up", binary(body=HEAD + RAW + b"!")),
    ("bytes that are missing", binary(body=HEAD + RAW[:-1])),
]
TWICE = binary(f"{LENGTH}: {len(HEAD)}")


@pytest.mark.parametrize("message", [m for _, m in SOUND], ids=[name for name, _ in SOUND])
def test_sound_requests_are_for_the_hot_path(tmp_path, message):
    write_linear(tmp_path / "1")

    async def main():
        argv = [f"--model_base_path={tmp_path}", "--model_name=linear", "--port=0", "--host=127.0.0.1"]
        hot = HotPath(Server(config.from_environment(argv, prog="t", positional=False, defaults={})).context)
        assert hot.head.scan(message) == headscan.WHOLE
        route = hot.takes(hot.head)
        assert route is not None
        assert (route[0].name, route[1]) == ("oip", "linear")

    asyncio.run(main())


def test_the_scan_gives_the_length_of_the_json_part():
    head = headscan.Head()
    assert head.scan(binary()) == headscan.WHOLE
    assert head.inference_header == str(len(HEAD)).encode()
    assert head.scan(request(INFER, JSON)) == headscan.WHOLE
    assert head.inference_header is None
    assert head.scan(TWICE) == headscan.OTHER


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    with both(tmp_path_factory.mktemp("models")) as (_, _, pair):
        yield pair


@pytest.mark.slow
@pytest.mark.parametrize("message", [m for _, m in SOUND + REFUSED], ids=[name for name, _ in SOUND + REFUSED])
def test_both_paths_answer_alike_whatever_the_cut(pair: Pair, message):
    step = max(1, len(message) // (40 if len(message) < 2000 else 10))  # many large ones at once would fill the queue
    plays = [cut_at(message + GOOD, [place]) for place in range(1, len(message), step)]
    statuses = {tuple(heard.statuses) for heard in pair.agree(plays, least=2)}
    assert len(statuses) == 1
    assert statuses.pop()[1] == 200


@pytest.mark.slow
def test_behind_one_another_on_one_connection(pair: Pair):
    stream = b"".join([message for _, message in SOUND[:6]] * 2)
    heard = pair.agree_on(stream, least=12)
    assert heard.statuses == [200] * 12


@pytest.mark.slow
def test_a_length_that_stands_twice(pair: Pair):
    pair.agree_on(TWICE, GOOD, least=1)
