"""A model on this machine, loaded for a command as the server would load it, with every option of ``stfs serve``.

Must not live here: how versions are watched (``lifecycle``), what is done with the model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stfs import config, platforms
from stfs.config import ModelConfig
from stfs.errors import ConfigError, LoadFailed
from stfs.first_runs import warm_up
from stfs.loader import files_of, load_servable
from stfs.platforms.base import Servable
from stfs.repository_file import with_file
from stfs.signature import Signature


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A loaded model. ``signatures`` are settled by the warm-up (whether they batch); ``versions`` are those found."""

    config: ModelConfig
    version: int
    versions: tuple[int, ...]
    path: Path
    servable: Servable
    signatures: Mapping[str, Signature]


def configured(argv: Sequence[str], prog: str) -> ModelConfig:
    """The one model that flags, environment, configuration file and its ``config.pbtxt`` say, as for ``stfs serve``.

    Raises :class:`ConfigError`; also where a configuration file names several models.
    """
    models = config.from_environment(argv, prog=prog, positional=True, defaults={}).models
    if len(models) != 1:
        names = ", ".join(model.name for model in models)
        raise ConfigError(f"the configuration names {len(models)} models ({names}): give the path of one")
    return with_file(models[0])


def versions_of(model: ModelConfig) -> dict[int, Path]:
    """Every version that is there. Raises :class:`LoadFailed` if none is, saying what to do."""
    path = model.base_path
    is_model = platforms.find(model.platform).detect if model.platform else platforms.is_model
    if path.is_dir():
        numbered = {int(child.name): child for child in path.iterdir() if child.name.isascii() and child.name.isdigit()}
        if numbered:
            return dict(sorted(numbered.items()))
    if path.exists() or is_model(path):
        return {1: path}
    raise LoadFailed(f"there is no {path}: give a model file, a model's folder, or a folder of numbered versions")


@contextlib.contextmanager
def opened(model: ModelConfig, wanted: int | None = None) -> Iterator[LocalModel]:
    """The model's version ``wanted`` (``None``: the latest), loaded and warmed up; closed after the block. Blocking.

    Raises :class:`stfs.errors.SetupError` with one line that says what is wrong.
    """
    found = versions_of(model)
    version = max(found) if wanted is None else wanted
    if version not in found:
        raise ConfigError(f"--version: {model.base_path} has {', '.join(map(str, found))}, but no {version}")
    path = files_of(model, found[version])
    servable = load_servable(model, path)
    try:
        signatures = warm_up(servable, model.batchable)
        yield LocalModel(model, version, tuple(found), path, servable, signatures)
    finally:
        servable.close()


def version_number(text: str) -> int:
    """A version as an argument says it."""
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f"--version: expected a whole number, not {text!r}")
    return int(text)
