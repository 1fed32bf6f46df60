"""``ModelInferRequest`` and its answers as bytes, against protobuf's own classes of Triton's files; with no server."""

import struct

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import service_pb2 as service

from stfs import errors
from stfs.protocols import oip_pb, wire
from stfs.protocols.oip_datatypes import DATATYPES, datatype_of
from stfs.signature import STRING, Signature, TensorSpec

FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def spec(name, dtype, shape=(None,), **more):
    return TensorSpec(name, np.dtype(dtype), shape, **more)


def signature(*inputs, outputs=(), batchable=True):
    return Signature("serving_default", tuple(inputs), tuple(outputs), batchable)


X = spec("x", np.float32, (None, 3))
Y = spec("y", np.float32, (None, 3))
LINEAR = signature(X, outputs=(Y,))
ROWS = np.arange(1, 7, dtype=np.float32).reshape(2, 3)


def message(*inputs, raw=(), outputs=(), **more):
    return service.ModelInferRequest(
        model_name="m",
        inputs=inputs,
        raw_input_contents=raw,
        outputs=[service.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs],
        **more,
    )


def entry(name="x", datatype="FP32", shape=(2, 3), **contents):
    tensor = service.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        tensor.contents.CopyFrom(service.InferTensorContents(**contents))
    return tensor


def decode(asked, found=LINEAR):
    data = asked if isinstance(asked, bytes) else asked.SerializeToString()
    return oip_pb.decode(oip_pb.scan(data), found)


def same(have, want):
    assert have.dtype == want.dtype
    assert have.shape == want.shape
    if want.dtype == STRING:
        assert have.tolist() == want.tolist()
    else:
        assert have.tobytes() == want.tobytes()  # bit for bit: a NaN is its own
        assert have.flags.aligned


@st.composite
def arrays(draw, datatypes=tuple(DATATYPES)):
    dtype = DATATYPES[draw(st.sampled_from(datatypes))]
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    if dtype == STRING:
        array = np.empty(int(np.prod(shape)), STRING)
        array[:] = draw(st.lists(st.binary(max_size=200), min_size=array.size, max_size=array.size))
        return array.reshape(shape)
    return draw(hnp.arrays(dtype, shape))


def typed(name, array):
    datatype = datatype_of(array.dtype)
    return entry(name, datatype, array.shape, **{FIELDS[datatype]: array.ravel().tolist()})


def named(found):
    return {f"i{place}": array for place, array in enumerate(found)}


def of_any_shape(inputs):
    specs = [TensorSpec(name, array.dtype, None) for name, array in inputs.items()]
    return signature(*specs, batchable=False)


@settings(max_examples=150, deadline=None)
@given(st.lists(arrays(), min_size=1, max_size=4).map(named))
def test_raw_inputs_are_what_the_client_set(inputs):
    """The client's own classes make the request, so that the bytes are those of a real call."""
    asked = service.ModelInferRequest(model_name="m")
    for name, array in inputs.items():
        tensor = triton.InferInput(name, list(array.shape), datatype_of(array.dtype))
        tensor.set_data_from_numpy(array)
        asked.inputs.append(tensor._get_tensor())
        asked.raw_input_contents.append(tensor._get_content() or b"")
    found = decode(asked, of_any_shape(inputs)).inputs
    assert list(found) == list(inputs)
    for name, array in inputs.items():
        same(found[name], array)


@settings(max_examples=150, deadline=None)
@given(st.lists(arrays(tuple(FIELDS)), min_size=1, max_size=4).map(named))
def test_typed_inputs_are_what_protobuf_wrote(inputs):
    asked = message(*(typed(name, array) for name, array in inputs.items()))
    found = decode(asked, of_any_shape(inputs)).inputs
    for name, array in inputs.items():
        same(found[name], array)


def field(number, kind, content):
    return bytes((number << 3 | kind,)) + content


def block(number, content):
    assert len(content) < 128
    return field(number, 2, bytes((len(content),)) + content)


def test_numbers_that_are_not_packed_and_contents_in_two_parts_are_read_too():
    """Protobuf's readers must take both forms of a repeated number, and merge a message that stands twice."""
    head = block(1, b"x") + block(2, b"INT64") + field(3, 0, b"\x04")
    first = field(3, 0, b"\x01") + field(3, 0, b"\xac\x02")
    second = block(3, b"\x03") + field(3, 0, b"\x04")
    data = block(1, b"m") + block(5, head + block(5, first) + block(5, second))
    assert service.ModelInferRequest.FromString(data).inputs[0].contents.int64_contents == [1, 300, 3, 4]
    assert decode(data, signature(spec("x", np.int64))).inputs["x"].tolist() == [1, 300, 3, 4]
    floats = block(1, b"x") + block(2, b"FP32") + field(3, 0, b"\x02")
    floats += block(5, field(6, 5, struct.pack("<f", 1.5)) + block(6, struct.pack("<f", 2.5)))
    assert decode(block(5, floats), signature(spec("x", np.float32))).inputs["x"].tolist() == [1.5, 2.5]


