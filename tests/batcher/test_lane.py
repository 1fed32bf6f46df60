"""Lanes: requests gathered in place are answered, counted, cancelled, cut and run again as others are."""

from __future__ import annotations

import random
from sys import intern

import numpy as np
import pytest
from batcher.batcher_driver import Driver

from stfs.batcher.batcher import Batcher
from stfs.batcher.policy import BatchPolicy
from stfs.errors import ModelFailed, Unavailable

lanes = pytest.importorskip("stfs.batcher._lane", reason="lanes are not compiled")

POISON = -1.0


def double(inputs):
    if (inputs["x"] == POISON).any():
        raise ValueError("poison")
    return {"y": inputs["x"] * 2}


class Held:
    """What a group holds; counts who shares it."""

    def __init__(self) -> None:
        self.uses = 1

    def share(self) -> Held:
        self.uses += 1
        return self


class Lined(Driver):
    """A driver that also submits through the lane of ``x``, rows of two float64."""

    def __init__(self, run=double, policy: BatchPolicy | None = None, **more) -> None:
        super().__init__(run, policy, **more)
        lane = self.batcher.lane("x", np.dtype(np.float64), (2,))
        assert lane is not None
        self.lane = lane
        self.told: dict[str, object] = {}
        self.groups: list[object] = []

    def put(self, owner: str, value: float, rows: int = 1) -> bool:
        return self.lane.submit(np.full((rows, 2), value), intern(owner), Held(), self.reply)

    def reply(self, group, outputs, error, outcomes) -> None:
        self.groups.append(group)
        start = 0
        sizes = [len(one.inputs["x"]) for one in group.alone(group.inputs)]
        assert sum(sizes) == group.rows
        for i, (owner, rows) in enumerate(zip(group.owners, sizes, strict=True)):
            one, problem = outcomes[i] if outcomes is not None else (outputs, error)
            if owner is not None:
                assert owner not in self.told, "answered twice"
                if problem is not None:
                    self.told[owner] = problem
                else:
                    array = one["y"] if outcomes is not None else one["y"][start : start + rows]
                    self.told[owner] = array.tolist()
            start += rows

    def leave(self, owner: str) -> None:
        (group,) = (group for group in self.all_groups() if owner in group.owners)
        group.leave(intern(owner))

    def all_groups(self):
        return [entry for entry in self.batcher.queue._order if type(entry) is lanes.Group and entry.queue is not None]


def rows_of(value: float, rows: int = 1) -> list[list[float]]:
    return [[2.0 * value, 2.0 * value]] * rows


def test_requests_of_one_slot_are_one_run_on_the_slot_itself():
    driver = Lined()
    for i in range(5):
        assert driver.put(f"{i}", i, 1 + i % 2)
    assert driver.batcher.queued_rows == 7
    driver.settle()
    (inputs,) = driver.batches
    assert inputs["x"].base is not None
    assert inputs["x"].base.shape == (driver.lane.capacity, 2)
    assert inputs["x"].flags.c_contiguous
    assert driver.told == {f"{i}": rows_of(i, 1 + i % 2) for i in range(5)}
    (record,) = driver.records
    assert (record.rows, record.requests, record.reason) == (7, 5, "idle")


def test_what_comes_while_the_model_is_busy_grows_one_group():
    driver = Lined()
    driver.put("first", 1)
    driver.launch()
    for i in range(10):
        driver.put(f"{i}", i)
    assert len(driver.all_groups()) == 1
    assert driver.batcher.queued_rows == 10
    driver.settle()
    assert [len(batch["x"]) for batch in driver.batches] == [1, 10]


def test_a_group_grows_only_while_it_is_the_last():
    """First come, first served: nobody gets into a group that stands before somebody who came earlier."""
    driver = Lined(policy=BatchPolicy(max_batch_size=4))
    driver.put("busy", 0)
    driver.launch()
    driver.put("a", 1)
    ordinary = driver.ask(np.full((2, 2), 2.0))
    driver.put("b", 3, 2)
    driver.settle()
    assert [batch["x"][:, 0].tolist() for batch in driver.batches] == [[0], [1, 2, 2], [3, 3]]
    assert ordinary.outputs["y"].tolist() == rows_of(2, 2)
    assert driver.told == {"busy": rows_of(0), "a": rows_of(1), "b": rows_of(3, 2)}


def test_a_full_slot_is_followed_by_another():
    driver = Lined(policy=BatchPolicy(max_batch_size=4))
    driver.put("busy", 0)
    driver.launch()
    for i in range(6):
        driver.put(f"{i}", i, 3)
    assert driver.batcher.queued_rows == 18
    driver.settle()
    assert [len(batch["x"]) for batch in driver.batches] == [1] + 6 * [3]
    assert driver.told == {"busy": rows_of(0)} | {f"{i}": rows_of(i, 3) for i in range(6)}


