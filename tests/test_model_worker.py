"""Models whose servable is in a worker process: warming up while it is away, closing around a run that never ends."""

import asyncio
from types import MappingProxyType

import numpy as np
import pytest
from worker_platforms import Unruly, UnrulyPlatform, wait_for, write_model

from stfs import model as model_module
from stfs.batcher.batcher import Batcher
from stfs.batcher.policy import BatchPolicy
from stfs.errors import Unavailable
from stfs.first_runs import warm_up
from stfs.model import Model
from stfs.platforms import worker_supervisor
from stfs.platforms.base import LoadOptions, Servable, WorkerStatus
from stfs.platforms.loading import Hosting, open_servable
from stfs.signature import Signature, TensorSpec

X = TensorSpec("x", np.dtype("float32"), (None, 1))
SIGNATURES = MappingProxyType({"s": Signature("s", (X,), (X,), True)})


class Away(Servable):
    """Unavailable for the first so many runs, and for so many looks at its status after each."""

    platform = "away"
    runtime = "none"
    signatures = SIGNATURES

    def __init__(self, refusals, looks=3, end="up"):
        self.refusals = refusals
        self.looks = self.left = looks
        self.end = end
        self.runs = 0

    @property
    def worker_status(self):
        self.left -= 1
        return WorkerStatus(None, "restarting" if self.left > 0 else self.end, 0, "", None)

    def run(self, signature_name, inputs):
        self.runs += 1
        if self.runs <= self.refusals:
            self.left = self.looks
            raise Unavailable("it is being restarted")
        return dict(inputs)


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_a_warm_up_waits_for_the_worker_to_come_back(refusals):
    servable = Away(refusals)
    assert warm_up(servable, None)["s"].batchable
    assert servable.runs == refusals + 2


@pytest.mark.parametrize(("end", "runs"), [("up", 3), ("failed", 1)])
def test_a_warm_up_gives_up_on_a_worker_that_it_kills(end, runs):
    servable = Away(1000, end=end)
    assert warm_up(servable, None)["s"].batchable, "nothing has shown that it does not batch"
    assert servable.runs == runs


def test_closing_ends_a_run_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(model_module, "STUCK_RUN_S", 0.1)
    monkeypatch.setattr(worker_supervisor, "END_LIMIT_S", 0.1)
    started = tmp_path / "started"
    path = write_model(tmp_path, started=started)

    async def journey():
        loop = asyncio.get_running_loop()
        servable = open_servable(UnrulyPlatform(), path, LoadOptions("m"), Hosting("process"))
        (signature,) = servable.signatures.values()
        batcher = Batcher(
            lambda inputs: servable.run(signature.name, inputs), BatchPolicy(), name="m", merge=True, loop=loop
        )
        model = Model("m", 1, servable, servable.signatures, {signature.name: batcher}, path)
        assert model.worker.state == "up"
        text = np.empty(1, object)
        text[:] = [b"a"]
        inputs = {"x": np.full((1, 1), Unruly.STUCK, np.float32), "text": text}
        stuck = asyncio.create_task(model.infer(signature, inputs, None))
        await loop.run_in_executor(None, wait_for, started)
        await model.close()
        with pytest.raises(Unavailable, match="was unloaded while this request ran"):
            await stuck
        assert model.worker.state == "closed"

    asyncio.run(journey())
