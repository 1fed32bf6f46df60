"""What to do next with the versions of one model. Owns decisions, as pure functions of values.

No I/O, no clock, no tasks: the manager carries out what is decided here. See :func:`next_action` for the rules.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from stfs.errors import ConfigError
from stfs.lifecycle.source import Fingerprint

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class State(enum.Enum):
    """The states of a version, as TensorFlow Serving names them (``get_model_status.proto``)."""

    START = "START"
    """Found, not yet loading."""
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    """Published; requests may reach it."""
    UNLOADING = "UNLOADING"
    """Withdrawn; requests that hold it are finishing."""
    END = "END"
    """Unloaded, or failed to load: then it has an error."""


@dataclass(frozen=True, slots=True)
class Latest:
    """The ``n`` highest versions; 1 or more."""

    n: int = 1

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"Latest({self.n}) would serve nothing")


@dataclass(frozen=True, slots=True)
class All:
    """Every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """These and no others, not even when they fail: whoever pins a version does not want another."""

    versions: frozenset[int]


VersionPolicy: TypeAlias = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version as the decision sees it.

    ``found`` is its fingerprint on disk in the newest poll, ``None`` if it was not there. ``steady``: found equal in
    two consecutive polls, or present when the server started. ``tried`` is the fingerprint of the last load;
    ``failures`` counts failed loads of it in a row, 0 once it is available. ``retry_at_s`` is the clock's time of the
    next try, ``None`` if there is to be none.
    """

    version: int
    state: State
    found: Fingerprint | None
    steady: bool = True
    tried: Fingerprint | None = None
    failures: int = 0
    retry_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Load this version now, beside whatever serves."""

    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Withdraw this version, let its requests finish, close it."""

    version: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing now; ask again at ``until_s`` of the clock, or sooner if anything changes."""

    until_s: float


Action: TypeAlias = Load | Unload | Wait | None


def wanted(policy: VersionPolicy, versions: Iterable[int]) -> frozenset[int]:
    """Those of ``versions`` that the policy asks to serve."""
    match policy:
        case Latest(n):
            return frozenset(sorted(versions)[-n:])
        case All():
            return frozenset(versions)
        case Specific(chosen):
            return chosen.intersection(versions)


def retry_delay_s(failures: int) -> float:
    """How long to wait after so many failures in a row (1 or more): 1 s, doubled each time, at most a minute."""
    # The exponent is capped too: 2.0 ** 1024 overflows.
    return min(FIRST_RETRY_S * 2.0 ** min(failures - 1, 16), LONGEST_RETRY_S)


def next_action(
    snapshots: Iterable[Snapshot], policy: VersionPolicy, now_s: float, *, source_sure: bool = True
) -> Action:
    """The next step for one model; ask again after each step, each poll and each load or unload that ends.

    ``source_sure`` is false if the newest poll was transient: then absence proves nothing.

    - A version is fit to load once it is steady, and stays fit until a load of it fails. The *target* is what the
      policy wants among fit and available versions; so a broken newest version hands its place to the next older one.
    - One load at a time for a model, the newest of the target first; then broken versions that would belong to the
      target, when their files have changed and are steady again, or their time to be tried again has come.
    - A version beyond the target is unloaded when all of the target is available: never a gap.
    - A version that has gone from disk (or that the policy no longer allows) is unloaded when one of the target is
      available, or at once if no version that the policy allows is left on disk. A broken one that is left does not
      count as a replacement: a model that serves is worth more than a tidy table.
    """
    versions = {snapshot.version: snapshot for snapshot in snapshots}
    available = {v for v, s in versions.items() if s.state is State.AVAILABLE}
    on_disk = {v for v, s in versions.items() if s.found is not None}
    allowed = _allowed(policy, on_disk if source_sure else on_disk | available)
    fit = {v for v in allowed if v in available or _is_fit(versions[v])}
    target = wanted(policy, fit)

    for v in sorted(available - target):
        if target <= available if v in allowed else (target & available or not allowed):
            return Unload(v)
    if any(s.state is State.LOADING for s in versions.values()):
        return None
    for v in sorted(target, reverse=True):
        if _is_idle(versions[v]):
            return Load(v)
    waits: list[float] = []
    for v in sorted(allowed - fit, reverse=True):
        s = versions[v]
        if s.failures == 0 or not s.steady or not _is_idle(s) or v not in wanted(policy, fit | {v}):
            continue
        if s.found != s.tried or (s.retry_at_s is not None and s.retry_at_s <= now_s):
            return Load(v)
        if s.retry_at_s is not None:
            waits.append(s.retry_at_s)
    return Wait(min(waits)) if waits else None


