"""Installs what a platform needs: packages into this environment, other wheels into folders beside the server.

A folder appears whole or not at all: it is filled and tried under another name on the same disk, then renamed. Must not
live here: what is needed (``stfs.platforms.catalog``), how pip is run, how an outcome is printed.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import importlib.metadata
import os
import platform as machine
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stfs import platforms
from stfs.commands import pip, requirements, survey
from stfs.errors import ConfigError, SetupError
from stfs.platforms import beside, catalog
from stfs.platforms.base import one_line

CHECK_LIMIT_S = 300.0  # TensorFlow's first import on a cold disk, several times over


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``name`` needs: an extra's packages, a wheel beside the server, a Java runtime; any of them may be empty."""

    name: str
    extra: str = ""
    wheel: catalog.Beside | None = None
    java: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one name. ``told`` is a sentence for people; the check's answer where all is well."""

    name: str
    state: Literal["installed", "already installed", "failed"]
    told: str


def plan(name: str) -> Plan:
    """What to do for the name or alias of a platform, or for the name of a part that platforms use.

    Raises :class:`ConfigError` naming what there is.
    """
    plain = name.strip().lower()
    if plain == catalog.JAVA:
        return Plan(plain, java=True)
    users = {facts.beside for facts in catalog.FACTS.values()}
    if plain in catalog.BESIDE and plain not in users:
        return Plan(plain, wheel=catalog.BESIDE[plain])
    try:
        platform = platforms.find(name)
    except ConfigError:
        parts = [part.name for part in survey.parts()]
        known = ", ".join([*platforms.available(), *parts])
        raise ConfigError(f'"{name}" cannot be installed: there are {known}') from None
    if (facts := catalog.FACTS.get(platform.name)) is None:
        return Plan(platform.name)
    extra = platform.extra if facts.packages else ""
    return Plan(platform.name, extra, catalog.BESIDE[facts.beside] if facts.beside else None, facts.java)


def install(plan: Plan, *, anew: bool = False) -> Outcome:
    """Does it; blocking, minutes for large wheels. Progress goes to standard error. Never raises :class:`SetupError`.

    ``anew`` replaces a wheel beside the server that is there already.
    """
    before = _versions()
    try:
        if plan.extra:
            _into_environment(requirements.of_extra(plan.extra))
        if plan.java and survey.java() is None:
            _into_environment((catalog.JAVA_PACKAGE,))
        fetched = plan.wheel is not None and _beside(plan.wheel, anew)
        importlib.invalidate_caches()
        changed = fetched or _versions() != before
        told = check(plan.name)
    except SetupError as error:
        return Outcome(plan.name, "failed", str(error))
    except OSError as error:
        return Outcome(plan.name, "failed", f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    return Outcome(plan.name, "installed" if changed else "already installed", told)


def check(name: str, home: Path | None = None) -> str:
    """Loads what was installed, in a child process, and has it answer where a model can be made on the spot.

    Returns what the child says in one line. ``home`` stands in for the folder of :func:`beside.home`.
    Raises :class:`SetupError` with the child's reason.
    """
    environ = os.environ | ({"STFS_HOME": str(home)} if home else {})
    command = [sys.executable, "-m", "stfs.commands.check", name]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environ, timeout=CHECK_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise SetupError(f"{name} is there but did not answer within {CHECK_LIMIT_S:.0f} s") from None
    lines = [line.strip() for line in (done.stdout if done.returncode == 0 else done.stderr).splitlines()]
    told = next((line for line in reversed(lines) if line), "")
    if done.returncode < 0:
        raise SetupError(f"{name} is there but does not work: trying it died of signal {-done.returncode}")
    if done.returncode > 0:
        raise SetupError(f"{name} is there but does not work: {one_line(told) or f'status {done.returncode}'}")
    return told


def _into_environment(needed: Sequence[str]) -> None:
    pinned = requirements.constraints()
    pip.install(needed, ("--constraint", str(pinned)) if pinned else ())


def _beside(wheel: catalog.Beside, anew: bool) -> bool:
    """Whether the wheel was put in its folder; ``False`` if it was there."""
    folder = beside.folder(wheel.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{wheel.name}.lock"):
        if survey.is_beside(wheel) and not anew:
            return False
        _fits(wheel)
        for stale in folder.parent.glob(f".{wheel.name}-*"):
            shutil.rmtree(stale, ignore_errors=True)  # left by a process that was killed: the lock is ours
        with tempfile.TemporaryDirectory(prefix=f".{wheel.name}-", dir=folder.parent) as scratch:
            fresh = Path(scratch) / "platforms" / wheel.name
            fresh.mkdir(parents=True)
            pip.install((wheel.requirement,), ("--no-deps", *wheel.pip_options), fresh)
            if not (fresh / wheel.holds).is_file():
                raise SetupError(f"the package index's {wheel.requirement} holds no {wheel.holds}")
            check(wheel.name, Path(scratch))
            if folder.exists():
                folder.rename(Path(scratch) / "replaced")
            fresh.rename(folder)
    return True


def _fits(wheel: catalog.Beside) -> None:
    libc, _ = machine.libc_ver()
    if sys.platform != "linux" or machine.machine() not in wheel.machines or libc != "glibc":
        raise SetupError(
            f"{wheel.name} exists only for Linux with glibc on {' and '.join(wheel.machines)}; "
            f"this is {machine.system()} on {machine.machine()}"
        )


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """One installation at a time; a second one waits for the first. The kernel lets go when a holder dies."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _versions() -> dict[str, str]:
    return {package.name: package.version for package in importlib.metadata.distributions() if package.name}