def test_more_rows_than_a_slot_and_other_shapes_are_not_for_it():
    driver = Lined(policy=BatchPolicy(max_batch_size=4))
    assert not driver.put("large", 1, 5)
    with pytest.raises(ValueError, match=r"\(2,\)"):
        driver.lane.submit(np.zeros((1, 3)), "x", Held(), driver.reply)
    assert driver.batcher.lane("x", np.dtype(np.float64), (2,)) is driver.lane
    assert driver.batcher.lane("x", np.dtype(np.float64), (0,)) is None
    assert driver.batcher.lane("x", np.dtype(np.float64), (10_000_000,)) is None
    assert driver.batcher.lane("x", np.dtype(np.float64), (1,) * 9) is None
    assert Batcher(double, BatchPolicy(), name="m", merge=False).lane("x", np.dtype(np.float64), (2,)) is None
    assert Batcher(double, BatchPolicy(latency_slo_s=1.0), name="m").lane("x", np.dtype(np.float64), (2,)) is None


def test_a_full_queue_takes_no_more_and_stays_as_it_is():
    driver = Lined(policy=BatchPolicy(max_batch_size=4, max_enqueued_rows=5))
    driver.put("busy", 0)
    driver.launch()
    assert driver.put("a", 1, 3)
    assert not driver.put("b", 2, 3)
    assert driver.batcher.queued_rows == 3
    assert driver.put("c", 3, 2)
    assert not driver.put("d", 4)
    driver.settle()
    assert driver.told == {"busy": rows_of(0), "a": rows_of(1, 3), "c": rows_of(3, 2)}


def test_closing_answers_what_was_taken_and_takes_no_more():
    driver = Lined()
    driver.put("busy", 0)
    driver.launch()
    driver.put("a", 1)
    closed = driver.close()
    assert not driver.put("b", 2)
    driver.settle()
    assert closed.done()
    assert driver.told == {"busy": rows_of(0), "a": rows_of(1)}


def test_who_leaves_the_queue_takes_its_rows_along():
    driver = Lined()
    driver.put("busy", 0)
    driver.launch()
    for i in range(6):
        driver.put(f"{i}", i, 1 + i % 3)
    for owner in ("0", "4", "2"):
        driver.leave(owner)
    assert driver.batcher.queued_rows == 2 + 1 + 3
    driver.put("6", 6)
    driver.settle()
    assert driver.batches[1]["x"][:, 0].tolist() == [1, 1, 3, 5, 5, 5, 6]
    assert driver.told == {"busy": rows_of(0), "1": rows_of(1, 2), "3": rows_of(3), "5": rows_of(5, 3), "6": rows_of(6)}


def test_a_group_that_everybody_has_left_is_not_run():
    driver = Lined()
    driver.put("busy", 0)
    driver.launch()
    driver.put("a", 1)
    driver.put("b", 2)
    driver.leave("b")
    driver.leave("a")
    assert driver.batcher.queued_rows == 0
    driver.settle()
    assert len(driver.batches) == 1
    assert driver.put("c", 3)
    driver.settle()
    assert driver.told == {"busy": rows_of(0), "c": rows_of(3)}


def test_who_leaves_in_flight_is_not_told():
    driver = Lined()
    driver.put("a", 1)
    driver.put("b", 2)
    group = driver.batcher.queue.newest
    driver.launch()
    assert not group.leave(intern("a"))
    assert not group.leave(intern("nobody"))
    driver.settle()
    assert driver.told == {"b": rows_of(2)}


def test_a_batch_of_fewer_rows_takes_a_part_of_a_group():
    driver = Lined()
    driver.put("busy", 0)
    driver.launch()
    for i in range(5):
        driver.put(f"{i}", i, 2)
    queue = driver.batcher.queue
    whole = queue.newest
    (part,), full = queue.take(5)
    assert (part.rows, part.owners, full) == (4, ["0", "1"], True)
    assert (whole.rows, whole.owners, queue.rows) == (6, ["2", "3", "4"], 6)
    assert whole.held.uses == 2
    assert part.inputs["x"][:, 0].tolist() == [0, 0, 1, 1]
    assert whole.inputs["x"][:, 0].tolist() == [2, 2, 3, 3, 4, 4]
    whole.leave(intern("3"))
    driver.put("5", 5)
    assert whole.inputs["x"][:, 0].tolist() == [2, 2, 4, 4, 5]
    assert part.inputs["x"][:, 0].tolist() == [0, 0, 1, 1]
    (first,), full = queue.take(1)
    assert (first.rows, first.owners, full) == (2, ["2"], True), "the first is taken whatever its size"
    for group in (part, first):
        group.answer({"y": group.inputs["x"] * 2}, None)
    driver.settle()
    assert driver.told == {
        "busy": rows_of(0), "0": rows_of(0, 2), "1": rows_of(1, 2), "2": rows_of(2, 2), "4": rows_of(4, 2),
        "5": rows_of(5),
    }  # fmt: skip


