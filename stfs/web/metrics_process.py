"""Prometheus' standard ``process_*`` metrics, of the whole server: this process and those that it has started.

Fronts and models' workers come and go, and an operator's questions (how much processor, how much memory) are of all of
them. Names as https://prometheus.io/docs/instrumenting/writing_clientlibs/ has them. Must not live here: what is told
of one model's worker or of one front (``metrics``).
"""

from __future__ import annotations

import resource
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from stfs.web.usage import Descriptors, Usage, children, descriptors, of_process, started_at_s


class WholeServer:
    """A collector for ``prometheus_client``. Event-loop thread; nothing is told where there is no ``/proc``."""

    def __init__(self) -> None:
        self._cpu_s = 0.0

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        # First, so that one that ends meanwhile is missed once and not counted twice.
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used: list[Usage] = []
        fullest: Descriptors | None = None
        for pid in (None, *children()):
            if (usage := of_process(pid)) is not None:
                used.append(usage)
            if (open_ := descriptors(pid)) is not None and (fullest is None or open_.share > fullest.share):
                fullest = open_
        if not used:
            return
        cpu_s = ended.ru_utime + ended.ru_stime + sum(usage.cpu_s for usage in used)
        self._cpu_s = max(self._cpu_s, cpu_s)  # a counter that falls would be taken for a new one
        cpu = CounterMetricFamily(
            "process_cpu_seconds", "Processor time of the server's processes, those that have ended too"
        )
        cpu.add_metric([], self._cpu_s)
        yield cpu
        yield _gauge(
            "process_resident_memory_bytes",
            "Memory in RAM of the server's processes; what they share counts for each",
            sum(usage.memory_bytes for usage in used),
        )
        yield _gauge(
            "process_virtual_memory_bytes",
            "Address space of the server's processes",
            sum(usage.virtual_bytes for usage in used),
        )
        if (start_s := started_at_s()) is not None:
            yield _gauge("process_start_time_seconds", "When the main process started, since 1970", start_s)
        if fullest is not None:
            yield _gauge(
                "process_open_fds", "Open files and sockets of the process that is nearest to its limit", fullest.open
            )
            yield _gauge("process_max_fds", "How many that process may have", fullest.limit)


def _gauge(name: str, doc: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(name, doc)
    gauge.add_metric([], value)
    return gauge
