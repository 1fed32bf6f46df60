"""Waits for what tells nobody when it comes about: conditions are polled, and every wait has an end.

What does tell, by an event, a socket or a future, is waited for by that. Nothing here knows servers or models.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.01

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T],
    what: str = "it",
    limit_s: float = 60.0,
    log: Callable[[], str] | None = None,
    *,
    poll_s: float = POLL_S,
) -> T:
    """What ``condition`` gives, as soon as that is true; it is asked on this thread, ``poll_s`` seconds apart.

    ``what`` names what is waited for. Raises AssertionError with that, and with what ``log`` gives then, if there is
    one, when ``limit_s`` seconds have passed; what ``condition`` raises ends the wait at once.
    """
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        _check_time(end_s, what, limit_s, log)
        time.sleep(poll_s)
    return found


async def until(
    condition: Callable[[], T],
    what: str = "it",
    limit_s: float = 60.0,
    log: Callable[[], str] | None = None,
    *,
    poll_s: float = POLL_S,
) -> T:
    """:func:`wait_until` for coroutines: the loop goes on between two looks, and ``condition`` is asked on it.

    A ``poll_s`` of 0 looks once in each turn of the loop.
    """
    end_s = time.monotonic() + limit_s
    while not (found := condition()):
        _check_time(end_s, what, limit_s, log)
        await asyncio.sleep(poll_s)
    return found


def _check_time(end_s: float, what: str, limit_s: float, log: Callable[[], str] | None) -> None:
    if time.monotonic() >= end_s:
        said = "" if log is None else f":\n{log()}"
        raise AssertionError(f"{what} never came about in {limit_s:g} s{said}")


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id; one that has ended is there until its parent has asked how."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
