"""What is remembered of runs that did not fit into memory: tables of pure functions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.fitting import (
    GOES_ON_S,
    LEAST_WAIT_S,
    TRY_AGAIN_BATCHES,
    TRY_AGAIN_S,
    Fit,
    Run,
    after,
    larger,
    limited,
    rows_now,
    smaller,
)
from stfs.batcher.policy import BatchPolicy

PLAIN = BatchPolicy(max_batch_size=128)
SIZES = BatchPolicy(max_batch_size=128, allowed_batch_sizes=(8, 32, 128))


def no(rows):
    return Run(rows, no_memory=True)


def yes(rows):
    return Run(rows, no_memory=False)


@pytest.mark.parametrize(
    ("policy", "rows", "fewer"),
    [
        (PLAIN, 128, 64),
        (PLAIN, 3, 2),
        (PLAIN, 2, 1),
        (PLAIN, 1, 0),
        (PLAIN, 0, 0),
        (SIZES, 128, 32),
        (SIZES, 32, 8),
        (SIZES, 8, 0),
    ],
)
def test_what_is_tried_where_a_run_did_not_fit(policy, rows, fewer):
    assert smaller(policy, rows) == fewer


@pytest.mark.parametrize(
    ("policy", "rows", "more"), [(PLAIN, 16, 32), (PLAIN, 100, 128), (SIZES, 8, 32), (SIZES, 32, 128), (SIZES, 5, 8)]
)
def test_what_is_tried_when_it_is_time(policy, rows, more):
    assert larger(policy, rows) == more


def test_a_policy_that_is_limited_is_one():
    assert limited(PLAIN, 20).max_batch_size == 20
    assert limited(PLAIN, 200) is PLAIN
    assert limited(SIZES, 32).allowed_batch_sizes == (8, 32)
    assert limited(SIZES, 20).allowed_batch_sizes == (8, 20)
    preferred = BatchPolicy(max_batch_size=16, preferred_batch_sizes=(2, 4, 8))
    assert limited(preferred, 4).preferred_batch_sizes == (2, 4)
    assert limited(preferred, 3).preferred_batch_sizes == (2, 3)
    assert limited(preferred, 1).preferred_batch_sizes == (1,)


def test_it_is_time_after_a_while_or_after_many_batches_but_not_at_once():
    fit = Fit(16, since_s=100.0)
    assert rows_now(fit, PLAIN, 100.0 + TRY_AGAIN_S - 1) == 16
    assert rows_now(fit, PLAIN, 100.0 + TRY_AGAIN_S) == 32
    busy = Fit(16, since_s=100.0, batches=TRY_AGAIN_BATCHES)
    assert rows_now(busy, PLAIN, 100.0 + LEAST_WAIT_S - 1) == 16
    assert rows_now(busy, PLAIN, 100.0 + LEAST_WAIT_S) == 32


def test_what_fits_is_what_was_tried_after_the_last_failure():
    runs = [no(128), no(64), yes(32), yes(32), yes(32), yes(32)]
    assert after(None, runs, PLAIN, 7.0, wanted_more=False) == Fit(32, 7.0)
    assert after(None, [no(100), yes(50), yes(50)], PLAIN, 7.0, wanted_more=False) == Fit(50, 7.0)


def test_what_was_left_over_is_no_measure():
    """The last batch is small because nothing more was there."""
    assert after(None, [no(10), yes(5), yes(5), yes(1)], PLAIN, 0.0, wanted_more=False) == Fit(5, 0.0)


def test_rows_that_do_not_even_fit_alone_are_nobodys_measure():
    assert after(None, [no(4), no(2), no(1), no(1)], PLAIN, 0.0, wanted_more=False) is None
    assert after(None, [no(4), no(2), yes(1), no(1), yes(2)], PLAIN, 0.0, wanted_more=False) is None
    fit = Fit(16, 0.0)
    assert after(fit, [no(16), no(8), no(4), no(2), no(1)], PLAIN, 9.0, wanted_more=True) == fit


def test_a_try_that_fails_costs_nothing_but_another_wait():
    assert after(Fit(16, 0.0, batches=5000), [no(32), yes(16), yes(16)], PLAIN, 50.0, wanted_more=True) == Fit(16, 50.0)


def test_a_try_that_fits_is_followed_by_the_next_until_nothing_is_in_the_way():
    fit = after(Fit(32, 0.0), [yes(64)], PLAIN, 1000.0, wanted_more=True)
    assert fit == Fit(64, 1000.0, GOES_ON_S)
    assert rows_now(fit, PLAIN, 1000.0 + GOES_ON_S) == 128
    assert after(fit, [yes(128)], PLAIN, 2000.0, wanted_more=True) is None


def test_less_memory_than_before_is_learnt_too():
    assert after(Fit(32, 0.0), [no(32), yes(16), yes(16)], PLAIN, 5.0, wanted_more=True) == Fit(16, 5.0)


def test_only_batches_that_could_have_been_larger_count():
    fit = Fit(16, 0.0)
    assert after(fit, [yes(3)], PLAIN, 1.0, wanted_more=False) == fit
    assert after(fit, [yes(16)], PLAIN, 1.0, wanted_more=True) == Fit(16, 0.0, batches=1)
    assert after(None, [yes(128)], PLAIN, 1.0, wanted_more=True) is None


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([PLAIN, SIZES]), st.integers(1, 128))
def test_it_settles_at_most_a_half_below_what_there_is_room_for(room, rows, policy, first):
    """A device that takes ``room`` rows: whatever is sent, the limit ends between half of it and all of it."""
    fit, now_s = None, 0.0
    least = policy.allowed_batch_sizes[0] if policy.allowed_batch_sizes else 1

    def padded(n):
        return next((size for size in policy.allowed_batch_sizes if size >= n), n)

    for asked in (first, *[min(rows, 128)] * 30):
        now_s += TRY_AGAIN_S
        limit = min(rows_now(fit, policy, now_s) if fit else policy.max_batch_size, asked)
        runs = []
        while padded(limit) > room and smaller(policy, padded(limit)):
            runs.append(no(padded(limit)))
            limit = smaller(policy, padded(limit))
        if padded(limit) > room:
            assert room < least
            return
        runs.append(yes(padded(limit)))
        fit = after(fit, runs, policy, now_s, wanted_more=True)
    if fit is not None:
        assert fit.rows <= max(room, 1)
