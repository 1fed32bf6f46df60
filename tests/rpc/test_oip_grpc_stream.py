"""``ModelStreamInfer``: Triton's own client, and calls made by hand, against a real server."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from odd_estimators import write_odd
from running import Running, running
from simple_models import write_linear
from tritonclient.grpc import service_pb2 as service
from tritonclient.grpc import service_pb2_grpc
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

X = np.array([[1, 2.5, -3]], np.float32)
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    write_linear(folder / "linear" / "1")
    write_odd(folder / "slow" / "1", sleep_s=0.3)
    write_odd(folder / "sleepy" / "1", sleep_s=5.0)
    entries = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "slow", "sleepy")]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}", "--grpc_port=0", "--max_request_bytes=1M") as server:
        yield server


def tensor(array: np.ndarray, name: str = "x", datatype: str = "FP32") -> triton.InferInput:
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def slow_input(value: float = 1.0) -> list[triton.InferInput]:
    return [tensor(np.full((1, 1), value), "data", "FP64")]


def request(model: str = "linear", request_id: str = "", array: np.ndarray = X) -> service.ModelInferRequest:
    asked = service.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[array.tobytes()])
    name, datatype = ("x", "FP32") if model == "linear" else ("data", "FP64")
    asked.inputs.add(name=name, datatype=datatype, shape=array.shape)
    return asked


class Requests:
    """A stream's requests, sent as they are put, until ``None``."""

    def __init__(self, *first: service.ModelInferRequest) -> None:
        self.queue: queue.Queue[service.ModelInferRequest | None] = queue.Queue()
        for one in first:
            self.queue.put(one)

    def __iter__(self) -> Iterator[service.ModelInferRequest]:
        return iter(self.queue.get, None)


def test_answers_come_in_the_order_of_the_requests(server):
    """Though the first of them takes the longest by far, and they are all sent before it is answered."""
    told: list[triton.InferResult] = []
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.append(error or result))
        client.async_stream_infer("slow", slow_input(), request_id="slow")
        for place in range(300):
            client.async_stream_infer("linear", [tensor(X + place)], request_id=str(place))
        client.stop_stream()
    assert [one.get_response().id for one in told] == ["slow", *map(str, range(300))]
    assert told[0].as_numpy("predict").tolist() == [2.0]
    for place, result in enumerate(told[1:]):
        assert np.array_equal(result.as_numpy("y"), (X + place) * 2)
        assert result.get_response().parameters["triton_final_response"].bool_param


def test_requests_of_one_stream_share_batches(server):
    """While the model works on the first, those behind it gather."""
    before = server.metric("stfs_batch_rows_count", model="slow")
    told: list[triton.InferResult] = []
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.append(error or result))
        for place in range(1, 41):
            client.async_stream_infer("slow", slow_input(float(place)))
        client.stop_stream()
    assert [one.as_numpy("predict").item() for one in told] == [2.0 * place for place in range(1, 41)]
    assert server.metric("stfs_batch_rows_count", model="slow") - before <= 10


def test_a_request_that_fails_does_not_end_the_stream(server):
    told: list[object] = []
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: told.append(error or result))
        client.async_stream_infer("linear", [tensor(X)])
        client.async_stream_infer("nobody", [tensor(X)])
        client.async_stream_infer("linear", [tensor(X[:, :2])])
        client.async_stream_infer("slow", slow_input(-1.0))
        client.async_stream_infer("slow", slow_input(), timeout=1000)
        client.async_stream_infer("linear", [tensor(X)])
        client.stop_stream()
    first, unknown, shape, failed, late, last = told
    assert np.array_equal(first.as_numpy("y"), X * 2)
    assert "Request for unknown model: 'nobody' is not found" in unknown.message()
    assert "does not match" in shape.message()
    assert "the value -1 is cursed" in failed.message()
    assert "deadline" in late.message()
    assert np.array_equal(last.as_numpy("y"), X * 2)


def test_an_error_names_its_request(server):
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        wrong, right = stub.ModelStreamInfer(iter([request("nobody", "a"), request("linear", "b")]), timeout=LIMIT_S)
        assert wrong.error_message
        assert (wrong.infer_response.id, wrong.infer_response.model_name) == ("a", "nobody")
        assert right.infer_response.id == "b"
        assert right.infer_response.raw_output_contents[0] == (X * 2).tobytes()


