"""What a form of images says, and which input each file is for."""

import numpy as np
import pytest

from stfs.errors import InvalidInput, InvalidRequest
from stfs.images.decode import Upload
from stfs.images.plan import Asked
from stfs.protocols.stfs_form import assign, read
from stfs.signature import STRING, Signature, TensorSpec

TYPE = "multipart/form-data; boundary=b"


def form(*fields):
    """Each field is a name and its text, or a name, the file's bytes and its name."""
    body = b""
    for name, data, *filename in fields:
        told = f'; filename="{filename[0]}"' if filename else ""
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'
        body += head.encode() + (data if isinstance(data, bytes) else data.encode()) + b"\r\n"
    return body + b"--b--\r\n"


def told(*fields):
    return read(TYPE, form(*fields))


FILE = ("image", b"\x89data", "a.png")


def spec(name, *shape, dtype=np.float32):
    return TensorSpec(name, np.dtype(dtype), shape)


def signature(*inputs):
    return Signature("s", inputs, (), batchable=False)


PIXELS = spec("pixels", None, 8, 8, 3)
TEXT = spec("text", None, dtype=STRING)
KEEP = spec("keep_prob")


def test_everything_that_a_form_may_say():
    have = told(
        ("model_name", "m"),
        ("model_version", "3"),
        ("signature_name", "s"),
        ("channel_layout", "rgba"),
        ("shape", "1,8,8,4"),
        ("base64_decode", "true"),
        ("run_profile", "true"),
        ("data", ' {"keep_prob": 1}'),
        FILE,
        ("images[]", b"2", "b.png"),
    )
    assert (have.model_name, have.model_version, have.signature_name, have.raw_strings) == ("m", 3, "s", True)
    assert have.asked == Asked("RGBA", (1, 8, 8, 4))
    assert have.data == b'{"keep_prob": 1}'
    assert have.files == (("image", Upload("a.png", b"\x89data")), ("images[]", Upload("b.png", b"2")))


def test_empty_fields_are_as_good_as_none():
    have = told(*[(name, "") for name in ("model_name", "model_version", "channel_layout", "shape")], FILE)
    assert (have.model_name, have.model_version, have.asked) == (None, None, Asked())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([], "the form has no image"),
        ([("image", b"", "")], "the form has no image"),
        ([("model_version", "1")], "curl -F image=@FILE"),
        ([FILE, ("versoin", "1")], 'the field "versoin" is unknown here; known are image, images, model_name'),
        ([FILE, ("model_version", "1"), ("model_version", "2")], "stands twice"),
        ([FILE, ("model_version", "one")], "whole number"),
        ([FILE, ("channel_layout", "HSV")], "must be one of L, RGB, BGR, RGBA"),
        ([FILE, ("base64_decode", "maybe")], "must be true or false"),
        ([FILE, ("shape", "8")], "must be like 224,224"),
        ([FILE, ("model_name", b"\xff")], "is not UTF-8"),
        ([FILE, ("model_name", "x" * 70_000)], "over 65536 bytes"),
        ([("image", "mew.jpg")], "with curl, write image=@FILE"),
    ],
)
def test_what_a_form_may_not_say(fields, says):
    with pytest.raises(InvalidRequest, match=says):
        told(*fields)


def test_bytes_without_a_name_are_a_file():
    data = b"\x89PNG" + bytes(1000)
    assert told(("image", data)).files == (("image", Upload("image", data)),)


@pytest.mark.parametrize(
    ("inputs", "fields", "wanted"),
    [
        ([PIXELS], [FILE], {"pixels": 1}),
        ([PIXELS], [FILE, FILE, ("images", b"2", "b")], {"pixels": 3}),
        ([TEXT], [FILE], {"text": 1}),
        ([PIXELS, KEEP], [FILE], {"pixels": 1}),
        ([TEXT, KEEP], [FILE], {"text": 1}),
        ([TEXT, PIXELS], [FILE], {"pixels": 1}),
        ([spec("images", None, dtype=STRING), PIXELS], [FILE], {"images": 1}),
        (
            [spec("left", None, 8, 8, 3), spec("right", None, 8, 8, 3)],
            [FILE, ("left", b"1", "l")],
            {"right": 1, "left": 1},
        ),
    ],
)
def test_which_input_a_file_is_for(inputs, fields, wanted):
    files, rest = assign(told(*fields), signature(*inputs))
    assert {name: len(uploads) for name, uploads in files.items()} == wanted
    assert rest == {}


def test_other_inputs_come_as_data():
    files, rest = assign(told(FILE, ("data", '{"keep_prob": 0.5}')), signature(PIXELS, KEEP))
    assert list(files) == ["pixels"]
    np.testing.assert_array_equal(rest["keep_prob"], np.float32(0.5))
    files, rest = assign(
        told(FILE, ("data", '{"left": [[1, 2]]}')), signature(spec("left", None, 2), spec("right", None, 784))
    )
    assert list(files) == ["right"]
    np.testing.assert_array_equal(rest["left"], [[1, 2]])


@pytest.mark.parametrize(
    ("inputs", "fields", "says"),
    [
        ([spec("a", None, 8, 8, 3), spec("b", None, 8, 8, 3)], [FILE], 'which input is the image.*"a", "b"'),
        ([PIXELS], [("picture", b"1", "p")], '"picture" is unknown here; send files in image, images, pixels'),
        ([PIXELS, KEEP], [("pixels", b"1", "p"), ("data", '{"pixels": [1]}')], "sent as a file"),
        ([PIXELS], [FILE, ("data", "{}")], '"data" is not needed'),
        ([PIXELS, KEEP], [FILE, ("data", '{"drop": 1}')], "drop"),
        ([PIXELS, KEEP], [FILE, ("data", "[1]")], "must be a JSON object"),
        ([PIXELS, KEEP], [FILE, ("data", "{")], "malformed JSON"),
    ],
)
def test_what_cannot_be_assigned(inputs, fields, says):
    with pytest.raises(InvalidRequest, match=says) as caught:
        assign(told(*fields), signature(*inputs))
    assert isinstance(caught.value, InvalidInput) == ("sent as a file" in says or says == "drop")
