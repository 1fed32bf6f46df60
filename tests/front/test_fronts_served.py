"""Servers of two front processes: one server to look at, whatever comes, goes or dies."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from front_load import PREDICT, Load, ask, children_of, connections_to_both, front_of, fronts_of, predict
from odd_estimators import write_odd
from running import basic_auth, environment, run_cli, running
from simple_models import write_linear
from waiting import wait_until

pytestmark = pytest.mark.slow  # servers of several processes

ENGINES = pytest.mark.parametrize("engine", ["shared", "replicated"])


def test_batches_form_across_fronts_and_metrics_count_every_request(tmp_path):
    write_odd(tmp_path, sleep_s=0.3)
    with (
        running(str(tmp_path), "--workers=2", "--engine=shared", "--calibrate=false") as server,
        connections_to_both(server, each=4) as by_front,
    ):
        connections = [connection for kept in by_front.values() for connection in kept]
        for n, connection in enumerate(connections):
            body = json.dumps({"instances": [[n + 1.0]]})
            connection.request("POST", PREDICT, body, {"Content-Type": "application/json"})
            if n == 0:  # the others queue behind it, whatever front they came to
                wait_until(lambda: server.metric("stfs_in_flight_rows") == 1)
        answers = [json.loads(connection.getresponse().read())["predictions"] for connection in connections]
        assert answers == [[2 * (n + 1.0)] for n in range(8)]
        assert server.metric("stfs_batches_total") <= 3
        text = server.get("/metrics").body.decode()
        (below_4,) = re.findall(r'stfs_batch_rows_bucket\{le="4.0".*\} (\S+)', text)
        assert float(below_4) < server.metric("stfs_batches_total")  # of more rows than one front has connections
        assert server.metric("stfs_requests_total", outcome="ok") == 8
        for connection in connections:
            assert ask(connection, PREDICT, {"instances": [[1, 2]]})[0] == 400
        # Told by one front of what was asked of both.
        assert {server.metric("stfs_requests_total", outcome="invalid_input") for _ in range(6)} == {8}
        assert server.metric("stfs_request_duration_seconds_count") == 16


@ENGINES
def test_a_swap_under_load_loses_nothing_and_counts_everything(tmp_path, engine):
    write_linear(tmp_path / "1", scale=1)
    argv = ("--workers=2", f"--engine={engine}", "--model_poll_interval_s=0.05")
    with running(str(tmp_path), *argv) as server:
        with Load(server) as load:
            for version in range(2, 6):
                wait_until(lambda scale=float(version - 1): load.counts["right", scale] > 50)
                write_linear(tmp_path / f".{version}", scale=version)
                (tmp_path / f".{version}").rename(tmp_path / str(version))
            wait_until(lambda: load.counts["right", 5.0] > 50)
        assert {key for key in load.counts if key[0] != "right"} == set()
        assert server.metric("stfs_requests_total", outcome="ok") == load.total()
        assert server.metric("stfs_requests_total") == load.total()
        shutil.rmtree(tmp_path / "5")
        wait_until(lambda: server.get("/v1/models").json[0]["model_version_list"] == [4])
        with connections_to_both(server) as by_front:  # what is told is true of every front by then
            assert {predict(c, 1, 1, 1)[0] for kept in by_front.values() for c in kept} == {4.0}
        # Old versions are let go, and closed.
        wait_until(lambda: server.get("/v1/models/default").json["model_version_status"][-1]["state"] == "END")


@ENGINES
def test_a_front_that_is_killed_takes_only_its_connections_along(tmp_path, engine):
    write_linear(tmp_path, scale=3)
    with (
        running(str(tmp_path), "--workers=2", f"--engine={engine}") as server,
        connections_to_both(server) as by_front,
        Load(server, 4) as load,
    ):
        wait_until(lambda: load.total() > 100)
        killed, kept = by_front
        os.kill(killed, signal.SIGKILL)
        for _ in range(20):
            for connection in by_front[kept]:
                assert predict(connection, 1, 2, 3) == [3, 6, 9]
        with pytest.raises((OSError, http.client.HTTPException)):
            predict(by_front[killed][0], 1, 2, 3)
        wait_until(lambda: len(fronts_of(server)) == 2 and killed not in fronts_of(server))
        wait_until(lambda: _accepts_on_both(server))
        before = load.total()
        wait_until(lambda: load.total() > before + 100)
        assert load.counts["lost"] <= 8
        assert {key for key in load.counts if key not in (("right", 3.0), "lost")} == set()
        assert f"front process {killed} ended (status -9): another starts in 0.1 s" in server.log()


def _accepts_on_both(server):
    seen = set()
    for _ in range(8):
        connection = server.connect()
        with contextlib.suppress(OSError, http.client.HTTPException):
            predict(connection, 1, 2, 3)
            seen.add(front_of(connection, server))
        connection.close()
    return len(seen) == 2


def test_the_engine_withdraws_what_a_killed_front_had_asked_for(tmp_path):
    write_odd(tmp_path, sleep_s=0.3)
    argv = ("--workers=2", "--engine=shared", "--max_batch_size=1", "--calibrate=false")
    with running(str(tmp_path), *argv) as server, connections_to_both(server, each=6) as by_front:
        killed, kept = by_front
        for connection in (*by_front[killed], by_front[kept][0]):
            connection.request("POST", PREDICT, '{"instances": [[1]]}', {"Content-Type": "application/json"})
        wait_until(lambda: server.metric("stfs_queued_rows") + server.metric("stfs_in_flight_rows") == 7)
        os.kill(killed, signal.SIGKILL)
        assert json.loads(by_front[kept][0].getresponse().read()) == {"predictions": [2]}
        assert server.metric("stfs_batches_total") < 7


@ENGINES
def test_fronts_end_with_the_main_process_whatever_ends_it(tmp_path, engine):
    write_linear(tmp_path)
    with running(str(tmp_path), "--workers=2", f"--engine={engine}") as server:
        pids = fronts_of(server)
        assert len(pids) == 2
        server.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_sigterm_under_load_answers_what_was_taken(tmp_path):
    write_odd(tmp_path, sleep_s=0.4)
    argv = ("--workers=2", "--engine=shared", "--max_batch_size=1", "--calibrate=false")
    with running(str(tmp_path), *argv) as server, connections_to_both(server) as by_front:
        connections = [connection for kept in by_front.values() for connection in kept]
        for n, connection in enumerate(connections):
            body = json.dumps({"instances": [[n + 1.0]]})
            connection.request("POST", PREDICT, body, {"Content-Type": "application/json"})
        wait_until(lambda: server.metric("stfs_queued_rows") + server.metric("stfs_in_flight_rows") >= 3)
        pids = fronts_of(server)
        os.killpg(os.getpgid(pids[0]), signal.SIGTERM)  # a service manager tells every process
        assert server.stop() == 0
        answers = [json.loads(connection.getresponse().read())["predictions"] for connection in connections]
        assert answers == [[2 * (n + 1.0)] for n in range(4)]
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert "has not finished" not in server.log()


def test_readiness_while_it_stops_and_requests_that_never_end(tmp_path):
    write_odd(tmp_path, sleep_s=600)
    argv = ("--workers=2", "--shutdown_delay_s=1", "--shutdown_timeout_s=0.3", "--drain_timeout_s=0.3")
    with running(str(tmp_path), "--engine=shared", "--calibrate=false", *argv) as server:
        assert server.get("/ready").status == 200
        connection = server.connect()
        connection.request("POST", PREDICT, '{"instances": [[1]]}', {"Content-Type": "application/json"})
        wait_until(lambda: server.metric("stfs_in_flight_rows") == 1)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/ready").status == 503)
        assert server.get("/health").status == 200
        assert server.process.wait(30) == 0
        connection.close()


def test_what_a_client_has_changed_is_served_by_every_front_at_once(tmp_path):
    write_linear(tmp_path / "1", scale=7)
    argv = ("--workers=2", "--model_control=explicit", "--engine=replicated")
    with running(str(tmp_path), *argv) as server, connections_to_both(server) as by_front:
        connections = [connection for kept in by_front.values() for connection in kept]
        for turn in range(6):
            verb = "unload" if turn % 2 == 0 else "load"
            changer = connections[turn % len(connections)]
            assert ask(changer, f"/v2/repository/models/default/{verb}", {})[0] == 200
            for connection in connections:
                status = ask(connection, PREDICT, {"instances": [[1, 1, 1]]})[0]
                assert (status == 200) == (verb == "load"), (turn, status)


def test_a_port_that_is_taken_is_told_as_ever(tmp_path):
    write_linear(tmp_path)
    with running(str(tmp_path), "--workers=2") as server:
        for workers in ("--workers=1", "--workers=2"):
            done = run_cli("serve", str(tmp_path), workers, f"--port={server.port}", "--host=127.0.0.1")
            assert done.returncode == 2
            assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in done.stderr
        assert server.get("/health").status == 200
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_cli("serve", str(tmp_path), "--workers=2", f"--port={port}", "--host=127.0.0.1")
        assert done.returncode == 2
        assert "Address already in use" in done.stderr


def test_credentials_and_the_access_log(tmp_path):
    write_linear(tmp_path / "model")
    lines = tmp_path / "access.log"
    argv = ("--workers=2", "--enable_auth", "--auth_password=secret", "--access_log=json", f"--access_log_file={lines}")
    with running(str(tmp_path / "model"), *argv) as server:
        right = basic_auth("admin", "secret")
        for path in ("/v1/models", "/metrics", "/nope"):
            assert server.get(path).status == 401
            assert server.call("GET", path, headers=right).status == (404 if path == "/nope" else 200)
        for _ in range(8):
            assert server.post(PREDICT, {"instances": [[1, 2, 3]]}).status == 401
            assert server.post(PREDICT, {"instances": [[1, 2, 3]]}, right).status == 200
        assert server.stop() == 0
    told = Counter((line["path"], line["status"]) for line in map(json.loads, lines.read_text().splitlines()))
    assert told == {
        (PREDICT, 401): 8,
        (PREDICT, 200): 8,
        ("/v1/models", 401): 1,
        ("/v1/models", 200): 1,
        ("/metrics", 401): 1,
        ("/metrics", 200): 1,
        ("/nope", 401): 1,
        ("/nope", 404): 1,
    }
    assert all(json.loads(line)["client"] == "127.0.0.1" for line in lines.read_text().splitlines())


def test_a_log_that_cannot_be_written_is_told_at_start(tmp_path):
    write_linear(tmp_path)
    argv = ("--workers=2", "--access_log=json", f"--access_log_file={tmp_path}")
    done = run_cli("serve", str(tmp_path), *argv, "--port=0", "--host=127.0.0.1")
    assert done.returncode == 2
    assert "--access_log_file: cannot write" in done.stderr


def test_a_signal_while_fronts_start(tmp_path):
    write_linear(tmp_path)
    command = [sys.executable, "-m", "stfs", "serve", str(tmp_path), "--workers=2", "--port=0", "--host=127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        pids: list[int] = []
        wait_until(lambda: pids.extend(children_of(process.pid)) or len(set(pids)) == 2)
        process.terminate()
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
        assert "Traceback" not in told
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        process.kill()
        process.wait()
