"""Examples are right in dtype and shape, plausible, and short enough to read."""

import base64
import io
import json

import numpy as np
import pytest
from client_models import CANARY, NASTY_INPUTS, NASTY_NAME

from stfs.clients.call import MAX_JSON_VALUES, json_body, make_call, server_url, takes_image
from stfs.clients.example import MAX_WRITTEN_VALUES, NO_FEATURES, Filled, example, tiny_png
from stfs.errors import InvalidRequest
from stfs.signature import CLASSIFY, PREDICT, STRING, Signature, TensorSpec

URL = "http://127.0.0.1:8500"


def signature(*specs, batchable=True, method_name=PREDICT):
    return Signature("s", specs, (), batchable, method_name)


def one(dtype, shape, name="x", platform="onnx", batchable=True, method_name=PREDICT, **more):
    spec = TensorSpec(name, STRING if dtype == "string" else np.dtype(dtype), shape, **more)
    return example(signature(spec, batchable=batchable, method_name=method_name), platform)[name]


@pytest.mark.parametrize(
    ("dtype", "shape", "expected"),
    [
        ("float32", (None, 3), [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]),
        ("float32", (None,), [0.1, 0.2]),
        ("float64", (), 0.1),
        ("float32", None, [0.1, 0.2]),
        ("float32", (3, None), [[0.1], [0.2], [0.3]]),
        ("float32", (None, 0), [[], []]),
        ("int64", (None, 2), [[1, 1], [1, 1]]),
        ("uint8", (1, 1, 3), [[[0, 51, 102]]]),
        ("bool", (None, 1), [[True], [False]]),
        ("string", (None,), ["text", "text"]),
    ],
)
def test_values_by_dtype_and_shape(dtype, shape, expected):
    assert one(dtype, shape) == expected


def test_one_row_where_several_are_not_taken():
    assert one("float32", (None, 2), batchable=False) == [[0.1, 0.2]]


def test_categories():
    assert one("string", (None,), values=("red", "blue")) == ["red", "blue"]
    assert one("int64", (3,), values=("3", "7")) == [3, 7, 3]
    assert one("bool", (2,), values=("true",)) == [True, False]


def test_a_range_that_the_field_tells_of():
    assert one("float64", (2,), doc="continuous double, [4.3 to 7.9]") == [5.2, 6.1]
    assert one("float64", (3,), doc="(-1 to 1) or [5 to 6]") == [-0.5, 0.0, 0.5]
    assert one("int64", (2,), doc="ordinal, [4 to 9]") == [6, 6]
    assert one("float64", (1,), doc="from 4 to 7") == [0.1]


@pytest.mark.parametrize("name", ["image", "my_jpeg", "IMAGE_DATA", "photo", "image_bytes", "data_bytes"])
def test_images_are_bytes_where_the_platform_takes_them(name):
    for value in one("string", (None,), name=name, platform="tensorflow"):
        assert base64.b64decode(value["b64"], validate=True) == tiny_png()
    for text in one("string", (None,), name=name):
        assert base64.urlsafe_b64decode(text) == tiny_png()


def test_a_graph_that_decodes_base64_itself_is_given_text():
    for text in one("string", (None,), name="images", platform="tensorflow", graph_name="model_input_b64_images:0"):
        assert base64.urlsafe_b64decode(text) == tiny_png()


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "graph_name", "takes"),
    [
        ("images", "string", (None,), "", True),
        ("input", "string", (None,), "model_input_b64_images:0", True),
        ("data_bytes", "string", (None, 1), "", True),
        ("text", "string", (None,), "", False),
        ("data_0", "float32", (None, 3, 224, 224), "", True),
        ("data_0", "float32", (None, 224, 224, 3), "", True),
        ("x", "uint8", (1, 28, 28, 1), "", True),
        ("x", "float32", (None, 28, 28), "", False),  # as likely a series of 28 rows
        ("image", "float32", (None, 28, 28), "", True),
        ("image", "float32", (None, None, None, None), "", False),  # a client cannot know what to ask for
        ("x", "float32", (None, 16, 16, 16), "", False),
        ("x", "bool", (None, 8, 8, 3), "", False),
        ("image", "float32", (None, 784), "", False),
        ("x", "float32", None, "", False),
    ],
)
def test_which_models_are_asked_about_an_image_file(name, dtype, shape, graph_name, takes):
    spec = TensorSpec(name, STRING if dtype == "string" else np.dtype(dtype), shape, graph_name=graph_name)
    assert takes_image(signature(spec)) == takes
    assert not takes_image(signature(spec, TensorSpec("other", np.dtype("float32"), (None,))))
    assert not takes_image(signature(spec, method_name=CLASSIFY)) or dtype != "string"


