"""Where a model's versions come from. Owns the reading of folders; decides nothing about loading.

Stateless but for what the caller passes back. No asyncio, no frameworks, no states of versions here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_FILES_WALKED = 20_000
"""A folder with more files than this is fingerprinted by the first so many, so that a poll stays bounded."""

MAX_VERSION = 2**63 - 1
"""Versions are int64 on the wire of every dialect."""

MAX_TOLD = 5
"""Names that a message lists at most."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells that a version's files have stopped changing: equal in two polls means nobody is writing.

    ``newest_ctime_ns`` catches what sizes and mtimes miss: a copy that keeps its times, a rename over a file.
    ``unreadable`` counts folders that could not be listed, so that gaining the permission is a change too.
    """

    files: int
    total_bytes: int
    newest_mtime_ns: int
    newest_ctime_ns: int
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A version that is there, and where."""

    version: int
    path: Path
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class Poll:
    """One look at a source.

    ``problem`` is one line for the user, and may stand beside versions that were found all the same.
    ``transient`` says that a version's absence from ``found`` proves nothing: the place could not be read, so what is
    being served must not be unloaded because of it. ``device`` is the file system's number, for the next poll.
    """

    found: Mapping[int, Found]
    problem: str | None = None
    transient: bool = False
    device: int | None = None


class Source(Protocol):
    """A place where versions appear and go."""

    @property
    def base_path(self) -> Path:
        """For people: what the user configured."""

    def poll(self, last_good: Poll | None = None) -> Poll:
        """Look once. Blocking, on any thread, never two at once for one source.

        ``last_good`` is the newest poll that was not transient. Errors are told in the result; whatever is raised
        instead counts as a transient problem.
        """


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Versions in a local (or mounted) folder.

    In this order: a file is version 1; a folder with numbered folders holds those versions; a folder, or what the names
    of a model's files begin with (``models/mlp``), that ``is_model`` recognises is version 1. ``is_model`` runs on the
    polling thread.
    """

    base_path: Path
    is_model: Callable[[Path], bool]

    def poll(self, last_good: Poll | None = None) -> Poll:
        """See :meth:`Source.poll`. Blocking file I/O: one ``stat`` for each file of each version."""
        base = self.base_path
        try:
            status = base.stat()
            if not stat.S_ISDIR(status.st_mode):
                found = {1: Found(1, base, _of_files([status]))}
                return Poll(found, device=status.st_dev)
            found, problems = _numbered(base)
            if not found and self.is_model(base):
                print_ = fingerprint(base)
                found = {1: Found(1, base, print_)} if print_ is not None else {}
        except FileNotFoundError:
            if self.is_model(base) and (print_ := fingerprint(base.parent)) is not None:
                return Poll({1: Found(1, base, print_)})
            # Not proof of removal: a lost mount looks just like this.
            return Poll({}, f"base_path {_tell(base)} does not exist: create it, or correct base_path", transient=True)
        except OSError as error:
            return Poll({}, f"base_path {_tell(base)} cannot be read: {error.strerror or error}", transient=True)
        if found:
            return Poll(found, "; ".join(problems) or None, device=status.st_dev)
        if last_good is not None and last_good.found and last_good.device != status.st_dev:
            # The bare mount point shows through when a mount has gone.
            problem = f"base_path {_tell(base)} is empty and on another file system than before: was it unmounted?"
            return Poll({}, problem, transient=True)
        if not problems:
            advice = f"put each version in a numbered folder such as {base / '1'}"
            problems = [f"base_path {_tell(base)} holds no model: {advice}, or set base_path to a model file or folder"]
            if models := _models_in(base):
                advice = "set base_path to the folder of one, or name each in a model_config_file"
                problems = [f"base_path {_tell(base)} holds several models ({', '.join(models)}): {advice}"]
        return Poll({}, "; ".join(problems), device=status.st_dev)


def fingerprint(folder: Path) -> Fingerprint | None:
    """The fingerprint of all files below ``folder``, hidden and temporary ones too; ``None`` if it is not there.

    Links are followed, each folder is visited once. What vanishes during the walk is left out (that is a change, and
    the next poll sees it); folders that cannot be listed are counted in ``unreadable``. Never raises ``OSError``.
    """
    files: list[os.stat_result] = []
    unreadable = 0
    seen: set[tuple[int, int]] = set()
    stack = [str(folder)]
    while stack and len(files) < MAX_FILES_WALKED:
        current = stack.pop()
        try:
            status = os.stat(current)  # noqa: PTH116 - a Path for each file would double the cost of the walk
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                for entry in entries:
                    told = _stat(entry)
                    if told is None:
                        continue
                    if stat.S_ISDIR(told.st_mode):
                        stack.append(entry.path)
                    else:
                        files.append(told)
        except FileNotFoundError:
            if current == str(folder):
                if not folder.is_symlink():
                    return None
                unreadable += 1  # listed, but it leads nowhere just now
        except OSError:
            unreadable += 1
    return _of_files(files[:MAX_FILES_WALKED], unreadable)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError:
        pass
    try:
        return entry.stat(follow_symlinks=False)  # a link to nothing is a file of its own
    except OSError:
        return None  # it vanished since it was listed


def _of_files(files: list[os.stat_result], unreadable: int = 0) -> Fingerprint:
    return Fingerprint(
        files=len(files),
        total_bytes=sum(status.st_size for status in files),
        newest_mtime_ns=max((status.st_mtime_ns for status in files), default=0),
        newest_ctime_ns=max((status.st_ctime_ns for status in files), default=0),
        unreadable=unreadable,
    )


def _numbered(base: Path) -> tuple[dict[int, Found], list[str]]:
    """The numbered folders of ``base`` that hold something, and what is wrong with the others."""
    names: dict[int, list[str]] = {}
    problems: list[str] = []
    with os.scandir(base) as entries:
        for entry in entries:
            # A link to nothing passes: it is there, its target may be on a mount that is away.
            if _is_number(entry.name) and (entry.is_dir() or (entry.is_symlink() and not Path(entry).exists())):
                names.setdefault(int(entry.name), []).append(entry.name)
    found: dict[int, Found] = {}
    for version, spellings in sorted(names.items()):
        if version > MAX_VERSION:
            problems.append(f"folder {base / spellings[0]} is ignored: versions end at {MAX_VERSION}")
            continue
        full: list[Found] = []
        for name in sorted(spellings, key=lambda name: (len(name), name)):
            print_ = fingerprint(base / name)
            if print_ is None:
                continue
            if print_.unreadable:
                problems.append(f"folder {base / name} cannot be read in full: check its permissions")
            if print_.files or print_.unreadable:
                full.append(Found(version, base / name, print_))
            else:
                problems.append(f"folder {base / name} is empty: copy the files of the model into it")
        if full:
            found[version] = full[0]
        if len(full) > 1:
            told = ", ".join(one.path.name for one in full)
            problems.append(f"folders {told} in {base} are all version {version}: {full[0].path.name} is used")
    return found, problems


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _models_in(base: Path) -> list[str]:
    """The first few folders of ``base`` that have numbered folders, as those of a repository of models do."""
    names: list[str] = []
    try:
        for child in sorted(base.iterdir()):
            if child.is_dir() and any(_is_number(one.name) and one.is_dir() for one in child.iterdir()):
                names.append(child.name)
                if len(names) == MAX_TOLD:
                    break
    except OSError:  # it is only advice
        pass
    return names


def _tell(path: Path) -> str:
    """The path as the user wrote it, with the whole of it if it was relative."""
    return str(path) if path.is_absolute() else f"{path} ({path.absolute()})"
