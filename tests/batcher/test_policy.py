import math

import pytest

from stfs.batcher.policy import BatchPolicy, Drain, Load, Step, admits, decide, padded_rows
from stfs.errors import ConfigError

EAGER = BatchPolicy(max_batch_size=8)
PATIENT = BatchPolicy(max_batch_size=8, batch_timeout_s=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 0}, "max_batch_size .* not 0"),
        ({"max_batch_size": 1.5}, "max_batch_size .* not 1.5"),
        ({"max_batch_size": True}, "max_batch_size .* not True"),
        ({"max_enqueued_rows": -1}, "max_enqueued_rows .* not -1"),
        ({"batch_timeout_s": -0.1}, "batch_timeout_s .* not -0.1"),
        ({"batch_timeout_s": math.nan}, "batch_timeout_s .* not nan"),
        ({"batch_timeout_s": math.inf}, "batch_timeout_s .* not inf"),
        ({"allowed_batch_sizes": (8, 4, 128)}, "allowed_batch_sizes must ascend"),
        ({"allowed_batch_sizes": (8, 8, 128)}, "allowed_batch_sizes must ascend"),
        ({"allowed_batch_sizes": (0, 128)}, "allowed_batch_sizes .* not 0"),
        ({"allowed_batch_sizes": (8, 64)}, r"allowed_batch_sizes must end in max_batch_size \(128\), not \(8, 64\)"),
    ],
)
def test_settings_that_make_no_sense_name_field_and_value(settings, message):
    with pytest.raises(ConfigError, match=message):
        BatchPolicy(**settings)


def test_defaults_are_fine():
    assert BatchPolicy() == BatchPolicy(128, 0.0, 10_000, ())


@pytest.mark.parametrize(
    ("policy", "load", "step"),
    [
        (EAGER, Load(0, 0.0, 0, False), Step(0, math.inf, "")),
        (EAGER, Load(0, 0.0, 0, True), Step(0, math.inf, "")),
        (EAGER, Load(100, 9.0, 1, False), Step(0, math.inf, "")),
        (EAGER, Load(100, 9.0, 1, True), Step(0, math.inf, "")),
        (EAGER, Load(1, 0.0, 0, False), Step(8, 0.0, "idle")),
        (EAGER, Load(9, 0.0, 0, False), Step(8, 0.0, "idle")),
        (EAGER, Load(1, 0.0, 0, True), Step(8, 0.0, "drain")),
        (PATIENT, Load(7, 0.125, 0, False), Step(0, 0.375, "")),
        (PATIENT, Load(7, 0.5, 0, False), Step(8, 0.0, "timeout")),
        (PATIENT, Load(7, 2.0, 0, False), Step(8, 0.0, "timeout")),
        (PATIENT, Load(8, 0.0, 0, False), Step(8, 0.0, "idle")),
        (PATIENT, Load(1, 0.0, 0, True), Step(8, 0.0, "drain")),
        (PATIENT, Load(1, 9.0, 1, False), Step(0, math.inf, "")),
    ],
)
def test_decisions(policy, load, step):
    assert decide(policy, load) == step


@pytest.mark.parametrize(
    ("queued", "rows", "admitted"), [(0, 10, True), (0, 11, True), (1, 9, True), (1, 10, False), (10, 0, True)]
)
def test_admission(queued, rows, admitted):
    assert admits(10, queued, rows) is admitted


def test_padding_goes_up_to_the_next_allowed_size():
    policy = BatchPolicy(max_batch_size=32, allowed_batch_sizes=(2, 8, 32))
    assert [padded_rows(policy, rows) for rows in (0, 1, 2, 3, 8, 9, 32)] == [0, 2, 2, 8, 8, 32, 32]
    assert [padded_rows(EAGER, rows) for rows in (0, 1, 7, 8)] == [0, 1, 7, 8]


def test_retry_is_sensible_before_any_sample():
    assert Drain().retry_after_s(1_000_000, 0.0) == 1.0
    assert Drain().retry_after_s(1, 7.0) == 7.0


def test_retry_follows_the_rate_of_draining():
    steady = Drain()
    for _ in range(50):
        steady = steady.after(rows=100, busy_s=0.5)
    assert steady.retry_after_s(1000, 0.0) == pytest.approx(5.0)
    faster = steady
    for _ in range(50):
        faster = faster.after(rows=100, busy_s=0.05)
    assert faster.retry_after_s(1000, 0.0) == pytest.approx(0.5, rel=0.01)


def test_retry_grows_while_the_model_hangs_and_stays_within_bounds():
    drain = Drain().after(rows=10, busy_s=0.1)
    assert drain.retry_after_s(10, 5.0) > drain.retry_after_s(10, 1.0) > drain.retry_after_s(10, 0.0)
    assert drain.retry_after_s(10_000_000, 0.0) == 60.0
    assert drain.retry_after_s(0, 0.0) == 0.01


def test_one_odd_figure_does_not_keep_clients_away():
    """A machine that was suspended during a run, or a clock that was set."""
    usual = Drain()
    for _ in range(50):
        usual = usual.after(rows=100, busy_s=0.5)
    for odd_s in (3600.0, 1e9, -7.0):
        after = usual.after(rows=100, busy_s=odd_s)
        for _ in range(20):
            after = after.after(rows=100, busy_s=0.5)
        assert after.retry_after_s(1000, 0.0) == pytest.approx(5.0, rel=0.2)
