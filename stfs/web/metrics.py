"""``GET /metrics``: the counters of ``stfs.metrics`` in Prometheus' text format, or as OpenMetrics if asked.

Names and units follow https://prometheus.io/docs/practices/naming/; ``docs/metrics.md`` lists them, and a test holds
that page to a server's. Must not live here: other systems' names (``metrics_triton``, ``metrics_tfserving``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, PlatformCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from stfs import __version__
from stfs.context import Context
from stfs.metrics import HistogramSnapshot, ModelKey
from stfs.web import metrics_triton
from stfs.web.key import CONTEXT
from stfs.web.metrics_process import WholeServer
from stfs.web.models import worker_processes

REGISTRY = web.AppKey("stfs_metrics", CollectorRegistry)

_MODEL = ["model", "version"]


async def metrics(request: web.Request) -> web.Response:
    """The current counters, in the format that the ``Accept`` header prefers.

    With Triton's names among them it is always the text format, since OpenMetrics (counters end in ``_total``) has no
    room for those.
    """
    context = request.app[CONTEXT]
    if "triton" in context.config.metrics_names:
        encode, content_type = choose_encoder("")
        page = encode(request.app[REGISTRY]) + metrics_triton.exposition(context.metrics).encode()
        return web.Response(body=page, headers={"Content-Type": content_type})
    try:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    except (TypeError, ValueError):  # it trips over version numbers that are none
        encode, content_type = choose_encoder("")
    return web.Response(body=encode(request.app[REGISTRY]), headers={"Content-Type": content_type})


def make_registry(context: Context) -> CollectorRegistry:
    """A registry of this server's own, so that two servers in one process do not mix."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(context))
    registry.register(WholeServer())
    PlatformCollector(registry=registry)
    return registry


class _Collector:
    """Turns a snapshot into metric families each time it is asked."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        snapshot = self._context.metrics.snapshot()
        yield _counter(
            "stfs_requests", "Requests that have ended, by outcome", [*_MODEL, "dialect", "outcome"], snapshot.requests
        )
        yield _histogram(
            "stfs_request_duration_seconds",
            "Time from a request's head to its answer, errors included",
            snapshot.request_seconds,
        )
        yield _counter(
            "stfs_batches",
            "Runs of the model, by the reason for which the batch left",
            [*_MODEL, "reason"],
            snapshot.batches,
        )
        yield _histogram("stfs_batch_rows", "Rows of a run, without padding", snapshot.batch_rows)
        yield _counter(
            "stfs_padded_rows", "Rows of padding, added to reach an allowed batch size", _MODEL, snapshot.padded_rows
        )
        yield _counter(
            "stfs_failed_batches",
            "Runs that raised; their requests are tried again in halves",
            _MODEL,
            snapshot.failed_batches,
        )
        waits = snapshot.slot_waits
        yield _counter(
            "stfs_slot_waits",
            "Batches that waited for runs of other models",
            _MODEL,
            {key: sum_.count for key, sum_ in waits.items()},
        )
        yield _counter(
            "stfs_slot_wait_seconds",
            "Time that batches waited for runs of other models",
            _MODEL,
            {key: sum_.seconds for key, sum_ in waits.items()},
        )
        yield _counter("stfs_stuck_runs", "Runs that were given up after run_timeout_s", _MODEL, snapshot.stuck_runs)
        yield _counter(
            "stfs_refused",
            "Requests that were refused for want of room or time, by the reason",
            [*_MODEL, "reason"],
            snapshot.refused,
        )
        yield _histogram(
            "stfs_queue_duration_seconds",
            "Wait of each batch's oldest request until the batch left",
            snapshot.queue_seconds,
        )
        yield _histogram(
            "stfs_run_duration_seconds", "Each run of the model, with stacking and cutting", snapshot.run_seconds
        )
        yield _histogram(
            "stfs_decode_duration_seconds", "Reading of each request that succeeded", snapshot.decode_seconds
        )
        yield _histogram("stfs_encode_duration_seconds", "Writing of each answer", snapshot.encode_seconds)
        yield _counter(
            "stfs_cache_requests",
            "Requests to models that share answers, by what became of them",
            [*_MODEL, "result"],
            snapshot.cache,
        )
        yield _counter("stfs_cache_evictions", "Answers that made room in the cache", _MODEL, snapshot.evicted)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("stfs_build_info", "1, labelled with the server's version", labels=["version"])
        build.add_metric([__version__], 1.0)
        ready = GaugeMetricFamily("stfs_ready", "1 while requests should be sent here")
        ready.add_metric([], float(self._context.ready()))
        queued = GaugeMetricFamily("stfs_queued_rows", "Rows waiting for a run", labels=_MODEL)
        info = GaugeMetricFamily(
            "stfs_model_info", "1, labelled with what serves the model", labels=[*_MODEL, "platform", "runtime"]
        )
        running = GaugeMetricFamily("stfs_in_flight_rows", "Rows in the run under way", labels=_MODEL)
        kept = GaugeMetricFamily("stfs_cache_bytes", "Memory of the answers that are kept", labels=_MODEL)
        limit = GaugeMetricFamily(
            "stfs_batch_limit_rows",
            "Rows that one run may take: max_batch_size, or what fits into memory",
            labels=_MODEL,
        )
        for name, versions in self._context.registry.serving().items():
            for version in versions:
                with self._context.registry.acquire(name, version) as handle:
                    queued.add_metric([name, str(version)], handle.model.queued_rows())
                    running.add_metric([name, str(version)], handle.model.in_flight_rows())
                    if (cached := handle.model.cache_bytes()) is not None:
                        kept.add_metric([name, str(version)], cached)
                    limit.add_metric([name, str(version)], handle.model.batch_limit_rows())
                    info.add_metric([name, str(version), handle.model.platform, handle.model.runtime], 1.0)
        state = GaugeMetricFamily(
            "stfs_version_state", "1 for the state that a version is in", labels=[*_MODEL, "state"]
        )
        failed = GaugeMetricFamily(
            "stfs_version_failed", "1 if the version could not be loaded, or not be closed", labels=_MODEL
        )
        for status in self._context.manager.status():
            for v in status.versions:
                state.add_metric([status.name, str(v.version), v.state.name], 1.0)
                failed.add_metric([status.name, str(v.version)], float(bool(v.error)))
        yield from (build, ready, info, queued, running, limit, kept, state, failed)
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
        yield from self._fronts()

    def _fronts(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("stfs_front_up", "1 if the front process accepts connections", labels=["front"])
        restarts = CounterMetricFamily("stfs_front_restarts", "Front processes that took its place", labels=["front"])
        for place, front in enumerate(self._context.fronts()):
            up.add_metric([str(place)], float(front.up))
            restarts.add_metric([str(place)], front.restarts)
        yield from (up, restarts)


def _counter(name: str, doc: str, labels: list[str], values: Mapping[Any, float]) -> Metric:
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
