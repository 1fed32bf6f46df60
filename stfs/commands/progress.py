"""A progress bar on standard error: one line that is written over, and nothing at all where that is no terminal."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import TextIO

EVERY_S = 0.1
LEAST_S = 0.5
"""What is over sooner needs no bar."""
BAR_CELLS = 24


class Progress:
    """A bar for as long as the block lasts. ``total`` is in any unit; 0: not known, and then only time is told."""

    def __init__(self, title: str, total: float = 0.0, stream: TextIO | None = None) -> None:
        self._title = title
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty()
        self._began_s = time.monotonic()
        self._drawn_s = -1.0

    def __enter__(self) -> Progress:
        if self._total == 0:
            self.at(0.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._drawn_s >= 0:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def at(self, done: float, note: str = "") -> None:
        """So much of the total is done. Cheap to call often."""
        now_s = time.monotonic()
        known = self._total > 0
        if not self._shown or now_s - self._drawn_s < EVERY_S or (known and now_s - self._began_s < LEAST_S):
            return
        self._drawn_s = now_s
        width = shutil.get_terminal_size().columns - 1
        line = bar(self._title, done / self._total if known else None, now_s - self._began_s, note)
        self._stream.write("\r" + line[:width] + "\x1b[K")
        self._stream.flush()


def bar(title: str, share: float | None, spent_s: float, note: str) -> str:
    """The line: title, bar and percentage where the share is known, seconds that are left by the rate until now."""
    if share is None:
        return f"{title} ... {note}"
    share = min(max(share, 0.0), 1.0)
    filled = round(share * BAR_CELLS)
    left = f"{spent_s * (1 / share - 1):.0f} s left" if share > 0 else ""
    return f"{title} [{'#' * filled}{'.' * (BAR_CELLS - filled)}] {share:4.0%} {left}  {note}".rstrip()
