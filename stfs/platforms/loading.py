"""Opens a model: by its platform on a thread of this process, or in a worker process where that is called for.

Must not live here: which versions are served, batching, how worker processes work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stfs.errors import ConfigError
from stfs.platforms import processing
from stfs.platforms.base import LoadOptions, Platform, Servable
from stfs.platforms.memory_limit import check_limit
from stfs.platforms.placement import ANYWHERE, Seat


@dataclass(frozen=True, slots=True)
class Hosting:
    """Where a model runs and what stands around it.

    ``isolation`` is ``auto`` (the platform says), ``thread`` or ``process``. ``python`` is another interpreter to run
    the worker process with, empty for this one. ``processing_file`` holds ``preprocess`` and ``postprocess`` functions.
    ``seat`` is what a worker process has for itself.
    """

    isolation: str = "auto"
    python: str = ""
    processing_file: Path | None = None
    seat: Seat = ANYWHERE


def open_servable(platform: Platform, path: Path, options: LoadOptions, hosting: Hosting) -> Servable:
    """The model at ``path``, ready to run; blocking.

    Raises :class:`stfs.errors.SetupError`, as :meth:`Platform.load` does.
    """
    check_limit(platform, options, hosting.isolation)
    if not (needs_worker(platform, path, hosting) or options.memory_limit_bytes):
        return load_here(platform, path, options, hosting)
    from stfs.platforms.worker import open_in_worker  # not at the top: a worker process imports this file too

    return open_in_worker(platform, path, options, hosting)


def load_here(platform: Platform, path: Path, options: LoadOptions, hosting: Hosting) -> Servable:
    """The model at ``path``, loaded into this process, be it the server or a worker; raises as :func:`open_servable`.

    Of ``hosting``, only ``processing_file`` counts here.
    """
    file = processing.find_processing(path, hosting.processing_file)
    servable = platform.load(path, options)
    if file is None:
        return servable
    try:
        return processing.wrap(servable, file)
    except BaseException:
        servable.close()
        raise


def needs_worker(platform: Platform, path: Path, hosting: Hosting) -> bool:
    """Whether the model runs in a worker process: the user says so, or the platform does and the user says nothing.

    Raises :class:`ConfigError` for ``thread`` where that cannot be.
    """
    if hosting.isolation == "thread":
        if hosting.python:
            raise ConfigError("python names the interpreter of a worker process: isolation cannot be thread then")
        if platform.isolation == "process":
            raise ConfigError(f"models of {platform.name} run in a worker process only: isolation cannot be thread")
        return False
    if hosting.isolation == "process" or hosting.python:
        return True
    return "process" in (platform.isolation, platform.isolation_for(path))
