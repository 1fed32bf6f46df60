"""TensorFlow Serving's REST dialect as functions: bytes to tensors and back, over both codec twins, with no server."""

import base64
import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from twins import BOTH

from stfs import codec, errors
from stfs.protocols import request as common
from stfs.protocols import tfserving, tfserving_status
from stfs.signature import STRING, Signature, TensorSpec


@pytest.fixture(params=BOTH, scope="module", autouse=True)
def twin(request):
    """Each test runs over the readable twin and over the compiled one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Reader", "Column", "encode", "encode_rows", "encode_string"):
            patch.setattr(codec, name, getattr(request.param, name))
        patch.setattr(tfserving, "Reader", request.param.Reader)
        patch.setattr(common, "Reader", request.param.Reader)
        yield request.param


def signature(*inputs, name="serving_default"):
    """A signature with inputs of the given ``(name, dtype)``."""
    specs = tuple(TensorSpec(key, np.dtype(dtype), None) for key, dtype in inputs)
    return Signature(name, specs, (), batchable=False)


class Signatures:
    """A resolver over a table by signature name: the address has named the rest. ``asked`` holds every name asked."""

    def __init__(self, table):
        self.table = table
        self.asked = []

    def __call__(self, model_name, version, signature_name):
        assert model_name is None
        assert version is None
        self.asked.append(signature_name)
        found = self.table.get(signature_name, errors.SignatureNotFound(f"no signature {signature_name}"))
        if isinstance(found, Exception):
            raise found
        return found


def decode(body, *inputs, resolve=None):
    """The inputs decoded for a default signature of ``inputs``, and whether the answer is to be in rows."""
    found = signature(*inputs)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    got, values, rows = tfserving.decode_predict(text, resolve or Signatures({None: found}))
    assert resolve is not None or got is found
    return values, rows


def columns(value, *inputs):
    values, rows = decode({"inputs": value}, *inputs)
    assert rows is False
    return values


def instances(value, *inputs):
    values, rows = decode({"instances": value}, *inputs)
    assert rows is True
    return values


def refused(body, *inputs, kind=errors.InvalidRequest):
    with pytest.raises(errors.RequestError) as caught:
        decode(body, *inputs)
    assert type(caught.value) is kind, caught.value
    return str(caught.value)


def same(got, expected):
    """Equal in dtype, shape and every bit that has a meaning."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)
    if got.dtype.kind == "f":
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(got[numbers]), np.signbit(expected[numbers]))


def strings(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


# --- which signature --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(["signature_name", "form", "other"])))
@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("inputs", [[1, 2], [3, 4]]),
        ("inputs", {"x": [[1, 2], [3, 4]]}),
        ("instances", [[1, 2], [3, 4]]),
        ("instances", [{"x": [1, 2]}, {"x": [3, 4]}]),
    ],
)
@pytest.mark.parametrize(
    "guess",
    [
        pytest.param(errors.SignatureNotFound("s"), id="unknown signature"),
        pytest.param(errors.ModelNotFound("s"), id="unknown model"),
        pytest.param(errors.Unavailable("loading"), id="unavailable"),
        pytest.param(signature(("a", "int64"), ("b", "int64")), id="several inputs"),
        pytest.param(signature(("y", "int64")), id="an input of another name"),
        pytest.param(signature(("x", "object")), id="a dtype that refuses it"),
        pytest.param(signature(("x", "float16")), id="a dtype that takes it"),
    ],
)
def test_the_signature_counts_wherever_it_is_named(order, form, value, guess):
    meant = signature(("x", "int64"), name="s")
    resolve = Signatures({None: guess, "s": meant})
    everything = {"signature_name": ("signature_name", "s"), "form": (form, value), "other": ("other", {"x": [None]})}
    body = json.dumps(dict(everything[key] for key in order)).encode()
    got, inputs, rows = tfserving.decode_predict(body, resolve)
    assert got is meant
    assert rows is (form == "instances")
    same(inputs["x"], np.array([[1, 2], [3, 4]]))
    named_first = order.index("signature_name") < order.index("form")
    assert resolve.asked == (["s"] if named_first else [None, "s"])


