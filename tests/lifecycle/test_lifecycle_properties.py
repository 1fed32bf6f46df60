"""Whatever happens on disk and in requests, in any order: nothing held is closed, nothing good lost, nothing leaks."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from stfs.lifecycle.policy import All, Latest, Specific, State, wanted

VERSIONS = st.integers(1, 4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), VERSIONS, st.sampled_from(["good", "good", "bad"])),
        st.tuples(st.just("vanish"), VERSIONS),
        st.tuples(st.just("away"), st.booleans()),
        st.tuples(st.just("flaky"), VERSIONS, st.booleans()),
        st.tuples(st.just("gate"), VERSIONS),
        st.tuples(st.just("open")),
        st.tuples(st.just("poll")),
        st.tuples(st.just("poll")),
        st.tuples(st.just("turn"), st.integers(1, 8)),
        st.tuples(st.just("tick"), st.sampled_from([0.5, 1.0, 5.0])),
        st.tuples(st.just("acquire"), st.none() | VERSIONS),
        st.tuples(st.just("release"), st.integers(0, 9)),
    ),
    max_size=40,
)
POLICIES = st.sampled_from([Latest(), Latest(2), All(), Specific(frozenset({1, 3}))])
START = st.dictionaries(VERSIONS, st.sampled_from(["good", "bad"]))


class World:
    """A bench with the invariants that must hold at every moment."""

    def __init__(self, bench, source, policy):
        self.b = bench(source, policy, max_load_retries=2)
        self.policy = policy
        self.handles = []
        self.seen = {}  # on disk at the last poll that could read it
        self.b.on_change.append(self.check_change)
        self.b.on_change.append(lambda version, state: self.check_handles())
        poll = source.poll

        def watched(last_good):
            result = poll(last_good)
            if not result.transient:
                self.seen = dict(source.disk)
            return result

        source.poll = watched

    def check_change(self, version, state):
        stopping = self.b.manager._stopping
        if state is State.UNLOADING and not self.b.serving() and not stopping:
            allowed = self.policy.versions if isinstance(self.policy, Specific) else set(self.seen)
            assert not allowed & set(self.seen), "the last one serving went while others were on disk"
        if state is State.AVAILABLE:
            assert version in self.b.serving()

    def check_handles(self):
        assert all(not handle.model.closed for handle in self.handles), "a model was closed under a request"

    async def step(self, name, *args):
        b = self.b
        match name:
            case "put":
                b.source.put(*args)
            case "vanish":
                b.source.disk.pop(args[0], None)
            case "away":
                b.source.away = args[0]
            case "flaky":
                version, fails = args
                b.load.raises.pop(version, None)
                if fails:
                    b.load.raises[version] = OSError("flaky")
            case "gate":
                b.load.gates.setdefault(args[0], asyncio.Event())
            case "open":
                self.open_gates()
            case "poll":
                await b.manager.poll_once()
            case "turn":
                for _ in range(args[0]):
                    await asyncio.sleep(0)
            case "tick":
                b.clock.now += args[0]
            case "acquire":
                if args[0] in (None, *b.serving()) and b.serving():
                    handle = b.registry.acquire("m", args[0])
                    assert handle.version == (args[0] or max(b.serving()))
                    self.handles.append(handle)
            case "release":
                if self.handles:
                    self.handles.pop(args[0] % len(self.handles)).release()
        self.check_handles()

    def open_gates(self):
        for gate in self.b.load.gates.values():
            gate.set()
        self.b.load.gates.clear()

    async def come_to_rest(self):
        """The disk is readable and still, loads fail only where the files are bad, requests end, time passes."""
        self.b.source.away = False
        self.b.load.raises.clear()
        while self.handles:
            self.handles.pop().release()
        self.open_gates()
        await self.b.poll(2)
        for version in self.b.errors().keys() & self.b.source.disk.keys():
            self.b.source.put(version, self.b.source.disk[version][0])  # its retries may be spent: copied again
        for _ in range(8):
            await self.b.poll()
            self.b.clock.now += 100.0

    def check_rest(self):
        serving = set(self.b.serving())
        disk = self.b.source.disk
        # Loaded while it was good counts as good: what happens to its files later does not reach it.
        usable = [version for version, (text, _) in disk.items() if text == "good" or version in serving]
        if usable := wanted(self.policy, usable):
            assert serving == usable
        elif wanted(self.policy, disk):  # broken ones only: what has gone from disk may serve until one is mended
            assert serving.isdisjoint(disk)
        else:
            assert not serving
        states = self.b.states()
        assert {v for v, state in states.items() if state == "AVAILABLE"} == serving
        assert not {"LOADING", "UNLOADING"} & set(states.values())


@settings(max_examples=300, deadline=None)
@given(start=START, policy=POLICIES, steps=STEPS)
def test_any_sequence(start, policy, steps, bench, fake_source):
    async def main():
        source = fake_source(**{f"v{version}": text for version, text in start.items()})
        world = World(bench, source, policy)
        failures = await world.b.start()
        assert bool(failures) == (not world.b.serving())
        for step in steps:
            await world.step(*step)
        await world.come_to_rest()
        world.check_rest()
        closed_early = [m for m in world.b.load.loaded if m.closed > 1]
        assert not closed_early
        await world.b.manager.stop()
        assert [m.closed for m in world.b.load.loaded] == [1] * len(world.b.load.loaded)
        assert not world.b.registry.serving()

    asyncio.run(main())


@settings(max_examples=150, deadline=None)
@given(start=START, policy=POLICIES, steps=STEPS)
def test_stopping_in_the_middle(start, policy, steps, bench, fake_source):
    async def main():
        source = fake_source(**{f"v{version}": text for version, text in start.items()})
        world = World(bench, source, policy)
        await world.b.start()
        for step in steps:
            await world.step(*step)
        stopping = asyncio.create_task(world.b.manager.stop())
        await asyncio.sleep(0)
        assert not world.b.registry.serving(), "no new request is let in"
        world.check_handles()
        world.open_gates()
        while world.handles:
            world.handles.pop().release()
            await asyncio.sleep(0)
            world.check_handles()
        await stopping
        assert [m.closed for m in world.b.load.loaded] == [1] * len(world.b.load.loaded)

    asyncio.run(main())
