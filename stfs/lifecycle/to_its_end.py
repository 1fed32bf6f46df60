"""Work that goes on when whoever asked for it has gone: half a change of what is served is worse than either whole."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_under_way: set[asyncio.Task[Any]] = set()  # the loop itself does not keep a task alive


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives or raises. Cancelling the wait does not cancel ``work``."""
    task = asyncio.get_running_loop().create_task(work)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    return await asyncio.shield(task)
