"""Parts that stand in for disks, frameworks and clocks; each keeps the contract of the real one."""

import asyncio
from pathlib import Path

import pytest

from stfs.errors import LoadFailed
from stfs.lifecycle.manager import Manager
from stfs.lifecycle.record import ModelSpec
from stfs.lifecycle.registry import Registry
from stfs.lifecycle.source import Fingerprint, Found, Poll

BASE = Path("/models/m")


class FakeSource:
    """A folder of versions: ``disk`` maps a version to what is written there; "good" loads, anything else fails."""

    base_path = BASE

    def __init__(self, **disk):
        self.disk = {int(name[1:]): (text, 0) for name, text in disk.items()}  # v1="good"
        self.away = False
        self.polls = 0
        self.last_good = None
        self.edits = 0

    def put(self, version, text="good"):
        self.edits += 1
        self.disk[version] = (text, self.edits)

    def poll(self, last_good=None):
        self.polls += 1
        self.last_good = last_good
        if self.away:
            return Poll({}, "the mount is away", transient=True)
        found = {v: Found(v, BASE / str(v), Fingerprint(1, 1, edit, edit)) for v, (_, edit) in self.disk.items()}
        return Poll(found, None if found else "nothing there")


class FakeModel:
    def __init__(self, version):
        self.version = version
        self.closed = 0

    async def close(self):
        await asyncio.sleep(0)
        self.closed += 1


class FakeLoader:
    """Reads a FakeSource. A version in ``gates`` waits there before it loads; ``raises`` overrides the failure."""

    def __init__(self, source):
        self.source = source
        self.gates = {}
        self.raises = {}
        self.begun = []
        self.loaded = []
        self.moved = asyncio.Event()

    async def __call__(self, name, version, path):
        self.begun.append(version)
        self.moved.set()
        text, _ = self.source.disk.get(version, ("gone", 0))
        if version in self.gates:
            await self.gates[version].wait()
        if version in self.raises:
            raise self.raises[version]
        if text != "good":
            raise LoadFailed(f"{path} does not load: {text}")
        model = FakeModel(version)
        self.loaded.append(model)
        return model


class FakeClock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Bench:
    """A manager on fakes, with a log of its changes of state."""

    def __init__(self, source, policy, *, drain_timeout_s=3600.0, max_load_retries=2, **settings):
        self.source = source
        self.policy = policy
        self.load = FakeLoader(source)
        self.clock = FakeClock()
        self.registry = Registry()
        self.changes = []
        self.on_change = []
        self.manager = Manager(
            self.load,
            self.registry,
            poll_interval_s=settings.pop("poll_interval_s", 0.0),
            drain_timeout_s=drain_timeout_s,
            max_load_retries=max_load_retries,
            clock=self.clock,
            on_change=self._changed,
        )
        assert not settings

    def _changed(self, name, version, state, error):
        self.changes.append(f"{version} {state.value}" + (f": {error}" if error else ""))
        self.load.moved.set()
        for call in self.on_change:
            call(version, state)

    async def start(self):
        return await self.manager.start([ModelSpec("m", self.source, self.policy)])

    async def until(self, holds):
        """Return when ``holds()`` is true; it is asked after each begin of a load and each change of state."""
        while not holds():
            self.load.moved.clear()
            await self.load.moved.wait()

    async def poll(self, times=1):
        """Poll and let all that follows come to its end."""
        for _ in range(times):
            await self.manager.poll_once()
            await self.manager.settled()

    def serving(self):
        return self.registry.serving().get("m", ())

    def states(self):
        (model,) = self.manager.status()
        return {v.version: v.state.value for v in model.versions}

    def errors(self):
        (model,) = self.manager.status()
        return {v.version: v.error for v in model.versions if v.error}


@pytest.fixture(scope="session")
def bench():
    return Bench


@pytest.fixture(scope="session")
def fake_source():
    return FakeSource
