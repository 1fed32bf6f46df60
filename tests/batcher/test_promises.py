"""Promises as values: when the refused are told to come back, who is known then, and that nothing is kept for ever."""

import random
from collections import Counter

import numpy as np
import pytest

from stfs.batcher import promises as module
from stfs.batcher.promises import GRACE_S, LEAST_SLICE_S, SHARE, WHOLE_BYTES, Promises

RATE = 1000.0


def inputs(value, rows=1):
    return {"x": np.full((rows, 2), float(value))}


def book(promises, now_s, value, rows=1, least_s=0.0, rate=RATE, full_rows=100):
    return promises.book(now_s, inputs(value, rows), rows, rate, full_rows, least_s)


def test_who_comes_back_when_told_is_known_once():
    promises = Promises()
    assert book(promises, 50.0, 1) == 1.0
    assert promises.advance(50.5) == 0
    assert not promises.keep(inputs(1)), "too early: a newcomer"
    assert promises.advance(51.0) == 1
    assert not promises.keep(inputs(2))
    assert promises.keep(inputs(1))
    assert not promises.keep(inputs(1)), "once"
    assert promises.due_rows == 0


def test_no_more_are_told_one_time_than_its_share():
    promises = Promises()
    told = Counter(book(promises, 50.0, value) for value in range(200))
    room = round(SHARE * RATE * LEAST_SLICE_S)
    assert told == {float(k): room for k in range(1, 200 // room + 1)}
    assert list(told) == sorted(told), "first refused, first to come"
    for second in told:
        assert promises.advance(50.0 + second) >= room


def test_nobody_is_told_to_come_before_there_can_be_room():
    promises = Promises()
    assert book(promises, 0.0, 1, least_s=4.2) == 5.0
    assert book(promises, 0.0, 2, least_s=5.0 + 1e-9) == 5.0, "sums of floats are not exact"
    assert book(promises, 0.0, 3, least_s=60.0) == 60.0


def test_a_large_request_is_promised_a_time_alone():
    promises = Promises()
    assert book(promises, 0.0, 1, rows=5000) == 1.0
    assert book(promises, 0.0, 2) == 2.0


def test_slices_are_as_long_as_a_full_batch_takes():
    promises = Promises()
    told = [book(promises, 0.0, value, rate=10.0, full_rows=20) for value in range(16)]
    assert told == [1.0] * 8 + [2.0] * 8, "two seconds each, of which 0.4 * 20 rows are promised"


def test_what_is_not_fetched_is_forgotten():
    promises = Promises()
    for value in range(100):
        book(promises, 0.0, value)
    assert len(promises) == 100
    assert promises.advance(1.0 + GRACE_S) > 0, "who is a little late is still known"
    assert promises.keep(inputs(0))
    assert promises.advance(1000.0) == 0
    assert len(promises) == 0
    assert not promises.keep(inputs(1))
    assert not promises._slices
    assert not promises._open
    assert book(promises, 1000.0, 1) == 1.0


def test_there_is_an_end_to_what_is_promised(monkeypatch):
    promises = Promises()
    told = [book(promises, 0.0, value) for value in range(3000)]
    assert told[-1] == 60.0
    assert len(promises) == round(60 * SHARE * RATE * LEAST_SLICE_S)
    monkeypatch.setattr(module, "MOST_PROMISES", 10)
    fewer = Promises()
    assert [book(fewer, 0.0, value) for value in range(12)] == [1.0] * 10 + [60.0] * 2
    assert len(fewer) == 10


def test_twins_have_a_promise_each():
    promises = Promises()
    assert [book(promises, 0.0, 7) for _ in range(3)] == [1.0] * 3
    promises.advance(1.0)
    assert [promises.keep(inputs(7)) for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros((2, 2)), np.zeros((4, 1))),
        (np.zeros((2, 2)), np.zeros((2, 2), np.int64)),
        (np.array([["a", "bc"]], object), np.array([["ab", "c"]], object)),
        (np.array([[b"a"]], object), np.array([[b"b"]], object)),
        (np.zeros((1, WHOLE_BYTES)), np.ones((1, WHOLE_BYTES))),
        (np.arange(6.0).reshape(2, 3).T, np.arange(6.0).reshape(3, 2)),
    ],
)
def test_inputs_are_told_apart(one, other):
    promises = Promises()
    assert promises.digest({"x": one}) != promises.digest({"x": other})
    assert promises.digest({"x": one}) == promises.digest({"x": one.copy()})
    assert promises.digest({"x": one}) != promises.digest({"y": one})
    assert promises.digest({"x": one}) != Promises().digest({"x": one}), "nobody else can know the key"


def test_odd_values_have_a_digest():
    odd = np.array([None, 1, "\ud800", b"\0", 2.5], object)
    assert Promises().digest({"x": odd, "empty": np.zeros((0, 3)), "scalar": np.array(1.0)})


def test_any_order_of_events_keeps_the_counts():
    rng = random.Random(4)
    promises, now_s, booked = Promises(), 0.0, []
    for _ in range(5000):
        now_s += rng.choice(
            (0.0, 0.001, 0.3, 5.0 if rng.random() < 0.05 else 0.0, -3.0 if rng.random() < 0.01 else 0.0)
        )
        value, rows = rng.randrange(50), rng.choice((1, 1, 3))
        if rng.random() < 0.5:
            seconds = book(promises, now_s, value, rows, rng.choice((0.0, 0.5, 30.0)), rng.choice((1.0, 1000.0)))
            assert 1 <= seconds <= 60
            booked.append((value, rows))
        elif promises.advance(now_s):
            promises.keep(inputs(value, rows))
        still = sum(promise.rows for waiting in promises._open.values() for promise in waiting)
        assert promises.due_rows == still >= 0
    promises.advance(now_s + 1000.0)
    assert (len(promises), promises.due_rows, promises._open, promises._slices) == (0, 0, {}, {})
