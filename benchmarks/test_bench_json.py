"""JSON to numpy and back beside the usual ways: ``pytest benchmarks/test_bench_json.py --benchmark-group-by=group``.

Each benchmark checks its result. Compare within a group only: rates depend on the machine, ratios much less.
"""

import base64
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from stfs import codec
from stfs.codec_py import read, write

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Body:
    text: bytes
    array: Array


def numbers(array: Array, dtype: str) -> Body:
    return Body(json.dumps(array.tolist()).encode(), array.astype(dtype))


def base64_strings(count: int, size_bytes: int) -> Body:
    data = [RNG.bytes(size_bytes) for _ in range(count)]
    text = json.dumps([{"b64": base64.b64encode(item).decode()} for item in data])
    array = np.empty(count, object)
    array[:] = data
    return Body(text.encode(), array)


BODIES = {
    "1x4 float32": numbers(np.array([[1.0, 2.0, 3.0, 4.0]]), "float32"),
    "32x784 float32, 7 digits": numbers(np.round(RNG.random((32, 784)), 7), "float32"),
    "224x224x3 float32, repr": numbers(RNG.random((224, 224, 3)), "float32"),
    "3x224x224 float32, repr": numbers(RNG.random((3, 224, 224)), "float32"),
    "224x224x3 uint8": numbers(RNG.integers(0, 256, (224, 224, 3)), "uint8"),
    "128x39 int64": numbers(RNG.integers(-(10**6), 10**9, (128, 39)), "int64"),
    "100 base64 strings of 64 B": base64_strings(100, 64),
    "8 base64 strings of 100 KB": base64_strings(8, 100_000),
}

ROWS = 64
ROW_BODY = json.dumps([{"a": [i / 7, i / 3, float(i)], "n": i} for i in range(ROWS)]).encode()

OUTPUTS = {
    "1x10 float32": RNG.random((1, 10)).astype("float32"),
    "32x784 float32": RNG.random((32, 784)).astype("float32"),
    "32x784 float32, normal": (100 * RNG.standard_normal((32, 784))).astype("float32"),
    "32x784 float64": RNG.random((32, 784)),
    "32x784 float64, normal": 100 * RNG.standard_normal((32, 784)),
    "224x224x3 uint8": RNG.integers(0, 256, (224, 224, 3)).astype("uint8"),
    "128x39 int64": RNG.integers(-(10**6), 10**9, (128, 39)),
    "100x100 bool": RNG.random((100, 100)) > 0.5,
}


def strings(items: list[dict[str, str]]) -> Array:
    array = np.empty(len(items), object)
    array[:] = [base64.b64decode(item["b64"]) for item in items]
    return array


def through(loads: Callable[[bytes], Any]) -> Callable[[Body], Array]:
    """A JSON library that makes Python lists, then numpy."""

    def decode(body: Body) -> Array:
        value = loads(body.text)
        # Asked by the kind, since comparing dtypes would cost the others a tenth of the smallest body.
        return strings(value) if body.array.dtype.kind == "O" else np.array(value, body.array.dtype)

    return decode


def the_compiled() -> Callable[[Body], Array]:
    if not codec.ACCELERATED:
        pytest.skip("stfs._fastjson is not built here, or STFS_PURE_PYTHON is set")
    return lambda body: codec.Reader(body.text).tensor(body.array.dtype)


def the_readable() -> Callable[[Body], Array]:
    return lambda body: read.Reader(body.text).tensor(body.array.dtype)


def the_library(name: str, load: str) -> Callable[[], Callable[[Body], Array]]:
    def make() -> Callable[[Body], Array]:
        module = pytest.importorskip(name, reason=f"{name} is not installed")
        return through(module.json.decode if load == "decode" else getattr(module, load))

    return make


