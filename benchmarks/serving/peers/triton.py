"""Triton Inference Server: the binary within NVIDIA's ``nvidia-pytriton`` wheel, its Python backend over the model.

That binary has no ONNX backend, so the model is called by Python, which costs it a crossing between processes a run.
``triton-front`` is what its HTTP front end does alone: an infer request of the usual kind whose rows have one value too
many, which it parses and refuses before any model is asked. ``triton-health`` is ``GET /v2/health/live``: nothing to
parse.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from benchmarks.serving.peers.peer import ONNX, PROGRAMS, Command, Peer, Start, program_env

PATH = "/v2/models/m/infer"


def _start(*, batching: bool, threads: int = 2) -> Callable[[Start], Command]:
    def start(what: Start) -> Command:
        (packages,) = sorted(what.python.parent.parent.glob("lib/python3.*/site-packages"))
        triton = packages / "pytriton" / "tritonserver"
        # Each Python has a stub of its own, which the server looks for beside the backend.
        python_version = packages.parent.name.removeprefix("python")
        backends = what.folder / "backends"
        shutil.copytree(triton / "backends" / "python", backends / "python")
        shutil.copytree(triton / "python_backend_stubs" / python_version, backends / "python", dirs_exist_ok=True)
        model = what.folder / "models" / "m"
        (model / "1").mkdir(parents=True)
        shutil.copy(PROGRAMS / "triton_model.py", model / "1" / "model.py")
        (model / "config.pbtxt").write_text(_config(what, batching=batching))
        env = program_env(what, batching=batching)
        env["LD_LIBRARY_PATH"] = str(packages / "nvidia_pytriton.libs")
        env["PYTHONPATH"] = f"{PROGRAMS}:{packages}"
        argv = [str(triton / "bin" / "tritonserver"), "--model-repository", str(model.parent)]
        argv += ["--backend-directory", str(backends), "--http-address", "127.0.0.1", "--http-port", str(what.port)]
        argv += ["--allow-grpc", "false", "--metrics-address", "127.0.0.1", "--metrics-port", str(what.spare_ports[0])]
        argv += ["--http-thread-count", str(threads)]
        return Command(tuple(argv), env)

    return start


def _config(what: Start, *, batching: bool) -> str:
    def dims(shape: tuple[int, ...]) -> str:
        return ", ".join(map(str, shape))

    wait_us = round(what.batch_wait_s * 1e6)
    batched = f"dynamic_batching {{ max_queue_delay_microseconds: {wait_us} }}" if batching else ""
    return (
        f'name: "m" backend: "python" max_batch_size: {what.max_batch} {batched}\n'
        f'input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {dims(what.work.rows.shape[1:])} ] }} ]\n'
        f'output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {dims(what.work.expected.shape[1:])} ] }} ]\n'
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    )


TRITON = (
    Peer("triton", "Triton, batching off", "triton", PATH, "v2", _start(batching=False), ONNX),
    Peer("triton-batched", "Triton, batching on", "triton", PATH, "v2", _start(batching=True), ONNX),
    Peer("triton-workers2", "Triton on both cores", "triton", PATH, "v2", _start(batching=True), ONNX, both_cores=True),
    Peer(
        "triton-front",
        "Triton's front end, an infer that it parses and refuses",
        "triton",
        PATH,
        "v2-wide",
        _start(batching=True),
        ONNX,
        refuses=True,
    ),
    Peer(
        "triton-health",
        "Triton's front end, nothing to parse",
        "triton",
        "/v2/health/live",
        "",
        _start(batching=False),
        ONNX,
        checks=False,
    ),
)
