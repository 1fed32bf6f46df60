"""Reads the container files as far as the tests need, with no engine and no YAML library.

What the files should say is for the tests to know.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Dockerfile:
    """The instructions in order, as (keyword, the rest on one line), without comments."""

    steps: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, name: str) -> Dockerfile:
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
        joined = "\n".join(lines).replace("\\\n", "")
        return cls(tuple((line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines()))

    def all(self, keyword: str) -> list[str]:
        return [rest for word, rest in self.steps if word == keyword]

    def final(self) -> Dockerfile:
        """The last stage alone: what is in the image that runs."""
        start = max(i for i, (word, _) in enumerate(self.steps) if word == "FROM")
        return Dockerfile(self.steps[start:])

    def one(self, keyword: str) -> str:
        (rest,) = self.all(keyword)
        return rest

    def argument(self, name: str) -> str:
        """The default of ``ARG name``."""
        (value,) = {rest.partition("=")[2] for rest in self.all("ARG") if rest.partition("=")[0] == name}
        return value.strip('"')

    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for rest in self.all("ENV") for pair in shlex.split(rest))

    def copied(self) -> list[str]:
        """Sources in the build context of every COPY."""
        return [path for rest in self.all("COPY") if not rest.startswith("--from") for path in rest.split()[:-1]]

    def health_check(self) -> list[str]:
        return json.loads(self.one("HEALTHCHECK").partition(" CMD ")[2])


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps ``path`` from the builder: the last pattern that matches it, or a parent, decides."""
    parts = path.split("/")
    candidates = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    verdict = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        shapes = [bare, bare.removeprefix("**/")]
        if any(_same_depth_match(c, shape, bare.startswith("**/")) for c in candidates for shape in shapes):
            verdict = not pattern.startswith("!")
    return verdict


def _same_depth_match(path: str, shape: str, at_any_depth: bool) -> bool:
    if at_any_depth:
        return fnmatchcase(path.rsplit("/", 1)[-1], shape)
    return path.count("/") == shape.count("/") and fnmatchcase(path, shape)


def ignore_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def read_yaml(name: str) -> list[Any]:
    """The documents of a YAML file of blocks, lists as in JSON and plain scalars; ValueError for anything else."""
    documents = []
    for text in re.split(r"^---$", (ROOT / name).read_text(), flags=re.MULTILINE):
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        # "- key: value" opens a mapping inside a list: the same as a dash above a deeper line.
        split: list[tuple[int, str]] = []
        for line in lines:
            indent, rest = len(line) - len(line.lstrip()), line.strip()
            while rest.startswith("- ") and re.match(r"- [\w.-]+:( |$)", rest):
                split.append((indent, "-"))
                indent, rest = indent + 2, rest[2:]
            split.append((indent, rest))
        document, used = _block(split, 0)
        if used != len(split):
            raise ValueError(f"{name}: cannot read {split[used][1]!r}")
        documents.append(document)
    return documents


def _block(lines: list[tuple[int, str]], at: int) -> tuple[Any, int]:
    indent = lines[at][0]
    is_list = lines[at][1].startswith("-")
    items: list[Any] = []
    mapping: dict[str, Any] = {}
    while at < len(lines) and lines[at][0] == indent and lines[at][1].startswith("-") == is_list:
        text = lines[at][1]
        key, _, rest = (
            ("", "", text[1:].strip()) if is_list else re.fullmatch(r"([\w./-]+)(:)(?: (.*))?", text).groups()  # type: ignore[union-attr]
        )
        at += 1
        if rest:
            value = _scalar(rest)
        elif at < len(lines) and lines[at][0] > indent:
            value, at = _block(lines, at)
        else:
            raise ValueError(f"nothing under {text!r}")
        if is_list:
            items.append(value)
        elif key in mapping:
            raise ValueError(f"{key!r} twice")
        else:
            mapping[key] = value
    return (items if is_list else mapping), at


def _scalar(text: str) -> Any:
    if text[0] in '"[':
        return json.loads(text)
    if text in ("true", "false"):
        return text == "true"
    if text[0] in "{&*|>'!%@`" or ": " in text or " #" in text:
        raise ValueError(f"{text!r} is more YAML than is read here")
    return int(text) if text.isdecimal() else text
