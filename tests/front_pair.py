"""Both ends of the way between a front and the engine, in one process and on one loop: what crosses is real memory,
real descriptors and real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from stfs.batcher.batcher import Batcher, BatchRecord
from stfs.batcher.policy import BatchPolicy
from stfs.front.engine import Desk
from stfs.front.messages import encode_model
from stfs.front.remote import Engine, remote_model
from stfs.front.ring import Ring, create
from stfs.front.wire import Wire
from stfs.lifecycle.registry import Registry
from stfs.model import Model
from stfs.platforms.base import Servable
from stfs.signature import STRING, Signature, TensorSpec

RING_BYTES = 1 << 20


class Calls(Servable):
    """Calls a function of its inputs."""

    platform = "test"
    runtime = "test"

    def __init__(self, signatures: Mapping[str, Signature], run: Callable) -> None:
        self.signatures = signatures
        self._run = run

    def run(self, signature_name, inputs):
        return self._run(inputs)


def twice(inputs):
    return {"y": inputs["x"] * 2}


def echo(inputs):
    """Its inputs themselves, under the names of the outputs."""
    return {f"{name}_out": array for name, array in inputs.items()}


class Held:
    """A function that waits until it is let go, and says when it is called."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, inputs):
        self.entered.set()
        assert self.let_go.wait(60)
        return twice(inputs)


FLOATS = Signature(
    "serving_default",
    (TensorSpec("x", np.dtype(np.float32), (None, None)),),
    (TensorSpec("y", np.dtype(np.float32), (None, None)),),
    True,
)
TEXTS = Signature("serving_default", (TensorSpec("t", STRING, (None,)),), (TensorSpec("t_out", STRING, (None,)),), True)


class Pair:
    """One front's model and the engine's, joined. ``async with Pair(...)``; ``fronts`` fronts share the model."""

    def __init__(
        self,
        signature: Signature = FLOATS,
        run: Callable = twice,
        policy: BatchPolicy = BatchPolicy(),
        fronts: int = 1,
    ) -> None:
        self._args = signature, run, policy
        self._count = fronts
        self.batches: list[BatchRecord] = []
        self.broken: list[BaseException] = []
        self.connections: list[socket.socket] = []

    async def __aenter__(self) -> Pair:
        loop = asyncio.get_running_loop()
        signature, run, policy = self._args
        servable = Calls({signature.name: signature}, run)
        batcher = Batcher(
            partial(servable.run, signature.name),
            policy,
            name="model",
            merge=signature.batchable,
            loop=loop,
            observer=self.batches.append,
        )
        self.batcher = batcher
        self.registry: Registry[Model] = Registry()
        self.model = Model("model", 1, servable, servable.signatures, {signature.name: batcher}, Path("model"))
        self.registry.publish("model", 1, self.model)
        self.signature = signature
        self.desks, self.engines, self.models = [], [], []
        self._wires = []
        for _ in range(self._count):
            memory, bell, other_bell = create(RING_BYTES)
            copies = [os.dup(fd) for fd in (memory, other_bell, bell)]
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            desk, engine = Desk(), Engine()
            desk.wire = Wire(
                loop,
                Ring(memory, bell, other_bell, RING_BYTES, first=True),
                ours,
                desk.take,
                self.broken.append,
                self.connections.append,
            )
            engine.wire = Wire(loop, Ring(*copies, RING_BYTES, first=False), theirs, engine.take, self.broken.append)
            desk.hold(7, self.registry.acquire("model"))
            self.desks.append(desk)
            self.engines.append(engine)
            self.models.append(remote_model(engine, encode_model(7, self.model, policy)))
            self._wires += [desk.wire, engine.wire]
        return self

    async def __aexit__(self, *_: object) -> None:
        for wire in self._wires:
            wire.close()
        await self.model.close()
        assert self.broken == []

    def submit(self, inputs, deadline_s=None, front=0):
        """The front's request, and a future of its answer: outputs, or the error as a value."""
        future = asyncio.get_running_loop().create_future()
        model = self.models[front]

        def reply(outputs, error):
            future.set_result(outputs if error is None else error)

        return model.submit(model.signature(None), inputs, reply, deadline_s), future

    async def ask(self, inputs, deadline_s=None, front=0):
        """The outputs; raises the error."""
        model = self.models[front]
        return await model.infer(model.signature(None), inputs, deadline_s)
