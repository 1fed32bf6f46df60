from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.deadlines import Deadlines
from stfs.batcher.queue import Entry


def entry():
    return Entry({}, 1, None, lambda outputs, error: None, 0.0)


def test_pops_what_is_late_earliest_first():
    deadlines, a, b, c = Deadlines(), entry(), entry(), entry()
    assert deadlines.add(b, 2.0)
    assert deadlines.add(a, 1.0)
    assert not deadlines.add(c, 3.0)
    assert deadlines.next_s() == 1.0
    assert deadlines.pop(0.5) is None
    assert [deadlines.pop(2.0), deadlines.pop(2.0), deadlines.pop(2.0)] == [a, b, None]
    assert deadlines.next_s() == 3.0


def test_forgets_what_was_answered():
    deadlines, a, b = Deadlines(), entry(), entry()
    deadlines.add(a, 1.0)
    deadlines.add(b, 2.0)
    a.answer({}, None)
    assert deadlines.next_s() == 2.0
    b.cancel()
    assert deadlines.next_s() is None
    assert deadlines.pop(9.0) is None


def test_answered_entries_do_not_pile_up():
    deadlines, waiting = Deadlines(), entry()
    deadlines.add(waiting, 1.0)
    for number in range(50_000):
        done = entry()
        deadlines.add(done, 60.0 + number)
        done.answer({}, None)
    assert len(deadlines._heap) <= 2048
    assert deadlines.pop(1.0) is waiting


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_pops_exactly_the_late_ones_that_still_wait(wanted):
    deadlines, waiting = Deadlines(), []
    for due_s, answered in wanted:
        new = entry()
        deadlines.add(new, due_s)
        if answered:
            new.cancel()
        else:
            waiting.append((due_s, new))
    late = []
    while (popped := deadlines.pop(5)) is not None:
        late.append(popped)
    assert late == [new for due_s, new in sorted(waiting, key=lambda w: w[0]) if due_s <= 5]
