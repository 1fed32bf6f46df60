"""The life of a serving process: whenever the signal comes and whatever hangs, it ends, with status 0.

Real processes. What hangs in them says so on stderr first, so that a test knows where the process stands; it then waits
for a line on stdin, which is how a test lets it go on.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from running import START_LIMIT_S, TESTS, environment

pytestmark = pytest.mark.slow  # starts real servers, many of them

END_LIMIT_S = 60.0  # far more than any of these takes, far less than for ever
HANGING = "HANGING"

HANG = f"""
import sys, threading

def hang():
    print("{HANGING}", file=sys.stderr, flush=True)
    if not sys.stdin.readline():
        threading.Event().wait()
"""

ESTIMATORS = """
from sklearn.base import BaseEstimator, RegressorMixin
from hanging import hang

class Plain(RegressorMixin, BaseEstimator):
    n_features_in_ = 1

    def predict(self, x):
        return 2.0 * x[:, 0]

class HangsInConstructor(Plain):
    def __init__(self):
        hang()

class HangsInWarmUp(Plain):
    def predict(self, x):
        hang()
        return super().predict(x)
"""

HANGS_IN_POLL = """
import itertools
from hanging import hang
from stfs.lifecycle.source import FolderSource

real, calls = FolderSource.poll, itertools.count(1)

def poll(self, last_good=None):
    if next(calls) >= {call}:
        hang()
    return real(self, last_good)

FolderSource.poll = poll
"""

HANGS_IN_IMPORT = """
import sys
from hanging import hang

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            hang()

