"""The STFS dialect as functions: bytes to tensors and outputs to bytes, over both codec twins, with no server."""

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
from stfs.protocols import stfs
from stfs.signature import STRING, Signature, TensorSpec

FLOAT, INT, BOOL = np.dtype("float32"), np.dtype("int64"), np.dtype("bool")


@pytest.fixture(params=BOTH, scope="module", autouse=True)
def twin(request):
    """Each test runs over the readable twin and over the compiled one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Reader", "Column", "encode", "encode_rows", "encode_string"):
            patch.setattr(codec, name, getattr(request.param, name))
        patch.setattr(stfs, "Reader", request.param.Reader)
        patch.setattr(common, "Reader", request.param.Reader)
        yield request.param


def signature(*inputs, name="serving_default"):
    """A signature with inputs of the given ``(name, dtype)``."""
    specs = tuple(TensorSpec(key, np.dtype(dtype), None) for key, dtype in inputs)
    return Signature(name, specs, (), batchable=False)


class Models:
    """A resolver over a table of ``(model, version, signature name)``; ``asked`` holds every call."""

    def __init__(self, table):
        self.table = table
        self.asked = []

    def __call__(self, model_name, version, signature_name):
        self.asked.append((model_name, version, signature_name))
        found = self.table.get(self.asked[-1])
        if found is None:
            raise errors.ModelNotFound(f"nothing for {self.asked[-1]}")
        if isinstance(found, Exception):
            raise found
        return found


DEFAULT = (None, None, None)


def decode(body, *inputs, resolve=None):
    """The inputs decoded for a default model that takes ``inputs``."""
    found = signature(*inputs)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    got, values = stfs.decode(text, resolve or Models({DEFAULT: found}))
    assert resolve is not None or got is found
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


# --- which model, version and signature -------------------------------------------------------------------------------

SMALL = {"model_name": "m", "model_version": 2, "signature_name": "s"}
MEANT = ("m", 2, "s")


@pytest.mark.parametrize("order", list(permutations([*SMALL, "data"])), ids=lambda order: "-".join(order))
@pytest.mark.parametrize(
    "guess",
    [
        pytest.param(errors.ModelNotFound("m"), id="unknown model"),
        pytest.param(errors.VersionNotFound("v"), id="unknown version"),
        pytest.param(errors.SignatureNotFound("s"), id="unknown signature"),
        pytest.param(errors.Unavailable("loading"), id="unavailable"),
        pytest.param(errors.Overloaded("full", 1.0), id="overloaded"),
        pytest.param(signature(("a", "int64"), ("b", "int64")), id="several inputs"),
        pytest.param(signature(("x", "bool")), id="a dtype that refuses it"),
        pytest.param(signature(("x", "object")), id="strings"),
        pytest.param(signature(("x", "float64")), id="a dtype that takes it"),
    ],
)
def test_the_small_keys_count_wherever_they_stand(order, guess):
    meant = signature(("x", "int64"), name="s")
    resolve = Models({DEFAULT: guess, ("m", None, None): guess, ("m", 2, None): guess, MEANT: meant})
    for key in SMALL:  # whatever is known when the data comes is one of these guesses
        resolve.table.setdefault(tuple(SMALL[k] if k == key else None for k in SMALL), guess)
    resolve.table.setdefault((None, 2, "s"), guess)
    resolve.table.setdefault(("m", None, "s"), guess)
    everything = {**SMALL, "data": [[1, 2], [3, 4]]}
    body = json.dumps({key: everything[key] for key in order}).encode()
    got, inputs = stfs.decode(body, resolve)
    assert got is meant
    same(inputs["x"], np.array([[1, 2], [3, 4]]))
    assert resolve.asked[-1] == MEANT
    assert len(resolve.asked) == (1 if order[-1] == "data" else 2)


@pytest.mark.parametrize(
    ("data", "guess", "meant"),
    [
        ([["a", "b"], ["c", "d"]], "float32", "object"),
        ([1.5, 2], "int8", "float64"),
        ([300, 2], "uint8", "int16"),
        ([True, False], "object", "bool"),
        ([{"b64": "YQ=="}, "a"], "int32", "object"),
    ],
)
def test_data_that_stands_first_is_read_anew_for_the_signature_meant(data, guess, meant):
    resolve = Models({DEFAULT: signature(("x", guess)), (None, None, "s"): signature(("x", meant))})
    inputs = decode({"data": {"x": data}, "signature_name": "s"}, resolve=resolve)
    assert inputs["x"].dtype == np.dtype(meant)
    assert inputs["x"].shape == np.shape(data)
    assert resolve.asked == [DEFAULT, (None, None, "s")]


def test_an_object_that_names_other_inputs_than_the_guess_is_read_for_the_signature_meant():
    resolve = Models(
        {DEFAULT: signature(("only", "bool")), (None, None, "s"): signature(("a", "int64"), ("b", "object"))}
    )
    inputs = decode({"data": {"b": ["t"], "a": [7]}, "signature_name": "s"}, resolve=resolve)
    same(inputs["a"], np.array([7]))
    same(inputs["b"], np.array([b"t"], dtype=object))


def test_the_error_is_of_the_model_meant_and_not_of_the_guess():
    resolve = Models({DEFAULT: errors.Unavailable("the default loads"), ("m", None, None): signature(("x", "bool"))})
    with pytest.raises(errors.InvalidInput, match=r'input "x", element \[0\]'):
        decode({"data": {"x": [1]}, "model_name": "m"}, resolve=resolve)
    with pytest.raises(errors.ModelNotFound):
        decode({"data": {"x": [1]}, "model_name": "other"}, resolve=resolve)
    with pytest.raises(errors.Unavailable, match="the default loads"):
        decode({"data": {"x": [1]}}, resolve=resolve)


def test_a_version_may_be_text_and_nothing_stands_for_the_default():
    known = signature(("x", "int64"))
    for told, meant in [(7, 7), ("7", 7), ("007", 7), (2**63 - 1, 2**63 - 1), (0, 0), (None, None), ("", None)]:
        resolve = Models({("m", meant, None): known})
        decode({"model_name": "m", "model_version": told, "signature_name": None, "data": 1}, resolve=resolve)
        assert resolve.asked == [("m", meant, None)]


@pytest.mark.parametrize("told", [2**63, -1, 1.0, True, [1], {}, "1.0", " 1", "-1", "٣", "9" * 20, "9" * 5000])
def test_a_version_that_is_none_is_refused(told):
    assert '"model_version"' in refused({"model_version": told, "data": 1}, ("x", "int64"))


@pytest.mark.parametrize("key", ["model_name", "signature_name"])
@pytest.mark.parametrize(("told", "kind"), [(1, "number"), (True, "bool"), ([], "array"), ({}, "object")])
def test_a_name_that_is_no_text_is_refused(key, told, kind):
    assert refused({key: told, "data": 1}, ("x", "int64")) == f'"{key}" must be a string, not {kind}'


def test_of_a_small_key_that_stands_twice_the_last_counts():
    resolve = Models({("b", 2, None): signature(("x", "int64"))})
    decode(b'{"model_name":"a","model_version":1,"model_name":"b","data":[1],"model_version":2}', resolve=resolve)
    assert resolve.asked == [("b", 1, None), ("b", 2, None)]


def test_a_small_key_that_is_taken_back_means_the_default():
    resolve = Models({DEFAULT: signature(("x", "int64")), ("a", None, None): signature(("x", "bool"))})
    same(decode(b'{"model_name":"a","data":[1],"model_name":null}', resolve=resolve)["x"], np.array([1]))


# --- the data ---------------------------------------------------------------------------------------------------------


def test_data_twice_is_refused_even_if_the_first_cannot_be_read():
    for first in ("[1]", '["text"]', "{}"):
        told = refused(b'{"data":%s,"data":[2]}' % first.encode(), ("x", "int64"))
        assert told == '"data" stands twice in the body'


def test_of_an_input_that_stands_twice_the_last_counts():
    same(decode(b'{"data":{"x":[1],"x":[2,3]}}', ("x", "int64"))["x"], np.array([2, 3]))
    same(decode(b'{"x":[1],"x":[2,3]}', ("x", "int64"))["x"], np.array([2, 3]))


def test_data_is_another_name_of_the_only_input():
    same(decode({"data": {"data": [1]}}, ("x", "int64"))["x"], np.array([1]))
    both = decode({"data": {"data": [1], "x": [2]}}, ("data", "int64"), ("x", "int64"))
    same(both["data"], np.array([1]))
    same(both["x"], np.array([2]))
    assert refused({"data": {"data": [1]}}, ("x", "int64"), ("y", "int64"), kind=errors.InvalidInput) == (
        'input "data": unknown; this signature takes "x", "y"'
    )


def test_a_body_may_name_the_inputs_without_data():
    told = {"model_name": "m", "run_profile": "", "preprocess": True, "postprocess": {}, "x": [1], "y": ["a"]}
    resolve = Models({("m", None, None): signature(("x", "float32"), ("y", "object"))})
    inputs = decode(told, resolve=resolve)
    same(inputs["x"], np.array([1], FLOAT))
    same(inputs["y"], np.array([b"a"], dtype=object))
    assert resolve.asked == [("m", None, None)]
    late = Models({("m", None, None): signature(("x", "int64"))})
    same(decode({"x": [1], "model_name": "m"}, resolve=late)["x"], np.array([1]))


def test_without_data_every_other_key_must_name_an_input():
    assert refused({}, ("x", "int64")) == '"data" is missing; send {"data": {input: values}}'
    assert "(unknown here: z)" in refused({"x": [1], "z": 1}, ("x", "int64"))
    assert "(unknown here: 0, 1, 2, 3, 4)" in refused({str(i): i for i in range(200)}, ("x", "int64"))


def test_a_bare_value_needs_an_only_input():
    for data in ([1], 1, "a", [[]], True):
        assert "must be an object that names the inputs" in refused({"data": data}, ("a", "int64"), ("b", "int64"))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "object"])
def test_empty_lists_are_tensors_without_elements(dtype):
    for data, shape in [([], (0,)), ([[]], (1, 0)), ([[], []], (2, 0)), ([[[]]], (1, 1, 0))]:
        same(decode({"data": data}, ("x", dtype))["x"], np.empty(shape, dtype))
        same(decode({"data": {"x": data}}, ("x", dtype))["x"], np.empty(shape, dtype))


def test_scalars():
    same(decode({"data": 1.5}, ("x", "float64"))["x"], np.array(1.5))
    same(decode({"data": {"x": -3}}, ("x", "int8"))["x"], np.array(-3, np.int8))
    same(decode({"data": "é"}, ("x", "object"))["x"], np.array("é".encode(), dtype=object))
    same(decode({"data": {"b64": "/w=="}}, ("x", "object"))["x"], np.array(b"\xff", dtype=object))
    same(decode({"data": True}, ("x", "bool"))["x"], np.array(True))


def test_whole_floats_serve_an_integer_input():
    same(decode({"data": [1.0, 2e3, -4]}, ("x", "int16"))["x"], np.array([1, 2000, -4], np.int16))
    assert "1.5 is not an integer" in refused({"data": [1.5]}, ("x", "int16"), kind=errors.InvalidInput)
    assert "out of range" in refused({"data": [4e4]}, ("x", "int16"), kind=errors.InvalidInput)


def test_not_a_number_is_a_float_and_no_integer():
    same(
        decode(b'{"data":[NaN,Infinity,-Infinity,-0.0]}', ("x", "float16"))["x"],
        np.array([np.nan, np.inf, -np.inf, -0.0], np.float16),
    )
    refused(b'{"data":[NaN]}', ("x", "int64"), kind=errors.InvalidInput)


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true", b'[{"data":[1]}]'])
def test_a_body_that_is_no_object(body):
    told = refused(body, ("x", "int64"), kind=errors.MalformedJson)
    assert told.startswith("malformed JSON at byte 0: the body must be a JSON object, not ")


@pytest.mark.parametrize("tail", [b"x", b"{}", b",", b"]", b"\x00", b" 1"])
def test_nothing_may_follow_the_body(tail):
    body = b'{"data":[1]}'
    same(decode(body + b" \r\n\t", ("x", "int64"))["x"], np.array([1]))
    assert f"at byte {len(body) + len(tail) - len(tail.lstrip())}" in refused(
        body + tail, ("x", "int64"), kind=errors.MalformedJson
    )


def test_a_body_cut_short_anywhere_is_malformed():
    body = b'{"data":{"x":[[1,2],[3,4]]},"model_name":"m","model_version":3,"base64_decode":false}'
    resolve = Models({DEFAULT: signature(("x", "int64")), ("m", 3, None): signature(("x", "float32"))})
    assert decode(body, resolve=resolve)["x"].shape == (2, 2)
    for end in range(len(body)):
        with pytest.raises(errors.MalformedJson) as caught:
            stfs.decode(body[:end], resolve)
        assert 0 <= caught.value.offset <= end


def test_what_stands_behind_broken_data_is_still_checked():
    resolve = Models({DEFAULT: signature(("x", "bool"))})
    with pytest.raises(errors.MalformedJson):
        decode(b'{"data":[1],}', resolve=resolve)
    with pytest.raises(errors.MalformedJson):
        decode(b'{"data":[1] "model_name":"m"}', resolve=resolve)


# --- base64 -----------------------------------------------------------------------------------------------------------


def b64(raw):
    return base64.b64encode(raw).decode()


RAW = [b"\xff\xfe", b"", b"a?>~"]


def test_base64_objects_are_string_values_at_any_depth():
    expected = np.array([[raw] for raw in RAW], dtype=object)
    data = [[{"b64": b64(raw)}] for raw in RAW]
    same(decode({"data": data}, ("x", "object"))["x"], expected)
    same(decode({"data": {"x": data}}, ("x", "object"))["x"], expected)
    same(decode({"x": data}, ("x", "object"))["x"], expected)
    assert refused({"data": data}, ("x", "int64"), kind=errors.InvalidInput).endswith("found an object")


def test_an_input_called_b64_is_named_by_it():
    same(decode({"data": {"b64": "YWJj"}}, ("b64", "object"))["b64"], np.array(b"YWJj", dtype=object))
    same(decode({"data": {"b64": {"b64": "YWJj"}}}, ("b64", "object"))["b64"], np.array(b"abc", dtype=object))
    same(decode({"data": [{"b64": "YWJj"}]}, ("b64", "object"))["b64"], np.array([b"abc"], dtype=object))
    same(decode({"data": {"b64": 7}}, ("b64", "int64"))["b64"], np.array(7))
    unknown = 'input "b64": unknown; this signature takes "x"'
    assert refused({"data": {"b64": "YWJj"}}, ("x", "int64"), kind=errors.InvalidInput) == unknown
    two = decode({"data": {"b64": ["YWJj"], "x": [1]}}, ("b64", "object"), ("x", "int64"))
    same(two["b64"], np.array([b"YWJj"], dtype=object))


@pytest.mark.parametrize("where", ["before", "after"])
def test_base64_decode_decodes_the_strings_and_leaves_the_rest(where):
    text = [base64.urlsafe_b64encode(RAW[0]).decode(), "", b64(RAW[2]).rstrip("=")]
    data = {"data": {"t": [text, text], "n": [1]}}
    body = {"base64_decode": True, **data} if where == "before" else {**data, "base64_decode": True}
    inputs = decode(body, ("t", "object"), ("n", "int64"))
    same(inputs["t"], np.array([RAW, RAW], dtype=object))
    same(inputs["n"], np.array([1]))
    same(decode({"base64_decode": True, "data": b64(RAW[0])}, ("t", "object"))["t"], np.array(RAW[0], dtype=object))
    same(decode({"base64_decode": True, "t": [b64(RAW[0])]}, ("t", "object"))["t"], np.array([RAW[0]], dtype=object))


@pytest.mark.parametrize("told", [False, None, "", 0, "true", 1])
def test_base64_decode_is_asked_for_by_true_alone(told):
    inputs = decode({"base64_decode": told, "data": ["YQ=="]}, ("t", "object"))
    same(inputs["t"], np.array([b"YQ=="], dtype=object))


@pytest.mark.parametrize("text", ["*", "A", "YQ=a", "Y Q", "é", "YWJj\n"])
def test_what_is_not_base64_is_told_with_its_place(text):
    body = {"base64_decode": True, "data": [["YQ=="], [text]]}
    assert 'input "t": element [1, 0] is not base64' in refused(body, ("t", "object"), kind=errors.InvalidInput)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_outputs_leave_by_name_in_their_order():
    outputs = {
        "z": np.array([[0.1, 1e-7], [np.nan, -np.inf]], np.float32),
        "a": np.array(3),
        'q"é': np.array([b"text", b"\xff", b""], dtype=object),
        "none": np.empty((0, 4)),
        "flag": np.array([[True], [False]]),
    }
    assert stfs.encode(outputs) == (
        '{"z":[[0.1,1e-07],[NaN,-Infinity]],"a":3,"q\\"é":["text",{"b64":"/w=="},""],"none":[],'
        '"flag":[[true],[false]]}'.encode()
    )
    assert stfs.encode({}) == b"{}"


def test_a_name_that_ends_in_bytes_means_nothing_here():
    assert stfs.encode({"image_bytes": np.array([b"a"], dtype=object)}) == b'{"image_bytes":["a"]}'


EXAMPLES = {
    errors.InvalidRequest: (errors.InvalidRequest("x"), 400),
    errors.MalformedJson: (errors.MalformedJson("x", 3), 400),
    errors.BadElement: (errors.BadElement("x", 3, (0,)), 400),
    errors.InvalidInput: (errors.InvalidInput("n", "x"), 400),
    errors.UnsupportedMediaType: (errors.UnsupportedMediaType("x"), 400),
    errors.UnsupportedEncoding: (errors.UnsupportedEncoding("x"), 415),
    errors.TooLarge: (errors.TooLarge("x"), 413),
    errors.NotFound: (errors.NotFound("x"), 400),
    errors.ModelNotFound: (errors.ModelNotFound("x"), 400),
    errors.VersionNotFound: (errors.VersionNotFound("x"), 400),
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
    for error, status in EXAMPLES.values():
        assert stfs.status_of(error) == status
        answer = json.loads(stfs.encode_error(error, 'told "so" é'))
        if isinstance(error, errors.UnsupportedMediaType):
            assert answer == {"error": stfs.UNSUPPORTED_MEDIA_TYPE, "detail": 'told "so" é'}
        else:
            assert answer == {"error": 'told "so" é'}


# --- there and back ---------------------------------------------------------------------------------------------------

DTYPES = "efdbhiqBHIQ?O"  # every one that JSON can carry, by numpy's letters
NAMES = st.one_of(st.sampled_from(["x", "data", "b64", "é 🙂", "instances", "preprocess"]), st.text(max_size=6))


@st.composite
def tensors(draw, min_side=1):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.one_of(st.just(()), hnp.array_shapes(max_dims=3, min_side=min_side, max_side=3)))
    if dtype != STRING:
        return draw(hnp.arrays(dtype, shape))
    flat = draw(st.lists(st.binary(max_size=5), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    array = np.empty(len(flat), dtype=object)
    array[:] = flat
    return array.reshape(shape)


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
        return {"b64": b64(value)}


@settings(deadline=None, max_examples=150)
@given(values=st.dictionaries(NAMES, tensors(), min_size=1, max_size=3), data=st.data())
def test_whatever_is_sent_is_decoded_exactly_in_every_form(values, data):
    resolve = Models({("m", 1, None): signature(*((name, array.dtype) for name, array in values.items()))})
    named = {name: plain(array) for name, array in values.items()}
    forms = [{"data": named}]
    if not named.keys() & {"data", "model_name", "model_version", "signature_name", "base64_decode", *stfs.OPTIONS}:
        forms.append(named)
    if len(values) == 1:
        ((name, bare),) = named.items()
        forms.append({"data": {"data": bare}})
        if not (name == "b64" and isinstance(bare, dict)):  # there the object names the input
            forms.append({"data": bare})
    for form in forms:
        members = list({"model_name": "m", "model_version": 1, **form}.items())
        body = json.dumps(dict(data.draw(st.permutations(members))), ensure_ascii=data.draw(st.booleans()))
        got = decode(body.encode(), resolve=resolve)
        assert got.keys() == values.keys()
        for key, array in values.items():
            same(got[key], array)


def restored(value, dtype, shape):
    """What ``json.loads`` gave, as the array that it was."""

    def leaf(item):
        if isinstance(item, dict):
            return base64.b64decode(item["b64"])
        return item.encode() if isinstance(item, str) else item

    def flat(item):
        return [leaf_ for part in item for leaf_ in flat(part)] if isinstance(item, list) else [leaf(item)]

    array = np.empty(len(flat(value)), dtype)
    array[:] = flat(value)
    return array.reshape(shape)


@settings(deadline=None, max_examples=150)
@given(values=st.dictionaries(NAMES, tensors(min_side=0), max_size=3))
def test_whatever_a_model_gives_is_read_back_exactly(values):
    answer = json.loads(stfs.encode(values))
    assert list(answer) == list(values)
    for name, array in values.items():
        same(restored(answer[name], array.dtype, array.shape), array)
        assert np.shape(plain(array)) == np.shape(answer[name])
