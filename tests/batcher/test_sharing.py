"""Equal requests share an answer; each keeps its own deadline, and nobody notices what becomes of the others."""

import asyncio
import gc
import random
import threading
import weakref

import numpy as np
import pytest
from batcher.batcher_driver import Driver

from stfs.batcher.batcher import Batcher
from stfs.batcher.cache import ResponseCache
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Journey
from stfs.batcher.sharing import AWAY_BYTES, SharingBatcher
from stfs.errors import DeadlineExceeded, InvalidRequest, ModelFailed, Overloaded, Unavailable
from stfs.signature import STRING


def double(inputs):
    if (inputs["x"] < 0).any():
        raise ValueError("negative")
    return {"y": inputs["x"] * 2}


class SharingDriver(Driver):
    """As :class:`Driver`, over a :class:`SharingBatcher`. ``told`` counts what became of requests."""

    def __init__(self, run=double, policy=None, *, cache=None, merge=True, is_open=True):
        super().__init__(run, policy, merge)
        self.told: dict[str, int] = {}
        self.cache = cache
        self.batcher = SharingBatcher(
            self._run,
            policy or BatchPolicy(),
            name="m/1",
            merge=merge,
            loop=self.loop,
            clock=lambda: self.loop.now_s,
            observer=self.records.append,
            start=self.jobs.append,
            place="serving_default",
            cache=cache,
            counted=self._count,
        )
        self.batcher.is_open = is_open

    def _count(self, what, count):
        self.told[what] = self.told.get(what, 0) + count


def caching(limit_bytes=1 << 20, **kwargs):
    return SharingDriver(cache=ResponseCache(limit_bytes), **kwargs)


def test_the_second_request_is_answered_from_the_cache_and_never_from_inside_submit():
    driver = caching()
    first = driver.ask([1.0, 2.0])
    driver.settle()
    again = driver.ask([1.0, 2.0])
    assert again.told == []
    driver.settle()
    assert first.outputs["y"].tolist() == again.outputs["y"].tolist() == [2.0, 4.0]
    assert len(driver.batches) == 1
    assert driver.told == {"miss": 1, "hit": 1}


@pytest.mark.parametrize("other", [[1.0], [1.0, 3.0], np.array([1, 2])], ids=["rows", "values", "dtype"])
def test_what_differs_is_run(other):
    driver = caching()
    driver.ask([1.0, 2.0])
    driver.settle()
    asked = driver.ask(other)
    driver.settle()
    assert asked.outputs["y"].tolist() == [2 * value for value in np.asarray(other).tolist()]
    assert len(driver.batches) == 2


def test_what_is_handed_out_cannot_be_written_to_and_keeps_no_batch_alive():
    driver = caching()
    asked = [driver.ask([float(n)]) for n in range(4)]
    driver.settle()
    assert len(driver.batches) == 1
    with pytest.raises(ValueError, match="read-only"):
        asked[0].outputs["y"][:] = 7
    batch = weakref.ref(asked[0].outputs["y"].base)
    for each in asked:
        each.told.clear()
    driver.batches.clear()
    gc.collect()
    assert batch() is None, "what is kept is a copy"
    hit = driver.ask([3.0])
    driver.settle()
    assert hit.outputs["y"].tolist() == [6.0]
    with pytest.raises(ValueError, match="read-only"):
        hit.outputs["y"][:] = 7


@pytest.mark.parametrize("merge", [True, False], ids=["batches", "one by one"])
@pytest.mark.parametrize("limit_bytes", [1 << 20, 0], ids=["cache", "single flight"])
def test_equal_requests_that_are_under_way_run_once(limit_bytes, merge):
    driver = SharingDriver(cache=ResponseCache(limit_bytes) if limit_bytes else None, merge=merge)
    queued = [driver.ask([1.0]) for _ in range(5)]
    driver.launch()
    running = [driver.ask([1.0]) for _ in range(3)]
    driver.settle()
    assert [asked.outputs["y"].tolist() for asked in queued + running] == [[2.0]] * 8
    assert [batch["x"].tolist() for batch in driver.batches] == [[1.0]]
    assert driver.told == {"miss": 1, "shared": 7}
    with pytest.raises(ValueError, match="read-only"):
        queued[0].outputs["y"][0] = 0.0
    later = driver.ask([1.0])
    driver.settle()
    assert later.outputs["y"].tolist() == [2.0]
    assert len(driver.batches) == (1 if limit_bytes else 2)


