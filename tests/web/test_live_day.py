"""A dashboard that stays open for a day, hurried through it: what the server keeps for it does not grow.

``STFS_TEST_LONG=1`` is the whole day; without it, two hours.
"""

import gc
import json
import os
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from stfs.history import COARSE_POINTS, FINE_POINTS
from stfs.metrics import Metrics
from stfs.web import live, sample

pytestmark = pytest.mark.slow  # takes some seconds

HOUR_S = 3_600
WHOLE = "STFS_TEST_LONG" in os.environ
LASTS_S = 86_400 if WHOLE else 2 * HOUR_S
"""A second takes a third of a millisecond, the whole day half a minute: two hours fill every ring and turn it over."""

SWAP_S = 600
"""So often the model has a new version, and the counts of the old one go on as those of the retired."""


class Day:
    """A server whose clock is ours, with one model that is asked three times a second and swapped now and then."""

    def __init__(self):
        self.now_s = 0
        self.metrics = Metrics()
        status = SimpleNamespace(name="m", problem=None, versions=(), on_disk=(), base_path="/")
        context = SimpleNamespace(
            metrics=self.metrics,
            manager=SimpleNamespace(status=lambda: (status,)),
            registry=SimpleNamespace(serving=dict, labels=lambda name: {}),
            ready=lambda: True,
        )
        self.live = live.Live(context, clock=lambda: float(self.now_s), wall=lambda: 1.7e9 + self.now_s)
        self.dropped = []
        self.clients = [self.live.join(model, lambda: self.dropped.append(True)) for model in (None, "m", None)]
        self.heard = [0, 0, 0]
        self.last = b""

    def second(self):
        """One second of traffic, its sample, and all clients reading it."""
        self.now_s += 1
        version = str(1 + self.now_s // SWAP_S)
        for number in range(3):
            outcome = "ok" if (self.now_s + number) % 50 else "invalid_input"
            self.metrics.record_request("m", version, "stfs", outcome, 0.001 * (1 + number))
        if self.now_s % SWAP_S == 0:
            self.metrics.retire("m", str(self.now_s // SWAP_S))
        self.live.tick()
        for index, client in enumerate(self.clients):
            while not client._waiting.empty():
                self.last = client._waiting.get_nowait()
                self.heard[index] += 1

    def until(self, second):
        while self.now_s < second:
            self.second()


def test_what_is_kept_for_a_page_does_not_grow(monkeypatch):
    # Processors and memory are read from /proc elsewhere; a day of that takes a minute.
    usage = sample.Usage(0.0, 1 << 26)
    monkeypatch.setattr(sample, "children", tuple)
    monkeypatch.setattr(sample, "of_process", lambda pid: usage)
    monkeypatch.setattr(live.Live, "_look_at_gpus", lambda self: None)  # which asks for a thread
    day = Day()
    day.until(HOUR_S + 100)  # the rings are full
    gc.collect()
    blocks = sys.getallocatedblocks()
    size = len(day.last)
    day.until(LASTS_S)
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 500
    assert abs(len(day.last) - size) < 100
    series = day.live._history.models["m"]
    for each in (series, day.live._history.total):
        assert (len(each.fine), len(each.coarse)) == (FINE_POINTS, COARSE_POINTS)
        assert len(each._recent) < 15
        assert len(each._gauges) < 15
    tracemalloc.start()
    try:
        day.until(LASTS_S + SWAP_S + 60)  # all that lives has been made since
        before = tracemalloc.get_traced_memory()[0]
        day.until(LASTS_S + 2 * SWAP_S + 60)
        assert tracemalloc.get_traced_memory()[0] - before < 50_000
    finally:
        tracemalloc.stop()
    assert day.dropped == []
    assert day.heard == [LASTS_S + 2 * SWAP_S + 61] * 3  # a hello each
    told = json.loads(day.last.split(b"data: ")[1])
    assert told["total"]["requests"] == 3 * (LASTS_S + 2 * SWAP_S + 60)
    times, _ = series.fine.points()
    assert np.all(np.diff(times) == 1)
    hello = day.live.hello(None)
    assert len(json.loads(hello.split(b"data: ")[1])["coarse"]["times"]) == COARSE_POINTS
