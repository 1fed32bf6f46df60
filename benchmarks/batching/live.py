"""``python -m benchmarks.batching.live [sleep|forest|mlp ...]``: the real server under open-loop load.

One server for each setting, side by side, asked in turns with the same arrival times (Poisson and bursts) by
``open_loop.py``; every answer is checked. Beside the figures of the sleeping model, whose alpha and beta are known,
stand those of the simulator for the same model, and whether they are as close as they should be. Minutes of real load,
on the loopback only: nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.batching import promised
from benchmarks.batching.rivals import Fixed
from benchmarks.batching.scenarios import ARRIVALS, Make, at_load
from benchmarks.batching.simulator import Product, Profile

TESTS = Path(__file__).parents[2] / "tests"
SLEEPING = promised.SLEEPING
WAIT_S = 10e-3
SETTINGS = {
    "stfs": (),
    "eager": ("--batching=eager",),
    "10 ms": ("--batching=eager", f"--batch_timeout_ms={WAIT_S * 1e3:.0f}"),
}
SIMULATED: dict[str, Make] = {
    "stfs": lambda p, rng: Product(p, rng),
    "eager": lambda p, _: Fixed(p.max_rows, 0.0),
    "10 ms": lambda p, _: Fixed(p.max_rows, WAIT_S),
}
SUM_OF_REST = 9.0
CLOSE = 0.1
"""How far what is measured may be from what is simulated."""
SLEEPER = """
import time
signature = {{"inputs": [{{"name": "x", "dtype": "float32", "shape": [None, 4]}}],
             "outputs": [{{"name": "y", "dtype": "float32", "shape": [None]}}]}}
def predict(inputs):
    time.sleep({alpha} + {beta} * len(inputs["x"]))
    return {{"y": inputs["x"].sum(1)}}
"""


def write_model(kind: str, folder: Path, profile: Profile = SLEEPING) -> tuple[Any, Any]:
    """The model's files; a request body and the answer to it."""
    folder.mkdir(parents=True)
    if kind == "sleep":
        (folder / "model.py").write_text(SLEEPER.format(alpha=profile.alpha_s, beta=profile.beta_s))
        return {"instances": [[0.0, 2.0, 3.0, 4.0]]}, {"predictions": [SUM_OF_REST]}
    import joblib
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.neural_network import MLPRegressor

    x, y = load_digits(return_X_y=True)
    estimator: Any = (
        RandomForestRegressor(200, random_state=1)
        if kind == "forest"
        else MLPRegressor(hidden_layer_sizes=(64,), max_iter=30)
    )
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # thirty steps are not enough to learn, but to be run
        estimator.fit(x, y)
    joblib.dump(estimator, folder / "model.joblib")
    return {"instances": [np.asarray(x[7]).tolist()]}, None


def ask(port: int, body: Any, expected: Any, times: list[float], retry: bool = False) -> dict[str, Any]:
    job = {"port": port, "path": "/v1/models/default:predict", "body": body, "expected": expected, "times_s": times}
    job |= {"retry": retry, "connections": max(64, times.count(0.0))}
    if expected == {"predictions": [SUM_OF_REST]}:
        job["numbered"] = True  # clients that all ask the same could not be told apart
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("open_loop.py")],
        input=json.dumps(job),
        text=True,
        capture_output=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    assert all(right for *_, right, _ in result["answers"]), "a wrong answer"
    return result


def arrival_times(name: str, rate: float, seconds: float, seed: int) -> list[float]:
    times, now = [], 0.0
    gaps: Iterator[float] = ARRIVALS[name](rate, random.Random(seed))
    while (now := now + next(gaps)) < seconds:
        times.append(now)
    return times


def figures(result: dict[str, Any], warm_s: float) -> tuple[float, float]:
    seen = sorted(late for due, late, status, *_ in result["answers"] if due >= warm_s and status == 200)
    return mean(seen), seen[min(len(seen) - 1, int(0.99 * len(seen)))]