def test_the_error_is_of_the_signature_meant():
    resolve = Signatures({None: errors.Unavailable("the default loads"), "s": signature(("x", "bool"))})
    with pytest.raises(errors.InvalidInput, match=r'input "x", element \[0\]'):
        decode({"inputs": {"x": [1]}, "signature_name": "s"}, resolve=resolve)
    with pytest.raises(errors.SignatureNotFound):
        decode({"inputs": {"x": [1]}, "signature_name": "other"}, resolve=resolve)
    with pytest.raises(errors.Unavailable, match="the default loads"):
        decode({"inputs": {"x": [1]}}, resolve=resolve)


def test_a_signature_name_that_stands_twice_or_is_no_text():
    resolve = Signatures({"b": signature(("x", "int64"))})
    decode(b'{"signature_name":"a","signature_name":"b","inputs":[1]}', resolve=resolve)
    assert resolve.asked == ["b"]
    assert refused({"signature_name": 7, "inputs": [1]}, ("x", "int64")).endswith("must be a string, not number")
    same(decode({"signature_name": None, "inputs": [1]}, ("x", "int64"))[0]["x"], np.array([1]))


# --- the body ---------------------------------------------------------------------------------------------------------


def test_one_form_and_once():
    for first, second in [
        ("inputs", "instances"),
        ("instances", "inputs"),
        ("inputs", "inputs"),
        ("instances", "instances"),
    ]:
        for value in ("[1]", '["broken for this dtype"]'):
            body = f'{{"{first}":{value},"{second}":[2]}}'.encode()
            assert refused(body, ("x", "int64")) == "Expecting only one of 'inputs' or 'instances' keys to exist, once"
    for body in ({}, {"signature_name": "s"}, {"data": [1]}):
        assert refused(body, ("x", "int64")) == "Missing 'inputs' or 'instances' key"


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b'[{"inputs":[1]}]'])
def test_a_body_that_is_no_object(body):
    assert "must be a JSON object, not " in refused(body, ("x", "int64"), kind=errors.MalformedJson)


@pytest.mark.parametrize("tail", [b"x", b"{}", b",", b"]", b"\x00", b'{"instances":[2]}', b"\xff"])
def test_what_follows_the_body_is_ignored(tail):
    same(decode(b'{"instances":[1]}' + tail, ("x", "int64"))[0]["x"], np.array([1]))


@pytest.mark.parametrize("body", [b'{"instances":[1]}', b'{"inputs":[1],"signature_name":"s"}'])
def test_a_byte_order_mark_is_passed_over(body):
    resolve = Signatures({None: errors.Unavailable("loading"), "s": signature(("x", "int64"))})
    resolve.table[None] = resolve.table["s"] if b"instances" in body else resolve.table[None]
    same(decode(b"\xef\xbb\xbf" + body, resolve=resolve)[0]["x"], np.array([1]))
    assert refused(b"\xef\xbb" + body, ("x", "int64"), kind=errors.MalformedJson)


def test_an_unknown_signature_is_told_in_tfservings_words():
    for name, told in (("s", "s"), ("s" * 5000, "s" * 100)):
        with pytest.raises(errors.SignatureNotFound) as caught:
            decode({"signature_name": name, "inputs": [1]}, resolve=Signatures({}))
        assert str(caught.value) == f'Serving signature name: "{told}" not found in signature def'
    with pytest.raises(errors.SignatureNotFound, match='Serving signature name: "serving_default" not found'):
        decode({"inputs": [1]}, resolve=Signatures({}))


def test_a_body_cut_short_anywhere_is_malformed():
    known = Signatures({None: signature(("x", "int64"), ("y", "object")), "s": signature(("x", "float32"))})
    for body in (
        b'{"instances":[{"x":[1,2],"y":"a"},{"y":"b","x":[3,4]}],"other":{"a":[true,null]}}',
        b'{"inputs":{"x":[[1,2],[3,4]]},"signature_name":"s"}',
    ):
        tfserving.decode_predict(body, known)
        for end in range(len(body)):
            with pytest.raises(errors.MalformedJson) as caught:
                tfserving.decode_predict(body[:end], known)
            assert 0 <= caught.value.offset <= end


# --- columns ----------------------------------------------------------------------------------------------------------


