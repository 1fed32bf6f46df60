"""Files that may change while the server runs: looked at twice a second, read anew, and kept as they were if broken.

Must not live here: what the files hold.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from stfs.errors import ConfigError

log = logging.getLogger("stfs.access")

POLL_S = 0.5

T = TypeVar("T")

Stamp = tuple[tuple[int, int, int] | None, ...]


class Followed(Generic[T]):
    """A value that is read from files. Reading happens here once, and raises; :meth:`follow` does it again.

    ``read`` blocks and raises :class:`ConfigError`, ``use`` gets what it gave, on the event loop.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], use: Callable[[T], object]) -> None:
        self._paths = tuple(paths)
        self._read = read
        self._use = use
        self._stamp = stamp(self._paths)  # before reading, so that no change is missed
        use(read())

    async def follow(self, poll_s: float = POLL_S) -> None:
        """Look for changes until cancelled. Several files are often changed one by one: read when they are still."""
        seen = self._stamp
        while True:
            await asyncio.sleep(poll_s)
            before, seen = seen, await asyncio.to_thread(stamp, self._paths)
            if seen == before and seen != self._stamp:
                self._stamp = seen
                try:
                    value = await asyncio.to_thread(self._read)
                except ConfigError as error:
                    log.error("what was read before stays in use: %s", error)
                else:
                    self._use(value)
                    log.info("read anew: %s", ", ".join(map(str, self._paths)))


def stamp(paths: Sequence[Path]) -> Stamp:
    """What tells that files have changed: when they were written, how long and which they are. Blocking."""
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
