import base64
import json
import sys
import threading

import numpy as np
import pytest
from twins import BOTH

from stfs.errors import BadElement, MalformedJson

FLOATS = ["float16", "float32", "float64"]
INTS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


@pytest.fixture(params=BOTH)
def twin(request):
    return request.param


def tensor(twin, text, dtype, **options):
    body = text if isinstance(text, bytes) else text.encode()
    reader = twin.Reader(body)
    array = reader.tensor(np.dtype(dtype), **options)
    reader.end()
    assert array.dtype == np.dtype(dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    return array


def refusal(twin, text, dtype, error=BadElement, **options):
    body = text if isinstance(text, bytes) else text.encode()
    reader = twin.Reader(body)
    with pytest.raises(error) as caught:
        reader.tensor(np.dtype(dtype), **options)
    assert reader.position == 0
    return caught.value


# -- numbers


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-0",
        "1",
        "-1",
        "1.0",
        "0.1",
        "-0.0",
        "1e0",
        "1E5",
        "1e+5",
        "1e-5",
        "123456789",
        "1234567890123456789",
        "12345678901234567890",
        "0.3333333333333333",
        "9007199254740993",
        "9007199254740992.5",
        "9007199254740993e22",
        "1e22",
        "1e23",
        "1e-22",
        "1e-23",
        "1.7976931348623157e308",
        "5e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "1e-400",
        "0e999999999",
        "4.35",
        "0.000001",
        "1.0000000000000002",
        "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017977587207096330286416",
        "1.00000000000000011102230246251565404236316680908203125",
        "1.00000000000000011102230246251565404236316680908203126",
        "7.2057594037927933e16",
        "8.589973e9",
        "3.4028235e38",
        "65504",
        "65519.99",
        "33333333333333333333e-20",
        "0.1e1",
        "100000000.5",
    ],
)
def test_float64_is_pythons_float_to_the_bit(twin, text):
    got = tensor(twin, text, "float64")
    assert got.shape == ()
    assert got.tobytes() == np.float64(float(text)).tobytes()


@pytest.mark.parametrize("digits", [800, 1000, 1500])
def test_absurdly_long_numbers_are_still_exact(twin, digits):
    for text in (
        "0." + "0" * digits + "1e" + str(digits),
        "1" * 300 + "." + "3" * digits,
        "1" + "0" * digits + f"e-{digits}",
    ):
        assert tensor(twin, text, "float64") == float(text)


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_round_once(twin, dtype):
    texts = [
        "1.00048828125",
        "1.0004882812500001",
        "0.1",
        "1.17549435e-38",
        "1e-45",
        "6e-8",
        "-2.5e-8",
        "1e-8",
    ]
    texts += ["1.000000059604644775390625", "1.0000000596046448", "2049", "2051", "6.097555160522461e-05"]
    got = tensor(twin, "[" + ",".join(texts) + "]", dtype)
    np.testing.assert_array_equal(got, np.array([float(t) for t in texts]).astype(dtype))
    assert tensor(twin, "16777217", "float32") == 16777216


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_float_tokens(twin, dtype):
    got = tensor(twin, "[NaN, Infinity, -Infinity, -0]", dtype)
    np.testing.assert_array_equal(got, np.array([np.nan, np.inf, -np.inf, -0.0], dtype))
    assert np.signbit(got[3])


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("65520", "float16"),
        ("-1e39", "float32"),
        ("3.4028235677973366e38", "float32"),
        ("1e400", "float64"),
        ("1" * 400, "float64"),
    ],
)
def test_a_finite_number_that_would_become_infinite_is_out_of_range(twin, text, dtype):
    error = refusal(twin, f"[[0, {text}]]", dtype)
    assert error.path == (0, 1)
    assert error.offset == 5
    assert error.problem.endswith(f" is out of range for {dtype}")


