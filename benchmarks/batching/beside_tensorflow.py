"""``python -m benchmarks.batching.beside_tensorflow SAVED_MODEL``: TensorFlow Serving's own scheduler beside ours.

The tensorflow wheel holds the scheduler that TensorFlow Serving batches with, behind the operation ``BatchFunction``.
Here one SavedModel is called by it and by our batcher in one process, in turns, from the same number of callers that
each wait for their answer, every answer checked. No HTTP on either side: only the gathering of requests differs. The
first dimension of the model's inputs must be open, and they must be numbers.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np

from stfs.batcher.batcher import Batcher
from stfs.batcher.policy import BatchPolicy
from stfs.calibration.measure import time_sizes
from stfs.calibration.result import fitted

MAX_ROWS = 64


class Model:
    """The signature as a function of arrays, and a row for it with its answer."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.tf = tf
        self.loaded = tf.saved_model.load(str(path))  # kept: the function dies with it
        self.function = self.loaded.signatures["serving_default"]
        self.specs = dict(sorted(self.function.structured_input_signature[1].items()))
        if strings := [name for name, spec in self.specs.items() if spec.dtype == tf.string]:
            raise SystemExit(f"{path} takes strings ({strings[0]}); this needs a model of numbers")
        self.output = max(self.function.structured_outputs)
        self.row = self.zeros(1)
        rng = np.random.default_rng(1)
        for name, array in self.row.items():
            self.row[name] = (9 * rng.random(array.shape)).astype(array.dtype)
        self.expected = self.run(self.row)[self.output]

    def zeros(self, rows: int) -> dict[str, Any]:
        return {
            name: np.zeros((rows, *(size or 1 for size in spec.shape[1:])), spec.dtype.as_numpy_dtype)
            for name, spec in self.specs.items()
        }

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        tensors = {name: self.tf.constant(array) for name, array in inputs.items()}
        return {self.output: self.function(**tensors)[self.output].numpy()}

    def check(self, answer: Any) -> None:
        if not np.allclose(answer, self.expected, rtol=1e-3, atol=1e-5):
            raise AssertionError("a wrong answer")


def theirs(model: Model, timeout_s: float) -> Callable[[int, float], tuple[float, float]]:
    """Callers on threads, as gRPC's are in TensorFlow Serving; its operation gathers them."""
    tf = model.tf

    @tf.nondifferentiable_batch_function(  # type: ignore[untyped-decorator]
        num_batch_threads=1,
        max_batch_size=MAX_ROWS,
        batch_timeout_micros=int(timeout_s * 1e6),
        allowed_batch_sizes=[1 << i for i in range(MAX_ROWS.bit_length())],
        max_enqueued_batches=100,
    )
    def gathered(*inputs: Any) -> Any:
        return model.function(**dict(zip(model.specs, inputs, strict=True)))[model.output]

    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in model.specs.values()]
    asked = tf.function(gathered, input_signature=specs)

    def ask() -> Any:
        return asked(*(tf.constant(array) for array in model.row.values())).numpy()

    ask()

    def run(callers: int, seconds: float) -> tuple[float, float]:
        latencies: list[list[float]] = [[] for _ in range(callers)]
        end_s = time.perf_counter() + seconds

        def caller(seen: list[float]) -> None:
            while (start_s := time.perf_counter()) < end_s:
                answer = ask()
                seen.append(time.perf_counter() - start_s)
                model.check(answer)

        threads = [threading.Thread(target=caller, args=(seen,)) for seen in latencies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        every = [x for seen in latencies for x in seen]
        return len(every) / seconds, mean(every)

    return run


def ours(model: Model) -> Callable[[int, float], tuple[float, float]]:
    """Callers as tasks of an event loop, as they are in this server."""
    sizes = tuple(1 << i for i in range(MAX_ROWS.bit_length()))
    cost = fitted(time_sizes(model.run, model.zeros, MAX_ROWS)).cost

    async def load(callers: int, seconds: float) -> tuple[float, float]:
        policy = BatchPolicy(max_batch_size=MAX_ROWS, allowed_batch_sizes=sizes)
        batcher = Batcher(model.run, policy, name="model", cost=cost)
        every: list[float] = []
        end_s = time.perf_counter() + seconds

        async def caller() -> None:
            while (start_s := time.perf_counter()) < end_s:
                answer = (await batcher.infer(model.row, 1))[model.output]
                every.append(time.perf_counter() - start_s)
                model.check(answer)

        await asyncio.gather(*(caller() for _ in range(callers)))
        await batcher.close()
        return len(every) / seconds, mean(every)

    return lambda callers, seconds: asyncio.run(load(callers, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching.beside_tensorflow")
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of one turn (5)")
    parser.add_argument("--rounds", type=int, default=3, help="turns that each figure is the median of (3)")
    args = parser.parse_args()
    model = Model(args.saved_model)
    runs = {"ours": ours(model), "BatchFunction, 0 ms": theirs(model, 0.0), "BatchFunction, 1 ms": theirs(model, 1e-3)}
    for callers in (1, 8, 64):
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                seen[name].append(run(callers, args.seconds))
        told = ", ".join(
            f"{name} {median(r for r, _ in figures):.0f}/s, mean {median(m for _, m in figures) * 1e3:.2f} ms"
            for name, figures in seen.items()
        )
        print(f"{callers} callers: {told}", flush=True)


if __name__ == "__main__":
    main()
