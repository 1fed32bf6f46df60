import base64
import json
import sys
import threading
import time

import numpy as np
import pytest
from twins import BOTH, COMPILED, READABLE, needs_compiled


@pytest.fixture(params=BOTH)
def twin(request):
    return request.param


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (1, "float64", "1.0"),
        (0.1, "float64", "0.1"),
        (-0.0, "float64", "-0.0"),
        (1e15, "float64", "1000000000000000.0"),
        (1e16, "float64", "1e+16"),
        (0.0001, "float64", "0.0001"),
        (0.00001, "float64", "1e-05"),
        (1.5e-7, "float64", "1.5e-07"),
        (5e-324, "float64", "5e-324"),
        (1 / 3, "float64", "0.3333333333333333"),
        (0.1, "float32", "0.1"),
        (0.0001, "float32", "0.0001"),
        (1 / 3, "float32", "0.33333334"),
        (16777216, "float32", "16777216.0"),
        (2**30, "float32", "1073741800.0"),
        (1e-45, "float32", "1e-45"),
        (3.4028235e38, "float32", "3.4028235e+38"),
        (0.1, "float16", "0.1"),
        (65504, "float16", "65500.0"),
        (6e-8, "float16", "6e-08"),
        (np.nan, "float32", "NaN"),
        (np.inf, "float16", "Infinity"),
        (-np.inf, "float64", "-Infinity"),
    ],
)
def test_the_shortest_digits_that_read_back(twin, value, dtype, text):
    assert twin.encode(np.array(value, dtype)).decode() == text


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (2, "float32", "2.0"),
        (9e6, "float32", "9e+06"),
        (1 / 3, "float32", "0.333333343"),
        (0.1, "float32", "0.1"),
        (123456, "float32", "123456.0"),
        (1234567, "float32", "1234567.0"),
        (1e-5, "float32", "1e-05"),
        (-0.0, "float32", "-0.0"),
        (1e-45, "float32", "1.4013e-45"),
        (1 / 3, "float64", "0.33333333333333331"),
        (0.1, "float64", "0.1"),
        (1e300, "float64", "1e+300"),
        (2.5, "float16", "2.5"),
        (np.nan, "float32", "NaN"),
        (-np.inf, "float32", "-Infinity"),
    ],
)
def test_six_digits_or_all_as_tensorflow_serving_writes(twin, value, dtype, text):
    assert twin.encode(np.array(value, dtype), style="tfs").decode() == text


@pytest.mark.parametrize("style", ["shortest", "tfs"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floats_read_back_to_the_bit(twin, style, dtype):
    rng = np.random.default_rng(1)
    array = (rng.standard_normal((40, 50)) * 10.0 ** rng.integers(-4, 4, (40, 50))).astype(dtype)
    body = twin.encode(array, style=style)
    assert twin.Reader(body).tensor(np.dtype(dtype)).tobytes() == array.tobytes()


def test_float64_has_the_value_of_pythons_repr(twin):
    values = np.random.default_rng(2).standard_normal(500)
    assert twin.encode(values).decode() == "[" + ",".join(map(repr, values.tolist())) + "]"


@pytest.mark.parametrize(
    "dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "longlong"]
)
def test_integers(twin, dtype):
    limits = np.iinfo(dtype)
    values = [limits.min, limits.max, 0, 1, 100]
    assert json.loads(twin.encode(np.array(values, dtype))) == values


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (0, 3), (2, 3), (2, 1, 3), (1, 2, 3, 4)])
def test_nesting_follows_the_shape(twin, shape):
    for array in (
        np.arange(np.prod(shape, dtype=int)).reshape(shape),
        np.ones(shape, bool),
        np.full(shape, b"x", object),
    ):
        want = json.dumps(
            array.astype(str).tolist() if array.dtype == object else array.tolist(), separators=(",", ":")
        )
        assert twin.encode(array).decode() == want.replace("b'x'", "x")


def test_strided_reversed_broadcast_and_foreign_arrays(twin):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    for array in (
        base.T,
        base[::2, ::-1],
        base[:, 1],
        np.asfortranarray(base),
        base.astype(">f4"),
        np.broadcast_to(base[0], (3, 6)),
    ):
        assert json.loads(twin.encode(array)) == array.tolist()
        assert json.loads(twin.encode_rows({"a": array})) == [{"a": row.tolist()} for row in array]
    packed = np.zeros(3, dtype=[("pad", "i1"), ("value", "f8")])
    packed["value"] = [1, 2, 3]
    assert twin.encode(packed["value"]) == b"[1.0,2.0,3.0]"
    texts = np.array([["a", "é"], ["c", "d"]], object).T
    assert json.loads(twin.encode(texts)) == [["a", "c"], ["é", "d"]]


def test_large_arrays(twin):
    array = np.random.default_rng(3).integers(-(10**6), 10**6, (300, 40))
    assert json.loads(twin.encode(array)) == array.tolist()
    strings = np.array(["x" * 5000, "é" * 3000, '"' * 3000], object)
    assert json.loads(twin.encode(strings)) == strings.tolist()


