"""What the server takes of its machine, against what the system says by other ways."""

import math
import os
import resource
import subprocess
import sys
import time
from types import ModuleType, SimpleNamespace

import pytest

from stfs.web.usage import (
    Descriptors,
    Gpu,
    Gpus,
    Processor,
    Usage,
    children,
    cores,
    descriptors,
    memory_limit_bytes,
    of_process,
    started_at_s,
)


def test_a_process_is_told_as_the_system_tells_it():
    sum(number * number for number in range(300_000))  # some processor time to tell of
    usage = of_process()
    assert usage is not None
    told = resource.getrusage(resource.RUSAGE_SELF)
    assert usage.cpu_s == pytest.approx(told.ru_utime + told.ru_stime, abs=0.1)
    assert 0 < usage.memory_bytes <= told.ru_maxrss * 1024 * 1.05


def test_a_process_whose_name_is_odd_is_told_and_one_that_has_gone_is_not(tmp_path):
    odd = tmp_path / "a) 9 (b"
    odd.symlink_to(sys.executable)
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([odd, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"  # it runs
        usage = of_process(process.pid)
        assert usage is not None
        assert usage.memory_bytes > 1 << 20
        assert process.pid in children()
        process.communicate()
    assert of_process(process.pid) is None
    assert process.pid not in children()


def test_open_files_are_counted_against_the_limit():
    before = descriptors()
    assert before is not None
    assert before.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        after = descriptors()
        assert after is not None
        assert after.open == before.open + 5
        assert after.share > before.share
    finally:
        for fd in opened:
            os.close(fd)
    assert Descriptors(10, math.inf).share == 0
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert descriptors(process.pid) is None


def test_when_this_process_started():
    code = "import time; from stfs.web.usage import started_at_s; print(started_at_s(), time.time())"
    before_s = time.time()
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    started_s, then_s = map(float, told)
    assert before_s - 2 <= started_s <= then_s + 2  # the system tells when it was booted in whole seconds
    assert (started_at_s() or 0) < before_s + 2


def test_cores_in_use_are_those_of_processes_seen_twice():
    processor = Processor()
    assert processor.cores_used(10.0, [(None, Usage(100.0, 0))]) == 0.0
    assert processor.cores_used(12.0, [(None, Usage(101.0, 0)), (7, Usage(50.0, 0))]) == 0.5
    assert processor.cores_used(14.0, [(None, Usage(102.0, 0)), (7, Usage(53.0, 0))]) == 2.0
    assert processor.cores_used(15.0, [(None, Usage(102.0, 0))]) == 0.0  # 7 has gone
    assert processor.cores_used(16.0, [(None, Usage(102.5, 0)), (7, Usage(0.0, 0))]) == 0.5


def test_what_there_is_to_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert 0 < memory_limit_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def library(count=2, fails=False):
    """As much of NVIDIA's library as is asked; the second GPU does not tell how busy it is."""
    made = ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    def start():
        if fails:
            raise NVMLError("Driver Not Loaded")

    def busy(index):
        if index:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=37)

    made.NVMLError = NVMLError
    made.nvmlInit = start
    made.nvmlDeviceGetCount = lambda: count
    made.nvmlDeviceGetHandleByIndex = lambda index: index
    made.nvmlDeviceGetName = lambda index: "One" if index == 0 else b"Two"
    made.nvmlDeviceGetMemoryInfo = lambda index: SimpleNamespace(used=3 << 30, total=16 << 30)
    made.nvmlDeviceGetUtilizationRates = busy
    return made


def test_gpus_are_told_where_the_library_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", library())
    assert Gpus().read() == (Gpu("One", 0.37, 3 << 30, 16 << 30), Gpu("Two", 0.0, 3 << 30, 16 << 30))


@pytest.mark.parametrize("there", [None, library(fails=True), library(count=0)])
def test_no_gpus_are_told_where_there_are_none(monkeypatch, there):
    monkeypatch.setitem(sys.modules, "pynvml", there)
    gpus = Gpus()
    assert (gpus.read(), gpus.read()) == ((), ())
