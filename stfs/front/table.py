"""What is served, seen from both sides: the main process's registry, which tells when it changes, and a front's copy.

Must not live here: which versions are served (``lifecycle``), how requests travel.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from stfs.batcher.policy import BatchPolicy
from stfs.config import ModelConfig
from stfs.front.engine import Desk
from stfs.front.messages import Message, encode_config, encode_model
from stfs.front.policy import REPLICATED_BYTES, replicates
from stfs.lifecycle.registry import Handle, Registry, Withdrawn
from stfs.model import Model

log = logging.getLogger(__name__)


class WatchedRegistry(Registry[Model]):
    """A registry that calls ``on_change`` after each change; what it does must not change it again."""

    def __init__(self) -> None:
        super().__init__()
        self.on_change: Callable[[], None] = lambda: None

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why each model that is known has no version published, if it has none."""
        return self._known

    def publish(self, name: str, version: int, model: Model) -> None:
        """As :class:`Registry`, and told."""
        super().publish(name, version, model)
        self.on_change()

    def withdraw(self, name: str, version: int) -> Withdrawn[Model]:
        """As :class:`Registry`, and told."""
        withdrawn = super().withdraw(name, version)
        self.on_change()
        return withdrawn

    def announce(self, name: str, reason: str) -> None:
        """As :class:`Registry`, and told."""
        is_new = self._known.get(name) != reason
        super().announce(name, reason)
        if is_new:
            self.on_change()

    def forget(self, name: str) -> None:
        """As :class:`Registry`, and told."""
        super().forget(name)
        self.on_change()

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """As :class:`Registry`, and told."""
        is_new = self.labels(name) != labels
        super().label(name, labels)
        if is_new:
            self.on_change()


class Told:
    """What one front has been told is served. The main process's side.

    Each model that the front knows is held for it, as a request holds one: a version that is withdrawn is not closed
    before the front has said that none of its requests needs it (or the drain timeout has passed).
    """

    def __init__(
        self,
        registry: WatchedRegistry,
        desk: Desk,
        number_of: Callable[[Model], int],
        is_replicated: Callable[[Model, ModelConfig], bool],
    ) -> None:
        self._registry = registry
        self._desk = desk
        self._number_of = number_of
        self._is_replicated = is_replicated

    def message(self, configured: Sequence[ModelConfig]) -> Message:
        """The table as it is now, with what is new to the front in full."""
        registry = self._registry
        configs = {config.name: config for config in configured}
        numbers: list[int] = []
        new: list[Message] = []
        for name, versions in registry.serving().items():
            for version in versions:
                handle: Handle[Model] = registry.acquire(name, version)
                number = self._number_of(handle.model)
                numbers.append(number)
                if number in self._desk.held:
                    handle.release()
                else:
                    self._desk.hold(number, handle)
                    config = configs.get(name)
                    is_replica = config is not None and self._is_replicated(handle.model, config)
                    policy = BatchPolicy() if config is None else config.batch
                    told = encode_model(number, handle.model, policy)
                    new.append(told | {"replica": encode_config(config, is_replica)})
        return {
            "op": "table",
            "serving": numbers,
            "new": new,
            "reasons": dict(registry.reasons),
            "labels": {name: dict(registry.labels(name)) for name in registry.reasons},
            "configured": list(configs),
        }


class Replicas:
    """Which models fronts load for themselves: decided once for each that is loaded, the same for every front.

    So a front that takes another's place has what the others have, whatever has been learnt of the model since.
    ``engine`` is the option. Event-loop thread.
    """

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._decided: WeakKeyDictionary[Model, bool] = WeakKeyDictionary()

    def wants(self, model: Model, config: ModelConfig) -> bool:
        """Whether every front loads this one."""
        decided = self._decided.get(model)
        if decided is None:
            decided = self._decided[model] = replicates(
                self._engine,
                in_process=model.worker is None and not model.has_instances,
                caches=model.shares_answers,
                device="cuda" if model.on_gpu else config.device,
                file_bytes=_bytes_at(model.path) if self._engine == "auto" else 0,
                run_s=[
                    one.cost.of(1)
                    for one in model.calibrations.values()
                    if one.cost is not None and not one.cost.is_guess
                ],
            )
        return decided


