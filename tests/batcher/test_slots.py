"""Batchers that share slots, with a clock that the test owns: who waits for whom, and that nothing is lost."""

import heapq
import random
from itertools import count
from statistics import mean

import numpy as np
import pytest
from batcher.batcher_driver import FakeLoop

from stfs.batcher.batcher import Batcher
from stfs.batcher.fair import BUSY, PATIENCE_S
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.slots import LOOK_S, DeviceSlots, RunSlots
from stfs.errors import Unavailable


class World:
    """Some models, one device, one loop. Time goes from event to event."""

    def __init__(self, limit=1, processors=None):
        self.loop = FakeLoop()
        self.slots = DeviceSlots(limit, processors, lambda: self.loop.now_s, self.loop)
        self.models = {}
        self._events = []
        self._numbers = count()

    def at(self, delay_s, call):
        heapq.heappush(self._events, (self.loop.now_s + delay_s, next(self._numbers), call))

    def model(self, name, run_s, weight=1.0, **more):
        self.models[name] = model = Model(self, name, run_s, weight, **more)
        return model

    def run(self, seconds):
        """Let so much time pass."""
        end_s = self.loop.now_s + seconds
        while True:
            for _ in range(1000):
                if not self.loop.ready:
                    break
                self.loop.turn()
            else:
                pytest.fail("the loop never comes to rest")
            due = [due_s for due_s, _, timer in self.loop._timers if timer.call is not None] + [
                due_s for due_s, _, _ in self._events[:1]
            ]
            if min(due, default=end_s + 1) > end_s:
                self.loop.now_s = end_s
                return
            next_s = min(due)
            self.loop.advance(max(next_s - self.loop.now_s, 0.0))
            while self._events and self._events[0][0] <= self.loop.now_s:
                heapq.heappop(self._events)[2]()


class Model:
    """Runs take ``run_s`` seconds (a number, or a function of nothing; ``None``: for ever)."""

    def __init__(self, world, name, run_s, weight, in_flight=1, version=1, max_batch_size=1):
        self.world, self.run_s = world, run_s
        self.ran_s, self.runs, self.at_work, self.most_at_work = 0.0, 0, 0, 0
        self.waits, self.told, self.records = [], [], []
        self.batcher = Batcher(
            lambda inputs: {"y": inputs["x"]},
            BatchPolicy(max_batch_size=max_batch_size, adaptive=False, max_enqueued_rows=10**6),
            name=f"{name}/{version}",
            loop=world.loop,
            clock=lambda: world.loop.now_s,
            observer=self.records.append,
            start=self.start,
            in_flight=in_flight,
            share=world.slots.join(name, weight),
        )

    def start(self, job):
        self.runs += 1
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        run_s = self.run_s() if callable(self.run_s) else self.run_s

        def done():
            self.at_work -= 1
            self.ran_s += run_s
            job()

        if run_s is not None:
            self.world.at(run_s, done)

    def ask(self, again=False):
        began_s = self.world.loop.now_s

        def reply(outputs, error):
            self.told.append((outputs, error))
            self.waits.append(self.world.loop.now_s - began_s - self.run_s if self.run_s is not None else 0.0)
            if again:
                self.ask(again=True)

        return self.batcher.submit({"x": np.ones((1, 1))}, 1, reply)

    def keep_busy(self, clients=3):
        for _ in range(clients):
            self.ask(again=True)

    def asked_each(self, gap_s, rng):
        def one():
            self.ask()
            self.world.at(rng.expovariate(1 / gap_s), one)

        self.world.at(rng.expovariate(1 / gap_s), one)


def test_a_hot_model_does_not_keep_a_cold_one_waiting_longer_than_one_run():
    world, rng = World(limit=1), random.Random(1)
    hot, cold = world.model("hot", 0.1), world.model("cold", 0.01)
    hot.asked_each(0.1 / 3, rng)  # three times what it can do
    cold.asked_each(0.01 / 0.05, rng)  # a twentieth
    world.run(100)
    assert len(cold.waits) > 400
    assert mean(cold.waits) <= 0.1
    assert max(cold.waits) <= 0.1 + 0.01 * 4, "only its own requests may make it longer"
    assert hot.ran_s / 100 > 0.9, "the device was never idle for it"


