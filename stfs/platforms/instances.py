"""Several instances of one model: how they come to be, and how they look like one.

An instance is what one batch at a time runs on: a thread beside others in one loaded model where the platform says that
its runs may go side by side, a model loaded again where it does not, a worker process each where it runs in one. Must
not live here: batches, who gets which cores (:mod:`stfs.platforms.placement`), worker processes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from stfs.errors import ConfigError, LoadFailed
from stfs.platforms import placement
from stfs.platforms.base import LoadOptions, Platform, Servable, WorkerStatus, gpu_of
from stfs.platforms.loading import Hosting, needs_worker, open_servable
from stfs.platforms.placement import Cpus, Seat
from stfs.signature import Array, Tensors

log = logging.getLogger("stfs.instances")

LOAD_AT_ONCE = 4


def open_instances(
    platform: Platform,
    path: Path,
    options: LoadOptions,
    hosting: Hosting,
    *,
    instances: int = 1,
    cpus: Sequence[Cpus] = (),
    gpus: Sequence[int] = (),
) -> Servable:
    """The model at ``path`` with so many instances, in the places that ``cpus`` and ``gpus`` say; blocking.

    Cores can be had by worker processes alone, and GPUs by platforms that can be told which; else saying them means a
    worker process each. Raises :class:`stfs.errors.SetupError`, as :meth:`Platform.load` does.
    """
    said_device = ""
    if (number := gpu_of(options.device)) is not None:
        if gpus:
            raise ConfigError(f"gpus: device {options.device} was asked for, too: leave one of them out")
        said_device = options.device
        options, gpus = replace(options, device="cuda"), (number,)
    count = placement.count_of(instances, cpus, gpus)
    if count == 1 and not cpus and not gpus:
        return open_servable(platform, path, options, hosting)
    if options.memory_limit_bytes and hosting.isolation == "auto":
        hosting = replace(hosting, isolation="process")  # a process each, so that each is bounded
    hosting = _hosted(platform, path, hosting, cpus, gpus)
    in_workers = needs_worker(platform, path, hosting)
    in_processes = in_workers and not platform.worker_group
    seats = placement.seats(count, cpus, gpus, shared_out=in_processes and not options.threads)
    placement.check(seats, said_device)
    if gpus and options.device == "cpu":
        raise ConfigError("gpus: device cpu was asked for, too: leave one of them out")
    opened: list[Servable] = []

    def open_in(seat: Seat) -> Servable:
        if in_workers:
            device = options.device if seat.gpu is None else "cuda"
            return open_servable(platform, path, replace(options, device=device), replace(hosting, seat=seat))
        device = options.device if seat.gpu is None else f"cuda:{seat.gpu}"
        return open_servable(platform, path, replace(options, device=device), hosting)

    def is_shared(servable: Servable) -> bool:
        """Whether one load is enough for all instances in one place."""
        return servable.concurrent and not in_processes

    try:
        # One first: it says whether more are needed, and one that does not load is told once.
        by_place: dict[Seat, Servable] = {seats[0]: open_in(seats[0])}
        opened.append(by_place[seats[0]])
        shared = is_shared(opened[0])
        todo = list(dict.fromkeys(seats[1:])) if shared else seats[1:]
        more = _load(open_in, [seat for seat in todo if not (shared and seat in by_place)], opened)
        if shared:
            by_place |= more
            members = [by_place[seat] for seat in seats]
        else:
            members = list(opened)
        _require_alike(members, path)
    except BaseException:
        for servable in opened:
            servable.close()
        raise
    if len(opened) > 1 and not in_workers:
        log.info('model "%s" is loaded %d times, for its runs cannot share one', options.model_name, len(opened))
    return Instances(members) if count > 1 else members[0]


def _hosted(platform: Platform, path: Path, hosting: Hosting, cpus: Sequence[Cpus], gpus: Sequence[int]) -> Hosting:
    """In worker processes, if what was said of places takes them."""
    wants = "cpus" if cpus else "gpus" if gpus and not platform.places_on_gpus else ""
    if not wants or needs_worker(platform, path, hosting):
        return hosting
    if hosting.isolation == "thread":
        raise ConfigError(f"{wants} places worker processes of models of {platform.name}: isolation cannot be thread")
    return replace(hosting, isolation="process")


def _load(open_in: Callable[[Seat], Servable], seats: Sequence[Seat], opened: list[Servable]) -> dict[Seat, Servable]:
    """One for each seat, a few at a time, all of them in ``opened``, in order, whatever happens."""
    if not seats:
        return {}
    found: dict[Seat, Servable] = {}
    with ThreadPoolExecutor(LOAD_AT_ONCE, thread_name_prefix="stfs-instances") as pool:
        loads = [(seat, pool.submit(open_in, seat)) for seat in seats]
    failed: BaseException | None = None
    for seat, load in loads:
        if (error := load.exception()) is not None:
            failed = failed or error
        else:
            found[seat] = load.result()
            opened.append(found[seat])
    if failed is not None:
        raise failed
    return found


def _require_alike(members: Sequence[Servable], path: Path) -> None:
    if any(member.signatures != members[0].signatures for member in members):
        raise LoadFailed(f"{path}: its instances have different signatures: it changed while they were loaded")


class Instances(Servable):
    """Several as one. ``members`` has an entry for each instance; those that share a loaded model are one object.

    Who runs batches looks at ``members``; a run of the whole goes to the first that can.
    """

    def __init__(self, members: Sequence[Servable]) -> None:
        first = members[0]
        self.platform = first.platform
        self.runtime = f"{first.runtime}, {len(members)} instances"
        self.signatures = first.signatures
        self.on_gpu = any(member.on_gpu for member in members)
        self.concurrent = all(member.concurrent for member in members)
        self.ends_runs = all(member.ends_runs for member in members)
        self._members = tuple(members)

    @property
    def members(self) -> Sequence[Servable]:
        """See :attr:`Servable.members`."""
        return self._members

    @property
    def default_signature(self) -> str:
        """What the model itself says."""
        return self._members[0].default_signature

    @property
    def worker_status(self) -> WorkerStatus | None:
        """All of them as one, each by itself in ``instances``: up if any is, memory and restarts in sum."""
        found = [status for member in dict.fromkeys(self._members) if (status := member.worker_status) is not None]
        if not found:
            return None
        shown = next((status for status in found if status.state == "up"), found[0])
        resident = [status.resident_bytes for status in found if status.resident_bytes is not None]
        return replace(
            shown,
            restarts=sum(status.restarts for status in found),
            error=next((status.error for status in found if status.error), ""),
            resident_bytes=sum(resident) if resident else None,
            instances=tuple(found) if len(found) > 1 else (),
        )

    def is_up(self) -> bool:
        """See :meth:`Servable.is_up`."""
        return any(member.is_up() for member in self._members)

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        member = next((member for member in self._members if member.is_up()), self._members[0])
        return member.run(signature_name, inputs)

    def close(self) -> None:
        """See :meth:`Servable.close`. All are closed, whatever closing one of them raises; then the first is raised."""
        failed: BaseException | None = None
        distinct = list(dict.fromkeys(self._members))
        with ThreadPoolExecutor(len(distinct), thread_name_prefix="stfs-instances") as pool:
            for closing in [pool.submit(member.close) for member in distinct]:
                failed = failed or closing.exception()
        if failed is not None:
            raise failed