def test_columns_by_name_and_bare():
    inputs = columns({"y": ["a"], "x": [1.5]}, ("x", "float32"), ("y", "object"))
    same(inputs["x"], np.array([1.5], np.float32))
    same(inputs["y"], strings(b"a"))
    same(columns([[1, 2]], ("x", "int8"))["x"], np.array([[1, 2]], np.int8))
    same(columns(5, ("x", "int8"))["x"], np.array(5, np.int8))
    same(columns("t", ("x", "object"))["x"], np.array(b"t", dtype=object))


def test_columns_ignore_what_is_no_input_and_leave_a_missing_one_to_the_signature():
    inputs = columns({"extra": [[1], "ragged"], "x": [1], "other": None}, ("x", "int64"), ("y", "int64"))
    assert inputs.keys() == {"x"}
    assert columns({}, ("x", "int64")) == {}
    assert columns({"data": [1]}, ("x", "int64")) == {}  # an alias in the other dialect


def test_of_a_column_that_stands_twice_the_last_counts():
    same(decode(b'{"inputs":{"x":[1],"x":[2,3]}}', ("x", "int64"))[0]["x"], np.array([2, 3]))


def test_a_bare_value_needs_an_only_input():
    two = (("a", "int64"), ("b", "int64"))
    assert "must be an object that names the inputs" in refused({"inputs": [1]}, *two)
    assert "must be an object that names the inputs" in refused({"instances": [1]}, *two)
    assert "must be an object that names the inputs" in refused({"instances": [[{"a": 1}]]}, *two)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "object"])
def test_empty_lists_are_columns_without_elements(dtype):
    for value, shape in [([], (0,)), ([[]], (1, 0)), ([[], []], (2, 0)), ([[[]]], (1, 1, 0))]:
        same(columns(value, ("x", dtype))["x"], np.empty(shape, dtype))
        same(columns({"x": value}, ("x", dtype))["x"], np.empty(shape, dtype))


@pytest.mark.parametrize("number", ["1.0", "1e0", "1.5", "NaN"])
def test_a_float_is_no_integer_here_even_if_it_is_whole(number):
    for body in ('{"inputs":[%s]}', '{"inputs":{"x":[%s]}}', '{"instances":[%s]}', '{"instances":[{"x":%s}]}'):
        told = refused((body % number).encode(), ("x", "int64"), kind=errors.InvalidInput)
        assert f"{number} is not an integer" in told


def test_not_a_number_is_a_float():
    same(decode(b'{"inputs":[NaN,-Infinity]}', ("x", "float32"))[0]["x"], np.array([np.nan, -np.inf], np.float32))
    rows = decode(b'{"instances":[{"x":NaN},{"x":-0.0}]}', ("x", "float32"))[0]
    same(rows["x"], np.array([np.nan, -0.0], np.float32))


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_bare_and_by_name():
    same(instances([1, 2], ("x", "int64"))["x"], np.array([1, 2]))
    same(instances([[1], [2]], ("x", "float64"))["x"], np.array([[1.0], [2.0]]))
    inputs = instances([{"x": [1, 2], "y": "a"}, {"y": "b", "x": [3, 4]}], ("x", "int64"), ("y", "object"))
    same(inputs["x"], np.array([[1, 2], [3, 4]]))
    same(inputs["y"], strings(b"a", b"b"))


@pytest.mark.parametrize("value", ["a", 1, {}, {"x": [1]}, None, True])
def test_rows_are_a_list(value):
    assert refused({"instances": value}, ("x", "int64")).startswith('"instances" must be a list, not ')


def test_no_rows_are_refused_and_empty_rows_are_not():
    assert refused({"instances": []}, ("x", "int64")) == '"instances" is empty'
    same(instances([[], []], ("x", "int64"))["x"], np.empty((2, 0), np.int64))
    same(instances([{"x": []}, {"x": []}], ("x", "bool"))["x"], np.empty((2, 0), bool))


