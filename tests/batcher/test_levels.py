import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfs.batcher.levels import LevelQueue
from stfs.batcher.queue import Entry


def entry(rank=0, rows=1, key="k", size_bytes=8):
    made = Entry({}, rows, key, lambda outputs, error: None, 0.0)
    made.rank, made.size_bytes = rank, size_bytes
    return made


def queue_of(*entries):
    queue = LevelQueue()
    for each in entries:
        queue.append(each)
    return queue


def test_lower_ranks_leave_first_and_in_order_within_one():
    a, b, c, d = entry(4), entry(2), entry(4), entry(2)
    queue = queue_of(a, b, c, d)
    assert queue.oldest() is b
    assert queue.take(3) == ([b, d, a], True)
    assert queue.take(3) == ([c], False)
    assert queue.take(3) == ([], False)


def test_what_is_left_of_a_batch_is_for_lower_ranks_of_the_same_key():
    first, other, second = entry(2), entry(3, key="other"), entry(9)
    queue = queue_of(second, other, first)
    assert queue.take(8) == ([first, second], False)
    assert queue.take(8) == ([other], False)


def test_a_low_one_does_not_pass_a_higher_one_that_does_not_fit():
    high, large, low = entry(2, rows=3), entry(2, rows=4), entry(4)
    queue = queue_of(low, high, large)
    assert queue.take(4) == ([high], True)
    assert queue.take(4) == ([large], True)


def test_everything_is_counted_as_it_comes_and_goes():
    a, b, c = entry(2, rows=0, size_bytes=5), entry(2, rows=3, size_bytes=7), entry(4, rows=2, size_bytes=11)
    queue = queue_of(a, b, c)
    assert (queue.rows, queue.bytes, queue.count) == (6, 23, 3)
    assert (queue.held(2), queue.held(4), queue.held(1)) == ((2, 4), (1, 2), (0, 0))
    b.cancel()
    assert (queue.rows, queue.bytes, queue.count, queue.held(2)) == (3, 16, 2, (1, 1))
    queue.move(a, 3)
    assert (queue.held(2), queue.held(3), queue.oldest()) == ((0, 0), (1, 1), a)
    queue.take(1)
    c.answer({}, None)
    assert (queue.rows, queue.bytes, queue.count, queue.oldest()) == (0, 0, 0, None)


def test_who_leaves_for_others_comes_lowest_and_youngest_first():
    a, b, c, d = entry(2), entry(4), entry(4, key="q"), entry(6)
    queue = queue_of(a, b, c, d)
    assert list(queue.last_first(2)) == [d, c, b]
    assert list(queue.last_first(4)) == [d]
    assert list(queue.last_first(6)) == []
    c.cancel()
    d.cancel()
    assert list(queue.last_first(0)) == [b, a]
    assert queue.take(9) == ([a, b], False)


def test_displaced_entries_do_not_pile_up():
    waiting = entry(2, key="first")
    queue = queue_of(waiting)
    for _ in range(20_000):
        queue.append(entry(4))
        (youngest,) = queue.last_first(2)
        queue.discard(youngest)
    (rank,) = [rank for number, rank in queue._by_number.items() if number == 4]
    assert len(rank._order) <= 2
    assert sum(map(len, rank._lanes.values())) <= 2
    assert queue.take(9) == ([waiting], False)


def test_ranks_that_are_empty_are_forgotten():
    queue = LevelQueue()
    for number in range(5000):
        queue.append(entry(number))
        queue.take(9)
        assert queue.oldest() is None
    assert not queue._by_number
    assert not queue._numbers


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_agrees_with_a_plain_list(data):
    queue, plain = LevelQueue(), []

    def in_order():
        return sorted(plain, key=lambda each: each.rank)  # stable: by arrival in the rank

    for _ in range(data.draw(st.integers(0, 50))):
        match data.draw(st.sampled_from(["append", "append", "append", "take", "cancel", "move", "displace"])):
            case "append":
                drawn = data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from("ab")))
                new = entry(*drawn, size_bytes=data.draw(st.integers(0, 9)))
                plain.append(new)
                queue.append(new)
            case "take":
                limit = data.draw(st.integers(1, 8))
                same = [e for e in in_order() if e.key == in_order()[0].key]
                want, rows = same[:1], (same[0].rows or 1) if same else 0
                for more in same[1:]:
                    if rows + (more.rows or 1) > limit:
                        break
                    rows += more.rows or 1
                    want.append(more)
                assert queue.take(limit) == (want, bool(want) and (len(want) < len(same) or rows >= limit))
                plain = [e for e in plain if e not in want]
            case "cancel" if plain:
                plain.pop(data.draw(st.integers(0, len(plain) - 1))).cancel()
            case "move" if plain:
                moved = plain.pop(data.draw(st.integers(0, len(plain) - 1)))
                plain.append(moved)
                queue.move(moved, moved.rank + data.draw(st.integers(1, 2)))
            case "displace":
                above = data.draw(st.integers(0, 4))
                lower = [e for e in in_order() if e.rank > above]
                want = [e for rank in range(99, above, -1) for e in lower[::-1] if e.rank == rank]
                assert list(queue.last_first(above)) == want
                for gone in want[:2]:
                    queue.discard(gone)
                    plain.remove(gone)
        assert queue.rows == sum(e.rows or 1 for e in plain)
        assert queue.bytes == sum(e.size_bytes for e in plain)
        assert queue.count == len(plain)
        assert queue.oldest() is (in_order()[0] if plain else None)


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_a_large_first_entry_is_taken_alone(limit):
    large, small = entry(2, rows=101), entry(2)
    assert queue_of(large, small).take(limit) == ([large], True)
