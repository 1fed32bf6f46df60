"""Which models can be reached right now. Owns the table that requests look into, and the counting of who holds what.

Everything here runs on the event loop's thread, so a look-up and a count need no lock. Knows no files, no policies
and no states: the manager says what to publish, what to withdraw, and what to tell when there is nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from stfs.errors import InvalidRequest, ModelNotFound, NotFound, Unavailable, VersionNotFound


class Model(Protocol):
    """A loaded version, opaque to this room."""

    async def close(self) -> None:
        """Free it; called once, after the last handle is released or the drain timeout has passed."""


M = TypeVar("M", bound=Model)


class _Entry(Generic[M]):
    __slots__ = ("drained", "held", "model", "name", "version")

    def __init__(self, name: str, version: int, model: M) -> None:
        self.name = name
        self.version = version
        self.model = model
        self.held = 0
        self.drained: asyncio.Event | None = None  # made when it is withdrawn, set when nobody holds it


class Handle(Generic[M]):
    """The right to use ``model`` until :meth:`release`; it is not closed before (drain timeout aside).

    Made by :meth:`Registry.acquire`, owned by the request that asked. A context manager. Event loop's thread only.
    """

    __slots__ = ("_entry", "model", "name", "version")

    def __init__(self, entry: _Entry[M]) -> None:
        self._entry: _Entry[M] | None = entry
        self.name = entry.name
        self.version = entry.version
        self.model = entry.model
        entry.held += 1

    def release(self) -> None:
        """Give it back. Doing so again does nothing."""
        entry = self._entry
        if entry is not None:
            self._entry = None
            entry.held -= 1
            if entry.drained is not None and not entry.held:
                entry.drained.set()

    def __enter__(self) -> Handle[M]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Withdrawn(Generic[M]):
    """A version that no new request reaches; requests may still hold it. Made by :meth:`Registry.withdraw`."""

    __slots__ = ("_entry",)

    def __init__(self, entry: _Entry[M]) -> None:
        self._entry = entry

    @property
    def held(self) -> int:
        """How many requests hold it."""
        return self._entry.held

    async def drained(self) -> None:
        """Return when nobody holds it; at once if it is so already. Cancelling the wait changes nothing."""
        assert self._entry.drained is not None, "a withdrawn entry has its event"
        await self._entry.drained.wait()


class Registry(Generic[M]):
    """The table of published versions: replaced whole by each change, so that a reader sees one state or the next."""

    def __init__(self) -> None:
        self._table: Mapping[tuple[str, int], _Entry[M]] = {}
        self._latest: Mapping[str, _Entry[M]] = {}  # beside the table: most requests name no version
        self._known: Mapping[str, str] = {}
        self._labels: Mapping[str, Mapping[str, int]] = {}
        self.published: object = self._table
        """Another object whenever a version has been published or withdrawn: what was found before may be no more."""

    def acquire(self, name: str, version: int | None = None) -> Handle[M]:
        """Hold a published version, the highest if ``version`` is None. On the path of every request.

        Raises :class:`ModelNotFound` or :class:`VersionNotFound`, listing what is there, and :class:`Unavailable` with
        the reason if the model is known but none of its versions is published. The caller releases the handle.
        """
        entry = self._latest.get(name) if version is None else self._table.get((name, version))
        if entry is None:
            raise self._missing(name, version)
        return Handle(entry)

    def publish(self, name: str, version: int, model: M) -> None:
        """Let requests reach ``model``. Raises ``ValueError`` if that version is published already."""
        if (name, version) in self._table:
            raise ValueError(f'model "{name}" version {version} is published already')
        self._replace({**self._table, (name, version): _Entry(name, version, model)})

    def withdraw(self, name: str, version: int) -> Withdrawn[M]:
        """Let no new request reach that version. Raises ``KeyError`` if it is not published."""
        versions = dict(self._table)
        entry = versions.pop((name, version))
        entry.drained = asyncio.Event()
        if not entry.held:
            entry.drained.set()
        self._replace(versions)
        return Withdrawn(entry)

    def announce(self, name: str, reason: str) -> None:
        """Make the model known; ``reason`` is what a request is told while no version of it is published."""
        self._known = {**self._known, name: reason}

    def forget(self, name: str) -> None:
        """The model is no longer one of this server: a request for it finds nothing."""
        self._known = {known: reason for known, reason in self._known.items() if known != name}
        self._labels = {known: labels for known, labels in self._labels.items() if known != name}

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """Let these labels stand for these versions of the model, and no others."""
        self._labels = {**self._labels, name: dict(labels)}

    def labels(self, name: str) -> Mapping[str, int]:
        """The labels of the model, empty if it has none."""
        return self._labels.get(name, {})

    def version_of(self, name: str, label: str) -> int:
        """The version that ``label`` stands for.

        Raises :class:`ModelNotFound` for a model that is not here and :class:`InvalidRequest` for an unknown label.
        """
        labels = self.labels(name)
        if label not in labels:
            if name not in self._known and name not in self.serving():
                raise self._missing(name, None)
            there = ", ".join(f'"{known}" (version {version})' for known, version in sorted(labels.items())) or "none"
            raise InvalidRequest(f'Unrecognized servable version label: {label}; labels of model "{name}": {there}')
        return labels[label]

    def serving(self) -> Mapping[str, tuple[int, ...]]:
        """The published versions of each model that has any, ascending."""
        serving: dict[str, tuple[int, ...]] = {}
        for name, version in sorted(self._table):
            serving[name] = (*serving.get(name, ()), version)
        return serving

    def _replace(self, table: Mapping[tuple[str, int], _Entry[M]]) -> None:
        self._table = self.published = table
        self._latest = {name: table[name, version] for name, version in sorted(table)}  # the highest is written last

    def _missing(self, name: str, version: int | None) -> NotFound | Unavailable:
        there = self.serving().get(name)
        if there is not None:
            versions = ", ".join(map(str, there))
            return VersionNotFound(
                f'model "{name}" has no version {version}; it serves: {versions} (model_version_policy says which)',
                name,
                version,
            )
        if name in self._known:
            return Unavailable(f'model "{name}" is not available: {self._known[name]}')
        names = ", ".join(f'"{known}"' for known in sorted({*self._known, *self.serving()})) or "none"
        return ModelNotFound(f'no model "{name}"; models here: {names}', name, version)
