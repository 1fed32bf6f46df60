"""What happens to two front processes while clients ask: every answer is counted, and is what it should be."""

import json
import os
import signal

import pytest
from front_load import Load, fronts_of
from running import running
from simple_models import write_linear
from waiting import wait_until

pytestmark = pytest.mark.slow  # servers of several processes


def test_sigterm_loses_no_answer_that_was_made(tmp_path):
    write_linear(tmp_path / "model", scale=3)
    lines = tmp_path / "access.log"
    argv = ("--workers=2", "--engine=shared", "--access_log=json", f"--access_log_file={lines}")
    with running(str(tmp_path / "model"), *argv) as server:
        with Load(server) as load:
            wait_until(lambda: load.total() > 200)
            pids = fronts_of(server)
            assert server.stop() == 0
        assert {key for key in load.counts if key not in (("right", 3.0), "lost")} == set()
        told = [json.loads(line)["status"] for line in lines.read_text().splitlines()]
        assert set(told) == {200}
        assert len(told) == load.counts["right", 3.0]  # what the server has answered is what clients have read
        assert len(pids) == 2


def test_reloading_by_name_answers_right_or_says_that_it_is_starting(tmp_path):
    write_linear(tmp_path / "1", scale=2)
    argv = ("--workers=2", "--engine=shared", "--model_control=explicit")
    with running(str(tmp_path), *argv) as server:
        with Load(server, 4) as load:
            for step in range(3):
                before = load.counts["right", 2.0]
                settings = {"max_batch_size": 8 + step}  # another configuration: the model is loaded anew
                body = {"parameters": {"config": json.dumps(settings)}}
                assert server.post("/v2/repository/models/default/load", body).status == 200
                wait_until(lambda before=before: load.counts["right", 2.0] > before + 50)
        refused = {key: count for key, count in load.counts.items() if key != ("right", 2.0)}
        assert all(status == 503 and b"is not available" in body for status, body in refused), refused
        assert server.metric("stfs_requests_total", outcome="ok") == load.counts["right", 2.0]
        assert server.metric("stfs_requests_total", outcome="unavailable") == sum(refused.values())
        assert server.metric("stfs_requests_total") == load.total()


def test_a_models_worker_that_is_killed_fails_what_it_had_and_is_back(tmp_path):
    write_linear(tmp_path, scale=4)
    with running(str(tmp_path), "--workers=2", "--isolation=process") as server:
        with Load(server) as load:
            wait_until(lambda: load.total() > 100)
            worker = next(iter(server.get("/v1/models/default").json["workers"].values()))
            os.kill(worker["pid"], signal.SIGKILL)
            wait_until(lambda: server.metric("stfs_worker_restarts_total") == 1)
            before = load.counts["right", 4.0]
            wait_until(lambda: load.counts["right", 4.0] > before + 50)
        refused = {key: count for key, count in load.counts.items() if key != ("right", 4.0)}
        assert {status for status, _ in refused} <= {503}, refused  # no connection was lost, none was answered wrong
        assert server.metric("stfs_requests_total", outcome="ok") == load.counts["right", 4.0]
        assert server.metric("stfs_requests_total", outcome="unavailable") == sum(refused.values())
        assert server.metric("stfs_requests_total") == load.total()
        assert server.metric("stfs_front_restarts_total") == 0
