"""What 64 concurrent clients get over HTTP from a forest, with batching and without. Every answer is checked.

The server has one core and the clients the other, where there are two. Ratios within one run are what counts: the two
servers run side by side and take turns. Figures are in ``extra_info`` and printed with ``-s``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from running import Running, running
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier, VotingClassifier

LOAD = Path(__file__).parent / "load.py"
CONNECTIONS = 64
ROUNDS = 5


def pinned(core: int) -> Any:
    """A ``preexec_fn`` that keeps the process on one core; nothing where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (lambda: os.sched_setaffinity(0, {cores[core % len(cores)]})) if len(cores) > 1 else None


def load(server: Running, bodies: list[str], expected: list[Any], requests: int) -> dict[str, Any]:
    """Requests a second, latencies and the server's CPU time per request, of one closed-loop burst."""
    job = {
        "port": server.port,
        "path": "/v1/models/default:predict",
        "bodies": bodies,
        "expected": expected,
        "connections": CONNECTIONS,
        "requests": requests,
    }
    before = cpu_seconds(server.process.pid)
    done = subprocess.run(
        [sys.executable, LOAD], input=json.dumps(job), capture_output=True, text=True, check=True, preexec_fn=pinned(1)
    )
    result = json.loads(done.stdout)
    assert result["wrong"] == 0
    assert result["answers"] == requests
    result["rps"] = requests / result["seconds"]
    result["cpu_us"] = (cpu_seconds(server.process.pid) - before) / requests * 1e6
    return result


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def voting(trees: int) -> VotingClassifier:
    """A forest within an ensemble: there scikit-learn calls it in its own way, which costs a lone row far more."""
    return VotingClassifier([("forest", RandomForestClassifier(trees, random_state=0))], voting="soft")


MODELS = {
    "forest of 50": lambda: RandomForestClassifier(50, random_state=0),
    "forest of 100": lambda: RandomForestClassifier(100, random_state=0),
    "forest of 500": lambda: RandomForestClassifier(500, random_state=0),
    "forest of 50, called as scikit-learn does": lambda: voting(50),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_forest_with_and_without_batching(benchmark: Any, tmp_path: Path, name: str) -> None:
    x, y = load_digits(return_X_y=True)
    forest = MODELS[name]().fit(x, y)
    joblib.dump(forest, tmp_path / "model.joblib")
    rows = x[:CONNECTIONS]
    answers = forest.predict(rows), forest.predict_proba(rows)
    bodies = [json.dumps({"inputs": [row.tolist()]}) for row in rows]
    expected = [
        {"outputs": {"predict": [int(a)], "predict_proba": [p.tolist()]}} for a, p in zip(*answers, strict=True)
    ]
    if hasattr(forest, "predict_log_proba"):
        with np.errstate(divide="ignore"):
            for case, log in zip(expected, np.log(answers[1]), strict=True):
                case["outputs"]["predict_log_proba"] = [log.tolist()]

    model = str(tmp_path / "model.joblib")
    quiet = "--log_level=error"
    with (
        running(model, quiet, preexec_fn=pinned(0)) as batched,
        running(model, quiet, "--batchable=false", preexec_fn=pinned(0)) as alone,
    ):
        load(batched, bodies, expected, 500)
        load(alone, bodies, expected, 100)
        single: list[dict[str, Any]] = []
        shared: list[dict[str, Any]] = []

        def turns() -> None:
            single.append(load(alone, bodies, expected, 300))
            shared.append(load(batched, bodies, expected, 5000))

        benchmark.pedantic(turns, rounds=ROUNDS, iterations=1)
        rows_per_run = batched.metric("stfs_batch_rows_sum") / batched.metric("stfs_batch_rows_count")
    median = {key: statistics.median(r[key] for r in shared) for key in ("rps", "p50_ms", "p99_ms", "cpu_us")}
    without = {key: statistics.median(r[key] for r in single) for key in ("rps", "p50_ms", "p99_ms", "cpu_us")}
    ratio = statistics.median(b["rps"] / a["rps"] for a, b in zip(single, shared, strict=True))
    benchmark.extra_info |= {"batched": median, "alone": without, "ratio": ratio, "rows_per_run": rows_per_run}
    print(f"\n{name}, {CONNECTIONS} clients: x{ratio:.1f}, {rows_per_run:.0f} rows a run")
    for name, figures in (("batched", median), ("alone", without)):
        print(f"  {name:8} " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