def _bytes_at(path: Path) -> int:
    """Of the files at ``path``, up to where they are more than matters; a file that cannot be read counts nothing."""
    total = 0
    with contextlib.suppress(OSError):
        for file in (path, *path.rglob("*")):
            if file.is_file():
                total += file.stat().st_size
            if total > REPLICATED_BYTES:
                break
    return total


class Mirror:
    """A front's copy of the table. Event-loop thread.

    ``make`` makes a model of its message, which is served at once. ``replicate``, if the message asks for it, loads the
    same model here, which is served in the place of the other as soon as it can be. ``released`` is called with a
    model's number when it is not served any more and no request holds it.
    """

    def __init__(
        self,
        make: Callable[[Message], Model],
        replicate: Callable[[Message], Awaitable[Model]],
        released: Callable[[int], None],
    ) -> None:
        self.registry: Registry[Model] = Registry()
        self.configured: tuple[str, ...] = ()
        self._make = make
        self._replicate = replicate
        self._released = released
        self._served: dict[int, Model] = {}
        self._known: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading: dict[int, asyncio.Task[None]] = {}

    def take(self, message: Message) -> None:
        """Serve what the message says from now on, and nothing else."""
        registry = self.registry
        self.configured = tuple(message["configured"])
        new = {told["number"]: told for told in message["new"]}
        serving = {number: self._served.get(number) or self._make(new[number]) for number in message["serving"]}
        coming = {(model.name, model.version) for number, model in serving.items() if number not in self._served}
        gone = {number: model for number, model in self._served.items() if number not in serving}
        # A version that is replaced under its number has to go first; all others go when what replaces them has come.
        for number, model in gone.items():
            if (model.name, model.version) in coming:
                self._withdraw(model, number)
        for number, model in serving.items():
            if number not in self._served:
                registry.publish(model.name, model.version, model)
        for number, model in gone.items():
            if (model.name, model.version) not in coming:
                self._withdraw(model, number)
        self._served = serving
        for name, reason in message["reasons"].items():
            registry.announce(name, reason)
        for name, labels in message["labels"].items():
            registry.label(name, labels)
        for name in self._known - set(message["reasons"]):
            registry.forget(name)
        self._known = set(message["reasons"])
        for number, told in new.items():
            if told["replica"] is not None:
                task = self._loading[number] = self._spawn(self._load(number, told))
                task.add_done_callback(partial(self._loaded, number))

    async def settled(self) -> None:
        """Return when what is to be loaded here has been, or could not be."""
        while self._loading:
            await asyncio.wait(self._loading.values())

    def _loaded(self, number: int, _: asyncio.Task[None]) -> None:
        self._loading.pop(number, None)

    async def _load(self, number: int, told: Message) -> None:
        try:
            model = await self._replicate(told)
        except (Exception, SystemExit) as error:
            why = 'model "%s" version %d stays with the main process, for it does not load here: %s'
            log.warning(why, told["name"], told["version"], error)
            return
        remote = self._served.get(number)
        if remote is None:  # it has been replaced meanwhile
            await model.close()
            return
        self._withdraw(remote)
        self.registry.publish(model.name, model.version, model)
        self._served[number] = model

    def _withdraw(self, model: Model, number: int | None = None) -> None:
        """Let no new request reach it; with its number if the main process is to hear when none holds it."""
        self._spawn(self._drain(model, self.registry.withdraw(model.name, model.version), number))

    async def _drain(self, model: Model, withdrawn: Withdrawn[Model], number: int | None) -> None:
        await withdrawn.drained()
        await model.close()
        if number is not None:
            self._released(number)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
