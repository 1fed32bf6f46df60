"""The table of published models: look-ups, messages, and who still holds what."""

import asyncio

import pytest

from stfs.errors import InvalidRequest, ModelNotFound, Unavailable, VersionNotFound
from stfs.lifecycle.registry import Registry


class FakeModel:
    async def close(self):
        pass


def two_versions():
    registry = Registry()
    old, new = FakeModel(), FakeModel()
    registry.publish("m", 10, new)
    registry.publish("m", 9, old)
    return registry, old, new


def test_acquire_takes_the_highest_or_the_named_version():
    registry, old, new = two_versions()
    with registry.acquire("m") as handle:
        assert (handle.name, handle.version, handle.model) == ("m", 10, new)
    with registry.acquire("m", 9) as handle:
        assert (handle.version, handle.model) == (9, old)


def test_what_is_not_there_is_told_with_what_is():
    registry, _, _ = two_versions()
    registry.publish("other", 1, FakeModel())
    registry.announce("coming", "version 1 is LOADING")
    told = r'"m" has no version 3; it serves: 9, 10 \(model_version_policy says which\)$'
    with pytest.raises(VersionNotFound, match=told):
        registry.acquire("m", 3)
    with pytest.raises(ModelNotFound, match=r'no model "x"; models here: "coming", "m", "other"$'):
        registry.acquire("x")
    with pytest.raises(ModelNotFound, match=r"models here: none$"):
        Registry().acquire("x", 1)
    for version in (None, 1):
        with pytest.raises(Unavailable, match=r'"coming" is not available: version 1 is LOADING$'):
            registry.acquire("coming", version)


def test_version_0_is_a_version():
    registry = Registry()
    registry.publish("m", 0, FakeModel())
    assert registry.acquire("m", 0).version == 0
    assert registry.acquire("m").version == 0


def test_withdrawing_the_highest_leaves_the_next():
    registry, _, _ = two_versions()
    registry.withdraw("m", 10)
    assert registry.acquire("m").version == 9
    assert registry.serving() == {"m": (9,)}
    registry.withdraw("m", 9)
    assert registry.serving() == {}
    registry.announce("m", "no version")
    with pytest.raises(Unavailable, match="no version"):
        registry.acquire("m")


def test_serving_lists_versions_ascending_and_is_a_copy():
    registry, _, _ = two_versions()
    registry.publish("a", 3, FakeModel())
    before = registry.serving()
    assert before == {"a": (3,), "m": (9, 10)}
    registry.withdraw("a", 3)
    assert before == {"a": (3,), "m": (9, 10)}


def test_misuse_is_refused():
    registry, _, _ = two_versions()
    with pytest.raises(ValueError, match="published already"):
        registry.publish("m", 9, FakeModel())
    with pytest.raises(KeyError):
        registry.withdraw("m", 1)


def test_release_is_idempotent():
    async def main():
        registry, _, _ = two_versions()
        one, two = registry.acquire("m"), registry.acquire("m")
        gone = registry.withdraw("m", 10)
        drained = asyncio.create_task(gone.drained())
        one.release()
        one.release()
        with one:
            pass
        await asyncio.sleep(0)
        assert not drained.done(), "the second handle is still out"
        two.release()
        await drained

    asyncio.run(main())


def test_drained_at_once_if_nobody_holds_it():
    async def main():
        registry, _, _ = two_versions()
        registry.acquire("m").release()
        gone = registry.withdraw("m", 10)
        async with asyncio.timeout(0):  # passes only if it never waits
            await gone.drained()
            await gone.drained()

    asyncio.run(main())


def test_drained_after_the_last_handle_was_released_before_the_wait():
    async def main():
        registry, _, _ = two_versions()
        handle = registry.acquire("m")
        gone = registry.withdraw("m", 10)
        handle.release()
        async with asyncio.timeout(0):
            await gone.drained()

    asyncio.run(main())


def test_a_handle_outlives_its_withdrawal_and_its_successor():
    async def main():
        registry, _, new = two_versions()
        handle = registry.acquire("m")
        gone = registry.withdraw("m", 10)
        again = FakeModel()
        registry.publish("m", 10, again)
        assert handle.model is new
        with registry.acquire("m") as other:
            assert other.model is again
        gone = registry.withdraw("m", 10)
        async with asyncio.timeout(0):  # nobody holds the successor; the first one's handle does not count
            await gone.drained()
        assert gone.held == 0
        handle.release()

    asyncio.run(main())


def test_two_withdrawn_versions_of_one_number_are_waited_for_apart():
    async def main():
        registry, _, _ = two_versions()
        handle = registry.acquire("m")
        first = registry.withdraw("m", 10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await first.drained()
        assert first.held == 1
        registry.publish("m", 10, FakeModel())
        late = registry.acquire("m")
        second = registry.withdraw("m", 10)
        handle.release()
        async with asyncio.timeout(0):
            await first.drained()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await second.drained()
        late.release()
        async with asyncio.timeout(0):
            await second.drained()

    asyncio.run(main())


def test_labels_stand_for_versions():
    registry, _, _ = two_versions()
    registry.label("m", {"stable": 9, "canary": 10})
    assert registry.version_of("m", "stable") == 9
    registry.label("m", {"stable": 10})
    assert registry.version_of("m", "stable") == 10
    with pytest.raises(InvalidRequest, match=r'Unrecognized servable version label: canary; .*"stable" \(version 10\)'):
        registry.version_of("m", "canary")
    with pytest.raises(ModelNotFound, match='no model "none"'):
        registry.version_of("none", "stable")


def test_a_forgotten_model_is_not_found():
    registry, _, _ = two_versions()
    registry.announce("m", "it is starting")
    registry.label("m", {"stable": 9})
    registry.withdraw("m", 9)
    registry.withdraw("m", 10)
    with pytest.raises(Unavailable, match="it is starting"):
        registry.acquire("m")
    registry.forget("m")
    with pytest.raises(ModelNotFound):
        registry.acquire("m")
    assert registry.labels("m") == {}


def test_a_handle_is_released_when_the_request_raises():
    async def main():
        registry, _, _ = two_versions()
        with pytest.raises(RuntimeError, match="bad"), registry.acquire("m"):
            raise RuntimeError("bad")
        gone = registry.withdraw("m", 10)
        async with asyncio.timeout(0):
            await gone.drained()

    asyncio.run(main())
