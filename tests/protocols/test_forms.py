"""Every form of a table gives the same arrays, in both dialects and over both codec twins; wrong ones are told how."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import BOTH

from stfs import codec, errors
from stfs.protocols import request as common
from stfs.protocols import stfs, tfserving
from stfs.signature import MAX_FILLED, Signature, TensorSpec


@pytest.fixture(params=BOTH, scope="module", autouse=True)
def twin(request):
    """Each test runs over the readable twin and over the compiled one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Reader", "Column", "encode", "encode_rows", "encode_string"):
            patch.setattr(codec, name, getattr(request.param, name))
        for room in (stfs, tfserving, common):
            patch.setattr(room, "Reader", request.param.Reader)
        yield request.param


def of(*inputs):
    return Signature("serving_default", inputs, (), batchable=True)


def column(name, dtype="float64", **more):
    return TensorSpec(name, np.dtype(dtype), (None,), **more)


AGE = column("age", "float32", nullable=True)
SEX = column("sex", "object", nullable=True, values=("f", "m"))
LEVEL = column("level", "object", values=("1", "2", "3"))
COUNT = column("count", "int64")
RECORDS = of(AGE, SEX, LEVEL, COUNT)
MATRIX = of(TensorSpec("data", np.dtype("float32"), (None, 3), nullable=True, columns=("sl", "sw", "pl")))
STRICT_MATRIX = of(TensorSpec("data", np.dtype("float32"), (None, 3), columns=("sl", "sw", "pl")))


