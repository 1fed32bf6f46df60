"""Where each peer's interpreter is: named by ``--peer-python``, or the environment that ``setup`` made."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.serving.peers.peer import Peer

ENVIRONMENTS = Path(__file__).resolve().parents[2] / "build" / "peers"


def python_of(peer: Peer, named: Mapping[str, Path]) -> Path | None:
    """The interpreter that ``peer`` is to run by; None where its environment is not here."""
    if not peer.environment:
        return Path(sys.executable)
    path = named.get(peer.environment, ENVIRONMENTS / peer.environment / "bin" / "python")
    return path.absolute() if path.exists() else None


def parse_pythons(words: list[str]) -> dict[str, Path]:
    """``NAME=PATH`` each. Raises ``ValueError`` for anything else."""
    named = {}
    for word in words:
        name, found, path = word.partition("=")
        if not (name and found and path):
            raise ValueError(f"--peer-python {word}: expected NAME=PATH, such as triton=/opt/triton/bin/python")
        named[name] = Path(path)
    return named
