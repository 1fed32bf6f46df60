"""Triton's model configuration as far as it has a counterpart here: read over ours, and told of ours.

Source: ``model_config.proto`` in its JSON form. Pure functions, but for lines in the log about what changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stfs.config import ModelConfig
from stfs.errors import ConfigError, InvalidRequest
from stfs.lifecycle.policy import All, Latest, Specific, VersionPolicy
from stfs.platforms.placement import MOST_INSTANCES
from stfs.repository_batching import integer, read_batching

DEFAULT_CACHE_BYTES = 64 << 20
"""Memory for the answers of a model whose configuration asks for a cache and says no size."""

_DEVICES = {"KIND_AUTO": "", "KIND_CPU": "cpu", "KIND_GPU": "cuda", "KIND_MODEL": ""}
"""The device that each kind of instances means; empty: as the model has it."""

_WITHOUT_MEANING = frozenset(
    {
        "name",
        "platform",
        "backend",
        "runtime",
        "input",
        "output",
        "batch_input",
        "batch_output",
        "parameters",
        "default_model_filename",
        "cc_model_filenames",
        "metric_tags",
        "model_warmup",
        "model_operations",
        "model_transaction_policy",
        "model_repository_agents",
        "model_metrics",
    }
)
"""Fields of Triton's that the files, or the server, decide here. They are let pass: clients send back what they got."""


_DESCRIPTIVE = frozenset({"name", "platform", "backend", "runtime", "input", "output", "instance_group"})
"""Fields that this server tells itself. Of the others that mean nothing the log says so, if they ask for anything."""

log = logging.getLogger(__name__)


def overridden(model: ModelConfig, text: str) -> ModelConfig:
    """``model`` with what the JSON ``text`` says of ``max_batch_size``, ``dynamic_batching``, ``instance_group``,
    ``response_cache``, ``version_policy`` and ``optimization`` (CUDA graphs).

    Raises :class:`InvalidRequest` for what cannot be meant or cannot be had here.
    """
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f'the parameter "config" is not JSON: {error}') from None
    if not isinstance(told, dict):
        raise InvalidRequest('the parameter "config" must hold a JSON object')
    # The size comes first, since others are measured by it.
    for key, value in sorted(told.items(), key=lambda item: item[0] != "max_batch_size"):
        if key == "max_batch_size":
            model = _with_size(model, integer(value, key))
        elif key == "dynamic_batching":
            model = _with_batching(model, value)
        elif key == "instance_group":
            model = _with_instances(model, value)
        elif key == "response_cache":
            model = _with_cache(model, value)
        elif key == "version_policy":
            model = replace(model, version_policy=_policy(value))
        elif key == "optimization":
            model = _with_optimization(model, value)
        elif key not in _WITHOUT_MEANING:
            raise InvalidRequest(
                f'the parameter "config": "{key[:60]}" cannot be set here; '
                "max_batch_size, dynamic_batching, instance_group, response_cache and version_policy can"
            )
        elif key not in _DESCRIPTIVE and value:
            log.warning('model %s: "%s" of its configuration changes nothing here', model.name, key)
    return model


def policy_told(policy: VersionPolicy) -> dict[str, Any]:
    """A version policy as Triton tells it."""
    match policy:
        case Latest(n):
            return {"latest": {"num_versions": n}}
        case All():
            return {"all": {}}
        case Specific(versions):
            return {"specific": {"versions": sorted(versions)}}


def _with_size(model: ModelConfig, size: int) -> ModelConfig:
    """0 is Triton's word for a model whose rows do not stack."""
    if size == 0:
        return replace(model, batchable=False)
    sizes = model.batch.allowed_batch_sizes
    allowed = (*(n for n in sizes if n < size), size) if sizes else ()
    try:
        preferred = tuple(n for n in model.batch.preferred_batch_sizes if n <= size)
        batch = replace(model.batch, max_batch_size=size, allowed_batch_sizes=allowed, preferred_batch_sizes=preferred)
    except ConfigError as error:
        raise InvalidRequest(f'the parameter "config": {error}') from None
    return replace(model, batch=batch, batchable=None)


