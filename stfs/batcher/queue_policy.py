"""How long, and how many, requests of one priority may wait: settings. What follows from them is ``admission``'s."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stfs.errors import ConfigError

ACTIONS = ("reject", "delay")


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Bounds for the requests of one level of priority. Raises :class:`ConfigError`, naming field and value.

    ``timeout_s``: how long a request may wait for its batch to leave; infinite: as long as it takes. What comes then is
    ``action``: ``reject`` refuses it, ``delay`` lets all of its level go first that have not waited so long.
    ``max_requests`` and ``max_rows``: how many may wait; 0: any number. A request that runs in pieces counts as many as
    it has pieces. The bounds of the whole queue count beside these (:class:`stfs.batcher.policy.BatchPolicy`).
    """

    timeout_s: float = math.inf
    action: str = "reject"
    max_requests: int = 0
    max_rows: int = 0

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"a queue's timeout_s must be more than 0 seconds, not {self.timeout_s!r}")
        if self.action not in ACTIONS:
            raise ConfigError(f"a queue's action must be one of {', '.join(ACTIONS)}, not {self.action!r}")
        for field in ("max_requests", "max_rows"):
            value = getattr(self, field)
            if type(value) is not int or value < 0:
                raise ConfigError(f"a queue's {field} must be a whole number, 0 or more, not {value!r}")

    @property
    def bounds(self) -> bool:
        """Whether it asks for anything at all."""
        return not math.isinf(self.timeout_s) or self.max_requests > 0 or self.max_rows > 0


UNBOUNDED = QueuePolicy()
"""Requests wait for as long as it takes, and as many as the whole queue holds."""


def read_level_queues(told: Mapping[str, Any], common: QueuePolicy) -> tuple[tuple[int, QueuePolicy], ...]:
    """The queues of the option ``priority_policies``, by level: ``common`` with what is told of each.

    Whether there are such levels is for :class:`stfs.batcher.policy.BatchPolicy`. Raises :class:`ConfigError`.
    """
    return tuple(sorted((_level(level), _read(level, one, common)) for level, one in told.items()))


def _level(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ConfigError(f"priority_policies: {text[:40]!r} is no level: expected a whole number, 1 for the highest")
    return int(text)


def _read(level: str, told: object, common: QueuePolicy) -> QueuePolicy:
    where = f"priority_policies: level {level}"
    if not isinstance(told, Mapping):
        raise ConfigError(f'{where} must be an object of settings, such as {{"queue_timeout_ms": 50}}, not {told!r}')
    queue = common
    for key, value in told.items():
        match key, value:
            case "queue_timeout_ms", int() | float() if not isinstance(value, bool) and value >= 0:
                queue = replace(queue, timeout_s=value / 1e3 or math.inf)
            case "queue_timeout_action", str() if value in ACTIONS:
                queue = replace(queue, action=value)
            case "max_enqueued", int() if not isinstance(value, bool) and value >= 0:
                queue = replace(queue, max_rows=value)
            case "max_enqueued_requests", int() if not isinstance(value, bool) and value >= 0:
                queue = replace(queue, max_requests=value)
            case (("queue_timeout_ms" | "queue_timeout_action" | "max_enqueued" | "max_enqueued_requests"), _):
                wanted = f"one of {', '.join(ACTIONS)}" if key == "queue_timeout_action" else "a number, 0 or more"
                raise ConfigError(f"{where}: {key} must be {wanted}, not {value!r}")
            case _:
                raise ConfigError(
                    f"{where}: unknown key {key!r}; known are queue_timeout_ms, queue_timeout_action, max_enqueued and "
                    "max_enqueued_requests"
                )
    return queue
