"""What an extra of stfs asks of the environment, as requirements that pip understands.

Asking pip for ``stfs[extra]`` would make it look for stfs itself in the package index, where the name may be another's.
"""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import stfs
from stfs.errors import SetupError

EXTRA = re.compile(r"""\s*(?:\band\s+)?\bextra\s*==\s*['\"]([^'\"]+)['\"]""")
OURS = re.compile(r"stfs\[([^\]]*)\]\s*$")


def of_extra(extra: str) -> tuple[str, ...]:
    """The requirements of ``extra``, with those of the extras that it is made of (PEP 508), each once.

    Read from ``pyproject.toml`` in a checkout, where the installed metadata may be older; else from the metadata.
    Raises :class:`SetupError` if there is neither, or no such extra.
    """
    table = _from_checkout() or _from_metadata()
    if extra not in table:
        raise SetupError(f"stfs has no extra {extra!r}: it has {', '.join(sorted(table))}")
    found: dict[str, None] = {}
    pending = [extra]
    seen = set()
    while pending:
        current = pending.pop(0)
        if current in seen:
            continue
        seen.add(current)
        for requirement in table.get(current, ()):
            if ours := OURS.match(requirement):
                pending += [part.strip() for part in ours[1].split(",")]
            else:
                found[requirement] = None
    return tuple(found)


def constraints() -> Path | None:
    """The file of versions that were tested together, where the checkout has it."""
    file = _root() / "constraints.txt"
    return file if file.is_file() and _from_checkout() else None


def _root() -> Path:
    return Path(stfs.__file__).resolve().parent.parent


def _from_checkout() -> Mapping[str, Sequence[str]]:
    try:
        project = tomllib.loads((_root() / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError):
        return {}
    return project.get("optional-dependencies", {}) if project.get("name") == "stfs" else {}


def _from_metadata() -> Mapping[str, Sequence[str]]:
    try:
        required = importlib.metadata.requires("stfs") or []
    except importlib.metadata.PackageNotFoundError:
        raise SetupError("stfs itself is not installed, so what its extras need is not known: pip install it") from None
    return by_extra(required)


def by_extra(required: Sequence[str]) -> dict[str, list[str]]:
    """``Requires-Dist`` lines, sorted by the extra in their markers, which is taken out of them."""
    table: dict[str, list[str]] = {}
    for line in required:
        requirement, _, marker = line.partition(";")
        if named := EXTRA.search(marker):
            rest = EXTRA.sub("", marker).strip()
            table.setdefault(named[1], []).append(requirement.strip() + (f"; {rest}" if rest else ""))
    return table