def test_dictionaries_of_those_who_share_are_their_own():
    driver = SharingDriver()
    one, two = driver.ask([1.0]), driver.ask([1.0])
    driver.settle()
    one.outputs.clear()
    assert list(two.outputs) == ["y"]


def test_a_leader_that_is_cancelled_takes_nobody_along():
    driver = SharingDriver()
    leader, follower = driver.ask([1.0]), driver.ask([1.0])
    leader.entry.cancel()
    driver.settle()
    assert leader.told == []
    assert follower.outputs["y"].tolist() == [2.0]
    assert len(driver.batches) == 1


def test_a_leader_that_is_late_takes_nobody_along():
    driver = SharingDriver()
    leader, follower = driver.ask([1.0], deadline_s=0.5), driver.ask([1.0], deadline_s=5.0)
    driver.launch()
    driver.loop.advance(1.0)
    assert isinstance(leader.error, DeadlineExceeded)
    assert follower.told == []
    driver.settle()
    assert follower.outputs["y"].tolist() == [2.0]


def test_a_follower_that_is_late_is_told_so_by_its_own_deadline():
    driver = SharingDriver()
    leader, follower = driver.ask([1.0]), driver.ask([1.0], deadline_s=0.5)
    driver.launch()
    driver.loop.advance(0.4)
    assert follower.told == []
    driver.loop.advance(0.2)
    assert isinstance(follower.error, DeadlineExceeded)
    driver.settle()
    assert leader.outputs["y"].tolist() == [2.0]
    assert len(follower.told) == 1


def test_one_that_is_late_when_it_comes_is_refused():
    driver = caching()
    with pytest.raises(DeadlineExceeded, match="before m/1 was asked"):
        driver.ask([1.0], deadline_s=-1.0)
    assert driver.told == {}


def test_what_nobody_waits_for_is_not_begun():
    driver = SharingDriver()
    busy = driver.ask([9.0])
    driver.launch()
    gone = [driver.ask([1.0]) for _ in range(3)] + [driver.ask([1.0], deadline_s=0.5)]
    for asked in gone[:3]:
        asked.entry.cancel()
    assert driver.batcher.queued_rows == 1, "one still waits"
    driver.loop.advance(1.0)
    assert driver.batcher.queued_rows == 0
    again = driver.ask([1.0])
    driver.settle()
    assert busy.outputs["y"].tolist() == [18.0]
    assert again.outputs["y"].tolist() == [2.0]
    assert [batch["x"].tolist() for batch in driver.batches] == [[9.0], [1.0]]


def test_a_client_that_gave_up_and_asks_again_finds_its_run_under_way():
    driver = caching()
    first = driver.ask([1.0], deadline_s=0.5)
    driver.launch()
    driver.loop.advance(1.0)
    assert isinstance(first.error, DeadlineExceeded)
    again = driver.ask([1.0])
    driver.settle()
    assert again.outputs["y"].tolist() == [2.0]
    assert len(driver.batches) == 1


def test_a_large_request_that_nobody_waits_for_is_taken_back():
    driver = SharingDriver(policy=BatchPolicy(max_batch_size=2))
    driver.ask([9.0, 9.0])
    driver.launch()
    large = [driver.ask([1.0] * 7) for _ in range(2)]
    for asked in large:
        asked.entry.cancel()
    assert driver.batcher.queued_rows == 0
    again = driver.ask([1.0] * 7)
    driver.settle()
    assert again.outputs["y"].tolist() == [2.0] * 7


def test_errors_are_shared_and_never_kept():
    driver = caching()
    bad = [driver.ask([-1.0]) for _ in range(3)]
    good = driver.ask([1.0])
    driver.settle()
    assert all(isinstance(asked.error, ModelFailed) for asked in bad)
    assert good.outputs["y"].tolist() == [2.0]
    assert len(driver.cache) == 1
    runs = len(driver.batches)
    driver.run = lambda inputs: {"y": -inputs["x"]}
    mended = driver.ask([-1.0])
    driver.settle()
    assert mended.outputs["y"].tolist() == [1.0]
    assert len(driver.batches) == runs + 1


