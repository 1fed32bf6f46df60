"""The main process's registry and a front's copy of it, joined by the messages that they would say."""

import asyncio
import json
import logging

import numpy as np
import pytest
from front_pair import FLOATS, Pair
from waiting import until

from stfs.calibration.result import Calibration
from stfs.config import ModelConfig
from stfs.errors import ModelNotFound, Unavailable, VersionNotFound
from stfs.front.engine import Desk
from stfs.front.remote import Engine, remote_model
from stfs.front.table import Mirror, Replicas, Told, WatchedRegistry
from stfs.model import Model


class Both:
    """A registry, a front's copy, and what the front has released."""

    def __init__(self, engine="shared", replicate=None):
        self.registry = WatchedRegistry()
        self.desk = Desk()
        self.numbers: dict[Model, int] = {}
        number_of = lambda model: self.numbers.setdefault(model, len(self.numbers) + 1)  # noqa: E731
        self.told = Told(self.registry, self.desk, number_of, Replicas(engine).wants)
        self.released: list[int] = []
        self.mirror = Mirror(lambda message: remote_model(Engine(), message), replicate, self._release)
        self.changes = 0
        self.registry.on_change = self._changed

    def _changed(self):
        self.changes += 1

    def _release(self, number):
        self.released.append(number)
        self.desk.let_go(number)

    def tell(self, *names, **config):
        configured = [ModelConfig(name, base_path=None, **config) for name in names]
        self.mirror.take(json.loads(json.dumps(self.told.message(configured))))


def model(pair, version):
    return Model("model", version, pair.model._servable, {"serving_default": FLOATS}, {}, pair.model.path)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


def test_what_is_published_withdrawn_labelled_and_forgotten():
    async def work():
        async with Pair() as pair:
            both = Both()
            both.registry.announce("model", "it is starting")
            both.tell("model")
            with pytest.raises(Unavailable, match="it is starting"):
                both.mirror.registry.acquire("model")
            for version in (1, 2):
                both.registry.publish("model", version, model(pair, version))
            both.registry.label("model", {"stable": 1})
            both.tell("model")
            assert both.mirror.configured == ("model",)
            assert both.mirror.registry.serving() == {"model": (1, 2)}
            assert both.mirror.registry.version_of("model", "stable") == 1
            handle = both.mirror.registry.acquire("model", 1)
            assert handle.model.signature(None) == FLOATS
            withdrawn = both.registry.withdraw("model", 1)
            both.tell("model")
            with pytest.raises(VersionNotFound):
                both.mirror.registry.acquire("model", 1)
            await settle()
            assert (both.released, withdrawn.held) == ([], 1)  # a request of the front holds it, and so does the front
            handle.release()
            await until(lambda: both.released)
            assert (both.released, withdrawn.held) == ([1], 0)
            both.registry.withdraw("model", 2)
            both.registry.forget("model")
            both.tell()
            with pytest.raises(ModelNotFound):
                both.mirror.registry.acquire("model")

    asyncio.run(work())


def test_changes_are_told_and_what_is_no_change_is_not():
    async def work():
        async with Pair() as pair:
            both = Both()
            both.registry.announce("model", "why")
            both.registry.publish("model", 1, model(pair, 1))
            both.registry.label("model", {"a": 1})
            assert both.changes == 3
            both.registry.announce("model", "why")
            both.registry.label("model", {"a": 1})
            assert both.changes == 3

    asyncio.run(work())


def test_a_version_that_is_replaced_under_its_number():
    async def work():
        async with Pair() as pair:
            both = Both()
            both.registry.publish("model", 1, model(pair, 1))
            both.tell("model")
            old = both.mirror.registry.acquire("model")
            both.registry.withdraw("model", 1)
            both.registry.publish("model", 1, model(pair, 1))
            both.tell("model")
            new = both.mirror.registry.acquire("model")
            assert new.model is not old.model
            old.release()
            await until(lambda: both.released)
            assert both.released == [1]
            new.release()

    asyncio.run(work())


def test_a_replica_takes_over_when_it_is_loaded_and_is_closed_before_the_version_is_let_go():
    async def work():
        async with Pair() as pair:
            go_on = asyncio.Event()

            async def replicate(message):
                await go_on.wait()
                return pair.model

            both = Both("replicated", replicate)
            both.registry.publish("model", 1, model(pair, 1))
            both.tell("model")
            with both.mirror.registry.acquire("model") as handle:
                assert handle.model is not pair.model
                go_on.set()
                await both.mirror.settled()
            with both.mirror.registry.acquire("model") as local:
                assert local.model is pair.model
                outputs = await local.model.infer(FLOATS, {"x": np.ones((1, 2), np.float32)}, None)
                assert outputs["y"].tolist() == [[2, 2]]
                both.registry.withdraw("model", 1)
                both.tell("model")
                await settle()
                assert both.released == []
            await until(lambda: both.released)
            assert both.released == [1]
            with pytest.raises(Unavailable):
                await pair.model.infer(FLOATS, {"x": np.ones((1, 2), np.float32)}, None)

    asyncio.run(work())


def test_a_replica_that_does_not_load_leaves_the_model_where_it_is(caplog):
    async def replicate(message):
        raise RuntimeError("no memory")

    async def work():
        async with Pair() as pair:
            both = Both("replicated", replicate)
            both.registry.publish("model", 1, model(pair, 1))
            both.tell("model")
            await both.mirror.settled()
            assert both.mirror.registry.serving() == {"model": (1,)}

    with caplog.at_level(logging.WARNING):
        asyncio.run(work())
    assert 'model "model" version 1 stays with the main process, for it does not load here: no memory' in caplog.text


def test_what_fronts_load_is_decided_once_for_each_model_that_is_loaded():
    async def work():
        async with Pair() as pair:
            registry, replicas = WatchedRegistry(), Replicas("auto")
            calibrations = {"serving_default": Calibration(times=((1, 1e-4),), alpha_s=1e-4, beta_s=1e-6)}
            small = model(pair, 1)
            small.calibrations = calibrations
            registry.publish("model", 1, small)
            config = ModelConfig("model", base_path=pair.model.path)

            def told():
                """What a front that is started now is told of the model."""
                (new,) = Told(registry, Desk(), lambda _: 1, replicas.wants).message([config])["new"]
                return new["replica"] is not None

            assert told()
            calibrations["serving_default"] = Calibration(times=((1, 5.0),), alpha_s=5.0, beta_s=1e-6)
            assert told()  # as all others do
            registry.withdraw("model", 1)
            again = model(pair, 1)
            again.calibrations = calibrations
            registry.publish("model", 1, again)
            assert not told()  # it was loaded anew, and timed

    asyncio.run(work())
