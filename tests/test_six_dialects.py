"""The six ways to ask: the same tensor gives the same numbers, and concurrent calls of all six share batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from running import Running, running
from simple_models import write_linear

pytestmark = pytest.mark.slow  # starts a server, imports TensorFlow's messages

ROWS = 6
"""So many rows make a batch, and nothing but a full batch leaves within the time of a test."""

SCALE = np.float32(0.1)

Ask = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("model")
    write_linear(folder / "1", scale=float(SCALE))
    argv = (f"--max_batch_size={ROWS}", "--batch_timeout_ms=600000", "--grpc_port=0")
    with running(f"--model_base_path={folder}", "--model_name=linear", *argv) as server:
        yield server


@pytest.fixture(scope="module")
def asks(server) -> Iterator[Mapping[str, Ask]]:
    """What asks the server for ``y`` of ``x``, by the dialect's label in the metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorFlow's own import
        from tensorflow import make_ndarray, make_tensor_proto
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    def stfs(x: np.ndarray) -> np.ndarray:
        answer = server.post("/", {"model_name": "linear", "data": {"x": x.tolist()}})
        return np.array(answer.json["y"], np.float32)

    def tfserving(x: np.ndarray) -> np.ndarray:
        answer = server.post("/v1/models/linear:predict", {"instances": x.tolist()})
        return np.array(answer.json["predictions"], np.float32)

    def tfserving_grpc(x: np.ndarray) -> np.ndarray:
        asked = predict_pb2.PredictRequest()
        asked.model_spec.name = "linear"
        asked.inputs["x"].CopyFrom(make_tensor_proto(x))
        return make_ndarray(predict.Predict(asked, timeout=300).outputs["y"])

    def oip(x: np.ndarray, *, binary: bool = False) -> np.ndarray:
        tensor = triton_http.InferInput("x", list(x.shape), "FP32").set_data_from_numpy(x, binary_data=binary)
        wanted = [triton_http.InferRequestedOutput("y", binary_data=binary)]
        # A client a call: this one's connections are for the greenlets of one thread.
        with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=300) as client:
            return client.infer("linear", [tensor], outputs=wanted).as_numpy("y")

    def oip_binary(x: np.ndarray) -> np.ndarray:
        return oip(x, binary=True)

    def oip_grpc(x: np.ndarray) -> np.ndarray:
        tensor = triton_grpc.InferInput("x", list(x.shape), "FP32").set_data_from_numpy(x)
        return client.infer("linear", [tensor]).as_numpy("y")

    with grpc.insecure_channel(server.grpc) as channel, triton_grpc.InferenceServerClient(server.grpc) as client:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        made = (stfs, tfserving, tfserving_grpc, oip, oip_binary, oip_grpc)
        yield {ask.__name__: ask for ask in made}


def test_the_same_tensor_gives_the_same_numbers(asks):
    x = np.random.default_rng(5).normal(size=(ROWS, 3)).astype(np.float32)
    x[0] = [1 / 3, np.finfo(np.float32).max, np.finfo(np.float32).smallest_normal * 10]
    x[1] = [-0.0, 16777217.0, 1e-7]
    expected = x * SCALE
    for name, ask in asks.items():
        have = ask(x)
        assert (have.dtype, have.shape) == (expected.dtype, expected.shape), name
        assert have.tobytes() == expected.tobytes(), name


def test_concurrent_calls_of_all_six_share_batches(asks, server):
    """Each sends one row, and no row leaves before there are six: were they kept apart, none would be answered."""
    rounds = 10

    def batches() -> tuple[float, float]:
        return server.metric("stfs_batch_rows_count"), server.metric("stfs_batch_rows_sum")

    def counted(dialect: str) -> float:
        return server.metric("stfs_requests_total", dialect=dialect, outcome="ok")

    dialects = {name: "oip" if name == "oip_binary" else name for name in asks}
    count, rows = batches()
    before = {dialect: counted(dialect) for dialect in dialects.values()}
    with ThreadPoolExecutor(len(asks)) as pool:
        for round_ in range(rounds):
            xs = np.random.default_rng(round_).normal(size=(len(asks), 1, 3)).astype(np.float32)
            calls = {name: pool.submit(ask, x) for (name, ask), x in zip(asks.items(), xs, strict=True)}
            for (name, call), x in zip(calls.items(), xs, strict=True):
                assert np.array_equal(call.result(timeout=300), x * SCALE), name  # its own row, and no other's
    assert batches() == (count + rounds, rows + rounds * ROWS)
    for dialect, times in before.items():
        assert counted(dialect) == times + rounds * list(dialects.values()).count(dialect)
