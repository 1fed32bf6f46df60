"""What the comparison needs to know of a peer. Values only: nothing is started here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.works import Work

PROGRAMS = Path(__file__).parent.parent / "programs"
EVERY = frozenset({"identity", "mlp", "resnet", "forest", "boosted"})
ONNX = frozenset({"identity", "mlp", "resnet"})


@dataclass(frozen=True)
class Start:
    """What a start is given: free loopback ports, a folder of its own, the interpreter of its environment."""

    work: Work
    port: int
    spare_ports: tuple[int, int]
    folder: Path
    python: Path
    max_batch: int = 32
    batch_wait_s: float = 0.002


@dataclass(frozen=True)
class Command:
    """What to run, with what added to the environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A server as it is compared.

    ``environment`` names the virtual environment it needs (``""``: this one). ``form`` is the body's (see
    ``Work.body``; ``""``: a GET). ``checks`` is false where it serves no model, so there is no answer to be
    right. ``refuses`` is true where the request is one that it is to read and refuse with 400, which then counts as an
    answer. ``start`` is ``None`` for one that runs elsewhere and is given by URL.
    """

    name: str
    told: str
    environment: str
    path: str
    form: str
    start: Callable[[Start], Command] | None
    works: frozenset[str] = EVERY
    checks: bool = True
    refuses: bool = False
    both_cores: bool = False


def program_env(start: Start, *, batching: bool) -> dict[str, str]:
    """What ``programs/the_model.py`` reads."""
    return {
        "BENCH_MODEL": str(start.work.model),
        "BENCH_PORT": str(start.port),
        "BENCH_MAX_BATCH": str(start.max_batch),
        "BENCH_BATCH_WAIT_S": str(start.batch_wait_s),
        "BENCH_BATCHING": "on" if batching else "off",
        "BENCH_PROGRAMS": str(PROGRAMS),
        "PYTHONPATH": str(PROGRAMS),
    }
