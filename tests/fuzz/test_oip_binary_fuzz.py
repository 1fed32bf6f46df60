"""The binary form of the Open Inference Protocol, right and damaged, put to a real server on both of its paths.

A right request gets its own numbers back. A damaged one gets the same answer from both paths, 200 or 400 and never 500,
and a right one after it on the same connection is answered.
"""

import http.client
import json
import struct
from contextlib import closing

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from running import running
from simple_models import write_many

pytestmark = pytest.mark.slow

LENGTH = "Inference-Header-Content-Length"
KINDS = {"whole": ("INT32", "<i4"), "long": ("INT64", "<i8"), "flag": ("BOOL", "?"), "real": ("FP64", "<f8")}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A connection to a server with the hot path, and one to a server without."""
    folder = tmp_path_factory.mktemp("many")
    write_many(folder / "1")
    with (
        running(str(folder), "--model_name=many", "--max_request_bytes=1M") as hot,
        running(str(folder), "--model_name=many", "--max_request_bytes=1M", "--hot_path=off") as stock,
        closing(hot.connect()) as one,
        closing(stock.connect()) as other,
    ):
        yield one, other


def texts_bytes(texts):
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


@st.composite
def tensors(draw):
    """Inputs of the model ``many``, with the number of their rows."""
    rows = draw(st.integers(1, 5))
    numbers = st.integers(-(2**31), 2**31 - 1)
    made = {
        "whole": np.array(draw(st.lists(numbers, min_size=rows, max_size=rows)), "<i4"),
        "long": np.array(draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=rows, max_size=rows)), "<i8"),
        "flag": np.array(draw(st.lists(st.booleans(), min_size=rows, max_size=rows))),
        "real": np.array(draw(st.lists(st.floats(width=64), min_size=2 * rows, max_size=2 * rows)), "<f8"),
    }
    # A model's own texts are UTF-8 without NUL bytes.
    text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
    texts = [one.encode() for one in draw(st.lists(text, min_size=rows, max_size=rows))]
    return rows, made, texts


def encoded(rows, made, texts):
    """The JSON part as an object, and the raw tensors behind it."""
    entries, raw = [], []
    for name, (datatype, _) in KINDS.items():
        data = made[name].tobytes()
        shape = [rows, 2] if name == "real" else [rows]
        parameters = {"binary_data_size": len(data)}
        entries.append({"name": name, "shape": shape, "datatype": datatype, "parameters": parameters})
        raw.append(data)
    data = texts_bytes(texts)
    entries.append(
        {"name": "text", "shape": [rows], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    )
    return {"inputs": entries, "parameters": {"binary_data_output": True}}, [*raw, data]


def send(line, head, tail, length=None):
    """Status, headers and body."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    headers = {LENGTH: str(len(text) if length is None else length), "Content-Type": "application/octet-stream"}
    line.request("POST", "/v2/models/many/infer", text + tail, headers)
    response = line.getresponse()
    return response.status, response.headers, response.read()


def outputs_of(headers, body):
    at = int(headers[LENGTH])
    told = json.loads(body[:at])
    found = {}
    for one in told["outputs"]:
        size = one["parameters"]["binary_data_size"]
        found[one["name"]] = body[at : at + size]
        at += size
    assert at == len(body)
    return found


def settled(max_examples):
    return settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@settled(60)
@given(asked=tensors())
def check_right(lines, asked):
    head, raw = encoded(*asked)
    for line in lines:
        status, headers, body = send(line, head, b"".join(raw))
        assert status == 200, body
        found = outputs_of(headers, body)
        for name, data in zip([*KINDS, "text"], raw, strict=True):
            assert found[f"{name}_out"] == data, name


def test_right_requests_come_back_bit_for_bit(lines):
    check_right(lines)


@st.composite
def damaged(draw):
    """A right request with something done to it: to the sizes, the shapes, the bytes, the order, the header."""
    head, raw = encoded(*draw(tensors()))
    tail = bytearray(b"".join(raw))
    entry = draw(st.sampled_from(head["inputs"]))
    odd = st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**63, 2**64, 1.5, None, "3", True, [], {}]))
    length = None
    match draw(st.integers(0, 8)):
        case 0:
            entry["parameters"]["binary_data_size"] = draw(odd)
        case 1:
            entry["shape"] = draw(st.one_of(st.lists(odd, max_size=3), odd))
        case 2:
            del tail[draw(st.integers(0, len(tail) - 1)) :]
        case 3:
            tail += draw(st.binary(min_size=1, max_size=9))
        case 4:
            tail[draw(st.integers(0, len(tail) - 1))] = draw(st.integers(0, 255))
        case 5:
            entry["datatype"] = draw(st.sampled_from(["FP32", "BYTES", "INT8", "BF16", "", 3]))
        case 6:
            entry["data"] = [1, 2]
        case 7:
            head["inputs"].remove(entry)
        case 8:
            length = draw(st.one_of(st.integers(0, 2000), st.sampled_from(["-1", "x", "1e3", "9" * 30])))
    text = bytearray(json.dumps(head).encode())
    if draw(st.booleans()):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.integers(0, 255))
    return bytes(text), bytes(tail), length


@settled(300)
@given(asked=damaged())
def check_damaged(lines, asked):
    answers = [send(line, *asked) for line in lines]
    for status, _, body in answers:
        assert status in (200, 400), (status, body)
        assert status == 200 or set(json.loads(body)) == {"error"}
    assert answers[0][0] == answers[1][0]
    assert answers[0][2] == answers[1][2]


def test_damaged_requests_are_refused_alike_on_both_paths(lines):
    check_damaged(lines)
    whole = np.int32([7])
    made = {"whole": whole, "long": np.int64([8]), "flag": np.array([True]), "real": np.float64([0.5, -1.5])}
    for line in lines:
        assert isinstance(line, http.client.HTTPConnection)
        head, raw = encoded(1, made, [b"after"])
        status, headers, body = send(line, head, b"".join(raw))
        assert status == 200
        assert outputs_of(headers, body)["text_out"] == texts_bytes([b"after"])
