"""What a worker process prints, as lines of the server's log: cut, cleaned and bounded. Knows no processes."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable

MAX_LINE_BYTES = 2000
BURST_LINES = 200
LINES_PER_S = 20.0
TAIL_LINES = 200

_LEVEL = re.compile(r"<([346])>")
_LEVELS = {"3": logging.ERROR, "4": logging.WARNING, "6": logging.INFO}
_STACK = re.compile(r"\s|Current thread 0x|Thread 0x|Extension modules: ")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]")


class Output:
    """Bytes in, lines out to ``write(level, line)``. For one thread at a time.

    A line longer than :data:`MAX_LINE_BYTES` is cut there. Of more than :data:`BURST_LINES` at once, or
    :data:`LINES_PER_S` in the long run, only the number is told: a model that prints for each row must not fill the
    disk. What is not printable is escaped. ``clock`` is in seconds.
    """

    def __init__(self, write: Callable[[int, str], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._partial = b""
        self._overlong = False
        self._allowance = float(BURST_LINES)
        self._refilled_s = clock()
        self._left_out = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def feed(self, data: bytes) -> None:
        """Some more of what the process printed."""
        first, *rest = data.split(b"\n")
        self._partial += first
        for part in rest:
            self._take(self._partial)
            self._partial = part
            self._overlong = False
        if len(self._partial) > MAX_LINE_BYTES:
            self._take(self._partial)
            self._partial, self._overlong = b"", True

    def end(self) -> None:
        """It will print no more."""
        self._take(self._partial)
        self._partial = b""
        self._tell_left_out()

    def last_words(self) -> str:
        """The last line that it printed, for a message; empty if there was none. Stack dumps do not count."""
        return next((line for line in reversed(self.tail) if not _STACK.match(line)), "")

    def _take(self, raw: bytes) -> None:
        if self._overlong:  # the rest of a line whose beginning has been told
            return
        line = raw[:MAX_LINE_BYTES].decode("utf-8", "backslashreplace").rstrip()
        level = logging.INFO
        if match := _LEVEL.match(line):
            level, line = _LEVELS[match[1]], line[match.end() :]
        if not line:
            return
        line = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), line)
        self.tail.append(line)
        now = self._clock()
        self._allowance = min(BURST_LINES, self._allowance + (now - self._refilled_s) * LINES_PER_S)
        self._refilled_s = now
        if self._allowance < 1.0:
            self._left_out += 1
            return
        self._allowance -= 1.0
        self._tell_left_out()
        self._write(level, line)

    def _tell_left_out(self) -> None:
        count, self._left_out = self._left_out, 0
        if count:
            self._write(logging.WARNING, f"({count} lines left out here: it prints too much)")
