"""``memory_limit``: the memory that a model in a worker process may have, of its process or of its GPU.

What bounds the process is ``RLIMIT_DATA`` (setrlimit(2)): private memory that is writable, as malloc, numpy and the
frameworks have it, Python and the framework themselves included. A call that would go over it gets no memory, as on a
machine that has no more; what is shared with the server does not count. CUDA reserves addresses without end, so the
process of a model on a GPU is not bounded but its memory there is, which is for the adapters to see to.

Must not live here: which exceptions mean that memory ran out (``memory``), what frameworks are told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from stfs.errors import ConfigError, LoadFailed, SetupError
from stfs.platforms.base import LoadOptions, Platform, Servable, one_line
from stfs.platforms.memory import out_of_memory

GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
"""Where the drivers of NVIDIA's GPUs are found, the last in WSL."""

_NO_ROOM = re.compile(
    "failed to map segment|cannot allocate memory|can't start new thread|bad_alloc|out of memory", re.IGNORECASE
)
"""How imports and loads fail for want of memory, in other words than those of an allocator."""


def check_limit(platform: Platform, options: LoadOptions, isolation: str) -> None:
    """Raises :class:`ConfigError` where a limit is set that could not be kept."""
    if not options.memory_limit_bytes:
        return
    if isolation == "thread":
        raise ConfigError("memory_limit bounds the model's own process: isolation cannot be thread then")
    if platform.worker_group:
        raise ConfigError(f"models of {platform.name} share a process: bound it by jvm_heap, and not by memory_limit")


def may_use_gpu(options: LoadOptions) -> bool:
    """Whether the model could come to run on a GPU of this machine."""
    return options.device != "cpu" and any(Path(file).exists() for file in GPU_FILES)


def bound_process(limit_bytes: int, path: Path) -> None:
    """Let this process have so much memory, for good. Raises :class:`LoadFailed` if it has more already, for the model
    at ``path``.
    """
    import resource

    has_bytes = _data_bytes()
    if has_bytes > limit_bytes:
        has = f"the process has taken {told(has_bytes)} for Python and its libraries"
        raise LoadFailed(f"{path}: memory_limit of {told(limit_bytes)} is too low: {has}")
    resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def load_within(options: LoadOptions, path: Path, load: Callable[[], Servable]) -> Servable:
    """What ``load`` gives, by no more memory than ``options`` allow, which stays so; in the model's own process.

    Raises what ``load`` raises, and :class:`LoadFailed` where the limit is too low for it.
    """
    limit_bytes = options.memory_limit_bytes
    if not limit_bytes:
        return load()
    at_once = not may_use_gpu(options)
    try:
        if at_once:
            bound_process(limit_bytes, path)
        servable = load()
        if not (at_once or servable.on_gpu):
            bound_process(limit_bytes, path)
    except Exception as error:
        raise load_error(error, path, limit_bytes) or error from error
    return servable


def load_error(error: BaseException, path: Path, limit_bytes: int) -> LoadFailed | None:
    """What to raise in the place of ``error`` if it was the limit that kept the model from loading."""
    said = out_of_memory(error)
    if said is None and isinstance(error, SetupError | OSError | RuntimeError) and _NO_ROOM.search(str(error)):
        said = one_line(error)
    if said is None:
        return None
    return LoadFailed(f"{path}: does not load within memory_limit of {told(limit_bytes)}: {said}")


def told(size: int) -> str:
    """``300 MiB``; what is no whole number of them, and little, in bytes."""
    if size < 10 << 20 and size % (1 << 20):
        return f"{size} byte{'s'[: size > 1]}"
    return f"{size / (1 << 20):.0f} MiB"


def _data_bytes() -> int:
    """What ``RLIMIT_DATA`` looks at; 0 where that is not told."""
    try:
        found = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) << 10 if found else 0
