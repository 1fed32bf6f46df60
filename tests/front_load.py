"""What tests of servers with front processes share: which fronts there are, who accepted what, load that is counted."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
from collections import Counter
from pathlib import Path

PREDICT = "/v1/models/default:predict"


def fronts_of(server) -> list[int]:
    """The process ids of the fronts that live."""
    return children_of(server.process.pid)


def children_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            is_front = b"stfs.front.child" in (entry / "cmdline").read_bytes()
            if int(fields[1]) == parent and is_front and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


def front_of(connection: http.client.HTTPConnection, server) -> int | None:
    """The front that has accepted this connection; ``None`` if none has yet."""
    local, remote = connection.sock.getsockname()[1], connection.sock.getpeername()[1]
    inode = None
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
        if ports == [remote, local]:
            inode = fields[9]
    for pid in fronts_of(server):
        with contextlib.suppress(OSError):
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(fd) == f"socket:[{inode}]":  # noqa: PTH115
                        return pid
    return None


@contextlib.contextmanager
def connections_to_both(server, each=2):
    """Kept connections by front, ``each`` to each of the two; all have been answered once."""
    by_front: dict[int, list[http.client.HTTPConnection]] = {pid: [] for pid in fronts_of(server)}
    assert len(by_front) == 2
    made = []
    try:
        for _ in range(100):
            connection = server.connect()
            made.append(connection)
            assert ask(connection, "/health", None) == (200, b"healthy")
            by_front[front_of(connection, server)].append(connection)
            if all(len(kept) >= each for kept in by_front.values()):
                break
        assert all(len(kept) >= each for kept in by_front.values()), "the kernel spreads connections over both"
        yield {pid: kept[:each] for pid, kept in by_front.items()}
    finally:
        for connection in made:
            connection.close()


def ask(connection, path, value):
    body = None if value is None else json.dumps(value)
    connection.request("GET" if value is None else "POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    return response.status, response.read()


def predict(connection, *row):
    status, body = ask(connection, PREDICT, {"instances": [list(row)]})
    assert status == 200, body
    return json.loads(body)["predictions"][0]


class Load:
    """Requests on kept connections, on a thread each, until it is told to stop. Answers are counted by what they say.

    A connection that ends without an answer is counted under ``"lost"`` and made anew.
    """

    def __init__(self, server, connections=6):
        self.counts: Counter = Counter()
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(connections)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, n):
        connection = self._server.connect()
        step = 0
        while not self._stop.is_set():
            step += 1
            try:
                status, body = ask(connection, PREDICT, {"instances": [[n, step, 1.0]]})
            except (OSError, http.client.HTTPException):
                self.counts["lost"] += 1
                connection.close()
                if self._server.process.poll() is not None:
                    return
                connection = self._server.connect()
                continue
            if status != 200:
                self.counts[status, body] += 1
                continue
            (row,) = json.loads(body)["predictions"]
            scale = row[2]
            self.counts["right" if row == [n * scale, step * scale, scale] else "wrong", scale] += 1
        connection.close()

    def total(self):
        return sum(self.counts.values())
