"""Changing the set of models of a running manager, on fakes. No test waits for time to pass."""

import asyncio

import pytest

from stfs.errors import ConfigError, ModelNotFound, Unavailable
from stfs.lifecycle.policy import All, Latest, Specific
from stfs.lifecycle.record import ModelSpec


def spec(b, name="m", policy=None, **more):
    return ModelSpec(name, b.source, policy or Latest(), **more)


def test_models_are_added_and_removed(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        assert await b.manager.apply([spec(b), spec(b, "other")]) == {}
        assert b.registry.serving() == {"m": (1,), "other": (1,)}
        assert b.load.begun == [1, 1], "what was loaded stays loaded"
        assert await b.manager.apply([spec(b, "other")]) == {}
        await b.manager.settled()
        assert b.registry.serving() == {"other": (1,)}
        assert [status.name for status in b.manager.status()] == ["other"]
        with pytest.raises(ModelNotFound):
            b.registry.acquire("m")
        assert [model.closed for model in b.load.loaded] == [1, 0]
        await b.manager.stop()
        assert [model.closed for model in b.load.loaded] == [1, 1]

    asyncio.run(main())


def test_a_removed_model_finishes_its_requests(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        handle = b.registry.acquire("m")
        await b.manager.apply([])
        assert b.load.loaded[0].closed == 0
        handle.release()
        await b.manager.settled()
        assert b.load.loaded[0].closed == 1
        await b.manager.stop()

    asyncio.run(main())


def test_another_policy_loads_and_unloads_what_it_must(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good", v2="good", v3="good"), Latest())
        await b.start()
        assert b.serving() == (3,)
        await b.manager.apply([spec(b, policy=All())])
        assert b.serving() == (1, 2, 3), "loaded by the time that apply returns"
        assert sorted(b.load.begun) == [1, 2, 3]
        await b.manager.apply([spec(b, policy=Specific(frozenset({2})), labels={"stable": 2})])
        await b.manager.settled()
        assert b.serving() == (2,)
        assert sorted(b.load.begun) == [1, 2, 3]
        assert b.registry.version_of("m", "stable") == 2
        await b.manager.stop()

    asyncio.run(main())


def test_another_revision_loads_anew_while_the_old_one_drains(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        held = b.registry.acquire("m")
        await b.manager.apply([spec(b, revision="other settings")])
        assert b.serving() == (1,)
        with b.registry.acquire("m") as handle:
            assert handle.model is b.load.loaded[1]
        assert held.model is b.load.loaded[0]
        assert b.load.loaded[0].closed == 0
        held.release()
        await b.manager.settled()
        assert [model.closed for model in b.load.loaded] == [1, 0]
        assert b.serving() == (1,), "the end of the old one must not end the new one of the same number"
        await b.manager.stop()
        assert [model.closed for model in b.load.loaded] == [1, 1]

    asyncio.run(main())


def test_what_a_removed_model_was_loading_is_closed_unpublished(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        gate = b.load.gates[2] = asyncio.Event()
        b.source.put(2)
        await b.manager.poll_once()
        await b.manager.poll_once()
        await b.until(lambda: b.load.begun == [1, 2])
        await b.manager.apply([])
        gate.set()
        await b.manager.settled()
        assert [(model.version, model.closed) for model in b.load.loaded] == [(1, 1), (2, 1)]
        assert b.registry.serving() == {}
        await b.manager.stop()

    asyncio.run(main())


def test_failures_are_told_and_the_others_serve(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        bad = fake_source(v1="broken")
        b.load.raises[7] = ValueError("unused")
        failures = await b.manager.apply([spec(b), ModelSpec("bad", bad, Specific(frozenset({9})))])
        assert list(failures) == ["bad"]
        assert "asks for none of the versions" in failures["bad"]
        assert b.serving() == (1,)
        with pytest.raises(Unavailable, match="asks for none"):
            b.registry.acquire("bad")
        with pytest.raises(ConfigError, match='two models are named "m"'):
            await b.manager.apply([spec(b), spec(b)])
        assert b.serving() == (1,), "a refused change changes nothing"
        await b.manager.stop()

    asyncio.run(main())


def test_applies_take_turns_and_the_last_one_holds(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        sets = [["m", "a"], ["a"], ["b", "m"], ["c"]]
        await asyncio.gather(*(b.manager.apply([spec(b, name) for name in names]) for names in sets))
        await b.manager.settled()
        assert b.registry.serving() == {"c": (1,)}
        await b.manager.stop()
        assert all(model.closed == 1 for model in b.load.loaded)

    asyncio.run(main())


def test_stop_while_an_apply_loads(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        gate = b.load.gates[1] = asyncio.Event()
        applying = asyncio.create_task(b.manager.apply([spec(b), spec(b, "slow")]))
        await b.until(lambda: b.load.begun == [1, 1])
        stopping = asyncio.create_task(b.manager.stop())
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(applying, stopping)
        assert [model.closed for model in b.load.loaded] == [1, 1]
        assert b.registry.serving() == {}

    asyncio.run(main())


def test_a_model_that_comes_back_is_loaded_again(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        for _ in range(3):
            await b.manager.apply([])
            await b.manager.apply([spec(b)])
            assert b.serving() == (1,)
        await b.manager.stop()
        assert [model.closed for model in b.load.loaded] == [1, 1, 1, 1]

    asyncio.run(main())