def test_a_full_queue_refuses_what_would_be_run_and_nothing_else():
    driver = caching(policy=BatchPolicy(max_enqueued_rows=1))
    kept = driver.ask([5.0])
    driver.settle()
    driver.ask([9.0])
    driver.launch()
    leader = driver.ask([1.0])
    with pytest.raises(Overloaded):
        driver.ask([2.0])
    follower, hit = driver.ask([1.0]), driver.ask([5.0])
    driver.settle()
    assert leader.outputs["y"].tolist() == follower.outputs["y"].tolist() == [2.0]
    assert hit.outputs["y"].tolist() == kept.outputs["y"].tolist()
    assert driver.told == {"miss": 3, "shared": 1, "hit": 1}


def test_after_a_refusal_those_who_came_later_have_a_run_of_their_own():
    driver = SharingDriver()
    driver.ask([9.0])
    driver.launch()
    leader = driver.ask([1.0])
    beside = driver.ask([1.0])
    driver.loop.advance(1.0)
    later = [driver.ask([1.0]) for _ in range(2)]
    refusal = Overloaded("it has waited for too long", 1.0)
    (flight,) = [each for each in driver.batcher._flights.values() if each.entry.queue is not None]
    flight.entry.answer(None, refusal)
    assert leader.error is refusal
    assert beside.error is refusal
    leader.inputs["x"][0] = 7.0  # which is its own again
    assert [asked.told for asked in later] == [[], []]
    driver.ask([1.0]).entry.cancel()
    driver.settle()
    assert [asked.outputs["y"].tolist() for asked in later] == [[2.0], [2.0]]
    assert len(driver.batches) == 2

    driver.ask([9.0])
    driver.launch()
    driver.ask([1.0])
    driver.loop.advance(1.0)
    late = driver.ask([1.0])
    for _ in range(2):  # all of them have been refused then
        (again,) = [each for each in driver.batcher._flights.values() if each.entry.queue is not None]
        again.entry.answer(None, refusal)
    assert late.error is refusal
    assert driver.batcher.queued_rows == 0
    driver.settle()


def test_who_is_let_past_others_does_not_wait_with_them_but_finds_what_is_kept():
    driver = caching(policy=BatchPolicy(max_batch_size=1, priority_levels=2, default_priority_level=2))
    driver.ask([9.0])
    driver.launch()
    low = [driver.ask([1.0], priority=2) for _ in range(2)]
    other = driver.ask([5.0], priority=2)
    high = driver.ask([1.0], priority=1)
    driver.settle()
    assert [asked.outputs["y"].tolist() for asked in (*low, high)] == [[2.0]] * 3
    assert other.outputs["y"].tolist() == [10.0]
    assert [batch["x"].tolist() for batch in driver.batches] == [[9.0], [1.0], [1.0], [5.0]]
    hit = driver.ask([1.0], priority=1)
    driver.settle()
    assert hit.outputs["y"].tolist() == [2.0]
    assert driver.told == {"miss": 4, "shared": 1, "hit": 1}


def test_what_cannot_be_stacked_is_refused_at_once():
    driver = caching()
    with pytest.raises(InvalidRequest, match="does not hold the request's 2 rows"):
        driver.batcher.submit({"x": np.zeros(3)}, 2, lambda outputs, error: None)
    driver.ask([1.0])
    driver.settle()
    assert len(driver.batches) == 1


def test_before_it_is_open_and_when_it_closes_it_is_a_batcher_like_any_other():
    driver = caching(is_open=False)
    for _ in range(2):
        driver.ask([1.0])
        driver.settle()
    assert len(driver.batches) == 2
    assert driver.told == {}
    driver.batcher.is_open = True
    waiting = [driver.ask([1.0]) for _ in range(2)]
    driver.close()
    with pytest.raises(Unavailable):
        driver.ask([1.0])
    driver.settle()
    assert [asked.outputs["y"].tolist() for asked in waiting] == [[2.0], [2.0]]


def test_an_answer_that_raises_leaves_no_other_without_its_own():
    driver = SharingDriver()
    told = []

    def ends(outputs, error):
        raise SystemExit

    driver.batcher.submit({"x": np.array([1.0])}, 1, ends)
    driver.batcher.submit({"x": np.array([1.0])}, 1, lambda outputs, error: told.append(outputs["y"].tolist()))
    driver.loop.turn()
    driver.launch()
    driver.work()
    with pytest.raises(SystemExit):
        driver.settle()
    assert told == [[2.0]]


