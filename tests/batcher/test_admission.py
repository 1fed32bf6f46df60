import pytest

from stfs.batcher.admission import DELAYED, Full, Newcomer, level_of, make_room, queue_of, rank_of
from stfs.batcher.levels import LevelQueue
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Entry
from stfs.batcher.queue_policy import QueuePolicy
from stfs.errors import ConfigError, InvalidRequest

THREE = BatchPolicy(priority_levels=3, max_enqueued_rows=4, max_enqueued_bytes=100)


def entry(level, rows=1, size_bytes=8):
    made = Entry({}, rows, "k", lambda outputs, error: None, 0.0)
    made.rank, made.size_bytes = rank_of(level), size_bytes
    return made


def queue_of_levels(*entries):
    queue = LevelQueue()
    for each in entries:
        queue.append(each)
    return queue


def test_levels_are_counted_as_triton_does():
    assert [level_of(THREE, priority) for priority in (0, 1, 2, 3)] == [3, 1, 2, 3]
    assert level_of(BatchPolicy(priority_levels=3, default_priority_level=2), 0) == 2
    for priority in (4, -1, 2**63):
        with pytest.raises(InvalidRequest, match=r"1 \(the highest\) to 3, or 0 for the default, which is 3, not"):
            level_of(THREE, priority)


@pytest.mark.parametrize("policy", [BatchPolicy(), BatchPolicy(priority_levels=1)])
def test_without_levels_any_is_the_same(policy):
    assert {level_of(policy, priority) for priority in (0, 1, 7, -1)} == {0}


def test_there_is_room_until_there_is_not():
    queue = queue_of_levels(entry(1), entry(1))
    assert make_room(THREE, queue, Newcomer(1, 2, 1, 8)) == []
    full = make_room(THREE, queue, Newcomer(1, 3, 1, 8))
    assert full == Full("full", "has 2 rows queued of 4 allowed, no room for 3 more")


def test_a_newcomer_takes_the_place_of_the_lowest_and_youngest_and_of_no_more_than_it_needs():
    old, young, middle, high = entry(3), entry(3), entry(2), entry(1)
    queue = queue_of_levels(middle, old, young, high)
    assert make_room(THREE, queue, Newcomer(1, 1, 1, 0)) == [young]
    assert make_room(THREE, queue, Newcomer(1, 3, 1, 0)) == [young, old, middle]
    assert make_room(THREE, queue, Newcomer(2, 1, 1, 0)) == [young]
    assert make_room(THREE, queue, Newcomer(2, 3, 1, 0)) == Full(
        "full", "has 4 rows queued of 4 allowed, no room for 3 more"
    )
    assert isinstance(make_room(THREE, queue, Newcomer(3, 1, 1, 0)), Full)
    assert queue.count == 4


def test_one_that_waits_behind_its_level_is_displaced_before_the_level_but_not_by_it():
    queue = queue_of_levels(*(entry(3) for _ in range(3)), delayed := entry(3))
    queue.move(delayed, rank_of(3, DELAYED))
    assert make_room(THREE, queue, Newcomer(1, 1, 1, 0)) == [delayed]
    assert isinstance(make_room(THREE, queue, Newcomer(3, 1, 1, 0)), Full)


def test_bytes_are_bounded_too():
    queue = queue_of_levels(entry(2, size_bytes=60), low := entry(3, size_bytes=30))
    assert make_room(THREE, queue, Newcomer(3, 1, 1, 10)) == []
    full = make_room(THREE, queue, Newcomer(3, 1, 1, 11))
    assert full == Full("bytes", "has 90 bytes queued of 100 allowed (max_enqueued_bytes), no room for 11 more")
    assert make_room(THREE, queue, Newcomer(2, 1, 1, 11)) == [low]
    assert make_room(THREE, LevelQueue(), Newcomer(3, 99, 9, 10**9)) == []


def test_a_level_has_bounds_of_its_own():
    mine = QueuePolicy(max_requests=2, max_rows=5)
    policy = BatchPolicy(priority_levels=2, level_queues=((2, mine),))
    assert (queue_of(policy, 1), queue_of(policy, 2)) == (policy.queue, mine)
    queue = queue_of_levels(entry(1), entry(2, rows=3))
    assert make_room(policy, queue, Newcomer(2, 2, 1, 0)) == []
    assert make_room(policy, queue, Newcomer(2, 3, 1, 0)) == Full(
        "full", "has 3 rows queued at priority 2 of 5 allowed, no room for 3 more"
    )
    queue.append(entry(2))
    assert make_room(policy, queue, Newcomer(2, 1, 1, 0)) == Full(
        "full", "has 2 requests queued at priority 2 of 2 allowed"
    )
    assert make_room(policy, queue, Newcomer(1, 1, 1, 0)) == []
    alone = BatchPolicy(queue=QueuePolicy(max_requests=1))
    assert make_room(alone, queue_of_levels(entry(0)), Newcomer(0, 1, 1, 0)) == Full(
        "full", "has 1 requests queued of 1 allowed"
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"priority_levels": -1}, "priority_levels must be a whole number, 0 or more, not -1"),
        ({"priority_levels": 5000}, "priority_levels must be 1024 at most"),
        (
            {"priority_levels": 2, "default_priority_level": 3},
            r"default_priority_level 3 is over priority_levels \(2\)",
        ),
        ({"priority_levels": 2, "level_queues": ((3, QueuePolicy()),)}, "level 3 has a queue of its own"),
        ({"max_enqueued_bytes": -1}, "max_enqueued_bytes"),
        ({"preferred_batch_sizes": (4, 4)}, "preferred_batch_sizes must ascend"),
        ({"preferred_batch_sizes": (0,)}, "preferred_batch_sizes must be a whole number of rows"),
        ({"preferred_batch_sizes": (4, 200)}, r"must not be over max_batch_size \(128\), as 200 is"),
    ],
)
def test_settings_that_make_no_sense(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        BatchPolicy(**settings)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"timeout_s": 0.0}, "timeout_s must be more than 0"),
        ({"timeout_s": float("nan")}, "timeout_s must be more than 0"),
        ({"action": "drop"}, "one of reject, delay"),
        ({"max_requests": -1}, "max_requests"),
        ({"max_rows": True}, "max_rows"),
    ],
)
def test_queues_that_make_no_sense(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        QueuePolicy(**settings)
