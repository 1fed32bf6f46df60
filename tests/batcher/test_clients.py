"""Clients that share a queue: whose turn it is, who has more than its share, and that nothing is lost."""

import random

import pytest
from batcher.batcher_driver import Driver
from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.clients import MOST_PASSED, ClientQueue
from stfs.batcher.policy import BatchPolicy
from stfs.batcher.queue import Entry
from stfs.batcher.queue_policy import QueuePolicy
from stfs.errors import Overloaded, ShareExceeded


def entry(client, rows=1, key="k", rank=1):
    one = Entry({}, rows, key, lambda outputs, error: None, 0.0)
    one.client, one.rank, one.size_bytes = client, rank, 8 * rows
    return one


def queue_of(*entries):
    queue = ClientQueue()
    for one in entries:
        queue.append(one)
    return queue


def order(queue, limit_rows=1):
    """Clients in the order in which their requests leave."""
    left = []
    while taken := queue.take(limit_rows)[0]:
        left += [one.client for one in taken]
    return "".join(left)


def test_clients_take_turns():
    queue = queue_of(*map(entry, "aaaaaabbbc"))
    assert order(queue) == "abcababaaa"


def test_one_client_alone_has_the_order_of_arrival():
    entries = [entry("a", rows) for rows in (3, 1, 2)]
    queue = queue_of(*entries)
    assert queue.take(100)[0] == entries


def test_turns_go_by_rows():
    queue = queue_of(*[entry("a", rows=4) for _ in range(3)], *[entry("b") for _ in range(12)])
    assert order(queue, limit_rows=4) == "abbbb" * 3


def test_who_comes_late_begins_with_the_others_and_has_saved_nothing_up():
    queue = queue_of(*map(entry, "aaaaaaaa"))
    for _ in range(4):
        queue.take(1)
    for one in map(entry, "bbbb"):
        queue.append(one)
    assert sorted(order(queue)[:2]) == ["a", "b"]


def test_a_batch_is_of_one_key_and_of_several_clients():
    queue = queue_of(entry("a", key=1), entry("a", key=1), entry("b", key=2), entry("b", key=1))
    taken, full = queue.take(10)
    assert ([one.client for one in taken], full) == (["a", "a", "b"], False)
    assert order(queue) == "b"


def test_what_does_not_fit_waits_for_the_next_batch():
    queue = queue_of(entry("a", 3), entry("b", 3), entry("a", 1))
    taken, full = queue.take(4)
    assert ([one.client for one in taken], full) == (["a"], True)
    assert queue.rows == 4


def test_higher_levels_go_first_whoever_they_are_of():
    queue = queue_of(entry("a", rank=2), entry("b", rank=2), *[entry("a", rank=1) for _ in range(3)])
    assert order(queue) == "aaa" + "ab"


def test_the_share_is_looked_at_only_when_the_queue_is_half_full():
    queue = queue_of(*map(entry, "aaaab"))
    assert queue.excess("a", 10) is None
    assert queue.excess("a", 9) == (4, 1)
    assert queue.excess("b", 9) is None
    assert queue.excess("newcomer", 9) is None


def test_who_is_alone_may_fill_it():
    queue = queue_of(*map(entry, "aaaaaaaaaa"))
    assert queue.excess("a", 10) is None


def test_equal_clients_may_both_fill_it():
    queue = queue_of(*map(entry, "ababab"))
    assert queue.excess("a", 10) is None
    queue.append(entry("a"))
    assert queue.excess("a", 10) == (4, 1)
    assert queue.excess("b", 10) is None


def test_the_last_in_turn_are_displaced_first():
    queue = queue_of(*map(entry, "aaabb"))
    assert [one.client for one in queue.last_first(0)] == list("ababa")


