"""Traces of calls over gRPC, received as OTLP over HTTP from a real server."""

import itertools

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from odd_estimators import Odd, write_odd
from rpc_calls import PREDICT, address, outputs_of, predict_bytes, refused
from running import running
from simple_models import write_linear
from trace_collector import ERROR, SERVER, attributes, collecting
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"
STEPS = ["decode", "queue", "run", "encode"]
X = np.array([[1, 2, 3], [4, 5, 6]], np.float32)


def test_a_call_is_a_span_of_its_callers_trace_with_its_steps_and_its_batch(tmp_path):
    write_linear(tmp_path / "4")
    argv = (str(tmp_path), "--model_name=linear", "--grpc_port=0")
    with collecting() as collector, running(*argv, f"--tracing={collector.url}") as server:
        sent = (("traceparent", PARENT), ("x-request-id", "abc"))
        with grpc.insecure_channel(address(server)) as channel:
            answer, ended = channel.unary_unary(PREDICT).with_call(
                predict_bytes("linear", x=X), timeout=60, metadata=sent
            )
        np.testing.assert_array_equal(outputs_of(answer)["y"], 2 * X)
        told_back = dict(ended.trailing_metadata())
        assert told_back["traceparent"] == PARENT
        assert "server-timing" not in told_back  # nobody asked
        assert server.stop() == 0
    (span,) = [span for span in collector.spans if span.kind == SERVER]
    assert span.name == "tensorflow.serving.PredictionService/Predict"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    wanted = {
        "rpc.system": "grpc",
        "rpc.service": "tensorflow.serving.PredictionService",
        "rpc.method": "Predict",
        "rpc.grpc.request.metadata.x-request-id": "abc",
        "client.address": "127.0.0.1",
        "stfs.model.name": "linear",
        "stfs.model.version": 4,
        "stfs.dialect": "tfserving_grpc",
    }
    told = attributes(span)
    assert wanted.items() <= told.items()
    assert "rpc.grpc.status_code" in told
    steps = [child for child in collector.children(span) if child.name != "batch"]
    assert [step.name for step in steps] == STEPS
    for one, other in itertools.pairwise(steps):
        assert one.end_time_unix_nano <= other.start_time_unix_nano + 1000
    for step in steps:
        assert span.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
        assert step.end_time_unix_nano <= span.end_time_unix_nano
    (batch,) = collector.named("batch")
    assert attributes(batch)["stfs.batch.rows"] == 2
    assert [link.span_id for link in batch.links] == [span.span_id]
    assert [link.span_id for link in collector.named("run")[0].links] == [batch.span_id]


def test_each_request_of_a_stream_is_a_span_and_so_is_a_call_of_tritons_client(tmp_path):
    write_linear(tmp_path / "1")
    argv = (str(tmp_path), "--model_name=linear", "--grpc_port=0")
    with collecting() as collector, running(*argv, f"--tracing={collector.url}") as server:
        answers = []
        with triton.InferenceServerClient(address(server)) as client:
            asked = [triton.InferInput("x", [2, 3], "FP32").set_data_from_numpy(X)]
            client.infer("linear", asked, headers={"traceparent": PARENT})
            assert client.is_model_ready("linear")  # no inference: not traced
            client.start_stream(lambda result, error: answers.append(error or result.as_numpy("y")))
            for _ in range(3):
                client.async_stream_infer("linear", asked)
            wait_until(lambda: len(answers) >= 3, log=server.log)
            client.stop_stream()
        for answer in answers:
            np.testing.assert_array_equal(answer, 2 * X)
        server.stop()
    names = sorted(span.name for span in collector.spans if span.kind == SERVER)
    service = "inference.GRPCInferenceService"
    assert names == [f"{service}/ModelInfer"] + [f"{service}/ModelStreamInfer"] * 3
    assert collector.named(f"{service}/ModelInfer")[0].trace_id.hex() == TRACE
    for span in collector.named(f"{service}/ModelStreamInfer"):
        assert [step.name for step in collector.children(span) if step.name != "batch"] == STEPS


def test_errors_are_told_and_only_those_of_the_server_make_a_span_one(tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    write_odd(tmp_path / "1", hold=str(hold))
    argv = (str(tmp_path), "--model_name=odd", "--grpc_port=0")
    with (
        collecting() as collector,
        running(*argv, f"--tracing={collector.url}") as server,
        grpc.insecure_channel(address(server)) as channel,
    ):
        code, _ = refused(channel, PREDICT, predict_bytes("none", data=np.ones((1, 1))))
        assert code is grpc.StatusCode.NOT_FOUND
        code, _ = refused(channel, PREDICT, predict_bytes("odd", data=np.array([[float(Odd.RAISE)]])))
        assert code is grpc.StatusCode.INTERNAL
        hanging = predict_bytes("odd", data=np.array([[float(Odd.HANG)]]))
        gone = channel.unary_unary(PREDICT).future(hanging, timeout=60)
        wait_until(lambda: server.metric("stfs_in_flight_rows") >= 1, log=server.log)
        gone.cancel()
        wait_until(lambda: server.metric("stfs_requests_total", outcome="cancelled") >= 1, log=server.log)
        hold.unlink()
        server.stop()
    spans = [span for span in collector.spans if span.kind == SERVER]
    told = {attributes(span)["rpc.grpc.status_code"]: span for span in spans}
    not_found, internal, cancelled = 5, 13, 1
    assert sorted(told) == [cancelled, not_found, internal]
    assert told[not_found].status.code != ERROR
    assert told[internal].status.code == ERROR
    assert attributes(told[internal])["error.type"] == "model_failed"
    assert told[cancelled].status.code == ERROR