@pytest.mark.parametrize(("fast_s", "slow_s"), [(0.02, 0.02), (0.005, 0.1), (0.1, 0.005)])
def test_weights_share_run_time(fast_s, slow_s):
    world = World(limit=1)
    one, three = world.model("one", slow_s, weight=1), world.model("three", fast_s, weight=3)
    one.keep_busy()
    three.keep_busy()
    world.run(60)
    assert three.ran_s / one.ran_s == pytest.approx(3, rel=0.05)
    assert one.ran_s + three.ran_s == pytest.approx(60, rel=0.01)


def test_weights_hold_with_several_slots_and_batches_in_flight():
    world = World(limit=4)
    one, three = world.model("one", 0.02, 1, in_flight=4), world.model("three", 0.02, 3, in_flight=4)
    one.keep_busy(20)
    three.keep_busy(20)
    world.run(15)
    assert three.ran_s / one.ran_s == pytest.approx(3, rel=0.05)


def test_versions_and_signatures_of_a_model_have_one_part_together():
    world = World(limit=1)
    other = world.model("other", 0.02)
    parts = [world.model("model", 0.02, version=version) for version in (1, 2)]
    for model in (other, *parts):
        model.keep_busy()
    world.run(100)
    assert other.ran_s == pytest.approx(50, rel=0.05)
    assert parts[0].ran_s == pytest.approx(25, rel=0.1)


def test_a_model_that_is_busy_alone_never_waits():
    world = World(limit=1)
    alone, idle = world.model("alone", 0.1, in_flight=3), world.model("idle", 0.1)
    alone.keep_busy(9)
    world.run(10)
    assert alone.most_at_work == 3, "more than there are slots"
    assert alone.runs == pytest.approx(300, rel=0.02)
    assert all(record.slot_wait_s == 0 for record in alone.records)
    assert idle.runs == 0


def test_as_many_run_at_once_as_there_are_slots_and_no_more():
    world = World(limit=2)
    models = [world.model(str(i), 0.1) for i in range(5)]
    most = 0

    def look():
        nonlocal most
        most = max(most, sum(model.at_work for model in models))
        world.at(0.013, look)

    look()
    for model in models:
        model.keep_busy()
    world.run(50)
    assert most == 2
    assert {round(model.ran_s) for model in models} == {20}


def test_what_waits_is_told_in_the_record():
    world = World(limit=1)
    first, second = world.model("first", 0.1), world.model("second", 0.1)
    first.ask()
    world.run(0.03)
    second.ask()
    world.run(1)
    assert [record.slot_wait_s for record in first.records] == [0]
    assert [record.slot_wait_s for record in second.records] == [pytest.approx(0.07)]
    assert second.waits == [pytest.approx(0.07)]


def test_a_model_that_hangs_holds_one_slot_only_and_that_not_for_ever():
    world = World(limit=2)
    hung, fine, other = (world.model(name, run_s) for name, run_s in (("hung", None), ("fine", 0.1), ("other", 0.1)))
    hung.ask()
    world.run(0.1)
    fine.keep_busy()
    other.keep_busy()
    world.run(PATIENCE_S - 0.2)
    assert fine.ran_s + other.ran_s == pytest.approx(PATIENCE_S - 0.2, rel=0.05), "one slot is left for the others"
    world.run(PATIENCE_S)
    assert fine.ran_s + other.ran_s == pytest.approx(3 * PATIENCE_S - 0.2, rel=0.05), "and then both are"


def test_where_there_is_one_slot_a_model_that_hangs_gives_it_up():
    world = World(limit=1)
    hung, fine = world.model("hung", None), world.model("fine", 0.1)
    hung.ask()
    world.run(0.1)
    fine.keep_busy()
    world.run(PATIENCE_S - 0.2)
    assert fine.runs == 0
    world.run(10)
    assert fine.ran_s == pytest.approx(10, abs=0.5)


def test_a_run_that_is_given_up_gives_its_slot_back_at_once():
    world = World(limit=1)
    hung = world.model("hung", None)
    hung.batcher._watch.limit_s = 0.5
    fine = world.model("fine", 0.1)
    hung.ask()
    world.run(0.1)
    fine.keep_busy()
    world.run(2)
    assert fine.ran_s == pytest.approx(1.6, abs=0.11)
    assert world.slots.held == 1