@given(
    st.lists(
        st.tuples(st.sampled_from(["join", "take", "cancel", "move"]), st.integers(0, 4), st.integers(0, 5)),
        max_size=80,
    )
)
def test_counts_are_those_of_what_waits(steps):
    queue, waiting = ClientQueue(), []
    for step, who, size in steps:
        if step == "join":
            one = entry(str(who), size, key=size % 2, rank=1 + who % 2)
            queue.append(one)
            waiting.append(one)
        elif step == "take":
            taken, _ = queue.take(1 + size)
            assert all(one.queue is None for one in taken)
            assert len({one.key for one in taken}) <= 1
            waiting = [one for one in waiting if one not in taken]
        elif waiting:
            one = waiting[(who * 7 + size) % len(waiting)]
            if step == "cancel":
                one.cancel()
                waiting.remove(one)
            elif one.rank < 3:
                queue.move(one, 3)
        assert queue.count == len(waiting)
        assert queue.rows == sum(one.rows or 1 for one in waiting)
        assert queue.bytes == sum(one.size_bytes for one in waiting)
        assert queue._held == {
            who: sum(one.rows or 1 for one in waiting if one.client == who) for who in {one.client for one in waiting}
        }
    assert len(order(queue, 1000)) == len(waiting)
    assert (queue.rows, queue._held) == (0, {})


def test_clients_that_have_gone_are_forgotten():
    queue = ClientQueue()
    for number in range(5 * MOST_PASSED):
        queue.append(entry(str(number)))
        queue.take(1)
    assert len(queue._finish) <= MOST_PASSED + 2


def test_what_was_cancelled_is_forgotten():
    queue = ClientQueue()
    queue.append(entry("a"))
    for _ in range(5 * MOST_PASSED):
        one = entry("b")
        queue.append(one)
        one.cancel()
    (rank,) = queue._by_number.values()
    assert len(rank._turns) <= MOST_PASSED + 4
    assert order(queue) == "a"


# --- in a batcher -----------------------------------------------------------------------------------------------------


def driver(**more):
    settings = {"max_batch_size": 2, "max_enqueued_rows": 10, "shares_clients": True, "adaptive": False, **more}
    return Driver(lambda inputs: {"y": inputs["x"]}, BatchPolicy(**settings))


def ask(driver, client, told, rows=1):
    import numpy as np

    def reply(outputs, error):
        told.append((client, error))

    return driver.batcher.submit({"x": np.ones((rows, 1))}, rows, reply, client=client)


def test_one_client_cannot_fill_the_queue_beside_another():
    model, told = driver(), []
    ask(model, "hot", told)
    model.loop.turn()  # this one is in flight from now on
    for _ in range(5):
        ask(model, "hot", told)
    ask(model, "cold", told)
    with pytest.raises(ShareExceeded, match="more than its own share beside 1 other ") as refused:
        ask(model, "hot", told)
    assert refused.value.retry_after_s > 0
    assert isinstance(refused.value, Overloaded)
    ask(model, "cold", told)
    model.settle()
    assert all(error is None for _, error in told)
    assert len(told) == 8
    assert [who for who, _ in told].index("cold") <= 2, "it did not wait behind all of the other's"


def test_a_client_alone_is_told_that_the_queue_is_full_and_nothing_else():
    model, told = driver(), []
    ask(model, "hot", told)
    model.loop.turn()
    for _ in range(10):
        ask(model, "hot", told)
    with pytest.raises(Overloaded) as refused:
        ask(model, "hot", told)
    assert not isinstance(refused.value, ShareExceeded)


