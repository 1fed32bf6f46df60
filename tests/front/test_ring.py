import os
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfs.front.ring import UNIT_BYTES, Ring, create


def pair(size_bytes):
    memory, bell, other_bell = create(size_bytes)
    copies = os.dup(memory), os.dup(other_bell), os.dup(bell)
    return Ring(memory, bell, other_bell, size_bytes, first=True), Ring(*copies, size_bytes, first=False)


@pytest.fixture
def rings():
    made = pair(1024)
    yield made
    for ring in made:
        ring.close()


def send(ring, data):
    ring.put(len(data), [data])
    ring.flush()


def record(size, seed=0):
    return bytes((seed + place) % 251 for place in range(size))


def test_bytes_go_both_ways(rings):
    first, second = rings
    send(first, record(64))
    send(second, record(32, 9))
    assert second.read() == record(64)
    assert first.read() == record(32, 9)
    assert first.read() == second.read() == b""


def test_records_of_several_pieces_leave_together(rings):
    first, second = rings
    first.put(32, [record(5), record(27, 3)])
    first.put(16, [record(16, 8)])
    first.flush()
    assert second.read() == record(5) + record(27, 3) + record(16, 8)


def test_what_does_not_fit_waits_and_leaves_in_order(rings):
    first, second = rings
    sent = [record(400 // UNIT_BYTES * UNIT_BYTES, seed) for seed in range(6)]
    for data in sent:
        send(first, data)
    assert first.waiting_bytes == 4 * len(sent[0])
    got = b""
    for _ in range(20):
        got += second.read()
        first.read()  # hears of room, and writes on
    assert got == b"".join(sent)
    assert first.waiting_bytes == 0


def test_the_largest_that_fits_always_leaves_sooner_or_later(rings):
    first, second = rings
    largest = next(size for size in range(1024, 0, -UNIT_BYTES) if first.fits(size))
    got = b""
    sent = [record(UNIT_BYTES, 1), *(record(largest, seed) for seed in range(9)), record(240), record(largest, 5)]
    for data in sent:
        send(first, data)
        got += second.read()
        first.read()
    for _ in range(len(sent)):
        got += second.read()
        first.read()
    assert got == b"".join(sent)


def test_what_was_read_is_the_readers_own(rings):
    first, second = rings
    send(first, record(512))
    got = second.read()
    for seed in range(1, 5):
        send(first, record(512, seed))
        second.read()
        first.read()
    assert got == record(512)


@pytest.mark.parametrize("told", [65, 1 << 32, (1 << 31) + 5])
def test_what_cannot_be_is_refused(rings, told):
    first, second = rings
    os.eventfd_write(first._wake_fd, told)
    with pytest.raises(ValueError, match="cannot be"):
        second.read()


def test_closing_twice_is_closing_once(rings):
    first, _ = rings
    first.close()
    first.close()


@pytest.mark.parametrize("size", [0, 24, -16])
def test_sizes_that_no_ring_has(size):
    with pytest.raises(ValueError, match="cannot have"):
        Ring(0, 1, 2, size, first=True)


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "flush", "read"]), st.booleans(), st.integers(1, 16)), min_size=1, max_size=120
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_nothing_is_lost_doubled_or_reordered(steps):
    """Whatever both sides do in whatever order: each reads a prefix of what the other has put, and in the end all."""
    rings = pair(512)
    put, got = [b"", b""], [b"", b""]  # by who put it
    try:
        for step, (what, is_first, units) in enumerate(steps):
            who = 0 if is_first else 1
            if what == "put":
                data = record(units * UNIT_BYTES, step)
                rings[who].put(len(data), [data])
                put[who] += data
            elif what == "flush":
                rings[who].flush()
            else:
                got[1 - who] += rings[who].read()
            assert put[0].startswith(got[0])
            assert put[1].startswith(got[1])
        for ring in rings:
            ring.flush()
        for _ in range(len(steps) + 2):
            for who, ring in enumerate(rings):
                got[1 - who] += ring.read()
        assert got == put
        assert [ring.waiting_bytes for ring in rings] == [0, 0]
    finally:
        for ring in rings:
            ring.close()
    assert all(total % UNIT_BYTES == 0 for total in accumulate(map(len, got)))
