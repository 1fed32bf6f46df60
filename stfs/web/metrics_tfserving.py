"""Metrics under TensorFlow Serving's names, at the address that its monitoring config gives.

Names are those of ``servables/tensorflow/util.cc`` and ``batching/batching_session.cc`` of tensorflow/serving, written
as ``util/prometheus_exporter.cc`` does: paths with colons, and times in microseconds. Counts are kept by
``stfs.metrics``, and added up here over the versions of a model. Kept on purpose: latencies have no labels ``API``,
``entrypoint`` and ``runtime``, since they are not counted apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from aiohttp import web

from stfs.metrics import HistogramSnapshot, ModelKey, Snapshot
from stfs.web.key import CONTEXT

_STATUSES = {
    "ok": "OK",
    "cancelled": "CANCELLED",
    "too_large": "RESOURCE_EXHAUSTED",
    "out_of_memory": "RESOURCE_EXHAUSTED",
    "model_not_found": "NOT_FOUND",
    "version_not_found": "NOT_FOUND",
    "signature_not_found": "FAILED_PRECONDITION",
    "unavailable": "UNAVAILABLE",
    "overloaded": "UNAVAILABLE",
    "deadline_exceeded": "DEADLINE_EXCEEDED",
    "model_failed": "INTERNAL",
    "internal": "INTERNAL",
}
"""What outcomes are called there; all others are the client's mistakes."""

_MISTAKE = "INVALID_ARGUMENT"
_NO_MODEL = "-"


async def metrics(request: web.Request) -> web.Response:
    """The current counters."""
    return web.Response(text=exposition(request.app[CONTEXT].metrics.snapshot()))


def exposition(snapshot: Snapshot) -> str:
    """The page, of each metric one line for its type and the lines of its values."""
    return "\n".join(_lines(snapshot)) + "\n"


def _lines(snapshot: Snapshot) -> Iterator[str]:
    counts: dict[tuple[str, str], int] = {}
    for (model, _, _, outcome), count in snapshot.requests.items():
        key = model, _STATUSES.get(outcome, _MISTAKE)
        counts[key] = counts.get(key, 0) + count
    name = ":tensorflow:serving:request_count"
    yield f"# TYPE {name} counter"
    for (model, status), count in sorted(counts.items()):
        if model != _NO_MODEL:  # TensorFlow Serving counts no request that reached no model
            yield f'{name}{{model_name="{_escaped(model)}",status="{status}"}} {count}'
    yield from _latencies(":tensorflow:serving:request_latency", snapshot.request_seconds)
    yield from _latencies(":tensorflow:serving:runtime_latency", snapshot.run_seconds)
    yield from _latencies(":tensorflow:serving:batching_session:queuing_latency", snapshot.queue_seconds)


def _latencies(name: str, seconds: Mapping[ModelKey, HistogramSnapshot]) -> Iterator[str]:
    yield f"# TYPE {name} histogram"
    for model in sorted({model for model, _ in seconds if model != _NO_MODEL}):
        versions = [histogram for (owner, _), histogram in seconds.items() if owner == model]
        label = f'model_name="{_escaped(model)}"'
        below = 0
        bounds: Iterable[float] = (*versions[0].bounds, float("inf"))
        for bound, *counts in zip(bounds, *(histogram.counts for histogram in versions), strict=True):
            below += sum(counts)
            told = "+Inf" if bound == float("inf") else f"{bound * 1e6:.10g}"
            yield f'{name}_bucket{{{label},le="{told}"}} {below}'
        yield f"{name}_sum{{{label}}} {sum(histogram.total for histogram in versions) * 1e6:.10g}"
        yield f"{name}_count{{{label}}} {below}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
