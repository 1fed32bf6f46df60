"""What the commands that try models and servers have in common: arguments, and a clean standard output for results."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from stfs.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`ConfigError`, one line, in place of ending the process. No abbreviations."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> Any:
        """Raise :class:`ConfigError`."""
        raise ConfigError(f"{message} (see {self.prog} --help)")

    def add(self, name: str, **more: Any) -> None:
        """The option ``--name``, spelled with underscores or hyphens."""
        self.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), dest=name, **more)


def seconds(text: str) -> float:
    """A number of seconds (or milliseconds, or requests a second), 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, 0 or more")
    return value


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, 1 or more")
    return int(text)


def count(text: str) -> int:
    """A whole number, 0 or more."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, 0 or more")
    return int(text)


def read_data(argument: str) -> bytes:
    """What ``--data`` means: the text itself, ``@FILE``, or ``-`` for standard input.

    Raises :class:`ConfigError` if the file cannot be read.
    """
    if argument == "-":
        return sys.stdin.buffer.read()
    if not argument.startswith("@"):
        return argument.encode()
    try:
        return Path(argument[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"--data: cannot read {argument[1:]}: {error.strerror}") from None


@contextlib.contextmanager
def results_only() -> Iterator[TextIO]:
    """Standard output for the block's results alone: what else is written to it, by frameworks too, goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with open(kept, "w", encoding="utf-8", closefd=False) as results:
            yield results
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def write_json(value: Any, out: TextIO) -> None:
    """One JSON document."""
    out.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
