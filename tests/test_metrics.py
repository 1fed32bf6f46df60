"""Counters: right buckets, immutable snapshots, and nothing lost when a version is retired."""

from collections import Counter
from dataclasses import FrozenInstanceError, asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.metrics import RETIRED, ROWS, SECONDS, STEP_SECONDS, Histogram, Metrics, Sum


@pytest.mark.parametrize("bounds", [SECONDS, STEP_SECONDS, tuple(map(float, ROWS)), (1.0,), ()])
def test_a_bucket_holds_what_lies_at_most_at_its_bound(bounds):
    assert list(bounds) == sorted(set(bounds))
    for index, bound in enumerate(bounds):
        for value, bucket in [(bound, index), (bound * (1 - 1e-9), index), (bound * (1 + 1e-9), index + 1)]:
            histogram = Histogram(bounds)
            histogram.observe(value)
            assert histogram.counts == [int(i == bucket) for i in range(len(bounds) + 1)]


def test_what_is_below_or_above_all_bounds_is_counted_too():
    histogram = Histogram((1.0, 2.0))
    for value in (-1.0, 0.0, 1e9, float("inf")):
        histogram.observe(value)
    assert histogram.counts == [2, 0, 2]
    assert histogram.total == float("inf")


@given(st.lists(st.floats(0, 20)))
def test_a_histogram_counts_each_observation_once_and_sums_them(values):
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    snapshot = histogram.snapshot()
    assert snapshot.count == len(values)
    assert snapshot.total == pytest.approx(sum(values))
    for upper in range(len(SECONDS)):
        assert sum(snapshot.counts[: upper + 1]) == sum(value <= SECONDS[upper] for value in values)


def test_of_observations_told_by_their_sum_each_is_where_the_mean_is():
    histogram = Histogram((1.0, 2.0))
    histogram.observe_mean(3, 4.5)
    histogram.observe_mean(0, 0.0)
    assert (histogram.counts, histogram.total) == ([0, 3, 0], 4.5)


def test_steps_are_counted_from_tens_of_microseconds_to_ten_seconds_and_requests_from_hundreds():
    assert (STEP_SECONDS[0], STEP_SECONDS[-1]) == (0.00001, 10.0)
    assert (SECONDS[0], SECONDS[-1]) == (0.0001, 10.0)
    assert set(SECONDS) <= set(STEP_SECONDS)


def test_histograms_of_other_bounds_do_not_add_up():
    with pytest.raises(ValueError, match="zip"):
        Histogram((1.0,)).add(Histogram((1.0, 2.0)))


def batch(metrics, model="m", version="1", rows=3, reason="full", failed=False):
    metrics.record_batch(model, version, rows=rows, padded=5, queue_s=0.25, run_s=0.5, reason=reason, failed=failed)


def test_each_record_lands_where_it_says():
    metrics = Metrics()
    metrics.record_request("m", "1", "stfs", "ok", 0.125)
    metrics.record_request("m", "-", "tfserving", "model_not_found", 0.5)
    batch(metrics)
    batch(metrics, rows=1, reason="idle", failed=True)
    told = metrics.snapshot()
    assert told.requests == {("m", "1", "stfs", "ok"): 1, ("m", "-", "tfserving", "model_not_found"): 1}
    assert told.batches == {("m", "1", "full"): 1, ("m", "1", "idle"): 1}
    assert (told.batch_rows["m", "1"].count, told.batch_rows["m", "1"].total) == (2, 4.0)
    assert (told.padded_rows["m", "1"], told.failed_batches["m", "1"]) == (10, 1)
    assert (told.queue_seconds["m", "1"].total, told.run_seconds["m", "1"].total) == (0.5, 1.0)
    assert told.request_seconds["m", "1"].total == 0.125
    assert told.request_seconds["m", "-"].total == 0.5


def test_steps_of_requests_that_succeeded_and_of_many_at_once():
    metrics = Metrics()
    metrics.record_request("m", "1", "stfs", "ok", 0.5, 0.125, 0.25)
    metrics.record_request("m", "1", "stfs", "invalid_input", 0.5, 0.125, 0.25)
    buckets = [0] * (len(SECONDS) + 1)
    buckets[3] = 4
    metrics.record_answered("m", "1", "stfs", buckets, 0.003, 4 * 0.0625, 4 * 0.03125)
    told = metrics.snapshot()
    decode, encode = told.decode_seconds["m", "1"], told.encode_seconds["m", "1"]
    assert (decode.count, decode.total) == (5, 0.125 + 0.25)
    assert (encode.count, encode.total) == (5, 0.25 + 0.125)
    assert decode.counts[STEP_SECONDS.index(0.1)] == 4  # 62.5 ms each
    statistics = metrics.statistics("m", "1")
    assert (statistics.decode, statistics.encode) == (Sum(5, 0.375), Sum(5, 0.375))


