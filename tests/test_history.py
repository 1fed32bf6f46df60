"""The last hour in numbers: what is computed of counts, and that it never grows."""

import math

import numpy as np
import pytest

from stfs.history import (
    COARSE_POINTS,
    COLUMNS,
    FINE_POINTS,
    MAX_SERIES,
    NOTHING,
    REASONS,
    WINDOW_S,
    Counts,
    History,
    Ring,
    Series,
    counts_by_model,
    outcomes_by_model,
    quantile,
)
from stfs.metrics import SECONDS, Metrics


class Server:
    """Counts as a server does, on a clock of its own, and tells a series once a second."""

    def __init__(self):
        self.metrics = Metrics(clock=lambda: 0.0)
        self.at_s = 100.0
        self.series = Series(self.at_s, NOTHING)

    def requests(self, count, seconds=0.003, outcome="ok", version="1"):
        for _ in range(count):
            self.metrics.record_request("m", version, "stfs", outcome, seconds)

    def batch(self, rows, padded=0, queue_s=0.001, run_s=0.002, reason="idle"):
        self.metrics.record_batch(
            "m", "1", rows=rows, padded=padded, queue_s=queue_s, run_s=run_s, reason=reason, failed=False
        )

    def tick(self, queued=0, in_flight=0, after_s=1.0):
        self.at_s += after_s
        counts = counts_by_model(self.metrics.snapshot()).get("m", NOTHING)
        self.series.record(self.at_s, counts, queued, in_flight)

    def newest(self, ring=None):
        times, rows = (ring or self.series.fine).points(1)
        return dict(zip(COLUMNS, rows[0].tolist(), strict=True)) | {"at": times[0]}


def test_a_point_tells_what_was_counted_since_the_last_one():
    server = Server()
    server.requests(30)
    server.requests(10, outcome="invalid_input")
    server.batch(rows=6, padded=2, queue_s=0.010, run_s=0.020)
    server.batch(rows=1, padded=0, queue_s=0.030, run_s=0.040, reason="full")
    server.tick(queued=7, in_flight=3)
    point = server.newest()
    assert point["at"] == 101.0
    assert (point["rate"], point["errors"]) == (40, 10)
    assert (point["queued"], point["in_flight"]) == (7, 3)
    assert (point["batches"], point["rows"]) == (2, 3.5)
    assert point["padding"] == pytest.approx(2 / 9)
    assert (point["queue_wait"], point["run"]) == (pytest.approx(0.020), pytest.approx(0.030))
    assert (point["reason_idle"], point["reason_full"], point["reason_retry"]) == (1, 1, 0)
    assert (point["rows_le_1"], point["rows_le_8"], point["rows_le_2"]) == (1, 1, 0)
    server.requests(5)
    server.tick(after_s=2.5)  # the loop was busy
    assert server.newest()["rate"] == 2.0


def test_nothing_is_told_as_nothing_and_not_as_nought():
    server = Server()
    server.tick()
    point = server.newest()
    assert (point["rate"], point["errors"], point["batches"]) == (0, 0, 0)
    assert all(math.isnan(point[name]) for name in ("p50", "p95", "p99", "rows", "padding", "queue_wait", "run"))
    assert math.isnan(server.series.now().p50)
    assert math.isnan(quantile(SECONDS, [0] * (len(SECONDS) + 1), 0.5))


def test_quantiles_follow_prometheus_rule():
    # 10 observations up to 1, 30 up to 2, 60 up to 4: the rank of the median is 50, which is 10 of 60 into (2, 4].
    assert quantile((1, 2, 4), (10, 30, 60, 0), 0.5) == pytest.approx(2 + 2 * 10 / 60)
    assert quantile((1, 2, 4), (10, 30, 60, 0), 0.1) == pytest.approx(1.0)
    assert quantile((1, 2, 4), (10, 0, 0, 0), 0.5) == pytest.approx(0.5)
    assert quantile((1, 2, 4), (0, 0, 0, 7), 0.5) == 4  # more is not known of them
    assert quantile((1, 2, 4), (0, 5, 0, 5), 0.99) == 4


def test_quantiles_lie_in_the_bucket_of_the_true_ones():
    random = np.random.default_rng(3)
    metrics = Metrics(clock=lambda: 0.0)
    values = random.lognormal(-5, 1.2, 2000)
    for value in values:
        metrics.record_request("m", "1", "stfs", "ok", float(value))
    counts = counts_by_model(metrics.snapshot())["m"]
    bounds = np.array((0.0, *SECONDS, math.inf))
    for share in (0.5, 0.95, 0.99):
        true = float(np.quantile(values, share, method="inverted_cdf"))
        upper = bounds[np.searchsorted(bounds, true)]
        lower = bounds[np.searchsorted(bounds, true) - 1]
        assert lower <= quantile(SECONDS, counts.request_seconds, share) <= upper


