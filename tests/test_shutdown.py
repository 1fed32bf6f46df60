"""SIGTERM: not ready any more, what was taken is answered, what is late is bounded, status 0."""

import http.client
import json
import signal
import threading

import pytest
from odd_estimators import write_odd
from running import running
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts real servers, many of them


def slow_call(server, answers, value=1.0):
    answers.append(server.post("/", {"data": [[value]]}))


def test_requests_in_flight_and_queued_are_answered_before_the_end(tmp_path):
    with running(str(write_odd(tmp_path, sleep_s=0.4)), "--max_batch_size=1") as server:
        answers: list = []
        threads = [threading.Thread(target=slow_call, args=(server, answers, float(i))) for i in range(1, 5)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.metric("stfs_in_flight_rows") + server.metric("stfs_queued_rows") >= 4)
        assert server.stop() == 0
        for thread in threads:
            thread.join()
        assert sorted(a.json["predict"][0] for a in answers) == [2.0, 4.0, 6.0, 8.0]


def test_readiness_goes_false_while_liveness_stays(tmp_path):
    with running(str(write_odd(tmp_path)), "--shutdown_delay_s=60") as server:
        assert (server.get("/ready").status, server.get("/ready").body) == (200, b"ready")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/ready").status == 503)
        assert server.get("/health").body == b"healthy"
        # A load balancer needs a moment to notice; until then requests are still served.
        assert server.post("/", {"data": [[2.0]]}).json == {"predict": [4.0]}
        assert server.stop(limit_s=30) == 0


def test_a_request_that_never_ends_does_not_keep_the_server(tmp_path):
    with running(
        str(write_odd(tmp_path, sleep_s=600.0)), "--shutdown_timeout_s=0.5", "--drain_timeout_s=0.5"
    ) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        connection.request("POST", "/", json.dumps({"data": [[1.0]]}), {"Content-Type": "application/json"})
        wait_until(lambda: server.metric("stfs_in_flight_rows") == 1)
        assert server.stop(limit_s=30) == 0
        connection.close()


def test_an_idle_connection_does_not_keep_the_server(tmp_path):
    with running(str(write_odd(tmp_path))) as server:
        connection = server.connect()
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b"healthy"
        assert server.stop(limit_s=10) == 0
        connection.close()


def test_a_second_signal_stops_at_once(tmp_path):
    with running(str(write_odd(tmp_path, sleep_s=600.0)), "--shutdown_timeout_s=600") as server:
        connection = server.connect()
        connection.request("POST", "/", json.dumps({"data": [[1.0]]}), {"Content-Type": "application/json"})
        wait_until(lambda: server.metric("stfs_in_flight_rows") == 1)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "finishing the requests in flight" in server.log())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        connection.close()