def test_a_run_is_told_once_and_once_for_each_request_that_shared_it():
    metrics = Metrics()
    for failed in (False, True):
        metrics.record_batch(
            "m", "1", rows=6, padded=2, queue_s=0.25, run_s=0.5, reason="full", failed=failed, requests=3
        )
    told = metrics.statistics("m", "1")
    assert (told.run, told.queue) == (Sum(2, 1.0), Sum(2, 0.5))
    assert (told.shared_run, told.shared_queue) == (Sum(3, 1.5), Sum(3, 0.75))
    assert (told.rows, told.answered_runs) == (6, 1)


def test_a_snapshot_does_not_change_with_later_records():
    metrics = Metrics()

    def record():
        metrics.record_request("m", "1", "stfs", "ok", 0.125)
        metrics.record_request("m", "2", "stfs", "ok", 0.125)
        batch(metrics)

    record()
    before = metrics.snapshot()
    kept = asdict(before)
    assert metrics.snapshot() == before
    record()
    batch(metrics, model="other")
    metrics.retire("m", "1")
    assert asdict(before) == kept
    assert metrics.snapshot() != before
    with pytest.raises(FrozenInstanceError):
        before.requests = {}
    with pytest.raises(FrozenInstanceError):
        before.run_seconds["m", "1"].total = 0.0


def test_a_retired_version_leaves_its_counts_to_the_retired_ones_of_its_model_alone():
    metrics = Metrics()
    for model, version in [("m", "1"), ("m", "2"), ("other", "1")]:
        metrics.record_request(model, version, "stfs", "ok", 0.125)
        batch(metrics, model, version)
    metrics.retire("m", "1")
    told = metrics.snapshot()
    assert told.requests == {
        ("m", "2", "stfs", "ok"): 1,
        ("other", "1", "stfs", "ok"): 1,
        ("m", RETIRED, "stfs", "ok"): 1,
    }
    assert set(told.batch_rows) == {("m", "2"), ("other", "1"), ("m", RETIRED)}
    assert told.batches == {("m", "2", "full"): 1, ("other", "1", "full"): 1, ("m", RETIRED, "full"): 1}


def test_retiring_what_never_served_changes_nothing():
    metrics = Metrics()
    batch(metrics)
    before = metrics.snapshot()
    metrics.retire("m", "9")
    metrics.retire("nobody", "1")
    assert metrics.snapshot() == before


MODELS = st.sampled_from(["a", "b"])
VERSIONS = st.sampled_from(["-", "1", "2", "11", RETIRED])
REQUEST = st.tuples(
    st.just("request"), MODELS, VERSIONS, st.sampled_from(["ok", "overloaded"]), st.sampled_from([0.0, 0.25, 64.0])
)
BATCH = st.tuples(st.just("batch"), MODELS, VERSIONS, st.sampled_from(["full", "idle"]), st.integers(0, 2000))
RETIRE = st.tuples(st.just("retire"), MODELS, VERSIONS)


def by_model(told):
    """Every count and sum, over the versions of each model."""
    sums = Counter()
    for (model, _, *labels), count in told.requests.items():
        sums["requests", model, *labels] += count
    for (model, _, reason), count in told.batches.items():
        sums["batches", model, reason] += count
    for name in ("padded_rows", "failed_batches"):
        for (model, _), count in getattr(told, name).items():
            sums[name, model] += count
    for name in ("request_seconds", "batch_rows", "queue_seconds", "run_seconds", "decode_seconds", "encode_seconds"):
        for (model, _), histogram in getattr(told, name).items():
            sums[name, model, "total"] += histogram.total
            for bucket, count in enumerate(histogram.counts):
                sums[name, model, bucket] += count
    return +sums


@given(st.lists(st.one_of(REQUEST, BATCH, RETIRE), max_size=40))
def test_no_retirement_loses_or_doubles_a_count(steps):
    """Sums over a model's versions are the same whether versions are retired or not, and never fall on the way."""
    metrics, without = Metrics(), Metrics()
    for kind, model, version, *said in steps:
        before = by_model(metrics.snapshot())
        for each in (metrics, without):
            if kind == "request":
                each.record_request(model, version, "stfs", *said)
            elif kind == "batch":
                each.record_batch(
                    model, version, rows=said[1], padded=1, queue_s=0.25, run_s=4.0, reason=said[0], failed=True
                )
            elif each is metrics:
                metrics.retire(model, version)
                assert by_model(metrics.snapshot()) == before
                gone = {key[:2] for key in metrics.snapshot().requests} | set(metrics.snapshot().run_seconds)
                assert version == RETIRED or (model, version) not in gone
    assert by_model(metrics.snapshot()) == by_model(without.snapshot())
