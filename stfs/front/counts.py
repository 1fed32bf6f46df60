"""What a front process has counted, as plain JSON on its way to the main process, which adds it to its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stfs.metrics import RETIRED, Adder, Histogram, PerModel, Recorded

_HISTOGRAMS = ("request_seconds", "batch_rows", "queue_seconds", "run_seconds", "decode_seconds", "encode_seconds")
_SUMS = ("success", "fail", "shared_queue", "shared_run", "slot_waits")
_PLAIN = ("padded_rows", "failed_batches", "stuck_runs", "evicted", "last_s")


def encode(recorded: Recorded) -> list[Any] | None:
    """As JSON; ``None`` if nothing was counted."""
    if not recorded.requests and not recorded.models:
        return None
    requests = [[*key, count] for key, count in recorded.requests.items()]
    return [requests, [[*key, _encode(entry)] for key, entry in recorded.models.items()]]


def decode(told: list[Any], is_held: Callable[[str, str], bool]) -> Recorded:
    """What :func:`encode` was given. Counts of a version that is not held any more go to those of :data:`RETIRED`.

    Else a late message would make counts anew for a version that has gone, and they would never go.
    """

    def version_of(model: str, version: str) -> str:
        return version if version in ("-", RETIRED) or is_held(model, version) else RETIRED

    recorded = Recorded({}, {})
    for model, version, dialect, outcome, count in told[0]:
        key = (model, version_of(model, version), dialect, outcome)
        recorded.requests[key] = recorded.requests.get(key, 0) + count
    for model, version, entry in told[1]:
        recorded.models.setdefault((model, version_of(model, version)), PerModel()).add(_decode(entry))
    return recorded


def _encode(entry: PerModel) -> dict[str, Any]:
    told: dict[str, Any] = {name: getattr(entry, name) for name in _PLAIN if getattr(entry, name)}
    for name in _HISTOGRAMS:
        if any((histogram := getattr(entry, name)).counts):
            told[name] = [histogram.counts, histogram.total]
    for name in _SUMS:
        if (adder := getattr(entry, name)).count:
            told[name] = [adder.count, adder.seconds]
    if entry.reasons:
        told["reasons"] = entry.reasons
    if entry.cache:
        told["cache"] = entry.cache
    if entry.refused:
        told["refused"] = entry.refused
    if entry.by_rows:
        told["by_rows"] = [[rows, runs.count, runs.seconds] for rows, runs in entry.by_rows.items()]
    return told


def _decode(told: dict[str, Any]) -> PerModel:
    entry = PerModel()
    for name in _PLAIN:
        setattr(entry, name, told.get(name, 0))
    for name in _HISTOGRAMS:
        if name in told:
            histogram: Histogram = getattr(entry, name)
            counts, histogram.total = told[name]
            if len(counts) != len(histogram.counts):
                raise ValueError(f"{name} of {len(counts)} buckets")
            histogram.counts = counts
    for name in _SUMS:
        if name in told:
            adder: Adder = getattr(entry, name)
            adder.count, adder.seconds = told[name]
    entry.reasons = told.get("reasons", {})
    entry.cache = told.get("cache", {})
    entry.refused = told.get("refused", {})
    for rows, count, seconds in told.get("by_rows", ()):
        runs = entry.runs_of(rows)
        runs.count, runs.seconds = count, seconds
    return entry
