"""Starts the real server as its own process and talks to it over real sockets."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TESTS = Path(__file__).parent
SHARED_MODELS = TESTS.parent.parent / "shared" / "models"
START_LIMIT_S = 120.0  # TensorFlow's first import on a cold disk


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert set(self.json) <= {"error", "detail"}, self.body
        return self.json["error"]


class Running:
    """A server that answers at ``url``; ``log()`` is what it has written until now."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, output: Path) -> None:
        self.process = process
        self.url = url
        self._output = output

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    @property
    def grpc(self) -> str:
        """``HOST:PORT`` of a server that was started with ``--grpc_port``."""
        match = re.search(r"^Serving .* over gRPC at ([^\s,]+)", self.log(), re.MULTILINE)
        assert match is not None, self.log()
        return match[1]

    def log(self) -> str:
        return self._output.read_text()

    def connect(self, timeout_s: float = 60.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)

    def call(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = self.connect()
        try:
            payload = body.encode() if isinstance(body, str) else body
            connection.request(method, path, payload, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """POST ``value`` as JSON (bytes and text go as they are)."""
        body = value if isinstance(value, bytes | str) else json.dumps(value)
        return self.call("POST", path, body, {"Content-Type": "application/json", **(headers or {})})

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if labels.items() <= found.items():
                    total += float(match[3])
        return total

    def stop(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 60.0) -> int:
        """Send the signal and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(limit_s)


def basic_auth(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would configure a server, with the tests importable by it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("STFS_")}
    # These two say which code runs and where frameworks lie beside the server, not how it serves.
    kept |= {key: os.environ[key] for key in ("STFS_PURE_PYTHON", "STFS_HOME") if key in os.environ}
    # Nothing that a test starts keeps anything where the user's own servers look for it.
    return {**kept, "PYTHONPATH": str(TESTS), "STFS_CALIBRATION_CACHE": "off", **(extra or {})}


@contextmanager
def running(
    *argv: str,
    env: Mapping[str, str] | None = None,
    module: str = "stfs",
    serve: bool = True,
    preexec_fn: Callable[[], None] | None = None,
) -> Iterator[Running]:
    """``stfs serve ARGV --port 0`` until the block ends; fails with the server's log if it does not come up."""
    command = [sys.executable, "-m", module, *(["serve"] if serve else []), *argv, "--port=0", "--host=127.0.0.1"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=subprocess.STDOUT, env=environment(env), preexec_fn=preexec_fn
            )
        try:
            yield Running(process, _wait_for_url(process, output), output)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], output: Path) -> str:
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if match := re.search(r"^Serving .* at (http\S+)$", output.read_text(), re.MULTILINE):
            return match[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not come up (status {process.poll()}):\n{output.read_text()}")


def run_cli(*argv: str, module: str = "stfs", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command to its end."""
    command = [sys.executable, "-m", module, *argv]
    return subprocess.run(command, capture_output=True, text=True, env=environment(env), timeout=START_LIMIT_S)