def test_journeys_tell_of_each_what_became_of_it():
    driver = caching()
    leader, follower, hit = Journey(), Journey(), Journey()
    ask = driver.batcher.submit
    ask({"x": np.array([1.0])}, 1, lambda outputs, error: None, None, leader)
    driver.launch()
    driver.loop.advance(2.0)
    ask({"x": np.array([1.0])}, 1, lambda outputs, error: None, None, follower)
    driver.loop.advance(1.0)
    driver.settle()
    ask({"x": np.array([1.0])}, 1, lambda outputs, error: None, None, hit)
    driver.settle()
    assert [journey.cache for journey in (leader, follower, hit)] == ["miss", "shared", "hit"]
    assert (leader.queue_s, leader.run_s, leader.rows) == (0.0, 3.0, 1)
    assert (follower.queue_s, follower.run_s, follower.rows) == (0.0, 1.0, 1)
    assert leader.together is follower.together
    assert leader.together.journeys == [leader, follower]
    assert (hit.together, hit.run_s) == (None, 0.0)


def test_a_follower_that_asks_is_told_though_its_leader_did_not():
    driver = SharingDriver()
    follower = Journey()
    driver.ask([1.0])
    driver.loop.advance(1.0)
    driver.batcher.submit({"x": np.array([1.0])}, 1, lambda outputs, error: None, None, follower)
    driver.launch()
    driver.loop.advance(2.0)
    driver.settle()
    assert (follower.cache, follower.queue_s, follower.run_s) == ("shared", 0.0, 2.0)


def test_evictions_are_counted():
    driver = caching(limit_bytes=2000)
    for n in range(5):
        driver.ask([float(n)])
        driver.settle()
    assert driver.told["miss"] == 5
    assert driver.told["evicted"] == driver.cache.evictions == 5 - len(driver.cache) > 0


def test_it_has_no_lane():
    assert caching().batcher.lane("x", np.dtype(np.float64), ()) is None


async def comes_true(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.001)


