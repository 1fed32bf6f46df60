"""Small JSON files in one folder: what was measured at earlier starts. Owns their number, their names, their writing.

Several servers may share the folder. What cannot be read, or is not what it should be, is as if it were not there.
Blocking; any thread. Must not live here: what the values mean (``result``), what the keys are made of (``digests``).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

MOST_FILES = 512
"""Of each kind; those that have not been used for longest make room."""

MAX_FILE_BYTES = 1 << 20

AUTO, OFF = "auto", "off"


def folder_of(told: str) -> Path | None:
    """The folder that ``told`` means: a path, or ``auto``; ``None`` for ``off``. It need not exist.

    ``auto`` is ``cache/calibration`` in ``$STFS_HOME`` where that is set, else ``stfs/calibration`` in
    ``$XDG_CACHE_HOME``, else in ``~/.cache`` (XDG Base Directory Specification: a relative one counts as unset).
    """
    if told == OFF:
        return None
    if told != AUTO:
        return Path(told).expanduser()
    if home := os.environ.get("STFS_HOME"):
        return Path(home).expanduser().absolute() / "cache" / "calibration"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    try:
        return (cache if cache.is_absolute() else Path("~/.cache").expanduser()) / "stfs" / "calibration"
    except RuntimeError:  # nobody's home
        return None


class Cache:
    """The files of one folder, which is made by the first :meth:`put`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The object that was kept by this name, ``None`` if there is none that can be read."""
        path = self._path(kind, key)
        try:
            with path.open("rb") as file:
                text = file.read(MAX_FILE_BYTES + 1)
            found = json.loads(text) if len(text) <= MAX_FILE_BYTES else None
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(found, dict):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it has been used
        return found

    def put(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Keep ``value`` by this name, whole or not at all. Raises :class:`OSError` if the folder takes no files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{kind}-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file, allow_nan=False)
            Path(name).replace(self._path(kind, key))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._make_room(kind)

    def _path(self, kind: str, key: str) -> Path:
        return self.folder / f"{kind}-{key}.json"

    def _make_room(self, kind: str) -> None:
        found: list[tuple[float, Path]] = []
        for path in self.folder.glob(f"{kind}-*.json"):
            with contextlib.suppress(OSError):  # another server has made room just now
                found.append((path.stat().st_mtime, path))
        for _, path in sorted(found)[: max(0, len(found) - MOST_FILES)]:
            path.unlink(missing_ok=True)
