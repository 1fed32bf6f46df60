"""``/metrics`` and the dashboard of a server with front processes tell of all its processes as of one."""

import json
import os
import signal
import time

import pytest
from exposition import families, quoted, rows
from front_load import fronts_of
from running import running
from simple_models import write_linear
from waiting import wait_until

from stfs.web.usage import of_process

pytestmark = pytest.mark.slow  # a server of several processes

CPU, MEMORY = "process_cpu_seconds_total", "process_resident_memory_bytes"


def test_processes_are_told_as_one_and_fronts_by_place(tmp_path):
    write_linear(tmp_path)
    with running(str(tmp_path), "--workers=2", "--isolation=process") as server:
        found = families(server.get("/metrics").body.decode())
        documented = {quoted(row[0])[0]: row for row in rows("name")}
        for name in ("stfs_front_up", "stfs_front_restarts_total"):
            assert found[name].type == documented[name][1]
            assert found[name].labels == set(quoted(documented[name][2]))
            assert len(found[name].samples) == 2
        assert server.metric("stfs_front_up") == 2
        assert server.metric("stfs_front_restarts_total") == 0

        worker = next(iter(server.get("/v1/models/default").json["workers"].values()))["pid"]
        pids = [server.process.pid, *fronts_of(server), worker]
        assert len(set(pids)) == 4
        used = [of_process(pid) for pid in pids]
        assert server.metric(CPU) >= sum(usage.cpu_s for usage in used) - 0.01
        assert server.metric(MEMORY) == pytest.approx(sum(usage.memory_bytes for usage in used), rel=0.05)
        shown = _first_tick(server)["server"]
        assert shown["memory"] == pytest.approx(server.metric(MEMORY), rel=0.05)
        assert 0 <= shown["cpu"] < 2 * shown["cores"]

        before_s = server.metric(CPU)
        os.kill(fronts_of(server)[0], signal.SIGKILL)
        limit_s = time.monotonic() + 60
        seen = [before_s]
        while "another starts in" not in server.log() or _up(server) < 2:
            assert time.monotonic() < limit_s
            if (cpu_s := _metric(server, CPU)) is not None:
                seen.append(cpu_s)
        assert seen == sorted(seen)  # a process that has gone takes nothing along
        assert server.metric("stfs_front_restarts_total") == 1
        wait_until(lambda: _up(server) == 2)


def _first_tick(server):
    """What the dashboard shows next."""
    connection = server.connect()
    connection.request("GET", "/live")
    response = connection.getresponse()
    try:
        while response.readline().strip() != b"event: tick":
            pass
        return json.loads(response.readline().removeprefix(b"data: "))
    finally:
        connection.close()


def _metric(server, name):
    """``None`` from a connection that the kernel had given to the front that died."""
    try:
        return server.metric(name)
    except OSError:
        return None


def _up(server):
    return _metric(server, "stfs_front_up") or 0