def pysimdjson() -> Callable[[Body], Array]:
    simdjson = pytest.importorskip("simdjson", reason="pysimdjson is not installed")
    codes = {"f": "d", "i": "i", "u": "u"}

    def decode(body: Body) -> Array:
        # The buffer is flat and of 64 bits, so the shape is taken as known and the dtype is converted.
        document = simdjson.Parser().parse(body.text)
        code = codes[body.array.dtype.kind]
        flat = np.frombuffer(document.as_buffer(of_type=code), {"d": "f8", "i": "i8", "u": "u8"}[code])
        return flat.reshape(body.array.shape).astype(body.array.dtype)

    return decode


DECODERS = {
    "stfs": the_compiled,
    "stfs readable twin": the_readable,
    "json": the_library("json", "loads"),
    "orjson": the_library("orjson", "loads"),
    "msgspec": the_library("msgspec", "decode"),
    "pysimdjson as_buffer": pysimdjson,
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("body", BODIES)
def test_decode(benchmark: Any, body: str, decoder: str) -> None:
    benchmark.group = f"decode {body}, {len(BODIES[body].text)} bytes"
    if decoder.startswith("pysimdjson") and BODIES[body].array.dtype == object:
        pytest.skip("as_buffer is for numbers")
    result = benchmark(DECODERS[decoder](), BODIES[body])
    assert result.dtype == BODIES[body].array.dtype
    np.testing.assert_array_equal(result, BODIES[body].array)


def rows_by_reader(text: bytes) -> dict[str, Array]:
    columns = {"a": codec.Column(np.dtype("float32")), "n": codec.Column(np.dtype("int64"))}
    reader = codec.Reader(text)
    reader.enter_array()
    while reader.next_item():
        reader.enter_object()
        while (key := reader.next_key()) is not None:
            reader.append(columns[key])
    reader.end()
    return {name: column.array() for name, column in columns.items()}


def rows_by_orjson(text: bytes) -> dict[str, Array]:
    rows = pytest.importorskip("orjson", reason="orjson is not installed").loads(text)
    return {
        "a": np.array([row["a"] for row in rows], np.float32),
        "n": np.array([row["n"] for row in rows], np.int64),
    }


@pytest.mark.parametrize("decode", [rows_by_reader, rows_by_orjson])
def test_decode_rows(benchmark: Any, decode: Callable[[bytes], dict[str, Array]]) -> None:
    benchmark.group = f"decode {ROWS} row objects"
    result = benchmark(decode, ROW_BODY)
    np.testing.assert_array_equal(result["n"], np.arange(ROWS))
    np.testing.assert_array_equal(result["a"][:, 0], (np.arange(ROWS) / 7).astype("float32"))


def encode_compiled() -> Callable[[Array], bytes]:
    if not codec.ACCELERATED:
        pytest.skip("stfs._fastjson is not built here, or STFS_PURE_PYTHON is set")
    return codec.encode


def encode_compiled_tfs() -> Callable[[Array], bytes]:
    encode = encode_compiled()
    return lambda array: encode(array, style="tfs")  # type: ignore[call-arg]


def encode_orjson() -> Callable[[Array], bytes]:
    orjson = pytest.importorskip("orjson", reason="orjson is not installed")
    return lambda array: orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_msgspec() -> Callable[[Array], bytes]:
    encode = pytest.importorskip("msgspec", reason="msgspec is not installed").json.encode
    return lambda array: encode(array.tolist())


ENCODERS = {
    "stfs": encode_compiled,
    "stfs, tfs style": encode_compiled_tfs,
    "stfs readable twin": lambda: write.encode,
    "orjson": encode_orjson,
    "msgspec": encode_msgspec,
    "json": lambda: lambda array: json.dumps(array.tolist()).encode(),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_encode(benchmark: Any, output: str, encoder: str) -> None:
    array = OUTPUTS[output]
    benchmark.group = f"encode {output}"
    text = benchmark(ENCODERS[encoder](), array)
    np.testing.assert_array_equal(np.array(json.loads(text), array.dtype), array)


def test_it_is_the_compiled_twin_that_is_measured() -> None:
    assert codec.ACCELERATED or os.environ.get("STFS_PURE_PYTHON") == "1"
