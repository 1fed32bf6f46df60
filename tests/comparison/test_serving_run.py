"""The comparison of servers as it is run: real servers, real load, for a moment. Nothing here asserts a speed."""

import csv
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are not installed

from benchmarks.serving import client  # noqa: E402
from benchmarks.serving.peers import ALL  # noqa: E402
from benchmarks.serving.processes import StartFailed, start  # noqa: E402
from benchmarks.serving.turns import cores_of_machine  # noqa: E402
from benchmarks.serving.works import make  # noqa: E402

pytestmark = pytest.mark.slow
pytest.importorskip("onnx", reason="the models are made with onnx")


def test_one_command_measures_checks_and_reports(tmp_path):
    words = "--works identity --servers stfs,aiohttp,tensorflow-serving --rounds 1 --seconds 0.3 --connections 2"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.serving",
            *words.split(),
            "--own-load",
            "--open-loop",
            "0.2",
            "--out",
            tmp_path,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "results.json").read_text())
    assert {(turn["server"], turn["load"]) for turn in kept["turns"]} == {
        ("stfs", "2 connections"),
        ("aiohttp", "2 connections"),
        ("stfs", "open loop, 20% of capacity"),
        ("aiohttp", "open loop, 20% of capacity"),
        ("model", "no server"),
    }
    for turn in kept["turns"]:
        assert turn["rate"] > 0
        assert turn["errors"] == 0
        assert turn["cpu_us"] >= 0
        assert turn["server"] == "model" or 0 < turn["p50_ms"] <= turn["p99_ms"]
    assert kept["notes"] == ["tensorflow-serving: not given by --tfs-url"]
    assert {"commit", "date", "machine", "load of the machine"} <= kept["conditions"].keys()
    with (tmp_path / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(kept["turns"])
    assert "| stfs |" in (tmp_path / "report.md").read_text()


def test_a_wrong_answer_is_an_error_and_no_figure(tmp_path):
    work = make("identity", tmp_path)
    cores = cores_of_machine()
    server = start(ALL["uvloop"], work, Path(sys.executable), cores.server)
    try:
        right = client.run(server.url, work, "instances", 2, 0.1, cores.load)
        assert right.answers > 0
        assert not math.isnan(right.p99_ms)
        other = replace(work, expected=work.expected + np.float32(0.5))
        with pytest.raises(client.WrongAnswers, match="answers to identity are wrong"):
            client.run(server.url, other, "instances", 2, 0.1, cores.load)
        assert server.pids()
    finally:
        server.discard()
    assert server.pids() == []
    assert not server.folder.exists()


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path):
    work = make("identity", tmp_path)
    missing = replace(work, model=tmp_path / "none.onnx")
    with pytest.raises(StartFailed, match=r"stfs did not answer .*: ended with status \d+; its log: .*log"):
        start(ALL["stfs"], missing, Path(sys.executable), cores_of_machine().server)
