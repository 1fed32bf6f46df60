"""``ModelServerConfig``, TensorFlow Serving's list of models, made into ours. Pure: messages in, values out.

Checks and their wording follow ``model_servers/server_core.cc``. Any message object of these field names will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from stfs.config import ModelConfig
from stfs.errors import ConfigError
from stfs.lifecycle.policy import All, Latest, Specific, VersionPolicy

_MODEL_TYPE_TENSORFLOW, _MODEL_TYPE_OTHER = 1, 2


def models(config: Any, common: ModelConfig) -> tuple[ModelConfig, ...]:
    """The models of a ``ModelServerConfig``, each with what ``common`` says beside name, path, platform and versions.

    Raises :class:`ConfigError` for what cannot be meant or cannot be had here; nothing is looked up on disk.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise ConfigError("ModelServer does not yet support custom model config: list the models in model_config_list")
    found: dict[str, ModelConfig] = {}
    for entry in config.model_config_list.config:
        if entry.name in found:
            raise ConfigError(f"Illegal to list model {entry.name} multiple times in config list")
        found[entry.name] = replace(
            common,
            name=checked_name(entry.name),
            base_path=checked_path(entry.name, entry.base_path),
            platform=_platform(entry),
            version_policy=_policy(entry),
            version_labels=_labels(entry),
        )
    return tuple(found.values())


def check_change(before: tuple[ModelConfig, ...], after: tuple[ModelConfig, ...]) -> None:
    """Raise :class:`ConfigError` if a model that stays is to have another platform."""
    platforms: Mapping[str, str | None] = {model.name: model.platform for model in before}
    for model in after:
        old = platforms.get(model.name, model.platform)
        if old != model.platform:
            raise ConfigError(
                f"Illegal to change a model's platform. For model {model.name} platform was {old or 'not given'} "
                f"and new platform requested is {model.platform or 'not given'}"
            )


def checked_name(name: str) -> str:
    """A model's name, if addresses can hold it."""
    if not name or any(character in "/:" or ord(character) < 32 for character in name):
        raise ConfigError(f'model name "{name}": it stands in addresses, so it is not empty and has no "/" and no ":"')
    return name


def checked_path(name: str, base_path: str) -> Path:
    """A model's base path, which must be absolute and on this machine."""
    parts = urlsplit(base_path)
    if parts.scheme == "file" and not parts.netloc:
        base_path = parts.path
    elif "://" in base_path:
        raise ConfigError(
            f"model {name}: base_path {base_path} is not on this machine: mount it, and give the path that it has here"
        )
    if not base_path.startswith("/"):
        raise ConfigError(f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}")
    return Path(base_path)


def _platform(entry: Any) -> str | None:
    """Not given means here that the files are to tell, where TensorFlow Serving refuses it."""
    if entry.model_type == 0:
        return entry.model_platform or None
    if entry.model_platform:
        raise ConfigError(
            f"model {entry.name}: Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform"
        )
    if entry.model_type == _MODEL_TYPE_TENSORFLOW:
        return "tensorflow"
    raise ConfigError(
        f"model {entry.name}: ModelServerConfig::model_type choice: OTHER is not served: set model_platform"
    )


def _policy(entry: Any) -> VersionPolicy:
    policy = entry.model_version_policy
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            versions = frozenset(policy.specific.versions)
            if not versions or min(versions) < 0:
                raise ConfigError(f"model {entry.name}: model_version_policy specific needs versions, of 0 or more")
            return Specific(versions)
        case _:
            return Latest(max(1, policy.latest.num_versions))


def _labels(entry: Any) -> dict[str, int]:
    labels = dict(entry.version_labels)
    for label, version in labels.items():
        if not label or version < 0:
            raise ConfigError(f'model {entry.name}: version label "{label}" of version {version} cannot be')
    return labels
