"""The express lane: that it is taken, that its answers are the general hot path's, and what may go wrong in it."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from odd_estimators import write_odd
from onnx import TensorProto, helper, numpy_helper
from simple_models import save, write_linear, write_many
from waiting import until
from web.rawhttp import get, request
from web.test_hot_connections import Transport

from stfs import config
from stfs.batcher.batcher import Batcher
from stfs.model import Model
from stfs.server import Server
from stfs.web.hot import HotHandler

pytest.importorskip("stfs.web._headscan", reason="the hot path is not compiled")
express = pytest.importorskip("stfs.web._express", reason="the express lane is not compiled")

PREDICT = "/v1/models/linear:predict"
INFER = "/v2/models/linear/infer"

KINDS = {
    "float32": (TensorProto.FLOAT, [1.5, -0.1, 3e38, 16777217.0]),
    "float64": (TensorProto.DOUBLE, [0.1, -1e300, 12345678.9, 5e-324]),
    "int64": (TensorProto.INT64, [1, -(2**63), 2**63 - 1, 0]),
    "int32": (TensorProto.INT32, [1, -(2**31), 2**31 - 1, 0]),
    "uint8": (TensorProto.UINT8, [1, 0, 255, 7]),
    "bool": (TensorProto.BOOL, [True, False, False, True]),
}


def write_identity(folder, kind: int, row: tuple[int, ...] = (2, 2), names: tuple[str, ...] = ("y",)) -> None:
    """Each output is the input ``x`` [n, ...row] of that kind."""
    shape = ["n", *row]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], [name]) for name in names],
        "identity",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
    )
    save(graph, folder)


class Served:
    """A real server in this process; connections to it are on no socket."""

    def __init__(self, server: Server) -> None:
        self.server = server
        assert server._runner is not None
        assert server._runner.server is not None
        self._make = server._runner.server
        self._held: list[tuple[object, list[Callable[[], None]]]] = []

    def connect(self) -> Transport:
        return Transport(self._make())

    def general(self) -> Transport:
        """A connection that knows no express lane."""
        made = self._make
        return Transport(HotHandler(made.hot, made, loop=made._loop, **made._kwargs))

    @property
    def taken(self) -> int:
        return self._make.express.taken

    def model(self, name: str) -> Model:
        with self.server.registry.acquire(name) as handle:
            return handle.model

    def batcher(self, name: str) -> Batcher:
        (batcher,) = self.model(name)._batchers.values()
        return batcher

    def hold(self, model: str) -> list[Callable[[], None]]:
        """From now on runs of that model wait in this list, to be called by the test."""
        held: list[Callable[[], None]] = []
        batcher = self.batcher(model)
        self._held.append((batcher, held))
        batcher.dispatcher.start = held.append
        return held

    def let_go(self) -> None:
        """Nothing is held any more, so that a test that fails comes to its end."""
        for batcher, held in self._held:
            batcher.dispatcher.start = None
            (place,) = batcher.places
            while held:
                place.thread(held.pop(0))

    def total(self, outcome: str) -> int:
        requests = self.server.metrics.snapshot().requests
        return sum(count for (_, _, _, told), count in requests.items() if told == outcome)


@asynccontextmanager
async def served(folder, *flags):
    entries = [{"name": path.name, "base_path": str(path)} for path in sorted(folder.iterdir()) if path.is_dir()]
    file = folder / "models.json"
    file.write_text(json.dumps({"model_config_list": entries}))
    argv = [f"--model_config_file={file}", "--port=0", "--host=127.0.0.1", "--model_poll_interval_s=0", *flags]
    server = Server(config.from_environment(argv, prog="test", positional=False, defaults={}))
    await server.start()
    here = Served(server)
    try:
        yield here
    finally:
        here.let_go()
        await server.stop_listening()
        await server.free()


def plain(text: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*", b"", text)


async def answer(transport: Transport, message: bytes, count: int = 1) -> bytes:
    before = len(transport.written)
    transport.handler.data_received(message)
    await transport.bodies(transport.written[:before].count(b"HTTP/1.1 ") + count)
    return plain(bytes(transport.written[before:]))


def stfs(data: str, model: str = "linear", **more) -> bytes:
    head = "".join(f'"{key}": {json.dumps(value)}, ' for key, value in {"model_name": model, **more}.items())
    return request("/", '{%s"data": %s}' % (head, data))  # noqa: UP031


def oip(
    data: str = "[1, 2, 3]", shape: str = "[1, 3]", name: str = "x", datatype: str = "FP32", more: str = ""
) -> bytes:
    entry = f'{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":{data}}}'
    return request(INFER, f'{{"inputs":[{entry}]{more}}}')


TAKEN = {
    "rows": request(PREDICT, '{"instances": [[1.0, 2.5, -3.0]]}'),
    "several rows": request(PREDICT, '{"instances":[[1,2,3],[4,5,6],[7e-3,0.1,1e10]]}'),
    "white space": request(PREDICT, ' \t\n{ "instances" : [ [ 1 , 2\r\n, 3 ] ] }\n '),
    "numbers that are none": request(PREDICT, '{"instances": [[NaN, Infinity, -Infinity]]}'),
    "a version": request("/v1/models/linear/versions/1:predict", '{"instances": [[1, 2, 3]]}'),
    "another spelling": request("/V1/models/line%61r:Predict", '{"instances": [[1, 2, 3]]}'),
    "columns": request(PREDICT, '{"inputs": [[1, 2, 3], [4, 5, 6]]}'),
    "any content type": request(PREDICT, '{"instances": [[1, 2, 3]]}', content_type="Content-Type: text/plain"),
    "compression of what is small": request(PREDICT, '{"instances": [[1, 2, 3]]}', "Accept-Encoding: gzip"),
    "STFS": stfs('{"x": [[1, 2, 3]]}'),
    "STFS with a version": stfs('{"x": [[1, 2, 3]]}', model_version=1),
    "STFS without a name": stfs("[[1, 2, 3], [4, 5, 6]]"),
    "OIP": oip(),
    "OIP, nested": oip("[[1, 2, 3], [4, 5, 6]]", "[2, 3]"),
    "OIP of a version": oip().replace(b"/linear/infer", b"/linear/versions/1/infer"),
}

LEFT = {
    "another key": request(PREDICT, '{"instances": [[1, 2, 3]], "id": 1}'),
    "a signature": request(PREDICT, '{"signature_name": "serving_default", "instances": [[1, 2, 3]]}'),
    "a key twice": request(PREDICT, '{"instances": [[1, 2, 3]], "instances": [[1, 2, 3]]}'),
    "an escape in a key": request(PREDICT, '{"inst\\u0061nces": [[1, 2, 3]]}'),
    "a mark at the beginning": request(PREDICT, '\ufeff{"instances": [[1, 2, 3]]}'),
    "something behind": request(PREDICT, '{"instances": [[1, 2, 3]]} x'),
    "a zero behind": request(PREDICT, '{"instances": [[1, 2, 3]]}\0'),
    "objects": request(PREDICT, '{"instances": [{"x": [1, 2, 3]}]}'),
    "columns by name": request(PREDICT, '{"inputs": {"x": [[1, 2, 3]]}}'),
    "a row too short": request(PREDICT, '{"instances": [[1, 2]]}'),
    "a row too long": request(PREDICT, '{"instances": [[1, 2, 3, 4]]}'),
    "ragged rows": request(PREDICT, '{"instances": [[1, 2, 3], [1, 2]]}'),
    "too deep": request(PREDICT, '{"instances": [[[1, 2, 3]]]}'),
    "too flat": request(PREDICT, '{"instances": [1, 2, 3]}'),
    "no rows": request(PREDICT, '{"instances": []}'),
    "no list": request(PREDICT, '{"instances": 1}'),
    "a string": request(PREDICT, '{"instances": [["1", 2, 3]]}'),
    "null": request(PREDICT, '{"instances": [[null, 2, 3]]}'),
    "true": request(PREDICT, '{"instances": [[true, 2, 3]]}'),
    "out of range": request(PREDICT, '{"instances": [[1e39, 2, 3]]}'),
    "a leading zero": request(PREDICT, '{"instances": [[01, 2, 3]]}'),
    "a comma too many": request(PREDICT, '{"instances": [[1, 2, 3,]]}'),
    "cut short": request(PREDICT, '{"instances": [[1, 2, 3]'),
    "no body": request(PREDICT, ""),
    "a model that is not here": request("/v1/models/nope:predict", '{"instances": [[1, 2, 3]]}'),
    "a version that is not here": request("/v1/models/linear/versions/7:predict", '{"instances": [[1, 2, 3]]}'),
    "another verb": request("/v1/models/linear:classify", '{"examples": [{"x": 1}]}'),
    "a request id": request(PREDICT, '{"instances": [[1, 2, 3]]}', "X-Request-Id: 7"),
    "a trace": request(PREDICT, '{"instances": [[1, 2, 3]]}', "traceparent: 00-1-1-00"),
    "a timeout": request(PREDICT, '{"instances": [[1, 2, 3]]}', "X-Request-Timeout-Ms: 60000"),
    "more rows than a batch": request(PREDICT, json.dumps({"instances": [[1, 2, 3]] * 200})),
    "a model of many inputs": request("/v1/models/many:predict", '{"instances": [[1, 2, 3]]}'),
    "STFS, unknown model": stfs('{"x": [[1, 2, 3]]}', "nope"),
    "STFS, unknown input": stfs('{"z": [[1, 2, 3]]}'),
    "STFS, two inputs": stfs('{"x": [[1, 2, 3]], "x": [[1, 2, 3]]}'),
    "STFS, not UTF-8": request("/", b'{"model_name": "line\xff", "data": [[1, 2, 3]]}'),
    "STFS, an escape in the name": request("/", '{"model_name": "line\\u0061r", "data": [[1, 2, 3]]}'),
    "STFS, version in words": stfs('{"x": [[1, 2, 3]]}', model_version="one"),
    "STFS, version of long ago": stfs('{"x": [[1, 2, 3]]}', model_version=2**62),
    "STFS, other order": request("/", '{"data": {"x": [[1, 2, 3]]}, "model_name": "linear"}'),
    "STFS, other type": request("/", '{"data": [[1, 2, 3]]}', content_type="Content-Type: text/plain"),
    "STFS, a type with a parameter": request(
        "/", '{"model_name": "linear", "data": [[1, 2, 3]]}', content_type="Content-Type: application/json; charset=x"
    ),
    "OIP with an id": oip(more=',"id":"1"'),
    "OIP with outputs": oip(more=',"outputs":[{"name":"y"}]'),
    "OIP, wrong shape": oip("[1, 2, 3]", "[3, 1]"),
    "OIP, shape and data differ": oip("[1, 2, 3, 4]", "[1, 3]"),
    "OIP, no rows": oip("[]", "[0, 3]"),
    "OIP, a shape that is no number": oip("[1, 2, 3]", "[1.0, 3]"),
    "OIP, wrong datatype": oip(datatype="FP64"),
    "OIP, wrong name": oip(name="z"),
    "OIP, a length": request(INFER, "x" * 12, "Inference-Header-Content-Length: 0"),
}


@pytest.fixture
def linear(tmp_path):
    write_linear(tmp_path / "linear" / "1")
    return tmp_path


@pytest.mark.slow
def test_plain_requests_are_taken_and_answered_as_on_the_general_path(linear):
    async def main() -> None:
        async with served(linear) as here:
            fast, general = here.connect(), here.general()
            for name, message in TAKEN.items():
                before = here.taken
                got = await answer(fast, message)
                assert here.taken == before + 1, name
                assert got == await answer(general, message), name
                assert here.taken == before + 1
            assert here.total("ok") == 2 * len(TAKEN)

    asyncio.run(main())


@pytest.mark.slow
def test_all_else_is_left_and_answered_as_on_the_general_path(linear):
    async def main() -> None:
        write_many(linear / "many" / "1")
        async with served(linear) as here:
            for name, message in LEFT.items():
                fast, general = here.connect(), here.general()
                assert await answer(fast, message) == await answer(general, message), name
                assert here.taken == 0, name

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model_name", "signature_name", "model_version"])
def test_what_one_request_says_behind_its_data_is_not_taken_for_what_the_next_one_means(linear, key):
    async def main() -> None:
        write_linear(linear / "other" / "1", scale=7.0)
        value = {"model_name": "other", "signature_name": "nope", "model_version": 7}[key]
        named = {} if key == "model_name" else {"model_name": "linear"}
        for data in ([[1, 2, 3]], {"x": [[1, 2, 3]]}):
            odd = request("/", json.dumps({**named, "data": data, key: value}))
            next_one = request("/", json.dumps({**named, "data": data}))
            async with served(linear) as here:
                fast, general = here.connect(), here.general()
                for message in (odd, next_one, odd, next_one):
                    assert await answer(fast, message) == await answer(general, message)

    asyncio.run(main())


def test_a_request_in_pieces_and_several_in_one_are_taken_too(linear):
    async def main() -> None:
        async with served(linear) as here:
            transport = here.connect()
            message = stfs("[[1, 2, 3]]")
            body_at = message.index(b"\r\n\r\n") + 4
            transport.handler.data_received(message[:body_at])
            transport.handler.data_received(message[body_at:])
            await transport.bodies(1)
            assert here.taken == 1
            transport.handler.data_received(message + message + get("/health") + message)
            bodies = await transport.bodies(5)
            assert here.taken == 3, "what stands behind a stock request that is not done goes its way"
            assert bodies == [b'{"y":[[2.0,4.0,6.0]]}'] * 3 + [b"healthy"] + bodies[:1]

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_dtypes_there_and_back(tmp_path, kind):
    """Identity models, whose answers say to the byte what came in."""
    number, values = KINDS[kind]
    write_identity(tmp_path / "same" / "1", number)
    text = json.dumps([[values[:2], values[2:]], [values[2:], values[:2]]])
    flat = json.dumps(values)
    name = {"float32": "FP32", "float64": "FP64"}.get(kind, kind.upper())
    entry = f'{{"name":"x","datatype":"{name}","shape":[1,2,2],"data":{flat}}}'
    messages = [
        request("/v1/models/same:predict", f'{{"instances": {text}}}'),
        stfs(f'{{"x": {text}}}', "same"),
        request("/v2/models/same/infer", f'{{"inputs":[{entry}]}}'),
    ]

    async def main() -> None:
        async with served(tmp_path) as here:
            fast, general = here.connect(), here.general()
            for message in messages:
                got = await answer(fast, message)
                assert got.startswith(b"HTTP/1.1 200 OK"), got
                assert got == await answer(general, message)
            assert here.taken == len(messages)
            wrong = {"bool": "1", "float32": "1e39", "float64": "1e309"}.get(kind, "0.5")
            bad = request("/v1/models/same:predict", f'{{"instances": [[[{wrong},{wrong}],[{wrong},{wrong}]]]}}')
            assert (await answer(fast, bad)) == await answer(general, bad)
            assert here.taken == len(messages)

    asyncio.run(main())


def test_several_outputs(tmp_path):
    write_identity(tmp_path / "same" / "1", TensorProto.FLOAT, (2,), ("a", 'b "quoted"'))
    messages = [
        request("/v1/models/same:predict", '{"instances": [[1, 2], [3, 4]]}'),
        request("/v1/models/same:predict", '{"inputs": [[1, 2], [3, 4]]}'),
        stfs('{"x": [[1, 2], [3, 4]]}', "same"),
        request("/v2/models/same/infer", '{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}]}'),
    ]

    async def main() -> None:
        async with served(tmp_path) as here:
            fast, general = here.connect(), here.general()
            for message in messages:
                got = await answer(fast, message)
                assert got.startswith(b"HTTP/1.1 200 OK"), got
                assert got == await answer(general, message)
            assert here.taken == len(messages)

    asyncio.run(main())


@pytest.mark.parametrize("flag", ["--request_timeout_s=60", "--access_log=json", "--latency_slo_ms=60000"])
def test_what_asks_for_more_of_each_request_switches_it_off(linear, flag):
    async def main() -> None:
        async with served(linear, flag) as here:
            transport = here.connect()
            assert b"200 OK" in await answer(transport, TAKEN["rows"])
            assert getattr(here._make.express, "taken", 0) == 0

    asyncio.run(main())


def test_an_answer_that_is_worth_it_is_compressed(linear):
    body = json.dumps({"instances": [[1, 2, 3]] * 50})
    asked, not_asked = request(PREDICT, body, "Accept-Encoding: gzip"), request(PREDICT, body)

    async def main() -> None:
        async with served(linear, "--compress_over=512", "--enable_cors=true") as here:
            fast, general = here.connect(), here.general()
            for message in (asked, not_asked, TAKEN["rows"], asked):
                assert await answer(fast, message) == await answer(general, message)
            assert b"Content-Encoding: gzip" in bytes(fast.written)
            assert here.taken == 4
            assert here.total("ok") == 8

    asyncio.run(main())


def test_an_answer_of_large_rows_is_left_to_the_general_path(tmp_path):
    """Two numbers in, ten thousand out."""
    wide = np.full((1, 10_000), 0.5, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["top"], axes=[1], keepdims=1),
            helper.make_node("Add", ["top", "wide"], ["y"]),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10_000])],
        [numpy_helper.from_array(wide, "wide")],
    )
    save(graph, tmp_path / "wide" / "1")
    message = request("/v1/models/wide:predict", '{"instances": [[1, 2], [3, 4]]}')

    async def main() -> None:
        async with served(tmp_path) as here:
            got = await answer(here.connect(), message)
            assert here.taken == 1
            assert got == await answer(here.general(), message)
            rows = json.loads(got.partition(b"\r\n\r\n")[2])["predictions"]
            assert rows == [[2.5] * 10_000, [4.5] * 10_000]

    asyncio.run(main())


# --- in company ------------------------------------------------------------------------------------------------------


def row(value: float, rows: int = 1) -> bytes:
    return request("/", json.dumps({"model_name": "linear", "data": [[value, 0, 0]] * rows}))


def predict(value: float, rows: int = 1) -> bytes:
    return request(PREDICT, json.dumps({"instances": [[value, 0, 0]] * rows}))


def values(body: bytes) -> list[float]:
    (rows,) = json.loads(body).values()
    return [row[0] for row in rows]


async def turn(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_requests_of_many_connections_and_dialects_share_a_run(linear):
    async def main() -> None:
        async with served(linear) as here:
            held = here.hold("linear")
            lines = [here.connect() for _ in range(40)]
            for i, line in enumerate(lines):
                line.handler.data_received((row, predict)[i % 2](i, i % 3 + 1))
            await turn()
            assert len(held) == 1
            held.pop()()
            for i, line in enumerate(lines):
                (body,) = await line.bodies(1)
                assert values(body) == [2.0 * i] * (i % 3 + 1)
            assert here.taken == 40
            (sizes,) = here.server.metrics.snapshot().batch_rows.values()
            assert sizes.count == 1
            assert sizes.total == sum(i % 3 + 1 for i in range(40))
            snapshot = here.server.metrics.snapshot()
            assert snapshot.requests == {("linear", "1", "stfs", "ok"): 20, ("linear", "1", "tfserving", "ok"): 20}
            assert snapshot.request_seconds["linear", "1"].count == 40
            told = here.server.metrics.statistics("linear", "1")
            assert (told.success.count, told.decode.count, told.encode.count) == (40, 40, 40)
            assert 0 < told.decode.seconds < told.success.seconds

    asyncio.run(main())


def test_groups_ordinary_requests_and_large_ones_keep_their_order_and_their_rows(linear):
    async def main() -> None:
        async with served(linear, "--max_batch_size=8") as here:
            held = here.hold("linear")
            rng = random.Random(5)
            lines, expected = [], []
            for i in range(60):
                rows = rng.choice((1, 1, 1, 2, 3, 8, 9, 20))
                line = here.connect() if rng.random() < 0.6 else here.general()
                line.handler.data_received(rng.choice((row, predict))(i + 1, rows))
                lines.append(line)
                expected.append([2.0 * (i + 1)] * rows)
            for _ in range(1000):
                await turn()
                if held:
                    held.pop(0)()
                elif all(line.written for line in lines):
                    break
            for line, rows in zip(lines, expected, strict=True):
                (body,) = await line.bodies(1)
                assert values(body) == rows
            assert 0 < here.taken < 60
            (sizes,) = here.server.metrics.snapshot().batch_rows.values()
            assert sizes.total == sum(map(len, expected))
            assert here.server.metrics.snapshot().failed_batches == {("linear", "1"): 0}
            model = here.model("linear")
            assert model.queued_rows() == model.in_flight_rows() == 0

    asyncio.run(main())


@pytest.mark.slow
def test_a_cursed_row_fails_alone(tmp_path):
    write_odd(tmp_path / "odd" / "1")

    def ask(value: float) -> bytes:
        return request("/v1/models/odd:predict", json.dumps({"instances": [[value]]}))

    async def main() -> None:
        async with served(tmp_path) as here:
            held = here.hold("odd")
            lines = [here.connect() for _ in range(10)] + [here.general() for _ in range(3)]
            general = here.general()
            for i, line in enumerate(lines):
                line.handler.data_received(ask(-1 if i in (3, 11) else i + 1))
            await turn()
            held.pop(0)()
            for i, line in enumerate(lines):
                (body,) = await line.bodies(1)
                if i not in (3, 11):
                    assert json.loads(body) == {"predictions": [2.0 * (i + 1)]}
            general.handler.data_received(ask(-1))
            await turn()
            held.pop(0)()
            (body,) = await general.bodies(1)
            told = plain(bytes(general.written))
            assert b"500 Internal" in told
            assert plain(bytes(lines[3].written)) == plain(bytes(lines[11].written)) == told
            assert here.taken == 10
            assert here.total("ok") == 11
            assert here.total("model_failed") == 3

    asyncio.run(main())


@pytest.mark.slow
def test_all_cursed_wrong_rows_and_an_exit(tmp_path):
    write_odd(tmp_path / "odd" / "1")

    async def main() -> None:
        async with served(tmp_path) as here:
            for value in (-1, -2, -3):
                message = request("/v1/models/odd:predict", json.dumps({"instances": [[value]]}))
                lines = [here.connect(), here.connect(), here.general()]
                for line in lines:
                    line.handler.data_received(message)
                texts = []
                for line in lines:
                    await line.bodies(1)
                    texts.append(plain(bytes(line.written)))
                assert texts[0] == texts[1] == texts[2]
                assert b"500 Internal" in texts[0]
            assert here.taken == 6

    asyncio.run(main())


def test_clients_that_go_away_are_dropped_and_the_others_get_their_own(linear):
    async def main() -> None:
        async with served(linear) as here:
            held = here.hold("linear")
            lines = [here.connect() for _ in range(12)]
            for i, line in enumerate(lines[:6]):
                line.handler.data_received(row(i, 1 + i % 2))
            await turn()
            for i, line in enumerate(lines[6:], 6):
                line.handler.data_received(row(i, 1 + i % 2))
            model = here.model("linear")
            assert (model.in_flight_rows(), model.queued_rows()) == (9, 9)
            for i in (0, 3, 6, 8, 11):
                lines[i].handler.connection_lost(None)
            assert (model.in_flight_rows(), model.queued_rows()) == (9, 5), "what is queued is not worked out"
            held.pop(0)()
            await turn()
            held.pop(0)()
            for i, line in enumerate(lines):
                if i in (0, 3, 6, 8, 11):
                    assert not line.written
                else:
                    (body,) = await line.bodies(1)
                    assert values(body) == [2.0 * i] * (1 + i % 2)
            assert here.total("cancelled") == 5
            assert here.total("ok") == 7
            lines[1].handler.data_received(row(4))
            await turn()
            lines[1].handler.connection_lost(None)
            lines[2].handler.data_received(row(5))
            lines[2].handler.connection_lost(None)
            held.pop(0)()
            await turn()
            assert not held, "nobody is left to run for"
            assert model.queued_rows() == model.in_flight_rows() == 0
            assert here.server.registry._latest["linear"].held == 0

    asyncio.run(main())


def test_a_full_queue_is_told_in_the_same_words(linear):
    async def main() -> None:
        async with served(linear, "--max_batch_size=2", "--max_enqueued=4") as here:
            held = here.hold("linear")
            lines = [here.connect() for _ in range(8)]
            for i, line in enumerate(lines[:2]):
                line.handler.data_received(row(i))
            await turn()
            for i, line in enumerate(lines[2:6], 2):
                line.handler.data_received(row(i))
            before = here.taken
            assert before == 6
            lines[6].handler.data_received(row(6))
            general = here.general()
            general.handler.data_received(row(6))
            assert here.taken == before
            assert b"503 Service Unavailable" in plain(bytes(lines[6].written))
            assert plain(bytes(lines[6].written)) == plain(bytes(general.written))
            while held:
                held.pop(0)()
                await turn()
            for i, line in enumerate(lines[:6]):
                (body,) = await line.bodies(1)
                assert values(body) == [2.0 * i]
            lines[7].handler.data_received(row(7))
            await turn()
            held.pop(0)()
            assert values((await lines[7].bodies(1))[0]) == [14.0]

    asyncio.run(main())


# --- versions --------------------------------------------------------------------------------------------------------


def test_a_swap_reroutes_the_next_request_and_leaves_a_group_its_version(linear):
    async def main() -> None:
        async with served(linear, "--model_poll_interval_s=0.02") as here:
            held = here.hold("linear")
            one, two, three = (here.connect() for _ in range(3))
            one.handler.data_received(predict(1))
            await turn()
            two.handler.data_received(predict(2))  # queued behind the first
            write_linear(linear / "linear" / "2", scale=5.0)
            await until(lambda: 2 in here.server.registry.serving().get("linear", ()))
            three.handler.data_received(predict(3))
            (body,) = await three.bodies(1)
            assert values(body) == [15.0]
            assert not one.written
            assert not two.written
            held.pop(0)()
            await turn()
            held.pop(0)()
            assert values((await one.bodies(1))[0]) == [2.0]
            assert values((await two.bodies(1))[0]) == [4.0]
            assert b"X-Served-Model-Version: 1\r\n" in bytes(two.written)
            assert b"X-Served-Model-Version: 2\r\n" in bytes(three.written)
            assert here.taken == 3

    asyncio.run(main())


# --- slots -----------------------------------------------------------------------------------------------------------


class Keeping:
    """An identity whose answers are its inputs themselves, and which keeps what it was given."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def __call__(self, inputs):
        self.seen.append(inputs["x"])
        return {"y": inputs["x"]}


