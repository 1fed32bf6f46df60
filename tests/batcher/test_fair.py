"""Start-time fair queueing as values: who comes first, what a run moves on, what a pause does not save up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.batcher.cpu import LEAST_WINDOW_S, MOST_WINDOW_S, Processors, read_stat
from stfs.batcher.fair import BUSY, MOST_EXTRA, PATIENCE_S, Flow, Waiting, extra_slots, first, has_room


def served(costs, weights, runs):
    """Seconds that each of some flows, which always want to run, gets of one slot."""
    flows = [Flow(weight) for weight in weights]
    virtual, got = 0.0, [0.0] * len(flows)
    for number in range(runs):
        waiting = [Waiting(flow, virtual, place) for place, flow in enumerate(flows)]
        place = first(waiting).number
        virtual = max(virtual, waiting[place].start)
        expected_s = flows[place].usual_s
        run_s = costs[place](number)
        flows[place] = flows[place].begins(waiting[place].start).ends(expected_s, run_s)
        got[place] += run_s
    return got


@given(
    st.lists(st.floats(0.1, 10), min_size=2, max_size=5),
    st.lists(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=7), min_size=5, max_size=5),
)
def test_run_time_is_shared_by_weight_whatever_runs_take(weights, costs):
    got = served([lambda n, own=own: own[n % len(own)] for own in costs[: len(weights)]], weights, 300)
    parts = [seconds / weight for seconds, weight in zip(got, weights, strict=True)]
    # None is ever further ahead of another than by its own last run.
    longest = [max(own) / weight for own, weight in zip(costs, weights, strict=False)]
    for one, last in zip(parts, longest, strict=True):
        assert one - min(parts) <= last + max(longest) + 1e-6


def test_one_to_three():
    one, three = served([lambda n: 0.05, lambda n: 0.01], [1, 3], 4000)
    assert three / one == pytest.approx(3, rel=0.02)


def test_a_pause_saves_nothing_up():
    busy, back = Flow(finish=100.0), Flow(finish=1.0)
    waiting = Waiting(back, 100.0, 2)
    assert waiting.start == 100.0
    assert first([Waiting(busy, 100.0, 1), waiting]).number == 1


def test_who_has_had_little_comes_before_who_has_had_much():
    assert first([Waiting(Flow(finish=9.0), 5.0, 1), Waiting(Flow(finish=2.0), 5.0, 2)]).number == 2


def test_who_hangs_comes_last():
    assert first([Waiting(Flow(), 0.0, 1, hangs=True), Waiting(Flow(finish=9.0), 5.0, 2)]).number == 2


def test_what_was_expected_of_a_run_is_put_right_by_what_it_took():
    flow = Flow(2.0).begins(10.0)
    assert flow.finish == 10.0, "nothing is known yet"
    flow = flow.ends(0.0, 3.0)
    assert (flow.finish, flow.usual_s) == (11.5, 3.0)
    ahead = flow.begins(11.5)
    assert ahead.finish == 13.0, "several in flight are not begun for nothing"
    assert ahead.ends(3.0, 1.0).finish == 12.0


def test_a_run_that_hangs_does_not_count_for_ever():
    assert not has_room(1, [100.0], 100.0 + PATIENCE_S - 0.1)
    assert has_room(1, [100.0], 100.0 + PATIENCE_S)
    assert not has_room(1, [100.0, 105.0], 100.0 + PATIENCE_S)
    assert has_room(2, [109.0], 110.0)


def test_idle_processors_bear_more_runs_and_busy_ones_none():
    assert extra_slots(0, None) == MOST_EXTRA
    assert extra_slots(MOST_EXTRA, BUSY) == 0
    grown = 0
    for _ in range(10):
        grown = extra_slots(grown, 0.3)
    assert grown == MOST_EXTRA


# --- processors -------------------------------------------------------------------------------------------------------


class Machine:
    def __init__(self, cores=2, tells=True):
        self.now, self.own, self.busy, self.all, self.tells = 50.0, 3.0, 1000, 9000, tells
        self.processors = Processors(cores, lambda: self.now, lambda: self.own, self.everybody)

    def everybody(self):
        return (self.busy, self.all) if self.tells else None

    def after(self, seconds, own=0.0, busy=0, total=1):
        self.now += seconds
        self.own += own
        self.busy += busy
        self.all += total
        return self.processors.busy_share()


def test_the_first_look_tells_nothing():
    assert Machine().processors.busy_share() is None


def test_the_busier_of_this_process_and_the_machine_counts():
    machine = Machine()
    machine.processors.busy_share()
    assert machine.after(0.1, own=0.15, busy=4, total=20) == pytest.approx(0.75)
    assert machine.after(0.1, own=0.02, busy=18, total=20) == pytest.approx(0.9)
    assert machine.after(0.1, own=0.5, busy=0, total=20) == 1.0


def test_looks_in_a_row_are_one_and_old_ones_none():
    machine = Machine(tells=False)
    machine.processors.busy_share()
    assert machine.after(0.1, own=0.1) == pytest.approx(0.5)
    assert machine.after(LEAST_WINDOW_S / 2, own=9.0) == pytest.approx(0.5)
    assert machine.after(MOST_WINDOW_S * 2, own=9.0) is None


def test_linux_tells(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 1 5 70 20 1 2 3 99 99\ncpu0 1 2 3\n")
    assert read_stat(stat) == (22, 112)
    for text in ("", "cpu 1 2\n", "cpu a b c d e\n"):
        stat.write_text(text)
        assert read_stat(stat) is None
    assert read_stat(tmp_path / "none") is None
    busy, total = read_stat()
    assert 0 < busy < total
