"""The Open Inference Protocol as functions: bytes to tensors and back, over both codec twins, with no server."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from twins import BOTH

from stfs import codec, errors
from stfs.protocols import oip, oip_inputs
from stfs.protocols import request as common
from stfs.protocols.oip_datatypes import DATATYPES, datatype_of
from stfs.protocols.request import Payload
from stfs.signature import STRING, Signature, TensorSpec


@pytest.fixture(params=BOTH, scope="module", autouse=True)
def twin(request):
    """Each test runs over the readable twin and over the compiled one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("Reader", "Column", "encode", "encode_rows", "encode_string"):
            patch.setattr(codec, name, getattr(request.param, name))
        for module in (oip, oip_inputs, common):
            patch.setattr(module, "Reader", request.param.Reader)
        yield request.param


def spec(name, dtype, shape=(None,), **more):
    return TensorSpec(name, np.dtype(dtype), shape, **more)


def signature(*inputs, outputs=(), batchable=True):
    return Signature("serving_default", tuple(inputs), tuple(outputs), batchable)


X = spec("x", np.float32, (None, 3))
Y = spec("y", np.float32, (None, 3))
LINEAR = signature(X, outputs=(Y,))


def decode(body, found=LINEAR, json_bytes=None):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return oip.decode(text, lambda *asked: found, json_bytes)


def decode_raw(head, *raw, found=LINEAR):
    text = json.dumps(head).encode()
    return oip.decode(text + b"".join(raw), lambda *asked: found, len(text))


def entry(**changes):
    told = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]} | changes
    return {key: value for key, value in told.items() if value is not ...}


ROWS = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
DATA = [1, 2, 3, 4, 5, 6]


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [DATA, [[1, 2, 3], [4, 5, 6]], [[1], [2], [3], [4], [5], [6]], [1.0, 2, 3e0, 4, 5, 6]])
def test_data_may_be_flat_or_nested(data):
    got = decode({"inputs": [entry(data=data)]}).inputs
    assert list(got) == ["x"]
    assert got["x"].dtype == np.float32
    np.testing.assert_array_equal(got["x"], ROWS)


@pytest.mark.parametrize("order", ["name shape datatype data", "data datatype shape name", "datatype data name shape"])
def test_the_keys_of_an_input_come_in_any_order(order):
    told = entry()
    body = {"id": "7", "inputs": [{key: told[key] for key in order.split()}], "other": {"a": [1]}}
    got = decode(body)
    np.testing.assert_array_equal(got.inputs["x"], ROWS)
    assert got.id == "7"


def test_what_follows_data_that_was_read_late_is_read_too():
    found = signature(spec("a", np.int64), spec("b", STRING))
    body = {
        "inputs": [
            {"data": [1, 2], "shape": [2], "datatype": "INT64", "name": "a"},
            {"data": ["x", "y"], "shape": [2], "datatype": "BYTES", "name": "b"},
        ],
        "parameters": {"timeout": 5},
    }
    got = decode(body, found)
    assert got.inputs["a"].tolist() == [1, 2]
    assert got.inputs["b"].tolist() == [b"x", b"y"]
    assert got.timeout_us == 5


@pytest.mark.parametrize("name", [name for name in DATATYPES if name != "FP16"])
def test_every_datatype_but_fp16_in_json(name):
    values = {"BOOL": [True, False], "BYTES": ["a", "é"], "FP32": [0.5, -2], "FP64": [0.1, 1e300]}.get(name, [0, 100])
    body = {"inputs": [{"name": "x", "shape": [2], "datatype": name, "data": values}]}
    got = decode(body, signature(spec("x", DATATYPES[name]))).inputs["x"]
    assert got.dtype == DATATYPES[name]
    wanted = [value.encode() if isinstance(value, str) else value for value in values]
    assert got.tolist() == wanted


def test_the_limits_of_64_bits_are_exact():
    values = [2**64 - 1, 0]
    body = {"inputs": [{"name": "x", "shape": [2], "datatype": "UINT64", "data": values}]}
    assert decode(body, signature(spec("x", np.uint64))).inputs["x"].tolist() == values


@pytest.mark.parametrize("shape", [[4], [4, 1]])
def test_a_column_takes_a_list_and_a_table_of_one_column(shape):
    body = {"inputs": [{"name": "x", "shape": shape, "datatype": "INT32", "data": [1, 2, 3, 4]}]}
    assert decode(body, signature(spec("x", np.int32))).inputs["x"].shape == (4,)


