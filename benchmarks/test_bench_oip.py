"""An image of 224 x 224 x 3 floats as raw tensor and as JSON, over one connection each. Every answer is checked.

The two take turns on one server, so that the ratio within one run is what counts; figures are in ``extra_info`` and
printed with ``-s``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from running import Running, running
from simple_models import save

ROUNDS = 7
RAW_REQUESTS = 60
JSON_REQUESTS = 12
SIZES = (1, 224, 224, 3)
LENGTH = "Inference-Header-Content-Length"


def write_corners(folder: Path) -> Path:
    """The first and the last value of an image: next to nothing to compute, and wrong if a byte is out of place."""
    ends = [helper.make_tensor(name, TensorProto.INT64, [1], [at]) for name, at in (("first", 0), ("last", 150527))]
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["flat"], axis=1),
            helper.make_node("Gather", ["flat", "first"], ["a"], axis=1),
            helper.make_node("Gather", ["flat", "last"], ["b"], axis=1),
            helper.make_node("Concat", ["a", "b"], ["y"], axis=1),
        ],
        "corners",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SIZES[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        ends,
    )
    return save(graph, folder)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests_per_s(server: Running, body: bytes, headers: dict[str, str], expected: list[float], count: int) -> float:
    connection = server.connect()
    try:
        started = time.perf_counter()
        for _ in range(count):
            connection.request("POST", "/v2/models/default/infer", body, headers)
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
            size = int(response.headers.get(LENGTH, len(answer)))
            told = json.loads(answer[:size])["outputs"][0]
            values = told["data"] if "data" in told else np.frombuffer(answer[size:], np.float32).tolist()
            assert np.array(values, np.float32).tolist() == expected
        return count / (time.perf_counter() - started)
    finally:
        connection.close()


def test_an_image_raw_and_as_json(benchmark: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(1).random(SIZES, np.float32)
    expected = image.ravel()[[0, -1]].tolist()
    entry = {"name": "x", "shape": list(SIZES), "datatype": "FP32"}
    head = {"inputs": [{**entry, "parameters": {"binary_data_size": image.nbytes}}]}
    text = json.dumps(head | {"parameters": {"binary_data_output": True}}).encode()
    raw = text + image.tobytes()
    as_json = json.dumps({"inputs": [{**entry, "data": image.ravel().tolist()}]}).encode()
    short = json.dumps({"inputs": [{**entry, "data": [float(str(v)) for v in image.ravel()]}]}).encode()
    write_corners(tmp_path / "1")
    figures: dict[str, list[float]] = {"raw": [], "json": [], "short json": []}
    cpu: dict[str, list[float]] = {name: [] for name in figures}
    with running(str(tmp_path)) as server:
        cases = {
            "raw": (raw, {LENGTH: str(len(text))}, RAW_REQUESTS),
            "json": (as_json, {}, JSON_REQUESTS),
            "short json": (short, {}, JSON_REQUESTS),
        }

        def one_round() -> None:
            for name, (body, headers, count) in cases.items():
                before = cpu_seconds(server.process.pid)
                figures[name].append(requests_per_s(server, body, headers, expected, count))
                cpu[name].append((cpu_seconds(server.process.pid) - before) / count)

        benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    medians = {name: statistics.median(rates[1:]) for name, rates in figures.items()}
    benchmark.extra_info |= {f"{name} requests/s": round(rate, 1) for name, rate in medians.items()}
    spent = {name: statistics.mean(times[1:]) * 1e3 for name, times in cpu.items()}
    benchmark.extra_info |= {f"{name} server CPU ms": round(time_ms, 2) for name, time_ms in spent.items()}
    for name in ("json", "short json"):
        benchmark.extra_info[f"{name} over raw, server CPU"] = round(spent[name] / spent["raw"], 1)
        benchmark.extra_info[f"raw over {name}"] = round(medians["raw"] / medians[name], 1)
    print(f"\nbodies: raw {len(raw)}, json {len(as_json)}, short json {len(short)} bytes; {benchmark.extra_info}")