TWO = (("x", "int64"), ("y", "int64"))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('[{"x":1}]', 'input "y", row 0: missing; this signature takes "x", "y"'),
        ('[{"x":1,"y":2},{"y":2}]', 'input "x", row 1: missing; this signature takes "x", "y"'),
        ("[{}]", 'input "x", row 0: missing; this signature takes "x", "y"'),
        ('[{"x":1,"y":2},{}]', 'input "x", row 1: missing; this signature takes "x", "y"'),
        ('[{"x":1,"x":2,"y":3}]', 'input "x", row 0: stands twice'),
        ('[{"x":1,"x":2}]', 'input "x", row 0: stands twice'),
        ('[{"x":1,"y":2},{"x":1,"y":2,"y":3}]', 'input "y", row 1: stands twice'),
        ('[{"x":1,"y":2},[1]]', '"instances" [1] is array where the ones before are objects'),
        ('[{"x":1,"y":2},null]', '"instances" [1] is null where the ones before are objects'),
    ],
)
def test_each_row_names_each_input_once(rows, told):
    kind = errors.InvalidInput if told.startswith("input") else errors.InvalidRequest
    assert refused(b'{"instances":%s}' % rows.encode(), *TWO, kind=kind) == told


def test_a_row_with_another_key_or_value_is_told_with_the_input():
    unknown = 'input "z": unknown; this signature takes "x", "y"'
    assert refused({"instances": [{"x": 1, "z": 3, "y": 2}]}, *TWO, kind=errors.InvalidInput) == unknown
    ragged = refused({"instances": [{"x": [1]}, {"x": [1, 2]}]}, ("x", "int64"), kind=errors.InvalidInput)
    assert ragged.startswith('input "x", element [1]')
    wrong = refused({"instances": [{"x": [1]}, {"x": ["a"]}]}, ("x", "int64"), kind=errors.InvalidInput)
    assert wrong.startswith('input "x", element [1][0]')
    bare = refused({"instances": [[1], {"x": [1]}]}, ("x", "int64"), kind=errors.InvalidInput)
    assert bare.startswith('input "x", element [1]')


# --- base64 -----------------------------------------------------------------------------------------------------------


def b64(raw):
    return {"b64": base64.b64encode(raw).decode()}


RAW = [b"\xff\xfe", b"", b"a?>~"]


def test_base64_objects_are_string_values_in_every_form():
    values = [b64(raw) for raw in RAW]
    for inputs in (
        columns(values, ("x", "object")),
        columns({"x": values}, ("x", "object")),
        instances(values, ("x", "object")),
        instances([{"x": value} for value in values], ("x", "object")),
    ):
        same(inputs["x"], strings(*RAW))
    same(columns(values[0], ("x", "object"))["x"], np.array(RAW[0], dtype=object))
    both = instances([{"x": values[0], "n": 1}, {"n": 2, "x": "plain"}], ("n", "int64"), ("x", "object"))
    same(both["x"], strings(RAW[0], b"plain"))
    for body in ({"inputs": values}, {"instances": [[values[0]]]}):
        assert refused(body, ("x", "int64"), kind=errors.InvalidInput).endswith("expected an integer, found an object")


def test_an_input_called_b64_is_named_by_it():
    same(columns({"b64": ["YWJj"]}, ("b64", "object"))["b64"], strings(b"YWJj"))
    same(columns({"b64": [b64(b"abc")]}, ("b64", "object"))["b64"], strings(b"abc"))
    same(columns([b64(b"abc")], ("b64", "object"))["b64"], strings(b"abc"))
    same(instances([{"b64": "YWJj"}], ("b64", "object"))["b64"], strings(b"YWJj"))
    same(instances([{"b64": b64(b"abc")}], ("b64", "object"))["b64"], strings(b"abc"))
    same(instances([{"b64": 7}], ("b64", "int64"))["b64"], np.array([7]))
    assert columns({"b64": "YWJj", "x": 1}, ("x", "int64")) == {"x": np.array(1)}
    unknown = 'input "b64": unknown; this signature takes "x"'
    assert refused({"instances": [{"b64": "YWJj"}]}, ("x", "int64"), kind=errors.InvalidInput) == unknown
    both = instances([{"b64": "YWJj", "x": 1}], ("b64", "object"), ("x", "int64"))
    same(both["b64"], strings(b"YWJj"))


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_only_output_goes_unnamed():
    array = np.array([[0.5, np.nan], [np.inf, 1 / 3]], np.float32)
    assert tfserving.encode_predict({"y": array}, rows=True) == b'{"predictions":[[0.5,NaN],[Infinity,0.333333343]]}'
    assert tfserving.encode_predict({"y": array}, rows=False) == b'{"outputs":[[0.5,NaN],[Infinity,0.333333343]]}'
    assert tfserving.encode_predict({"y": np.array(2.0)}, rows=False) == b'{"outputs":2.0}'
    assert tfserving.encode_predict({"y": np.empty((0, 3))}, rows=True) == b'{"predictions":[]}'