@pytest.mark.slow
def test_rows_that_somebody_still_sees_are_never_written_over(linear):
    async def main() -> None:
        async with served(linear) as here:
            batcher = here.batcher("linear")
            keeping = Keeping()
            (place,) = batcher.places
            place.runner._run = keeping
            lines = [here.connect() for _ in range(5)]
            for number in range(60):
                for i, line in enumerate(lines):
                    line.handler.data_received(row(number * 10 + i, 2))
                for i, line in enumerate(lines):
                    assert values((await line.bodies(number + 1))[-1]) == [number * 10.0 + i] * 2
            told = [value for array in keeping.seen for value in array[:, 0].tolist()]
            assert told == [float(number * 10 + i) for number in range(60) for i in range(5) for _ in range(2)]
            bases = {id(array.base) for array in keeping.seen}
            assert len(bases) == len(keeping.seen)
            keeping.seen.clear()
            for number in range(20):
                await answer(lines[0], row(number))
            assert len({id(array.base) for array in keeping.seen[-1:]}) == 1
            lane = lines[0].handler._express and batcher.lane("x", np.dtype(np.float32), (3,))
            assert lane.kept <= 4

    asyncio.run(main())


def test_a_slot_is_used_again(linear):
    async def main() -> None:
        async with served(linear) as here:
            (place,) = here.batcher("linear").places
            run = place.runner._run
            bases = set()

            def noting(inputs):
                bases.add(inputs["x"].base.ctypes.data)
                return run(inputs)

            place.runner._run = noting
            line = here.connect()
            for number in range(50):
                assert b"200 OK" in await answer(line, row(number))
            assert here.taken == 50
            assert len(bases) <= 3

    asyncio.run(main())
