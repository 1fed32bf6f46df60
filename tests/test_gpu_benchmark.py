"""``python -m benchmarks.gpu``: says what it lacks where there is no GPU, and its measuring works on the CPU."""

import json
import subprocess
import sys

import pytest
from gpu import DEVICE_FILES, torch_lacks
from running import TESTS, environment

pytestmark = pytest.mark.slow  # imports torch

ROOT = TESTS.parent


def run(*argv):
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu", *argv]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.skipif(not torch_lacks(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_it_looked_for():
    (line,) = run().stdout.splitlines()
    assert line.startswith("not run: no CUDA device: ")
    assert "; onnxruntime " in line
    assert "; torch " in line
    assert all(file in line for file in DEVICE_FILES) or "there" in line


def test_it_measures_and_checks_every_way(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    figures = tmp_path / "figures.jsonl"
    argv = ("--device=cpu", "--models=mlp", "--rows=1,4", "--threads=1,2", "--seconds=0.01", f"--json={figures}")
    table = run(*argv).stdout.splitlines()[1:]
    found = [json.loads(line) for line in figures.read_text().splitlines()]
    ways = [("onnx", "run"), ("onnx", "binding"), ("torch", "stream")]
    assert [(one["framework"], one["way"], one["rows"], one["threads"]) for one in found] == [
        (*way, rows, threads) for way in ways for rows, threads in ((1, 1), (4, 1), (4, 2))
    ]
    assert all(one["run_s"] > 0 and one["rows_per_s"] > 0 for one in found)
    assert len(table) == 2 + len(found)
