"""What a server takes of its machine: processor, memory, GPU. By ``/proc``, and NVIDIA's library if it is installed.

Must not live here: when it is asked, who is shown it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger("stfs.web")

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process: processor time in seconds since it started, bytes in RAM, and of its address space."""

    cpu_s: float
    memory_bytes: int
    virtual_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Files and sockets that a process has open, and how many it may have: infinity for any number."""

    open: int
    limit: float

    @property
    def share(self) -> float:
        """How much of what it may have it has."""
        return self.open / max(1.0, self.limit)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, whoever uses it: ``busy`` is the share of the last moments in which it worked."""

    name: str
    busy: float
    memory_bytes: int
    memory_total_bytes: int


def of_process(pid: int | None = None) -> Usage | None:
    """What a process (this one if ``None``) has used, its threads included; ``None`` if it has gone.

    Fields of ``/proc/PID/stat`` and ``statm`` as proc(5) numbers them.
    """
    folder = Path("/proc") / ("self" if pid is None else str(pid))
    try:
        # The name stands in parentheses and may hold anything, parentheses too.
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        resident = int((folder / "statm").read_text().split()[1])
        return Usage((int(fields[11]) + int(fields[12])) / _TICKS, resident * _PAGE_BYTES, int(fields[20]))
    except (OSError, ValueError, IndexError):
        return None


def descriptors(pid: int | None = None) -> Descriptors | None:
    """Of a process (this one if ``None``); ``None`` if it has gone, or does not let itself be looked at."""
    folder = Path("/proc") / ("self" if pid is None else str(pid))
    try:
        count = len(os.listdir(folder / "fd"))  # noqa: PTH208 - of thousands, and only their number matters
        line = next(line for line in (folder / "limits").read_text().splitlines() if line.startswith("Max open files"))
        limit = line.split()[3]
        return Descriptors(count, math.inf if limit == "unlimited" else float(limit))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def started_at_s() -> float | None:
    """When this process started, in seconds since 1970; ``None`` where Linux does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
        return float(booted.split()[1]) + int(fields[19]) / _TICKS
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def children() -> list[int]:
    """The processes that this one has started and that live: workers, front ends. None where Linux does not tell.

    ``/proc/PID/task/TID/children`` of proc(5): those that each thread has started.
    """
    found: list[int] = []
    for listed in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError, ValueError):  # the thread has ended meanwhile
            found += map(int, listed.read_text().split())
    return found


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0))


def memory_limit_bytes() -> int:
    """The machine's memory, or what the control group is allowed if that is less; 0 if neither is known."""
    limits = []
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # "max": none
            continue
    try:
        limits.append(os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES)
    except (OSError, ValueError):
        return min(limits, default=0)
    return min(limits)


class Processor:
    """Turns growing processor times into cores in use. Processes come and go: only those seen twice count."""

    def __init__(self) -> None:
        self._seen: dict[int | None, float] = {}
        self._at_s = 0.0

    def cores_used(self, at_s: float, used: Iterable[tuple[int | None, Usage]]) -> float:
        """The mean since the last call; 0.0 by the first."""
        before, self._seen = self._seen, {pid: usage.cpu_s for pid, usage in used}
        elapsed_s, self._at_s = at_s - self._at_s, at_s
        spent_s = sum(max(0.0, cpu_s - before[pid]) for pid, cpu_s in self._seen.items() if pid in before)
        return spent_s / elapsed_s if before and elapsed_s > 0 else 0.0


class Gpus:
    """NVIDIA's GPUs, asked through ``nvidia-ml-py`` if it is installed."""

    def __init__(self) -> None:
        self._library: Any = None
        self._absent = False

    def read(self) -> tuple[Gpu, ...]:
        """All there are; none where the library, the driver or the GPUs are not there.

        Blocks; for any thread, one at a time.
        """
        if self._absent:
            return ()
        try:
            if self._library is None:
                import pynvml

                pynvml.nvmlInit()
                self._library = pynvml
            return tuple(self._one(index) for index in range(self._library.nvmlDeviceGetCount()))
        except Exception as error:  # its own errors are made at run time, by the driver's codes
            self._absent = True
            log.debug("GPUs are not shown: %s", error)
            return ()

    def _one(self, index: int) -> Gpu:
        library = self._library
        handle = library.nvmlDeviceGetHandleByIndex(index)
        name = library.nvmlDeviceGetName(handle)
        memory = library.nvmlDeviceGetMemoryInfo(handle)
        try:
            busy = library.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except library.NVMLError:  # a part of a GPU (MIG) does not tell
            busy = 0.0
        return Gpu(name if isinstance(name, str) else name.decode(), busy, int(memory.used), int(memory.total))
