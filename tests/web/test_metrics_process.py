"""The ``process_*`` metrics of a server's processes, against the system's own counts."""

import subprocess
import sys
from pathlib import Path

import pytest

from stfs.web import metrics_process
from stfs.web.metrics_process import WholeServer
from stfs.web.usage import Descriptors, Usage, of_process


def told_by(server: WholeServer) -> dict[str, float]:
    return {sample.name: sample.value for metric in server.collect() for sample in metric.samples}


def test_processor_time_of_a_child_counts_while_it_lives_and_when_it_has_gone():
    server = WholeServer()
    before = told_by(server)
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"\n"
        during = told_by(server)
        usage = of_process(child.pid)
        assert usage is not None
        alone = of_process()
        assert alone is not None
        child.communicate(b"\n")
    after = told_by(server)
    cpu = "process_cpu_seconds_total"
    assert during[cpu] >= before[cpu] + 0.4
    assert after[cpu] >= during[cpu]
    assert during["process_resident_memory_bytes"] >= (alone.memory_bytes + usage.memory_bytes) * 0.9
    assert during["process_virtual_memory_bytes"] > usage.virtual_bytes >= usage.memory_bytes


def test_the_counter_does_not_fall_and_files_are_of_the_fullest_process(monkeypatch):
    used = {None: Usage(5.0, 100, 1000), 7: Usage(2.0, 10, 200)}
    files = {None: Descriptors(50, 1000), 7: Descriptors(30, 100)}
    monkeypatch.setattr(metrics_process, "children", lambda: [7, 8])
    monkeypatch.setattr(metrics_process, "of_process", used.get)
    monkeypatch.setattr(metrics_process, "descriptors", files.get)
    server = WholeServer()
    first = told_by(server)
    assert (first["process_resident_memory_bytes"], first["process_virtual_memory_bytes"]) == (110, 1200)
    assert (first["process_open_fds"], first["process_max_fds"]) == (30, 100)
    del used[7], files[7]  # it has ended, and nobody has waited for it yet
    second = told_by(server)
    assert second["process_cpu_seconds_total"] == first["process_cpu_seconds_total"]
    assert (second["process_open_fds"], second["process_max_fds"]) == (50, 1000)
    used.clear()
    assert told_by(server) == {}


def test_files_of_this_process_alone(monkeypatch):
    monkeypatch.setattr(metrics_process, "children", list)
    assert told_by(WholeServer())["process_open_fds"] == pytest.approx(len([*Path("/proc/self/fd").iterdir()]), abs=3)