def test_strings(twin):
    texts = [
        "",
        "plain",
        '"\\/',
        "\b\f\n\r\t",
        "\x00\x1f\x7f",
        "é 汉 𝄞",
        "long enough to be read eight bytes at a time\n",
    ]
    for array in (np.array(texts, object), np.array([t.encode() for t in texts], object)):
        body = twin.encode(array)
        assert json.loads(body) == texts
        assert "é 汉 𝄞".encode() in body
    assert twin.encode(np.array("\x01\x1f\n", object)) == b'"\\u0001\\u001f\\n"'
    assert json.loads(twin.encode(np.array(["é", "b"]))) == ["é", "b"]
    assert json.loads(twin.encode(np.array([b"ab", b"c"]))) == ["ab", "c"]
    assert twin.encode(np.array(["a\ud800"], object)) == b'["a?"]'


def test_bytes_that_are_not_text_leave_as_base64(twin):
    data = [bytes(range(n)) + b"\xff" * n for n in range(5)]
    body = json.loads(twin.encode(np.array(data, object)))
    assert body[0] == ""
    assert [base64.b64decode(item["b64"], validate=True) for item in body[1:]] == data[1:]
    forced = twin.encode(np.array([b"text", "é"], object), b64=True)
    assert forced == b'[{"b64":"dGV4dA=="},{"b64":"w6k="}]'
    assert twin.encode(np.array([1.5]), b64=True) == b"[1.5]"


def test_rows(twin):
    columns = {
        "x": np.arange(4, dtype=np.float32).reshape(2, 2),
        'na"me': np.array([1, 2], np.int8),
        "image_bytes": np.array([b"a", b"b"], object),
        "text": np.array([b"a", b"\xff"], object),
    }
    assert twin.encode_rows(columns, b64_names={"image_bytes"}).decode() == (
        '[{"x":[0.0,1.0],"na\\"me":1,"image_bytes":{"b64":"YQ=="},"text":"a"},'
        '{"x":[2.0,3.0],"na\\"me":2,"image_bytes":{"b64":"Yg=="},"text":{"b64":"/w=="}}]'
    )
    assert twin.encode_rows({"a": np.array([0.333333343], np.float32)}, style="tfs") == b'[{"a":0.333333343}]'


def test_no_rows(twin):
    assert twin.encode_rows({}) == b"[]"
    assert twin.encode_rows({"a": np.empty((0, 3)), "b": np.empty(0, object)}) == b"[]"


def test_columns_that_are_no_table(twin):
    for columns in ({"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.array(1)}, {"a": np.array(1), "b": np.array(2)}):
        with pytest.raises(ValueError, match="number of rows"):
            twin.encode_rows(columns)


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "timedelta64[s]", "longdouble", [("a", "f4")]])
def test_dtypes_that_cannot_be_written(twin, dtype):
    array = np.zeros(1, dtype)
    for write in (twin.encode, lambda a: twin.encode_rows({"a": a})):
        with pytest.raises(TypeError) as caught:
            write(array)
        assert str(caught.value) == f"dtype {array.dtype} cannot be written as JSON"


def test_objects_that_cannot_be_written(twin):
    for element in (1, None, [1]):
        array = np.empty(2, object)
        array[:] = [b"a", None]
        array[1] = element
        with pytest.raises(
            TypeError, match=f"^a {type(element).__name__} in an object array cannot be written as JSON$"
        ):
            twin.encode(array)


def test_an_unknown_style(twin):
    with pytest.raises(ValueError, match="unknown style 'long'"):
        twin.encode(np.zeros(1), style="long")


def test_a_json_string(twin):
    assert twin.encode_string("") == b'""'
    assert twin.encode_string('a"\\\n\x01é') == b'"a\\"\\\\\\n\\u0001' + "é".encode() + b'"'
    assert twin.encode_string("\udcff") == b'"?"'


def write_columns(twin, array):
    return twin.encode_rows({"x": array, "y": array[:, :1]})


@needs_compiled
@pytest.mark.slow
@pytest.mark.parametrize("write", [lambda twin, array: twin.encode(array), write_columns], ids=["array", "table"])
def test_large_numeric_arrays_are_written_while_another_thread_runs(write):
    array = np.random.default_rng(5).random((1000, 1000))
    want = write(COMPILED, array)
    seen: list[str] = []
    met = []

    def work():
        seen.append("began")
        met.append(write(COMPILED, array))
        seen.append("ended")

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # so that nobody is asked for the interpreter lock, and who runs here was given it
    try:
        for _ in range(50):  # this thread may be scheduled too late to see it; a lock that is held is never seen let go
            seen.clear()
            thread = threading.Thread(target=work)
            thread.start()
            while not seen:
                time.sleep(0)
            ran_beside = seen == ["began"]
            thread.join()
            assert met.pop() == want
            if ran_beside:
                break
    finally:
        sys.setswitchinterval(interval_s)
    assert ran_beside


@needs_compiled
@pytest.mark.parametrize("shape", [(2000,), (40, 50), (500, 1, 4), (2000, 1, 1, 1), (1, 1, 2000)])
def test_the_room_made_for_large_arrays_is_enough_for_the_longest_numbers(shape):
    for name, longest in [
        ("float64", -2.2250738585072014e-308),
        ("float32", -1.17549435e-38),
        ("float16", -6.10352e-05),
        ("int64", -(2**63)),
        ("uint8", 255),
        ("bool", False),
    ]:
        array = np.full(shape, longest, name)
        for style in ("shortest", "tfs"):
            assert COMPILED.encode(array, style=style) == READABLE.encode(array, style=style)