def test_an_error_ends_the_stream_for_those_who_ask(server):
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = Requests(request(request_id="a"), request("nobody", "b"), request(request_id="c"))
        answers = stub.ModelStreamInfer(iter(asked), timeout=LIMIT_S, metadata=[("triton_grpc_error", "true")])
        assert next(answers).infer_response.id == "a"
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        asked.queue.put(None)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert caught.value.details().startswith("Request for unknown model: 'nobody' is not found")


def test_a_message_that_is_none_is_told_and_the_stream_goes_on(server):
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        wrong, right = call(iter([b"{}", request().SerializeToString()]), timeout=LIMIT_S)
        assert "no valid protobuf" in service.ModelStreamInferResponse.FromString(wrong).error_message
        assert not service.ModelStreamInferResponse.FromString(right).error_message


def test_a_message_over_the_limit_ends_the_stream(server):
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        large = request(array=np.zeros((1 << 17, 3), np.float32))
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ModelStreamInfer(iter([large]), timeout=LIMIT_S))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(list(stub.ModelStreamInfer(iter([request()]), timeout=LIMIT_S))) == 1


def test_a_stream_of_nothing_ends_well(server):
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert list(stub.ModelStreamInfer(iter([]), timeout=LIMIT_S)) == []


def test_more_requests_than_are_taken_at_once(server):
    """The server reads no further than it may; a client that reads its answers late loses none."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = (request(request_id=str(place), array=X + place) for place in range(2000))
        answers = stub.ModelStreamInfer(asked, timeout=LIMIT_S * 2)
        for place, answer in enumerate(answers):
            assert answer.infer_response.id == str(place)
            assert answer.infer_response.raw_output_contents[0] == ((X + place) * np.float32(2)).tobytes()
        assert place == 1999


def test_the_asynchronous_client(server):
    async def main():
        async def asked():
            for place in range(20):
                yield {"model_name": "linear", "inputs": [tensor(X + place)], "request_id": str(place)}

        async with triton_aio.InferenceServerClient(server.grpc) as client:
            place = 0
            async for result, error in client.stream_infer(asked()):
                assert error is None
                assert result.get_response().id == str(place)
                assert np.array_equal(result.as_numpy("y"), (X + place) * 2)
                place += 1
            assert place == 20

    asyncio.run(main())


def test_a_cancelled_stream_withdraws_its_requests(server):
    def cancelled():
        return server.metric("stfs_requests_total", dialect="oip_grpc", model="sleepy", outcome="cancelled")

    def rows(where):
        return server.metric(f"stfs_{where}_rows", model="sleepy")

    before = cancelled()
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = Requests(*[request("sleepy", str(place), np.ones((1, 1))) for place in range(3)])
        answers = stub.ModelStreamInfer(iter(asked))
        wait_until(lambda: rows("in_flight") + rows("queued") == 3)
        answers.cancel()
        asked.queue.put(None)
        wait_until(lambda: cancelled() == before + 3)
        wait_until(lambda: rows("queued") == 0)


def test_a_stream_ends_at_its_deadline(server):
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = Requests(request())
        answers = stub.ModelStreamInfer(iter(asked), timeout=1.0)
        assert not next(answers).error_message
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        asked.queue.put(None)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stopping_server_answers_what_it_has_read_and_ends_open_streams(tmp_path):
    """A stream that its client holds open must not hold up the server until its limit."""
    write_odd(tmp_path / "slow" / "1", sleep_s=1.0)
    argv = (f"--model_base_path={tmp_path / 'slow'}", "--model_name=slow", "--grpc_port=0", "--shutdown_timeout_s=600")
    with running(*argv) as server, grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        asked = Requests(request("slow", "a", np.ones((1, 1))))
        answers = stub.ModelStreamInfer(iter(asked))
        told: list[object] = []

        def read():
            try:
                for one in answers:
                    told.append(one.infer_response.id)
            except grpc.RpcError as error:
                told.append(error.code())

        thread = threading.Thread(target=read)
        thread.start()
        wait_until(lambda: server.metric("stfs_in_flight_rows", model="slow") == 1)
        assert server.stop(signal.SIGTERM) == 0
        thread.join(LIMIT_S)
        asked.queue.put(None)
    assert told == ["a", grpc.StatusCode.UNAVAILABLE]
