"""What the pages of the documentation show, taken apart and run: blocks, commands, files, servers.

A block is told what to do with by a comment in the line above it, which no reader sees::

    <!-- not run: why -->      it is not run; tests/test_pages.py counts these
    <!-- file: models.json --> it is the file of that name, from there on

Everything else is run from top to bottom in one folder: ``python`` as a script, ``console`` line by line, ``json`` is
read. A line that serves starts a real server, in the place of the one before it; addresses at port 8500 mean that
server. Below a command stands what it prints, to the letter but for spaces; ``...`` stands for anything.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from running import TESTS, Running, environment, running

ROOT = TESTS.parent
DOCS = ROOT / "docs"
LIMIT_S = 120.0
SERVERS = {"stfs serve ": ("stfs", True), "simple_tensorflow_serving ": ("seed_main", False)}
"""How a line begins that serves: the module that is started for it, and whether that is told ``serve``."""

_BLOCK = re.compile(r"^(?:<!-- (not run|file): ([^\n]+?) -->\n)?```([\w+{}-]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """``not_run`` is why it is not run and ``file`` the name that it is written to, each empty as a rule."""

    language: str
    text: str
    line: int
    not_run: str = ""
    file: str = ""


def blocks(page: Path | str, language: str | None = None) -> list[Block]:
    """The blocks of a page, or of its text, in order: all, or those of one language."""
    text = page.read_text() if isinstance(page, Path) else page
    found = []
    for match in _BLOCK.finditer(text):
        mark, told, kind, body = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        found.append(Block(kind, body, line, told if mark == "not run" else "", told if mark == "file" else ""))
    return [block for block in found if language in (None, block.language)]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each ``$`` line of a console block, with what stands below it. A quote that is open goes on in the next line."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, printed = part.partition("\n")
        while _is_open(line) and printed:
            more, _, printed = printed.partition("\n")
            line += "\n" + more
        yield line, printed


def _is_open(line: str) -> bool:
    try:
        shlex.split(line)
    except ValueError:
        return True
    return line.endswith("\\")


def is_like(printed: str, shown: str) -> bool:
    """Whether ``shown`` tells what was printed: the same JSON, or the same words; ``...`` is anything."""
    with contextlib.suppress(json.JSONDecodeError):
        return bool(json.loads(printed) == json.loads(shown))
    if "..." not in shown:
        return printed.split() == shown.split()
    parts = (re.escape("".join(part.split())) for part in shown.split("..."))
    return re.fullmatch(".*".join(parts), "".join(printed.split()), re.DOTALL) is not None


class Reader:
    """Does in ``folder`` what a page says. To be used with ``with``: the last server ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: Running | None = None
        self.ran = 0
        self._last = contextlib.ExitStack()
        self._environment = environment({"PYTHONPATH": os.pathsep.join((str(TESTS), str(ROOT))), "MPLBACKEND": "agg"})
        self._environment["PATH"] = f"{self._write_commands()}{os.pathsep}{os.environ['PATH']}"

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *raised: object) -> None:
        self._last.close()

    def _write_commands(self) -> Path:
        """A folder in which the names that pages use are this interpreter and this checkout."""
        folder = self.folder / ".commands"
        folder.mkdir()
        python = shlex.quote(sys.executable)
        for name, command in {"python": python, "python3": python, "stfs": f"{python} -m stfs"}.items():
            (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (folder / name).chmod(0o755)
        return folder

    def do(self, block: Block) -> None:
        """One block, as its language and its comment say; fails with what went otherwise."""
        if block.not_run:
            return
        if block.file:
            (self.folder / block.file).write_text(block.text)
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "python" and not block.file:
            self._run([sys.executable, "-W", "ignore", "-c", self._local(block.text)])
        elif block.language == "console":
            for line, shown in commands(block.text):
                self._command(line, shown)

    def serve(self, argv: list[str], module: str = "stfs", serve: bool = True) -> None:
        """Ends the server that runs, if one does, and starts this one in the folder."""
        self._last.close()
        with contextlib.chdir(self.folder):
            server = running(*argv, env={"PYTHONPATH": self._environment["PYTHONPATH"]}, module=module, serve=serve)
            self.server = self._last.enter_context(server)

    def _command(self, line: str, shown: str) -> None:
        for begin, (module, serve) in SERVERS.items():
            if line.startswith(begin):
                self.serve(shlex.split(line.removeprefix(begin)), module, serve)
                assert shown == "", f"a server's output is not looked at: {shown}"
                return
        # What curl tells of its progress is for people.
        local = re.sub(r"(?<![\w-])curl (?!-s)", "curl -sS ", self._local(line))
        printed = self._run(["bash", "-c", local])
        if not line.startswith("openssl"):  # which says how far it is
            assert is_like(printed, self._local(shown)), f"{line}\nprinted\n{printed}\ninstead of\n{shown}"

    def _local(self, text: str) -> str:
        """The text with the address of the server that runs in the place of the one that pages show."""
        if self.server is None:
            return text
        return re.sub(r"\b(127\.0\.0\.1|localhost):8500\b", f"127.0.0.1:{self.server.port}", text)

    def _run(self, argv: list[str]) -> str:
        done = subprocess.run(
            argv, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, f"{argv[-1]}\n{done.stdout}\n{done.stderr}"
        self.ran += 1
        return done.stdout + done.stderr


def links(page: Path) -> list[str]:
    """Where the page's links lead within the checkout, without anchors."""
    prose = _BLOCK.sub("", page.read_text())
    return [target for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose) if "://" not in target]