def large(value, text=False):
    if text:
        array = np.empty(5000, STRING)
        array[:] = [b"%d" % value] * 5000
        return {"x": array}
    return {"x": np.full((1, AWAY_BYTES // 8), value)}


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "strings"])
def test_large_inputs_are_digested_away_from_the_loop(text, monkeypatch):
    from stfs.batcher import sharing

    threads = []
    real = sharing.digest

    def digest(place, inputs):
        threads.append(threading.current_thread())
        return real(place, inputs)

    monkeypatch.setattr(sharing, "digest", digest)
    runs = []
    gate = threading.Event()

    def run(inputs):
        assert gate.wait(30)
        runs.append(len(inputs["x"]))
        return {"y": inputs["x"].copy()}

    async def main():
        told: dict[str, int] = {}
        cache = ResponseCache(64 << 20)
        batcher = SharingBatcher(
            run,
            BatchPolicy(max_batch_size=10_000),
            name="m",
            place="s",
            cache=cache,
            counted=lambda what, count: told.update({what: told.get(what, 0) + count}),
        )
        batcher.is_open = True
        rows = 5000 if text else 1
        asked = [asyncio.ensure_future(batcher.infer(large(1, text), rows)) for _ in range(3)]
        await comes_true(lambda: told.get("shared") == 2)
        gate.set()
        first = await asyncio.gather(*asked)
        await comes_true(lambda: len(cache))  # the copy is made away from the loop as well
        again = await batcher.infer(large(1, text), rows)
        other = await batcher.infer(large(2, text), rows)
        with pytest.raises(DeadlineExceeded):
            await batcher.infer(large(3, text), rows, deadline_s=batcher.clock() - 1)
        for answer in (*first, again):
            np.testing.assert_array_equal(answer["y"], large(1, text)["x"])
        np.testing.assert_array_equal(other["y"], large(2, text)["x"])
        gone = asyncio.ensure_future(batcher.infer(large(4, text), rows))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await batcher.close()
        assert (told["hit"], told["shared"]) == (1, 2)
        assert cache.size_bytes == 0

    asyncio.run(main())
    assert len(runs) in (2, 3), "three at once and their successor are one run; another's; one that was withdrawn"
    assert threading.main_thread() not in threads


def test_errors_of_large_inputs_come_by_the_reply():
    gate = threading.Event()

    def run(inputs):
        assert gate.wait(30)
        return {"y": inputs["x"].copy()}

    async def main():
        batcher = SharingBatcher(
            run, BatchPolicy(max_enqueued_rows=1), name="m", place="s", cache=None, counted=lambda what, count: None
        )
        batcher.is_open = True
        asked = [asyncio.ensure_future(batcher.infer(large(n), 1)) for n in range(4)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        gate.set()
        told = await asyncio.gather(*asked, return_exceptions=True)
        await batcher.close()
        assert any(isinstance(each, Overloaded) for each in told)
        assert all(isinstance(each, dict | Overloaded) for each in told)
        assert done

    asyncio.run(main())


@pytest.mark.slow
@pytest.mark.parametrize("limit_bytes", [0, 3000, 1 << 20], ids=["single flight", "small", "roomy"])
def test_in_a_storm_everybody_gets_the_answer_to_what_they_asked(limit_bytes):
    """Few values, many requests, some withdrawn, some late, some wrong; a batcher without sharing is the reference."""
    rng = random.Random(limit_bytes)

    async def main():
        told: dict[str, int] = {}
        cache = ResponseCache(limit_bytes) if limit_bytes else None
        shared = SharingBatcher(
            double,
            BatchPolicy(max_batch_size=16),
            name="m",
            place="s",
            cache=cache,
            counted=lambda what, count: told.update({what: told.get(what, 0) + count}),
        )
        shared.is_open = True
        plain = Batcher(double, BatchPolicy(max_batch_size=16), name="p")

        async def one():
            rows = {"x": np.array([float(rng.randrange(-1, 8)) for _ in range(rng.choice([1, 1, 2, 20]))])}
            fate = rng.random()
            due_s = shared.clock() + rng.random() * 0.01 if fate < 0.2 else None
            task = asyncio.ensure_future(shared.infer(rows, len(rows["x"]), due_s))
            if fate > 0.8:
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                task.cancel()
            (got,) = await asyncio.gather(task, return_exceptions=True)
            (want,) = await asyncio.gather(plain.infer(rows, len(rows["x"])), return_exceptions=True)
            if isinstance(got, asyncio.CancelledError):
                assert fate > 0.8
            elif isinstance(got, DeadlineExceeded):
                assert fate < 0.2
            elif isinstance(want, Exception):
                assert type(got) is type(want)
            else:
                np.testing.assert_array_equal(got["y"], want["y"])

        for _ in range(10):
            await asyncio.gather(*(one() for _ in range(50)))
        assert not shared._flights
        assert shared.queued_rows == shared.in_flight_rows == 0
        await asyncio.gather(shared.close(), plain.close())
        assert told["shared"] > 0
        assert ("hit" in told) == (cache is not None)

    asyncio.run(main())


@pytest.mark.parametrize("levels", [0, 3])
def test_the_level_that_is_meant_counts_and_not_how_it_is_asked_for(levels):
    policy = BatchPolicy(max_batch_size=1, priority_levels=levels, default_priority_level=2 if levels else 0)
    driver = caching(policy=policy)
    asked = [driver.ask([1.0], priority=priority) for priority in (0, 2)]
    driver.settle()
    assert [one.outputs["y"].tolist() for one in asked] == [[2.0], [2.0]]
    assert driver.told == {"miss": 1, "shared": 1}
    if levels:
        with pytest.raises(InvalidRequest, match="priority must be 1"):  # though the answer is kept
            driver.ask([1.0], priority=9)


def test_an_answer_that_is_still_being_copied_is_not_kept_by_a_batcher_that_has_closed(monkeypatch):
    from stfs.batcher import sharing

    real, gate = sharing.kept, threading.Event()

    def kept(outputs):
        assert gate.wait(30)
        return real(outputs)

    monkeypatch.setattr(sharing, "kept", kept)
    cache = ResponseCache(64 << 20)

    async def main():
        batcher = SharingBatcher(double, BatchPolicy(), name="m", place="s", cache=cache, counted=lambda *_: None)
        batcher.is_open = True
        answer = await batcher.infer(large(1), 1)
        await batcher.close()
        gate.set()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)  # what the copy leads to has its turn
        np.testing.assert_array_equal(answer["y"], 2 * large(1)["x"])

    asyncio.run(main())
    assert (len(cache), cache.size_bytes) == (0, 0)
