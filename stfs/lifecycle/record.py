"""What is known of one model and its versions. Owns the book-keeping between polls, loads and decisions.

Plain mutable values on the event loop's thread: no tasks, no logging, no I/O. The manager writes, the policy reads
snapshots, people read :class:`ModelStatus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from stfs.lifecycle.policy import Latest, Snapshot, State, VersionPolicy, retry_delay_s, wanted
from stfs.lifecycle.registry import Model
from stfs.lifecycle.source import Fingerprint, Found, Poll, Source

M = TypeVar("M", bound=Model)

ENDED_KEPT = 5
"""So many ended versions stay in the status, the last ones, to tell why they ended."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model to serve: its name in requests, where its versions come from, which of them to serve.

    ``labels`` name versions for requests. ``revision`` stands for all else that a version is loaded with: a new spec of
    the same name with another revision loads every version anew, one with the same keeps what is loaded.
    """

    name: str
    source: Source
    version_policy: VersionPolicy = field(default_factory=Latest)
    labels: Mapping[str, int] = field(default_factory=dict)
    revision: object = None


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version at one moment. ``since_s`` is the number of seconds it has been in ``state``."""

    version: int
    state: State
    error: str
    since_s: float
    path: Path


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model at one moment; ``versions`` descending. ``problem`` is the source's, one line.

    ``on_disk`` are the versions that the last poll found, descending, those that are not asked for included.
    """

    name: str
    base_path: Path
    problem: str | None
    versions: tuple[VersionStatus, ...]
    on_disk: tuple[int, ...] = ()


@dataclass(slots=True)
class VersionRecord(Generic[M]):
    """One version. ``model`` is set from the end of its load to its close; the other fields as in ``Snapshot``."""

    version: int
    path: Path
    since: float
    state: State = State.START
    error: str = ""
    model: M | None = None
    found: Fingerprint | None = None
    steady: bool = False
    tried: Fingerprint | None = None
    failures: int = 0
    retry_at_s: float | None = None

    def see(self, found: Found, *, first: bool) -> None:
        """A poll found it; ``first`` for what was there when the server started."""
        self.steady = first or self.found == found.fingerprint
        self.found = found.fingerprint
        if self.state in (State.START, State.END):
            self.path = found.path

    def miss(self, *, sure: bool) -> None:
        """A poll did not find it. If that is ``sure``, its failures are forgotten: what comes back is tried anew."""
        self.found, self.steady = None, False
        if sure:
            self.forgive()

    def fail(self, now: float, max_load_retries: int, retry_interval_s: float | None = None) -> None:
        """A load of it failed. It is tried again after ``retry_interval_s``, or with ``None`` after a growing time."""
        self.failures += 1
        delay_s = retry_delay_s(self.failures) if retry_interval_s is None else retry_interval_s
        self.retry_at_s = now + delay_s if self.failures <= max_load_retries else None

    def forgive(self) -> None:
        """It loaded, or it is to be seen as never tried."""
        self.tried, self.failures, self.retry_at_s = None, 0, None

    def snapshot(self) -> Snapshot:
        """Itself as the policy sees it."""
        return Snapshot(
            version=self.version,
            state=self.state,
            found=self.found,
            steady=self.steady,
            tried=self.tried,
            failures=self.failures,
            retry_at_s=self.retry_at_s,
        )


@dataclass(slots=True)
class ModelRecord(Generic[M]):
    """One model: its spec, what the newest polls said, and its versions by number."""

    spec: ModelSpec
    versions: dict[int, VersionRecord[M]] = field(default_factory=dict)
    last_good: Poll | None = None
    problem: str | None = None
    source_sure: bool = True

    def absorb(self, poll: Poll, now: float, *, first: bool) -> None:
        """Take in what a poll saw."""
        self.problem, self.source_sure = poll.problem, not poll.transient
        if self.source_sure:
            self.last_good = poll
        for version, found in poll.found.items():
            if version not in self.versions:
                self.versions[version] = VersionRecord(version, found.path, now)
            self.versions[version].see(found, first=first)
        for version in self.versions.keys() - poll.found.keys():
            self.versions[version].miss(sure=self.source_sure)
        self._drop_gone()

    def having(self, state: State) -> list[VersionRecord[M]]:
        """The versions in that state, the newest first."""
        return [self.versions[v] for v in sorted(self.versions, reverse=True) if self.versions[v].state is state]

    def is_hopeless(self) -> bool:
        """Whether versions have failed to load, none serves, and none will be tried again as they are."""
        failed = [r for r in self.having(State.END) if r.error and r.found is not None]
        if any(r.retry_at_s is not None for r in failed):
            return False
        return bool(failed) and not (self.having(State.AVAILABLE) or self.having(State.LOADING))

    def reason(self) -> str:
        """Why nothing is available, in a phrase."""
        if loading := self.having(State.LOADING):
            return f"version {loading[0].version} is LOADING"
        if failed := [r for r in self.having(State.END) if r.error and r.found is not None]:
            return f"version {failed[0].version} failed: {failed[0].error}"
        if self.problem is not None:
            return self.problem
        if waiting := [v for v in self._asked() if self.versions[v].state is State.START]:
            return f"version {max(waiting)} is new and may still be being written"
        on_disk = ", ".join(str(v) for v, r in sorted(self.versions.items()) if r.found is not None)
        return f"the version policy asks for none of the versions on disk: {on_disk}" if on_disk else "no version"

    def status(self, now: float) -> ModelStatus:
        """What to show: every version on its way or wanted, and the last few that ended."""
        asked = self._asked()
        ended = {r.version for r in self._ended()[:ENDED_KEPT]}
        shown = [
            r
            for v, r in sorted(self.versions.items(), reverse=True)
            if v in asked or v in ended or r.state not in (State.START, State.END)
        ]
        return ModelStatus(
            self.spec.name,
            self.spec.source.base_path,
            self.problem,
            tuple(VersionStatus(r.version, r.state, r.error, now - r.since, r.path) for r in shown),
            tuple(v for v, r in sorted(self.versions.items(), reverse=True) if r.found is not None),
        )

    def _asked(self) -> frozenset[int]:
        return wanted(self.spec.version_policy, [v for v, r in self.versions.items() if r.found is not None])

    def _ended(self) -> list[VersionRecord[M]]:
        return sorted(self.having(State.END), key=lambda r: r.since, reverse=True)

    def _drop_gone(self) -> None:
        kept = {r.version for r in self._ended()[:ENDED_KEPT]}
        for v, r in list(self.versions.items()):
            # A failed version out of sight is kept while the source is unsure, with its count of failures.
            if r.found is None and self.source_sure and v not in kept and r.state in (State.START, State.END):
                del self.versions[v]