def test_a_form_asks_the_same_as_the_example():
    def form(name, platform, is_default=True):
        spec = TensorSpec(name, STRING, (None,))
        return make_call(URL, "m", 3, signature(spec), platform, is_default=is_default).form

    assert form("image", "onnx") == {"model_name": "m", "model_version": "3"}
    assert form("image", "tensorflow") == {"model_name": "m", "model_version": "3", "base64_decode": "true"}
    assert form("image_bytes", "tensorflow") == {"model_name": "m", "model_version": "3"}
    assert form("image_b64", "tensorflow", False) == {"model_name": "m", "model_version": "3", "signature_name": "s"}
    assert form("text", "tensorflow") is None


def test_the_image_is_one():
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(tiny_png()))
    image.load()
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))


def test_signatures_of_examples_are_given_serialized_ones():
    value = one("string", (None,), name="inputs", platform="tensorflow", method_name=CLASSIFY)
    assert value == [{"b64": base64.b64encode(NO_FEATURES).decode()}] * 2


def test_what_is_long_is_filled():
    assert isinstance(one("float32", (1, MAX_WRITTEN_VALUES)), list)
    assert one("float32", (None, 224, 224, 3)) == Filled((2, 224, 224, 3), 0.6)
    assert one("string", (1000,), values=("red",)) == Filled((1000,), "red")


def test_json_has_what_the_model_needs_and_no_more():
    spec = TensorSpec("x", np.dtype("float32"), (None, 300))
    body = json.loads(json_body(make_call(URL, "m", 3, signature(spec), "onnx", is_default=True)))
    assert list(body) == ["model_name", "model_version", "data"]
    assert (body["model_name"], body["model_version"]) == ("m", 3)
    assert np.array(body["data"]["x"]).shape == (2, 300)
    body = json.loads(json_body(make_call(URL, "m", 3, signature(spec), "onnx", is_default=False)))
    assert body["signature_name"] == "s"


def test_json_of_no_inputs_and_of_names_of_all_kinds():
    call = make_call(URL, NASTY_NAME, 1, signature(), "python", is_default=True)
    assert json.loads(json_body(call)) == {"model_name": NASTY_NAME, "model_version": 1, "data": {}}
    specs = [TensorSpec(name, np.dtype("int32"), (None,)) for name in NASTY_INPUTS]
    body = json.loads(json_body(make_call(URL, "m", 1, signature(*specs), "onnx", is_default=True)))
    assert list(body["data"]) == list(NASTY_INPUTS)
    assert CANARY in "".join(NASTY_INPUTS)


def test_json_is_bounded():
    spec = TensorSpec("x", np.dtype("float32"), (MAX_JSON_VALUES + 1,))
    with pytest.raises(InvalidRequest, match="ask for a client"):
        json_body(make_call(URL, "m", 1, signature(spec), "onnx", is_default=True))


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8500", "ftp://h", "http://", "http://h:x", "http://h:99999", "http://a b", "http://é", "http://h?q",
     "http://h#f", "http://u:p@h", "http://h\n", "file:///etc/passwd", "http://[::1"],
)  # fmt: skip
def test_what_is_no_address(url):
    with pytest.raises(InvalidRequest, match="no address of a server"):
        server_url(url)


def test_addresses():
    for url in ("http://h", "https://h:1", "http://[::1]:8500", "http://h/behind/a/proxy"):
        assert server_url(url) == server_url(url + "/") == url