def test_the_largest_floats_are_not_out_of_range(twin):
    assert tensor(twin, "65519.99", "float16") == np.float16(65504)
    assert tensor(twin, "3.4028235677973362e38", "float32") == np.finfo(np.float32).max
    assert tensor(twin, "1.7976931348623158e308", "float64") == sys.float_info.max


@pytest.mark.parametrize("dtype", INTS)
def test_integers_are_exact_at_their_limits(twin, dtype):
    limits = np.iinfo(dtype)
    got = tensor(twin, f"[{limits.min}, {limits.max}, -0, 0, 1]", dtype)
    assert got.tolist() == [limits.min, limits.max, 0, 0, 1]
    for value in (limits.max + 1, limits.min - 1, 10**19, 2 * 10**19, 10**20, -(10**20), 99999999999999999999):
        if not limits.min <= value <= limits.max:
            error = refusal(twin, f"[1, {value}]", dtype)
            assert (error.problem, error.path, error.offset) == (f"{value} is out of range for {dtype}", (1,), 4)


@pytest.mark.parametrize("dtype", INTS)
def test_only_integer_literals_are_integers(twin, dtype):
    for text in ("1.0", "1e3", "1E0", "-0.0", "1.5", "NaN", "Infinity", "-Infinity", "1e400"):
        assert refusal(twin, text, dtype).problem == f"{text} is not an integer"


@pytest.mark.parametrize("dtype", INTS)
def test_integral_floats_where_they_are_asked_for(twin, dtype):
    got = tensor(twin, "[11.0, 12, 1.1e1, 1200e-1, -0.0]", dtype, integral_floats=True)
    assert got.tolist() == [11, 12, 11, 120, 0]
    assert refusal(twin, "[11.0, 11.5]", dtype, integral_floats=True).problem == "11.5 is not an integer"
    assert refusal(twin, "NaN", dtype, integral_floats=True).problem == "NaN is not an integer"
    assert refusal(twin, "1e400", dtype, integral_floats=True).problem == f"1e400 is out of range for {dtype}"
    above = f"{float(np.iinfo(dtype).max) + 1:.1f}"
    assert refusal(twin, above, dtype, integral_floats=True).problem == f"{above} is out of range for {dtype}"


def test_the_most_negative_integral_float(twin):
    assert tensor(twin, "-9223372036854775808.0", "int64", integral_floats=True) == -(2**63)
    assert tensor(twin, "-128.0", "int8", integral_floats=True) == -128
    assert refusal(twin, "-129.0", "int8", integral_floats=True).path == ()
    assert refusal(twin, "-1.0", "uint8", integral_floats=True).path == ()


def test_bools_are_true_and_false_only(twin):
    assert tensor(twin, "[true, false]", bool).tolist() == [True, False]
    assert refusal(twin, "[true, 1]", bool).problem == "expected true or false, found a number"


def test_a_long_literal_is_cut_in_the_message(twin):
    assert refusal(twin, "1" * 100, "int64").problem == "1" * 37 + "... is out of range for int64"


# -- strings


def test_strings_are_utf8_bytes(twin):
    texts = ["", "plain", 'quote " and \\ and /', "\b\f\n\r\t", "\x00\x1f\x7f", "é 汉 𝄞", "a" * 1000, "\x00" * 3]
    for ascii_only in (True, False):
        got = tensor(twin, json.dumps([texts], ensure_ascii=ascii_only), object)
        assert got.shape == (1, len(texts))
        assert got.tolist() == [[text.encode() for text in texts]]
    assert tensor(twin, '"\\/\\u00E9\\uD834\\udd1e"', object)[()] == "/é𝄞".encode()


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", b"\xff\xfe\xfd\xfc", bytes(range(256))])
def test_base64_in_either_alphabet_padded_or_not(twin, data):
    standard, url_safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    texts = [standard, url_safe, standard.rstrip("="), url_safe.rstrip("=")]
    got = tensor(twin, json.dumps([{"b64": text} for text in texts]), object)
    assert got.tolist() == [data] * 4
    escaped = '{ "\\u0062\\u0036\\u0034" : "' + standard.replace("/", "\\/") + '" }'
    assert tensor(twin, escaped, object)[()] == data