def test_an_empty_tensor():
    body = {"inputs": [entry(shape=[0, 3], data=[])]}
    assert decode(body).inputs["x"].shape == (0, 3)


def test_missing_values_are_null_where_the_model_allows_it():
    found = signature(spec("x", np.float32, nullable=True), spec("t", STRING, nullable=True))
    body = {
        "inputs": [
            {"name": "x", "shape": [2], "datatype": "FP32", "data": [None, 1]},
            {"name": "t", "shape": [2], "datatype": "BYTES", "data": [None, "a"]},
        ]
    }
    got = decode(body, found).inputs
    assert np.isnan(got["x"][0])
    assert got["t"].tolist() == [b"", b"a"]


# --- raw tensors ----------------------------------------------------------------------------------------------------


def raw_entry(size, **changes):
    return entry(data=..., parameters={"binary_data_size": size}, **changes)


def test_raw_tensors_are_taken_in_the_order_of_the_json():
    found = signature(spec("a", np.int16), spec("b", STRING), spec("c", np.float64))
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"", b"\xff\x00z"))
    a, c = np.array([-1, 2], "<i2"), np.array([0.1, -0.0], "<f8")
    head = {
        "inputs": [
            {"name": "c", "shape": [2], "datatype": "FP64", "parameters": {"binary_data_size": 16}},
            {"name": "b", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(texts)}},
            {"name": "a", "shape": [2], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
        ]
    }
    got = decode_raw(head, c.tobytes(), texts, a.tobytes(), found=found).inputs
    assert got["b"].tolist() == [b"", b"\xff\x00z"]
    assert got["a"].tobytes() == a.tobytes()
    assert got["c"].tobytes() == c.tobytes()


def test_raw_and_json_data_may_be_mixed():
    found = signature(spec("a", np.int16), X)
    head = {"inputs": [{"name": "a", "shape": [2], "datatype": "INT16", "data": [1, 2]}, raw_entry(24)]}
    got = decode_raw(head, ROWS.tobytes(), found=found).inputs
    assert got["a"].tolist() == [1, 2]
    np.testing.assert_array_equal(got["x"], ROWS)


@pytest.mark.parametrize("padding", range(8))
def test_a_raw_tensor_is_a_view_where_it_is_aligned_and_always_aligned(padding):
    text = json.dumps({"inputs": [raw_entry(24)], "x": ""}).replace('""', '"' + " " * padding + '"').encode()
    body = text + ROWS.tobytes()
    got = oip.decode(body, lambda *asked: LINEAR, len(text)).inputs["x"]
    np.testing.assert_array_equal(got, ROWS)
    assert got.flags.aligned
    start = np.frombuffer(body, np.uint8).__array_interface__["data"][0]
    is_view = start <= got.__array_interface__["data"][0] < start + len(body)
    assert is_view == ((start + len(text)) % 4 == 0)


def test_a_view_of_the_body_will_do():
    text = json.dumps({"inputs": [raw_entry(24)]}).encode()
    view = memoryview(b"before it" + text + ROWS.tobytes())[9:]
    np.testing.assert_array_equal(oip.decode(view, lambda *asked: LINEAR, len(text)).inputs["x"], ROWS)
    text_found = signature(spec("x", STRING), outputs=(Y,))
    assert oip.decode(memoryview(b"a text"), lambda *asked: text_found, 0).inputs["x"].tolist() == [b"a text"]


def test_raw_truth_values_that_are_neither_0_nor_1_are_true():
    head = {"inputs": [{"name": "x", "shape": [3], "datatype": "BOOL", "parameters": {"binary_data_size": 3}}]}
    got = decode_raw(head, b"\x00\x01\x80", found=signature(spec("x", np.bool_))).inputs["x"]
    assert got.view(np.uint8).tolist() == [0, 1, 1]


def test_half_precision_comes_raw():
    values = np.array([0.5, -65504], np.float16)
    head = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP16", "parameters": {"binary_data_size": 4}}]}
    assert decode_raw(head, values.tobytes(), found=signature(spec("x", np.float16))).inputs["x"].tolist() == [
        0.5,
        -65504,
    ]


RAW_REQUESTS = [
    (X, np.arange(3, dtype=np.float32).tobytes(), (1, 3)),
    (spec("x", np.int8, (None, None)), b"abcd", (1, 4)),
    (spec("x", np.uint8, (None, None, 2)), b"abcd", (1, 2, 2)),
    (spec("x", np.float64), np.float64(2.5).tobytes(), (1,)),
    (spec("x", STRING), b"a text, not its length", (1,)),
    (spec("x", STRING, (None, None)), b"\xff\xd8 an image", (1, 1)),
]