def text(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def bound(signature, body):
    """What the model would be given for an STFS body."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    found, inputs = stfs.decode(body, lambda *_: signature)
    return found.bind(inputs)


def bound_by_tfserving(signature, body):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    found, inputs, _ = tfserving.decode_predict(body, lambda *_: signature)
    return found.bind(inputs)


def same(got, want):
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].flags.c_contiguous
        np.testing.assert_array_equal(got[name], array)


def told(signature, data, decoder=bound, kind=errors.InvalidInput):
    with pytest.raises(errors.InvalidRequest) as caught:
        decoder(signature, data)
    assert type(caught.value) is kind, caught.value
    return str(caught.value)


TWO_ROWS = {
    "age": np.array([31, np.nan], np.float32),
    "sex": text(b"f", b""),
    "level": text(b"1", b"3"),
    "count": np.array([7, 8]),
}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param({"age": [31, None], "sex": ["f", None], "level": ["1", 3], "count": [7, 8]}, id="columns"),
        pytest.param(
            [{"count": 7, "age": 31, "sex": "f", "level": 1}, {"level": "3", "count": 8}], id="row objects, some short"
        ),
        pytest.param([[31, "f", "1", 7], [None, None, 3, 8.0]], id="row lists"),
        pytest.param(
            {
                "age": {"0": 31, "1": None},
                "level": {"1": "3", "0": "1"},
                "count": {"0": 7, "1": 8},
                "sex": {"0": "f", "1": None},
            },
            id="by column and index",
        ),
        pytest.param(
            {"0": {"age": 31, "sex": "f", "level": 1, "count": 7}, "1": {"level": 3, "count": 8, "sex": None}},
            id="by index",
        ),
    ],
)
def test_the_forms_of_a_table(data):
    same(bound(RECORDS, {"data": data}), TWO_ROWS)
    same(bound(RECORDS, {"data": {"data": data}}), TWO_ROWS)
    same(bound(RECORDS, {"model_version": 1, "data": {"data": data}, "model_name": "m"}), TWO_ROWS)


ONE_ROW = {"age": np.array([31], np.float32), "sex": text(b"m"), "level": text(b"2"), "count": np.array([7])}


def test_one_flat_record():
    record = {"age": 31, "sex": "m", "level": 2, "count": 7}
    same(bound(RECORDS, {"data": record}), ONE_ROW)
    same(bound(RECORDS, {"data": {"data": record}}), ONE_ROW)
    same(bound(RECORDS, record), ONE_ROW)
    same(bound(RECORDS, {"model_name": "m", "count": 7, "level": "2", "sex": "m", "age": 31}), ONE_ROW)
    same(bound(of(column("x")), {"data": 1.5}), {"x": np.array([1.5])})
    same(bound(of(column("x", "object")), {"data": {"b64": "YQ=="}}), {"x": text(b"a")})
    same(bound(of(column("x", "object")), {"data": {"x": {"b64": "YQ=="}}}), {"x": text(b"a")})


def test_what_may_miss_may_be_left_out_and_the_rest_may_not():
    want = {**ONE_ROW, "age": np.array([np.nan], np.float32), "sex": text(b"")}
    for data in ({"level": "2", "count": 7}, [{"level": "2", "count": 7}], {"x": {"level": "2", "count": 7}}):
        same(bound(RECORDS, {"data": data}), want)
    names = '"age", "sex", "level", "count"'
    assert told(RECORDS, {"data": {"age": 1, "level": "1"}}) == f'input "count": missing; this signature takes {names}'
    assert told(RECORDS, {"data": [{"level": "1", "count": 1}, {"count": 1}]}) == (
        f'input "level", row 1: missing; this signature takes {names}'
    )
    assert told(RECORDS, {"data": {"a": {"count": 1}}}).startswith('input "level", row 0: missing')
    assert told(RECORDS, {"data": {}}).startswith('input "age": missing')


def test_null_where_nothing_may_miss_is_refused_in_every_form():
    for data in (
        {"age": [1], "sex": ["f"], "level": ["1"], "count": [None]},
        {"age": 1, "sex": "f", "level": "1", "count": None},
        [{"age": 1, "sex": "f", "level": "1", "count": None}],
        [[1, "f", "1", None]],
        {"count": {"0": None}},
        {"0": {"count": None}},
    ):
        assert told(RECORDS, {"data": data}).startswith('input "count"')
        assert "expected an integer, found null" in told(RECORDS, {"data": data})


def test_what_a_record_has_beside_the_columns_is_passed_over_if_nothing_is_missing():
    whole = {"id": 5, "age": 31, "sex": "m", "level": "2", "count": 7, "response": {"deep": [1, None]}}
    same(bound(RECORDS, {"data": whole}), ONE_ROW)
    same(bound(RECORDS, {"data": [whole]}), ONE_ROW)
    same(bound(RECORDS, {"data": {"data": {"0": whole}}}), ONE_ROW)
    same(bound(RECORDS, {"data": {key: [value] for key, value in whole.items()}}), ONE_ROW)
    same(bound(RECORDS, {"data": {key: {"0": value} for key, value in whole.items()}}), ONE_ROW)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        ({"Age": 31, "sex": "m", "level": "2", "count": 7}, ""),
        ({"Age": [31], "sex": ["m"], "level": ["2"], "count": [7]}, ""),
        ([{"Age": 31, "sex": "m", "level": "2", "count": 7}], ", row 0"),
        ({"r": {"Age": 31, "sex": "m", "level": "2", "count": 7}}, ", row 0"),
    ],
)
def test_a_misspelt_column_does_not_go_missing(data, where):
    said = f'input "Age"{where}: unknown, and "age" is missing; this signature takes "age", "sex", "level", "count"'
    assert told(RECORDS, {"data": data}) == said


def test_a_value_outside_its_category_is_refused_in_every_form():
    for data in (
        {"sex": ["f", "x"], "level": [1, 2], "count": [7, 8]},
        [[1, "f", 1, 7], [2, "x", 2, 8]],
        [{"sex": "f", "level": 1, "count": 7}, {"sex": "x", "level": 2, "count": 8}],
    ):
        assert told(RECORDS, {"data": data}) == 'input "sex", row 1: "x" is not one of its values, "f", "m"'
    assert (
        told(RECORDS, {"data": [[1, "f", 4, 7]]}) == 'input "level", row 0: "4" is not one of its values, "1", "2", "3"'
    )


def test_broken_rows_are_told_with_their_place():
    one = {"age": 1, "sex": "f", "level": "1", "count": 7}
    row = [1, "f", "1", 7]
    plain = errors.InvalidRequest
    names = '"age", "sex", "level", "count"'
    assert told(RECORDS, {"data": [one, row]}, kind=plain) == '"data" [1] is array where the ones before are objects'
    assert told(RECORDS, {"data": [row, one]}, kind=plain) == '"data" [1] is object where the ones before are lists'
    assert told(RECORDS, {"data": [row, row[:3]]}, kind=plain) == (
        f'"data" [1] has only 3 of the 4 values that a row has: {names}'
    )
    assert told(RECORDS, {"data": [[*row, 1]]}, kind=plain) == (
        f'"data" [0] has more than 4 of the 4 values that a row has: {names}'
    )
    assert told(RECORDS, b'{"data":[{"age":1,"age":2}]}') == 'input "age", row 0: stands twice'
    assert told(RECORDS, {"data": [[1, "f", "1", "7"]]}).startswith(
        'input "count", element [0] at byte 24: expected an'
    )
    assert told(RECORDS, {"data": [[1, "f", "1", [7]], [1, "f", "1", 7]]}).startswith('input "count", element [1]')
    assert told(RECORDS, {"data": [row, 1]}, kind=plain) == '"data" [1] is number where the ones before are lists'
    assert "must be an object that names" in told(RECORDS, {"data": [1, 2]}, kind=plain)
    assert "must be an object that names" in told(RECORDS, {"data": []}, kind=plain)
    assert "malformed" in told(RECORDS, b'{"data":[[1,"f","1",7}]}', kind=errors.MalformedJson)


def test_indices_that_differ_are_told():
    base = {"level": {"0": 1, "1": 2}, "count": {"0": 1, "1": 2}}
    for count, said in [
        ({"0": 1}, 'input "count": index "1" is not in every column'),
        ({"0": 1, "1": 2, "2": 3}, 'input "count": index "2" is not in every column'),
    ]:
        assert told(RECORDS, {"data": base | {"count": count}}) == said
    assert told(RECORDS, b'{"data":{"level":{"0":1,"0":2}}}') == 'input "level": index "0" stands twice'
    one = '{"level":1,"count":1}'
    body = b'{"data":{"0":%b,"0":%b}}' % (one.encode(), one.encode())
    assert told(RECORDS, body, kind=errors.InvalidRequest) == 'row "0" stands twice'
    body = {"data": {"0": json.loads(one), "1": [1]}}
    assert told(RECORDS, body, kind=errors.InvalidRequest) == '"1" is array where the ones before are rows'


def test_rows_told_by_index_stand_as_written_but_for_numbers_sorted_as_text():
    x = of(column("x"))
    shuffled = [3, 1, 0, 2]
    as_text = sorted(range(12), key=str)
    assert as_text != list(range(12))
    for keys, want in [(shuffled, shuffled), (as_text, list(range(12))), (range(12), list(range(12)))]:
        same(bound(x, {"data": {"x": {str(k): k for k in keys}}}), {"x": np.array(want, float)})
        same(bound(x, {"data": {str(k): {"x": k} for k in keys}}), {"x": np.array(want, float)})
    same(bound(x, {"data": {"x": {"b": 1, "a": 2}}}), {"x": np.array([1.0, 2.0])})


# --- a matrix whose columns have names --------------------------------------------------------------------------------

WANT = {"data": np.array([[1, 2, 3], [4, np.nan, 6]], np.float32)}


@pytest.mark.parametrize(
    "data",
    [
        [[1, 2, 3], [4, None, 6]],
        {"data": [[1, 2, 3], [4, None, 6]]},
        [{"pl": 3, "sl": 1, "sw": 2}, {"sl": 4, "pl": 6}],
        [{"data": [1, 2, 3]}, {"data": [4, None, 6]}],
        {"sl": [1, 4], "pl": [3, 6], "sw": [2, None]},
        {"sl": {"0": 1, "1": 4}, "pl": {"0": 3, "1": 6}, "sw": {"1": None, "0": 2}},
        {"0": {"sl": 1, "sw": 2, "pl": 3}, "1": {"sl": 4, "sw": None, "pl": 6, "species": "x"}},
    ],
)
def test_the_forms_of_a_matrix_with_named_columns(data):
    same(bound(MATRIX, {"data": data}), WANT)
    same(bound(MATRIX, {"data": {"data": data}}), WANT)


def test_one_row_of_named_features():
    want = {"data": np.array([[1, 2, 3]], np.float32)}
    same(bound(STRICT_MATRIX, {"data": {"sw": 2, "pl": 3, "sl": 1, "species": "x"}}), want)
    same(bound(STRICT_MATRIX, {"sw": 2, "pl": 3, "sl": 1}), want)
    same(bound(MATRIX, {"data": {"sl": 1, "pl": 3}}), {"data": np.array([[1, np.nan, 3]], np.float32)})


def test_named_features_that_do_not_fit_are_told():
    assert told(STRICT_MATRIX, {"data": {"sl": 1, "pl": 3}}) == (
        'input "sw": missing; this signature takes "sl", "sw", "pl"'
    )
    assert told(MATRIX, {"data": {"sl": 1, "pl": 3, "SW": 1}}).startswith('input "SW": unknown, and "sw" is missing')
    assert told(MATRIX, {"data": {"data": [[1, 2, 3]], "SW": 1}}).startswith('input "SW": unknown')
    assert told(MATRIX, {"data": {"data": [[1, 2, 3]], "sw": 1}}) == 'input "data": sent whole, and "sw" beside it'
    assert told(MATRIX, {"data": {"sl": [1, 2], "sw": [1], "pl": [1, 2]}}, kind=errors.InvalidRequest) == (
        'columns differ in their number of rows: "sl" has 2, "sw" has 1, "pl" has 2'
    )
    assert told(MATRIX, {"data": {"sl": [[1]], "sw": [1], "pl": [1]}}) == (
        'input "sl": shape [1, 1] is not one value a row'
    )
    assert told(MATRIX, {"data": {"sl": ["a"]}}).startswith('input "sl", element [0] at byte')
    assert told(MATRIX, {"data": [{"sl": "a"}]}).startswith('input "sl", element [0] at byte')
    assert told(STRICT_MATRIX, {"data": [[1, 2, None]]}).startswith('input "data", element [0][2]')


def test_many_missing_values_are_refused_before_they_are_made():
    wide = of(TensorSpec("d", np.dtype("float32"), (None, 3000), nullable=True, columns=tuple(map(str, range(3000)))))
    rows = MAX_FILLED // 2999 + 1
    assert "values are missing: send fewer rows" in told(wide, {"data": {"7": [0] * rows}}, kind=errors.InvalidRequest)
    few = of(*(column(f"c{i}", nullable=True) for i in range(3000)))
    body = {"data": {"c0": [0] * rows}}
    assert "values are missing: send fewer rows" in told(few, body, kind=errors.InvalidRequest)


def test_an_error_lists_only_some_of_many_columns():
    wide = of(*(column(f"c{i}") for i in range(500)))
    said = told(wide, {"data": [{"c1": 1}]})
    assert said.endswith('"c18", "c19", ... (500 columns)')
    assert len(said) < 400


# --- signatures that are no tables ------------------------------------------------------------------------------------

TENSORS = of(TensorSpec("keys", np.dtype("int32"), (None, 1)), TensorSpec("features", np.dtype("float32"), (None, 2)))


def test_rows_of_tensors_may_be_objects_too_and_stay_strict():
    want = {"keys": np.array([[1], [2]], np.int32), "features": np.array([[1, 2], [3, 4]], np.float32)}
    rows = [{"keys": [1], "features": [1, 2]}, {"features": [3, 4], "keys": [2]}]
    same(bound(TENSORS, {"data": rows}), want)
    assert told(TENSORS, {"data": [rows[0] | {"other": 1}]}) == (
        'input "other": unknown; this signature takes "keys", "features"'
    )
    assert told(TENSORS, {"data": {"keys": [[1]], "features": [[1, 2]], "other": 1}}).startswith('input "other": unkn')
    assert told(TENSORS, {"data": {"0": {"keys": [1], "features": [1, 2]}}}).startswith('input "0": unknown')
    assert "must be an object" in told(TENSORS, {"data": [[1, 2, 3]]}, kind=errors.InvalidRequest)


def test_a_signature_without_inputs_has_no_rows_to_read():
    nothing = of()
    for decoder, key in ((bound, "data"), (bound_by_tfserving, "instances")):
        assert decoder(nothing, {key: [{}]}) == {}
        assert told(nothing, {key: [{"x": 1}]}, decoder).startswith('input "x": unknown')
    assert told(nothing, {"data": {"x": 1}}).startswith('input "x": unknown')
    assert "must be an object" in told(nothing, {"data": [[1]]}, kind=errors.InvalidRequest)


def test_a_matrix_whose_only_feature_has_its_name():
    same_name = of(TensorSpec("x", np.dtype("float32"), (None, 1), columns=("x",)))
    want = {"x": np.array([[1]], np.float32)}
    for data in ({"x": [[1]]}, [[1]], [{"x": [1]}]):
        same(bound(same_name, {"data": data}), want)


def test_data_within_data_goes_one_level_deep():
    deep = b'{"data":' * 400 + b"[[1,2,3]]" + b"}" * 400
    with pytest.raises(errors.InvalidRequest):
        bound(MATRIX, deep)
    with pytest.raises(errors.InvalidRequest):
        bound(RECORDS, deep)


# --- sparse rows ------------------------------------------------------------------------------------------------------

SPARSE = of(TensorSpec("features", np.dtype("float32"), (None, 5)))


def test_sparse_rows_are_made_dense():
    flat = {"format": "libsvm", "max_ids": 5, "ids": [4, 1], "values": [2.5, 1]}
    want = np.array([[0, 1, 0, 0, 2.5]], np.float32)
    same(bound(SPARSE, {"data": flat}), {"features": want})
    same(bound(SPARSE, {"data": {"data": flat}}), {"features": want})
    same(bound(SPARSE, {"data": dict(reversed(flat.items()))}), {"features": want})
    two = {"format": "libsvm", "ids": [[4, 1], []], "values": [[2.5, 1], []]}
    same(bound(SPARSE, {"data": two}), {"features": np.concatenate([want, np.zeros((1, 5), np.float32)])})
    unsized = of(TensorSpec("features", np.dtype("float64"), (None, None)))
    same(bound(unsized, {"data": flat}), {"features": want.astype(float)})
    empty = {"format": "libsvm", "ids": [], "values": []}
    same(bound(SPARSE, {"data": empty}), {"features": np.zeros((1, 5), np.float32)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ids": [5]}, ", row 0: 5 is not an id from 0 to 4"),
        ({"ids": [-1]}, ", row 0: -1 is not an id"),
        ({"ids": [True]}, ", row 0: True is not an id"),
        ({"ids": [1.0]}, ", row 0: 1.0 is not an id"),
        ({"ids": [1, 1], "values": [1, 2]}, ", row 0: an id stands twice"),
        ({"ids": [1, 2]}, ', row 0: "ids" and "values" must be lists of one length'),
        ({"ids": [[1], 2], "values": [[1], [2]]}, ', row 1: "ids" and "values" must be lists of one length'),
        ({"ids": [[1]], "values": [[1], [2]]}, ': "ids" has 1 rows and "values" 2'),
        ({"values": ["a"]}, ", row 0: 'a' is not a number"),
        ({"values": [None]}, ", row 0: None is not a number"),
        ({"values": [10**400]}, ", row 0: a value is out of range for float64"),
        ({"values": [1e300]}, ": a value is out of range for float32"),
        ({"format": "csv"}, ': "format" must be "libsvm", not \'csv\''),
        ({"max_ids": 6}, ': "max_ids" is 6, and the model takes 5 features'),
        ({"max_ids": "5"}, ": \"max_ids\" must be the number of features, not '5'"),
        ({"ids": 3}, ': "ids" and "values" must be lists'),
        ({"extra": 3}, ': "extra" is no key of sparse rows: format, max_ids, ids, values'),
    ],
)
def test_broken_sparse_rows_are_told(change, said):
    good = {"format": "libsvm", "max_ids": 5, "ids": [1], "values": [2]}
    assert told(SPARSE, {"data": good | change}).startswith('input "features"' + said)


def test_sparse_rows_cannot_ask_for_more_memory_than_fits():
    wide = of(TensorSpec("features", np.dtype("float32"), (None, 10**6)))
    data = {"format": "libsvm", "ids": [[]] * 1000, "values": [[]] * 1000}
    assert "send fewer rows at a time" in told(wide, {"data": data})
    anything = of(TensorSpec("features", np.dtype("float32"), (None, None)))
    data = {"format": "libsvm", "max_ids": 10**18, "ids": [], "values": []}
    assert "send fewer rows at a time" in told(anything, {"data": data})


def test_only_a_matrix_of_floats_takes_sparse_rows():
    sparse = {"format": "libsvm", "ids": [1], "values": [1]}
    assert told(TENSORS, {"data": sparse}).startswith('input "format": unknown')
    whole = of(TensorSpec("x", np.dtype("int64"), (None, 5)))
    assert told(whole, {"data": sparse}).startswith('input "format": unknown')
    named = of(TensorSpec("x", np.dtype("float32"), (None, 2), columns=("ids", "values")))
    same(bound(named, {"data": {"ids": 1, "values": 2}}), {"x": np.array([[1, 2]], np.float32)})


# --- TensorFlow Serving's dialect -------------------------------------------------------------------------------------


def test_tables_in_tensorflow_servings_dialect():
    rows = [{"age": 31, "sex": "f", "level": 1, "count": 7}, {"age": None, "sex": None, "level": "3", "count": 8}]
    same(bound_by_tfserving(RECORDS, {"instances": rows}), TWO_ROWS)
    short = [rows[0], {"level": "3", "count": 8}]
    same(bound_by_tfserving(RECORDS, {"instances": short}), TWO_ROWS)
    columns = {"age": [31, None], "sex": ["f", None], "level": [1, 3], "count": [7, 8]}
    same(bound_by_tfserving(RECORDS, {"inputs": columns}), TWO_ROWS)
    same(bound_by_tfserving(of(AGE), {"instances": [31, None]}), {"age": TWO_ROWS["age"]})
    same(bound_by_tfserving(MATRIX, {"instances": [[1, 2, 3], [4, None, 6]]}), WANT)
    features = [{"pl": 3, "sl": 1, "sw": 2}, {"sl": 4, "pl": 6}]
    same(bound_by_tfserving(MATRIX, {"instances": features}), WANT)
    same(bound_by_tfserving(MATRIX, {"instances": [{"data": [1, 2, 3]}, {"data": [4, None, 6]}]}), WANT)


def test_tensorflow_servings_dialect_stays_strict():
    record = {"age": 31, "sex": "f", "level": 1, "count": 7}
    for extra, signature in [({**record, "id": 1}, RECORDS), ({"sl": 1, "sw": 2, "pl": 3, "id": 1}, MATRIX)]:
        assert told(signature, {"instances": [extra]}, bound_by_tfserving).startswith('input "id": unknown')
    assert told(RECORDS, {"instances": [{"level": 1}]}, bound_by_tfserving).startswith('input "count", row 0: missing')
    assert "expected a number, found null" in told(STRICT_MATRIX, {"instances": [[1, 2, None]]}, bound_by_tfserving)
    assert "8.0 is not an integer" in told(RECORDS, {"instances": [record | {"count": 8.0}]}, bound_by_tfserving)


# --- any table --------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
KINDS = {
    "float64": st.floats(allow_nan=False, allow_infinity=False),
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint8": st.integers(0, 255),
    "bool": st.booleans(),
    "object": TEXT,
}


@st.composite
def tables(draw):
    names = draw(
        st.lists(
            TEXT.filter(lambda n: n not in ("data", "b64") and not n.isdigit()), min_size=1, max_size=4, unique=True
        )
    )
    rows = draw(st.integers(1, 13))
    specs, columns = [], {}
    for name in names:
        dtype = draw(st.sampled_from(sorted(KINDS)))
        nullable = dtype in ("float64", "float32", "object") and draw(st.booleans())
        cell = st.one_of(st.none(), KINDS[dtype]) if nullable else KINDS[dtype]
        specs.append(column(name, dtype, nullable=nullable))
        columns[name] = draw(st.lists(cell, min_size=rows, max_size=rows))
    return of(*specs), columns


def array_of(spec, values):
    missing = np.nan if spec.dtype.kind == "f" else b""
    array = np.empty(len(values), spec.dtype)
    array[:] = [missing if v is None else v.encode() if isinstance(v, str) else v for v in values]
    return array


@settings(deadline=None, max_examples=150)
@given(table=tables(), data=st.data())
def test_any_table_gives_the_same_arrays_through_every_form(table, data):
    signature, columns = table
    want = {spec.name: array_of(spec, columns[spec.name]) for spec in signature.inputs}
    count = len(next(iter(columns.values())))
    indices = data.draw(
        st.one_of(
            st.just([str(i) for i in range(count)]),
            st.lists(TEXT.filter(lambda k: k not in (*columns, "data")), min_size=count, max_size=count, unique=True),
        )
    )
    if all(k.isascii() and k.isdigit() for k in indices):
        indices.sort(key=int)  # for if they happen to be sorted as text, they are taken by number

    def shuffled(row):
        return dict(data.draw(st.permutations(list(row.items()))))

    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    short = [{k: v for k, v in row.items() if v is not None or data.draw(st.booleans())} for row in rows]
    forms = [
        shuffled(columns),
        [shuffled(row) for row in short],
        [list(row.values()) for row in rows],
        {name: dict(zip(indices, values, strict=True)) for name, values in shuffled(columns).items()},
    ]
    forms.append(dict(zip(indices, map(shuffled, rows), strict=True)))
    if len(rows) == 1:
        forms.append(shuffled(rows[0]))
    for form in forms:
        body = json.dumps({"data": {"data": form} if data.draw(st.booleans()) else form}).encode()
        same(bound(signature, body), want)
    same(bound_by_tfserving(signature, {"instances": rows}), want)
    same(bound_by_tfserving(signature, {"instances": short}), want)
    same(bound_by_tfserving(signature, {"inputs": columns}), want)


def test_base64_in_a_table():
    files = of(column("name", "object"), column("image", "object"))
    raw = {"b64": base64.b64encode(b"\xff\x00").decode()}
    want = {"name": text(b"a"), "image": text(b"\xff\x00")}
    for form in (
        {"name": "a", "image": raw},
        [{"name": "a", "image": raw}],
        [["a", raw]],
        {"0": {"image": raw, "name": "a"}},
    ):
        same(bound(files, {"data": form}), want)
