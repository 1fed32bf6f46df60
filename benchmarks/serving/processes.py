"""A peer's processes: started on their cores, waited for, their CPU time told, and ended. Linux only (``/proc``).

A server may fork, start daemons and leave its group, so its tree is found by a word in the environment that every child
inherits. Must not live here: what is sent to it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.peers.peer import Peer, Start
from benchmarks.serving.works import Work, is_right

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_LIMIT_S = 90.0
END_LIMIT_S = 10.0
MARK = "BENCH_SERVING_ID"


class StartFailed(Exception):
    """A peer did not come up, or gave a wrong answer; says where its log is."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def ask(url: str, body: bytes, timeout_s: float = 60.0) -> bytes:
    """One request (GET if ``body`` is empty) past any proxy. Raises ``OSError`` for any status but 200."""
    request = urllib.request.Request(url, body or None, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=timeout_s) as response:
        return bytes(response.read())


def refusal(url: str, body: bytes) -> bytes:
    """What a server says that refuses the shape of a request with 400. Raises ``OSError`` for any other answer."""
    try:
        ask(url, body)
    except urllib.error.HTTPError as error:
        told = bytes(error.read())
        if error.code == 400 and b"shape" in told:
            return told
        raise OSError(f"{error}: {told[:200]!r}") from error
    raise OSError(f"{url} did not refuse what it cannot run")


def cpu_ticks(stat: str) -> int:
    """User and system time, in clock ticks, of a process by its ``/proc/PID/stat`` (proc(5), fields 14 and 15)."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def core_busy_ticks(stat: str, core: int) -> int:
    """Ticks that processes kept ``core`` busy, stolen ones too, by ``/proc/stat`` (proc(5)).

    Interrupts are left out: the network's count for no process, so they would all seem to be other work's.
    """
    for line in stat.splitlines():
        name, *rest = line.split()
        if name == f"cpu{core}":
            values = [int(value) for value in rest[:8]]
            user, nice, system, steal = values[0], values[1], values[2], values[7]
            return user + nice + system + steal
    raise ValueError(f"/proc/stat tells nothing of core {core}")


def _stat() -> str:
    return Path("/proc/stat").read_text()


@dataclass
class Server:
    """A running peer. ``close`` ends every process of it; its folder and log stay, ``discard`` removes them too."""

    peer: Peer
    work: Work
    url: str
    folder: Path
    cores: tuple[int, ...]
    process: subprocess.Popen[bytes] | None
    mark: bytes

    def pids(self) -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if self.mark in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue  # it ended, or it is another user's
        return found

    def cpu_s(self) -> float:
        """CPU seconds of the whole tree since its start; 0 for a server that runs elsewhere."""
        ticks = 0
        for pid in self.pids() if self.process is not None else []:
            try:
                ticks += cpu_ticks(Path(f"/proc/{pid}/stat").read_text())
            except OSError:
                continue
        return ticks / TICKS_PER_S

    def core_busy_s(self) -> float:
        """Seconds that the server's cores were busy since boot, whoever kept them so."""
        return sum(core_busy_ticks(_stat(), core) for core in self.cores) / TICKS_PER_S

    def ask(self) -> bytes:
        """The answer to the work's request now. Raises ``OSError`` where it is not of the status that it is to be."""
        body = self.work.body(self.peer.form) if self.peer.form else b""
        return refusal(self.url, body) if self.peer.refuses else ask(self.url, body)

    def check(self) -> None:
        """Raises ``StartFailed`` unless the answer to the work's request is right now."""
        answer = self.ask()
        if self.peer.checks and not self.peer.refuses and not is_right(answer, self.work):
            raise StartFailed(f"{self.peer.name} answers {self.work.name} wrong: {answer[:200]!r}")

    def close(self) -> None:
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
            end_s = time.monotonic() + END_LIMIT_S
            while time.monotonic() < end_s:
                self.process.poll()
                if not self.pids():
                    break
                time.sleep(0.05)
        self.process.wait()

    def discard(self) -> None:
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def start(peer: Peer, work: Work, python: Path, cores: tuple[int, ...], url: str = "") -> Server:
    """Start ``peer`` on ``cores`` and wait for its first right answer; with ``url``, only ask there.

    Raises ``StartFailed`` after ``START_LIMIT_S``, or sooner if it ended.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{peer.name}-"))
    port, *spare = free_ports(3)
    mark = uuid.uuid4().hex
    process = None
    log = folder / "log"
    if peer.start is not None and not url:
        command = peer.start(Start(work, port, (spare[0], spare[1]), folder, python))
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        # One thread a pool: the server has one core, and pools of two that share it fight.
        env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **command.env, MARK: mark}
        env["PATH"] = f"{python.parent}:{env['PATH']}"
        argv = ["taskset", "-c", ",".join(map(str, cores)), *command.argv]
        with log.open("wb") as output:
            process = subprocess.Popen(
                argv, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
    server = Server(
        peer, work, url or f"http://127.0.0.1:{port}{peer.path}", folder, cores, process, f"{MARK}={mark}".encode()
    )
    try:
        _wait(server, log)
        server.check()
    except BaseException:
        server.close()
        raise
    return server


def _wait(server: Server, log: Path) -> None:
    end_s = time.monotonic() + START_LIMIT_S
    reason = ""
    while time.monotonic() < end_s:
        try:
            server.ask()
            return
        except urllib.error.HTTPError as error:
            reason = f"{error}: {error.read()[:200]!r}"
        except OSError as error:
            reason = str(error)
        if server.process is not None and server.process.poll() is not None and not server.pids():
            reason = f"ended with status {server.process.returncode}"
            break
        time.sleep(0.05)
    raise StartFailed(f"{server.peer.name} did not answer {server.url}: {reason}; its log: {log}")