def test_messages_of_nothing_but_small_fields_are_refused():
    """Each costs little to send and much to read."""
    many = 100_000
    numbers = block(1, b"x") + block(2, b"INT64") + field(3, 0, b"\x01")
    unpacked = field(3, 0, b"\x01") * many
    numbers += field(5, 2, wire.encode_varint(len(unpacked)) + unpacked)
    sizes = block(1, b"x") + field(3, 0, b"\x01") * many
    for asked in (
        block(5, b"") * many,
        block(4, b"") * many,
        *(field(5, 2, wire.encode_varint(len(one)) + one) for one in (numbers, sizes)),
    ):
        with pytest.raises(errors.InvalidRequest, match="over 65536 fields"):
            decode(asked, signature(spec("x", np.int64)))
    texts = block(1, b"x") + block(2, b"BYTES") + field(3, 0, b"\x01")
    inner = block(8, b"") * many
    texts += field(5, 2, wire.encode_varint(len(inner)) + inner)
    with pytest.raises(errors.InvalidInput, match="1 elements, but bytes_contents has more"):
        decode(field(5, 2, wire.encode_varint(len(texts)) + texts), signature(spec("x", STRING)))


def test_large_raw_tensors_are_views_where_they_are_aligned():
    ones = np.ones((1000, 3), np.float32)
    views = 0
    for pad in range(4):
        asked = message(entry(shape=(1000, 3)), raw=[ones.tobytes()], id="i" * (pad + 1))
        data = asked.SerializeToString()
        array = decode(data).inputs["x"]
        same(array, ones)
        views += np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert views >= 1


def test_what_is_beside_the_tensors():
    asked = message(entry(), raw=[ROWS.tobytes()], outputs=["y"], model_version="7", id="abc")
    asked.parameters["timeout"].int64_param = 2500
    asked.parameters["priority"].uint64_param = 2**63
    asked.parameters["share"].double_param = 0.5
    asked.parameters["who"].string_param = "me"
    asked.parameters["flag"].bool_param = True
    asked.outputs[0].parameters["classification"].int64_param = 2
    found = oip_pb.scan(asked.SerializeToString())
    assert (found.model_name, found.model_version, found.id) == ("m", "7", "abc")
    assert found.parameters == {"timeout": 2500, "priority": 2**63, "share": 0.5, "who": "me", "flag": True}
    request = oip_pb.decode(found, LINEAR)
    assert (request.id, request.timeout_us, request.binary) == ("abc", 2500, True)
    assert [(one.name, one.classification) for one in request.wanted] == [("y", 2)]


def test_one_value_a_row_may_come_as_a_table_of_one_column():
    asked = message(entry("c", "FP64", (3, 1), fp64_contents=[1, 2, 3]))
    assert decode(asked, signature(spec("c", np.float64))).inputs["c"].shape == (3,)


MANY = signature(
    spec("x", np.float32, (None, 3)),
    spec("small", np.int8),
    spec("tiny", np.uint8),
    spec("half", np.float16),
    spec("text", STRING),
    spec("flag", np.bool_),
    outputs=(Y,),
)

SHARED = entry()
SHARED.parameters["shared_memory_region"].string_param = "r"
CLASSES = message(entry(), raw=[ROWS.tobytes()], outputs=["y"])
CLASSES.outputs[0].parameters["classification"].string_param = "2"
SEQUENCE = message(entry(), raw=[ROWS.tobytes()])
SEQUENCE.parameters["sequence_id"].int64_param = 5
TIMEOUT = message(entry(), raw=[ROWS.tobytes()])
TIMEOUT.parameters["timeout"].int64_param = -1
REGION = message(entry(), raw=[ROWS.tobytes()], outputs=["y"])
REGION.outputs[0].parameters["shared_memory_region"].string_param = "r"