@pytest.mark.parametrize(
    "text", ["a", "aaaaa", "a===", "ab=", "abc==", "ab==cd", "a b=", "ab\\n=", "é", "====", "=", "ab!d"]
)
def test_what_is_not_base64(twin, text):
    error = refusal(twin, '["ok", {"b64": "' + text + '"}]', object)
    assert (error.problem, error.path, error.offset) == ("the text is not base64", (1,), 15)


@pytest.mark.parametrize(
    ("text", "problem", "offset"),
    [
        ("[1]", "expected a string, found a number", 1),
        ("[{}]", "expected a string, found an object", 1),
        ('[{"B64": "aa"}]', "expected a string, found an object", 1),
        ('[{"b64": 1}]', "expected base64 text, found a number", 9),
        ('[{"b64": "aa", "c": 1}]', '"b64" must be the object\'s only key', 1),
        ('[{"b64": "aa", "b64": "aa"}]', '"b64" must be the object\'s only key', 1),
    ],
)
def test_what_is_not_a_string(twin, text, problem, offset):
    error = refusal(twin, text, object)
    assert (error.problem, error.path, error.offset) == (problem, (0,), offset)


# -- shapes


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("7", ()),
        ("[]", (0,)),
        ("[[], []]", (2, 0)),
        ("[[[]]]", (1, 1, 0)),
        ("[[1, 2, 3], [4, 5, 6]]", (2, 3)),
        ("[[[[1]]]]", (1, 1, 1, 1)),
    ],
)
def test_the_shape_is_found_on_the_way(twin, text, shape):
    for dtype in ("float32", "int64"):
        got = tensor(twin, text, dtype)
        assert got.shape == shape
        assert got.tolist() == json.loads(text)
    assert tensor(twin, text.translate({ord(c): '""' for c in "1234567"}), object).shape == shape


@pytest.mark.parametrize(
    ("text", "problem", "path", "offset"),
    [
        ("[[1, 2], [3]]", "has 1 element where the ones before have 2", (1,), 9),
        ("[[1, 2], [3, 4, 5]]", "has more than 2 elements where the ones before have 2", (1,), 9),
        ("[[1], []]", "has 0 elements where the ones before have 1", (1,), 6),
        ("[[], [1]]", "has more than 0 elements where the ones before have 0", (1,), 5),
        ("[[[1]], [[1], [2]]]", "has more than 1 element where the ones before have 1", (1,), 8),
        ("[[[1], [2]], [[3], [4, 5]]]", "has more than 1 element where the ones before have 1", (1, 1), 19),
        ("[1, [2]]", "expected a number, found a list", (1,), 4),
        ("[[1], 2]", "expected a list, found a number", (1,), 6),
        ("[[], 2]", "expected a list, found a number", (1,), 5),
        ("[[1, 2], [3, null]]", "expected a number, found null", (1, 1), 13),
        ('[1, "2"]', "expected a number, found a string", (1,), 4),
        ("[1, {}]", "expected a number, found an object", (1,), 4),
        ("[1, true]", "expected a number, found a boolean", (1,), 4),
        ("null", "expected a number, found null", (), 0),
    ],
)
def test_an_irregular_tensor_says_where_and_what(twin, text, problem, path, offset):
    error = refusal(twin, text, "float32")
    assert (error.problem, error.path, error.offset) == (problem, path, offset)


def test_nesting_stops_at_32(twin):
    assert tensor(twin, "[" * 32 + "1" + "]" * 32, "float32").shape == (1,) * 32
    error = refusal(twin, "[" * 33 + "1" + "]" * 33, "float32", MalformedJson)
    assert (error.problem, error.offset) == ("a tensor nested deeper than 32", 32)
    refusal(twin, "[" * 100_000, "float32", MalformedJson)


