"""Triton's model repository: which models there are, loading and unloading them by name on a running server.

Owns the book of what each model was configured with, so that a model that was unloaded can be loaded again. Shared by
the HTTP and the gRPC side. Must not live here: wire formats; how models are loaded (``lifecycle``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from stfs.config import ModelConfig
from stfs.errors import ConfigError, InvalidRequest, ModelNotFound
from stfs.lifecycle.labels import check_labels
from stfs.lifecycle.policy import State
from stfs.lifecycle.record import ModelStatus
from stfs.lifecycle.to_its_end import to_its_end
from stfs.repository_config import overridden
from stfs.repository_file import with_file

UNLOADED = "unloaded"
"""The reason of a model that was unloaded because somebody asked for it."""


class Loaded(Protocol):
    """What the book needs of the manager of the lifecycle."""

    def status(self) -> tuple[ModelStatus, ...]:
        """Every model that is to be served, with its versions."""

    async def poll_once(self, name: str | None = None) -> None:
        """Look for versions of that model."""

    async def settled(self) -> None:
        """Return when nothing is being loaded or unloaded."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version in the index. ``version`` is ``None`` for a model of which none is known.

    ``state`` is READY, LOADING, UNLOADING or UNAVAILABLE; ``reason`` says why it is not ready, and may be empty.
    """

    name: str
    version: int | None
    state: str
    reason: str = ""


_STATES = {State.AVAILABLE: "READY", State.LOADING: "LOADING", State.UNLOADING: "UNLOADING"}


class Repository:
    """The models that were configured, served or not. For the event-loop thread; one change at a time, each to its end
    even if whoever asked for it has gone.

    ``models`` tells what is served now and ``apply`` changes that, as in :class:`stfs.context.Context`. ``configured``
    is what the user said of the models, before their ``config.pbtxt`` was read, if that is not the same. ``explicit``
    says whether clients may load and unload; if not, that raises :class:`stfs.errors.InvalidRequest`.
    """

    def __init__(
        self,
        models: Callable[[], tuple[ModelConfig, ...]],
        apply: Callable[[Sequence[ModelConfig]], Awaitable[Mapping[str, str]]],
        manager: Loaded,
        *,
        configured: Sequence[ModelConfig] | None = None,
        explicit: bool = True,
    ) -> None:
        self._explicit = explicit
        self._models = models
        self._apply = apply
        self._manager = manager
        self._book = {model.name: model for model in (models() if configured is None else configured)}
        # What was made of the book's by a file or an override.
        self._applied: dict[str, ModelConfig] = {model.name: model for model in models()}
        self._gone: dict[str, tuple[str, tuple[int, ...]]] = {}  # reason and versions of what is not served
        self._changing = asyncio.Lock()

    def index(self, *, ready: bool = False) -> list[IndexEntry]:
        """Every version of every model, those that were unloaded included; only what can be asked if ``ready``."""
        self._take_in()
        found: list[IndexEntry] = []
        for status in self._manager.status():
            found += _entries(status)
        served = {model.name for model in self._models()}
        for name in self._book.keys() - served:
            reason, versions = self._gone.get(name, (UNLOADED, ()))
            found += [IndexEntry(name, version, "UNAVAILABLE", reason) for version in versions or (None,)]
        found.sort(key=lambda entry: (entry.name, entry.version or 0))
        return [entry for entry in found if entry.state == "READY"] if ready else found

    async def load(self, name: str, override: str | None = None) -> None:
        """Serve the model from now on, as it was configured, or with what ``override`` says instead (JSON).

        Its ``config.pbtxt`` is read again, if it has one; an override beats it.
        A model that is served so already looks for new versions. Returns when a version serves. Raises
        :class:`ModelNotFound` for a name that was never configured and :class:`InvalidRequest` with the reason if it
        does not serve: then what was served before is served again.
        """
        self._check_control()
        await to_its_end(self._load(name, override))

    async def _load(self, name: str, override: str | None) -> None:
        async with self._changing:
            self._take_in()
            if name not in self._book:
                raise ModelNotFound(f"{self._known()}; a model is configured when the server starts", name)
            before = self._models()
            served = {model.name: model for model in before}
            try:
                wanted = await asyncio.to_thread(with_file, self._book[name])
            except ConfigError as error:
                if name not in served:
                    self._gone[name] = (str(error), self._versions(name))
                raise InvalidRequest(f"failed to load '{name}': {error}") from None
            if override is not None:
                wanted = overridden(wanted, override)
            if served.get(name) == wanted:
                await self._look(name)
                return
            after = [wanted if model.name == name else model for model in before]
            if name not in served:
                after.append(wanted)
            self._applied[name] = wanted
            try:
                failures = await self._apply(after)
            except ConfigError as error:
                failures = {name: str(error)}
            if (reason := failures.get(name)) is None:
                self._gone.pop(name, None)
                return
            if name in served:
                self._applied[name] = served[name]
            else:
                self._gone[name] = (reason, self._versions(name))
            await self._apply(before)
            raise InvalidRequest(f"failed to load '{name}': {reason}")

    async def unload(self, name: str) -> None:
        """Serve the model no more. What was asked of it before is answered; its memory is freed after that.

        Raises :class:`ModelNotFound` for a name that was never configured; a model that is not served stays so.
        """
        self._check_control()
        await to_its_end(self._unload(name))

    async def _unload(self, name: str) -> None:
        async with self._changing:
            self._take_in()
            if name not in self._book:
                raise ModelNotFound(self._known(), name)
            models = self._models()
            after = [model for model in models if model.name != name]
            if len(after) < len(models):
                self._gone[name] = (UNLOADED, self._versions(name))
                await self._apply(after)

    async def label(self, name: str, labels: Mapping[str, int]) -> None:
        """Let these labels stand for these versions of a model that is served, and no others, until the server ends.

        Raises :class:`ModelNotFound` for a model that is not served, and :class:`InvalidRequest` for a label of a
        version that is not available, unless it stood for it before.
        """
        self._check_control()
        await to_its_end(self._label(name, labels))

    async def _label(self, name: str, labels: Mapping[str, int]) -> None:
        async with self._changing:
            self._take_in()
            before = self._models()
            if (current := next((model for model in before if model.name == name), None)) is None:
                raise ModelNotFound(f'model "{name}" is not served', name)
            available = {v for s in self._manager.status() if s.name == name for v in _available(s)}
            try:
                check_labels(name, labels, current.version_labels, available, allow_unavailable=False)
                wanted = replace(current, version_labels=dict(labels))
                await self._apply([wanted if model.name == name else model for model in before])
            except ConfigError as error:
                raise InvalidRequest(str(error)) from None
            # What it is loaded with again, by this name, has these labels too.
            self._applied[name] = wanted
            self._book[name] = replace(self._book[name], version_labels=dict(labels))

    def _check_control(self) -> None:
        if not self._explicit:
            raise InvalidRequest(
                "explicit model load / unload is not allowed: start the server with --model_control=explicit"
            )

    async def _look(self, name: str) -> None:
        """Load new versions at once: whoever asks for it has finished writing them."""
        for _ in range(2):  # what is new must be seen unchanged
            await self._manager.poll_once(name)
        await self._manager.settled()
        status = next((status for status in self._manager.status() if status.name == name), None)
        if status is not None and not any(v.state is State.AVAILABLE for v in status.versions):
            reason = next((v.error for v in status.versions if v.error), status.problem or "it has no version")
            raise InvalidRequest(f"failed to load '{name}': {reason}")

    def _take_in(self) -> None:
        """What has been configured by others since, by reloading the configuration, is in the book from now on."""
        for model in self._models():
            if model not in (self._book.get(model.name), self._applied.get(model.name)):
                self._book[model.name] = model
                self._gone.pop(model.name, None)

    def _versions(self, name: str) -> tuple[int, ...]:
        status = next((status for status in self._manager.status() if status.name == name), None)
        return () if status is None else tuple(v.version for v in status.versions if v.state is not State.END)

    def _known(self) -> str:
        return "models here: " + (", ".join(f'"{name}"' for name in sorted(self._book)) or "none")


def _available(status: ModelStatus) -> list[int]:
    return [v.version for v in status.versions if v.state is State.AVAILABLE]


def _entries(status: ModelStatus) -> list[IndexEntry]:
    if not status.versions:
        return [IndexEntry(status.name, None, "UNAVAILABLE", status.problem or "")]
    return [
        IndexEntry(status.name, v.version, _STATES.get(v.state, "UNAVAILABLE"), v.error or _reason(v.state))
        for v in status.versions
    ]


def _reason(state: State) -> str:
    return UNLOADED if state is State.END else ""