@pytest.mark.parametrize(("one", "body", "shape"), RAW_REQUESTS)
def test_a_raw_request_is_one_row_of_the_only_input(one, body, shape):
    got = oip.decode(body, lambda *asked: signature(one, outputs=(Y,)), 0)
    assert got.inputs["x"].shape == shape
    assert got.binary
    told = got.inputs["x"].ravel()[0] if one.dtype == STRING else got.inputs["x"].tobytes()
    assert told == body


@pytest.mark.parametrize(
    ("found", "body", "told"),
    [
        (signature(X, spec("z", np.float32)), b"\0" * 12, 'models of one input, this one takes "x", "z"'),
        (signature(spec("x", np.float32, (None, None, None))), b"\0" * 12, "does not tell its shape"),
        (signature(spec("x", np.float32, None), batchable=False), b"\0" * 12, "does not tell its shape"),
        (LINEAR, b"\0" * 24, "3 elements of float32 take 12 bytes, got 24"),
        (LINEAR, b"\0" * 11, "11 bytes are no row of float32"),
        (LINEAR, b"", "3 elements of float32 take 12 bytes, got 0"),
        (signature(spec("x", STRING, (None, 2))), b"a", "a raw request is one text"),
    ],
)
def test_a_raw_request_that_does_not_tell_its_shape(found, body, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        oip.decode(body, lambda *asked: found, 0)
    assert told in str(caught.value)


# --- what is refused ------------------------------------------------------------------------------------------------

BAD = [
    ({}, '"inputs" is missing'),
    (b"", "malformed JSON"),
    (b"[1]", "the body must be a JSON object, not array"),
    (b'{"inputs": [', "malformed JSON"),
    (b'{"inputs": []} x', "malformed JSON"),
    (b'{"inputs": [], "inputs": []}', '"inputs" stands twice'),
    ({"inputs": {}}, '"inputs" must be a list, not object'),
    ({"inputs": [1]}, '"inputs" [0] must be an object, not number'),
    ({"inputs": [entry(name=...)]}, '"inputs" [0] has no "name"'),
    ({"inputs": [entry(shape=...)]}, '"inputs" [0] has no "shape"'),
    ({"inputs": [entry(datatype=...)]}, '"inputs" [0] has no "datatype"'),
    ({"inputs": [entry(name=None)]}, '"name" must be a string, not null'),
    ({"inputs": [entry(name=3)]}, '"name" must be a string, not number'),
    ({"inputs": [entry(name="q")]}, 'input "q": unknown; this signature takes "x"'),
    ({"inputs": [entry(), entry()]}, 'input "x": stands twice'),
    (b'{"inputs": [{"name": "x", "name": "x"}]}', '"name" stands twice'),
    ({"inputs": [entry(datatype="FP64")]}, "its datatype is FP64, but the model takes FP32"),
    ({"inputs": [entry(datatype="FP31")]}, '"FP31" is no datatype'),
    ({"inputs": [entry(datatype="BF16")]}, "BF16 is not supported here: send FP32"),
    ({"inputs": [entry(shape=[2, 2])]}, "shape [2, 2] has 4 elements, but the data has 6"),
    ({"inputs": [entry(shape=[])]}, "shape [] has 1 elements, but the data has 6"),
    ({"inputs": [entry(shape=[-2, -3])]}, "shape [-2, -3] has a negative size"),
    ({"inputs": [entry(shape=[2.0, 3])]}, '"shape"'),
    ({"inputs": [entry(shape=[True, 6])]}, '"shape"'),
    ({"inputs": [entry(shape=["2", 3])]}, '"shape"'),
    ({"inputs": [entry(shape=6)]}, "must be a list of at most 32 sizes"),
    ({"inputs": [entry(shape=[1] * 33)]}, "must be a list of at most 32 sizes"),
    ({"inputs": [entry(shape=[0, 1 << 60], data=[])]}, "larger than any array"),
    ({"inputs": [entry(data=...)]}, '"data" is missing'),
    ({"inputs": [entry(data=5)]}, '"data" must be a list, not number'),
    ({"inputs": [entry(data=[1, 2, 3, 4, 5, "a"])]}, 'input "x", element [5]'),
    ({"inputs": [entry(data=[[1, 2, 3], [4, 5]])]}, 'input "x", element [1]'),
    ({"inputs": [entry(data=[1e39, 2, 3, 4, 5, 6])]}, 'input "x", element [0]'),
    ({"inputs": [raw_entry(24)]}, "needs the header Inference-Header-Content-Length"),
    ({"inputs": [entry(parameters={"shared_memory_region": "r"})]}, "shared memory is not supported"),
    ({"inputs": [entry()], "outputs": {}}, '"outputs" must be a list, not object'),
    ({"inputs": [entry()], "outputs": ["y"]}, '"outputs" [0] must be an object, not string'),
    ({"inputs": [entry()], "outputs": [{}]}, 'one of the "outputs" has no "name"'),
    ({"inputs": [entry()], "outputs": [{"name": "z"}]}, 'unknown output "z"; this model gives "y"'),
    ({"inputs": [entry()], "outputs": [{"name": "y"}] * 2}, 'output "y" stands twice'),
    ({"inputs": [entry()], "outputs": [{"name": "y", "parameters": {"classification": -1}}]}, "classification"),
    ({"inputs": [entry()], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "must be true or false"),
    ({"inputs": [entry()], "parameters": {"timeout": "soon"}}, '"timeout" must be a whole number'),
    ({"inputs": [entry()], "parameters": []}, '"parameters" must be an object, not array'),
    ({"inputs": [entry()], "parameters": {"sequence_id": 3}}, "keep no state"),
    ({"inputs": [entry()], "id": 7}, '"id" must be a string, not number'),
]


@pytest.mark.parametrize(("body", "told"), BAD, ids=[told for _, told in BAD])
def test_a_wrong_body_gets_a_clear_error(body, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        decode(body)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert oip.status_of(caught.value) == 400


BAD_RAW = [
    (raw_entry(24), ROWS.tobytes()[:-1], '"binary_data_size" is 24, but only 23 bytes of the body are left'),
    (raw_entry(24), ROWS.tobytes() + b"!", "1 bytes of the body belong to no input"),
    (raw_entry(20), ROWS.tobytes(), "6 elements of float32 take 24 bytes, got 20"),
    (raw_entry(-24), ROWS.tobytes(), "whole number of 0 or more"),
    (raw_entry(1 << 70), ROWS.tobytes(), "whole number of 0 or more"),
    (raw_entry(24.0), ROWS.tobytes(), "whole number of 0 or more"),
    (entry(parameters={"binary_data_size": 24}), ROWS.tobytes(), 'either "data" or "binary_data_size", not both'),
    (entry(), b"x", "1 bytes of the body belong to no input"),
    (raw_entry(24, shape=[2, 2]), ROWS.tobytes(), "4 elements of float32 take 16 bytes, got 24"),
]


@pytest.mark.parametrize(("one", "raw", "told"), BAD_RAW, ids=[told for *_, told in BAD_RAW])
def test_raw_sizes_that_do_not_add_up(one, raw, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        decode_raw({"inputs": [one]}, raw)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("count", "raw", "told"),
    [
        (1, b"\x03\0\0\0ab", "cut short in element 0 of 1"),
        (2, b"\x02\0\0\0ab\x01\0", "cut short in element 1 of 2"),
        (2, b"\x04\0\0\0abcd\x01\0\0\0", "cut short in element 1 of 2"),
        (1, b"\xff\xff\xff\xffab", "cut short in element 0 of 1"),
        (1, b"\x01\0\0\0ab", "its 1 elements end at byte 5 of 6"),
        (0, b"\x01\0\0\0a", "its 0 elements end at byte 0 of 5"),
        (1 << 40, b"\x01\0\0\0a", "bytes at least, got 5"),
    ],
)
def test_texts_whose_lengths_do_not_add_up(count, raw, told):
    one = {"name": "x", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    with pytest.raises(errors.InvalidRequest) as caught:
        decode_raw({"inputs": [one]}, raw, found=signature(spec("x", STRING)))
    assert told in str(caught.value)


def test_a_json_part_longer_than_the_body():
    with pytest.raises(errors.InvalidRequest, match="is 99, but the body has 2 bytes"):
        decode(b"{}", json_bytes=99)


def test_half_precision_is_refused_in_json_both_ways():
    found = signature(spec("x", np.float16), outputs=(spec("y", np.float16),))
    with pytest.raises(errors.InvalidRequest, match="FP16 has no form in JSON"):
        decode({"inputs": [{"name": "x", "shape": [1], "datatype": "FP16", "data": [1]}]}, found)
    head = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP16", "parameters": {"binary_data_size": 2}}]}
    with pytest.raises(errors.InvalidRequest, match='output "y" is FP16'):
        decode_raw(head, b"\0\0", found=found)
    wanted = decode_raw(head | {"parameters": {"binary_data_output": True}}, b"\0\0", found=found)
    payload = oip.encode(wanted, {"y": np.array([1.5], np.float16)}, "m", 1)
    assert isinstance(payload, Payload)
    assert payload.body.endswith(np.float16(1.5).tobytes())


def test_what_the_resolver_raises_comes_through():
    def nothing(*asked):
        raise errors.ModelNotFound('no model "q"; models here: none', "q")

    with pytest.raises(errors.ModelNotFound) as caught:
        oip.decode(b"not even JSON", nothing)
    body = json.loads(oip.encode_error(caught.value, str(caught.value)))
    assert body["error"].startswith("Request for unknown model: 'q' is not found")
    assert oip.status_of(caught.value) == 400


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.TooLarge(""), 413),
        (errors.UnsupportedEncoding(""), 501),
        (errors.VersionNotFound(""), 400),
        (errors.Overloaded(""), 503),
        (errors.ShareExceeded(""), 429),
        (errors.Unavailable(""), 503),
        (errors.DeadlineExceeded(""), 503),
        (errors.ModelFailed(""), 500),
    ],
)
def test_statuses(error, status):
    assert oip.status_of(error) == status


# --- what is answered -----------------------------------------------------------------------------------------------


def asked(found=LINEAR, **more):
    return oip.Request(found, {}, **more)


def test_an_answer_in_json():
    got = oip.encode(asked(id='a"b'), {"y": ROWS}, "m", 3)
    assert isinstance(got, bytes)
    assert json.loads(got) == {
        "id": 'a"b',
        "model_name": "m",
        "model_version": "3",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 3], "data": DATA}],
    }