def test_a_large_tensor_outgrows_every_buffer(twin):
    # Short numbers first, then long: the guess at the size must be corrected; then the other way round.
    for first, then in (("1", "0.12345678901234567"), ("0.12345678901234567", "1")):
        values = [first] * 2000 + [then] * 40_000
        got = tensor(twin, "[" + ",".join(values) + "]", "float64")
        assert got.tolist() == [float(v) for v in values]
    texts = [str(i) for i in range(3000)]
    assert tensor(twin, json.dumps(texts), object).tolist() == [t.encode() for t in texts]


def test_a_fault_far_into_a_large_tensor(twin):
    rows = [[i / 7 for i in range(100)] for _ in range(100)]
    text = json.dumps(rows)
    cut = text.rindex(",")
    error = refusal(twin, text[:cut] + "]]", "float32")
    assert (error.problem, error.path) == ("has 99 elements where the ones before have 100", (99,))
    assert text[error.offset] == "["
    refusal(twin, text[:-1], "float32", MalformedJson)


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "S3", "U3", ">f4", "longdouble", [("a", "f4")]])
def test_dtypes_that_json_cannot_be_read_as(twin, dtype):
    with pytest.raises(TypeError, match="cannot be read as dtype"):
        twin.Reader(b"[1]").tensor(np.dtype(dtype))
    with pytest.raises(TypeError, match="cannot be read as dtype"):
        twin.Column(np.dtype(dtype))


# -- syntax


@pytest.mark.parametrize(
    ("body", "problem", "offset"),
    [
        (b"", "expected a value, found the end of the body", 0),
        (b"  ", "expected a value, found the end of the body", 2),
        (b"[1, 2", "expected ',' or ']', found the end of the body", 5),
        (b"[1, ", "expected a value, found the end of the body", 4),
        (b"[1,]", "expected a value, found ']'", 3),
        (b"[,1]", "expected a value, found ','", 1),
        (b"[1 2]", "expected ',' or ']', found '2'", 3),
        (b"[01]", "a number cannot begin with 0", 1),
        (b"[-01]", "a number cannot begin with 0", 2),
        (b"[1.]", "expected a digit, found ']'", 3),
        (b"[.5]", "expected a value, found '.'", 1),
        (b"[+1]", "expected a value, found '+'", 1),
        (b"[-]", "expected a digit, found ']'", 2),
        (b"[1e]", "expected a digit, found ']'", 3),
        (b"[1e+", "expected a digit, found the end of the body", 4),
        (b"[nul]", "bad literal, expected null", 1),
        (b"[nan]", "bad literal, expected null", 1),
        (b"[Nan]", "bad literal, expected NaN", 1),
        (b"[-Inf]", "bad literal, expected -Infinity", 1),
        (b"\xef\xbb\xbf[1]", "expected a value, found a UTF-8 byte order mark", 0),
        (b"[\xff]", "expected a value, found byte 0xFF", 1),
        (b"\x00", "expected a value, found byte 0x00", 0),
    ],
)
def test_malformed_wherever_it_is_read(twin, body, problem, offset):
    for read in (lambda r: r.tensor(np.dtype("float32")), lambda r: r.value(), lambda r: r.skip()):
        reader = twin.Reader(body)
        with pytest.raises(MalformedJson) as caught:
            read(reader)
        assert (caught.value.problem, caught.value.offset) == (problem, offset)
        assert reader.position == 0


