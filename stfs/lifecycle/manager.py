"""Carries out what the policy decides. Owns the tasks that poll, load, publish, drain and close, and their order.

Decisions are in ``policy``, the book-keeping in ``record``, the table that requests look into in ``registry``.
All of it runs on the event loop's thread; only ``Source.poll`` runs on threads of its own, so that a dead mount can
hold up neither requests nor loads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from stfs.errors import ConfigError, SetupError
from stfs.lifecycle.policy import Load, State, Unload, Wait, next_action
from stfs.lifecycle.record import ModelRecord, ModelSpec, ModelStatus, VersionRecord
from stfs.lifecycle.registry import Model, Registry, Withdrawn
from stfs.lifecycle.source import Poll

M = TypeVar("M", bound=Model)
Loader = Callable[[str, int, Path], Awaitable[M]]
OnChange = Callable[[str, int, State, str], None]

MAX_CONCURRENT_LOADS = 4
"""Over all models; loads are heavy on memory and disks, so more at once would not end sooner."""

POLL_THREADS = 8

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Watched(Generic[M]):
    """A model's record and what runs for it."""

    record: ModelRecord[M]
    polling: asyncio.Lock = field(default_factory=asyncio.Lock)
    decided: asyncio.Event = field(default_factory=asyncio.Event)  # it serves, or it has failed to
    watcher: asyncio.Task[None] | None = None
    retry: asyncio.TimerHandle | None = None
    retired: bool = False  # not wanted any more: what it still loads is closed unpublished

    @property
    def name(self) -> str:
        return self.record.spec.name