def test_no_id_is_made_up_and_an_empty_one_comes_back():
    assert "id" not in json.loads(oip.encode(asked(), {"y": ROWS}, "m", 3))
    assert json.loads(oip.encode(asked(id=""), {"y": ROWS}, "m", 3))["id"] == ""
    assert decode({"id": None, "inputs": [entry()]}).id is None


def test_64_bit_integers_are_numbers():
    outputs = {"y": np.array([2**64 - 1], np.uint64), "z": np.array([-(2**63)], np.int64)}
    text = oip.encode(asked(), outputs, "m", 1)
    assert b"[18446744073709551615]" in text
    assert b"[-9223372036854775808]" in text


def read_answer(payload):
    """An answer's outputs, read as the protocol's binary extension describes it."""
    size = int(payload.headers[oip.LENGTH_HEADER])
    head, at = json.loads(payload.body[:size]), size
    found = {}
    for told in head["outputs"]:
        if "data" in told:
            found[told["name"]] = told["data"]
            continue
        length = told["parameters"]["binary_data_size"]
        found[told["name"]] = payload.body[at : at + length]
        at += length
    assert at == len(payload.body)
    return head, found


def test_outputs_raw_and_in_json_in_the_order_that_was_asked():
    found = signature(X, outputs=(Y, spec("t", STRING), spec("n", np.int32)))
    body = {
        "inputs": [entry()],
        "outputs": [{"name": "t"}, {"name": "n", "parameters": {"binary_data": False}}, {"name": "y"}],
        "parameters": {"binary_data_output": True},
    }
    outputs = {"y": ROWS, "t": np.array([b"\xff", b""], object), "n": np.array([7, 8], np.int32)}
    payload = oip.encode(decode(body, found), outputs, "m", 1)
    assert payload.content_type == "application/octet-stream"
    head, got = read_answer(payload)
    assert [told["name"] for told in head["outputs"]] == ["t", "n", "y"]
    assert got == {"t": b"\x01\0\0\0\xff\0\0\0\0", "n": [7, 8], "y": ROWS.tobytes()}