@pytest.mark.parametrize(
    ("body", "problem", "offset"),
    [
        (b'"abc', "a string is not closed", 4),
        (b'"abc\\', "a string is not closed", 5),
        (b'"abcdefghij\nkl"', "a control character in a string", 11),
        (b'"abcdefgh\\x"', "an unknown escape in a string", 9),
        (b'"\\u12g4"', "expected four hexadecimal digits after \\u", 1),
        (b'"\\u12', "expected four hexadecimal digits after \\u", 1),
        (b'"a\\ud800b"', "half a surrogate pair in a string", 2),
        (b'"a\\ud800\\u0041"', "half a surrogate pair in a string", 2),
        (b'"a\\udc00"', "half a surrogate pair in a string", 2),
        (b'"ab\xff"', "a string is not UTF-8", 3),
        (b'"ab\xc0\x80"', "a string is not UTF-8", 3),
        (b'"ab\xe2\x82"', "a string is not UTF-8", 3),
        (b'"ab\xed\xa0\x80"', "a string is not UTF-8", 3),
        (b'"ab\xf4\x90\x80\x80"', "a string is not UTF-8", 3),
        (b'"\xf0\x9f\x98', "a string is not UTF-8", 1),
    ],
)
def test_malformed_strings(twin, body, problem, offset):
    for read in (lambda r: r.tensor(np.dtype(object)), lambda r: r.value(), lambda r: r.skip()):
        with pytest.raises(MalformedJson) as caught:
            read(twin.Reader(body))
        assert (caught.value.problem, caught.value.offset) == (problem, offset)


@pytest.mark.parametrize(
    ("body", "problem", "offset"),
    [
        (b'{"a" 1}', "expected ':', found '1'", 5),
        (b'{"a": 1,}', "expected a key in double quotes, found '}'", 8),
        (b"{a: 1}", "expected a key in double quotes, found 'a'", 1),
        (b'{"a": 1 "b"', "expected ',' or '}', found '\"'", 8),
        (b'{"a": }', "expected a value, found '}'", 6),
        (b"[" * 129, "nested deeper than 128", 128),
        (b"1" * 4301, "an integer of more than 4300 digits", 0),
    ],
)
def test_malformed_values(twin, body, problem, offset):
    for read in (lambda r: r.value(), lambda r: r.skip()):
        with pytest.raises(MalformedJson) as caught:
            read(twin.Reader(body))
        assert (caught.value.problem, caught.value.offset) == (problem, offset)


# -- the cursor


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: memoryview(b"xx" + b + b"xx")[2:-2]])
def test_walking_a_body(twin, make):
    reader = twin.Reader(
        make(b' { "name" : "n" , "x" : [ [1.5] , [2] ] , "more" : {"a": [null]}, "list": [ 1 , "two" ] } \n')
    )
    assert reader.kind() == "object"
    reader.enter_object()
    seen = {}
    while (key := reader.next_key()) is not None:
        if key == "x":
            seen[key] = reader.tensor(np.dtype("float32")).tolist()
        elif key == "more":
            reader.skip()
        elif key == "list":
            assert reader.kind() == "array"
            reader.enter_array()
            seen[key] = []
            while reader.next_item():
                seen[key].append((reader.kind(), reader.value()))
        else:
            seen[key] = reader.value()
    reader.end()
    assert seen == {"name": "n", "x": [[1.5], [2.0]], "list": [("number", 1), ("string", "two")]}


@pytest.mark.parametrize("body", ["{}", 3, None, [1]])
def test_a_body_is_bytes(twin, body):
    with pytest.raises(TypeError):
        twin.Reader(body)


def test_empty_containers(twin):
    reader = twin.Reader(b"[ { } , [ ] ]")
    reader.enter_array()
    assert reader.next_item()
    reader.enter_object()
    assert reader.next_key() is None
    assert reader.next_item()
    reader.enter_array()
    assert not reader.next_item()
    assert not reader.next_item()
    reader.end()