def test_several_outputs_are_named_in_each_row_or_once():
    outputs = {"b": np.array([1, 2]), "a": np.array([[True], [False]]), 't"': strings(b"u", b"\xff")}
    assert tfserving.encode_predict(outputs, rows=True) == (
        b'{"predictions":[{"b":1,"a":[true],"t\\"":"u"},{"b":2,"a":[false],"t\\"":{"b64":"/w=="}}]}'
    )
    assert tfserving.encode_predict(outputs, rows=False) == (
        b'{"outputs":{"b":[1,2],"a":[[true],[false]],"t\\"":["u",{"b64":"/w=="}]}}'
    )


def test_a_name_that_ends_in_bytes_leaves_strings_as_base64():
    image, other = strings(b"abc"), strings(b"abc")
    encoded = {"b64": "YWJj"}

    def answer(outputs, rows):
        return json.loads(tfserving.encode_predict(outputs, rows=rows))

    assert answer({"image_bytes": image}, rows=True) == {"predictions": [encoded]}
    assert answer({"image_bytes": image}, rows=False) == {"outputs": [encoded]}
    both = {"image_bytes": image, "bytes_image": other}
    assert answer(both, rows=True) == {"predictions": [{"image_bytes": encoded, "bytes_image": "abc"}]}
    assert answer(both, rows=False) == {"outputs": {"image_bytes": [encoded], "bytes_image": ["abc"]}}
    assert answer({"size_bytes": np.array([3])}, rows=True) == {"predictions": [3]}


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({"a": np.zeros((2, 3)), "b": np.zeros(3)}, '"a" [2, 3], "b" [3]'),
        ({"a": np.zeros((2, 3)), "b": np.zeros(())}, '"a" [2, 3], "b" []'),
        ({"a": np.zeros(())}, '"a" []'),
        ({"a": np.zeros(()), "b": np.zeros(())}, '"a" [], "b" []'),
    ],
)
def test_rows_need_outputs_that_share_a_first_dimension(outputs, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        tfserving.encode_predict(outputs, rows=True)
    assert str(caught.value) == f'these outputs have no common row count, use "inputs" (columns): {told}'
    assert json.loads(tfserving.encode_predict(outputs, rows=False)).keys() == {"outputs"}


EXAMPLES = {
    errors.InvalidRequest: (errors.InvalidRequest("x"), 400),
    errors.MalformedJson: (errors.MalformedJson("x", 3), 400),
    errors.BadElement: (errors.BadElement("x", 3, (0,)), 400),
    errors.InvalidInput: (errors.InvalidInput("n", "x"), 400),
    errors.UnsupportedMediaType: (errors.UnsupportedMediaType("x"), 400),
    errors.UnsupportedEncoding: (errors.UnsupportedEncoding("x"), 415),
    errors.TooLarge: (errors.TooLarge("x"), 413),
    errors.NotFound: (errors.NotFound("x"), 404),
    errors.ModelNotFound: (errors.ModelNotFound("x"), 404),
    errors.VersionNotFound: (errors.VersionNotFound("x"), 404),
    errors.SignatureNotFound: (errors.SignatureNotFound("x"), 400),
    errors.Unavailable: (errors.Unavailable("x"), 503),
    errors.Overloaded: (errors.Overloaded("x", 1.0), 503),
    errors.ShareExceeded: (errors.ShareExceeded("x", 1.0), 429),
    errors.OutOfMemory: (errors.OutOfMemory("x"), 503),
    errors.DeadlineExceeded: (errors.DeadlineExceeded("x"), 504),
    errors.RunTimedOut: (errors.RunTimedOut("x"), 504),
    errors.ModelFailed: (errors.ModelFailed("x"), 500),
}


def kinds_below(kind):
    """Every type of ``stfs.errors`` under ``kind``, at any depth."""
    found = {below for below in kind.__subclasses__() if below.__module__ == errors.__name__}
    return found.union(*(kinds_below(below) for below in found))


def test_every_error_has_its_status_and_text():
    assert kinds_below(errors.RequestError) == EXAMPLES.keys()
    for kind, (error, status) in EXAMPLES.items():
        assert tfserving.status_of(error) == status
        told = "JSON Parse error: x at offset: 3" if kind is errors.MalformedJson else 'told "so" é'
        assert json.loads(tfserving.encode_error(error, 'told "so" é')) == {"error": told}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.ModelNotFound("x", "m"), "Servable not found for request: Latest(m)"),
        (errors.ModelNotFound("x", "m", 0), "Servable not found for request: Specific(m, 0)"),
        (errors.VersionNotFound("x", 'é"', 7), 'Servable not found for request: Specific(é", 7)'),
        (errors.ModelNotFound("x", "m" * 5000), "Servable not found for request: Latest(mmmm)"),
        (errors.NotFound("Could not find any versions of model m", "m"), "told"),
    ],
)
def test_what_is_not_there_is_told_in_tfservings_words(error, told):
    assert json.loads(tfserving.encode_error(error, "told")) == {"error": told}


