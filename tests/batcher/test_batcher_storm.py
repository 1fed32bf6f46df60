"""Any order of arrivals, runs, failures, cancellations, deadlines and closing: each is answered once, with its own."""

import numpy as np
from batcher.batcher_driver import Asked, Driver
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stfs.batcher.policy import BatchPolicy
from stfs.errors import DeadlineExceeded, InvalidRequest, ModelFailed, Overloaded, RunTimedOut, Unavailable

RAISES, BLAMES, EXITS, MISCOUNTS = -1, -2, -3, -4
GUILTS = {RAISES: ModelFailed, BLAMES: InvalidRequest, EXITS: ModelFailed, MISCOUNTS: ModelFailed}
TIMERS_TICK_S = 0.002


def model(inputs):
    """Row-wise, so that every answer can be told from its request: the row's sum, and the row turned round."""
    x = inputs["x"]
    flat = x.reshape(-1)
    if (flat == RAISES).any():
        raise ValueError("raised")
    if (flat == BLAMES).any():
        raise InvalidRequest("blamed")
    if (flat == EXITS).any():
        raise SystemExit(1)
    sums = x.sum(axis=1)
    if (flat == MISCOUNTS).any():
        sums = sums[:-1]
    return {"sum": sums, "turned": x[:, ::-1]}


class Request(Asked):
    def __init__(self, inputs, guilt, due_s, runs_hang):
        super().__init__(inputs)
        self.guilt = guilt
        self.runs_hang = runs_hang
        self.due_s = due_s
        self.taken_back = False

    def check(self, now_s):
        """What it was told, if anything, is what it had to be told."""
        if self.taken_back:
            assert len(self.told) <= 1
        if not self.told:
            return
        ((outputs, error),) = self.told
        if isinstance(error, RunTimedOut) or type(error) is Unavailable:
            assert self.runs_hang
        elif isinstance(error, DeadlineExceeded):
            assert self.due_s is not None
            assert now_s >= self.due_s
        elif isinstance(error, Overloaded):
            assert self.due_s is not None, "only what cannot be in time is refused after it was taken"
        elif self.guilt:
            assert outputs is None
            assert type(error) is GUILTS[self.guilt]
        else:
            assert error is None, f"innocent, but told {error!r}"
            x = self.inputs["x"]
            np.testing.assert_array_equal(outputs["sum"], x.sum(axis=1))
            np.testing.assert_array_equal(outputs["turned"], x[:, ::-1])
            assert outputs["turned"].dtype == x.dtype


class Storm(RuleBasedStateMachine):
    @initialize(
        max_batch_size=st.integers(1, 6),
        padded=st.booleans(),
        max_enqueued_rows=st.integers(1, 40),
        timeout_s=st.sampled_from([0.0, 0.0, 0.01]),
        in_flight=st.sampled_from([1, 2, 4]),
        as_instances=st.booleans(),
        run_timeout_s=st.sampled_from([0.0, 0.0, 0.01]),
    )
    def start(self, max_batch_size, padded, max_enqueued_rows, timeout_s, in_flight, as_instances, run_timeout_s):
        sizes = tuple(sorted({(max_batch_size + 1) // 2, max_batch_size})) if padded else ()
        self.policy = BatchPolicy(max_batch_size, timeout_s, max_enqueued_rows, sizes)
        self.in_flight = in_flight
        self.run_timeout_s = run_timeout_s
        self.up = [True] * in_flight
        ups = [lambda i=i: self.up[i] for i in range(in_flight)] if as_instances else []
        self.driver = Driver(model, self.policy, ups=ups, in_flight=in_flight, run_timeout_s=run_timeout_s)
        self.asked = []
        self.closing = None
        self.value = 0

    @rule(
        rows=st.integers(0, 14),
        width=st.integers(1, 2),
        dtype=st.sampled_from([np.int64, np.float64]),
        guilt=st.sampled_from([0, 0, 0, 0, 0, *GUILTS]),
        patience_s=st.sampled_from([None, None, None, -0.001, 0.004, 0.02]),
    )
    def ask(self, rows, width, dtype, guilt, patience_s):
        """One request of numbers that no other request has."""
        x = np.arange(self.value, self.value + rows * width, dtype=dtype).reshape(rows, width)
        self.value += x.size
        if rows and guilt:
            x[self.value % rows, 0] = guilt
        batcher, loop = self.driver.batcher, self.driver.loop
        queued = batcher.queued_rows
        due_s = None if patience_s is None else loop.now_s + patience_s
        request = Request({"x": x}, guilt if rows else 0, due_s, bool(self.run_timeout_s))
        try:
            request.entry = batcher.submit(request.inputs, rows, request, due_s)
        except Overloaded:
            assert batcher.queued_rows == queued > 0
            assert queued + rows > self.policy.max_enqueued_rows
        except Unavailable:
            assert batcher.queued_rows == queued
            assert self.closing is not None or batcher.places.is_out_of_threads
        except DeadlineExceeded:
            assert patience_s is not None
            assert patience_s <= 0
        else:
            assert self.closing is None
            assert batcher.queued_rows == queued + max(rows, 1)
            self.asked.append(request)
        assert request.told == [], "never from inside submit"

    @rule()
    def turn(self):
        self.driver.loop.turn()

    @precondition(lambda self: self.driver.jobs)
    @rule(which=st.integers(0, 9))
    def work(self, which):
        self.driver.work(which % len(self.driver.jobs))

    @rule(which=st.integers(0, 3))
    def fall_or_rise(self, which):
        """An instance goes away, or comes back. What it is asked meanwhile it answers all the same."""
        if which < self.in_flight:
            self.up[which] = not self.up[which]

    @rule(seconds=st.sampled_from([0.001, 0.003, 0.02]))
    def advance(self, seconds):
        self.driver.loop.advance(seconds)
        for request in self.asked:
            if request.due_s is not None and request.due_s <= self.driver.loop.now_s - TIMERS_TICK_S:
                assert request.told or request.taken_back, "told that it is late as soon as it is"

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data):
        request = data.draw(st.sampled_from(self.asked))
        told = list(request.told)
        request.entry.cancel()
        request.taken_back = True
        assert request.told == told

    @precondition(lambda self: self.closing is None and len(self.asked) > 3)
    @rule()
    def close(self):
        self.closing = self.driver.close()

    @invariant()
    def nobody_is_told_twice_or_wrongly(self):
        for request in self.asked:
            request.check(self.driver.loop.now_s)

    @invariant()
    def as_many_batches_as_may_be_each_within_its_size(self):
        batcher = self.driver.batcher
        assert batcher.in_flight_batches <= self.in_flight
        assert len(self.driver.jobs) <= batcher.in_flight_batches + batcher.places.stuck
        assert sum(place.busy for place in batcher.places) == batcher.in_flight_batches
        assert batcher.queued_rows >= 0
        sizes = self.policy.allowed_batch_sizes
        for inputs in self.driver.batches:
            rows = len(inputs["x"])
            assert rows <= self.policy.max_batch_size
            assert rows in sizes or not sizes or not rows

    def teardown(self):
        driver = self.driver
        driver.settle()
        driver.loop.advance(0.05)  # for who still waits for company
        driver.settle()
        for request in self.asked:
            request.check(driver.loop.now_s)
            assert len(request.told) == 1 or request.taken_back
        assert driver.batcher.queued_rows == 0
        assert driver.batcher.in_flight_rows == 0
        assert driver.batcher.places.stuck == 0
        if not self.run_timeout_s:
            assert len(driver.records) == len(driver.batches)
        assert self.closing is None or self.closing.done()


TestStorm = Storm.TestCase
TestStorm.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
