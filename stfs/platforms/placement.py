"""Which processor cores and GPUs each instance of a model gets: reading what was said, dealing it out, checking it.

Pure but for :func:`check`, which looks at the machine. Must not live here: processes, loading.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stfs.errors import ConfigError
from stfs.platforms.base import CORES_LEFT, all_cores, usable_cores

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
GPUS_FOLDER = Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver lists the GPUs of the machine, one folder each."""

MOST_CPUS = 1 << 16
MOST_INSTANCES = 256
Cpus = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Seat:
    """What one instance has for itself: ``cpus`` by number, empty for all; the number of its ``gpu``; ``cores``, how
    many it is to take itself to have where it shares them with others and nobody says which, 0 for all.
    """

    cpus: Cpus = ()
    gpu: int | None = None
    cores: int = 0

    @property
    def is_any(self) -> bool:
        """Whether it has nothing for itself."""
        return not (self.cpus or self.cores) and self.gpu is None

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What a process in this seat is told by its environment beside ``environ``, which is the server's."""
        told: dict[str, str] = {}
        if self.cpus:
            told[CORES_LEFT] = "0"  # they are its own
        elif self.cores:
            told[CORES_LEFT] = str(max(0, all_cores() - self.cores))
        if self.gpu is not None:
            told[VISIBLE_GPUS] = (_visible(environ) or {}).get(self.gpu, str(self.gpu))
        return told


ANYWHERE = Seat()


def parse_cpus(text: str) -> tuple[Cpus, ...]:
    """Sets of cores, one for all instances or, with ``;`` between, one for each. Raises :class:`ValueError`.

    >>> parse_cpus("0-3,8")
    ((0, 1, 2, 3, 8),)
    >>> parse_cpus("0-1; 2-3")
    ((0, 1), (2, 3))
    """
    if not text.strip():
        return ()
    return tuple(_one_set(part) for part in text.split(";"))


def _one_set(text: str) -> Cpus:
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{part.strip()[:40]!r} is no core: expected numbers and ranges, such as 0-3,8")
        low, high = int(first), int(last or first)
        if not low <= high < MOST_CPUS:
            raise ValueError(f"{part.strip()[:40]!r} is no range of cores")
        cpus.update(range(low, high + 1))
    return tuple(sorted(cpus))


def parse_gpus(text: str) -> tuple[int, ...]:
    """GPUs by number, as in ``0,1``. Raises :class:`ValueError`."""
    words = [part.strip() for part in text.split(",") if part.strip()]
    if wrong := next((word for word in words if not word.isdecimal() or int(word) >= MOST_CPUS), None):
        raise ValueError(f"{wrong[:40]!r} is no GPU's number: expected numbers, such as 0,1")
    return tuple(int(word) for word in words)


def count_of(instances: int, cpus: Sequence[Cpus], gpus: Sequence[int]) -> int:
    """How many instances are meant: at least one for each set of cores and each GPU.

    Raises :class:`ConfigError` for too many, and where the sets are neither one for all nor one for each.

    >>> count_of(1, [(0,), (1,)], []), count_of(4, [(0, 1)], [0, 1])
    (2, 4)
    """
    count = max(instances, len(cpus), len(gpus))
    if count > MOST_INSTANCES:
        raise ConfigError(f"instances: {count} are more than there can be, {MOST_INSTANCES}")
    if len(cpus) not in (0, 1, count):
        raise ConfigError(f"cpus: there are {len(cpus)} sets for {count} instances: give one for all, or one for each")
    return count


def seats(count: int, cpus: Sequence[Cpus], gpus: Sequence[int], *, shared_out: bool) -> list[Seat]:
    """A seat for each of ``count`` instances: cores as said, GPUs in turn. With ``shared_out`` each is to use its part
    of cores of which nothing is said.
    """
    share = max(1, usable_cores() // count) if shared_out and not cpus else 0
    return [
        Seat(cpus[i % len(cpus)] if cpus else (), gpus[i % len(gpus)] if gpus else None, share) for i in range(count)
    ]


def check(seats: Sequence[Seat], device: str = "") -> None:
    """Raise :class:`ConfigError` for a core that this process may not use, and for a GPU that is not there.

    ``device`` is what was said, as ``cuda:1``, if it is that which asks for the GPU, and not ``gpus``.
    """
    asked = {cpu for seat in seats for cpu in seat.cpus}
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    if missing := sorted(asked - allowed):
        raise ConfigError(f"cpus: there is no core {missing[0]} for this process: it may use {told(sorted(allowed))}")
    wanted = sorted({seat.gpu for seat in seats if seat.gpu is not None})
    if not wanted:
        return
    there = _visible(os.environ)
    if there is None:
        there = {i: str(i) for i, _ in enumerate(_listed())}
    if missing := [gpu for gpu in wanted if gpu not in there]:
        have = f"there are {told(sorted(there))}" if there else "NVIDIA's driver shows none here"
        raise ConfigError(f"{f'device {device}' if device else 'gpus'}: there is no GPU {missing[0]}: {have}")


def told(numbers: Sequence[int]) -> str:
    """Ascending numbers in short.

    >>> told([0, 1, 2, 5, 7, 8])
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _visible(environ: Mapping[str, str]) -> dict[int, str] | None:
    """GPUs by the numbers that a program in ``environ`` knows them by; ``None`` where the machine's own are meant."""
    listed = environ.get(VISIBLE_GPUS)
    if listed is None:
        return None
    names: list[str] = []
    for name in (part.strip() for part in listed.split(",")):
        if not name or name.startswith("-"):  # as CUDA: what follows is not seen either
            break
        names.append(name)
    return dict(enumerate(names))


def _listed() -> list[str]:
    try:
        return sorted(entry.name for entry in GPUS_FOLDER.iterdir())
    except OSError:
        return []