def test_a_model_that_is_removed_while_it_waits_loses_nothing():
    world = World(limit=1)
    busy, going = world.model("busy", 0.1), world.model("going", 0.1)
    busy.keep_busy()
    world.run(0.05)
    for _ in range(5):
        going.ask()
    world.run(0.01)
    assert world.slots.waiting == 1
    closing = going.batcher.close()
    ended = closing.send(None)
    with pytest.raises(Unavailable):
        going.ask()
    world.run(3)
    assert [error for _, error in going.told] == [None] * 5
    assert world.slots.waiting == 0
    assert "going" not in world.slots._models
    closing.close()
    del ended
    assert busy.ran_s > 2


def test_who_takes_its_requests_back_while_it_waits_passes_its_turn_on():
    world = World(limit=1)
    busy, gone, third = (world.model(name, 0.1) for name in ("busy", "gone", "third"))
    busy.keep_busy()
    world.run(0.05)
    asked = gone.ask()
    world.run(0.01)
    third.ask()
    world.run(0.01)
    asked.cancel()
    world.run(1)
    assert (gone.runs, third.runs) == (0, 1)


def test_an_error_in_one_batcher_is_not_anothers():
    world = World(limit=1)
    busy, broken, fine = (world.model(name, 0.1) for name in ("busy", "broken", "fine"))
    busy.ask()
    world.run(0.05)
    broken.ask()
    fine.ask()
    world.run(0.01)
    broken.batcher.dispatcher.share.step = lambda: 1 / 0
    world.run(1)
    assert fine.runs == 1


class Told:
    """Processors that are as busy as the test says."""

    def __init__(self, share):
        self.share = share

    def busy_share(self):
        return self.share


def test_models_that_sleep_do_not_wait_for_each_other():
    world = World(limit=2, processors=Told(0.1))
    models = [world.model(str(i), 0.1) for i in range(10)]
    for model in models:
        model.keep_busy()
    world.run(20)
    assert sum(model.ran_s for model in models) == pytest.approx(200, rel=0.05)


def test_models_that_work_do_and_again_do_not_once_there_is_room():
    told = Told(BUSY)
    world = World(limit=2, processors=told)
    models = [world.model(str(i), 0.1) for i in range(10)]
    for model in models:
        model.keep_busy()
    world.run(20)
    assert sum(model.ran_s for model in models) == pytest.approx(40, rel=0.05)
    told.share = 0.2
    world.run(20)
    assert sum(model.ran_s for model in models) == pytest.approx(240, rel=0.05)


def test_while_nobody_has_looked_lately_nobody_waits():
    world = World(limit=1, processors=Told(None))
    models = [world.model(str(i), 0.1) for i in range(3)]
    for model in models:
        model.ask()
    world.run(LOOK_S / 2)
    assert [model.runs for model in models] == [1, 1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_everything_is_answered_whatever_comes_between(seed):
    world, rng = World(limit=rng_limit(seed)), random.Random(seed)
    models = [
        world.model(
            str(i),
            rng.choice([0.001, 0.02, 0.3]),
            rng.choice([0.5, 1, 4]),
            in_flight=rng.choice([1, 2]),
            max_batch_size=rng.choice([1, 8]),
        )
        for i in range(6)
    ]
    asked, closings = 0, []
    for _ in range(400):
        model = rng.choice(models)
        if rng.random() < 0.02 and not model.batcher.closing:
            closings.append(model.batcher.close())
            closings[-1].send(None)
        if not model.batcher.closing:
            entry = model.ask()
            if rng.random() < 0.1:
                entry.cancel()
            else:
                asked += 1
        world.run(rng.choice([0, 0, 0.001, 0.05]))
    world.run(1000)
    assert sum(len(model.told) for model in models) == asked
    assert (world.slots.held, world.slots.waiting) == (0, 0)
    for closing in closings:
        closing.close()


def rng_limit(seed):
    return 1 + seed % 3


def test_devices_are_shared_apart_and_off_is_off():
    slots = RunSlots(None, cores=3)
    cpu, gpu = slots.join("cpu", "m", 1.0), slots.join("cuda", "m", 1.0)
    assert (cpu._slots.limit, gpu._slots.limit) == (3, 2)
    assert cpu._slots is slots.join("cpu", "n", 1.0)._slots
    assert RunSlots(0, cores=3).join("cpu", "m", 1.0) is None
    assert RunSlots(5, cores=3).join("cuda", "m", 1.0)._slots.limit == 5
