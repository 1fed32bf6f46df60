"""TensorProto against TensorFlow's own: every dtype, both forms, odd encodings, wrong ones, damage."""

import contextlib
import os

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stfs.errors import InvalidRequest, RequestError
from stfs.protocols import tensor_pb, wire
from stfs.protocols.tensor_pb import Budget

DTYPES = [kind.dtype for kind in tensor_pb.KINDS]
FIELDS = {
    "half": 13,
    "float": 5,
    "double": 6,
    "int": 7,
    "string": 8,
    "int64": 10,
    "bool": 11,
    "uint32": 16,
    "uint64": 17,
}


def decode(data, *, budget=None):
    return tensor_pb.decode(data, [(0, len(data))], "x", budget or Budget())


def shape_field(*sizes):
    return wire.encode_bytes(2, b"".join(wire.encode_bytes(2, wire.encode_number(1, size)) for size in sizes))


def message(number, sizes, *parts):
    return wire.encode_number(1, number) + shape_field(*sizes) + b"".join(parts)


def strings(shape):
    flat = st.lists(st.binary(max_size=6), min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))

    def build(values):
        array = np.empty(len(values), object)
        array[:] = values
        return array.reshape(shape)

    return flat.map(build)


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    return draw(strings(shape) if dtype.kind == "O" else hnp.arrays(dtype, shape))


def assume_numpy_keeps(array):
    """TensorFlow's Python takes some strings through numpy's own kind, which drops zeros at their ends."""
    assume(array.dtype != object or not any(value.endswith(b"\0") for value in array.flat))


