"""Models in worker processes, as the server sees them: what may abort, holds the GIL or owns a JVM, and whoever asks.

Must not live here: keeping processes alive (:mod:`stfs.platforms.worker_supervisor`), messages and processes themselves
(:mod:`stfs.platforms.worker_process`), tensor bytes (:mod:`stfs.platforms.shared_memory`), what happens inside
(:mod:`stfs.platforms.worker_child`).
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from stfs.errors import ConfigError, LoadFailed
from stfs.platforms.base import LoadOptions, Platform, Servable, WorkerStatus
from stfs.platforms.loading import Hosting
from stfs.platforms.memory_limit import told
from stfs.platforms.placement import Seat
from stfs.platforms.worker_messages import Message, encode_options
from stfs.platforms.worker_supervisor import Hosted, Loaded, Worker
from stfs.signature import Array, Tensors

_groups: dict[tuple[str, str, Seat], Worker] = {}
_groups_lock = threading.Lock()


def open_in_worker(platform: Platform, path: Path, options: LoadOptions, hosting: Hosting) -> Servable:
    """The model at ``path``, loaded into a worker process: a new one, or the one that its group has; blocking.

    Raises :class:`stfs.errors.SetupError`, as :meth:`Platform.load` does, also if the process dies of the load.
    """
    python = _interpreter(hosting.python)
    kind = type(platform)
    order: Message = {
        "op": "load",
        "platform": f"{kind.__module__}:{kind.__qualname__}",
        "path": str(path.absolute()),
        "options": encode_options(options),
        "processing_file": str(hosting.processing_file.absolute()) if hosting.processing_file else "",
    }
    if not platform.worker_group:
        worker = Worker(f'worker of model "{options.model_name}"', python, hosting.seat)
        hosted = worker.host(options.model_name, path, order)
    else:
        with _groups_lock:
            key = (platform.worker_group, python, hosting.seat)
            worker = _groups.get(key) or Worker(f'worker "{platform.worker_group}"', python, hosting.seat)
            hosted = worker.host(options.model_name, path, order)
            if hosted is None:  # its last model has just been closed
                worker = Worker(worker.name, python, hosting.seat)
                hosted = worker.host(options.model_name, path, order)
            _groups[key] = worker
    assert hosted is not None, "a new worker takes a model"
    try:
        return WorkerServable(worker, hosted, hosted.first.result())
    except LoadFailed as error:
        limit_bytes = options.memory_limit_bytes
        if not limit_bytes or "memory_limit" in str(error):
            raise
        # Libraries that end the process for want of memory say so in many ways, or in none.
        raise LoadFailed(f"{error} (memory_limit bounds it to {told(limit_bytes)})") from error


class WorkerServable(Servable):
    """A model in a worker process, seen from the server. Keeps the contract of :class:`Servable` in full."""

    ends_runs = True

    def __init__(self, worker: Worker, hosted: Hosted, loaded: Loaded) -> None:
        self._worker = worker
        self._hosted = hosted
        self._default = loaded.default
        self.platform = loaded.platform
        self.runtime = f"{loaded.runtime}, in a worker process"
        self.signatures = loaded.signatures
        self.concurrent = loaded.concurrent
        self.on_gpu = loaded.on_gpu

    @property
    def default_signature(self) -> str:
        """What the model itself says."""
        return self._default

    @property
    def worker_status(self) -> WorkerStatus:
        """See :attr:`Servable.worker_status`."""
        return self._worker.status(self._hosted)

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`. Raises :class:`Unavailable` while the process is being restarted."""
        return self._worker.run(self._hosted, signature_name, inputs)

    def run_within(self, limit_s: float, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run_within`. A run is ended by ending its process, with all that runs in it."""
        return self._worker.run(self._hosted, signature_name, inputs, limit_s)

    def is_up(self) -> bool:
        """See :meth:`Servable.is_up`."""
        return self._worker.is_up(self._hosted)

    def close(self) -> None:
        """See :meth:`Servable.close`. A run that is still under way is told :class:`Unavailable`. Bounded in time."""
        self._worker.close(self._hosted)


def _interpreter(python: str) -> str:
    """The interpreter's path, empty for this process's own. Raises :class:`ConfigError` if there is none."""
    if not python:
        if not sys.executable:
            raise ConfigError("this program does not know its own interpreter: say which with the python option")
        return ""
    found = shutil.which(Path(python).expanduser())
    if found is None:
        raise ConfigError(f"python: {python} is no program; name an interpreter, such as /opt/env/bin/python")
    return str(Path(found).absolute())
