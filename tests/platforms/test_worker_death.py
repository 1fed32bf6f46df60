"""Worker processes that die, hang or print nonsense: who is told what, what comes back, what is left behind."""

import ast
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import is_alive, wait_until
from worker_platforms import GroupedPlatform, Unruly, UnrulyPlatform, order, wait_for, write_model

from stfs.errors import ConfigError, LoadFailed, Unavailable
from stfs.platforms import worker_start, worker_supervisor
from stfs.platforms.base import LoadOptions
from stfs.platforms.loading import Hosting, open_servable

pytestmark = pytest.mark.slow  # starts many processes, and waits for their restarts

SIGNATURE = "serving_default"
LIMIT_S = 60.0
TESTS = Path(__file__).resolve().parents[1]
PROCESS = Hosting("process")


def runs(pid):
    """Whether it is there and no zombie: what has lost its parent is for init to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(servable):
    """Its next answer, once it gives one."""

    def ask():
        try:
            return servable.run(SIGNATURE, order(3.0))
        except Unavailable:
            return None

    return wait_until(ask, "an answer after the restart")


@pytest.fixture
def opened():
    servables = []

    def open_it(path, platform=None, hosting=PROCESS):
        servable = open_servable(platform or UnrulyPlatform(), path, LoadOptions("m"), hosting)
        servables.append(servable)
        return servable

    yield open_it
    for servable in servables:
        servable.close()


@pytest.mark.parametrize(
    ("value", "told"),
    [(Unruly.KILL, "died of SIGKILL"), (Unruly.ABORT, "died of SIGABRT"), (Unruly.EXIT, "ended with status 7")],
)
def test_a_death_fails_the_run_in_flight_and_the_next_ones_are_answered(tmp_path, opened, value, told):
    servable = opened(write_model(tmp_path))
    before = servable.worker_status
    with pytest.raises(Unavailable, match=f'model "m": its worker process {told}.* while this request ran') as caught:
        servable.run(SIGNATURE, order(value))
    assert "is being restarted" in str(caught.value)
    assert caught.value.retry_after_s >= 1
    assert answers(servable)["y"] == 6.0
    after = servable.worker_status
    assert (before.restarts, after.restarts) == (0, 1)
    assert after.pid != before.pid
    assert after.state == "up"
    assert told in after.error
    assert after.resident_bytes > 1 << 20


def test_every_run_in_flight_is_told_and_others_are_refused_at_once(tmp_path, opened):
    started, go = tmp_path / "started", tmp_path / "go"
    model = write_model(tmp_path, started=started, go=go, abort_unless=tmp_path / "may_load")
    (tmp_path / "may_load").touch()
    servable = opened(model)
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(servable.run, SIGNATURE, order(Unruly.WAIT)) for _ in range(4)]
        wait_for(started)
        (tmp_path / "may_load").unlink()  # so that it stays away until it is allowed back
        os.kill(servable.worker_status.pid, signal.SIGKILL)
        for run in runs:
            with pytest.raises(Unavailable, match="died of SIGKILL"):
                run.result(LIMIT_S)
    with pytest.raises(Unavailable, match="it is being restarted") as refused:
        servable.run(SIGNATURE, order(1.0))
    assert refused.value.retry_after_s >= 1
    assert servable.worker_status.state == "restarting"
    (tmp_path / "may_load").touch()
    assert answers(servable)["y"] == 6.0


def test_a_model_that_kills_its_worker_while_it_loads(tmp_path, opened):
    with pytest.raises(LoadFailed, match="worker process died of SIGABRT while loading it") as failed:
        opened(write_model(tmp_path, abort_unless=tmp_path / "never"))
    assert str(tmp_path / "model.unruly") in str(failed.value)
    assert "Fatal Python error: Aborted" in str(failed.value)


def test_a_model_that_keeps_killing_its_worker_is_failed_but_tried_again(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "restart_delay_s", lambda crashes: 0.01)
    monkeypatch.setattr(worker_supervisor, "LONGEST_DELAY_S", 0.5)
    may_load = tmp_path / "may_load"
    may_load.touch()
    servable = opened(write_model(tmp_path, abort_unless=may_load))
    may_load.unlink()
    with pytest.raises(Unavailable):
        servable.run(SIGNATURE, order(Unruly.ABORT))
    wait_until(lambda: servable.worker_status.state == "failed", "the failed state")
    assert "while loading it, 5 times in a row" in servable.worker_status.error
    with pytest.raises(Unavailable, match="5 times in a row; it is tried again in"):
        servable.run(SIGNATURE, order(1.0))
    may_load.touch()
    assert answers(servable)["y"] == 6.0
    assert servable.worker_status.state == "up"


def test_a_model_that_kills_a_shared_worker_leaves_it_to_the_others(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "restart_delay_s", lambda crashes: 0.01)
    may_load = tmp_path / "may_load"
    may_load.touch()
    guilty = opened(write_model(tmp_path, "guilty", abort_unless=may_load), GroupedPlatform(), Hosting())
    other = opened(write_model(tmp_path, "other"), GroupedPlatform(), Hosting())
    may_load.unlink()
    with pytest.raises(Unavailable):
        guilty.run(SIGNATURE, order(Unruly.ABORT))
    wait_until(lambda: guilty.worker_status.state == "failed", "the failed state")
    assert answers(other)["y"] == 6.0
    restarts = other.worker_status.restarts
    with pytest.raises(Unavailable, match="5 times in a row"):
        guilty.run(SIGNATURE, order(1.0))
    assert other.run(SIGNATURE, order(1.0))["y"] == 2.0
    assert other.worker_status.restarts == restarts


def test_a_first_load_that_kills_a_shared_worker_fails_alone(tmp_path, opened):
    good = opened(write_model(tmp_path, "good"), GroupedPlatform(), Hosting())
    with pytest.raises(LoadFailed, match="died of SIGABRT while loading it"):
        opened(write_model(tmp_path, "bad", abort_unless=tmp_path / "never"), GroupedPlatform(), Hosting())
    assert answers(good)["y"] == 6.0
    assert good.worker_status.restarts == 1


def test_a_signature_that_changed_stays_failed_and_says_so(tmp_path, opened):
    changed = tmp_path / "changed"
    servable = opened(write_model(tmp_path, changed_by=changed))
    changed.touch()
    with pytest.raises(Unavailable):
        servable.run(SIGNATURE, order(Unruly.ABORT))
    wait_until(lambda: servable.worker_status.state == "failed", "the failed state")
    assert "its signatures have changed" in servable.worker_status.error
    with pytest.raises(Unavailable, match="its signatures have changed"):
        servable.run(SIGNATURE, order(1.0))


def test_a_model_whose_file_is_away_comes_back_with_it(tmp_path, opened):
    path = write_model(tmp_path)
    servable = opened(path)
    path.rename(tmp_path / "away")
    with pytest.raises(Unavailable):
        servable.run(SIGNATURE, order(Unruly.ABORT))
    wait_until(lambda: "does not load again" in servable.worker_status.error, "the error in the status")
    (tmp_path / "away").rename(path)
    assert answers(servable)["y"] == 6.0


def test_a_stuck_run_does_not_hold_up_closing(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "END_LIMIT_S", 0.2)
    monkeypatch.setattr(worker_supervisor, "CLOSE_LIMIT_S", 0.2)
    alone = opened(write_model(tmp_path, "alone", started=tmp_path / "1"))
    shared = opened(write_model(tmp_path, "shared", started=tmp_path / "2"), GroupedPlatform(), Hosting())
    other = opened(write_model(tmp_path, "other"), GroupedPlatform(), Hosting())
    pid = alone.worker_status.pid
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(servable.run, SIGNATURE, order(Unruly.STUCK)) for servable in (alone, shared)]
        wait_for(tmp_path / "1")
        wait_for(tmp_path / "2")
        alone.close()
        shared.close()
        for run in runs:
            with pytest.raises(Unavailable, match='model "m" was unloaded while this request ran'):
                run.result(LIMIT_S)
    assert not is_alive(pid)
    assert other.run(SIGNATURE, order(1.0))["y"] == 2.0


def test_what_a_worker_started_ends_with_it(tmp_path, opened):
    child = tmp_path / "child"
    servable = opened(write_model(tmp_path, child=child))
    first = int(child.read_text())
    os.kill(servable.worker_status.pid, signal.SIGKILL)
    wait_until(lambda: not runs(first), "the end of its child")
    answers(servable)
    second = int(child.read_text())
    assert second != first
    assert runs(second)
    servable.close()
    wait_until(lambda: not runs(second), "the end of its second child")


def test_signals_of_the_terminal_do_not_end_a_worker(tmp_path, opened):
    servable = opened(write_model(tmp_path))
    pid = servable.worker_status.pid
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
        assert servable.run(SIGNATURE, order(1.0))["pid"] == pid


def test_a_worker_that_never_gets_ready_is_ended(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(worker_supervisor, "START_LIMIT_S", 0.5)
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho is slow\nexec sleep 600\n")
    slow.chmod(0o755)
    with pytest.raises(
        LoadFailed, match=r"did not get ready within 0.5 s before it was ready|did not get ready"
    ) as failed:
        opened(write_model(tmp_path), hosting=Hosting(python=str(slow)))
    assert "is slow" in str(failed.value)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_interpreters_that_will_not_do(tmp_path, opened):
    model = write_model(tmp_path)
    with pytest.raises(ConfigError, match="no/such/python is no program"):
        opened(model, hosting=Hosting(python="no/such/python"))
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    with pytest.raises(LoadFailed, match="No module named 'numpy'"):
        opened(model, hosting=Hosting(python=str(bare / "bin" / "python")))
    broken = tmp_path / "broken"
    broken.write_text("no shebang, no program")
    broken.chmod(0o755)
    with pytest.raises(LoadFailed, match="does not start"):
        opened(model, hosting=Hosting(python=str(broken)))


def test_an_old_python_is_told_to_be_too_old(tmp_path):
    """By the file that it is started with, which it must be able to read for that."""
    source = Path(worker_start.__file__).read_text()
    ast.parse(source, feature_version=(3, 4))
    (tmp_path / "start.py").write_text(source.replace("OLDEST = (3, 11)", "OLDEST = (9, 9)"))
    done = subprocess.run([sys.executable, tmp_path / "start.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("a worker process needs Python 9.9 or newer, and /")


def test_another_environment_with_numpy_is_enough(tmp_path, opened, monkeypatch):
    """It has no stfs, no aiohttp: stfs comes from here, numpy and the platform's module from there."""
    import numpy

    bare = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    (packages,) = bare.glob("lib/python*/site-packages")
    site = Path(numpy.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        (packages / name).symlink_to(site / name)
    (packages / "worker_platforms.py").symlink_to(TESTS / "worker_platforms.py")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    servable = opened(write_model(tmp_path), hosting=Hosting(python=str(bare / "bin" / "python")))
    assert servable.run(SIGNATURE, order(4.0))["y"] == 8.0
    command = Path(f"/proc/{servable.worker_status.pid}/cmdline").read_bytes()
    assert command.startswith(os.fsencode(bare))
    maps = Path(f"/proc/{servable.worker_status.pid}/maps").read_text()
    assert "_fastjson" not in maps


@pytest.mark.timeout(900)  # a second a cycle where others use the machine
def test_many_loads_leave_nothing_behind(tmp_path):
    path = write_model(tmp_path)
    open_servable(UnrulyPlatform(), path, LoadOptions("m"), PROCESS).close()
    gc.collect()
    before_fds, before_threads = len(list(Path("/proc/self/fd").iterdir())), threading.active_count()
    pids = []
    for cycle in range(200):
        servable = open_servable(UnrulyPlatform(), path, LoadOptions("m"), PROCESS)
        pids.append(servable.worker_status.pid)
        servable.run(SIGNATURE, order(1.0, rows=1 + 5000 * (cycle % 3)))
        if cycle % 10 == 0:
            with pytest.raises(Unavailable):
                servable.run(SIGNATURE, order(Unruly.KILL))
        servable.close()
    gc.collect()
    # Fewer where what tests before this one have left was let go meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) <= before_fds
    assert threading.active_count() <= before_threads
    assert "stfs-tensors" not in Path("/proc/self/maps").read_text()
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not set(map(str, pids)) & set(children)
    assert not any(map(is_alive, pids))


def test_memory_of_outputs_is_freed_with_them(tmp_path, opened):
    servable = opened(write_model(tmp_path))

    def shared_maps():
        return Path("/proc/self/maps").read_text().count("stfs-tensors")

    outputs = servable.run(SIGNATURE, order(1.0) | {"x": np.ones((1, 4 << 20), np.float32)})
    assert shared_maps() == 1
    kept = outputs["y"]
    del outputs
    assert (kept == 2.0).all()
    del kept
    assert shared_maps() == 0


PARENT = """
import json, sys, time
from pathlib import Path
from worker_platforms import *
from stfs.platforms.base import LoadOptions
from stfs.platforms.loading import Hosting, open_servable
servable = open_servable(UnrulyPlatform(), Path(sys.argv[1]), LoadOptions("m"), Hosting("process"))
print(servable.worker_status.pid, flush=True)
if len(sys.argv) > 2:
    sys.exit()
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, "exit"])
def test_a_worker_goes_with_its_parent(tmp_path, how):
    arguments = [write_model(tmp_path)] + (["ends by itself"] if how == "exit" else [])
    command = [sys.executable, "-c", PARENT, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        try:
            pid = int(parent.stdout.readline())
            if how != "exit":
                parent.send_signal(how)
            parent.wait(LIMIT_S)
        finally:
            parent.kill()
    wait_until(lambda: not is_alive(pid), "the end of the worker")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["run", "run", "run", "large", "kill", "abort", "unload"]), min_size=4, max_size=25),
    st.integers(1, 4),
)
def test_every_run_is_answered_exactly_once(tmp_path, steps, threads):
    """Runs, kills and unloads in any order, on several threads: an answer that is right, or Unavailable, for each."""
    path = write_model(tmp_path)
    models = [open_servable(GroupedPlatform(), path, LoadOptions(f"m{i}"), Hosting()) for i in range(2)]

    def step(numbered):
        number, what = numbered
        servable = models[number % 2]
        value, rows = float(number + 1), 30_000 if what == "large" else 3
        try:
            match what:
                case "kill":
                    if pid := servable.worker_status.pid:
                        os.kill(pid, signal.SIGKILL)
                    return "killed"
                case "unload":
                    servable.close()
                    return "unloaded"
                case "abort":
                    servable.run(SIGNATURE, order(Unruly.ABORT))
                    return "survived"
            outputs = servable.run(SIGNATURE, order(value, rows))
        except Unavailable:
            return "unavailable"
        except ProcessLookupError:
            return "killed"
        right = (outputs["y"] == 2 * value).all() and outputs["turned"].tolist() == [b"ba"] * rows
        return "right" if right else "wrong"

    with ThreadPoolExecutor(threads) as pool:
        ends = list(pool.map(step, enumerate(steps), timeout=LIMIT_S))
    pids = [servable.worker_status.pid for servable in models]
    for servable in models:
        servable.close()
    assert len(ends) == len(steps)
    assert set(ends) <= {"right", "unavailable", "killed", "unloaded"}
    if not {"kill", "abort", "unload"} & set(steps):
        assert set(ends) == {"right"}
    assert not any(is_alive(pid) for pid in pids if pid)
