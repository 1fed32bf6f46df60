"""Instances and run time-outs over HTTP: a process that dies, cores, runs that hang on threads and in processes."""

import os
import signal
import threading
from pathlib import Path

import pytest
from odd_estimators import Odd, write_odd
from running import running
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts real servers

LIMIT_S = 60.0
CORES = sorted(os.sched_getaffinity(0))


def ask(server, value):
    return server.post("/", {"data": {"data": [[value]]}})


def workers(server):
    """The processes of the model, which has two."""
    return server.get("/v1/models/default").json["workers"]["1"]["instances"]


class Clients:
    """Some who ask one thing after another, each its own numbers, until the block ends; ``told`` is what they get."""

    def __init__(self, server, count):
        self.told = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(server, i)) for i in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised):
        self._end.set()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def _ask(self, server, number):
        value = 1.0 + 1000 * number
        while not self._end.is_set():
            answer = ask(server, value)
            if answer.status == 200:
                assert answer.json["predict"] == [2 * value]
            self.told.append((answer.status, answer.body.decode()))
            value += 1

    @property
    def answered(self):
        return sum(status == 200 for status, _ in self.told)


@pytest.mark.skipif(len(CORES) < 2, reason="there is one core")
def test_a_process_that_dies_takes_only_its_own_batch_along(tmp_path):
    path = write_odd(tmp_path, sleep_s=0.03, hold=str(tmp_path / "hold"))
    flags = ("--instances=2", f"--cpus={CORES[0]};{CORES[1]}", "--run_timeout_s=2")
    with running(f"--model_base_path={path}", *flags) as server:
        before = workers(server)
        for one, core in zip(before, CORES[:2], strict=True):
            lines = Path(f"/proc/{one['pid']}/status").read_text().splitlines()
            assert f"Cpus_allowed_list:\t{core}" in lines
        with Clients(server, 6) as clients:
            wait_until(lambda: clients.answered > 12, "answers")
            os.kill(before[0]["pid"], signal.SIGKILL)
            at = clients.answered
            wait_until(lambda: clients.answered > at + 12, "answers without it")
            wait_until(
                lambda: workers(server)[0]["restarts"] == 1 and workers(server)[0]["state"] == "up", "its return"
            )
            at = clients.answered
            wait_until(lambda: clients.answered > at + 12, "answers with it again")
        failed = [body for status, body in clients.told if status != 200]
        assert len(failed) <= 6, "each client had one request in that batch at most"
        assert all("died of SIGKILL" in body and "while this request ran" in body for body in failed), failed
        after = workers(server)
        assert after[1]["pid"] == before[1]["pid"]
        assert server.metric("stfs_worker_restarts_total") == 1
        # A run that hangs is ended with its process, and the other one serves on.
        (tmp_path / "hold").touch()
        late = ask(server, Odd.HANG)
        assert late.status == 504
        assert "a run took longer than run_timeout_s (2 s); its worker process was ended" in late.error
        assert ask(server, 3.0).json["predict"] == [6.0]
        assert server.metric("stfs_stuck_runs_total") == 1
        assert server.metric("stfs_requests_total", outcome="run_timed_out") == 1


def test_runs_that_hang_on_threads(tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    path = write_odd(tmp_path, hold=str(hold))
    flags = ("--isolation=thread", "--run_timeout_s=0.3", "--shutdown_timeout_s=5")
    with running(f"--model_base_path={path}", *flags) as server:
        late = ask(server, Odd.HANG)
        assert late.status == 504
        assert late.error == (
            'model "default" version 1: a run took longer than run_timeout_s (0.3 s) and was given up'
        )
        assert ask(server, 3.0).json["predict"] == [6.0]
        for _ in range(3):
            assert ask(server, Odd.HANG).status == 504
        refused = ask(server, 3.0)
        assert refused.status == 503
        assert "4 runs are stuck" in refused.error
        assert int(refused.headers["Retry-After"]) >= 1
        assert server.metric("stfs_stuck_runs_total") == 4
        assert server.get("/ready").status == 200
        hold.unlink()
        wait_until(lambda: ask(server, 4.0).status == 200, "an answer, once a run has come home")
        wait_until(lambda: "0 are stuck" in server.log(), "the return of all runs")
        assert ask(server, 5.0).json["predict"] == [10.0]
        hold.touch()
        assert ask(server, Odd.HANG).status == 504
        assert server.stop() == 0, "and it does not wait for what never ends"
        assert "its memory is not freed yet" in server.log()
