"""``stfs platforms``: what can be served here, and ``stfs platforms install``: making more of it so.

Owns the arguments and what is printed. Tables go to standard output, progress to standard error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stfs.commands import install, survey
from stfs.errors import ConfigError, SetupError
from stfs.platforms import catalog

WIDTH = 100


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def run(argv: Sequence[str]) -> None:
    """``stfs platforms ARGV``. Raises :class:`SetupError` if the arguments are wrong or an installation failed."""
    parser = _Parser(
        prog="stfs platforms",
        description="List the platforms: what each is for, whether it is installed, and the command that installs it.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    commands = parser.add_subparsers(dest="command", metavar="install NAME...")
    installing = commands.add_parser("install", description=install.__doc__, allow_abbrev=False)
    installing.add_argument("names", nargs="+", metavar="NAME", help="a platform, java, or xgboost-legacy")
    installing.add_argument("--reinstall", action="store_true", help="fetch again what stands beside the server")
    installing.add_argument("--json", action="store_true", help="write JSON", default=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.command == "install":
        _install(given.names, anew=given.reinstall, as_json=given.json)
    else:
        _list(as_json=given.json)


def _list(*, as_json: bool) -> None:
    statuses, parts = survey.survey(), survey.parts()
    if as_json:
        told = {"platforms": [asdict(s) for s in statuses], "parts": [asdict(p) for p in parts], "gpu": survey.gpus()}
        print(json.dumps(told, indent=2))
        return
    rows: list[tuple[str, ...]] = [("platform", "runs on", "in a", "files", "installed, or what installs it")]
    for s in statuses:
        state = _state(s.installed, s.version, s.install)
        rows.append((s.name, ", ".join(s.devices), s.isolation, s.files, state))
    print(table(rows))
    print()
    rows = [("also used", "by", "installed, or what installs it")]
    rows += [(p.name, p.purpose, _state(p.installed, _part(p), p.install)) for p in parts]
    print(table(rows))
    if any("cuda" in status.devices for status in statuses) and not survey.gpus():
        print("\nNo NVIDIA GPU is seen on this machine: what can run on cuda runs on cpu.")


def _state(installed: bool, version: str, command: str) -> str:
    return (version or "yes") if installed else f"no: {command}"


def _part(part: survey.PartStatus) -> str:
    return f"{part.version}, {part.where}" if part.name == catalog.JAVA else part.version


def table(rows: Sequence[Sequence[str]], width: int = WIDTH) -> str:
    """Left-aligned columns two spaces apart, at most ``width`` wide: the last but one is cut for it, then the last."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for column in (-2, -1):
        excess = sum(widths) + 2 * (len(widths) - 1) - width
        widths[column] -= max(0, min(excess, widths[column] - 12))
    return "\n".join(
        "  ".join(_cut(cell, room).ljust(room) for cell, room in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 3] + "..."


def _install(names: Sequence[str], *, anew: bool, as_json: bool) -> None:
    plans = [install.plan(name) for name in names]  # a name that is wrong stops it before anything is fetched
    outcomes = [install.install(plan, anew=anew) for plan in plans]
    if as_json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        for outcome in outcomes:
            if outcome.state != "failed":
                print(f"{outcome.name}: {outcome.state}; {outcome.told}")
    if failed := [f"{outcome.name}: {outcome.told}" for outcome in outcomes if outcome.state == "failed"]:
        raise SetupError("; ".join(failed))
