"""Runs pip as a child process: finds it, shows what it says, and tells in one line why it failed.

pip's progress bar is its own: its output goes to our standard error, so that standard output stays for results.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from stfs.errors import SetupError

KEPT_LINES = 200
QUIET = ("--disable-pip-version-check", "--no-input")

NETWORK = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|Name or service not known|"
    r"Max retries exceeded|Connection (?:refused|reset)|Network is unreachable|timed out|ProxyError|SSLError"
)
ABSENT = re.compile(
    r"No matching distribution found for (\S+)|Could not find a version that satisfies .*?requirement (\S+)"
)


def install(requirements: Sequence[str], options: Sequence[str], target: Path | None = None) -> None:
    """``pip install`` of ``requirements`` into this environment, or into the folder ``target``; blocking.

    Raises :class:`SetupError` with one line that says what failed and what to do.
    """
    where = ["--target", str(target)] if target else []
    command = [*program(), "install", *QUIET, "--root-user-action=ignore", *options, *where, *requirements]
    environ = dict(os.environ)
    if target:
        environ["PIP_USER"] = "0"  # a user's setting that pip refuses to combine with a target
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=_error_stream(), stderr=subprocess.PIPE, text=True, env=environ
    ) as child:
        try:
            said = _shown(child)
        except BaseException:
            child.kill()
            raise
    if child.returncode != 0:
        raise SetupError(why("\n".join(said), target))


def program() -> list[str]:
    """How to run pip for this interpreter, in an environment without pip by the copy that Python carries.

    Raises :class:`SetupError` if there is none.
    """
    # Not importlib.util's search, which asks import hooks too: setuptools' own warns when it is asked for pip.
    if PathFinder.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if (bundled := PathFinder.find_spec("ensurepip")) is not None and bundled.origin:
        for wheel in sorted((Path(bundled.origin).parent / "_bundled").glob("pip-*.whl"), reverse=True):
            return [sys.executable, str(wheel / "pip")]  # a wheel is a zip file that Python can run from
    raise SetupError(f"there is no pip for {sys.executable}: install it with uv pip install pip, or your system's way")


def why(said: str, target: Path | None) -> str:
    """One line for what pip wrote to its standard error when it failed; ``target`` as in :func:`install`."""
    where = str(target.parent) if target else sys.prefix
    if "No space left on device" in said:
        return f"the disk is full: pip needs room in {where} and, while it works, in its folder for temporary files"
    if "externally-managed-environment" in said:
        return f"{sys.prefix} belongs to the operating system: install stfs in a virtual environment (python3 -m venv)"
    if "Permission denied" in said:
        return f"{where} cannot be written to by this user"
    if NETWORK.search(said):
        return "no package index answered: is there a network, and a proxy that pip must be told of (pip config)?"
    if absent := ABSENT.search(said):
        return (
            f"the package index has no {absent[1] or absent[2]} for this machine "
            f"(Python {sys.version_info[0]}.{sys.version_info[1]}, {os.uname().sysname} {os.uname().machine})"
        )
    errors = [line.partition("ERROR: ")[2] for line in said.splitlines() if line.startswith("ERROR: ")]
    lines = errors or [line.strip() for line in said.splitlines() if line.strip()]
    return f"pip failed: {lines[-1]}" if lines else "pip failed and did not say why"


def _shown(child: subprocess.Popen[str]) -> deque[str]:
    """Passes on what the child says, and keeps the last of it."""
    said: deque[str] = deque(maxlen=KEPT_LINES)
    assert child.stderr is not None
    for line in child.stderr:
        sys.stderr.write(line)
        said.append(line.rstrip("\n"))
    return said


def _error_stream() -> int:
    """The number of our standard error; the child draws its progress bar there if that is a terminal."""
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # replaced by something that is no file
        return subprocess.DEVNULL
