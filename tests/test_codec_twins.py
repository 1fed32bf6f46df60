"""The twins never differ: in results, error types, messages, offsets, paths, or where the cursor is left."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from twins import COMPILED, READABLE, needs_compiled

pytestmark = needs_compiled
given_much = settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])

DTYPES = [
    np.dtype(n)
    for n in [
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "bool",
        "object",
    ]
]

# -- bodies: text, not values, so that odd spellings occur

digits = st.text("0123456789", min_size=1, max_size=24)
integers = st.one_of(
    st.integers(-300, 300).map(str),
    st.sampled_from([s * 2**b + d for b in (7, 8, 15, 16, 31, 32, 63, 64) for s in (-1, 1) for d in (-1, 0, 1)]).map(
        str
    ),
    st.integers().map(str),
    st.just("-0"),
)
floats = st.one_of(
    st.floats().map(json.dumps),
    st.floats(width=32).map(json.dumps),
    st.floats(width=16).map(json.dumps),
    st.builds("{}.{}".format, st.integers(-(10**6), 10**6), digits),
    st.builds("{}.{}e{}".format, st.integers(-99, 99), digits, st.integers(-400, 400)),
    st.builds("{}E+{}".format, st.integers(-99, 99), st.integers(0, 400)),
    st.integers(-200, 200).map("{}.0".format),
)
plain_text = st.text(st.characters(codec="utf-8"), max_size=12)
strings = st.one_of(
    plain_text.map(json.dumps),
    plain_text.map(lambda t: json.dumps(t, ensure_ascii=False)),
    st.binary(max_size=9).map(lambda b: json.dumps(b.decode("latin-1"))),
    st.sampled_from(['"\\/"', '"\\ud83d\\ude00"', '"\\uD834\\uDD1E!"', '"a somewhat longer string, of ASCII"']),
)
base64s = st.builds('{{"b64":"{}"}}'.format, st.text("QUJDREVG+/-_x=", max_size=9))
spaces = st.sampled_from(["", "", "", " ", "\n", "\t \r"])
leaves = {
    "f": st.one_of(integers, floats),
    "i": integers,
    "u": integers,
    "b": st.sampled_from(["true", "false"]),
    "O": st.one_of(strings, base64s),
}
anything = st.one_of(
    integers, floats, strings, base64s, st.sampled_from(["true", "false", "null", "{}", "[]", '{"a":1}'])
)


@st.composite
def nested(draw, leaf, shape):
    if not shape:
        return draw(leaf)
    space, comma = draw(spaces), draw(spaces) + "," + draw(spaces)
    items = [draw(nested(leaf, shape[1:])) for _ in range(shape[0])]
    return "[" + space + comma.join(items) + space + "]"


shapes = st.lists(st.integers(0, 4), max_size=3)


missing = st.sampled_from(["null", "null", "NaN", "nul", "true", "-Infinity", "-1.50e3", "01"])
options = st.fixed_dictionaries({name: st.booleans() for name in ("integral_floats", "nullable", "literals")})


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    leaf = leaves[dtype.kind]
    match draw(st.integers(0, 5)):
        case 0:
            leaf = st.one_of(leaf, leaf, leaf, anything)
        case 1 | 2:
            leaf = st.one_of(leaf, leaf, missing)
    return dtype, draw(spaces) + draw(nested(leaf, draw(shapes))) + draw(spaces)


@st.composite
def values(draw):
    leaf = st.one_of(anything, anything)
    text = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(lambda items: "[" + ",".join(items) + "]"),
            st.lists(st.tuples(strings, inner), max_size=4).map(
                lambda pairs: "{" + ", ".join(f"{k} :{v}" for k, v in pairs) + "}"
            ),
        ),
        max_leaves=12,
    )
    return draw(spaces) + draw(text) + draw(spaces)


@st.composite
def damaged(draw, body):
    """A valid body cut, or with bytes flipped, inserted or deleted."""
    body = bytearray(body)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["cut", "flip", "insert", "delete", "repeat"])):
            case "cut":
                del body[at:]
            case "flip" if at < len(body):
                body[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                body[at:at] = draw(
                    st.sampled_from(
                        [
                            b"[",
                            b"]",
                            b",",
                            b"0",
                            b".",
                            b"e",
                            b"-",
                            b'"',
                            b"\\",
                            b"null",
                            b"\\ud800",
                            b"\xc3",
                            b" ",
                            b"1",
                        ]
                    )
                )
            case "delete":
                del body[at : at + draw(st.integers(1, 3))]
            case "repeat":
                body[at:at] = body[at : at + draw(st.integers(1, 9))]
    return bytes(body)


# -- what is compared


def image(result):
    """All that can be told of a result: for arrays the bits, since NaN is not NaN and -0.0 is 0.0."""
    if isinstance(result, np.ndarray):
        elements = result.ravel().tolist() if result.dtype == object else result.tobytes()
        return result.dtype, result.shape, result.flags.c_contiguous, elements
    return type(result), repr(result)


def told(twin, body, read):
    reader = twin.Reader(body)
    try:
        result = image(read(twin, reader))
    except Exception as error:
        result = type(error), str(error), getattr(error, "offset", None), getattr(error, "path", None)
    return result, reader.position


def assert_same(body, read):
    assert told(COMPILED, body, read) == told(READABLE, body, read)


@given_much
@given(tensors(), options)
@example((np.dtype("float64"), "-0"), {})
@example((np.dtype("int64"), "9223372036854775807.0"), {"integral_floats": True})
@example((np.dtype("float16"), "[null]"), {"nullable": True})
@example((np.dtype("float16"), "[null, [1]]"), {"nullable": True})
@example((np.dtype("object"), '["a", null, NaN, 1.50, false]'), {"nullable": True, "literals": True})
@example((np.dtype("object"), "[NaN, -0, null]"), {"literals": True})
def test_tensors(tensor, options):
    dtype, text = tensor
    assert_same(text.encode(), lambda _, r: r.tensor(dtype, **options))


@given_much
@given(st.data(), tensors(), options)
def test_damaged_tensors(data, tensor, options):
    dtype, text = tensor
    body = data.draw(damaged(text.encode()))
    assert_same(body, lambda _, r: r.tensor(dtype, **options))


@given_much
@given(st.data(), values())
def test_values_damaged_or_not(data, text):
    body = data.draw(st.one_of(st.just(text.encode()), damaged(text.encode())))
    for read in (lambda _, r: r.value(), lambda _, r: r.skip(), lambda _, r: r.kind()):
        assert_same(body, read)


@given_much
@given(values())
def test_values_are_what_json_loads_gives(text):
    assert repr(COMPILED.Reader(text.encode()).value()) == repr(json.loads(text))


@given_much
@given(st.data(), st.lists(st.tuples(strings, values()), max_size=4))
def test_walking_an_object(data, members):
    text = "{" + ",".join(f" {key}:{value}" for key, value in members) + "} "
    body = data.draw(st.one_of(st.just(text.encode()), damaged(text.encode())))

    def walk(_, reader):
        steps = [reader.kind()]
        reader.enter_object()
        while (key := reader.next_key()) is not None:
            start = reader.position
            steps += [key, start, reader.kind(), reader.value()]
            reader.seek(start)
            reader.skip()
            steps.append(reader.position)
        reader.end()
        return steps

    assert_same(body, walk)


@given_much
@given(st.data(), st.sampled_from(DTYPES), shapes, options)
def test_columns(data, dtype, shape, options):
    leaf = st.one_of(leaves[dtype.kind], leaves[dtype.kind], missing)
    other = data.draw(shapes)
    rows = data.draw(st.lists(st.one_of(nested(leaf, shape), nested(leaf, shape), nested(leaf, other)), max_size=5))
    text = ("[" + ", ".join(rows) + "]").encode()
    body = data.draw(st.one_of(st.just(text), damaged(text)))

    def walk(twin, reader):
        column = twin.Column(dtype, **options)
        reader.enter_array()
        while reader.next_item():
            reader.append(column)
        reader.end()
        return column.array()

    assert_same(body, walk)


# -- the way back

numeric = st.sampled_from([d for d in DTYPES if d.kind != "O"])
any_shape = hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=5)
objects = hnp.arrays(
    object, any_shape, elements=st.one_of(st.binary(max_size=12), st.text(max_size=12), plain_text.map(str.encode))
)
arrays = st.one_of(numeric.flatmap(lambda dtype: hnp.arrays(dtype, any_shape)), objects)
styles = st.sampled_from(["shortest", "tfs"])


@given_much
@given(arrays, styles, st.booleans())
def test_encoding(array, style, b64):
    assert COMPILED.encode(array, style=style, b64=b64) == READABLE.encode(array, style=style, b64=b64)


@given_much
@given(st.lists(st.one_of(st.floats(), st.floats(width=32), st.floats(width=16)), max_size=20), styles)
def test_encoding_floats(values, style):
    for dtype in ("float16", "float32", "float64"):
        with np.errstate(over="ignore"):
            array = np.array(values, np.float64).astype(dtype)
        assert COMPILED.encode(array, style=style) == READABLE.encode(array, style=style)


@given_much
@given(st.data(), st.integers(0, 4), st.lists(st.text(max_size=5), max_size=3, unique=True), styles)
def test_encoding_rows(data, rows, names, style):
    shape = any_shape.map(lambda s: (rows, *s))
    columns = {name: data.draw(numeric.flatmap(lambda d: hnp.arrays(d, shape))) for name in names}
    columns["s"] = data.draw(hnp.arrays(object, shape, elements=st.binary(max_size=4)))
    b64_names = data.draw(st.sets(st.sampled_from(sorted(columns))))
    got = [twin.encode_rows(columns, style=style, b64_names=b64_names) for twin in (COMPILED, READABLE)]
    assert got[0] == got[1]


@given_much
@given(st.text(st.characters(), max_size=30))
def test_encoding_text(text):
    assert COMPILED.encode_string(text) == READABLE.encode_string(text)


@pytest.mark.slow
def test_every_half_is_written_the_same_and_reads_back():
    array = np.arange(65536, dtype=np.uint16).view(np.float16)
    for style in ("shortest", "tfs"):
        body = COMPILED.encode(array, style=style)
        assert body == READABLE.encode(array, style=style)
        back = COMPILED.Reader(body).tensor(np.dtype("float16"))
        np.testing.assert_array_equal(back, array)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_many_floats_of_any_bits_are_written_the_same_and_read_back(dtype):
    rng = np.random.default_rng(7)
    bits = np.dtype(dtype).str.replace("f", "u")
    array = rng.integers(0, 2 ** (8 * np.dtype(dtype).itemsize), 20_000, dtype=bits, endpoint=False).view(dtype)
    powers = np.array([2.0**k for k in range(-149, 128)] + [10.0**k for k in range(-45, 39)]).astype(dtype)
    array = np.concatenate(
        [array, powers, np.nextafter(powers, 0, dtype=dtype), rng.integers(0, 10**7, 2000).astype(dtype) / 1000]
    )
    for style in ("shortest", "tfs"):
        body = COMPILED.encode(array, style=style)
        assert body == READABLE.encode(array, style=style)
        back = COMPILED.Reader(body).tensor(np.dtype(dtype))
        np.testing.assert_array_equal(back, array)