def test_going_back_to_read_a_value_again(twin):
    body = '[[1, 2], {"é": "x["}, 3]'.encode()
    reader = twin.Reader(body)
    reader.enter_array()
    start = reader.position
    assert reader.next_item()
    at = reader.position
    assert reader.value() == [1, 2]
    reader.seek(at)
    assert reader.tensor(np.dtype("int8")).tolist() == [1, 2]
    assert reader.next_item()
    reader.seek(start)
    assert [reader.value() for _ in iter(reader.next_item, False)] == [[1, 2], {"é": "x["}, 3]
    reader.end()
    for position in (-1, len(body) + 1):
        with pytest.raises(ValueError, match="outside a body"):
            reader.seek(position)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{}", "object"),
        (" [", "array"),
        ('"', "string"),
        ("-1", "number"),
        ("NaN", "number"),
        ("-Infinity", "number"),
        ("true", "bool"),
        ("false", "bool"),
        ("null", "null"),
    ],
)
def test_the_kind_of_what_comes_next(twin, text, kind):
    reader = twin.Reader(text.encode())
    assert reader.kind() == kind
    assert reader.position == 0


def test_the_wrong_container_and_what_is_left_over(twin):
    for call, body, problem in [
        (lambda r: r.enter_object(), b" [1]", "expected '{', found '['"),
        (lambda r: r.enter_array(), b"1", "expected '[', found '1'"),
        (lambda r: r.end(), b" 1", "expected the end of the body, found '1'"),
        (lambda r: r.kind(), b"", "expected a value, found the end of the body"),
    ]:
        with pytest.raises(MalformedJson) as caught:
            call(twin.Reader(body))
        assert caught.value.problem == problem
        assert caught.value.offset == len(body) - len(body.lstrip())


def test_values_are_json_loads(twin):
    text = (
        '{"a": [1, -2, 1.5, 1e400, -1E-2, 123456789012345678901234567890, -0, true, false, null, "x\\n\\u00e9", {}],'
        ' "b": {"c": [[[1]]]}, "b": {"d": 2}, "e": [NaN, -Infinity]}'
    )
    expected = json.loads(text)
    for body in (text, text.replace("x", "é")):
        got = twin.Reader(body.encode()).value()
        assert repr(got) == repr(expected).replace("x", "é" if "é" in body else "x")
        reader = twin.Reader(body.encode())
        reader.skip()
        reader.end()
    assert twin.Reader(b"[" * 128 + b"]" * 128).value() == json.loads("[" * 128 + "]" * 128)
    assert twin.Reader(b"1" * 4300).value() == int("1" * 4300)
    wide = [[i] for i in range(500)]
    assert twin.Reader(json.dumps(wide).encode()).value() == wide


# -- columns


def read_rows(twin, text, columns):
    reader = twin.Reader(text.encode())
    reader.enter_array()
    while reader.next_item():
        reader.enter_object()
        while (key := reader.next_key()) is not None:
            reader.append(columns[key])
    reader.end()
    return {name: column.array() for name, column in columns.items()}


def test_rows_of_objects_become_columns(twin):
    rows = [{"x": [i, i + 0.5], "n": i, "s": f"s{i}", "m": [[True], [False]]} for i in range(700)]
    dtypes = {"x": "float32", "n": "int64", "s": "object", "m": "bool"}
    columns = {name: twin.Column(np.dtype(dtype)) for name, dtype in dtypes.items()}
    got = read_rows(twin, json.dumps(rows), columns)
    assert {name: array.shape for name, array in got.items()} == {
        "x": (700, 2),
        "n": (700,),
        "s": (700,),
        "m": (700, 2, 1),
    }
    for name, array in got.items():
        want = [row[name] for row in rows]
        assert array.tolist() == ([text.encode() for text in want] if name == "s" else want)
        assert array.dtype == np.dtype(dtypes[name])
        assert len(columns[name]) == 700


def test_a_columns_array_is_the_callers(twin):
    column = twin.Column(np.dtype("int8"))
    assert column.array().shape == (0,)
    twin.Reader(b"[1, 2]").append(column)
    first = column.array()
    first[:] = 9
    twin.Reader(b"[3, 4]").append(column)
    assert column.array().tolist() == [[1, 2], [3, 4]]
    strings = twin.Column(np.dtype(object))
    twin.Reader(b'"a long enough string"').append(strings)
    kept = strings.array()
    del strings
    assert kept.tolist() == [b"a long enough string"]


