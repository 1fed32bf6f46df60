"""Forms with files, in every way that clients write them, and in ways that none should."""

import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs.errors import InvalidRequest
from stfs.protocols.multipart import MAX_PARTS, Part, parse

TYPE = "multipart/form-data; boundary=xyz"


def form(*parts, end="--xyz--\r\n"):
    """Each part is the text between its boundary's line and the next boundary."""
    return b"".join(b"--xyz\r\n" + part + b"\r\n" for part in parts) + end.encode()


def field(disposition, data=b"", more=b""):
    return b"Content-Disposition: form-data; " + disposition + b"\r\n" + more + b"\r\n" + data


def test_fields_and_files_in_their_order():
    body = form(
        field(b'name="model_version"', b"1"),
        field(b'name="image"; filename="mew.jpg"', b"\xff\xd8\r\n--xy\0", b"Content-Type: image/jpeg\r\n"),
        field(b"name=empty"),
    )
    parts = [
        Part("model_version", None, b"1"),
        Part("image", "mew.jpg", b"\xff\xd8\r\n--xy\0"),
        Part("empty", None, b""),
    ]
    assert parse(TYPE, body) == parts
    assert parse('multipart/form-data; charset=utf-8; Boundary="xyz"', b"preamble\r\n" + body + b"epilogue") == parts
    assert parse(TYPE, body.replace(b"--xyz\r\n", b"--xyz \t\r\n")) == parts, "RFC 2046 allows blanks there"


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        (b'filename="a b.png"', "a b.png"),
        (b"filename=a.png", "a.png"),
        ('filename="mäw.png"'.encode(), "mäw.png"),
        (b"filename*=utf-8''m%C3%A4w.png", "mäw.png"),
        (b"filename*=nonsense''m%41w.png", "mAw.png"),
        (b'filename="a\\"b.png"', 'a"b.png'),
        (b'filename="a%22b.png"', "a%22b.png"),
        (b'filename=""', ""),
        (b'filename="../../etc/passwd"', "../../etc/passwd"),
    ],
)
def test_names_of_files(disposition, filename):
    assert parse(TYPE, form(field(b'name="image"; ' + disposition, b"x"))) == [Part("image", filename, b"x")]


@pytest.mark.parametrize(
    ("content_type", "body", "says"),
    [
        ("multipart/form-data", form(), "names no boundary"),
        ("multipart/form-data; boundary=" + "x" * 71, form(), "names no boundary"),
        ("multipart/form-data; boundary=other", form(field(b"name=a")), "no boundary of the one"),
        (TYPE, b"", "no boundary of the one"),
        (TYPE, b"--xyz", "neither a line end nor --"),
        (TYPE, b"--xyzzz\r\n", "neither a line end nor --"),
        (TYPE, form(field(b"name=a", b"1"), end=""), "cut short"),
        (TYPE, form(field(b"name=a", b"1"))[:-6], "cut short"),
        (TYPE, form(field(b"name=a", b"1")).replace(b"\r\n", b"\n"), "neither a line end nor --"),
        (TYPE, form(b"no head"), "field 1 of the form has no head"),
        (TYPE, b"--xyz\r\n--xyz--\r\n", "field 1 of the form has no head"),
        (TYPE, form(field(b"name=a"), b"X: y\r\n\r\n"), "field 2 of the form has no Content-Disposition"),
        (TYPE, form(b"Content-Disposition: attachment; name=a\r\n\r\n"), "no Content-Disposition: form-data"),
        (TYPE, form(field(b"filename=a")), "with a name"),
        (TYPE, form(field(b"name=a", b"", b"X: " + b"y" * 9000 + b"\r\n")), "within 8192 bytes"),
        (TYPE, form(field(b"name=a", b"eA==", b"Content-Transfer-Encoding: base64\r\n")), '"a" is encoded'),
        (TYPE, form(*[field(b"name=a")] * (MAX_PARTS + 1)), f"over {MAX_PARTS} fields"),
    ],
)
def test_what_is_no_form_is_refused(content_type, body, says):
    with pytest.raises(InvalidRequest, match=says):
        parse(content_type, body)


def test_an_empty_form_has_no_parts():
    assert parse(TYPE, form()) == []


@given(st.lists(st.tuples(st.text("abc_", min_size=1), st.binary().filter(lambda data: b"\r\n--xyz" not in data))))
def test_what_python_writes_is_read(fields):
    body = b""
    for name, data in fields:
        part = EmailMessage(policy=email.policy.HTTP)
        part.add_header("Content-Disposition", "form-data", name=name)
        body += b"--xyz\r\n" + bytes(part) + data + b"\r\n"
    assert parse(TYPE, body + b"--xyz--") == [Part(name, None, data) for name, data in fields]


@given(st.lists(st.sampled_from([b"--xyz", b"--", b"\r\n", b"\r", b" ", field(b"name=a", b"1"), b"\xff", b":"])))
def test_no_bytes_do_more_than_be_refused(pieces):
    try:
        parts = parse(TYPE, b"".join(pieces))
    except InvalidRequest:
        return
    assert all(part.name == "a" for part in parts)
