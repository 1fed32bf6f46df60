"""Every language's program as text: complete, ASCII, short, its data beyond the reach of names, its page true."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from client_models import CANARY, NASTY_INPUTS, NASTY_NAME
from client_runners import RUNNERS
from hypothesis import given, settings
from hypothesis import strategies as st

from stfs.clients import literals
from stfs.clients.call import make_call
from stfs.clients.example import Filled
from stfs.clients.languages import LANGUAGES, find
from stfs.clients.render import render
from stfs.errors import InvalidRequest
from stfs.signature import STRING, Signature, TensorSpec

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
NAMES = [language.name for language in LANGUAGES]


def call(*names, url="http://127.0.0.1:8500", auth=False, shape=(None, 2), model_name="m", dtype=None):
    specs = tuple(TensorSpec(name, dtype or np.dtype("float32"), shape) for name in names)
    return make_call(url, model_name, 7, Signature("s", specs, (), True), "onnx", is_default=False, auth=auth)


def test_languages_by_name_and_alias():
    for alias, name in {
        "go": "golang", "js": "javascript", "ts": "typescript", "C++": "cpp", "c#": "csharp", "R": "r", "r": "r",
        "python3": "python", "Postman": "postman", "sh": "bash",
    }.items():  # fmt: skip
        assert find(alias).name == name
    everything = [name for language in LANGUAGES for name in (language.name, *language.aliases)]
    assert len(set(everything)) == len(everything)
    with pytest.raises(InvalidRequest, match=r"cobol.*bash, python, golang.*postman"):
        find("cobol")


def test_the_promised_languages():
    promised = "bash python golang javascript typescript java csharp rust cpp ruby php erlang lua perl r postman"
    assert sorted(NAMES) == sorted(promised.split())


@pytest.mark.parametrize("language", LANGUAGES, ids=NAMES)
def test_programs_are_complete_and_of_plain_text(language):
    for url in ("http://models.example:8500", "https://models.example"):
        for auth in (False, True):
            for shape in ((None, 2), (None, 224, 224, 3)):
                text = render(language, call("x", url=url, auth=auth, shape=shape))
                assert text.isascii()
                assert text.endswith("\n")
                assert len(text) < 8000
                assert f"{url}/" in text
                assert "30" in text
                assert ("STFS_AUTH_PASSWORD" in text or "{{password}}" in text) == auth
                assert bool(re.search("STFS_CA_FILE|NODE_EXTRA_CA_CERTS|SSL_CERT_FILE|ssl-extra-ca-certs", text)) == (
                    url.startswith("https")
                )
                assert ("filled" in text.lower()) == (len(shape) > 2)
                assert "7" in text


@pytest.mark.parametrize("language", LANGUAGES, ids=NAMES)
def test_no_name_is_written_as_it_is(language):
    text = render(language, call(*NASTY_INPUTS, model_name=NASTY_NAME))
    if language.name == "postman":
        text = re.sub(r'"(?:name|raw)": ".*"', "", text)
    for sign in ("$(", "`", "#{", "{{", "';", "*/", "//\\", '"""'):
        for line in text.splitlines():
            if CANARY in line:
                assert f"{sign}{CANARY}" not in line
                assert f"{sign}touch" not in line


@pytest.mark.parametrize("language", LANGUAGES, ids=NAMES)
def test_programs_of_image_models_take_a_file_and_no_name_is_written_into_the_form(language):
    for shape, dtype in (((None,), STRING), ((None, 224, 224, 3), np.dtype("float32"))):
        for auth in (False, True):
            made = call("image", url="https://h", auth=auth, shape=shape, dtype=dtype, model_name=NASTY_NAME)
            text = render(language, made)
            assert text.isascii()
            assert len(text) < 8000
            assert ("photo.jpg" in text) == (language.name != "postman")
            if language.name == "postman":
                text = re.sub(r'"(?:name|raw)": ".*"', "", text)
            for sign in ("$(", "`", "#{", "{{", "';", "*/"):
                assert not any(f"{sign}touch" in line for line in text.splitlines())
    assert "photo.jpg" not in render(language, call("x"))


@given(st.text(), st.sampled_from([language.escape for language in LANGUAGES]))
@settings(max_examples=300)
def test_quoted_texts_hold_nothing_but_plain_characters_and_escapes(text, escape):
    inner = literals.quoted(text, escape)[1:-1]
    assert inner.isascii()
    assert not re.search(r"[^A-Za-z0-9 _.,:/+=\\{}-]", inner)
    without = re.sub(r"\\(?:u\{[0-9a-f]+\}|x\{[0-9a-f]+\}|u[0-9a-f]{4}|U[0-9a-f]{8}|[0-9]{3})", "", inner)
    assert "\\" not in without
    assert "{" not in without


@given(st.text(), st.text())
@settings(max_examples=200)
def test_json_pieces_are_the_json(key, value):
    body = {"data": {key: [value, 0.5, True, {"b64": value}], "long": Filled((2, 300), value)}}
    (before, (sizes, filling), after) = literals.json_pieces(body)
    assert sizes == "2, 300"
    assert json.loads(filling) == value
    assert json.loads(before + "0" + after) == {"data": {**body["data"], "long": 0}}
    texts = re.findall(r'"([^"]*)"', before + filling + after)
    assert all(re.fullmatch(r"(?:[A-Za-z0-9 _.,:/+=-]|\\u[0-9a-f]{4})*", text) for text in texts)


def test_long_bodies_come_in_pieces_that_compilers_take():
    specs = [f"column_{at}" for at in range(3000)]
    pieces = literals.json_pieces(call(*specs, shape=(None,)).body)
    assert len(pieces) > 1
    assert all(isinstance(piece, str) and len(piece) <= literals.LONGEST_PIECE for piece in pieces)
    assert list(json.loads("".join(pieces))["data"]) == specs


def test_java_reads_no_escape_before_its_time():
    r"""It takes ``\u`` after an even number of backslashes for a character, wherever that stands."""
    text = render(find("java"), call('\\u0022 "quote"', "é", model_name="\u2028"))
    assert not re.search(r"(?<!\\)(?:\\\\)*\\u", text.replace('"http', "").replace("\\\\u", ""))


def test_binary_strings_are_told_of():
    spec = TensorSpec("image", STRING, (None,))
    made = make_call("http://h", "m", 1, Signature("s", (spec,), (), True), "tensorflow", is_default=True)
    for language in LANGUAGES:
        if language.name != "postman":
            assert "base64 of its bytes" in render(language, made)


def test_the_page_lists_the_languages_and_what_runs_them():
    rows = re.findall(r"^\| `([^`]+)` \|([^|]*)\| `([^`]+)` \|([^|]*)\|([^|]*)\|$", PAGE.read_text(), re.MULTILINE)
    assert [row[0] for row in rows] == NAMES
    for (name, aliases, file, needs, _), language in zip(rows, LANGUAGES, strict=True):
        assert re.findall("`([^`]+)`", aliases) == list(language.aliases), name
        assert file == language.file
        assert needs.strip() == (RUNNERS[name].package or "Python"), name