def compare(kind: str, loads: list[float], seconds: float, rounds: int) -> None:
    """Latencies of each setting, to the best of them."""
    sys.path.insert(0, str(TESTS))
    from running import running

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        body, expected = write_model(kind, Path(folder) / "model")
        where = f"--model_base_path={Path(folder) / 'model'}"
        size = f"--max_batch_size={SLEEPING.max_rows}"
        servers = {name: stack.enter_context(running(where, size, *flags)) for name, flags in SETTINGS.items()}
        if expected is None:
            expected = next(iter(servers.values())).post("/v1/models/default:predict", body).json
        capacity = SLEEPING.capacity
        if kind != "sleep":  # all at once: what a full queue is worked off at
            result = ask(servers["eager"].port, body, expected, [0.0] * 1000)
            capacity = len(result["answers"]) / result["seconds"]
        print(f"{kind}: {capacity:.0f} rows/s in full batches", flush=True)
        verdicts: list[bool] = []
        for arrivals in ARRIVALS:
            for load in loads:
                seen: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
                for turn in range(rounds):
                    times = arrival_times(arrivals, load * capacity, seconds, turn)
                    for name, server in servers.items():
                        seen[name].append(figures(ask(server.port, body, expected, times), seconds / 10))
                told = {name: tuple(median(f[i] for f in runs) for i in (0, 1)) for name, runs in seen.items()}
                line = _line(told)
                print(f"{kind} {arrivals} {load:.0%}, mean/p99 ms (to the best): {line}", flush=True)
                if kind == "sleep":
                    for name, make in SIMULATED.items():
                        simulated = at_load(SLEEPING, make, load, ARRIVALS[arrivals], range(rounds), count=20_000)
                        for what, measured, expected_s in zip(("mean", "p99"), told[name], simulated, strict=True):
                            what = f"{arrivals} {load:.0%} {name}, {what} ms"
                            verdicts.append(_beside(what, measured * 1e3, expected_s * 1e3))
        if verdicts:
            print(f"{sum(verdicts)} of {len(verdicts)} within {CLOSE:.0%} of what is simulated", flush=True)


def _beside(what: str, measured: float, simulated: float) -> bool:
    """Tell both, and whether they are as close as they should be."""
    ratio = measured / simulated
    close = abs(ratio - 1) <= CLOSE
    verdict = "close" if close else "NOT CLOSE"
    print(f"  {verdict}: {what}: measured {measured:.3g}, simulated {simulated:.3g}, ratio {ratio:.3f}", flush=True)
    return close


def _line(told: dict[str, tuple[float, ...]]) -> str:
    best = [min(f[i] for f in told.values()) for i in (0, 1)]
    return ", ".join(
        f"{name} {m * 1e3:.1f}/{p * 1e3:.1f} ({m / best[0]:.2f}/{p / best[1]:.2f})" for name, (m, p) in told.items()
    )


def overloaded(load: float, seconds: float, slower: float) -> None:
    """Goodput at ``load`` times the sleeping model's capacity, and whether ``Retry-After`` is worth believing."""
    profile = replace(SLEEPING, alpha_s=SLEEPING.alpha_s * slower, beta_s=SLEEPING.beta_s * slower)
    sys.path.insert(0, str(TESTS))
    from running import running

    slo_s = 2 * profile.of(profile.max_rows)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        body, expected = write_model("sleep", Path(folder) / "model", profile)
        flags = (f"--max_batch_size={profile.max_rows}", f"--latency_slo_ms={slo_s * 1e3:.1f}")
        server = stack.enter_context(running(f"--model_base_path={Path(folder) / 'model'}", *flags))
        ask(server.port, body, expected, arrival_times("Poisson", 0.5 * profile.capacity, 3.0, 9))
        for told, times, comes_back in (
            ("without end", promised.steady(load, profile.capacity, seconds, 1), promised.gone),
            ("without end, coming back", promised.steady(load, profile.capacity, seconds, 2), promised.obedient),
            ("for 2 s of 6, coming back", promised.surges(load, profile.capacity, seconds, 1), promised.obedient),
        ):
            answers = ask(server.port, body, expected, times, comes_back is promised.obedient)["answers"]
            ok = [(due + total, last) for due, total, status, *_, last in answers if status == 200]
            could = min(len(times), profile.capacity * times[-1])
            good = sum(last <= slo_s for at, last in ok if at <= times[-1]) / could
            late = 1 - sum(last <= slo_s for _, last in ok) / len(ok)
            again = [status for _, _, status, tries, *_ in answers if tries == 2]
            simulated = promised.overload(profile, times, 1, comes_back=comes_back)
            print(f"sleep {load}x {told}, within {slo_s * 1e3:.0f} ms: late {late:.1%}", flush=True)
            _beside("answers in time, of what can be done", good, simulated.answered / could)
            if again:
                then = mean(status == 200 for status in again)
                _beside(
                    f"answered on coming back, of {len(again)}", then, simulated.answered_then / simulated.came_back
                )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching.live", description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=["sleep", "forest", "mlp"], metavar="sleep|forest|mlp")
    parser.add_argument("--overload", action="store_true", help="only how the sleeping model stands overload")
    parser.add_argument("--slower", type=float, default=1.0, help="how much longer the overloaded model sleeps (1)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of one load (10)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each figure is the median of (3)")
    args = parser.parse_args()
    for kind in [] if args.overload else args.kinds:
        compare(kind, [0.2, 0.5, 0.9] if kind == "sleep" else [0.2, 0.5], args.seconds, args.rounds)
    if "sleep" in args.kinds:
        overloaded(1.5, 2 * args.seconds, args.slower)


if __name__ == "__main__":
    main()
