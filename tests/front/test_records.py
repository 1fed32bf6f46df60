import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stfs import errors
from stfs.front import records
from stfs.front.ring import Ring, create


@pytest.fixture(scope="module")
def rings():
    memory, bell, other_bell = create(1 << 20)
    copies = os.dup(memory), os.dup(other_bell), os.dup(bell)
    made = Ring(memory, bell, other_bell, 1 << 20, first=True), Ring(*copies, 1 << 20, first=False)
    yield made
    for ring in made:
        ring.close()


def through(rings, *calls, **said):
    """The records that come of these."""
    first, second = rings
    for number, arrays in enumerate(calls):
        assert records.write(first, records.REQUEST, number, arrays, **said)
    first.flush()
    found = list(records.read(second.read()))
    second.put(16, [bytes(16)])  # tells the first of the room
    second.flush()
    first.read()
    return found


NUMBERS = hnp.arrays(
    st.sampled_from([np.dtype(code) for code in ("?", "i1", "u2", "<i4", ">i4", "i8", "f2", "f4", ">f8", "c8", "c16")]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)
STRINGS = hnp.arrays(
    np.dtype(object),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    elements=st.binary(max_size=20),
    fill=st.nothing(),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(NUMBERS | STRINGS, max_size=4), min_size=1, max_size=3))
def test_tensors_come_as_they_went(rings, calls):
    for record, arrays in zip(through(rings, *calls), calls, strict=True):
        assert len(record.arrays) == len(arrays)
        for came, went in zip(record.arrays, arrays, strict=True):
            assert came.shape == went.shape
            assert came.dtype == went.dtype.newbyteorder("=")
            assert came.dtype == object or came.flags.writeable
            assert came.ctypes.data % min(16, came.dtype.alignment) == 0
            if went.dtype == object:
                assert came.ravel().tolist() == went.ravel().tolist()
            else:
                assert came.astype(went.dtype).tobytes() == went.tobytes()


def test_arrays_that_are_not_contiguous(rings):
    array = np.arange(24.0).reshape(4, 6)[::2, 1::2]
    (record,) = through(rings, [array])
    np.testing.assert_array_equal(record.arrays[0], array)


def test_what_is_told_beside(rings):
    (record,) = through(rings, [np.int64(3)[None]], model=5, signature=2, deadline_s=12.5, told={"a": ["ü", 1]})
    assert (record.kind, record.model, record.signature, record.deadline_s) == (records.REQUEST, 5, 2, 12.5)
    assert record.told == {"a": ["ü", 1]}
    assert record.arrays[0].tolist() == [3]


def test_a_record_larger_than_a_ring_is_not_begun(rings):
    first, second = rings
    before = first.waiting_bytes
    assert not records.write(first, records.REQUEST, 1, [np.zeros(1 << 20, np.uint8)])
    assert first.waiting_bytes == before
    assert second.read() == b""


@pytest.mark.parametrize("array", [np.zeros(2, "U3"), np.zeros(2, "M8[s]"), np.zeros(2, np.longdouble)])
def test_dtypes_that_cannot_be_told(rings, array):
    with pytest.raises(TypeError, match="cannot go between processes"):
        records.write(rings[0], records.REQUEST, 1, [array])


def test_elements_that_are_no_strings(rings):
    with pytest.raises(TypeError):
        records.write(rings[0], records.REQUEST, 1, [np.array([b"a", 3], object)])


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_records_are_refused_and_not_misread(rings, data):
    first, second = rings
    assert records.write(first, records.REQUEST, 1, [np.arange(6.0), np.array([b"ab"], object)], told={"k": 1})
    first.flush()
    whole = second.read()
    second.put(16, [bytes(16)])
    second.flush()
    first.read()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    try:
        found = list(records.read(bytearray(damaged)))
    except (ValueError, TypeError, IndexError, KeyError, MemoryError, OverflowError, struct.error):
        return
    assert sum(array.nbytes for record in found for array in record.arrays if array.dtype != object) <= len(whole)


ERRORS = [
    errors.InvalidRequest("wrong"),
    errors.InvalidInput("x", "missing"),
    errors.BadElement("ragged", 17, (0, 3)),
    errors.MalformedJson("no value", 3),
    errors.ModelNotFound("no model", "m", 3),
    errors.Overloaded("full", 2.5),
    errors.DeadlineExceeded("late"),
    errors.ModelFailed("raised ü"),
    errors.PlatformMissing("onnx", "onnx"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_come_as_they_went(error):
    came = records.decode_error(records.encode_error(error))
    assert type(came) is type(error)
    assert str(came) == str(error)
    assert vars(came) == vars(error)


def test_an_error_of_somebody_elses_kind_is_told_as_the_nearest_of_ours():
    class Own(errors.InvalidRequest):
        pass

    came = records.decode_error(records.encode_error(Own("odd")))
    assert type(came) is errors.InvalidRequest
    assert str(came) == "odd"