def test_the_status_of_versions():
    told = tfserving_status.encode_status([(2**63 - 1, "AVAILABLE", ""), (1, "END", "LoadFailed: x")])
    assert told == {
        "model_version_status": [
            {
                "version": "9223372036854775807",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            },
            {"version": "1", "state": "END", "status": {"error_code": "UNKNOWN", "error_message": "LoadFailed: x"}},
        ]
    }
    assert tfserving_status.encode_status([]) == {"model_version_status": []}


def test_the_metadata_of_a_model():
    inputs = (
        TensorSpec("x", np.dtype("float32"), (None, 3), graph_name="serving_x:0"),
        TensorSpec("free", STRING, None),
        TensorSpec("one", np.dtype("int64"), ()),
    )
    outputs = (TensorSpec("y", np.dtype("complex64"), (None,)),)
    signatures = {"b": Signature("b", inputs, outputs, batchable=False), "a": Signature("a", (), (), batchable=False)}
    told = json.loads(tfserving_status.encode_metadata("é", 3, signatures))
    assert told["model_spec"] == {"name": "é", "signature_name": "", "version": "3"}
    told = told["metadata"]["signature_def"]
    assert set(told) == {"signature_def"}
    assert list(told["signature_def"]) == ["a", "b"]
    assert told["signature_def"]["b"] == {
        "inputs": {
            "x": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {
                    "dim": [{"size": "-1", "name": ""}, {"size": "3", "name": ""}],
                    "unknown_rank": False,
                },
                "name": "serving_x:0",
            },
            "free": {"dtype": "DT_STRING", "tensor_shape": {"dim": [], "unknown_rank": True}, "name": "free:0"},
            "one": {"dtype": "DT_INT64", "tensor_shape": {"dim": [], "unknown_rank": False}, "name": "one:0"},
        },
        "outputs": {
            "y": {
                "dtype": "DT_INVALID",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": "y:0",
            }
        },
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }


def test_dtypes_have_the_numbers_of_types_proto():
    """Numbers from ``tensorflow/core/framework/types.proto``; no two dtypes may share one."""
    known = {"float32": 1, "float64": 2, "int32": 3, "object": 7, "int64": 9, "bool": 10, "float16": 19, "uint64": 23}
    for name, number in known.items():
        assert tfserving_status.dtype_number(TensorSpec("x", np.dtype(name), ())) == number
    numbers = [tfserving_status.dtype_number(TensorSpec("x", np.dtype(letter), ())) for letter in DTYPES]
    assert 0 not in numbers
    assert len(set(numbers)) == len(DTYPES)
    assert tfserving_status.dtype_number(TensorSpec("x", np.dtype("complex64"), ())) == 0


# --- there and back ---------------------------------------------------------------------------------------------------

