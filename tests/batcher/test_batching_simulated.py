"""The simulator against what is known by arithmetic, and the product's policy in it against others; all by seed."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks.batching import bars, optimum, promised, results, scenarios  # noqa: E402
from benchmarks.batching.rivals import Aimd, Cork, Fixed, TensorFlowAdaptive  # noqa: E402
from benchmarks.batching.simulator import PROFILES, Outcome, Profile, bursty, poisson, simulate  # noqa: E402

SEEDS = range(1, 2)


class Steady(random.Random):
    """No noise."""

    def gauss(self, mu=0.0, sigma=1.0):
        return mu


def test_a_lone_request_takes_one_run():
    p = PROFILES["gpu"]
    out = simulate(p, Fixed(128, 0.0), iter([1.0, 2.0]), Steady(1))
    assert out.latency == [pytest.approx(p.of(1))] * 2
    assert out.arrivals == [1.0, 2.0]


def test_what_arrives_during_a_run_shares_the_next():
    p = Profile("x", 1.0, 0.1, 4)
    out = simulate(p, Fixed(4, 0.0), iter([0.0, 0.1, 0.2, 0.3]), Steady(1))
    assert out.latency == pytest.approx([1.1, 1.1 + 1.3 - 0.1, 1.1 + 1.3 - 0.2, 1.1 + 1.3 - 0.3])


def test_what_arrives_at_once_leaves_together():
    p = Profile("x", 1.0, 0.1, 4)
    out = simulate(p, Fixed(4, 0.0), iter([0.0, 0.0, 0.0]), Steady(1))
    assert out.latency == pytest.approx([1.3] * 3)


def test_batches_in_flight_wait_for_the_one_device():
    class Two(Fixed):
        slots = 2

        def decide(self, now, queued, in_flight, deadline, arrived):
            return super().decide(now, queued, in_flight if in_flight == 2 else 0, deadline, arrived)

    p = Profile("x", 1.0, 0.1, 4)
    out = simulate(p, Two(4, 0.0), iter([0.0, 0.1, 0.2]), Steady(1))
    assert out.latency == pytest.approx([1.1, 2.2 - 0.1, 3.3 - 0.2])


def test_a_time_out_is_waited_for():
    p = Profile("x", 1.0, 0.1, 4)
    out = simulate(p, Fixed(4, 0.5), iter([0.0, 0.4]), Steady(1))
    assert out.latency == pytest.approx([0.5 + 1.2, 0.1 + 1.2])


def test_every_request_is_answered_or_refused_whatever_the_policy():
    p = PROFILES["forest"]
    for name, make in scenarios.WITH_OBJECTIVE.items():
        rng = random.Random(3)
        times = scenarios.open_loop(bursty(0.5 * p.capacity, random.Random(4)), 3000)
        out: Outcome = simulate(p, make(p, rng), times, rng, slo_s=2 * p.of(128))
        assert len(out.latency) + out.refused == 3000, name
        assert min(out.latency) > 0, name


@pytest.mark.parametrize("arrivals", [poisson, bursty])
def test_arrivals_have_the_rate_that_was_asked_for(arrivals):
    gaps = arrivals(1000.0, random.Random(5))
    assert sum(next(gaps) for _ in range(20_000)) == pytest.approx(20.0, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "load"), [("lin", 0.5), ("forest", 0.8)])
def test_the_solved_process_agrees_with_the_simulation_on_eager(name, load):
    p = PROFILES[name]
    eager = np.minimum(np.arange(3 * p.max_rows + 200), p.max_rows)
    simulated = scenarios.at_load(p, scenarios.POLICIES["eager"], load, poisson, range(1, 4))
    assert simulated.mean_s == pytest.approx(optimum.mean_of(p, load, eager), rel=0.03)


@pytest.mark.slow
def test_the_optimum_is_no_worse_than_any_rule():
    p = Profile("small", 1e-3, 3e-3, 8)
    best = optimum.solve(p, 0.7, 120)
    states = np.arange(121)
    rules = [np.minimum(states, cap) for cap in (2, 4, 8)]
    assert all(best.mean_s <= optimum.mean_of(p, 0.7, rule) + 1e-12 for rule in rules)
    assert best.takes[0] == optimum.WAIT
    assert all(0 <= take <= min(n, 8) for n, take in enumerate(best.takes))


def test_one_row_at_a_time_is_the_textbook_queue():
    """M/D/1, but for the noise: mean wait = rate * E[S^2] / (2 (1 - load))."""
    p = Profile("single", 0.5e-3, 0.5e-3, 1)
    service_s, load = 1e-3, 0.6
    wait_s = load / service_s * service_s**2 * (1 + 0.08**2) / (2 * (1 - load))
    assert optimum.solve(p, load, 200).mean_s == pytest.approx(service_s + wait_s, rel=1e-3)


@pytest.mark.slow
def test_where_batching_pays_the_product_is_as_good_as_the_best_fixed_setting():
    p = PROFILES["gpu"]
    for load in (0.2, 0.8):
        best = min(
            scenarios.at_load(p, make, load, poisson, SEEDS, 8000).mean_s for make in scenarios.fixed_settings(p)
        )
        assert scenarios.at_load(p, scenarios.POLICIES["stfs"], load, poisson, SEEDS, 8000).mean_s <= 1.02 * best


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.5, 0.9])
def test_where_rows_cost_most_the_product_is_well_ahead_of_eager(load):
    p = PROFILES["lin"]
    means = [
        scenarios.at_load(p, scenarios.POLICIES[name], load, poisson, range(1, 4), 8000).mean_s
        for name in ("stfs", "eager")
    ]
    assert means[0] <= 0.95 * means[1]


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 8])
@pytest.mark.parametrize("name", PROFILES)
def test_closed_loops_are_as_fast_as_the_best_fixed_setting(name, clients):
    p = PROFILES[name]
    best = scenarios.best_closed_loop(p, clients, SEEDS)
    assert scenarios.closed_loop(p, scenarios.POLICIES["stfs"], clients, SEEDS) >= 0.97 * best


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_under_overload_what_is_answered_is_in_time(name):
    kept = scenarios.with_objective(PROFILES[name], scenarios.POLICIES["stfs"], 1.5, SEEDS)
    assert kept.goodput >= 0.95
    assert kept.late <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("make", [promised.steady, promised.surges])
@pytest.mark.parametrize("objective", [True, False])
def test_who_believes_retry_after_is_answered_then(make, objective):
    """The batcher itself, at one and a half times what its model can do."""
    times = make(1.5, promised.SLEEPING.capacity, 12.0, 1)
    told = promised.overload(promised.SLEEPING, times, 1, comes_back=promised.obedient, slo=objective)
    assert told.came_back > 500
    assert told.answered_then >= 0.9 * told.came_back
    assert told.answered >= 0.95 * min(told.offered, promised.SLEEPING.capacity * times[-1])
    assert told.late <= 0.01 * told.offered


@pytest.mark.slow
def test_who_does_not_wait_gains_nothing():
    times = promised.steady(1.5, promised.SLEEPING.capacity, 12.0, 1)
    told = promised.overload(promised.SLEEPING, times, 1, comes_back=promised.impatient)
    assert told.answered_then <= 0.65 * told.came_back
    assert told.answered >= 0.95 * promised.SLEEPING.capacity * times[-1]


def test_aimd_grows_by_one_and_shrinks_by_a_tenth():
    policy = Aimd(128, 1.0)
    assert policy.size == 128
    policy.size = 1.0
    for _ in range(20):
        policy.finished(0.0, int(policy.size), 0.5, 0)
    assert policy.size == 21
    policy.finished(0.0, 3, 0.5, 0)
    assert policy.size == 21, "a smaller batch has proved nothing"
    policy.finished(0.0, 21, 1.1, 0)
    assert policy.size == pytest.approx(18.9)


def test_the_limit_of_batches_in_flight_moves_after_a_thousand():
    policy = TensorFlowAdaptive(128, random.Random(1))
    for _ in range(1000):
        assert policy.decide(0.0, 5, 0, math.inf, 0.0).take_rows == 5
        policy.finished(1.0, 5, 1.0, 0)
    assert policy.limit == pytest.approx(3 * (1 - 1 / 8)), "longer than nothing is longer: the direction turns"
    for _ in range(1000):
        policy.decide(0.0, 5, 0, math.inf, 0.0)
        policy.finished(0.5, 5, 0.5, 0)
    assert policy.limit == pytest.approx(3 * (1 - 1 / 8) * (1 - 1 / 16)), "and goes on where it became shorter"


def test_cork_waits_while_that_is_within_what_was_waited_before():
    policy = Cork(PROFILES["gpu"], 0.1)
    policy.arrived(0.0, 1)
    assert policy.decide(0.0, 1, 0, math.inf, 0.0).wait_s == policy.TICK_S
    assert policy.decide(0.02, 1, 0, math.inf, 0.0).take_rows == 1
    assert policy.decide(0.2, 2, 0, math.inf, 0.0).refuse


def test_a_bar_is_missed_only_beyond_the_noise():
    assert bars.interval([1.0, 1.2]) == (pytest.approx(1.1), pytest.approx(12.71 * 0.1))
    verdicts = [bars.Figure("", value, 0.1, -math.inf, 1.0).verdict for value in (0.9, 1.05, 1.2)]
    assert verdicts == ["held", "within the noise", "missed"]
    assert bars.Figure("", 0.8, 0.1, 0.95, math.inf).verdict == "missed"


def test_the_same_seed_gives_the_same_figures():
    p = PROFILES["forest"]
    make = scenarios.WITH_OBJECTIVE["stfs"]
    seen = [scenarios.with_objective(p, make, 1.5, range(7, 8), 1000) for _ in range(2)]
    assert seen[0] == seen[1]
    assert seen[0] != scenarios.with_objective(p, make, 1.5, range(8, 9), 1000)


def test_the_tables_have_a_line_for_each_measure():
    row = results.Row(
        results.Measure("gpu", "Poisson", 0.05), {"stfs": (1.0, 1.02), "no batching": (math.inf, math.inf)}
    )
    kept = results.Row(results.Measure("gpu", "objective", 1.5), {"stfs": (0.991, 0.004)})
    table = results.markdown([row, kept])
    assert "| gpu | 5% | 1.00 / 1.02 | not stable |" in table
    assert "| gpu | 150% | 0.991 / 0.4% |" in table
    assert len(list(results.plan(PROFILES))) == len(PROFILES) * (2 * len(scenarios.LOADS) + len(scenarios.CLIENTS) + 4)


@pytest.mark.slow
def test_requests_of_the_open_loop_leave_when_they_are_due(tmp_path):
    """Against a server that answers, then refuses: statuses, tries and times are told for each request."""
    from running import running

    (tmp_path / "model.py").write_text(
        "signature = {'inputs': [{'name': 'x', 'dtype': 'float32', 'shape': [None, 2]}],"
        " 'outputs': [{'name': 'y', 'dtype': 'float32', 'shape': [None]}]}\n"
        "def predict(inputs):\n    return {'y': inputs['x'].sum(1)}\n"
    )
    with running(f"--model_base_path={tmp_path}") as server:
        job = {
            "port": server.port,
            "path": "/v1/models/default:predict",
            "body": {"instances": [[1.0, 2.0]]},
            "expected": {"predictions": [3.0]},
            "times_s": [0.0, 0.0, 0.05, 0.1],
        }
        client = ROOT / "benchmarks" / "batching" / "open_loop.py"
        done = subprocess.run([sys.executable, client], input=json.dumps(job), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
    assert sorted(due for due, *_ in told["answers"]) == job["times_s"]
    assert all(
        late > 0 and status == 200 and tries == 1 and right for _, late, status, tries, right, _ in told["answers"]
    )
    assert told["seconds"] >= 0.1
