"""TensorFlow Serving's gRPC messages as bytes in and out: no server, no TensorFlow."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stfs import errors
from stfs.errors import InvalidRequest, RequestError
from stfs.protocols import tensor_pb, tfserving_inference_pb, tfserving_models_pb, tfserving_pb, wire
from stfs.signature import CLASSIFY, REGRESS, Signature, TensorSpec

X = np.array([[1.0, 2.0]], np.float32)


def field(number, *parts):
    return wire.encode_bytes(number, b"".join(parts))


def entry(name, array):
    return field(2, field(1, name.encode()), field(2, tensor_pb.encode(array)))


NAME = field(1, field(1, b"m"))


def test_fields_in_any_order_and_merged():
    body = (
        field(3, b"y")
        + entry("x", X * 9)
        + field(1, field(3, b"sig"))
        + field(5, b"?")
        + entry("x", X)
        + NAME
        + field(1, field(2, wire.encode_number(1, 4)))
        + field(3, b"z")
    )
    request = tfserving_pb.decode_predict(body)
    assert request.spec == tfserving_pb.ModelSpec("m", 4, None, "sig")
    assert request.output_filter == ("y", "z")
    assert list(request.inputs) == ["x"]
    assert request.inputs["x"].tolist() == X.tolist()


@pytest.mark.parametrize(
    ("parts", "version", "label"),
    [
        ([], None, None),
        ([field(2)], 0, None),
        ([field(2, wire.encode_number(1, 5))], 5, None),
        ([field(2, wire.encode_number(1, -1))], -1, None),
        ([field(2, wire.encode_number(1, 5)), field(4, b"a")], None, "a"),
        ([field(4, b"a"), field(2, wire.encode_number(1, 5))], 5, None),
        ([field(4)], None, ""),
    ],
)
def test_of_version_and_label_the_last_one_stands(parts, version, label):
    spec = tfserving_pb.decode_predict(field(1, field(1, b"m"), *parts)).spec
    assert (spec.version, spec.label) == (version, label)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "Missing ModelSpec"),
        (field(1), "ModelSpec has no name"),
        (field(1, field(1, b"\xff")), "model_spec.name is not UTF-8"),
        (NAME + field(2, field(1, b"\xff")), "an input's name is not UTF-8"),
        (NAME + field(2, field(1, b"x"), field(2, b"\x08\x01\xff")), "no valid protobuf"),
        (NAME + field(2, field(1, b"x")), 'input "x": dtype number 0'),
        (NAME + field(3, b"\xff"), "output_filter is not UTF-8"),
        (NAME[:-1], "cut short"),
    ],
)
def test_what_is_wrong_is_told(body, problem):
    with pytest.raises(InvalidRequest, match=problem):
        tfserving_pb.decode_predict(body)


def test_the_answer_holds_what_was_asked_for():
    outputs = {"a": X, "b": X.astype(np.int64)}
    whole = tfserving_pb.encode_predict("m", 3, "s", outputs)
    spec = field(2, tfserving_pb.encode_spec("m", 3, "s"))
    assert spec == b"\x12\x0a\x0a\x01m\x12\x02\x08\x03\x1a\x01s"
    told = {name: field(1, field(1, name.encode()), field(2, tensor_pb.encode(outputs[name]))) for name in outputs}
    assert whole == told["a"] + told["b"] + spec
    assert tfserving_pb.encode_predict("m", 3, "s", outputs, ("b",)) == told["b"] + spec


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("x"), 3),
        (errors.InvalidInput("x", "y"), 3),
        (errors.ModelNotFound("x"), 5),
        (errors.VersionNotFound("x"), 5),
        (errors.SignatureNotFound("x"), 9),
        (errors.TooLarge("x"), 8),
        (errors.Unavailable("x"), 14),
        (errors.Overloaded("x"), 14),
        (errors.ShareExceeded("x"), 8),
        (errors.DeadlineExceeded("x"), 4),
        (errors.ModelFailed("x"), 13),
        (tfserving_pb.FailedPrecondition("x"), 9),
        (tfserving_pb.NotBecomeAvailable("x"), 2),
    ],
)
def test_statuses(error, status):
    assert tfserving_pb.status_of(error) == status


def test_examples_with_and_without_a_context():
    plain = field(2, field(1, field(1, b"a"), field(1, b"b")))
    request = tfserving_inference_pb.decode_examples(NAME + plain)
    assert request.serialized.tolist() == [b"a", b"b"]
    with_context = field(2, field(2, field(1, b"a"), field(2, b"c"), field(1, b"b")))
    assert tfserving_inference_pb.decode_examples(NAME + with_context).serialized.tolist() == [b"ca", b"cb"]
    # One choice of two: the last one stands, and what stands twice is merged.
    assert tfserving_inference_pb.decode_examples(NAME + with_context + plain).serialized.tolist() == [b"a", b"b"]
    assert tfserving_inference_pb.decode_examples(NAME + plain + plain).serialized.tolist() == [b"a", b"b"] * 2
    for empty in (b"", field(2), field(2, field(1)), field(2, field(2, field(2, b"c")))):
        with pytest.raises(InvalidRequest, match="Input is empty"):
            tfserving_inference_pb.decode_examples(NAME + empty)


def test_scores_and_labels_are_written_as_proto3_has_them():
    labels = np.array([[b"a", b""]], object)
    scores = np.array([[0.0, -0.0]], np.float32)
    spec = tfserving_pb.encode_spec("m", 1)
    got = tfserving_inference_pb.encode_classification(spec, {"classes": labels, "scores": scores}, 1)
    assert got == field(1, field(1, field(1, field(1, b"a")), field(1, b"\x15\0\0\0\x80"))) + field(2, spec)
    got = tfserving_inference_pb.encode_regression(spec, {"outputs": np.array([[1.5], [0.0]], np.float32)}, 2)
    value = np.float32(1.5).tobytes()
    assert got == field(1, field(1, b"\x0d", value), field(1, b"\x0d\0\0\0\0")) + field(2, spec)


def test_a_reload_request_is_taken_apart():
    request = tfserving_models_pb.decode_reload(field(1, b"ab") + field(2, b"m") + field(1, b"c"))
    assert request == tfserving_models_pb.ReloadRequest(b"abc", ("m",))
    assert tfserving_models_pb.encode_reloaded(["m", "m"]) == field(1) + field(2, field(1, b"m"), b"\x10\x00")


def test_metadata_tells_open_dimensions_and_ranks():
    signature = Signature(
        "s", (TensorSpec("x", np.dtype("float32"), (None, 2)),), (TensorSpec("y", np.dtype(object), None),), True
    )
    got = tfserving_models_pb.encode_metadata("m", 1, {"s": signature})
    minus_one = b"\xff" * 9 + b"\x01"
    assert field(1, b"x:0") + b"\x10\x01" + field(3, field(2, b"\x08", minus_one), field(2, b"\x08\x02")) in got
    assert field(1, b"y:0") + b"\x10\x07" + field(3, b"\x18\x01") in got


READERS = [
    tfserving_pb.decode_predict,
    tfserving_inference_pb.decode_examples,
    tfserving_inference_pb.decode_multi,
    tfserving_models_pb.decode_metadata_request,
    tfserving_models_pb.decode_status_request,
    tfserving_models_pb.decode_reload,
]
SPEC = field(1, field(1, b"m"), field(2, b"\x08\x01"), field(3, b"s"))
BODIES = [
    SPEC + entry("x", X) + entry("t", np.array([b"ab", b"c"], object)) + field(3, b"y"),
    SPEC + field(2, field(2, field(1, b"abc"), field(2, b"c"))),
    field(1, SPEC, field(2, CLASSIFY.encode()))
    + field(1, SPEC, field(2, REGRESS.encode()))
    + field(2, field(1, field(1, b"a"))),
]


@pytest.mark.parametrize("read", READERS)
@given(data=st.data())
@settings(max_examples=150)
def test_damage_raises_nothing_but_request_errors(read, data):
    body = bytearray(data.draw(st.one_of(st.sampled_from(BODIES), st.binary(max_size=80))))
    for _ in range(data.draw(st.integers(0, 4))):
        if body:
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RequestError):
        assert read(bytes(body[: data.draw(st.integers(0, len(body)))])) is not None
