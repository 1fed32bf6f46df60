"""Models of several instances, and models whose runs hang: the batchers that they get, and when they are freed."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from stfs.batcher.batcher import Batcher
from stfs.batcher.places import Instance
from stfs.batcher.policy import BatchPolicy
from stfs.errors import RunTimedOut
from stfs.first_runs import warm_up_all
from stfs.model import Model
from stfs.platforms.base import Servable
from stfs.platforms.instances import Instances
from stfs.signature import Signature, TensorSpec

X = TensorSpec("x", np.dtype("float32"), (None, 1))
SIGNATURE = Signature("s", (X,), (X,), True)
LIMIT_S = 30.0


class Held(Servable):
    """Runs until it is let go; tells when it is closed."""

    platform = runtime = "held"

    def __init__(self):
        self.signatures = {"s": SIGNATURE}
        self.runs = 0
        self.running = threading.Semaphore(0)
        self.go = threading.Event()
        self.closed = threading.Event()

    def run(self, signature_name, inputs):
        self.runs += 1
        self.running.release()
        assert self.go.wait(LIMIT_S)
        return dict(inputs)

    def close(self):
        self.closed.set()


def batcher_of(servable, **more):
    return Batcher(
        lambda inputs: servable.run("s", inputs), BatchPolicy(), name="m", loop=asyncio.get_running_loop(), **more
    )


def row(value):
    return {"x": np.full((1, 1), value, np.float32)}


def test_every_instance_is_warmed_up_once():
    members = [Held(), Held()]
    for member in members:
        member.go.set()
    settled = warm_up_all(Instances([members[0], members[1], members[0]]), None)
    assert settled["s"].batchable
    assert [member.runs for member in members] == [2, 2]


def test_batches_run_on_all_instances_at_once():
    async def main():
        members = [Held(), Held()]
        instances = [Instance(lambda inputs, m=m: m.run("s", inputs), m.is_up, m.concurrent) for m in members]
        whole = Instances(members)
        model = Model("m", 1, whole, whole.signatures, {"s": batcher_of(whole, instances=instances)}, Path("m"))
        assert model.has_instances
        loop = asyncio.get_running_loop()
        asked = []
        for value, member in enumerate(members):
            asked.append(asyncio.create_task(model.infer(SIGNATURE, row(value), None)))
            assert await loop.run_in_executor(None, member.running.acquire, True, LIMIT_S), "it is at work"
        assert not any(task.done() for task in asked), "both at a time"
        members[1].go.set()
        assert (await asked[1])["x"] == 1.0
        members[0].go.set()
        assert (await asked[0])["x"] == 0.0
        await model.close()
        assert all(member.closed.is_set() for member in members)

    asyncio.run(main())


def test_a_model_with_a_run_that_hangs_is_freed_when_that_is_home():
    async def main():
        held = Held()
        batcher = batcher_of(held, run_timeout_s=0.05)
        model = Model("m", 1, held, held.signatures, {"s": batcher}, Path("m"))
        with pytest.raises(RunTimedOut):
            await model.infer(SIGNATURE, row(1.0), None)
        await model.close()
        assert not held.closed.is_set(), "somebody is still in there"
        held.go.set()
        assert await asyncio.get_running_loop().run_in_executor(None, held.closed.wait, LIMIT_S)

    asyncio.run(main())
