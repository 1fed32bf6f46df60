"""``GET /metrics``: the counters of ``stfs.metrics`` in Prometheus' text format.

Names and units follow https://prometheus.io/docs/practices/naming/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from stfs.context import Context
from stfs.metrics import HistogramSnapshot, ModelKey
from stfs.web.models import worker_processes

REGISTRY = web.AppKey("stfs_metrics", CollectorRegistry)

_MODEL = ["model", "version"]


async def metrics(request: web.Request) -> web.Response:
    """The current counters, in the format that the ``Accept`` header prefers."""
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):  # it trips over version numbers that are none
        encode, content_type = choose_encoder("")
    return web.Response(body=encode(request.app[REGISTRY]), headers={"Content-Type": content_type})


def make_registry(context: Context) -> CollectorRegistry:
    """A registry of this server's own, so that two servers in one process do not mix."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(context))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class _Collector:
    """Turns a snapshot into metric families each time it is asked."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        snapshot = self._context.metrics.snapshot()
        yield _counter("stfs_requests", "Requests answered", [*_MODEL, "dialect", "outcome"], snapshot.requests)
        yield _histogram("stfs_request_duration_seconds", "Head received to answer made", snapshot.request_seconds)
        yield _counter(
            "stfs_batches", "Runs of the model, by reason for leaving", [*_MODEL, "reason"], snapshot.batches
        )
        yield _histogram("stfs_batch_rows", "Rows of a run, without padding", snapshot.batch_rows)
        yield _counter("stfs_padded_rows", "Rows added to reach an allowed size", _MODEL, snapshot.padded_rows)
        yield _counter("stfs_failed_batches", "Runs that raised", _MODEL, snapshot.failed_batches)
        yield _histogram("stfs_queue_duration_seconds", "Wait of a batch's oldest request", snapshot.queue_seconds)
        yield _histogram("stfs_run_duration_seconds", "One run of the model", snapshot.run_seconds)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("stfs_ready", "1 while requests should be sent here")
        ready.add_metric([], float(self._context.ready()))
        queued = GaugeMetricFamily("stfs_queued_rows", "Rows waiting for a run", labels=_MODEL)
        running = GaugeMetricFamily("stfs_in_flight_rows", "Rows in the run under way", labels=_MODEL)
        for name, versions in self._context.registry.serving().items():
            for version in versions:
                with self._context.registry.acquire(name, version) as handle:
                    queued.add_metric([name, str(version)], handle.model.queued_rows())
                    running.add_metric([name, str(version)], handle.model.in_flight_rows())
        state = GaugeMetricFamily(
            "stfs_version_state", "1 for the state that a version is in", labels=[*_MODEL, "state"]
        )
        for status in self._context.manager.status():
            for v in status.versions:
                state.add_metric([status.name, str(v.version), v.state.name], 1.0)
        yield from (ready, queued, running, state)
        yield from self._workers()

    def _workers(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("stfs_worker_up", "1 if the model can run in its worker process", labels=_MODEL)
        restarts = CounterMetricFamily("stfs_worker_restarts", "Restarts of the model's worker process", labels=_MODEL)
        memory = GaugeMetricFamily(
            "stfs_worker_resident_memory_bytes",
            "Memory in RAM of the model's worker process, which may host other models too",
            labels=_MODEL,
        )
        for name, versions in self._context.registry.serving().items():
            for version, worker in worker_processes(self._context, name, versions).items():
                labels = [name, str(version)]
                up.add_metric(labels, float(worker["state"] == "up"))
                restarts.add_metric(labels, worker["restarts"])
                if worker["resident_bytes"] is not None:
                    memory.add_metric(labels, worker["resident_bytes"])
        yield from (up, restarts, memory)


def _counter(name: str, doc: str, labels: list[str], values: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, doc, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def _histogram(name: str, doc: str, values: Mapping[ModelKey, HistogramSnapshot]) -> Metric:
    family = HistogramMetricFamily(name, doc, labels=_MODEL)
    for key, histogram in values.items():
        below = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), below))
        family.add_metric(list(key), buckets, sum_value=histogram.total)
    return family
