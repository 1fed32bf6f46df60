"""Metrics under Triton Inference Server's names, for dashboards and autoscalers that were made for it.

Names and labels are those of Triton's metrics page: counters without ``_total``, times in microseconds, which is why
they are written here and not by the client library. As there, times are of requests that succeeded, and a run of the
model counts once for each request that had a part in it, so that dividing by ``nv_inference_request_success`` gives a
mean. Kept on purpose: a request's wait is told as that of the oldest request of its batch, which is at least as long.

Must not live here: metrics of GPUs, which the machine's own exporter has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stfs.metrics import Metrics, ModelStatistics

_COUNTERS: tuple[tuple[str, str, Callable[[ModelStatistics], float]], ...] = (
    ("nv_inference_request_success", "Requests that were answered", lambda s: s.success.count),
    ("nv_inference_request_failure", "Requests that failed", lambda s: s.fail.count),
    ("nv_inference_count", "Rows that were answered", lambda s: s.rows),
    ("nv_inference_exec_count", "Runs of the model that succeeded", lambda s: s.answered_runs),
    ("nv_inference_request_duration_us", "Time of requests from head to answer", lambda s: s.success.seconds * 1e6),
    ("nv_inference_queue_duration_us", "Time of requests in the queue", lambda s: s.shared_queue.seconds * 1e6),
    ("nv_inference_compute_input_duration_us", "Time to read requests", lambda s: s.decode.seconds * 1e6),
    ("nv_inference_compute_infer_duration_us", "Time of requests in the model", lambda s: s.shared_run.seconds * 1e6),
    ("nv_inference_compute_output_duration_us", "Time to write answers", lambda s: s.encode.seconds * 1e6),
    ("nv_cache_num_hits_per_model", "Requests that were answered from the cache", lambda s: s.cache_hits),
    ("nv_cache_num_misses_per_model", "Requests that were looked for in the cache and run", lambda s: s.cache_misses),
)

_NO_MODEL = "-"


def exposition(metrics: Metrics) -> str:
    """The part of the page, in Prometheus' text format, with a line feed at its end."""
    return "".join(line + "\n" for line in _lines(metrics))


def _lines(metrics: Metrics) -> Iterator[str]:
    # A request that reached no model is none of Triton's counts either.
    keys = sorted(key for key in metrics.snapshot().request_seconds if key[0] != _NO_MODEL)
    counted = [(key, metrics.statistics(*key)) for key in keys]
    for name, text, value in _COUNTERS:
        yield f"# HELP {name} {text}"
        yield f"# TYPE {name} counter"
        for (model, version), told in counted:
            yield f'{name}{{model="{_escaped(model)}",version="{_escaped(version)}"}} {value(told):.0f}'


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
