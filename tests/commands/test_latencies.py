"""Quantiles of counted latencies, against sorting all of them."""

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from stfs.commands.latencies import UNIT_S, Latencies

SECONDS = st.lists(st.floats(0, 1000, allow_subnormal=False), min_size=1, max_size=200)


def counted(values):
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    return latencies


@given(SECONDS, st.floats(0, 1))
def test_a_quantile_is_at_most_a_bucket_above_the_exact_one(values, share):
    exact = sorted(values)[max(1, math.ceil(share * len(values) - 1e-9)) - 1]
    told = counted(values).quantile(share)
    assert exact <= told * (1 + 1e-9) + 1e-12
    assert told <= exact * (1 + 1 / 128) + UNIT_S * 1.000001


@given(SECONDS)
def test_counts_means_and_ends_are_exact(values):
    latencies = counted(values)
    assert latencies.count == len(values)
    assert latencies.min_s == min(values)
    assert latencies.max_s == latencies.quantile(1.0) == max(values)
    assert math.isclose(latencies.mean_s, math.fsum(values) / len(values), rel_tol=1e-9, abs_tol=1e-12)


@given(SECONDS)
def test_buckets_hold_every_value_once_and_do_not_overlap(values):
    buckets = list(counted(values).buckets())
    assert sum(count for _, _, count in buckets) == len(values)
    for (_, end, _), (begin, _, _) in itertools.pairwise(buckets):
        assert end <= begin * (1 + 1e-12)
    for begin, end, count in buckets:
        inside = [
            v
            for v in values
            if begin <= int(v / UNIT_S) * UNIT_S * (1 + 1e-12) and int(v / UNIT_S) * UNIT_S < end * (1 - 1e-12)
        ]
        assert len(inside) == count
        assert end - begin <= max(begin / 128, UNIT_S) * (1 + 1e-9)


def test_of_none():
    latencies = Latencies()
    assert latencies.quantile(0.99) == 0.0
    assert latencies.mean_s == 0.0
    assert set(latencies.percentiles().values()) == {0.0}
