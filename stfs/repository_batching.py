"""Triton's ``dynamic_batching`` read over our batching, and told of ours.

Source: ``ModelDynamicBatching`` and ``ModelQueuePolicy`` of ``model_config.proto``, in their JSON form. Pure functions.
What differs is in ``docs/batching.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue_policy import QueuePolicy
from stfs.errors import ConfigError, InvalidRequest

_ACTIONS = {"REJECT": "reject", "DELAY": "delay", 0: "reject", 1: "delay"}


def read_batching(batch: BatchPolicy, told: Any) -> tuple[BatchPolicy, list[str]]:
    """``batch`` with what ``told`` says, and lines that name what changes nothing here.

    Raises :class:`InvalidRequest` for what cannot be meant.
    """
    given = _object(told, "dynamic_batching")
    warnings: list[str] = []
    changed: dict[str, Any] = {}
    for key, value in given.items():
        match key:
            case "preferred_batch_size":
                changed["preferred_batch_sizes"] = tuple(sorted({integer(size, key) for size in _list(value, key)}))
            case "max_queue_delay_microseconds":
                changed["batch_timeout_s"] = integer(value, key) / 1e6
            case "priority_levels" | "default_priority_level":
                changed[key] = integer(value, key)
            case "default_queue_policy":
                changed["queue"] = _queue(value, key, warnings)
            case "priority_queue_policy":
                changed["level_queues"] = tuple(
                    sorted(
                        (integer(level, key), _queue(one, f"{key} {level}", warnings))
                        for level, one in _object(value, key).items()
                    )
                )
            case "preserve_ordering":
                if value:
                    warnings.append(f"{key} changes nothing here: answers go out as soon as they are there")
            case _:
                raise InvalidRequest(f'the parameter "config": "dynamic_batching" has no "{str(key)[:60]}"')
    if "priority_levels" in changed and "level_queues" not in changed:  # those of levels that may be gone
        changed["level_queues"] = tuple(one for one in batch.level_queues if one[0] <= changed["priority_levels"])
    try:
        return replace(batch, **changed), warnings
    except ConfigError as error:
        raise InvalidRequest(f'the parameter "config": {error}') from None


def batching_told(batch: BatchPolicy) -> dict[str, Any]:
    """``batch`` as Triton tells it; read again it amounts to the same."""
    told: dict[str, Any] = {
        "preferred_batch_size": list(batch.preferred_batch_sizes),
        "max_queue_delay_microseconds": round(batch.batch_timeout_s * 1e6),
        "preserve_ordering": False,
    }
    if batch.has_levels:
        told["priority_levels"] = batch.priority_levels
        told["default_priority_level"] = batch.default_priority_level or batch.priority_levels
    if batch.queue.bounds:
        told["default_queue_policy"] = _queue_told(batch.queue)
    if batch.level_queues:
        told["priority_queue_policy"] = {str(level): _queue_told(queue) for level, queue in batch.level_queues}
    return told


def integer(value: Any, key: str) -> int:
    """A whole number of 0 or more, which may be a string in protobuf's JSON. Raises :class:`InvalidRequest`."""
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value
    if type(number) is not int or not 0 <= number < 1 << 63:
        raise InvalidRequest(f'the parameter "config": "{key}" must be a whole number of 0 or more')
    return number


def _queue(value: Any, where: str, warnings: list[str]) -> QueuePolicy:
    timeout_us = requests = 0
    action = "reject"
    for key, told in _object(value, where).items():
        match key:
            case "timeout_action":
                if not isinstance(told, str | int) or (found := _ACTIONS.get(told)) is None:
                    raise InvalidRequest(f'the parameter "config": "{where}": "{key}" must be REJECT or DELAY')
                action = found
            case "default_timeout_microseconds":
                timeout_us = integer(told, key)
            case "max_queue_size":
                requests = integer(told, key)
            case "allow_timeout_override":
                if told is False:
                    warnings.append(f"{where}: {key} is always on here: a request's own timeout is its deadline")
            case _:
                raise InvalidRequest(f'the parameter "config": "{where}" has no "{str(key)[:60]}"')
    return QueuePolicy(timeout_us / 1e6 or math.inf, action, requests)


def _queue_told(queue: QueuePolicy) -> dict[str, Any]:
    """A bound on a level's rows, which Triton has not, is not told."""
    return {
        "timeout_action": queue.action.upper(),
        "default_timeout_microseconds": 0 if math.isinf(queue.timeout_s) else round(queue.timeout_s * 1e6),
        "allow_timeout_override": True,
        "max_queue_size": queue.max_requests,
    }


def _object(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f'the parameter "config": "{key}" must be an object')
    return value


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f'the parameter "config": "{key}" must be a list')
    return value
