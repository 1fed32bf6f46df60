"""What answers are known by and how many are kept; the clock plays no part."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from stfs.batcher import cache
from stfs.batcher.cache import ENTRY_BYTES, OUTPUT_BYTES, ResponseCache, digest, kept, size_of
from stfs.signature import STRING


def texts(*values, shape=None):
    array = np.empty(len(values), dtype=STRING)
    array[:] = values
    return array if shape is None else array.reshape(shape)


X = np.arange(6, dtype=np.float32)

DIFFERENT = [
    ("s", {"x": X}),
    ("t", {"x": X}),
    ("s", {"y": X}),
    ("s", {"x": X.reshape(2, 3)}),
    ("s", {"x": X.reshape(3, 2)}),
    ("s", {"x": X.view(np.int32)}),
    ("s", {"x": X, "y": X}),
    ("s", {"y": X, "x": X}),
    ("s", {"x": X[:5]}),
    ("s", {"x": X[:0]}),
    ("s", {"x": X[:0].reshape(0, 3)}),
    ("s", {}),
    ("s", {"x": np.array(0.0)}),
    ("s", {"x": np.array(-0.0)}),
    ("s", {"x": texts(b"ab", b"c")}),
    ("s", {"x": texts(b"a", b"bc")}),
    ("s", {"x": texts(b"abc")}),
    ("s", {"x": texts(b"ab", b"c", b"")}),
    ("s", {"x": texts(b"ab", b"c", shape=(2, 1))}),
    ("s", {"x": texts()}),
    ("sx", {}),
]


def test_what_differs_in_anything_has_another_digest():
    assert len({digest(place, inputs) for place, inputs in DIFFERENT}) == len(DIFFERENT)
    assert {len(digest(place, inputs)) for place, inputs in DIFFERENT} == {32}


@settings(deadline=None)
@given(arrays.arrays(st.sampled_from([np.float64, np.int8, np.bool_, np.uint16]), arrays.array_shapes(min_side=0)))
def test_equal_bytes_have_one_digest_however_they_lie(array):
    backwards = np.ascontiguousarray(array[::-1])[::-1]
    assert digest("s", {"x": array}) == digest("s", {"x": backwards}) == digest("s", {"x": array.copy()})


def test_a_digest_is_of_this_process_alone():
    assert len(cache._KEY) == 64
    assert digest("s", {"x": X}) != hashlib.blake2b(X.tobytes(), digest_size=32).digest()


def test_what_is_kept_is_a_copy_that_nobody_can_write_to_and_keeps_no_batch_alive():
    batch = np.arange(1000.0).reshape(100, 10)
    own = kept({"y": batch[3:4], "t": texts(b"a", b"b")[:1], "n": np.array(2.0)})
    assert own["y"].tolist() == [batch[3].tolist()]
    assert own["t"].tolist() == [b"a"]
    assert own["n"].shape == ()
    for array in own.values():
        assert array.base is None
        with pytest.raises(ValueError, match="read-only"):
            array[...] = array
    batch[3] = -1
    assert own["y"][0, 0] == 30.0


def test_the_one_that_was_asked_for_longest_ago_makes_room():
    answer = kept({"y": np.zeros(100)})
    one = size_of(answer)
    keeps = ResponseCache(3 * one)
    for key in (b"a", b"b", b"c"):
        keeps.put(key, answer)
    assert (len(keeps), keeps.size_bytes, keeps.evictions) == (3, 3 * one, 0)
    assert keeps.get(b"a") is not None
    keeps.put(b"d", answer)
    assert keeps.get(b"b") is None
    assert all(keeps.get(key) is not None for key in (b"a", b"c", b"d"))
    assert (len(keeps), keeps.size_bytes, keeps.evictions) == (3, 3 * one, 1)
    keeps.put(b"d", kept({"y": np.zeros(250)}))
    assert keeps.size_bytes <= keeps.limit_bytes, "in the place of what it had, and of what is older"
    assert keeps.get(b"d")["y"].shape == (250,)
    keeps.clear()
    assert (len(keeps), keeps.size_bytes) == (0, 0)


def test_an_answer_larger_than_the_cache_drives_nobody_out():
    small, large = kept({"y": np.zeros(1)}), kept({"y": np.zeros(10_000)})
    keeps = ResponseCache(2 * size_of(small))
    keeps.put(b"s", small)
    keeps.put(b"l", large)
    assert keeps.get(b"l") is None
    assert keeps.get(b"s") is not None
    assert keeps.evictions == 0


def test_the_dictionary_handed_out_is_its_receivers_own():
    keeps = ResponseCache(1 << 20)
    keeps.put(b"k", kept({"y": np.zeros(1)}))
    keeps.get(b"k").clear()
    assert list(keeps.get(b"k")) == ["y"]


def test_strings_count_with_their_text():
    short, long = {"t": texts(b"x")}, {"t": texts(b"x" * 5000)}
    assert size_of(long) - size_of(short) == 4999
    assert size_of({}) == ENTRY_BYTES
    assert size_of({"y": np.zeros(0)}) == ENTRY_BYTES + OUTPUT_BYTES


@pytest.mark.parametrize(
    "answer", [{"y": np.zeros((1, 4), np.float32)}, {"y": np.zeros(2), "t": texts(b"ab" * 20)}], ids=["small", "text"]
)
def test_memory_counted_is_at_least_what_python_takes(answer):
    """Beside the text of strings, which this test's answers share."""
    keeps = ResponseCache(1 << 30)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2000):
            keeps.put(hashlib.blake2b(number.to_bytes(8, "little"), digest_size=32).digest(), kept(answer))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.4 * keeps.size_bytes < taken <= keeps.size_bytes