sys.meta_path.insert(0, Finder())
"""


def write_model(folder, kind="Plain"):
    """A pickle that makes an estimator of ``kind`` by calling its class, as one that was trained would not."""
    (folder / "hanging.py").write_text(HANG)
    (folder / "hanging_estimators.py").write_text(ESTIMATORS)
    path = folder / "model.pkl"
    path.write_bytes(b"changing_estimators\n%s\n(tR." % kind.encode())
    return path


class Process:
    """A server with its three streams on pipes."""

    def __init__(self, popen):
        self.popen = popen
        self.said = ""

    def wait_for(self, told):
        """Read stderr up to a line that holds ``told``."""
        for line in self.popen.stderr:
            self.said += line
            if told in line:
                return
        raise AssertionError(f"it ended (status {self.popen.wait(END_LIMIT_S)}) before it said {told!r}:\n{self.said}")

    def wait_serving(self):
        """Read stdout until it serves; the port."""
        for line in self.popen.stdout:
            if match := re.fullmatch(r"Serving .* at http://127\.0\.0\.1:(\d+)\n", line):
                return int(match[1])
        raise AssertionError(f"it ended before it served:\n{self.popen.stderr.read()}")

    def go_on(self):
        """Let what hangs return."""
        self.popen.stdin.write("\n")
        self.popen.stdin.flush()

    def ends(self):
        """Its status, once it has ended; the rest of stderr in ``said``."""
        status = self.popen.wait(END_LIMIT_S)
        if not self.popen.stderr.closed:
            self.said += self.popen.stderr.read()
        return status


@contextmanager
def started(folder, *argv, sitecustomize="", **popen):
    """``stfs serve`` on a free port; ``folder`` is on its path, with ``sitecustomize`` run before all else."""
    (folder / "hanging.py").write_text(HANG)
    (folder / "sitecustomize.py").write_text(sitecustomize)
    port = () if any(arg.startswith("--port") for arg in argv) else ("--port=0",)
    command = [sys.executable, "-m", "stfs", "serve", "--host=127.0.0.1", *port, *argv]
    path = os.pathsep.join(map(str, (folder, TESTS, TESTS.parent)))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
    process = subprocess.Popen(command, text=True, env=environment({"PYTHONPATH": path}), **pipes)
    try:
        yield Process(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def ask(port, value=3.0):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT_S)
    try:
        connection.request("POST", "/", json.dumps({"data": [[value]]}), {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


RIGHT = {"predict": [6.0]}
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def assert_ended_well(process):
    assert process.ends() == 0, process.said
    assert "Traceback" not in process.said
    assert "Exception ignored" not in process.said


# --- a signal in each stage of the start ------------------------------------------------------------------------------


@SIGNALS
@pytest.mark.parametrize("module", ["stfs.config", "aiohttp", "stfs.server"])
def test_a_signal_in_the_middle_of_the_imports(tmp_path, number, module):
    model = write_model(tmp_path)
    with started(tmp_path, str(model), sitecustomize=HANGS_IN_IMPORT.format(module=module)) as process:
        process.wait_for(HANGING)
        process.popen.send_signal(number)
        assert_ended_well(process)


@SIGNALS
@pytest.mark.parametrize("kind", ["HangsInConstructor", "HangsInWarmUp"])
def test_a_signal_while_a_model_hangs_in_its_load(tmp_path, number, kind):
    with started(tmp_path, str(write_model(tmp_path, kind)), "--shutdown_timeout_s=0.2") as process:
        process.wait_for(HANGING)
        process.popen.send_signal(number)
        assert_ended_well(process)
    assert "a model is still running or loading: ending without it" in process.said


def test_a_signal_while_a_framework_hangs_in_its_import(tmp_path):
    hook = HANGS_IN_IMPORT.format(module="joblib")
    with started(tmp_path, str(write_model(tmp_path)), "--shutdown_timeout_s=0.2", sitecustomize=hook) as process:
        process.wait_for(HANGING)
        process.popen.terminate()
        assert_ended_well(process)


def test_a_load_that_ends_in_time_is_waited_for_and_never_served(tmp_path):
    argv = (str(write_model(tmp_path, "HangsInConstructor")), "--shutdown_timeout_s=600")
    with started(tmp_path, *argv) as process:
        process.wait_for(HANGING)
        process.popen.terminate()
        process.wait_for("finishing the requests in flight")
        process.go_on()
        assert process.popen.stdout.read() == ""
        assert_ended_well(process)
    assert "ending without it" not in process.said


def test_a_second_signal_gives_up_a_load_at_once(tmp_path):
    argv = (str(write_model(tmp_path, "HangsInConstructor")), "--shutdown_timeout_s=600")
    with started(tmp_path, *argv) as process:
        process.wait_for(HANGING)
        process.popen.terminate()
        process.wait_for("finishing the requests in flight")
        process.popen.terminate()
        assert_ended_well(process)
    assert "SIGTERM again: ending at once" in process.said


# --- a poll that hangs, as on a mount that has gone -------------------------------------------------------------------


def test_the_first_poll_hangs(tmp_path):
    hook = HANGS_IN_POLL.format(call=1)
    with started(tmp_path, str(write_model(tmp_path)), "--shutdown_timeout_s=0.2", sitecustomize=hook) as process:
        process.wait_for(HANGING)
        process.popen.terminate()
        assert_ended_well(process)


@SIGNALS
def test_a_later_poll_hangs_while_it_serves_and_then_ends(tmp_path, number):
    hook = HANGS_IN_POLL.format(call=2)
    argv = (str(write_model(tmp_path)), "--model_poll_interval_s=0.05")
    with started(tmp_path, *argv, sitecustomize=hook) as process:
        port = process.wait_serving()
        process.wait_for(HANGING)
        assert ask(port) == RIGHT
        process.popen.send_signal(number)
        assert_ended_well(process)


# --- streams that nobody reads ----------------------------------------------------------------------------------------


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def serves_and_ends(process, port):
    process.wait_for("ready in")
    assert ask(port) == RIGHT
    process.popen.terminate()
    assert_ended_well(process)


def test_a_reader_of_stdout_that_has_gone(tmp_path):
    port = free_port()
    with started(tmp_path, str(write_model(tmp_path)), f"--port={port}") as process:
        process.popen.stdout.close()
        serves_and_ends(process, port)


def test_a_full_disk_behind_stdout(tmp_path):
    port = free_port()
    with (
        open("/dev/full", "wb") as full,  # noqa: PTH123 - a device
        started(tmp_path, str(write_model(tmp_path)), f"--port={port}", stdout=full) as process,
    ):
        serves_and_ends(process, port)


@pytest.mark.parametrize("missing", [0, 1, 2], ids=["stdin", "stdout", "stderr"])
def test_a_standard_stream_that_was_never_open(tmp_path, missing):
    port = free_port()
    argv = (str(write_model(tmp_path)), f"--port={port}")
    with started(tmp_path, *argv, preexec_fn=lambda: os.close(missing)) as process:
        if missing == 2:
            process.wait_serving()
        else:
            process.wait_for("ready in")
        assert ask(port) == RIGHT
        process.popen.terminate()
        assert_ended_well(process)


def test_a_reader_of_stderr_that_has_gone(tmp_path):
    with started(tmp_path, str(write_model(tmp_path))) as process:
        port = process.wait_serving()
        process.popen.stderr.close()
        assert "error" in ask(port, value="no number")
        assert ask(port) == RIGHT
        process.popen.terminate()
        assert process.ends() == 0


# --- two servers on one port ------------------------------------------------------------------------------------------


def test_of_two_that_load_at_once_the_later_says_that_the_port_is_taken(tmp_path):
    """Both bind before they load, which the system allows as long as neither listens."""
    model = write_model(tmp_path, "HangsInConstructor")
    argv = (str(model), f"--port={free_port()}")
    with started(tmp_path, *argv) as first, started(tmp_path, *argv) as second:
        first.wait_for(HANGING)
        second.wait_for(HANGING)
        first.go_on()
        port = first.wait_serving()
        second.go_on()
        assert second.ends() == 2
        assert second.popen.stdout.read() == ""
        lines = [line for line in second.said.splitlines() if " INFO " not in line and line != HANGING]
        assert len(lines) == 1, second.said
        assert f"cannot listen on 127.0.0.1:{port}" in lines[0]
        assert "choose another --port" in lines[0]
        assert ask(port) == RIGHT
        first.popen.terminate()
        assert_ended_well(first)