def test_what_is_said_of_an_output_beats_what_is_said_of_the_request():
    body = {"inputs": [entry()], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
    assert isinstance(oip.encode(decode(body), {"y": ROWS}, "m", 1), Payload)
    body["outputs"][0]["parameters"]["binary_data"] = False
    body["parameters"] = {"binary_data_output": True}
    assert isinstance(oip.encode(decode(body), {"y": ROWS}, "m", 1), bytes)


def test_strided_and_scalar_outputs():
    outputs = {"y": ROWS.T[::-1], "s": np.array(4, np.int8)}
    payload = oip.encode(asked(binary=True), outputs, "m", 1)
    head, got = read_answer(payload)
    assert [told["shape"] for told in head["outputs"]] == [[3, 2], []]
    assert got == {"y": np.ascontiguousarray(outputs["y"]).tobytes(), "s": b"\x04"}
    assert json.loads(oip.encode(asked(), outputs, "m", 1))["outputs"][1]["data"] == [4]


def test_a_dtype_that_the_protocol_lacks():
    with pytest.raises(errors.ModelFailed, match="complex64"):
        oip.encode(asked(), {"y": np.zeros(1, np.complex64)}, "m", 1)


@settings(max_examples=60)
@given(st.data())
def test_what_goes_out_raw_comes_back_bit_for_bit(data):
    name = data.draw(st.sampled_from(sorted(set(DATATYPES) - {"BYTES", "BOOL"})))
    array = data.draw(hnp.arrays(DATATYPES[name], hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)))
    found = signature(TensorSpec("x", array.dtype, (None,) * array.ndim), batchable=False)
    payload = oip.encode(asked(found, binary=True), {"x": array}, "m", 1)
    head, _ = read_answer(payload)
    told = head["outputs"][0]
    assert told["datatype"] == datatype_of(array.dtype)
    raw = payload.body[int(payload.headers[oip.LENGTH_HEADER]) :]
    got = decode_raw({"inputs": [told]}, raw, found=found).inputs["x"]
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=8), max_size=6))
def test_texts_come_back_whatever_they_hold(texts):
    array = np.empty(len(texts), object)
    array[:] = texts
    found = signature(spec("x", STRING))
    payload = oip.encode(asked(found, binary=True), {"x": array}, "m", 1)
    head, got = read_answer(payload)
    assert decode_raw({"inputs": head["outputs"]}, got["x"], found=found).inputs["x"].tolist() == texts


