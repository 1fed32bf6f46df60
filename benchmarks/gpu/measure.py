"""Times ways to run one model, each through this server's own adapter, and checks their answers against the CPU's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu.models import Work
from stfs.platforms.base import LoadOptions, Servable
from stfs.platforms.onnx import OnnxPlatform
from stfs.platforms.onnx_binding import BoundRuns
from stfs.platforms.pinned import PlainMemory
from stfs.platforms.pytorch import PyTorchPlatform

TOLERANCE = 0.02
"""Of the largest value of an answer: GPUs round float32 to TF32 in convolutions."""


@dataclass(frozen=True)
class Result:
    """``run_s`` is the median of one run; ``rows_per_s`` is over all ``threads`` at once."""

    model: str
    framework: str
    way: str
    rows: int
    threads: int
    run_s: float
    rows_per_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def ways(framework: str, path: Path, device: str, sizes: Sequence[int]) -> Iterator[tuple[str, Servable]]:
    """Ways to run the model at ``path``; each servable is closed by whoever gets it."""
    graphs = LoadOptions(device=device, cuda_graphs=True, batch_sizes=tuple(sizes))
    if framework == "torch":
        yield "stream", PyTorchPlatform().load(path, LoadOptions(device=device))
        if device != "cpu":
            yield "graphs", PyTorchPlatform().load(path, graphs)
        return
    plain = OnnxPlatform().load(path, LoadOptions(device=device))
    plain.bind(plain.session, None)
    yield "run", plain
    bound = OnnxPlatform().load(path, LoadOptions(device=device))
    if device == "cpu":  # where it is not the adapter's own choice
        bound.bind(bound.session, BoundRuns(bound.session, bound.graph, PlainMemory()))
    yield "binding", bound
    if device != "cpu":
        yield "graphs", OnnxPlatform().load(path, graphs)


def reference(framework: str, path: Path, x: np.ndarray) -> np.ndarray:
    """The answer of the framework on the CPU."""
    platform: Any = PyTorchPlatform() if framework == "torch" else OnnxPlatform()
    servable = platform.load(path, LoadOptions(device="cpu"))
    try:
        return _answer(servable, x)
    finally:
        servable.close()


def measure(
    work: Work,
    framework: str,
    path: Path,
    device: str,
    sizes: Sequence[int],
    threads: Sequence[int],
    run_for_s: float,
) -> Iterator[Result]:
    """Every way at every batch size, and the largest by several threads. Raises :class:`AssertionError` for a wrong
    answer."""
    wanted = {rows: reference(framework, path, work.inputs(rows)) for rows in sizes}
    for way, servable in ways(framework, path, device, sizes):
        try:
            for rows in sizes:
                x = work.inputs(rows)
                check(_answer(servable, x), wanted[rows], f"{work.name}, {framework}, {way}, {rows} rows")
                for count in threads if rows == sizes[-1] else (1,):
                    run_s, rows_per_s = timed(servable, x, count, run_for_s)
                    yield Result(work.name, framework, way, rows, count, run_s, rows_per_s)
        finally:
            servable.close()


def check(have: np.ndarray, want: np.ndarray, what: str) -> None:
    error = float(np.max(np.abs(have - want), initial=0.0))
    scale = float(np.max(np.abs(want), initial=1e-6))
    if not (have.shape == want.shape and error <= TOLERANCE * scale):
        raise AssertionError(f"{what}: the answer differs from the CPU's by {error:g} of {scale:g}")


def timed(servable: Servable, x: np.ndarray, count: int, run_for_s: float) -> tuple[float, float]:
    """Median seconds of one run, and rows a second over all of ``count`` threads."""
    for _ in range(3):
        _answer(servable, x)
    taken: list[list[float]] = [[] for _ in range(count)]
    barrier = threading.Barrier(count)
    spans: list[float] = []

    def work(number: int) -> None:
        barrier.wait()
        began_s = now_s = time.perf_counter()
        while not taken[number] or now_s - began_s < run_for_s:
            start_s = now_s
            _answer(servable, x)
            now_s = time.perf_counter()
            taken[number].append(now_s - start_s)
        spans.append(now_s - began_s)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs = [seconds for of_one in taken for seconds in of_one]
    return median(runs), len(x) * len(runs) / max(spans)


def _answer(servable: Servable, x: np.ndarray) -> np.ndarray:
    (output,) = servable.run(servable.default_signature, {"x": x}).values()
    return output


def table(results: Sequence[Result]) -> str:
    """In Markdown."""
    lines = ["| model | framework | way | rows | threads | ms a run | rows/s |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {r.model} | {r.framework} | {r.way} | {r.rows} | {r.threads} | {r.run_s * 1e3:.3f} | {r.rows_per_s:,.0f} |"
        for r in results
    ]
    return "\n".join(lines)