class Manager(Generic[M]):
    """Keeps the wanted versions of each model published. Used once: :meth:`start`, any :meth:`apply`, :meth:`stop`.

    ``load(name, version, path)`` makes a model, which is the manager's to close, or raises: :class:`SetupError` for
    what a user can mend. It is never cancelled. ``poll_interval_s`` of 0 or less turns watching off (loads that failed
    are tried again all the same, up to ``max_load_retries`` times, ``retry_interval_s`` apart or ever longer).
    ``drain_timeout_s`` bounds how long a withdrawn version waits for its requests. ``on_change(name, version, state,
    error)`` is called after each change of state.
    """

    def __init__(
        self,
        load: Loader[M],
        registry: Registry[M],
        *,
        poll_interval_s: float,
        drain_timeout_s: float,
        max_load_retries: int,
        retry_interval_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_change: OnChange | None = None,
    ) -> None:
        self._load = load
        self._registry = registry
        self._poll_interval_s = poll_interval_s
        self._drain_timeout_s = drain_timeout_s
        self._max_load_retries = max_load_retries
        self._retry_interval_s = retry_interval_s
        self._clock = clock
        self._on_change = on_change
        self._models: Mapping[str, _Watched[M]] = {}
        self._applying = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._load_slots = asyncio.Semaphore(MAX_CONCURRENT_LOADS)
        self._pollers = ThreadPoolExecutor(POLL_THREADS, thread_name_prefix="stfs-poll")
        self._stopping = False

    async def start(self, specs: Iterable[ModelSpec]) -> Mapping[str, str]:
        """Load what is wanted; return when each model serves a version or has failed to.

        Returns the failures, the reason by the model's name, for the caller to judge: a failed model is watched and
        tried again as well. Raises :class:`ConfigError` if two models share a name. If cancelled, call :meth:`stop`.
        """
        if self._models:
            raise RuntimeError("a manager is started once")
        return await self.apply(specs)

    async def apply(self, specs: Iterable[ModelSpec]) -> Mapping[str, str]:
        """Make the models of this server be exactly ``specs``; return when each serves a version or has failed to.

        A model of the same name, base path and revision keeps its loaded versions and takes the new policy and labels;
        what the policy newly asks for has been loaded by then, too. Any other model of the same name is replaced: its
        versions are withdrawn, then the new ones load, since two of one name and version cannot be told apart. Models
        that are not in ``specs`` are withdrawn, drained and closed.

        Returns and raises as :meth:`start` does; one call at a time works, others wait their turn.
        """
        wanted: dict[str, ModelSpec] = {}
        for spec in specs:
            if spec.name in wanted:
                raise ConfigError(f'two models are named "{spec.name}": give each its own name')
            wanted[spec.name] = spec
        async with self._applying:
            models: dict[str, _Watched[M]] = {}
            begun: list[_Watched[M]] = []
            for name, spec in wanted.items():
                model = self._models.get(name)
                if model is not None and _same(model.record.spec, spec):
                    model.record.spec = spec
                else:
                    model = _Watched(ModelRecord(spec))
                    begun.append(model)
                models[name] = model
            # The table is replaced before anything is begun: whatever comes in meanwhile sees the new one.
            gone = [model for name, model in self._models.items() if models.get(name) is not model]
            self._models = models
            for model in gone:
                self._retire(model)
            for model in models.values():
                if model in begun:
                    self._registry.announce(model.name, "it is starting")
                else:
                    self._advance(model)
                self._registry.label(model.name, model.record.spec.labels)
            await asyncio.gather(*(self._begin(model) for model in begun))
            kept = [model for model in models.values() if model not in begun]
            while any(model.record.having(State.LOADING) for model in kept):
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        serving = self._registry.serving()
        return {name: model.record.reason() for name, model in models.items() if name not in serving}

    async def poll_once(self, name: str | None = None) -> None:
        """Look at each source once, or that of one model, and begin what follows; see :meth:`settled` for its end."""
        models = [model for known, model in self._models.items() if name in (None, known)]
        await asyncio.gather(*(self._poll(model) for model in models))

    async def settled(self) -> None:
        """Return when no load and no unload is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def loaded(self) -> None:
        """Return when no version is being loaded: each serves, or has failed and may be tried again."""
        while any(model.record.having(State.LOADING) for model in self._models.values()):
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def lacking(self) -> Mapping[str, tuple[str, bool]]:
        """Each model that serves nothing: why, and whether it may come to serve if nothing is changed on disk."""
        serving = self._registry.serving()
        return {
            name: (model.record.reason(), not model.record.is_hopeless())
            for name, model in self._models.items()
            if name not in serving
        }

    def status(self) -> tuple[ModelStatus, ...]:
        """All models, in the order of their specs."""
        now = self._clock()
        return tuple(model.record.status(now) for model in self._models.values())

    async def stop(self) -> None:
        """Withdraw, drain and close everything. Loads under way are awaited and their models closed unpublished.

        They are not cancelled: a framework that loads on a thread cannot be, and its model would be lost unclosed.
        Calling it again waits for the same end.
        """
        self._stopping = True
        watchers = [model.watcher for model in self._models.values() if model.watcher is not None]
        for model in self._models.values():
            self._withdraw_all(model)
            self._registry.announce(model.name, "the server is stopping")
        await asyncio.gather(*watchers, return_exceptions=True)
        await self.settled()
        self._pollers.shutdown(wait=False)

    def _retire(self, model: _Watched[M]) -> None:
        """Take a model out of service for good; what it still has is closed when its requests are done."""
        model.retired = True
        self._withdraw_all(model)
        if model.name not in self._models:
            self._registry.forget(model.name)
        log.info('model "%s" at %s is no longer served', model.name, model.record.spec.source.base_path)

    def _withdraw_all(self, model: _Watched[M]) -> None:
        if model.watcher is not None:
            model.watcher.cancel()
        if model.retry is not None:
            model.retry.cancel()
        for record in model.record.having(State.AVAILABLE):
            self._begin_unload(model, record)
        model.decided.set()

    async def _begin(self, model: _Watched[M]) -> None:
        await self._poll(model, first=True)
        if self._poll_interval_s > 0 and not self._over(model):
            model.watcher = asyncio.create_task(self._watch(model), name=f"watch {model.name}")
        await model.decided.wait()

    async def _watch(self, model: _Watched[M]) -> None:
        while True:
            await asyncio.sleep(self._poll_interval_s)
            await self._poll(model)

    async def _poll(self, model: _Watched[M], *, first: bool = False) -> None:
        record = model.record
        async with model.polling:
            if self._over(model):
                return
            try:
                poll = await asyncio.get_running_loop().run_in_executor(
                    self._pollers, record.spec.source.poll, record.last_good
                )
            except Exception as error:
                poll = Poll({}, f"looking for versions failed: {type(error).__name__}: {error}", transient=True)
                log.debug('model "%s"', model.name, exc_info=error)
            if poll.problem != record.problem:
                level, told = (
                    (logging.WARNING, poll.problem) if poll.problem else (logging.INFO, "the problem has gone")
                )
                log.log(level, 'model "%s": %s', model.name, told)
            record.absorb(poll, self._clock(), first=first)
        self._advance(model)

    def _advance(self, model: _Watched[M]) -> None:
        """Begin all that the policy asks for now. Called after each poll, load, unload and retry time."""
        record = model.record
        if model.retry is not None:
            model.retry.cancel()
            model.retry = None
        while not self._over(model):
            now = self._clock()
            snapshots = [version.snapshot() for version in record.versions.values()]
            action = next_action(snapshots, record.spec.version_policy, now, source_sure=record.source_sure)
            match action:
                case Load(version):
                    self._begin_load(model, record.versions[version])
                    continue
                case Unload(version):
                    self._begin_unload(model, record.versions[version])
                    continue
                case Wait(until_s):
                    delay_s = max(0.0, until_s - now)
                    model.retry = asyncio.get_running_loop().call_later(delay_s, self._advance, model)
            self._registry.announce(model.name, record.reason())
            if record.having(State.AVAILABLE) or not record.having(State.LOADING):
                model.decided.set()
            return

    def _begin_load(self, model: _Watched[M], record: VersionRecord[M]) -> None:
        if record.found != record.tried:
            record.forgive()
        record.tried, record.retry_at_s = record.found, None
        self._enter(model, record, State.LOADING)
        self._spawn(self._run_load(model, record), f"load {model.name} {record.version}")

    async def _run_load(self, model: _Watched[M], record: VersionRecord[M]) -> None:
        async with self._load_slots:
            if self._over(model):
                return self._enter(model, record, State.END)
            try:
                loaded = await self._load(model.name, record.version, record.path)
            # A model's own code may call sys.exit, or be cancelled from within: neither may stop the server.
            except (Exception, SystemExit, asyncio.CancelledError) as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                record.fail(self._clock(), self._max_load_retries, self._retry_interval_s)
                self._enter(model, record, State.END, self._explain(error))
                return self._advance(model)
        if self._over(model):
            return self._enter(model, record, State.END, await self._close(loaded))
        record.forgive()
        record.model = loaded
        self._registry.publish(model.name, record.version, loaded)
        self._enter(model, record, State.AVAILABLE)
        return self._advance(model)

    def _begin_unload(self, model: _Watched[M], record: VersionRecord[M]) -> None:
        withdrawn = self._registry.withdraw(model.name, record.version)
        self._enter(model, record, State.UNLOADING)
        self._spawn(self._run_unload(model, record, withdrawn), f"unload {model.name} {record.version}")

    async def _run_unload(self, model: _Watched[M], record: VersionRecord[M], withdrawn: Withdrawn[M]) -> None:
        loaded, record.model = record.model, None
        assert loaded is not None
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                await withdrawn.drained()
        except TimeoutError:
            told = 'model "%s" version %d: closing with %d requests unfinished after %g s'
            log.warning(told, model.name, record.version, withdrawn.held, self._drain_timeout_s)
        self._enter(model, record, State.END, await self._close(loaded))
        self._advance(model)

    def _over(self, model: _Watched[M]) -> bool:
        """Whether nothing new may begin for this model."""
        return self._stopping or model.retired

    async def _close(self, loaded: M) -> str:
        """The error of closing it, empty if all went well."""
        try:
            await loaded.close()
        except Exception as error:
            return f"closing failed: {self._explain(error)}"
        return ""

    def _explain(self, error: BaseException) -> str:
        if isinstance(error, SetupError):
            return str(error)
        log.debug("unexpected", exc_info=error)
        return f"{type(error).__name__}: {error}"

    def _enter(self, model: _Watched[M], record: VersionRecord[M], state: State, error: str = "") -> None:
        record.state, record.error, record.since = state, error, self._clock()
        level = logging.ERROR if error else logging.INFO
        log.log(level, 'model "%s" version %d: %s%s', model.name, record.version, state.value, error and f": {error}")
        if self._on_change is not None:
            try:
                self._on_change(model.name, record.version, state, error)
            except Exception:
                log.exception("on_change failed")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _same(one: ModelSpec, other: ModelSpec) -> bool:
    """Whether what is loaded for ``one`` is what would be loaded for ``other``."""
    return one.source.base_path == other.source.base_path and one.revision == other.revision
