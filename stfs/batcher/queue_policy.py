"""How long, and how many, requests of one priority may wait: settings. What follows from them is ``admission``'s."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