def test_numbers_of_now_are_of_the_last_seconds():
    server = Server()
    server.requests(1000, seconds=2.0)
    server.tick()
    for _ in range(int(WINDOW_S) + 1):
        server.requests(5, seconds=0.0008)
        server.tick()
    now = server.series.now()
    assert (now.rate, now.errors) == (5, 0)
    assert now.p99 <= 0.001  # the slow ones have gone out of the window


def test_coarse_points_are_of_ten_seconds_and_keep_the_most_that_was_queued():
    server = Server()
    for second in range(20):
        server.requests(second)
        server.tick(queued=50 if second == 13 else 0)
    assert len(server.series.coarse) == 2
    point = server.newest(server.series.coarse)
    assert point["at"] == 120.0
    assert point["rate"] == sum(range(10, 20)) / 10
    assert point["queued"] == 50


def test_versions_that_go_take_nothing_away():
    server = Server()
    server.requests(20, version="1")
    server.tick()
    server.metrics.retire("m", "1")
    server.requests(3, version="2")
    server.tick()
    assert server.newest()["rate"] == 3
    assert counts_by_model(server.metrics.snapshot())["m"].requests == 23
    assert outcomes_by_model(server.metrics.snapshot())["m"] == {"ok": 23}


def test_a_reason_without_a_name_here_is_told_as_other():
    server = Server()
    server.batch(rows=1, reason="because")
    server.tick()
    assert server.newest()["reason_other"] == 1
    assert len({*REASONS}) == len(REASONS)


def test_counts_add_up_over_models_and_requests_that_found_none():
    metrics = Metrics(clock=lambda: 0.0)
    metrics.record_request("a", "1", "stfs", "ok", 0.1)
    metrics.record_request("b", "1", "oip", "ok", 0.1)
    metrics.record_request("-", "-", "stfs", "model_not_found", 0.1)
    counts = counts_by_model(metrics.snapshot())
    assert {name: (c.requests, c.errors) for name, c in counts.items()} == {"a": (1, 0), "b": (1, 0), "-": (1, 1)}
    total = counts["a"] + counts["b"] + counts["-"]
    assert (total.requests, total.errors, sum(total.request_seconds)) == (3, 1, 3)
    assert total - counts["b"] - counts["-"] == counts["a"]


def test_a_ring_keeps_the_last_points_in_order():
    ring = Ring(4, 1)
    for number in range(10):
        ring.add(float(number), [number * 10])
    times, rows = ring.points()
    assert times.tolist() == [6, 7, 8, 9]
    assert rows[:, 0].tolist() == [60, 70, 80, 90]
    assert ring.points(2)[0].tolist() == [8, 9]
    assert len(Ring(4, 1).points()[0]) == 0


def test_a_day_takes_no_more_memory_than_an_hour():
    server = Server()
    server.requests(1)
    for _ in range(FINE_POINTS + COARSE_POINTS * 12):
        server.tick()
    assert (len(server.series.fine), len(server.series.coarse)) == (FINE_POINTS, COARSE_POINTS)
    times, _ = server.series.coarse.points()
    assert np.diff(times).tolist() == [10.0] * (COARSE_POINTS - 1)
    assert len(server.series._recent) <= WINDOW_S + 2


def test_a_moment_that_does_not_come_after_the_last_adds_nothing():
    series = Series(5.0, NOTHING)
    series.record(5.0, Counts(requests=3), 0, 0)
    assert len(series.fine) == 0
    assert series.now().rate == 0


def test_the_history_keeps_the_models_that_there_are_and_no_more_than_it_may():
    history = History()
    gauges = {f"m{number}": (1, 2) for number in range(MAX_SERIES + 20)}
    for second in range(3):
        history.record(float(second), {}, gauges, 0.5, 1e6)
    assert len(history.models) == MAX_SERIES
    assert len(history.models["m0"].fine) == 2
    columns = history.total.columns
    point = dict(zip(columns, history.total.fine.points(1)[1][0].tolist(), strict=True))
    assert (point["queued"], point["in_flight"]) == (len(gauges), 2 * len(gauges))
    assert (point["cpu"], point["memory"]) == (0.5, 1e6)
    history.record(3.0, {}, {"m5": (0, 0)}, 0.5, 1e6)
    assert list(history.models) == ["m5"]
