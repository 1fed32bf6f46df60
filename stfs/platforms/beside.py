"""Where frameworks that cannot share the server's environment are installed: folders beside it, one each.

Such a framework wants another Python, another numpy, or is a set of native libraries only. ``stfs platforms install``
fills the folders; adapters look in them. Must not live here: what the frameworks are and how they are installed.
"""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """The folder of the framework ``name``: ``platforms/<name>`` in the home folder of stfs. It need not exist.

    The home folder is ``$STFS_HOME``, else ``stfs`` in ``$XDG_DATA_HOME``, else ``~/.local/share/stfs`` (XDG Base
    Directory Specification, where a relative ``XDG_DATA_HOME`` counts as unset). Read at each call.
    """
    return home() / "platforms" / name


def home() -> Path:
    """The folder that holds what stfs keeps for this user; absolute, need not exist."""
    if told := os.environ.get("STFS_HOME"):
        return Path(told).expanduser().absolute()
    data = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    return (data if data.is_absolute() else Path("~/.local/share").expanduser()) / "stfs"