@settings(max_examples=60)
@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32, allow_nan=False)))
def test_floats_come_back_through_json(array):
    found = signature(TensorSpec("x", array.dtype, None), batchable=False)
    told = json.loads(oip.encode(asked(found), {"x": array}, "m", 1))["outputs"]
    assert decode({"inputs": told}, found).inputs["x"].tobytes() == array.tobytes()


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 250)))
def test_arbitrary_bytes_are_refused_or_read(body, json_bytes):
    try:
        decode(body, json_bytes=json_bytes)
    except errors.InvalidRequest:
        return
    assert json_bytes == 0
    assert len(body) == 12


# --- classification -------------------------------------------------------------------------------------------------


def classified(array, count, batchable=True):
    found = signature(X, outputs=(Y,), batchable=batchable)
    body = {"inputs": [entry()], "outputs": [{"name": "y", "parameters": {"classification": count}}]}
    (told,) = json.loads(oip.encode(decode(body, found), {"y": array}, "m", 1))["outputs"]
    assert told["datatype"] == "BYTES"
    return told["shape"], told["data"]


def test_the_highest_values_of_each_row():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
    assert classified(scores, 2) == ([2, 2], ["0.700000:1", "0.200000:2", "0.500000:0", "0.250000:1"])
    assert classified(scores, 9)[0] == [2, 3]


def test_of_a_whole_array_where_rows_do_not_stack():
    assert classified(np.array([3, 9, 9], np.uint8), 2, batchable=False) == ([2], ["9:1", "9:2"])


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.int8, np.float64])
def test_the_order_is_that_of_the_values(dtype):
    rng = np.random.default_rng(3)
    table = rng.integers(0, 100, (4, 50)).astype(dtype)
    _, told = classified(table, 50)
    got = [int(text.split(":")[1]) for text in told]
    assert got == [i for row in table for i in sorted(range(50), key=lambda i: (-int(row[i]), i))]


def test_what_is_no_number_comes_last_and_texts_have_no_order():
    assert classified(np.array([[np.nan, 1, np.inf]], np.float32), 3)[1] == ["inf:2", "1.000000:1", "nan:0"]
    with pytest.raises(errors.InvalidRequest, match="not of numbers"):
        classified(np.array([[b"a"]], object), 1)
    assert classified(np.empty((0, 3), np.float32), 2) == ([0, 0], [])
