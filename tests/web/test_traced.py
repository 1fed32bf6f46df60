"""Traces of a real server, received as OTLP over HTTP: what belongs to what, who is traced, what goes wrong."""

import itertools
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from odd_estimators import Odd, write_odd
from running import run_cli, running
from simple_models import write_linear
from trace_collector import ERROR, SERVER, attributes, collecting
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
STEPS = ["decode", "queue", "run", "encode"]


def test_a_request_is_a_span_of_its_callers_trace_with_its_steps_below_it(tmp_path):
    write_linear(tmp_path / "4")
    with (
        collecting() as collector,
        running(str(tmp_path), "--model_name=linear", f"--tracing={collector.url}") as server,
    ):
        before_ns = time.time_ns()
        sent = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-Id": "abc"}
        answer = server.post("/v1/models/linear:predict", {"instances": [[1, 2, 3], [4, 5, 6]]}, sent)
        assert answer.json == {"predictions": [[2, 4, 6], [8, 10, 12]]}
        assert "Server-Timing" not in answer.headers
        assert answer.headers["traceparent"] == sent["traceparent"]
        unnamed = server.post("/v1/models/linear:predict", {"instances": []}, {"traceparent": sent["traceparent"]})
        assert len(unnamed.headers["X-Request-Id"]) == 32
        after_ns = time.time_ns()
        assert server.stop() == 0  # what is left is sent before the end
    assert set(collector.paths) == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "stfs"
    assert collector.resources[0]["service.version"]
    span, other = collector.named("POST /v1/models/linear:predict")
    assert attributes(other)["http.request.header.x-request-id"] == unnamed.headers["X-Request-Id"]
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.kind) == (TRACE, CALLER, SERVER)
    told = attributes(span)
    wanted = {
        "http.request.method": "POST",
        "url.path": "/v1/models/linear:predict",
        "url.scheme": "http",
        "http.response.status_code": 200,
        "network.protocol.version": "1.1",
        "client.address": "127.0.0.1",
        "http.request.header.x-request-id": "abc",
        "stfs.model.name": "linear",
        "stfs.model.version": 4,
        "stfs.dialect": "tfserving",
    }
    assert wanted.items() <= told.items()
    steps = [child for child in collector.children(span) if child.name != "batch"]
    assert [step.name for step in steps] == STEPS
    slack_ns = 20_000_000  # the two clocks were read one after the other
    assert before_ns - slack_ns <= span.start_time_unix_nano < span.end_time_unix_nano <= after_ns + slack_ns
    for step in steps:
        assert span.start_time_unix_nano <= step.start_time_unix_nano <= step.end_time_unix_nano
        assert step.end_time_unix_nano <= span.end_time_unix_nano
    for one, other in itertools.pairwise(steps):
        assert one.end_time_unix_nano <= other.start_time_unix_nano + 1000
    (batch,) = collector.named("batch")
    assert attributes(batch)["stfs.batch.rows"] == 2
    assert attributes(batch)["stfs.batch.reason"] == "idle"


def test_a_batch_is_one_span_that_is_linked_to_its_requests_and_their_runs_to_it(tmp_path):
    write_odd(tmp_path / "1")
    argv = (str(tmp_path), "--model_name=odd", "--batch_timeout_ms=300")
    with (
        collecting() as collector,
        running(*argv, f"--tracing={collector.url}") as server,
        ThreadPoolExecutor(6) as pool,
    ):
        bodies = [{"instances": [[float(n)]]} for n in range(1, 7)]
        answers = pool.map(lambda body: server.post("/v1/models/odd:predict", body), bodies)
        assert [answer.json["predictions"] for answer in answers] == [[2.0 * n] for n in range(1, 7)]
        server.stop()
    requests = {span.span_id: span for span in collector.named("POST /v1/models/odd:predict")}
    batches = {span.span_id: span for span in collector.named("batch")}
    assert len(requests) == 6
    assert len({span.trace_id for span in requests.values()}) == 6  # a trace each, since the client had none
    assert len(batches) < 6  # some ran together
    linked = Counter(link.span_id for batch in batches.values() for link in batch.links)
    assert linked == dict.fromkeys(requests, 1)
    for batch in batches.values():
        assert attributes(batch)["stfs.batch.rows"] == len(batch.links)
        assert requests[batch.parent_span_id].trace_id == batch.trace_id
    for run in collector.named("run"):
        (link,) = run.links
        assert run.parent_span_id in {member.span_id for member in batches[link.span_id].links}


def test_errors_are_told_and_only_those_of_the_server_make_a_span_one(tmp_path):
    write_odd(tmp_path / "1", sleep_s=0.5)
    with collecting() as collector, running(str(tmp_path), "--model_name=odd", f"--tracing={collector.url}") as server:
        address = "/v1/models/odd:predict"
        assert server.post(address, {"instances": [["no"]]}).status == 400
        assert server.post("/v1/models/none:predict", {"instances": [[1]]}).status == 404
        assert server.post(address, {"instances": [[Odd.RAISE]]}).status == 500
        body = b'{"instances": [[3.0]]}'
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            head = f"POST {address} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            raw.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            # It runs, and its client goes.
            wait_until(lambda: server.metric("stfs_in_flight_rows"), log=server.log)
        wait_until(lambda: server.metric("stfs_requests_total", outcome="cancelled"), log=server.log)
        server.stop()
    spans = [span for span in collector.spans if span.kind == SERVER]
    told = {attributes(span)["http.response.status_code"]: span for span in spans}
    assert set(told) == {400, 404, 500, 499}
    assert told[404].name == "POST"  # clients' own addresses name no spans
    assert {status for status, span in told.items() if span.status.code == ERROR} == {500, 499}
    assert attributes(told[500])["error.type"] == "model_failed"
    assert attributes(told[499])["error.type"] == "cancelled_error"


def test_who_is_traced_is_for_the_caller_to_say_and_then_for_the_share(tmp_path):
    write_linear(tmp_path / "1")
    body = {"data": {"x": [[1, 2, 3]]}}
    with (
        collecting() as collector,
        running(str(tmp_path), f"--tracing={collector.url}/custom", "--tracing_sample=0") as server,
    ):
        assert server.post("/", body).status == 200
        assert server.post("/", body, {"traceparent": f"00-{TRACE}-{CALLER}-00"}).status == 200
        asked = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Server-Timing": "1"}
        assert "run;dur=" in server.post("/", body, asked).headers["Server-Timing"]
        assert server.post("/", body, {"traceparent": "nonsense"}).status == 200
        server.stop()
    assert set(collector.paths) == {"/custom"}
    assert [span.parent_span_id.hex() for span in collector.spans if span.kind == SERVER] == [CALLER]


def test_a_collector_that_is_not_there_keeps_nobody_waiting(tmp_path):
    write_linear(tmp_path / "1")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with running(str(tmp_path), f"--tracing=http://127.0.0.1:{nobody.getsockname()[1]}") as server:
            assert server.post("/", {"data": {"x": [[1, 2, 3]]}}).json == {"y": [[2.0, 4.0, 6.0]]}
            assert server.stop(limit_s=30) == 0


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--tracing=collector:4318"], "--tracing"),
        (["--tracing=http://127.0.0.1:1", "--tracing_sample=2"], "from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, argv, told):
    done = run_cli("serve", str(write_linear(tmp_path)), *argv)
    assert done.returncode == 2
    assert told in done.stderr
