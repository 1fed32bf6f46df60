"""Large bodies: what receiving and reading one costs the server, and what small requests beside them wait.

Receiving is compared with a bare aiohttp application that does nothing but ``await request.read()``, on the same loop
and in turns, so that the ratio within one run is what counts. Raw tensors need hardly any reading, JSON much. Every
answer is checked; figures are in ``extra_info`` and printed with ``-s``.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from running import running
from simple_models import save, write_linear

ROUNDS = 5
TURN_BYTES = 150_000_000
"""How much is sent in one turn of one case."""

SIZES = {"276 KB": (32, 784), "3.1 MB": (1, 150_528)}
"""As JSON with 7 to 17 digits a number; raw bodies are given the length of the JSON ones."""

LENGTH = "Inference-Header-Content-Length"
SMALL_REQUESTS = 1500
BESIDE = {"no others": 0, "2 of 3.1 MB": 2}

BARE = """
import asyncio, socket, sys, uvloop
from aiohttp import web

async def read(request):
    body = await request.read()
    return web.Response(body=b"%d" % len(body))

async def main():
    app = web.Application(client_max_size=1 << 30)
    app.add_routes([web.post("/", read)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    print(listener.getsockname()[1], flush=True)
    await asyncio.Event().wait()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


def cpu_us(pid: int) -> np.ndarray:
    """Time that the process has run: on its first thread, which is the loop's, and on all of them."""
    spent = {
        task.name: int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
    }
    return np.array([spent[str(pid)], sum(spent.values())]) / 1e3


def write_ends(folder: Path) -> Path:
    """``y``, the first and the last value of each row of ``x`` [n, m]: wrong if a byte is out of place."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "ends"], ["y"], axis=1)],
        "ends",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor("ends", TensorProto.INT64, [2], [0, -1])],
    )
    return save(graph, folder)


@contextmanager
def bare() -> Iterator[tuple[int, int]]:
    """Process and port of the aiohttp application."""
    with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()


def message(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def raw_body(size: int) -> tuple[bytes, str, list[float]]:
    """A raw tensor of about that size, the length of its head, and what the model makes of it."""
    values = np.random.default_rng(1).random((1, size // 4), np.float32)
    entry = {"name": "x", "shape": values.shape, "datatype": "FP32", "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + values.tobytes(), f"{LENGTH}: {len(head)}", values[:, [0, -1]].ravel().tolist()


def read_answer(line: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += line.recv(1 << 16)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received[:500]
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < size:
        body += line.recv(1 << 16)
    return body


def test_receiving_and_reading(benchmark: Any, tmp_path: Path) -> None:
    write_ends(tmp_path / "1")
    figures: dict[str, list[np.ndarray]] = {}
    with running(str(tmp_path)) as server, bare() as (bare_pid, bare_port):
        cases: dict[str, tuple[int, int, bytes, Any]] = {}
        for name, shape in SIZES.items():
            values = np.random.default_rng(1).random(shape, np.float32)
            body = json.dumps({"instances": values.tolist()}).encode()
            raw, length, ends = raw_body(len(body))
            cases[f"{name}, aiohttp read()"] = bare_pid, bare_port, message("/", body), len(body)
            pid, port = server.process.pid, server.port
            cases[f"{name}, raw"] = pid, port, message("/v2/models/default/infer", raw, length), ends
            expected = values[:, [0, -1]].tolist()
            cases[f"{name}, JSON"] = pid, port, message("/v1/models/default:predict", body), expected

        def one_round() -> None:
            for name, (pid, port, sent, expected) in cases.items():
                count = max(20, min(400, TURN_BYTES // len(sent)))
                with socket.create_connection(("127.0.0.1", port)) as line:
                    before = cpu_us(pid)
                    for _ in range(count):
                        line.sendall(sent)
                        answer = json.loads(read_answer(line))
                        if isinstance(answer, dict):
                            told = answer["outputs"][0]["data"] if "outputs" in answer else answer["predictions"]
                            assert np.allclose(told, expected)
                        else:
                            assert answer == expected
                    figures.setdefault(name, []).append((cpu_us(pid) - before) / count)

        benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    spent = {name: np.median(times[1:], axis=0) for name, times in figures.items()}
    for name, (loop_us, all_us) in spent.items():
        benchmark.extra_info[f"{name}, CPU us on the loop and in all"] = round(loop_us), round(all_us)
    for name in SIZES:
        for form in ("raw", "JSON"):
            ratios = spent[f"{name}, aiohttp read()"][0] / spent[f"{name}, {form}"]
            benchmark.extra_info[f"{name}, aiohttp read() over {form}"] = ratios.round(2).tolist()
    print(f"\n{json.dumps(benchmark.extra_info, indent=1)}")


def load(port: int, body: str, expected: Any, requests: int) -> Any:
    """What ``load.py``, a process of its own, tells of so many requests on one connection."""
    job = {
        "port": port,
        "path": "/v1/models/default:predict",
        "bodies": [body],
        "expected": [expected],
        "connections": 1,
        "requests": requests,
    }
    command = [sys.executable, str(Path(__file__).parent / "load.py")]
    return json.loads(
        subprocess.run(command, input=json.dumps(job).encode(), stdout=subprocess.PIPE, check=True).stdout
    )


def test_small_requests_beside_large_ones(benchmark: Any, tmp_path: Path) -> None:
    write_ends(tmp_path / "large" / "1")
    write_linear(tmp_path / "default" / "1")
    entries = [{"name": name, "base_path": str(tmp_path / name)} for name in ("large", "default")]
    (tmp_path / "models.json").write_text(json.dumps({"model_config_list": entries}))
    values = np.random.default_rng(1).random(SIZES["3.1 MB"], np.float32)
    large = message("/v1/models/large:predict", json.dumps({"instances": values.tolist()}).encode())
    small = json.dumps({"instances": [[1.0, 2.0, 3.0]]})
    with running(f"--model_config_file={tmp_path / 'models.json'}") as server:

        def one_round() -> None:
            for name, count in BESIDE.items():
                code = _SENDER.format(port=server.port, count=count)
                with subprocess.Popen(
                    [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
                ) as beside:
                    assert beside.stdin is not None
                    assert beside.stdout is not None
                    beside.stdin.write(large)
                    beside.stdin.close()
                    try:
                        assert beside.stdout.readline() == b"sending\n"
                        told = load(server.port, small, {"predictions": [[2.0, 4.0, 6.0]]}, SMALL_REQUESTS)
                        assert beside.poll() is None
                        assert (told["wrong"], told["answers"]) == (0, SMALL_REQUESTS)
                    finally:
                        beside.terminate()
                for what in ("p50_ms", "p99_ms"):
                    benchmark.extra_info.setdefault(f"{name}, {what}", []).append(round(told[what], 2))

        benchmark.pedantic(one_round, rounds=ROUNDS)
    print(f"\n{json.dumps(benchmark.extra_info, indent=1)}")


_SENDER = """
import selectors, socket, sys
message = sys.stdin.buffer.read()
print("sending", flush=True)
chooser = selectors.DefaultSelector()
left = {{}}
for _ in range({count}):
    line = socket.create_connection(("127.0.0.1", {port}))
    line.setblocking(False)
    left[line] = memoryview(message)
    chooser.register(line, selectors.EVENT_WRITE | selectors.EVENT_READ)
while True:
    for key, events in chooser.select():
        line = key.fileobj
        if events & selectors.EVENT_READ:
            assert line.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            left[line] = memoryview(message)
        elif left[line]:
            left[line] = left[line][line.send(left[line]):]
        chooser.modify(line, selectors.EVENT_READ | (selectors.EVENT_WRITE if left[line] else 0))
"""