DTYPES = "efdbhiqBHIQ?O"  # every one that JSON can carry, by numpy's letters
NAMES = st.one_of(st.sampled_from(["x", "b64", "é 🙂", "instances", "signature_name"]), st.text(max_size=6))


def filled(dtype, shape):
    """Arrays of one dtype and shape, any elements."""
    if dtype != STRING:
        return hnp.arrays(dtype, shape)
    size = int(np.prod(shape))
    flat = st.lists(st.binary(max_size=5), min_size=size, max_size=size)
    return flat.map(lambda values: strings(*values).reshape(shape))


@st.composite
def tables(draw, min_side=1, max_size=3):
    """Tensors by name that agree in their first dimension."""
    rows = draw(st.integers(min_side, 3))
    names = draw(st.lists(NAMES, min_size=1, max_size=max_size, unique=True))
    shapes = st.one_of(st.just(()), hnp.array_shapes(max_dims=2, min_side=min_side, max_side=3))
    return {name: draw(filled(np.dtype(draw(st.sampled_from(DTYPES))), (rows, *draw(shapes)))) for name in names}


def plain(value):
    """A tensor as nested lists for ``json.dumps``; bytes that are no text as b64 objects."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return b64(value)


@settings(deadline=None, max_examples=150)
@given(values=tables(), data=st.data())
def test_whatever_is_sent_is_decoded_exactly_in_every_form(values, data):
    resolve = Signatures({"s": signature(*((name, array.dtype) for name, array in values.items()))})
    named = {name: plain(array) for name, array in values.items()}
    length = len(next(iter(named.values())))
    rows = [{name: value[row] for name, value in named.items()} for row in range(length)]
    forms = [("inputs", named), ("instances", [dict(data.draw(st.permutations(list(row.items())))) for row in rows])]
    if len(values) == 1:
        ((name, bare),) = named.items()
        forms.append(("inputs", bare))
        if not (name == "b64" and isinstance(bare[0], dict)):  # there the object names the input
            forms.append(("instances", bare))
    for form, value in forms:
        members = data.draw(st.permutations([(form, value), ("signature_name", "s")]))
        body = json.dumps(dict(members), ensure_ascii=data.draw(st.booleans()))
        got, by_row = decode(body.encode(), resolve=resolve)
        assert by_row is (form == "instances")
        assert got.keys() == values.keys()
        for key, array in values.items():
            same(got[key], array)


@settings(deadline=None, max_examples=50)
@given(dtype=st.sampled_from(DTYPES), data=st.data())
def test_a_scalar_column_is_decoded_exactly(dtype, data):
    array = data.draw(filled(np.dtype(dtype), ()))
    same(columns(plain(array), ("x", dtype))["x"], array)
    same(columns({"x": plain(array)}, ("x", dtype))["x"], array)


def restored(value, array):
    """What ``json.loads`` gave, as an array like ``array``."""

    def flat(item):
        if isinstance(item, list):
            return [leaf for part in item for leaf in flat(part)]
        if isinstance(item, dict):
            return [base64.b64decode(item["b64"])]
        return [item.encode() if isinstance(item, str) else item]

    back = np.empty(array.size, array.dtype)
    back[:] = flat(value)
    return back.reshape(array.shape)


@settings(deadline=None, max_examples=150)
@given(values=tables(min_side=0), suffix=st.sampled_from(["", "_bytes"]))
def test_whatever_a_model_gives_is_read_back_exactly(values, suffix):
    values = {name + suffix: array for name, array in values.items()}
    by_column = json.loads(tfserving.encode_predict(values, rows=False))["outputs"]
    by_row = json.loads(tfserving.encode_predict(values, rows=True))["predictions"]
    if len(values) == 1:
        (name,) = values
        assert by_row == by_column or any(np.isnan(a).any() for a in values.values() if a.dtype.kind == "f")
        by_column, by_row = {name: by_column}, [{name: value} for value in by_row]
    assert list(by_column) == list(values)
    for name, array in values.items():
        assert all(list(row) == list(values) for row in by_row)
        for value in (by_column[name], [row[name] for row in by_row]):
            same(restored(value, array), array)
            assert np.shape(plain(array)) == np.shape(value)
