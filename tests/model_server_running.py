"""Starts ``tensorflow_model_server`` as its own process, with the flags that its users give."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from running import START_LIMIT_S, Answer, Running, environment
from waiting import wait_until

COMMAND = (sys.executable, "-m", "model_server_main")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; all are open at once, so they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class ModelServer(Running):
    """A running server; ``port`` is the REST port and ``grpc_port`` the other one."""

    def __init__(self, process: subprocess.Popen[bytes], rest_port: int, grpc_port: int, output: Path) -> None:
        super().__init__(process, f"http://127.0.0.1:{rest_port}", output)
        self.grpc_port = grpc_port

    def is_listening(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def wait_until(self, condition: Callable[[], Any]) -> Any:
        def alive_and() -> Any:
            assert self.process.poll() is None, self.log()
            return condition()

        return wait_until(alive_and, limit_s=START_LIMIT_S, log=self.log)

    def predict(self, where: str, rows: Any) -> Answer:
        return self.post(f"/v1/models/{where}:predict", json.dumps({"instances": rows}))

    def status(self, name: str) -> dict[str, str]:
        """State by version; empty while there is no such model."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            answer = self.get(f"/v1/models/{name}")
            if answer.status == 200:
                return {told["version"]: told["state"] for told in answer.json["model_version_status"]}
        return {}


@contextmanager
def model_server(*argv: str, listening: bool = True, env: Mapping[str, str] | None = None) -> Iterator[ModelServer]:
    """``tensorflow_model_server ARGV`` on two free ports, until the block ends; by default waits until it listens."""
    rest_port, grpc_port = free_ports(2)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        with output.open("wb") as sink:
            process = subprocess.Popen(
                [*COMMAND, f"--rest_api_port={rest_port}", f"--port={grpc_port}", *argv],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment(env),
            )
        try:
            server = ModelServer(process, rest_port, grpc_port, output)
            if listening:
                server.wait_until(lambda: f"http://127.0.0.1:{rest_port}" in server.log())
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def run_to_the_end(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *argv], capture_output=True, text=True, env=environment(env), timeout=START_LIMIT_S
    )
