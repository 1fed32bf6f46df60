"""Keeps uploaded images in a folder, where the operator has asked for it. Blocking; for any thread."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from stfs.errors import ConfigError
from stfs.images.formats import SUFFIXES, sniff


def prepare_folder(folder: Path) -> None:
    """Make the folder if it is not there. Raises :class:`ConfigError` if nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--download_inference_images: cannot make the folder {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--download_inference_images: nothing can be written into {folder}")


def keep(folder: Path, images: Iterable[bytes], now: datetime | None = None) -> list[Path]:
    """Write each into a new file, named by the time and chance alone, readable by the server's user alone.

    Returns where they are. Raises :class:`OSError`.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
    written = []
    for data in images:
        path = folder / f"{stamp}-{uuid.uuid4().hex}{SUFFIXES.get(sniff(data) or '', '.bin')}"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        written.append(path)
    return written
