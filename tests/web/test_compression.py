"""Compressed bodies in and out: the functions as tables, and a real server."""

import gzip
import json
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from running import running
from simple_models import write_linear

from stfs.errors import InvalidRequest, TooLarge, UnsupportedEncoding
from stfs.web.compression import CODINGS, choose, compress, decompress

BODY = json.dumps({"instances": [[i, 2, 3] for i in range(50_000)]}).encode()
STREAMED = zstandard.ZstdCompressor().compressobj()
ZSTD_OF_UNTOLD_SIZE = STREAMED.compress(BODY) + STREAMED.flush()


@given(st.binary(max_size=2000), st.sampled_from(CODINGS))
def test_there_and_back(body, coding):
    assert decompress(coding, compress(coding, body), len(body)) == body


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("X-GZIP ", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY)[2:-4]),
        ("zstd", zstandard.compress(BODY)),
        ("zstd", ZSTD_OF_UNTOLD_SIZE),
        ("Identity", BODY),
    ],
    ids=["gzip", "x-gzip", "deflate", "bare deflate", "zstd", "zstd of untold size", "identity"],
)
def test_what_clients_send(coding, body):
    assert decompress(coding, body, len(BODY)) == BODY
    if coding != "Identity":
        with pytest.raises(TooLarge, match="over the limit of 1000 bytes once decompressed"):
            decompress(coding, body, 1000)
        for cut in (1, len(body) // 2, len(body) - 1):
            with pytest.raises(InvalidRequest, match="the body is not"):
                decompress(coding, body[:cut], len(BODY))


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("body", [b"", b"{}", b"\x00" * 100])
def test_what_is_not_compressed_is_refused(coding, body):
    with pytest.raises(InvalidRequest):
        decompress(coding, body, 1000)


@pytest.mark.parametrize("coding", CODINGS)
def test_what_follows_is_refused(coding):
    with pytest.raises(InvalidRequest, match="follow"):
        decompress(coding, compress(coding, b"{}") + b"more", 1000)


@pytest.mark.parametrize("coding", ["br", "gzip, gzip", "", "compress"])
def test_unknown_codings_are_refused_with_the_known_ones(coding):
    with pytest.raises(UnsupportedEncoding, match="send zstd, gzip, deflate, or plain"):
        decompress(coding, b"x", 1000)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("gzip, deflate", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("*", "zstd"),
        ("*;q=0.1, gzip", "gzip"),
        ("zstd;q=0, *", "gzip"),
        ("gzip;q=0", None),
        ("identity", None),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip", "gzip"),
        ("br", None),
        ("gzip;q=x", None),
        (";;,,=", None),
        ("GZIP", "gzip"),
    ],
)
def test_what_a_client_accepts(accept, coding):
    assert choose(accept) == coding


@pytest.fixture(scope="module", params=["auto", "off"])
def server(request, tmp_path_factory):
    file = write_linear(tmp_path_factory.mktemp("compressed"))
    with running(str(file), "--max_request_bytes=2M", f"--hot_path={request.param}") as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("coding", CODINGS)
def test_both_ways_over_http(server, coding):
    headers = {"Content-Encoding": coding, "Accept-Encoding": coding, "X-Request-Id": "a"}
    answer = server.post("/v1/models/default:predict", compress(coding, BODY), headers)
    assert answer.status == 200, answer.body
    assert (answer.headers["Content-Encoding"], answer.headers["Vary"]) == (coding, "Accept-Encoding")
    assert answer.headers["X-Request-Id"] == "a"
    plain = decompress(coding, answer.body, 1 << 24)
    assert json.loads(plain)["predictions"][49_999] == [99_998.0, 4.0, 6.0]
    plain_answer = server.post("/v1/models/default:predict", BODY)
    assert "Content-Encoding" not in plain_answer.headers
    assert plain_answer.body == plain


@pytest.mark.slow
def test_a_bomb_and_a_small_answer(server):
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 1 << 17
    answer = server.post("/", bomb, {"Content-Encoding": "gzip"})
    assert answer.status == 413
    assert "once decompressed" in answer.error
    answer = server.post("/", {"data": [[1, 2, 3]]}, {"Accept-Encoding": "gzip"})
    assert answer.status == 200
    assert "Content-Encoding" not in answer.headers
    answer = server.post("/", b"x", {"Content-Encoding": "br"})
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "zstd, gzip, deflate")


@pytest.mark.slow
def test_what_answers_tell_of_themselves(server):
    body = {"data": [[1, 2, 3], [4, 5, 6]]}
    answer = server.post("/", body, {"X-Server-Timing": "1"})
    assert answer.status == 200
    assert answer.headers["X-Served-Model-Version"] == "1"
    names = [part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")]
    assert names == ["decode", "queue", "batch", "run", "encode"]
    assert 'batch;desc="rows=2 position=0"' in answer.headers["Server-Timing"]
    spans = {
        p.split(";dur=")[0]: float(p.split("=")[1]) for p in answer.headers["Server-Timing"].split(", ") if "dur" in p
    }
    assert all(0 <= value < 60_000 for value in spans.values())
    assert spans["run"] > 0
    refused = server.post("/", {"data": [[1]]}, {"traceparent": "00-1-2-01"})
    assert (refused.status, refused.headers["X-Served-Model-Version"], refused.headers["traceparent"]) == (
        400,
        "1",
        "00-1-2-01",
    )
    assert "Server-Timing" not in server.post("/", body).headers
    unknown = server.post("/v1/models/none:predict", {"instances": []})
    assert unknown.status == 404
    assert "X-Served-Model-Version" not in unknown.headers
