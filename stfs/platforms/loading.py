"""Opens a model: by its platform on a thread of this process, or in a worker process where that is called for.

Must not live here: which versions are served, batching.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stfs.platforms.base import LoadOptions, Platform, Servable


@dataclass(frozen=True, slots=True)
class Hosting:
    """Where a model runs and what stands around it.

    ``isolation`` is ``auto`` (the platform says), ``thread`` or ``process``. ``python`` is another interpreter to run
    the worker process with, empty for this one. ``processing_file`` holds ``preprocess`` and ``postprocess`` functions.
    """

    isolation: str = "auto"
    python: str = ""
    processing_file: Path | None = None


def open_servable(platform: Platform, path: Path, options: LoadOptions, hosting: Hosting) -> Servable:
    """The model at ``path``, ready to run; blocking.

    Raises :class:`stfs.errors.SetupError`, as :meth:`Platform.load` does.
    """
    return platform.load(path, options)