def test_a_newcomer_takes_the_place_of_the_last_of_the_client_that_filled_the_queue():
    model, told = driver(), []
    ask(model, "hot", told)
    model.loop.turn()
    for _ in range(10):
        ask(model, "hot", told)
    ask(model, "cold", told, rows=3)
    assert told == [], "not in the middle of another's request"
    model.loop.turn()
    assert [who for who, _ in told] == ["hot"] * 3
    assert all(isinstance(error, ShareExceeded) for _, error in told)
    assert "gave this request's place to another client's: the queue was full, with 10 rows of" in str(told[0][1])
    assert told[0][1].retry_after_s > 0
    assert model.refused == ["share"] * 3
    ask(model, "third", told, rows=3)
    assert model.batcher._clients._held == {"hot": 4, "cold": 3, "third": 3}
    with pytest.raises(Overloaded, match="has 10 rows queued of 10 allowed") as refused:
        ask(model, "fourth", told, rows=3)  # it would hold more than whoever gave way
    assert not isinstance(refused.value, ShareExceeded)
    assert model.batcher.queue.rows == 10, "nobody left for nothing"
    model.settle()
    assert sorted(who for who, error in told if error is None) == ["cold"] + ["hot"] * 5 + ["third"]


def test_newcomers_do_not_take_places_in_turns_for_ever():
    model, told = driver(), []
    ask(model, "a", told)
    model.loop.turn()
    for _ in range(10):
        ask(model, "a", told)
    for _ in range(5):
        ask(model, "b", told)
    for who in "ab":
        with pytest.raises(Overloaded):
            ask(model, who, told)
    assert model.batcher._clients._held == {"a": 5, "b": 5}


def test_a_request_in_pieces_gives_way_once_and_a_higher_level_stays():
    model, told = driver(priority_levels=2, default_priority_level=2), []
    ask(model, "hot", told)
    model.loop.turn()
    ask(model, "hot", told, rows=10)
    ask(model, "cold", told)
    model.settle()
    assert [(who, type(error)) for who, error in told if error] == [("hot", ShareExceeded)]
    model, told = driver(priority_levels=2, default_priority_level=1), []
    ask(model, "hot", told)
    model.loop.turn()
    for _ in range(10):
        ask(model, "hot", told)
    import numpy as np

    with pytest.raises(Overloaded, match="no room for 1 more"):
        model.batcher.submit({"x": np.ones((1, 1))}, 1, lambda *_: None, priority=2, client="cold")
    model.settle()
    assert len(told) == 11
    assert all(error is None for _, error in told)


@pytest.mark.parametrize("bound", [{"max_enqueued_bytes": 80}, {"queue": QueuePolicy(max_requests=10)}])
def test_places_are_found_under_every_bound(bound):
    model, told = driver(max_enqueued_rows=100, **bound), []
    ask(model, "hot", told)
    model.loop.turn()
    for _ in range(10):
        ask(model, "hot", told)
    ask(model, "cold", told)
    model.settle()
    assert [(who, type(error)) for who, error in told if error] == [("hot", ShareExceeded)]


def test_there_are_no_lanes():
    import numpy as np

    assert driver().batcher.lane("x", np.dtype("float32"), (1,)) is None


@pytest.mark.parametrize("seed", range(10))
def test_everybody_is_answered_once(seed):
    rng = random.Random(seed)
    model, told, asked = driver(max_enqueued_rows=20, max_batch_size=rng.choice([1, 4])), [], 0
    for _ in range(300):
        try:
            one = ask(model, rng.choice("aaab"), told, rows=rng.choice([0, 1, 3, 9]))
        except Overloaded:
            pass
        else:
            if rng.random() < 0.1:
                one.cancel()
            else:
                asked += 1
        if rng.random() < 0.5:
            model.loop.turn()
        if model.jobs and rng.random() < 0.7:
            model.work()
    model.settle()
    assert len(told) == asked
    assert (model.batcher.queue.rows, model.batcher._clients._held) == (0, {})


def test_clients_that_have_gone_are_forgotten_while_another_stays():
    queue = queue_of(*[entry("stays", key="other") for _ in range(3)])
    for number in range(5 * MOST_PASSED):
        queue.append(entry(str(number), rows=2))
        queue.append(entry("stays"))
        queue.take(4)
    assert len(queue._finish) <= 2 * MOST_PASSED + 2
