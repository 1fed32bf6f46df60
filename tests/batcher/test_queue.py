import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.queue import Entry, Queue
from stfs.errors import ModelFailed


def entry(rows=1, key="k", told=None):
    return Entry({}, rows, key, lambda outputs, error: told.append((outputs, error)), 0.0)


def queue_of(*entries):
    queue = Queue()
    for each in entries:
        queue.append(each)
    return queue


def test_takes_whole_entries_in_order_up_to_the_limit():
    a, b, c = entry(3), entry(4), entry(1)
    queue = queue_of(a, b, c)
    assert queue.take(7) == ([a, b], True)
    assert queue.rows == 1
    assert queue.take(7) == ([c], False)
    assert queue.take(7) == ([], False)
    assert queue.rows == 0


def test_a_smaller_one_does_not_overtake_its_equal():
    a, b, c = entry(3), entry(6), entry(1)
    queue = queue_of(a, b, c)
    assert queue.take(5) == ([a], True)
    assert queue.take(7) == ([b, c], True)


def test_the_first_is_taken_whatever_its_size():
    a = entry(9)
    assert queue_of(a).take(4) == ([a], True)


def test_the_oldest_decides_the_key_and_others_keep_their_order():
    a, b, c, d = entry(key="p"), entry(key="q"), entry(key="p"), entry(key="q")
    queue = queue_of(a, b, c, d)
    assert queue.oldest() is a
    assert queue.take(8) == ([a, c], False)
    assert queue.oldest() is b
    assert queue.take(8) == ([b, d], False)


def test_a_cancelled_entry_leaves_and_is_never_told():
    told = []
    a, b = entry(3, told=told), entry(2, told=told)
    queue = queue_of(a, b)
    a.cancel()
    assert queue.rows == 2
    a.answer({}, None)
    a.cancel()
    assert queue.rows == 2
    assert told == []
    assert a.answered
    assert queue.take(8) == ([b], False)


def test_an_answer_comes_once_and_takes_a_queued_entry_out():
    told = []
    a = entry(3, told=told)
    queue = queue_of(a)
    failure = ModelFailed("late")
    a.answer(None, failure)
    a.answer({}, None)
    assert told == [(None, failure)]
    assert queue.rows == 0
    assert queue.take(8) == ([], False)


def test_a_reply_that_raises_is_logged_and_counts(caplog):
    def reply(outputs, error):
        raise ValueError("client code")

    a = Entry({}, 1, None, reply, 0.0)
    a.answer({}, None)
    assert a.answered
    assert "client code" in caplog.text


def test_a_reply_that_ends_the_process_may():
    def reply(outputs, error):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        Entry({}, 1, None, reply, 0.0).answer({}, None)


def test_no_rows_count_as_one():
    a, b = entry(0, key="a"), entry(0, key="b")
    queue = queue_of(a, b)
    assert queue.rows == 2
    a.cancel()
    assert queue.rows == 1
    assert queue.take(8) == ([b], False)
    assert queue.rows == 0


def test_cancelled_entries_do_not_pile_up_behind_one_that_waits():
    first = entry(key="first")
    queue = queue_of(first)
    for number in range(50_000):
        late = entry(key=number)
        queue.append(late)
        late.cancel()
    assert queue.rows == 1
    assert len(queue._order) <= 2048
    assert len(queue._lanes) <= 2048
    assert queue.take(8) == ([first], False)


@given(st.data())
def test_agrees_with_a_plain_list(data):
    queue, plain = Queue(), []
    for _ in range(data.draw(st.integers(0, 60))):
        match data.draw(st.sampled_from(["append", "append", "take", "cancel"])):
            case "append":
                new = entry(data.draw(st.integers(0, 5)), data.draw(st.sampled_from("abc")))
                plain.append(new)
                queue.append(new)
            case "take":
                limit = data.draw(st.integers(1, 8))
                same = [e for e in plain if e.key == plain[0].key]
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
        assert queue.rows == sum(e.rows or 1 for e in plain)
        assert queue.oldest() is (plain[0] if plain else None)