WRONG = [
    (message(entry("z"), raw=[b""]), 'input "z": unknown'),
    (message(entry(datatype="FP64"), raw=[ROWS.tobytes()]), "FP64, but the model takes FP32"),
    (message(entry(datatype="FP128"), raw=[ROWS.tobytes()]), "no datatype"),
    (message(entry(datatype="BF16"), raw=[ROWS.tobytes()]), "BF16 is not supported"),
    (message(entry(shape=(-1, 3)), raw=[ROWS.tobytes()]), "negative size"),
    (message(entry(shape=(2**40, 2**40)), raw=[ROWS.tobytes()]), "larger than any array"),
    (message(entry(shape=(1,) * 40), raw=[ROWS.tobytes()]), "over 32 sizes"),
    (message(entry(shape=(1,) * 4000), raw=[ROWS.tobytes()]), "its shape has over 32 sizes"),
    (message(entry(shape=(2, 2)), raw=[ROWS.tobytes()]), "16 bytes, got 24"),
    (message(entry(), raw=[ROWS.tobytes()[:-1]]), "24 bytes, got 23"),
    (message(entry(), raw=[ROWS.tobytes()] * 2), "2 entries for 1 inputs"),
    (message(entry(), entry("flag", "BOOL", (1,)), raw=[ROWS.tobytes()]), "1 entries for 2 inputs"),
    (message(entry(), entry(), raw=[ROWS.tobytes()] * 2), "stands twice"),
    (message(entry(fp32_contents=[1] * 6), raw=[ROWS.tobytes()]), "not both"),
    (message(entry()), "it has no data"),
    (message(entry(fp32_contents=[1] * 5)), "6 elements, but fp32_contents has 5"),
    (message(entry(fp64_contents=[1] * 6)), "FP32 stands in fp32_contents, not in fp64_contents"),
    (message(entry(fp32_contents=[1] * 6, bytes_contents=[b""])), "not in bytes_contents"),
    (message(entry("small", "INT8", (1,), int_contents=[128])), "out of range for INT8"),
    (message(entry("tiny", "UINT8", (1,), uint_contents=[256])), "out of range for UINT8"),
    (message(entry("half", "FP16", (1,), fp32_contents=[1])), "FP16 has no typed contents"),
    (message(entry("text", "BYTES", (1,)), raw=[b"\x05\0\0\0abc"]), "cut short in element 0 of 1"),
    (message(entry("text", "BYTES", (1,)), raw=[b"\x01\0\0\0abc"]), "end at byte 5 of 7"),
    (message(SHARED), "shared memory is not supported"),
    (REGION, "shared memory is not supported"),
    (CLASSES, '"classification" must be a whole number'),
    (SEQUENCE, "no state between requests"),
    (TIMEOUT, '"timeout" must be a whole number'),
    (message(entry(), raw=[ROWS.tobytes()], outputs=["z"]), 'unknown output "z"; this model gives "y"'),
    (message(entry(), raw=[ROWS.tobytes()], outputs=["y", "y"]), "stands twice"),
    (service.ModelInferRequest(inputs=[{"datatype": "FP32"}]), "one of the inputs has no name"),
    (b"\x0a\x01\xff", "model_name is not UTF-8"),
    (b"\x0a\x05ab", "cut short"),
    (b"{}", "no valid protobuf"),
]