@pytest.mark.parametrize(
    ("second", "problem", "path"),
    [
        ("[3]", "has 1 element where the ones before have 2", (1,)),
        ("[3, 4, 5]", "has more than 2 elements where the ones before have 2", (1,)),
        ("3", "expected a list, found a number", (1,)),
        ("[[3], [4]]", "expected a number, found a list", (1, 0)),
        ('[3, "4"]', "expected a number, found a string", (1, 1)),
    ],
)
def test_a_row_unlike_the_first_is_refused(twin, second, problem, path):
    column = twin.Column(np.dtype("float32"))
    twin.Reader(b"[1, 2]").append(column)
    with pytest.raises(BadElement) as caught:
        twin.Reader(b"  " + second.encode()).append(column)
    assert (caught.value.problem, caught.value.path) == (problem, path)


def test_a_column_of_integral_floats(twin):
    column = twin.Column(np.dtype("int32"), integral_floats=True)
    twin.Reader(b"1.0").append(column)
    twin.Reader(b"2").append(column)
    assert column.array().tolist() == [1, 2]


def test_readers_work_side_by_side_in_threads(twin):
    text = json.dumps([[i * 0.37 for i in range(200)] for _ in range(30)]).encode()
    expected = np.array(json.loads(text), np.float32)
    same: list[bool] = []

    def read():
        for _ in range(5):
            same.append(np.array_equal(twin.Reader(text).tensor(np.dtype("float32")), expected))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 20


# -- text that is read in blocks


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_every_length(twin, encode):
    rng = np.random.default_rng(4)
    data = [rng.bytes(n) for n in [*range(140), 1000, 4099]]
    padded = [{"b64": encode(item).decode()} for item in data]
    bare = [{"b64": encode(item).decode().rstrip("=")} for item in data]
    for texts in (padded, bare):
        assert tensor(twin, json.dumps(texts), "object").tolist() == data


def test_every_byte_that_is_not_base64_is_found_wherever_it_stands(twin):
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_"
    for at in (0, 13, 31, 32, 63, 64, 90):
        for byte in set(range(0x20, 0x7F)) - set(b'"\\'):
            text = bytearray(b"Zm9v" * 24)
            text[at] = byte
            body = b'{"b64":"' + bytes(text) + b'"}'
            if byte in alphabet:
                assert len(tensor(twin, body, "object").item()) == 72
            else:
                assert refusal(twin, body, "object").problem == "the text is not base64"
        for foreign, said in [(b"\x1f", "control character"), (b"\xc3", "not UTF-8"), (b"\\q", "unknown escape")]:
            body = b'{"b64":"' + b"Zm9v" * 24 + b'"}'
            body = body[: 8 + at] + foreign + body[8 + at :]
            assert said in refusal(twin, body, "object", MalformedJson).problem


def test_base64_with_escapes_and_quotes_in_it(twin):
    escaped = base64.b64encode(b"\xff\xef" * 60).decode().replace("/", "\\/")
    assert "\\/" in escaped
    assert tensor(twin, '{"b64":"' + escaped + '"}', "object").item() == b"\xff\xef" * 60
    assert refusal(twin, '{"b64":"' + "Zm9v" * 20 + '\\"Zm9v"}', "object").problem == "the text is not base64"
    assert refusal(twin, '{"b64":"' + "Zm9v" * 20 + '","a":1}', "object").problem.startswith('"b64" must be')
    assert refusal(twin, '{"b64":"' + "Zm9v" * 20, "object", MalformedJson).problem == "a string is not closed"


