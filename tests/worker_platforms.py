"""A platform whose models do on request what a worker process must withstand. Imported by tests, and by their workers.

A model is a JSON file: ``{"scale": 2.0, ...}``; see :class:`Unruly` for the rest.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from stfs.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    Overloaded,
    PlatformMissing,
    Unavailable,
)
from stfs.platforms.base import Platform, Servable
from stfs.signature import STRING, Signature, TensorSpec, can_batch

log = logging.getLogger("unruly")


class UnrulyPlatform(Platform):
    name = "unruly"
    aliases: ClassVar = ()
    extra = "test"

    def detect(self, path):
        return path.suffix == ".unruly"

    def load(self, path, options):
        said = json.loads(Path(path).read_text())
        if said.get("missing"):
            raise PlatformMissing(self.name, self.extra, "no module")
        if said.get("broken"):
            raise LoadFailed(f"{path}: it is broken")
        if said.get("bug"):
            raise ZeroDivisionError("a bug in the adapter")
        if "child" in said:
            Path(said["child"]).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
        if said.get("print"):
            print(said["print"], flush=True)
        if "abort_unless" in said and not Path(said["abort_unless"]).exists():
            os.abort()
        if "wait_for" in said:
            wait_for(Path(said["wait_for"]))
        return Unruly(said, options)


class GroupedPlatform(UnrulyPlatform):
    name = "grouped"
    isolation = "process"
    worker_group = "test-group"


def wait_for(file, limit_s=60.0):
    """Polls, bounded: a test makes the file when it is time."""
    end_s = time.monotonic() + limit_s
    while not file.exists():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{file} did not come")
        time.sleep(0.005)


class Unruly(Servable):
    """``y = scale * x``, the process id, and each text turned round; unless ``x[0, 0]`` is an order below 0."""

    (
        INVALID,
        UNAVAILABLE,
        OVERLOADED,
        DEADLINE,
        FAILED,
        BUG,
        EXIT_CODE,
        KILL,
        ABORT,
        EXIT,
        GARBAGE,
        WAIT,
        LEAVE,
        MEMORY,
        STUCK,
    ) = (float(-n) for n in range(1, 16))

    platform = UnrulyPlatform.name
    runtime = "unruly 1.0"

    def __init__(self, said, options):
        self.said = said
        self.scale = np.float32(said.get("scale", 2.0))
        inputs = (
            TensorSpec("x", np.dtype("float32"), (None, None), "numbers", nullable=True),
            TensorSpec("text", STRING, (None,), values=("a", "b")),
        )
        outputs = (
            TensorSpec("y", np.dtype("float32"), (None, None)),
            TensorSpec("pid", np.dtype("int64"), (None,)),
            TensorSpec("turned", STRING, (None,)),
            TensorSpec("heap", np.dtype("int64"), (None,)),
        )
        if Path(said.get("changed_by", "/nonexistent")).exists():
            outputs = outputs[:1]
        name = said.get("signature", "serving_default")
        self.heap = options.jvm_heap_bytes
        self.on_gpu = bool(said.get("on_gpu"))
        self.signatures = {name: Signature(name, inputs, outputs, can_batch(inputs, outputs))}

    def run(self, signature_name, inputs):
        x, text = inputs["x"], inputs["text"]
        order = float(x[0, 0]) if x.size else 0.0
        if order < 0:
            self.obey(order)
        turned = np.empty(text.shape, object)
        turned[:] = [value[::-1] for value in text.tolist()]
        rows = len(x)
        return {
            "y": x * self.scale,
            "pid": np.full(rows, os.getpid()),
            "turned": turned,
            "heap": np.full(rows, self.heap),
        }

    def obey(self, order):
        if order == self.INVALID:
            raise InvalidInput("x", "the value -1 is cursed")
        if order == self.UNAVAILABLE:
            raise Unavailable("the heap is full", 7.0)
        if order == self.OVERLOADED:
            raise Overloaded("too much", 2.5)
        if order == self.DEADLINE:
            raise DeadlineExceeded("too late")
        if order == self.FAILED:
            raise ModelFailed("it failed")
        if order == self.BUG:
            raise KeyError("a bug in the model")
        if order == self.EXIT_CODE:
            sys.exit(3)
        if order == self.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if order == self.ABORT:
            os.abort()
        if order == self.EXIT:
            os._exit(7)
        if order == self.GARBAGE:
            os.write(1, b"\x00\xff\x1b[31m garbage \r\n" + b"x" * 100_000 + b"\n" + b"line\n" * 50_000)
            log.error("an error that was logged")
        if order == self.WAIT:
            Path(self.said["started"]).touch()
            wait_for(Path(self.said["go"]))
        if order == self.MEMORY:
            raise MemoryError("no room")
        if order == self.STUCK:
            Path(self.said["started"]).touch()
            while True:
                with contextlib.suppress(BaseException):
                    time.sleep(3600)

    def close(self):
        if "closed" in self.said:
            with Path(self.said["closed"]).open("a") as file:
                file.write(f"{os.getpid()}\n")
        if self.said.get("close_fails"):
            raise RuntimeError("closing is hard")


def text(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def order(value, rows=1):
    """Inputs of one column of numbers, all ``value``: an order to the model where that is below 0."""
    return {"x": np.full((rows, 1), value, np.float32), "text": text(*[b"ab"] * rows)}


def write_model(folder, name="model", **said):
    path = folder / f"{name}.unruly"
    path.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in said.items()}))
    return path
