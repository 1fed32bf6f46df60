"""``python -m benchmarks.gpu``: ResNet-18 and an MLP on a GPU, by every way that the adapters have.

``run`` is onnxruntime's own ``session.run``, ``binding`` kept page-locked memory, ``stream`` torch's way here, and
``graphs`` a CUDA graph for each batch size. Every answer is checked against the CPU's. Without a GPU it says what it
has looked for, and ends with status 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.device import looked_for
from benchmarks.gpu.measure import Result, measure, table
from benchmarks.gpu.models import WORKS


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try this program itself")
    parser.add_argument("--models", default=",".join(WORKS))
    parser.add_argument("--frameworks", default="onnx,torch")
    parser.add_argument("--rows", default="1,8,32,128", help="batch sizes, ascending")
    parser.add_argument("--threads", default="1,2,4", help="threads at once, at the largest batch size")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    parser.add_argument("--json", type=Path, help="append the figures to this file, a line each")
    given = parser.parse_args(argv)
    frameworks = given.frameworks.split(",")
    there, found = looked_for()
    if given.device != "cpu":
        frameworks = [name for name in frameworks if name in there]
        if not frameworks:
            print("not run: no CUDA device:", "; ".join(found))
            return 0
    print("; ".join(found))
    sizes, threads = ([int(part) for part in text.split(",")] for text in (given.rows, given.threads))
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models.split(","):
            work = WORKS[name]
            for framework in frameworks:
                write = work.write_onnx if framework == "onnx" else work.write_torch
                path = write(Path(folder) / name / framework)
                for result in measure(work, framework, path, given.device, sizes, threads, given.seconds):
                    print(json.dumps(result.as_json()), file=sys.stderr, flush=True)
                    results.append(result)
    print(table(results))
    if given.json is not None:
        with given.json.open("a") as file:
            file.writelines(json.dumps(result.as_json()) + "\n" for result in results)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