def test_padding_repeats_the_last_row():
    driver = Lined(policy=BatchPolicy(max_batch_size=8, allowed_batch_sizes=(4, 8)))
    driver.put("a", 1)
    driver.put("b", 2)
    driver.settle()
    assert driver.batches[0]["x"][:, 0].tolist() == [1, 2, 2, 2]
    assert driver.told == {"a": rows_of(1), "b": rows_of(2)}


def test_only_the_guilty_of_a_group_fails():
    driver = Lined()
    for i in range(9):
        driver.put(f"{i}", POISON if i == 4 else i)
    ordinary = driver.ask(np.full((2, 2), 9.0))
    driver.put("last", 10)
    driver.settle()
    error = driver.told.pop("4")
    assert type(error) is ModelFailed
    assert "poison" in str(error)
    assert driver.told == {f"{i}": rows_of(i) for i in range(9) if i != 4} | {"last": rows_of(10)}
    assert ordinary.outputs["y"].tolist() == rows_of(9, 2)
    assert driver.records[0].requests == 11


def test_a_lone_guilty_request_is_not_run_twice():
    driver = Lined()
    driver.put("a", POISON)
    driver.settle()
    assert type(driver.told["a"]) is ModelFailed
    assert len(driver.batches) == 1


def test_what_blames_nobody_is_told_to_all():
    def run(inputs):
        raise Unavailable("the process died")

    driver = Lined(run)
    for i in range(4):
        driver.put(f"{i}", i)
    driver.settle()
    assert {type(error) for error in driver.told.values()} == {Unavailable}
    assert len(driver.batches) == 1


def test_who_left_is_not_run_again():
    driver = Lined()
    for i in range(4):
        driver.put(f"{i}", POISON if i < 2 else i)
    group = driver.batcher.queue.newest
    driver.launch()
    group.leave(intern("0"))
    driver.settle()
    assert set(driver.told) == {"1", "2", "3"}
    assert [batch["x"][:, 0].tolist() for batch in driver.batches] == [[-1, -1, 2, 3], [-1], [2, 3]]


def test_a_slot_is_used_again_when_nobody_can_see_it():
    driver = Lined()
    addresses = set()
    for number in range(20):
        driver.put(f"{number}", number)
        driver.settle()
        addresses.add(driver.batches.pop()["x"].base.ctypes.data)
        driver.groups.clear()
    assert len(addresses) <= 3
    assert driver.lane.kept <= 4


@pytest.mark.parametrize("keeps", ["answers", "inputs"])
def test_what_somebody_sees_is_not_written_over(keeps):
    kept = []

    def same(inputs):
        if keeps == "inputs":
            kept.append(inputs["x"])
        return {"y": inputs["x"]}

    driver = Lined(same)

    def reply(group, outputs, error, outcomes):
        if keeps == "answers":
            kept.append(outputs["y"][1:])

    for number in range(40):
        driver.lane.submit(np.full((2, 2), float(number)), "o", Held(), reply)
        driver.settle()
        driver.batches.clear()
    assert [set(array.ravel().tolist()) for array in kept] == [{float(number)} for number in range(40)]


def test_everybody_is_answered_once_whatever_happens():
    """Requests in lanes and others, poison, departures and full queues, in any order."""
    for seed in range(25):
        rng = random.Random(seed)
        driver = Lined(policy=BatchPolicy(max_batch_size=rng.choice((1, 4, 16)), max_enqueued_rows=30))
        expected: dict[str, object] = {}
        ordinary = []
        for step in range(120):
            what = rng.random()
            value = POISON if rng.random() < 0.05 else float(step)
            rows = rng.choice((1, 1, 1, 2, 3))
            if what < 0.55:
                if driver.put(f"{step}", value, rows):
                    expected[f"{step}"] = ModelFailed if value == POISON else rows_of(value, rows)
            elif what < 0.65 and driver.batcher.queued_rows + rows <= 30:
                ordinary.append((driver.ask(np.full((rows, 2), value)), value, rows))
            elif what < 0.75:
                queued = [owner for group in driver.all_groups() for owner in group.owners]
                if queued:
                    owner = rng.choice(queued)
                    del expected[owner]
                    driver.leave(owner)
            elif what < 0.9:
                driver.loop.turn()
            elif driver.jobs:
                driver.work()
        driver.settle()
        told = {owner: type(what) if isinstance(what, Exception) else what for owner, what in driver.told.items()}
        assert told == expected, seed
        for asked, value, rows in ordinary:
            if value == POISON:
                assert type(asked.error) is ModelFailed
            else:
                assert asked.outputs["y"].tolist() == rows_of(value, rows)
        assert driver.batcher.queued_rows == driver.batcher.in_flight_rows == 0