def _allowed(policy: VersionPolicy, versions: Iterable[int]) -> frozenset[int]:
    """Those that may serve if better ones fail."""
    return wanted(policy, versions) if isinstance(policy, Specific) else frozenset(versions)


def _is_fit(s: Snapshot) -> bool:
    return s.failures == 0 and (s.steady or s.state is State.LOADING)


def _is_idle(s: Snapshot) -> bool:
    return s.found is not None and s.state in (State.START, State.END)


def parse_version_policy(value: object) -> VersionPolicy:
    """A policy as the user wrote it.

    Takes ``"latest"``, ``"latest:2"``, ``"all"``, ``"specific:1,3"``, and TensorFlow Serving's
    ``ServableVersionPolicy`` as JSON: ``{"latest": {"num_versions": 2}}``, ``{"all": {}}``,
    ``{"specific": {"versions": [1, 3]}}``. Raises :class:`ConfigError` naming what is wrong.
    """
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, Mapping):
        return _parse_json(value)
    raise _wrong(value, "must be text or an object")


def _parse_text(value: str) -> VersionPolicy:
    kind, colon, rest = (part.strip() for part in value.partition(":"))
    match kind.lower(), bool(colon):
        case "latest", False:
            return Latest()
        case "latest", True:
            return Latest(_number(value, rest, least=1))
        case "all", False:
            return All()
        case "specific", True:
            return _specific(value, rest.split(","))
    raise _wrong(value, "must be latest, latest:N, all or specific:N,N")


def _parse_json(value: Mapping[object, object]) -> VersionPolicy:
    if not value:
        return Latest()
    if len(value) > 1:
        raise _wrong(value, "must name one policy only")
    ((kind, body),) = value.items()
    if kind not in ("latest", "all", "specific"):
        raise _wrong(value, f"has no policy {kind!r}: use latest, all or specific")
    if not isinstance(body, Mapping):
        raise _wrong(value, f"needs an object for {kind}")
    key, other = {"latest": ("num_versions", "numVersions"), "specific": ("versions", "")}.get(kind, ("", ""))
    unknown = [name for name in body if name not in (key, other) or not name]
    if unknown:
        raise _wrong(value, f"has an unknown field {unknown[0]!r}")
    if kind == "all":
        return All()
    if kind == "latest":
        # 0 is what protobuf sends for "not set", and TensorFlow Serving reads it as 1.
        return Latest(max(1, _number(value, body.get(key, body.get(other, 1)), least=0)))
    versions = body.get(key)
    if not isinstance(versions, list | tuple):
        raise _wrong(value, "needs a list of versions")
    return _specific(value, versions)


def _specific(value: object, versions: Iterable[object]) -> Specific:
    chosen = frozenset(_number(value, version, least=0) for version in versions)
    if not chosen:
        raise _wrong(value, "names no version")
    return Specific(chosen)


def _number(value: object, number: object, *, least: int) -> int:
    """Digits as text count as well: protobuf's JSON writes 64-bit integers so."""
    if isinstance(number, str) and number.strip().isascii() and number.strip().isdecimal():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or number < least:
        raise _wrong(value, f"has {number!r} where a whole number of at least {least} belongs")
    return number


def _wrong(value: object, problem: str) -> ConfigError:
    return ConfigError(f"version policy {value!r} {problem}")
