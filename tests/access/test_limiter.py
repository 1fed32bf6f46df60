"""Addresses that are often wrong have to wait."""

import pytest

from stfs.access import limiter as module
from stfs.access.limiter import FailureLimiter, bucket_of


def test_so_many_at_once_and_then_so_many_a_minute():
    limiter = FailureLimiter(30)
    for number in range(30):
        assert limiter.wait_s("a", 0.0) == 0.0
        assert limiter.failed("a", 0.0) is (number == 29)
    assert limiter.wait_s("a", 0.0) == pytest.approx(2.0)
    assert limiter.wait_s("a", 1.5) == pytest.approx(0.5)
    assert limiter.wait_s("a", 2.0) == 0.0
    assert limiter.failed("a", 2.0) is True
    assert limiter.wait_s("a", 2.0) == pytest.approx(2.0)
    assert limiter.wait_s("b", 2.0) == 0.0
    assert limiter.wait_s("a", 3600.0) == 0.0
    assert limiter.blocked_until_s == pytest.approx(4.0)


def test_ten_thousand_wrong_tries_are_looked_at_as_rarely_as_promised():
    limiter, looked_at = FailureLimiter(30), 0
    for number in range(10_000):
        now_s = number * 0.01  # a hundred a second
        if limiter.wait_s("a", now_s) == 0.0:
            looked_at += 1
            limiter.failed("a", now_s)
    assert looked_at == 30 + 49  # a hundred seconds


def test_failures_that_come_in_together_are_paid_for_later_but_not_for_ever():
    limiter = FailureLimiter(30)
    for _ in range(10_000):
        limiter.failed("a", 0.0)
    assert limiter.wait_s("a", 0.0) == pytest.approx(62.0)
    assert limiter.wait_s("a", 62.0) == 0.0


def test_a_clock_that_stands_still_or_goes_back_gives_nothing():
    limiter = FailureLimiter(1)
    assert limiter.failed("a", 100.0)
    assert limiter.wait_s("a", 50.0) == pytest.approx(60.0)


def test_no_limit():
    limiter = FailureLimiter(0)
    for _ in range(1000):
        assert not limiter.failed("a", 0.0)
    assert limiter.wait_s("a", 0.0) == 0.0
    assert limiter.blocked_until_s < 0.0
    assert len(limiter) == 0


def test_the_table_is_bounded_and_forgets_who_was_wrong_longest_ago(monkeypatch):
    monkeypatch.setattr(module, "MAX_ADDRESSES", 100)
    limiter = FailureLimiter(1)
    for number in range(1000):
        limiter.failed(str(number), float(number) / 1e3)
        limiter.failed("0", float(number) / 1e3)
    assert len(limiter) == 100
    assert limiter.wait_s("0", 1.0) > 0.0
    assert limiter.wait_s("999", 1.0) > 0.0
    assert limiter.wait_s("1", 1.0) == 0.0


@pytest.mark.parametrize(
    ("address", "bucket"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        (None, "this machine"),
        ("", "this machine"),
        ("nonsense", "this machine"),
    ],
)
def test_what_an_address_counts_as(address, bucket):
    assert bucket_of(address) == bucket