def test_what_is_not_plain_in_a_string_is_found_wherever_it_stands(twin):
    for at in range(40):
        before, after = "x" * at, "y" * (40 - at)
        for inside in ('"', "\\", "\n", "é", "\x7f", "\U0001d11e"):
            text = before + inside + after
            assert tensor(twin, json.dumps(text), "object").item() == text.encode()
            assert tensor(twin, json.dumps(text, ensure_ascii=False), "object").item() == text.encode()
        for foreign in (b"\x00", b"\x1f", b"\x80", b"\xff"):
            body = b'"' + before.encode() + foreign + after.encode() + b'"'
            assert refusal(twin, body, "object", MalformedJson).offset == 1 + at


# -- missing values, and literals that stand for their text


@pytest.mark.parametrize("dtype", FLOATS)
def test_null_is_nan_where_values_may_miss(twin, dtype):
    got = tensor(twin, "[[null, 1], [2, null]]", dtype, nullable=True)
    np.testing.assert_array_equal(got, np.array([[np.nan, 1], [2, np.nan]], dtype))
    assert np.isnan(tensor(twin, "null", dtype, nullable=True))
    assert refusal(twin, "[1, null]", dtype).problem == "expected a number, found null"
    assert refusal(twin, "[[1], null]", dtype, nullable=True).problem == "expected a list, found null"
    assert refusal(twin, "[1, nul]", dtype, MalformedJson, nullable=True).offset == 4
    assert refusal(twin, '[null, ""]', dtype, nullable=True).problem == "expected a number, found a string"


def test_null_is_no_text_where_values_may_miss(twin):
    assert tensor(twin, '["a", null, NaN, ""]', "object", nullable=True).tolist() == [b"a", b"", b"", b""]
    assert tensor(twin, '["é", null]', "object", nullable=True).tolist() == ["é".encode(), b""]
    assert refusal(twin, '["a", null]', "object").problem == "expected a string, found null"
    assert refusal(twin, '["a", NaN]', "object").problem == "expected a string, found a number"
    assert refusal(twin, '["a", NaM]', "object", MalformedJson, nullable=True).offset == 6


@pytest.mark.parametrize("dtype", [*INTS, "bool"])
def test_what_has_no_value_for_null_refuses_it(twin, dtype):
    assert refusal(twin, "[null]", dtype, nullable=True).problem.endswith(", found null")


def test_numbers_and_booleans_as_their_text(twin):
    text = '["a", 3, -1.50E+2, true, false, NaN, -Infinity, {"b64": "Yg=="}]'
    want = [b"a", b"3", b"-1.50E+2", b"true", b"false", b"NaN", b"-Infinity", b"b"]
    assert tensor(twin, text, "object", literals=True).tolist() == want
    assert refusal(twin, "[1, null]", "object", literals=True).problem == "expected a string, found null"
    assert refusal(twin, "[1, [2]]", "object", literals=True).problem == "expected a string, found a list"
    assert refusal(twin, "[1, 01]", "object", MalformedJson, literals=True).offset == 4
    assert tensor(twin, "[1, null, NaN]", "object", literals=True, nullable=True).tolist() == [b"1", b"", b""]
    assert refusal(twin, "[1]", "object").problem == "expected a string, found a number"


def test_columns_have_missing_values_too(twin):
    columns = {
        "f": twin.Column(np.dtype("float32"), nullable=True),
        "s": twin.Column(np.dtype(object), nullable=True, literals=True),
    }
    reader = twin.Reader(b'[null, 1.5, null, 3, "x"]')
    reader.enter_array()
    for name in "ffsss":
        assert reader.next_item()
        reader.append(columns[name])
    np.testing.assert_array_equal(columns["f"].array(), np.array([np.nan, 1.5], np.float32))
    assert columns["s"].array().tolist() == [b"", b"3", b"x"]
    with pytest.raises(BadElement, match="expected a number, found null"):
        twin.Reader(b"null").append(twin.Column(np.dtype("float32")))