def same(one, other):
    """Equal in dtype, shape and every bit, NaN's too."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()


@given(arrays())
def test_what_is_written_is_read(array):
    back = decode(tensor_pb.encode(array))
    assert same(back, array)
    assert back.flags.writeable
    assert back.flags.c_contiguous
    assert back.flags.aligned


def test_arrays_that_do_not_lie_in_order_are_written_in_order():
    array = np.arange(12, dtype=np.float16).reshape(3, 4).T
    assert same(decode(tensor_pb.encode(array)), array)
    assert same(decode(tensor_pb.encode(array.astype(np.int32))), array.astype(np.int32))


def test_answers_are_typed_and_packed():
    data = tensor_pb.encode(np.array([[1.0, 2.0]], np.float32))
    assert (
        data
        == b"\x08\x01" + b"\x12\x08\x12\x02\x08\x01\x12\x02\x08\x02" + b"\x2a\x08" + np.array([1, 2], "<f4").tobytes()
    )
    assert tensor_pb.encode(np.float32(0.5).reshape(())) == b"\x08\x01\x12\x00\x2a\x04" + np.float32(0.5).tobytes()
    with pytest.raises(TypeError, match="complex64"):
        tensor_pb.encode(np.zeros(1, np.complex64))


FLOATS = np.array([1.5, -2.0, 3.25], "<f4")


@pytest.mark.parametrize(
    "data",
    [
        message(1, [3], wire.encode_bytes(5, FLOATS.tobytes())),
        wire.encode_bytes(5, FLOATS.tobytes()) + shape_field(3) + wire.encode_number(1, 1),
        message(1, [3], wire.encode_bytes(4, FLOATS.tobytes())),
        message(1, [3], *(b"\x2d" + FLOATS[i : i + 1].tobytes() for i in range(3))),
        message(1, [3], b"\x2d" + FLOATS[:1].tobytes(), wire.encode_bytes(5, FLOATS[1:].tobytes())),
        message(1, [3], wire.encode_bytes(5, b""), wire.encode_bytes(5, FLOATS.tobytes())),
        message(1, [3], wire.encode_bytes(99, b"?"), wire.encode_number(3, 7), wire.encode_bytes(5, FLOATS.tobytes())),
        message(1, [3], wire.encode_bytes(7, b"\x01\x02"), wire.encode_bytes(5, FLOATS.tobytes())),
        wire.encode_number(1, 9) + message(1, [3], wire.encode_bytes(5, FLOATS.tobytes())),
        message(1, [3], wire.encode_bytes(4, b"old"), wire.encode_bytes(4, FLOATS.tobytes())),
    ],
    ids=[
        "packed",
        "backwards",
        "content",
        "singles",
        "mixed",
        "empty first",
        "unknown",
        "other field",
        "twice",
        "last",
    ],
)
def test_every_encoding_of_the_same_tensor(data):
    assert same(decode(data), FLOATS.astype(np.float32))


def test_messages_that_stand_twice_are_merged():
    one, two = message(1, [3]), wire.encode_bytes(5, FLOATS.tobytes()) + shape_field(1)
    data = one + two
    assert same(tensor_pb.decode(data, [(0, len(one)), (len(one), len(data))], "x", Budget()), FLOATS[:, None])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], [0, 0, 0, 0]), ([7], [7, 7, 7, 7]), ([1, 2], [1, 2, 2, 2]), ([1, 2, 3, 4], [1, 2, 3, 4])],
)
def test_fewer_values_than_elements_repeat_the_last(values, expected):
    packed = wire.pack_varints(np.array(values, np.uint64))
    assert decode(message(3, [2, 2], wire.encode_bytes(7, packed))).ravel().tolist() == expected
    texts = wire.encode_strings(8, [b"%d\0" % value for value in values])
    assert decode(message(7, [4], texts)).tolist() == [b"%d\0" % value if value else b"" for value in expected]


def test_what_nobody_wrote_is_bounded():
    data = message(1, [1000], wire.encode_bytes(5, FLOATS[:1].tobytes()))
    budget = Budget(1500)
    assert decode(data, budget=budget).shape == (1000,)
    with pytest.raises(InvalidRequest, match="left to be filled in"):
        decode(data, budget=budget)
    for sizes in ([1 << 40], [1 << 62, 1 << 62], [1 << 40, 0], [0, 1 << 62, 1 << 62]):
        with pytest.raises(InvalidRequest):
            decode(message(1, sizes))


def test_bfloat16_becomes_float32():
    wanted = np.array([1.0, -2.5], np.float32)
    bits = (wanted.view(np.uint32) >> 16).astype("<u2")
    for part in (
        wire.encode_bytes(13, wire.pack_varints(bits.astype(np.uint64))),
        wire.encode_bytes(4, bits.tobytes()),
    ):
        assert same(decode(message(14, [2], part)), wanted)


def test_strings_of_content():
    """All lengths, then all the bytes."""
    assert decode(message(7, [2], wire.encode_bytes(4, b"\x01\x03ab\0c"))).tolist() == [b"a", b"b\0c"]
    for wrong in (b"\x01\x03ab", b"\x01\x03abcde", b"\x09", b"\xff\xff"):
        with pytest.raises(InvalidRequest):
            decode(message(7, [2], wire.encode_bytes(4, wrong)))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "dtype number 0"),
        (message(8, [1]), "dtype number 8"),
        (message(-1, [1]), "dtype number -1"),
        (message(1, [2], wire.encode_bytes(5, FLOATS.tobytes())), "3 values of DT_FLOAT where its shape holds 2"),
        (message(1, [2], wire.encode_bytes(4, FLOATS.tobytes())), "tensor_content has 12 bytes where 2 elements"),
        (message(1, [-1]), "dimension 0 of its shape is -1"),
        (message(1, [2, -5]), "dimension 1 of its shape is -5"),
        (wire.encode_number(1, 1) + wire.encode_bytes(2, b"\x18\x01"), "unknown rank"),
        (message(1, [0], wire.encode_bytes(5, FLOATS.tobytes())), "values for shape"),
        (message(4, [1], wire.encode_bytes(7, wire.encode_varint(256))), "out of range for DT_UINT8"),
        (message(6, [1], wire.encode_bytes(7, wire.encode_varint(-129))), "out of range for DT_INT8"),
        (message(19, [1], wire.encode_bytes(13, wire.encode_varint(65536))), "more than 16 bits"),
        (message(1, [1] * 70, wire.encode_bytes(5, FLOATS[:1].tobytes())), "70 dimensions"),
        (message(1, [3], wire.encode_bytes(5, FLOATS.tobytes()[:-1])), "4-byte numbers has 11 bytes"),
        (message(3, [1], wire.encode_bytes(7, b"\x80")), "cut short"),
        (message(1, [3], wire.encode_bytes(5, FLOATS.tobytes()))[:-2], "cut short"),
    ],
)
def test_what_is_wrong_is_told(data, problem):
    with pytest.raises(InvalidRequest, match=problem):
        decode(data)


@given(arrays(), st.data())
@settings(max_examples=300)
def test_damage_is_told_and_never_crashes(array, data):
    whole = bytearray(tensor_pb.encode(array))
    for _ in range(data.draw(st.integers(0, 3))):
        if whole:
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(RequestError):
        assert isinstance(decode(cut, budget=Budget(10_000)), np.ndarray)


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_no_bytes_raise_anything_but_request_errors(data):
    with contextlib.suppress(RequestError):
        assert isinstance(decode(data, budget=Budget(10_000)), np.ndarray)


@pytest.fixture(scope="module")
def tf():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow")


@pytest.mark.slow
@given(array=arrays())
@settings(deadline=None)
def test_tensorflow_reads_what_is_written(tf, array):
    assume_numpy_keeps(array)
    proto = tf.make_tensor_proto(0.0)
    proto.ParseFromString(tensor_pb.encode(array))
    assert not proto.tensor_content
    got = tf.make_ndarray(proto)
    assert got.shape == array.shape
    assert same(got.astype(array.dtype), array)
    assert same(
        np.asarray(tf.io.parse_tensor(tensor_pb.encode(array), tf.as_dtype(proto.dtype)).numpy()).astype(array.dtype),
        array,
    )


@pytest.mark.slow
@given(array=arrays())
@settings(deadline=None)
def test_what_tensorflow_writes_is_read(tf, array):
    """``make_tensor_proto`` gives content for numbers and values for strings; ``AsProtoField`` is the other form."""
    assume_numpy_keeps(array)
    dtype = tf.string if array.dtype == object else tf.as_dtype(array.dtype)
    for values in (array.tolist(), array):
        proto = tf.make_tensor_proto(values, dtype, array.shape)
        told = tf.make_ndarray(proto)  # Python's floats make a signalling NaN quiet on their way into the message
        np.testing.assert_array_equal(told, array)
        assert same(decode(proto.SerializeToString()), told)
    content = tf.io.serialize_tensor(tf.constant(array, dtype, array.shape)).numpy()
    assert same(decode(content), array)


@st.composite
def odd_fields(draw):
    """Fields of one int32 or float tensor, in any order, repeated, packed or not, with strangers between."""
    number, field = draw(
        st.sampled_from([(1, 5), (2, 6), (3, 7), (9, 10), (10, 11), (22, 16), (23, 17), (19, 13), (7, 8)])
    )
    parts = [wire.encode_number(1, number)]
    count = 0
    for _ in range(draw(st.integers(0, 3))):
        values = draw(st.lists(st.integers(0, 1) if field == 11 else st.integers(0, 60000), max_size=4))
        count += len(values)
        packed = draw(st.booleans())
        if field == 8:
            parts.append(wire.encode_strings(8, [b"%d" % v for v in values]))
        elif field in (5, 6):
            raw = np.array(values, "<f4" if field == 5 else "<f8")
            kind = wire.FIXED32 if field == 5 else wire.FIXED64
            one = b"".join(bytes([field << 3 | kind]) + v.tobytes() for v in raw)
            parts.append(wire.encode_bytes(field, raw.tobytes()) if packed else one)
        else:
            tag = wire.encode_varint(field << 3)
            one = b"".join(tag + wire.encode_varint(v) for v in values)
            parts.append(wire.encode_bytes(field, wire.pack_varints(np.array(values, np.uint64))) if packed else one)
    parts.append(shape_field(count + draw(st.integers(0, 3))))
    parts += draw(
        st.lists(st.sampled_from([wire.encode_number(3, 5), wire.encode_bytes(900, b"?"), b"\x43\x44"]), max_size=2)
    )
    return b"".join(draw(st.permutations(parts)))


@pytest.mark.slow
@given(data=odd_fields())
@settings(deadline=None, max_examples=300)
def test_odd_encodings_mean_what_they_mean_to_tensorflow(tf, data):
    proto = tf.make_tensor_proto(0.0)
    proto.ParseFromString(data)
    wanted = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype)).numpy()
    assert same(decode(data), wanted)
