"""Loading and unloading by name, over a fake that applies, and over a real server's models."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simple_models import write_linear

from stfs import config
from stfs.batcher.policy import BatchPolicy
from stfs.config import ModelConfig
from stfs.errors import InvalidRequest, ModelNotFound
from stfs.lifecycle.policy import All, Latest, Specific, State
from stfs.lifecycle.record import ModelStatus, VersionStatus
from stfs.protocols.oip_metadata import model_config
from stfs.repository import IndexEntry, Repository
from stfs.repository_config import overridden, policy_told
from stfs.server import Server
from stfs.signature import Signature, TensorSpec

X = TensorSpec("x", np.dtype("float32"), (None, 1))
SIGNATURE = Signature("s", (X,), (X,), True)
M = ModelConfig("m", Path("/models/m"))
N = ModelConfig("n", Path("/models/n"))


class FakeServer:
    """Serves version 1 of everything it is told to, but for the models in ``broken``."""

    def __init__(self, *models):
        self.models = models
        self.broken = {}
        self.polled = []

    async def apply(self, models):
        self.models = tuple(models)
        return {model.name: self.broken[model.name] for model in models if model.name in self.broken}

    def status(self):
        return tuple(
            ModelStatus(
                model.name,
                model.base_path,
                None,
                (VersionStatus(1, State.END if model.name in self.broken else State.AVAILABLE, "", 0.0, Path("/")),),
            )
            for model in self.models
        )

    async def poll_once(self, name=None):
        self.polled.append(name)

    async def settled(self):
        pass

    def repository(self):
        return Repository(lambda: self.models, self.apply, self)


def states(repository, **how):
    return {entry.name: (entry.version, entry.state, entry.reason) for entry in repository.index(**how)}


def test_unloaded_models_stay_in_the_index_and_load_again():
    server = FakeServer(M, N)
    repository = server.repository()

    async def main():
        assert states(repository) == {"m": (1, "READY", ""), "n": (1, "READY", "")}
        await repository.unload("m")
        assert server.models == (N,)
        assert states(repository) == {"m": (1, "UNAVAILABLE", "unloaded"), "n": (1, "READY", "")}
        assert states(repository, ready=True) == {"n": (1, "READY", "")}
        await repository.unload("m")
        await repository.load("m")
        assert server.models == (N, M)
        assert states(repository)["m"] == (1, "READY", "")

    asyncio.run(main())


def test_an_override_holds_until_the_model_is_loaded_without_one():
    server = FakeServer(M)
    repository = server.repository()

    async def main():
        await repository.load("m", '{"max_batch_size": 7}')
        assert server.models[0].batch.max_batch_size == 7
        await repository.load("m", '{"version_policy": {"all": {}}}')
        assert server.models == (replace(M, version_policy=All()),), "an override is over what was configured"
        await repository.load("m")
        assert server.models == (M,)
        assert server.polled == []
        await repository.load("m")
        assert server.polled == ["m", "m"], "loaded as it is: only new versions are looked for"

    asyncio.run(main())


def test_what_does_not_load_leaves_what_was_served():
    server = FakeServer(M, N)
    repository = server.repository()

    async def main():
        await repository.unload("n")
        server.broken = {"n": "no file", "m": "no memory"}
        with pytest.raises(InvalidRequest, match="failed to load 'n': no file"):
            await repository.load("n")
        assert server.models == (M,)
        with pytest.raises(InvalidRequest, match="failed to load 'm': no memory"):
            await repository.load("m", '{"max_batch_size": 7}')
        assert server.models == (M,)
        assert states(repository)["n"][1:] == ("UNAVAILABLE", "no file")
        server.broken = {}
        await repository.load("n")
        assert states(repository)["n"][1] == "READY"

    asyncio.run(main())


def test_names_that_were_never_configured():
    repository = FakeServer(M).repository()
    for call in (repository.load, repository.unload):
        with pytest.raises(ModelNotFound, match='models here: "m"') as caught:
            asyncio.run(call("q"))
        assert caught.value.model == "q"


def test_what_others_configure_goes_into_the_book():
    server = FakeServer(M)
    repository = server.repository()
    changed = replace(M, base_path=Path("/elsewhere"))

    async def main():
        await server.apply([changed, N])
        await repository.unload("m")
        await repository.unload("n")
        await repository.load("m")
        assert server.models == (changed,)
        assert repository.index() == [IndexEntry("m", 1, "READY"), IndexEntry("n", 1, "UNAVAILABLE", "unloaded")]

    asyncio.run(main())


# --- Triton's configuration -----------------------------------------------------------------------------------------


def test_what_an_override_changes():
    got = overridden(
        M,
        json.dumps(
            {
                "name": "m",
                "backend": "onnxruntime",
                "max_batch_size": "16",
                "dynamic_batching": {"max_queue_delay_microseconds": 2500, "preferred_batch_size": [4]},
                "version_policy": {"specific": {"versions": [1, "3"]}},
            }
        ),
    )
    batch = BatchPolicy(max_batch_size=16, batch_timeout_s=0.0025, preferred_batch_sizes=(4,))
    assert got == replace(M, batch=batch, version_policy=Specific(frozenset({1, 3})))


@pytest.mark.parametrize(
    ("groups", "instances", "gpus", "device"),
    [
        ([{"kind": "KIND_AUTO", "count": 1, "gpus": [], "name": "m", "passive": False}], 1, (), "auto"),
        ([{"count": 3}], 3, (), "auto"),
        ([{"kind": "KIND_CPU", "count": "2"}, {"kind": "KIND_CPU"}], 3, (), "cpu"),
        ([{"kind": "KIND_GPU", "count": 2, "gpus": [0, 1]}], 4, (0, 1), "cuda"),
        ([{"kind": "KIND_GPU"}], 1, (), "cuda"),
        ([{"count": 5, "passive": True}], 1, (), "auto"),
        ([], 1, (), "auto"),
    ],
)
def test_an_instance_group_is_instances(groups, instances, gpus, device):
    got = overridden(M, json.dumps({"instance_group": groups}))
    assert got == replace(M, instances=instances, gpus=gpus, device=device)
    config = (got.name, "onnx", SIGNATURE, {}, 8, {}, got.instances, got.gpus)
    told = model_config(*config)["instance_group"]
    assert overridden(M, json.dumps({"instance_group": told})) == replace(got, device="cuda" if gpus else "auto")


def test_sizes_that_are_allowed_end_with_the_largest():
    model = replace(M, batch=BatchPolicy(max_batch_size=8, allowed_batch_sizes=(2, 4, 8)))
    assert overridden(model, '{"max_batch_size": 5}').batch.allowed_batch_sizes == (2, 4, 5)
    assert overridden(model, '{"max_batch_size": 0}') == replace(model, batchable=False)
    assert overridden(replace(model, batchable=False), '{"max_batch_size": 8}') == model


def test_cuda_graphs_want_sizes_and_other_optimizations_are_named(caplog):
    model = overridden(M, '{"optimization": {"cuda": {"graphs": true}}, "max_batch_size": 12}')
    assert (model.cuda_graphs, model.batch.allowed_batch_sizes) == (True, (1, 2, 4, 8, 12))
    said = replace(M, batch=BatchPolicy(max_batch_size=8, allowed_batch_sizes=(3, 8)))
    assert overridden(said, '{"optimization": {"cuda": {"graphs": true}}}') == replace(said, cuda_graphs=True)
    assert overridden(replace(M, cuda_graphs=True), '{"optimization": {"cuda": {"graphs": false}}}') == M
    assert caplog.text == ""
    told = {"cuda": {"busy_wait_events": True}, "execution_accelerators": {"gpu": []}, "eager_batching": False}
    assert overridden(replace(M, cuda_graphs=True), json.dumps({"optimization": told})).cuda_graphs
    assert [record.getMessage() for record in caplog.records] == [
        f'model m: "optimization.{name}" of its configuration changes nothing here'
        for name in ("execution_accelerators", "cuda.busy_wait_events")
    ]


@pytest.mark.parametrize("policy", [Latest(1), Latest(3), All(), Specific(frozenset({2, 5}))])
def test_a_version_policy_comes_back(policy):
    assert overridden(M, json.dumps({"version_policy": policy_told(policy)})).version_policy == policy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"sequence_batching": {}}', '"sequence_batching" cannot be set here'),
        ('{"max_batch_size": -1}', '"max_batch_size" must be a whole number'),
        ('{"max_batch_size": 1.5}', '"max_batch_size" must be a whole number'),
        ('{"max_batch_size": true}', '"max_batch_size" must be a whole number'),
        ('{"dynamic_batching": []}', '"dynamic_batching" must be an object'),
        ('{"dynamic_batching": {"max_queue_delay_microseconds": "soon"}}', "must be a whole number"),
        ('{"version_policy": {"latest": {"num_versions": 0}}}', "must be 1 or more"),
        ('{"version_policy": {"specific": {"versions": []}}}', '"version_policy" must be'),
        ('{"version_policy": "all"}', '"version_policy" must be'),
        ('{"instance_group": {"count": 2}}', '"instance_group" must be a list of objects'),
        ('{"optimization": []}', '"optimization" must be an object, such as'),
        ('{"optimization": {"cuda": {"graphs": 1}}}', '"optimization" must be an object, such as'),
        ('{"instance_group": [{"kind": "KIND_TPU"}]}', '"kind" must be one of KIND_AUTO, KIND_CPU'),
        ('{"instance_group": [{"kind": "KIND_CPU", "gpus": [0]}]}', "KIND_CPU has none"),
        ('{"instance_group": [{"kind": "KIND_CPU"}, {"kind": "KIND_GPU"}]}', "on CPU and GPU"),
        ('{"instance_group": [{"count": 1000}]}', "has 1000 instances, 256 at most"),
    ],
)
def test_a_wrong_override_is_named(text, told):
    with pytest.raises(InvalidRequest) as caught:
        overridden(M, text)
    assert told in str(caught.value)


# --- a real server's models -----------------------------------------------------------------------------------------


def test_a_load_goes_on_when_its_client_has_gone():
    server = FakeServer(M, N)
    server.broken = {"m": "it is broken"}
    repository = server.repository()
    gate = asyncio.Event()
    apply = server.apply

    async def gated(models):
        await gate.wait()
        return await apply(models)

    async def main():
        server.models = (N,)
        server.apply = gated
        loading = asyncio.create_task(repository.load("m"))
        await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        gate.set()
        # Another change waits for it; by then it has put back what was served before.
        await repository.unload("n")
        assert server.models == ()
        assert states(repository)["m"] == (None, "UNAVAILABLE", "it is broken")

    asyncio.run(main())


def test_versions_come_by_loading_where_nothing_is_watched(tmp_path):
    write_linear(tmp_path / "m" / "1")

    async def main():
        argv = [f"--model_base_path={tmp_path / 'm'}", "--model_name=m", "--port=0", "--host=127.0.0.1"]
        argv += ["--reload_models=false", "--model_control=explicit"]
        server = Server(config.from_environment(argv, prog="test", positional=False, defaults={}))
        await server.start()
        try:
            repository = server.context.repository
            write_linear(tmp_path / "m" / "2", scale=3.0)
            await repository.load("m")
            assert server.registry.serving() == {"m": (2,)}
            await repository.load("m", '{"version_policy": {"all": {}}, "max_batch_size": 3}')
            await server.manager.settled()  # it returns as soon as one version serves
            assert server.registry.serving() == {"m": (1, 2)}
            assert server.models[0].batch.max_batch_size == 3
            with pytest.raises(InvalidRequest, match="failed to load 'm'"):
                await repository.load("m", '{"version_policy": {"specific": {"versions": [9]}}}')
            await server.manager.settled()
            assert server.registry.serving() == {"m": (1, 2)}
            await repository.unload("m")
            assert server.registry.serving() == {}
            assert [(e.version, e.state, e.reason) for e in repository.index()] == [
                (1, "UNAVAILABLE", "unloaded"),
                (2, "UNAVAILABLE", "unloaded"),
            ]
        finally:
            await server.stop_listening()
            await server.free()

    asyncio.run(main())