@pytest.mark.parametrize(("asked", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_is_wrong_is_told(asked, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        decode(asked, MANY)
    assert told in str(caught.value)
    assert oip_pb.status_of(caught.value) == oip_pb.INVALID_ARGUMENT


WHOLE = message(
    entry(),
    entry("text", "BYTES", (2,)),
    raw=[ROWS.tobytes(), b"\x01\0\0\0a\0\0\0\0"],
    outputs=["y"],
    id="abc",
    model_version="12",
).SerializeToString()
TYPED = message(
    entry(fp32_contents=[1.5] * 6), entry("small", "INT8", (2,), int_contents=[-1, 300 - 200])
).SerializeToString()


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([WHOLE, TYPED]), st.data())
def test_damaged_messages_are_refused_or_read_as_protobuf_reads_them(data, more):
    damaged = bytearray(data)
    for _ in range(more.draw(st.integers(1, 3))):
        damaged[more.draw(st.integers(0, len(damaged) - 1))] = more.draw(st.integers(0, 255))
    cut = bytes(damaged[: more.draw(st.integers(1, len(damaged)))])
    try:
        found = oip_pb.scan(cut)
        inputs = oip_pb.decode(found, MANY).inputs
    except errors.InvalidRequest:
        return
    real = service.ModelInferRequest.FromString(cut)  # what is no message is refused here too
    assert (real.model_name, real.model_version, real.id) == (found.model_name, found.model_version, found.id)
    assert [tensor.name for tensor in real.inputs] == list(inputs)
    for tensor in real.inputs:
        assert inputs[tensor.name].size == np.prod(tensor.shape, dtype=np.int64)


def answer(outputs, asked=None, found=None, request_id=""):
    """The client's own result of what is written for these outputs."""
    found = found or signature(outputs=[TensorSpec(name, array.dtype, None) for name, array in outputs.items()])
    request = oip_pb.decode(oip_pb.scan((asked or message(id=request_id)).SerializeToString()), found)
    data = oip_pb.encode(request, outputs, "m", 12)
    return triton.InferResult(service.ModelInferResponse.FromString(data))


@settings(max_examples=150, deadline=None)
@given(st.lists(arrays(), max_size=4).map(named), st.text(max_size=5))
def test_answers_are_what_the_client_reads(outputs, request_id):
    result = answer(outputs, request_id=request_id)
    told = result.get_response()
    assert (told.model_name, told.model_version, told.id) == ("m", "12", request_id)
    assert [one.name for one in told.outputs] == list(outputs)
    assert [one.datatype for one in told.outputs] == [datatype_of(array.dtype) for array in outputs.values()]
    assert len(told.raw_output_contents) == len(outputs)
    for name, array in outputs.items():
        have = result.as_numpy(name)
        assert have.shape == array.shape
        if array.dtype == STRING:
            assert have.ravel().tolist() == array.ravel().tolist()
        else:
            assert (have.dtype, have.tobytes()) == (array.dtype, array.tobytes())


def test_only_what_is_wanted_is_told_in_the_order_asked_for():
    outputs = {name: np.full(2, place, np.int32) for place, name in enumerate("abc")}
    told = answer(outputs, message(outputs=["c", "a"])).get_response()
    assert [one.name for one in told.outputs] == ["c", "a"]
    assert told.raw_output_contents[0] == outputs["c"].tobytes()


def test_classification_tells_the_highest_values_of_each_row():
    asked = message(outputs=["y"])
    asked.outputs[0].parameters["classification"].int64_param = 2
    result = answer({"y": np.array([[0.25, 2, 1], [9, 8, 7]], np.float32)}, asked)
    assert result.get_response().outputs[0].datatype == "BYTES"
    assert result.as_numpy("y").tolist() == [[b"2.000000:1", b"1.000000:2"], [b"9.000000:0", b"8.000000:1"]]


def test_an_output_that_the_protocol_has_no_datatype_for_is_the_models_fault():
    request = oip_pb.decode(oip_pb.scan(b""), signature())
    with pytest.raises(errors.ModelFailed, match="complex64"):
        oip_pb.encode(request, {"y": np.zeros(1, np.complex64)}, "m", 1)


def test_streamed_answers_say_that_they_are_the_last():
    request = oip_pb.decode(oip_pb.scan(message(id="q").SerializeToString()), LINEAR)
    told = service.ModelStreamInferResponse.FromString(oip_pb.encode_streamed(request, {"y": ROWS}, "m", 3))
    assert told.error_message == ""
    assert triton.InferResult(told.infer_response).as_numpy("y").tolist() == ROWS.tolist()
    assert told.infer_response.parameters["triton_final_response"].bool_param
    assert told.infer_response.id == "q"


def test_a_stream_tells_which_request_went_wrong():
    asked = oip_pb.scan(message(id="q", model_version="4").SerializeToString())
    told = service.ModelStreamInferResponse.FromString(oip_pb.encode_stream_error("it is wrong", asked))
    assert told.error_message == "it is wrong"
    response = told.infer_response
    assert (response.id, response.model_name, response.model_version) == ("q", "m", "4")
    assert response.parameters["triton_final_response"].bool_param
    unread = service.ModelStreamInferResponse.FromString(oip_pb.encode_stream_error("é \ud800", None))
    assert unread.error_message == "é ?"


def test_every_error_has_its_status():
    table = {
        errors.InvalidRequest("x"): 3,
        errors.InvalidInput("x", "y"): 3,
        errors.TooLarge("x"): 8,
        errors.ModelNotFound("x"): 5,
        errors.VersionNotFound("x"): 5,
        errors.SignatureNotFound("x"): 3,
        errors.Unavailable("x"): 14,
        errors.Overloaded("x"): 14,
        errors.ShareExceeded("x"): 8,
        errors.DeadlineExceeded("x"): 4,
        errors.ModelFailed("x"): 13,
    }
    assert {error: oip_pb.status_of(error) for error in table} == table
