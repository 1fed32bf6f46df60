from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stfs.batcher.queue import Queue
from stfs.errors import RequestError
from stfs.signature import Array, Tensors

Outcome = tuple[Tensors | None, RequestError | None]
GroupReply = Callable[[Group, Tensors | None, RequestError | None, Sequence[Outcome] | None], None]

MOST_SLOT_BYTES: int
MOST_SLOT_ROWS: int

class Group:
    lane: Lane
    first_row: int
    rows: int
    owners: list[Any]
    tags: list[Any]
    key: object
    queue: Queue | None
    journey: None
    held: Any
    requests: int
    arrived_s: float
    deadline_s: float
    inputs: Tensors
    answered: bool
    def part(self, limit_rows: int, *, least_one: bool) -> Group | None: ...
    def alone(self, inputs: Tensors) -> list[Alone]: ...
    def leave(self, owner: object) -> bool: ...
    def answer(self, outputs: Tensors | None, error: RequestError | None) -> None: ...
    def answer_each(self, outcomes: Sequence[Outcome]) -> None: ...

class Alone:
    requests: int
    rows: int
    inputs: Tensors
    answered: bool

class Lane:
    key: object
    name: str
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    capacity: int
    kept: int
    told: bool
    max_enqueued_rows: int
    def __init__(
        self, batcher: object, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...], key: object
    ) -> None: ...
    def submit(self, array: Array, owner: object, held: object, reply: GroupReply) -> bool: ...
