"""One look at the whole server, and how a tick of the live stream tells it. The event-loop thread's.

Must not live here: when it is looked at, who is told (``web.live``); what became of it since (``stfs.history``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stfs.context import Context
from stfs.history import NOTHING, Counts, History, Now, counts_by_model, outcomes_by_model, sum_of
from stfs.lifecycle.record import ModelStatus
from stfs.metrics import Snapshot
from stfs.web.models import worker_processes
from stfs.web.usage import Gpu, Processor, Usage, children, cores, memory_limit_bytes, of_process


@dataclass(frozen=True, slots=True)
class Sample:
    """The server at one moment. ``gauges``: for each model its rows queued and in flight. ``memory_bytes`` and
    ``cpu_cores`` are of this process and those that it has started (models' workers, front ends).
    """

    snapshot: Snapshot
    counts: Mapping[str, Counts]
    statuses: tuple[ModelStatus, ...]
    gauges: Mapping[str, tuple[int, int]]
    cpu_cores: float
    memory_bytes: int


class Sampler:
    """Takes samples. One a server, since the use of processors is told by the difference of two looks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._processor = Processor()

    def take(self, at_s: float) -> Sample:
        """The server now; ``at_s`` is of a clock that never goes back."""
        statuses = self._context.manager.status()
        gauges = {status.name: (0, 0) for status in statuses}
        used: dict[int | None, Usage] = {}
        for pid in (None, *children()):
            if (usage := of_process(pid)) is not None:
                used[pid] = usage
        for name, versions in self._context.registry.serving().items():
            queued = in_flight = 0
            for version in versions:
                with self._context.registry.acquire(name, version) as handle:
                    model = handle.model
                    queued += model.queued_rows()
                    in_flight += model.in_flight_rows()
            if name in gauges:
                gauges[name] = queued, in_flight
        snapshot = self._context.metrics.snapshot()
        return Sample(
            snapshot,
            counts_by_model(snapshot),
            statuses,
            gauges,
            self._processor.cores_used(at_s, used.items()),
            sum(usage.memory_bytes for usage in used.values()),
        )


class Teller:
    """Makes what a tick tells of a sample, as values that JSON has. ``history`` has taken the sample in."""

    def __init__(self, context: Context, history: History) -> None:
        self._context = context
        self._history = history
        self._cores = cores()
        self._memory_limit_bytes = memory_limit_bytes()

    def server(self, sample: Sample, gpus: tuple[Gpu, ...]) -> dict[str, Any]:
        """What is the same for every client."""
        total = sum_of(sample.counts.values())
        queued = sum(waiting for waiting, _ in sample.gauges.values())
        in_flight = sum(running for _, running in sample.gauges.values())
        series = self._history.total
        return {
            "ready": self._context.ready(),
            "server": {
                "cpu": round(sample.cpu_cores, 4),
                "cores": self._cores,
                "memory": sample.memory_bytes,
                "memory_limit": self._memory_limit_bytes,
                "gpus": [
                    {"name": g.name, "busy": g.busy, "memory": g.memory_bytes, "memory_total": g.memory_total_bytes}
                    for g in gpus
                ],
            },
            "total": _numbers(total, queued, in_flight, None if series is None else series.now()),
        }

    def models(self, sample: Sample, model: str | None) -> list[dict[str, Any]]:
        """Every model, or the one of that name with more about it; none if there is none of that name."""
        told = [self._model(sample, status) for status in sample.statuses if model in (None, status.name)]
        if model is not None and told:
            serving = self._context.registry.serving().get(model, ())
            status = next(status for status in sample.statuses if status.name == model)
            told[0] |= {
                "outcomes": outcomes_by_model(sample.snapshot).get(model, {}),
                "labels": dict(self._context.registry.labels(model)),
                "on_disk": status.on_disk,
                "workers": worker_processes(self._context, model, serving),
            }
        return told

    def _model(self, sample: Sample, status: ModelStatus) -> dict[str, Any]:
        series = self._history.models.get(status.name)
        now = None if series is None else series.now()
        return {
            "name": status.name,
            "problem": status.problem,
            **_numbers(sample.counts.get(status.name, NOTHING), *sample.gauges[status.name], now),
            "versions": [
                {"version": v.version, "state": v.state.name, "error": v.error, "since": round(v.since_s, 1)}
                for v in status.versions
            ],
        }


def _numbers(counts: Counts, queued: int, in_flight: int, now: Now | None) -> dict[str, float | None]:
    told: dict[str, float | None] = {
        "requests": counts.requests,
        "errors": counts.errors,
        "queued": queued,
        "in_flight": in_flight,
    }
    if now is not None:
        measured = {"rate": now.rate, "error_rate": now.errors, "p50": now.p50, "p95": now.p95, "p99": now.p99}
        told |= {key: None if math.isnan(value) else round(value, 6) for key, value in measured.items()}
    return told
