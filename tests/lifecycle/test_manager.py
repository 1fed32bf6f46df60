"""The manager on fake sources and loaders: order, failures, draining and stopping. No test waits for time to pass."""

import asyncio
import logging
from pathlib import Path

import pytest

from stfs.errors import ConfigError, PlatformMissing, Unavailable, VersionNotFound
from stfs.lifecycle.manager import Manager
from stfs.lifecycle.policy import All, Latest, Specific, State
from stfs.lifecycle.record import ENDED_KEPT, ModelSpec
from stfs.lifecycle.registry import Registry
from stfs.lifecycle.source import FolderSource


def test_start_loads_the_newest_and_stop_closes_it(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good", v2="good"), Latest())
        assert await b.start() == {}
        assert b.serving() == (2,)
        assert b.states() == {2: "AVAILABLE"}
        await b.manager.stop()
        await b.manager.stop()
        assert b.changes == ["2 LOADING", "2 AVAILABLE", "2 UNLOADING", "2 END"]
        assert [m.closed for m in b.load.loaded] == [1]
        with pytest.raises(Unavailable, match="the server is stopping"):
            b.registry.acquire("m")

    asyncio.run(main())


def test_a_swap_never_leaves_a_gap(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        b.on_change.append(lambda version, state: state is State.LOADING or b.serving() or pytest.fail("a gap"))
        await b.start()
        b.source.put(2)
        await b.poll()
        assert b.load.begun == [1], "seen once: may still be being written"
        await b.poll()
        assert b.serving() == (2,)
        assert b.changes == ["1 LOADING", "1 AVAILABLE", "2 LOADING", "2 AVAILABLE", "1 UNLOADING", "1 END"]
        assert b.load.loaded[0].closed == 1
        b.on_change.clear()
        await b.manager.stop()

    asyncio.run(main())


def test_a_growing_version_waits_until_it_rests(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        for _ in range(5):
            b.source.put(2)
            await b.poll()
            assert b.load.begun == [1]
        await b.poll()
        assert b.load.begun == [1, 2]
        await b.manager.stop()

    asyncio.run(main())


def test_the_old_version_is_closed_after_its_last_request(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        handle = b.registry.acquire("m")
        b.source.put(2)
        await b.manager.poll_once()
        await b.manager.poll_once()
        await b.until(lambda: b.serving() == (2,))
        assert b.states() == {2: "AVAILABLE", 1: "UNLOADING"}
        assert handle.model.closed == 0
        handle.release()
        await b.manager.settled()
        assert handle.model.closed == 1
        assert b.states() == {2: "AVAILABLE", 1: "END"}
        await b.manager.stop()

    asyncio.run(main())


def test_a_request_that_never_ends_is_not_waited_for_forever(bench, fake_source, caplog):
    async def main():
        b = bench(fake_source(v1="good"), Latest(), drain_timeout_s=0.0)
        await b.start()
        handle = b.registry.acquire("m")
        b.source.put(2)
        with caplog.at_level(logging.WARNING):
            await b.poll(2)
        assert handle.model.closed == 1
        assert 'model "m" version 1: closing with 1 requests unfinished' in caplog.text
        handle.release()
        await b.manager.stop()
        assert caplog.text.count("unfinished") == 1, "nobody held version 2: no warning"
        assert [m.closed for m in b.load.loaded] == [1, 1]

    asyncio.run(main())


def test_a_broken_newest_at_start_falls_back(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good", v2="bad", v3="worse"), Latest())
        assert await b.start() == {}
        assert b.load.begun == [3, 2, 1]
        assert b.serving() == (1,)
        assert b.errors() == {3: "/models/m/3 does not load: worse", 2: "/models/m/2 does not load: bad"}
        b.source.put(3)
        await b.poll()
        assert b.serving() == (1,)
        await b.poll()
        assert b.serving() == (3,)
        await b.manager.stop()

    asyncio.run(main())


def test_a_broken_newest_leaves_the_older_one_serving(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        b.source.put(2, "bad")
        await b.poll(2)
        assert b.serving() == (1,)
        assert b.states() == {2: "END", 1: "AVAILABLE"}
        with pytest.raises(VersionNotFound, match="it serves: 1"):
            b.registry.acquire("m", 2)
        await b.manager.stop()

    asyncio.run(main())


def test_failed_loads_are_tried_again_with_growing_delays(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="bad"), Latest(), max_load_retries=3)
        assert await b.start() == {"m": "version 1 failed: /models/m/1 does not load: bad"}
        tries = []
        for _ in range(40):
            await b.poll()
            tries.append(len(b.load.begun))
            b.clock.now += 0.5
        at = [tries.index(n) * 0.5 for n in (2, 3, 4)]
        assert at == [1.0, 3.0, 7.0], "1 s, then 2 s, then 4 s"
        assert tries[-1] == 4
        b.source.put(1, "still bad")
        await b.poll(2)
        assert len(b.load.begun) == 5, "changed files start a new count"
        b.clock.now += 1.0
        await b.poll()
        assert len(b.load.begun) == 6
        await b.manager.stop()

    asyncio.run(main())


def test_a_retry_comes_without_watching_too(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="bad"), Latest())
        now = asyncio.get_running_loop().time
        b.manager._clock = lambda: now() * 1e6  # a clock so fast that the retry is due at once

        def mend(version, state):  # as a lost connection that comes back: no file has changed
            if state is State.END:
                b.source.disk[1] = ("good", 0)

        b.on_change.append(mend)
        await b.start()
        await b.until(lambda: b.serving() == (1,))
        assert b.source.polls == 1
        await b.manager.stop()

    asyncio.run(main())


def test_failures_are_forgiven_by_a_success(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest(), max_load_retries=1)
        b.load.raises[1] = OSError("the network is slow")
        await b.start()
        b.load.raises.clear()
        b.clock.now += 1.0
        await b.poll()
        assert b.serving() == (1,)
        b.source.put(2)
        await b.poll(2)
        assert b.serving() == (2,)
        del b.source.disk[2]
        await b.poll()
        assert b.serving() == (1,), "it comes back as one that never failed"
        await b.manager.stop()

    asyncio.run(main())


def test_no_retries_if_none_are_allowed(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="bad"), Latest(), max_load_retries=0)
        await b.start()
        b.clock.now += 1e9
        await b.poll(3)
        assert len(b.load.begun) == 1
        await b.manager.stop()

    asyncio.run(main())


def test_removed_versions(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good", v2="good"), Latest())
        await b.start()
        del b.source.disk[2]
        await b.poll()
        assert b.serving() == (1,)
        assert b.changes[2:] == ["1 LOADING", "1 AVAILABLE", "2 UNLOADING", "2 END"]
        del b.source.disk[1]
        await b.poll()
        assert b.serving() == ()
        with pytest.raises(Unavailable, match="nothing there"):
            b.registry.acquire("m")
        b.source.put(1)
        await b.poll(2)
        assert b.serving() == (1,)
        await b.manager.stop()

    asyncio.run(main())


def test_a_lost_mount_unloads_nothing(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good", v2="bad"), Latest(), max_load_retries=0)
        await b.start()
        b.source.away = True
        await b.poll(3)
        assert b.serving() == (1,)
        assert b.manager.status()[0].problem == "the mount is away"
        assert b.source.last_good is not None
        assert set(b.source.last_good.found) == {1, 2}, "the last poll that could read it, not the last one"
        b.source.away = False
        await b.poll(3)
        assert b.serving() == (1,)
        assert b.load.begun == [2, 1], "the same broken files are not tried again"
        assert b.manager.status()[0].problem is None
        await b.manager.stop()

    asyncio.run(main())


def test_a_source_that_raises_is_a_lost_mount(bench, fake_source, caplog):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        poll = b.source.poll

        def raising(last_good):
            raise RuntimeError("no such bucket")

        b.source.poll = raising
        await b.poll(2)
        assert b.serving() == (1,)
        assert b.manager.status()[0].problem == "looking for versions failed: RuntimeError: no such bucket"
        assert caplog.text.count("no such bucket") == 1, "told once, not at each poll"
        b.source.poll = poll
        await b.manager.stop()

    asyncio.run(main())


def test_all_and_specific(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good", v2="bad", v3="good"), All())
        assert await b.start() == {}
        await b.manager.settled()
        assert b.serving() == (1, 3)
        await b.manager.stop()

        b = bench(fake_source(v1="good", v2="good"), Specific(frozenset({3})))
        reason = "the version policy asks for none of the versions on disk: 1, 2"
        assert await b.start() == {"m": reason}
        b.source.put(3)
        await b.poll(2)
        assert b.serving() == (3,)
        await b.manager.stop()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PlatformMissing("onnx", "onnx"), 'platform onnx is not installed: run pip install "stfs[onnx]"'),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (SystemExit(3), "SystemExit: 3"),
        (asyncio.CancelledError("inner"), "CancelledError: inner"),
    ],
)
def test_what_a_load_raises_is_told(bench, fake_source, caplog, error, told):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        b.load.raises[1] = error
        with caplog.at_level(logging.INFO):
            assert await b.start() == {"m": f"version 1 failed: {told}"}
        assert b.errors() == {1: told}
        assert [r.getMessage() for r in caplog.records] == [
            'model "m" version 1: LOADING',
            f'model "m" version 1: END: {told}',
        ], "one line for each change, no traceback"
        await b.manager.stop()

    asyncio.run(main())


def test_tracebacks_of_the_unexpected_only_when_debugging(bench, fake_source, caplog):
    async def main():
        b = bench(fake_source(v1="good", v2="bad"), Latest())
        b.load.raises[1] = ZeroDivisionError("x")
        with caplog.at_level(logging.DEBUG, "stfs"):
            await b.start()
        assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError]
        await b.manager.stop()

    asyncio.run(main())


def test_a_close_that_fails_is_told_and_does_not_stop_the_rest(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()

        async def close():
            raise OSError("busy")

        b.load.loaded[0].close = close
        b.source.put(2)
        await b.poll(2)
        assert b.errors() == {1: "closing failed: OSError: busy"}
        assert b.serving() == (2,)
        await b.manager.stop()

    asyncio.run(main())


def test_a_listener_that_fails_does_no_harm(bench, fake_source, caplog):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        b.on_change.append(lambda version, state: 1 // 0)
        assert await b.start() == {}
        assert b.serving() == (1,)
        await b.manager.stop()

    asyncio.run(main())
    assert "on_change failed" in caplog.text


def test_stop_awaits_a_load_and_closes_what_it_made(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        gate = b.load.gates[1] = asyncio.Event()
        starting = asyncio.create_task(b.start())
        await b.until(lambda: b.load.begun)
        stopping = asyncio.create_task(b.manager.stop())
        assert await starting == {"m": "version 1 is LOADING"}
        assert not stopping.done()
        gate.set()
        await stopping
        assert [m.closed for m in b.load.loaded] == [1]
        assert b.changes == ["1 LOADING", "1 END"], "never published"

    asyncio.run(main())


def test_stop_after_a_cancelled_start(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        gate = b.load.gates[1] = asyncio.Event()
        starting = asyncio.create_task(b.start())
        await b.until(lambda: b.load.begun)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        gate.set()
        await b.manager.stop()
        assert [m.closed for m in b.load.loaded] == [1]

    asyncio.run(main())


def test_a_loop_that_ends_without_stop_begins_nothing_more(bench, fake_source):
    held = []

    async def main():
        b = bench(fake_source(v1="good", v2="good"), Latest())
        held.append(b)
        b.load.gates[2] = asyncio.Event()
        starting = asyncio.create_task(b.start())
        await b.until(lambda: b.load.begun)
        assert not starting.done()

    asyncio.run(main())
    assert held[0].load.begun == [2], "a load that is cancelled has not failed: no fallback"
    assert held[0].changes == ["2 LOADING"]


def test_stop_before_start_and_without_models(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.manager.stop()
        await b.manager.poll_once()
        assert b.source.polls == 0

    asyncio.run(main())


def test_loads_that_wait_for_a_slot_are_not_begun_after_stop(bench, fake_source, monkeypatch):
    async def main():
        monkeypatch.setattr("stfs.lifecycle.manager.MAX_CONCURRENT_LOADS", 1)
        b = bench(fake_source(v1="good"), Latest())
        gate = b.load.gates[1] = asyncio.Event()
        specs = [ModelSpec(name, b.source) for name in ("a", "b", "c")]
        starting = asyncio.create_task(b.manager.start(specs))
        await b.until(lambda: b.changes.count("1 LOADING") == 3)
        stopping = asyncio.create_task(b.manager.stop())
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(starting, stopping)
        assert len(b.load.begun) == 1
        assert [m.closed for m in b.load.loaded] == [1]
        assert all(v.state is State.END for m in b.manager.status() for v in m.versions)

    asyncio.run(main())


def test_a_slow_load_blocks_neither_start_of_others_nor_their_polling(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        gate = b.load.gates[7] = asyncio.Event()
        slow, quick = fake_source(), fake_source(v1="good")
        b.source.disk.update({7: ("good", 0), 2: ("good", 0)})
        slow.put(7)
        starting = asyncio.create_task(b.manager.start([ModelSpec("slow", slow), ModelSpec("quick", quick)]))
        await b.until(lambda: b.registry.serving() == {"quick": (1,)})
        quick.put(2)
        for _ in range(2):
            await b.manager.poll_once()
        await b.until(lambda: b.registry.serving() == {"quick": (2,)})
        assert not starting.done()
        gate.set()
        assert await starting == {}
        assert b.registry.serving() == {"quick": (2,), "slow": (7,)}
        await b.manager.stop()

    asyncio.run(main())


def test_start_returns_while_further_versions_load(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good", v2="good"), All())
        gate = b.load.gates[1] = asyncio.Event()
        assert await b.start() == {}
        assert b.serving() == (2,)
        gate.set()
        await b.manager.settled()
        assert b.serving() == (1, 2)
        await b.manager.stop()

    asyncio.run(main())


def test_watching_finds_a_new_version_by_itself(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest(), poll_interval_s=1e-4)
        swapped = asyncio.Event()
        b.on_change.append(lambda version, state: version == 1 and state is State.END and swapped.set())
        await b.start()
        b.source.put(2)
        await swapped.wait()
        assert b.serving() == (2,)
        await b.manager.stop()

    asyncio.run(main())


def test_status_tells_times_paths_and_the_last_few_ended(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        await b.start()
        for version in range(2, 20):
            del b.source.disk[version - 1]
            b.source.put(version)
            b.clock.now += 1.0
            await b.poll(2)
        b.clock.now += 2.5
        (model,) = b.manager.status()
        assert (model.name, model.base_path) == ("m", Path("/models/m"))
        assert [v.version for v in model.versions] == list(range(19, 19 - ENDED_KEPT - 1, -1))
        assert model.versions[0].state is State.AVAILABLE
        assert model.versions[0].since_s == 2.5
        assert model.versions[0].path == Path("/models/m/19")
        assert {v.state for v in model.versions[1:]} == {State.END}
        await b.poll()
        assert len(b.manager._models["m"].record.versions) == ENDED_KEPT + 1, "nothing piles up"
        await b.manager.stop()

    asyncio.run(main())


def test_a_wanted_version_that_failed_is_always_shown(bench, fake_source):
    async def main():
        versions = {f"v{n}": "bad" for n in range(1, 3 * ENDED_KEPT)}
        b = bench(fake_source(**versions), All(), max_load_retries=0)
        await b.start()
        assert len(b.errors()) == len(versions)
        await b.manager.stop()

    asyncio.run(main())


def test_names_are_unique_and_managers_are_used_once(bench, fake_source):
    async def main():
        b = bench(fake_source(v1="good"), Latest())
        with pytest.raises(ConfigError, match='two models are named "m"'):
            await b.manager.start([ModelSpec("m", b.source), ModelSpec("m", b.source)])
        await b.start()
        with pytest.raises(RuntimeError, match="once"):
            await b.start()
        await b.manager.stop()

    asyncio.run(main())


class TextModel:
    def __init__(self, text):
        self.text = text

    async def close(self):
        self.text = None


def test_real_files(tmp_path):
    """A real folder, a loader that reads it on a thread, and requests through the registry."""

    async def load(name, version, path):
        return TextModel(await asyncio.to_thread((path / "model.txt").read_text))

    def put(version, text):
        (tmp_path / version).mkdir(exist_ok=True)
        (tmp_path / version / "model.txt").write_text(text)

    def ask():
        with registry.acquire("m") as handle:
            return handle.version, handle.model.text

    registry = Registry()

    async def main():
        manager = Manager(load, registry, poll_interval_s=0, drain_timeout_s=3600, max_load_retries=1)
        put("1", "one")
        (tmp_path / "2").mkdir()
        assert await manager.start([ModelSpec("m", FolderSource(tmp_path, lambda path: False))]) == {}
        assert ask() == (1, "one")
        put("2", "two")
        await manager.poll_once()
        assert ask() == (1, "one")
        await manager.poll_once()
        await manager.settled()
        assert ask() == (2, "two")
        (tmp_path / "3").mkdir()
        (tmp_path / "3" / "other.txt").write_text("")
        for _ in range(2):
            await manager.poll_once()
            await manager.settled()
        assert ask() == (2, "two")
        (failed, *_) = manager.status()[0].versions
        assert failed.error.startswith("FileNotFoundError: ")
        put("3", "three")
        for _ in range(2):
            await manager.poll_once()
            await manager.settled()
        assert ask() == (3, "three")
        await manager.stop()

    asyncio.run(main())
