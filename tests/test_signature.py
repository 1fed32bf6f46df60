"""Arrays bound to a signature: every name, dtype and shape checked, casts that lose nothing, rows counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stfs.errors import InvalidInput, InvalidRequest
from stfs.signature import STRING, Signature, TensorSpec, can_batch, zeros


def spec(dtype="float32", shape=(None, 3), name="x"):
    return TensorSpec(name, np.dtype(dtype), shape)


def of(*inputs, outputs=(), batchable=True):
    return Signature("serving_default", inputs, outputs, batchable)


# --- one tensor -------------------------------------------------------------------------------------------------------


def test_what_fits_is_passed_on_uncopied():
    value = np.zeros((2, 3), np.float32)
    assert spec().bind(value) is value
    text = np.array([b"a"], dtype=object)
    assert spec("object", (None,)).bind(text) is text


@pytest.mark.parametrize(
    ("have", "want"),
    [
        ("int8", "int64"),
        ("uint8", "int16"),
        ("uint32", "int64"),
        ("bool", "uint8"),
        ("bool", "float32"),
        ("float16", "float64"),
        ("int64", "float32"),
        ("uint64", "float64"),
        ("int32", "float16"),
        ("float64", "float32"),
    ],
)
def test_a_cast_that_keeps_the_values_is_made(have, want):
    value = np.array([[0, 1, 1]], have)
    bound = spec(want).bind(value)
    assert bound.dtype == np.dtype(want)
    np.testing.assert_array_equal(bound, [[0, 1, 1]])
    np.testing.assert_array_equal(value, np.array([[0, 1, 1]], have))


@pytest.mark.parametrize(
    ("have", "want", "told"),
    [
        ("float32", "int64", "dtype float32 cannot be used as int64"),
        ("int64", "int32", "dtype int64 cannot be used as int32"),
        ("int8", "uint8", "dtype int8 cannot be used as uint8"),
        ("uint64", "int64", "dtype uint64 cannot be used as int64"),
        ("int64", "bool", "dtype int64 cannot be used as bool"),
        ("object", "float32", "dtype string cannot be used as float32"),
        ("object", "bool", "dtype string cannot be used as bool"),
        ("int64", "object", "dtype int64 cannot be used as string"),
        ("bool", "object", "dtype bool cannot be used as string"),
        ("complex64", "float32", "dtype complex64 cannot be used as float32"),
        ("datetime64[s]", "int64", "cannot be used as int64"),
    ],
)
def test_a_cast_that_may_lose_something_is_refused(have, want, told):
    with pytest.raises(InvalidInput) as caught:
        spec(want).bind(np.zeros((1, 3), have))
    assert caught.value.input_name == "x"
    assert told in str(caught.value)


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_a_number_that_the_float_cannot_hold_is_refused_and_not_made_infinite(value):
    with pytest.raises(InvalidInput, match=r'input "x".*out of range for float32'):
        spec().bind(np.array([[0.0, value, 1.0]]))


def test_infinity_and_not_a_number_may_be_cast():
    bound = spec("float16").bind(np.array([[np.inf, -np.inf, np.nan]]))
    np.testing.assert_array_equal(bound, np.array([[np.inf, -np.inf, np.nan]], np.float16))


def test_a_foreign_byte_order_is_made_native():
    bound = spec("int32").bind(np.array([[1, 2, 3]], ">i4"))
    assert bound.dtype.isnative
    np.testing.assert_array_equal(bound, [[1, 2, 3]])


@pytest.mark.parametrize("dtype", ["float32", "int64", "object"])
def test_what_is_strided_is_made_contiguous(dtype):
    base = np.arange(24).reshape(3, 8).astype(dtype)
    for value in (base.T, base.T[::-1], base.T[::2], np.asfortranarray(base.T)):
        if dtype == "object":
            assert not value.flags.c_contiguous
        bound = spec(dtype).bind(value)
        assert bound.flags.c_contiguous
        np.testing.assert_array_equal(bound, value)
    scalar = np.array(5, dtype)
    assert spec(dtype, ()).bind(scalar) is scalar


@pytest.mark.parametrize(
    ("want", "have"),
    [
        ((None, 3), (2, 3)),
        ((None, 3), (0, 3)),
        ((None, None), (5, 0)),
        ((), ()),
        ((2,), (2,)),
        (None, ()),
        (None, (1, 2, 3)),
    ],
)
def test_shapes_that_match(want, have):
    value = np.zeros(have, np.float32)
    assert spec(shape=want).bind(value) is value


@pytest.mark.parametrize(
    ("want", "have", "told"),
    [
        ((None, 3), (2, 4), "shape [2, 4] does not match [?, 3]"),
        ((None, 3), (3,), "shape [3] does not match [?, 3]"),
        ((None, 3), (1, 1, 3), "shape [1, 1, 3] does not match [?, 3]"),
        ((), (1,), "shape [1] does not match []"),
        ((None,), (), "shape [] does not match [?]"),
        ((2,), (3,), "shape [3] does not match [2]"),
        ((0,), (1,), "shape [1] does not match [0]"),
    ],
)
def test_shapes_that_do_not(want, have, told):
    with pytest.raises(InvalidInput) as caught:
        spec(shape=want).bind(np.zeros(have, np.float32))
    assert str(caught.value) == f'input "x": {told}'


def test_a_spec_tells_itself():
    assert spec("object").dtype_name == "string"
    assert spec("bool").dtype_name == "bool"
    assert spec(shape=(None, 3)).describe_shape() == "[?, 3]"
    assert spec(shape=()).describe_shape() == "[]"
    assert spec(shape=None).describe_shape() == "unknown"
    assert [spec(shape=shape).varies_in_rows for shape in [(None,), (None, 2), (2, None), (), None]] == [
        True,
        True,
        False,
        False,
        False,
    ]


NUMBERS = [*"efdbhiqBHIQ?"]


@settings(deadline=None)
@given(
    value=st.sampled_from(NUMBERS).flatmap(lambda have: hnp.arrays(have, hnp.array_shapes(max_dims=2, max_side=4))),
    want=st.sampled_from(NUMBERS),
)
def test_a_bound_integer_is_the_same_number_and_a_bound_float_the_nearest(value, want):
    try:
        bound = spec(want, None).bind(value)
    except InvalidInput:
        # Refused: some value of this dtype does not fit, or one of these is too large for the float.
        assert not np.can_cast(value.dtype, want, "safe")
        return
    assert bound.dtype == np.dtype(want)
    assert bound.shape == value.shape
    if bound.dtype.kind == "f":
        np.testing.assert_array_equal(bound, value.astype(want))
        np.testing.assert_array_equal(np.isinf(bound), np.isinf(value))
    else:
        assert bound.tolist() == value.tolist()


# --- a signature ------------------------------------------------------------------------------------------------------


def test_inputs_are_bound_in_the_order_of_the_signature():
    signature = of(spec(name="b"), spec("int64", (None,), name="a"))
    bound = signature.bind({"a": np.array([1]), "b": np.zeros((1, 3), np.int8)})
    assert list(bound) == ["b", "a"]
    assert bound["b"].dtype == np.float32


def test_a_missing_an_unknown_and_a_misspelt_input_are_named():
    signature = of(spec(name="a"), spec(name="b"))
    value = np.zeros((1, 3), np.float32)
    for values, told in [
        ({}, 'input "a": missing; this signature takes "a", "b"'),
        ({"a": value}, 'input "b": missing; this signature takes "a", "b"'),
        ({"a": value, "B": value}, 'input "b": missing; this signature takes "a", "b"'),
        ({"a": value, "b": value, "c": value}, 'input "c": unknown; this signature takes "a", "b"'),
    ]:
        with pytest.raises(InvalidInput) as caught:
            signature.bind(values)
        assert str(caught.value) == told


def test_an_input_is_found_by_name():
    signature = of(spec(name="a"), spec("int64", name="b"))
    assert signature.input("b").dtype == np.int64
    with pytest.raises(InvalidInput, match='input "z": unknown; this signature takes "a", "b"'):
        signature.input("z")


def test_rows_are_those_that_all_inputs_share():
    signature = of(spec(name="a"), spec("int64", (None,), name="b"))
    assert signature.rows({"a": np.zeros((4, 3)), "b": np.zeros(4)}) == 4
    assert signature.rows({"a": np.zeros((0, 3)), "b": np.zeros(0)}) == 0
    with pytest.raises(InvalidRequest, match=r'differ in their number of rows: "a" has 4, "b" has 5'):
        signature.rows({"a": np.zeros((4, 3)), "b": np.zeros(5)})
    with pytest.raises(InvalidRequest, match='"a" has None'):
        signature.rows({"a": np.zeros(())})
    with pytest.raises(InvalidRequest, match='"a" has 4, "b" has None'):
        signature.rows({"a": np.zeros(4), "b": np.zeros(())})


def test_what_stacks_and_what_does_not():
    rows, fixed, unknown, scalar = spec(), spec(shape=(1, 3)), spec(shape=None), spec(shape=())
    assert can_batch((rows, rows), (rows,))
    assert can_batch((rows,), ())
    assert can_batch((rows,), (unknown,))  # warm-up shows
    assert not can_batch((), (rows,))
    for inputs, outputs in [((rows, fixed), (rows,)), ((unknown,), (rows,)), ((rows,), (fixed,)), ((rows,), (scalar,))]:
        assert not can_batch(inputs, outputs)
    assert spec("object").dtype == STRING


# --- missing values and categories ------------------------------------------------------------------------------------


def column(name, dtype="object", nullable=False, values=()):
    return TensorSpec(name, np.dtype(dtype), (None,), nullable=nullable, values=values)


def text(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def test_a_value_outside_its_category_is_named_with_its_row_and_what_is_allowed():
    signature = of(column("colour", values=("red", "blue")), column("n", "int64", values=("1", "2")))
    good = {"colour": text(b"red", b"blue", b"red"), "n": np.array([2, 1, 2])}
    assert signature.bind(good)["colour"] is good["colour"]
    with pytest.raises(InvalidInput) as caught:
        signature.bind(good | {"colour": text(b"red", b"green", b"pink")})
    assert str(caught.value) == 'input "colour", row 1: "green" is not one of its values, "red", "blue"'
    with pytest.raises(InvalidInput) as caught:
        signature.bind(good | {"n": np.array([1, 2, 3])})
    assert str(caught.value) == 'input "n", row 2: "3" is not one of its values, "1", "2"'
    with pytest.raises(InvalidInput, match='"" is not one of its values'):
        signature.bind(good | {"colour": text(b"red", b"", b"red")})
    with pytest.raises(InvalidInput, match='"\N{REPLACEMENT CHARACTER}" is not one'):
        signature.bind(good | {"colour": text(b"red", b"\xff", b"red")})


def test_a_category_of_many_values_is_told_in_part():
    with pytest.raises(InvalidInput) as caught:
        of(column("c", values=tuple(f"v{i}" for i in range(25)))).bind({"c": text(b"x" * 5000)})
    assert str(caught.value).endswith('"v18", "v19" and 5 more')
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("dtype", "values", "have"),
    [
        ("object", ("a", "b"), text(b"a", b"", b"b")),
        ("float64", ("1", "2.5"), np.array([1, np.nan, 2.5])),
        ("float32", ("0.1",), np.array([0.1, np.nan], np.float32)),
    ],
)
def test_missing_is_no_value_of_a_category_and_is_let_by_where_values_may_miss(dtype, values, have):
    signature = of(column("c", dtype, nullable=True, values=values))
    np.testing.assert_array_equal(signature.bind({"c": have})["c"], have)
    with pytest.raises(InvalidInput, match="is not one of its values"):
        of(column("c", dtype, values=values)).bind({"c": have})


def test_values_of_an_input_of_any_rank_are_checked():
    grid = TensorSpec("g", np.dtype("int64"), (None, 2), values=("0", "1"))
    with pytest.raises(InvalidInput, match='input "g", row 1: "2" is not one of its values'):
        of(grid).bind({"g": np.array([[0, 1], [1, 2]])})
    flag = TensorSpec("f", np.dtype("bool"), (None,), values=("true", "false"))
    assert of(flag).bind({"f": np.array([True])})["f"].tolist() == [True]
    with pytest.raises(ValueError, match="invalid literal"):
        of(TensorSpec("n", np.dtype("int64"), (None,), values=("one",)))


def test_a_column_that_may_miss_may_be_left_out():
    signature = of(
        column("x", "float32", nullable=True), column("s", nullable=True, values=("a",)), column("y", "int8")
    )
    bound = signature.bind({"y": np.array([1, 2], np.int8)})
    np.testing.assert_array_equal(bound["x"], np.array([np.nan, np.nan], np.float32))
    assert bound["x"].dtype == np.float32
    assert bound["s"].tolist() == [b"", b""]
    assert list(bound) == ["x", "s", "y"]
    for wrong, told in [
        ({"x": np.zeros(2)}, 'input "y": missing'),
        ({}, 'input "x": missing'),
        ({"y": np.array([1], np.int8), "X": np.zeros(1)}, 'input "x": missing'),
        ({"y": np.array(1, np.int8)}, 'input "x": missing'),
    ]:
        with pytest.raises(InvalidInput, match=told):
            signature.bind(wrong)
    with pytest.raises(InvalidRequest, match="values are missing: send fewer rows"):
        signature.bind({"y": np.zeros(1 << 22, np.int8)})


def test_the_columns_of_a_signature():
    x, s = column("x", "float32"), column("s")
    assert of(x, s).columns == {"x": x, "s": s}
    assert of(x, spec()).columns == {}
    matrix = TensorSpec("data", np.dtype("float32"), (None, 2), columns=("a", "b"))
    assert of(matrix).columns == {"a": matrix, "b": matrix}
    assert of(matrix, spec()).columns == {}
    assert of(TensorSpec("data", np.dtype("float32"), (None, 2), columns=("a", "a"))).columns == {}
    assert of(x) == of(x)
    assert hash(of(x, s)) == hash(of(x, s))


def test_a_mask_in_an_example_lets_something_through():
    ids = TensorSpec("ids", np.dtype("int64"), (None, None))
    mask = TensorSpec("mask", np.dtype("float32"), (None, None), mask_of="ids")
    made = zeros((ids, mask), 2)
    assert (made["ids"].tolist(), made["mask"].tolist()) == ([[0], [0]], [[1.0], [1.0]])
