"""Who may queue where requests have levels of priority, bounds of their own, or bytes that count. Pure functions.

A newcomer that finds the queue full takes the place of requests of lower levels: of the lowest the youngest first. It
does so only if that makes room for it. Where clients share the queue it takes, failing that, the place of those of the
client that has most. Must not live here: what the displaced are told, clocks.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

from stfs.batcher.clients import ClientQueue
from stfs.batcher.levels import LevelQueue
from stfs.batcher.policy import BatchPolicy, admits
from stfs.batcher.queue import Entry
from stfs.batcher.queue_policy import QueuePolicy
from stfs.errors import InvalidRequest


class Newcomer(NamedTuple):
    """What asks to queue: at which level, and how much there is of it. ``entries`` are its pieces, 1 as a rule.

    ``came_back``: it was refused before and was promised a place, for which others of its level make room, too.
    """

    level: int
    rows: int
    entries: int
    size_bytes: int
    came_back: bool = False


@dataclass(frozen=True, slots=True)
class Full:
    """Why there is no room: ``full``, or ``bytes`` if rows alone would have found some. ``problem`` is for people."""

    reason: str
    problem: str


def level_of(policy: BatchPolicy, priority: int) -> int:
    """The level that ``priority`` asks for, as Triton has it: 1 is the highest, 0 stands for the default.

    0 where the model has no levels, whatever is asked for. Raises :class:`InvalidRequest` for one that it has not.
    """
    if not policy.has_levels:
        return 0
    levels = policy.priority_levels
    default = policy.default_priority_level or levels
    if not 0 <= priority <= levels:
        raise InvalidRequest(
            f"priority must be 1 (the highest) to {levels}, or 0 for the default, which is {default}, not {priority}"
        )
    return priority or default


PROMISED, USUAL, DELAYED = range(3)
"""Of one level, those that were refused and have come back when they were told to (``promises``) go first, and those
that have waited too long and were asked to let others go go last."""


def rank_of(level: int, kind: int = USUAL) -> int:
    """Where a level's requests stand in a :class:`LevelQueue`."""
    return 3 * level + kind


def level_of_rank(rank: int) -> int:
    """The level of requests that stand there."""
    return rank // 3


def is_promised(rank: int) -> bool:
    """Whether it is for those who have come back."""
    return rank % 3 == PROMISED


def queue_of(policy: BatchPolicy, level: int) -> QueuePolicy:
    """The bounds of that level."""
    level = level or 1  # one level is as good as none
    return next((queue for its_level, queue in policy.level_queues if its_level == level), policy.queue)


def make_room(policy: BatchPolicy, queue: LevelQueue, new: Newcomer) -> list[Entry] | Full:
    """The entries that must leave for ``new`` to join, none as a rule; or why it may not. Changes nothing.

    As with rows, what is larger than a bound by itself is taken where nothing waits.
    """
    held = [queue.held(rank_of(new.level, kind)) for kind in (PROMISED, USUAL, DELAYED)]
    entries, rows = sum([count for count, _ in held]), sum([count for _, count in held])
    if (full := _level_full(policy, entries, rows, new)) is not None:
        return full
    leaving: list[Entry] = []
    rows, held_bytes = queue.rows, queue.bytes
    lower = queue.last_first(rank_of(new.level, PROMISED if new.came_back else DELAYED))
    if (full := _full(policy, rows, held_bytes, new)) is None:
        return leaving
    while _full(policy, rows, held_bytes, new) is not None:
        if (entry := next(lower, None)) is None:
            return full
        leaving.append(entry)
        rows -= entry.rows or 1
        held_bytes -= entry.size_bytes
    return leaving


def room_of_the_greediest(policy: BatchPolicy, queue: ClientQueue, client: Hashable, new: Newcomer) -> list[Entry]:
    """The entries that leave for ``client``'s ``new`` where :func:`make_room` found no room; none if it may not join.

    They are the last in turn of the client that has most rows queued, which afterwards has no fewer than ``client``.
    Those of higher levels stay, and so do those of its own that were promised their places. Changes nothing.
    """
    if not queue.rows:
        return []
    most = queue.greediest()
    spare = queue.holds(most) - queue.holds(client) - new.rows
    held = [queue.held(rank_of(new.level, kind)) for kind in (PROMISED, USUAL, DELAYED)]
    entries, level_rows = sum([count for count, _ in held]), sum([count for _, count in held])
    rows, held_bytes = queue.rows, queue.bytes
    leaving: list[Entry] = []
    for entry in queue.last_first(rank_of(new.level, PROMISED)):
        if entry.client != most:
            continue
        size = entry.rows or 1
        spare -= size
        if spare < 0:
            break
        leaving.append(entry)
        rows -= size
        held_bytes -= entry.size_bytes
        if level_of_rank(entry.rank) == new.level:
            entries -= 1
            level_rows -= size
        if _full(policy, rows, held_bytes, new) is None and _level_full(policy, entries, level_rows, new) is None:
            return leaving
    return []


def _level_full(policy: BatchPolicy, entries: int, rows: int, new: Newcomer) -> Full | None:
    limits = queue_of(policy, new.level)
    where = f" at priority {new.level}" if new.level else ""
    if limits.max_requests and not admits(limits.max_requests, entries, new.entries):
        return Full("full", f"has {entries} requests queued{where} of {limits.max_requests} allowed")
    if limits.max_rows and not admits(limits.max_rows, rows, new.rows):
        return Full("full", f"has {rows} rows queued{where} of {limits.max_rows} allowed, no room for {new.rows} more")
    return None


def _full(policy: BatchPolicy, rows: int, held_bytes: int, new: Newcomer) -> Full | None:
    if not admits(policy.max_enqueued_rows, rows, new.rows):
        return Full(
            "full", f"has {rows} rows queued of {policy.max_enqueued_rows} allowed, no room for {new.rows} more"
        )
    most_bytes = policy.max_enqueued_bytes
    if most_bytes and rows and held_bytes + new.size_bytes > most_bytes:
        return Full(
            "bytes",
            f"has {held_bytes} bytes queued of {most_bytes} allowed (max_enqueued_bytes), "
            f"no room for {new.size_bytes} more",
        )
    return None