def _with_batching(model: ModelConfig, value: Any) -> ModelConfig:
    batch, warnings = read_batching(model.batch, value)
    for line in warnings:
        log.warning("model %s: dynamic_batching: %s", model.name, line)
    return replace(model, batch=batch)


def _with_instances(model: ModelConfig, value: Any) -> ModelConfig:
    """Triton counts instances on each GPU of a group; without a list of them it means all, where one is meant here."""
    if not isinstance(value, list) or not all(isinstance(group, Mapping) for group in value):
        raise InvalidRequest('the parameter "config": "instance_group" must be a list of objects')
    groups = [group for group in value if not group.get("passive")]
    if not groups:
        return model
    count, gpus, devices = 0, dict[int, None](), set[str]()
    for group in groups:
        kind = group.get("kind", "KIND_AUTO")
        if kind not in _DEVICES:
            raise InvalidRequest(f'the parameter "config": "kind" must be one of {", ".join(_DEVICES)}')
        listed = group.get("gpus") or []
        if not isinstance(listed, list) or (listed and kind == "KIND_CPU"):
            raise InvalidRequest('the parameter "config": "gpus" must be a list of numbers, and KIND_CPU has none')
        numbers = [integer(number, "gpus") for number in listed]
        each = integer(group.get("count", 1), "count") or 1
        count += each * max(1, len(numbers))
        gpus |= dict.fromkeys(numbers)
        devices.add("cuda" if numbers else _DEVICES[kind] or model.device)
    if len(devices) > 1:
        raise InvalidRequest('the parameter "config": "instance_group" puts instances on CPU and GPU, which cannot be')
    if count > MOST_INSTANCES:
        raise InvalidRequest(
            f'the parameter "config": "instance_group" has {count} instances, {MOST_INSTANCES} at most'
        )
    return replace(model, instances=count, gpus=tuple(gpus), device=devices.pop())


def _with_cache(model: ModelConfig, value: Any) -> ModelConfig:
    """Triton says how large its cache is elsewhere, for all models."""
    enable = value.get("enable", False) if isinstance(value, Mapping) else None
    if not isinstance(enable, bool):
        raise InvalidRequest('the parameter "config": "response_cache" must be {"enable": true} or {"enable": false}')
    return replace(model, cache_bytes=(model.cache_bytes or DEFAULT_CACHE_BYTES) if enable else 0)


def _with_optimization(model: ModelConfig, value: Any) -> ModelConfig:
    """Triton chooses by itself for which sizes it captures graphs; here they are powers of two, where none are said."""
    cuda = value.get("cuda") or {} if isinstance(value, Mapping) else None
    if not isinstance(cuda, Mapping) or not isinstance(cuda.get("graphs", False), bool):
        raise InvalidRequest(
            'the parameter "config": "optimization" must be an object, such as {"cuda": {"graphs": true}}'
        )
    idle = [key for key, told in value.items() if key != "cuda" and told]
    idle += [f"cuda.{key}" for key, told in cuda.items() if key != "graphs" and told]
    for key in idle:
        log.warning('model %s: "optimization.%s" of its configuration changes nothing here', model.name, key[:60])
    if "graphs" not in cuda:
        return model
    batch = model.batch
    if cuda["graphs"] and not batch.allowed_batch_sizes:
        most = batch.max_batch_size
        smaller = (1 << n for n in range(most.bit_length()) if 1 << n < most)
        batch = replace(batch, allowed_batch_sizes=(*smaller, most))
    return replace(model, batch=batch, cuda_graphs=cuda["graphs"])


def _policy(value: Any) -> VersionPolicy:
    match value:
        case {"latest": {"num_versions": n}}:
            count = integer(n, "num_versions")
            if count == 0:
                raise InvalidRequest('the parameter "config": "num_versions" must be 1 or more')
            return Latest(count)
        case {"latest": {}}:
            return Latest(1)
        case {"specific": {"versions": [*versions]}} if versions:
            return Specific(frozenset(integer(version, "versions") for version in versions))
        case {"all": {}}:
            return All()
    raise InvalidRequest(
        'the parameter "config": "version_policy" must be {"latest": {"num_versions": N}}, {"all": {}} '
        'or {"specific": {"versions": [...]}}'
    )
