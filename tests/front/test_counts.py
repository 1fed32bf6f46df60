import json

import pytest

from stfs.front import counts
from stfs.metrics import RETIRED, Metrics


def recorded(metrics):
    metrics.record_request("m", "1", "stfs", "ok", 0.003, 0.001, 0.0005)
    metrics.record_request("m", "1", "stfs", "invalid_input", 0.2)
    metrics.record_request("-", "-", "oip", "model_not_found", 0.0001)
    metrics.record_batch("m", "1", rows=3, padded=1, queue_s=0.001, run_s=0.02, reason="idle", failed=False)
    metrics.record_batch(
        "m", "2", rows=5, padded=0, queue_s=0.001, run_s=0.02, reason="full", failed=True, timed_out=True
    )
    return metrics


def test_what_two_have_counted_is_what_one_would_have():
    main, front, alone = (Metrics(clock=lambda: 5.0) for _ in range(3))
    for metrics in (main, front, alone, alone):
        recorded(metrics)
    told = json.loads(json.dumps(counts.encode(front.take())))
    main.absorb(counts.decode(told, lambda *_: True))
    assert main.snapshot() == alone.snapshot()
    assert main.statistics("m", "1") == alone.statistics("m", "1")
    assert counts.encode(front.take()) is None


def test_counts_of_a_version_that_has_gone_are_those_of_what_is_retired():
    main, front = Metrics(), recorded(Metrics())
    main.absorb(counts.decode(counts.encode(front.take()), lambda model, version: (model, version) == ("m", "2")))
    snapshot = main.snapshot()
    assert {key[:2] for key in snapshot.requests} == {("m", RETIRED), ("-", "-")}
    assert snapshot.batches == {("m", RETIRED, "idle"): 1, ("m", "2", "full"): 1}


def test_buckets_that_are_not_ours():
    with pytest.raises(ValueError, match="buckets"):
        counts.decode([[], [["m", "1", {"run_seconds": [[1, 2], 3.0]}]]], lambda *_: True)
