"""Recorded requests, written by the public messages themselves and by hand."""

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_logs import float_tensor, linear_log, message, model_spec, predict_log

from stfs.errors import InvalidRequest, SignatureNotFound
from stfs.signature import CLASSIFY, REGRESS, STRING, Signature, TensorSpec
from stfs.warmup.requests import decode


def signature(name, inputs, outputs):
    return Signature(name, tuple(inputs), tuple(outputs), batchable=True)


def strings(name):
    return TensorSpec(name, STRING, (None,))


def test_predict():
    (recorded,) = decode(predict_log({"x": float_tensor([[1, 2], [3, 4]])}, signature_name="other"))
    assert recorded.signature_name == "other"
    assert recorded.inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert recorded.method_name == ""


def test_no_model_need_be_named():
    (recorded,) = decode(linear_log(name=""))
    assert recorded.signature_name is None
    assert recorded.inputs["x"].dtype == np.float32


def test_a_log_without_a_request_runs_nothing():
    assert decode(b"") == ()
    assert decode(message(1, b"")) == ()


@pytest.mark.parametrize(("number", "name"), [(5, "session_run_log"), (7, "predict_streamed_log")])
def test_kinds_that_no_model_is_warmed_up_by(number, name):
    with pytest.raises(InvalidRequest, match=f"Unsupported log_type for warmup: {name}"):
        decode(message(number, b""))


def test_the_last_log_of_the_choice_stands():
    (recorded,) = decode(message(5, b"") + linear_log(4.0))
    assert recorded.inputs["x"].tolist() == [[4.0] * 3]


@pytest.mark.parametrize(("number", "method"), [(2, CLASSIFY), (3, REGRESS)])
def test_examples(number, method):
    examples = message(2, message(1, message(1, b"one") + message(1, b"two")))
    (recorded,) = decode(message(number, message(1, message(1, model_spec("m", "s")) + examples)))
    assert recorded.inputs["inputs"].tolist() == [b"one", b"two"]
    assert (recorded.signature_name, recorded.method_name) == ("s", method)


def test_a_context_belongs_to_every_example():
    listed = message(2, message(2, message(1, b"one") + message(1, b"two") + message(2, b"with ")))
    (recorded,) = decode(message(2, message(1, listed)))
    assert recorded.inputs["inputs"].tolist() == [b"with one", b"with two"]


def test_multi_inference():
    tasks = [
        message(1, message(1, model_spec("m", name)) + message(2, method.encode()))
        for name, method in (("a", CLASSIFY), ("b", REGRESS))
    ]
    examples = message(2, message(1, message(1, b"one")))
    found = decode(message(4, message(1, b"".join(tasks) + examples)))
    assert [(r.signature_name, r.method_name, r.inputs["inputs"].tolist()) for r in found] == [
        ("a", CLASSIFY, [b"one"]),
        ("b", REGRESS, [b"one"]),
    ]


def test_which_signature_is_run():
    plain = signature("serving_default", [TensorSpec("x", np.dtype("float32"), (None,))], [strings("y")])
    classifies = signature("c", [strings("inputs")], [strings("classes")])
    by_name = {None: plain, "c": classifies}
    (recorded,) = decode(linear_log())
    assert recorded.signature(by_name.__getitem__) is plain
    examples = message(2, message(1, message(1, b"one")))
    (recorded,) = decode(message(2, message(1, message(1, model_spec("m", "c")) + examples)))
    assert recorded.signature(by_name.__getitem__) is classifies
    (recorded,) = decode(message(2, message(1, message(1, model_spec("m")) + examples)))
    with pytest.raises(SignatureNotFound, match="No classification inputs found"):
        recorded.signature(by_name.__getitem__)


@given(st.binary(max_size=200))
def test_any_bytes_are_told_of(data):
    for record in (data, message(6, message(1, data)), message(2, message(1, data)), message(4, message(1, data))):
        with suppress(InvalidRequest):  # and nothing else comes out
            assert isinstance(decode(record), tuple)


@pytest.mark.slow
def test_what_the_public_messages_write():
    pytest.importorskip("tensorflow")
    prediction_log_pb2 = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "m"
    request.model_spec.signature_name = "s"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = 2
    request.inputs["x"].tensor_content = struct.pack("<2f", 1.5, 2.5)
    (recorded,) = decode(log.SerializeToString())
    assert (recorded.signature_name, recorded.inputs["x"].tolist()) == ("s", [1.5, 2.5])
    log.classify_log.request.input.example_list.examples.add().features.feature["f"].float_list.value.append(3.0)
    (recorded,) = decode(log.SerializeToString())
    assert recorded.method_name == CLASSIFY
    assert recorded.inputs["inputs"][0] == log.classify_log.request.input.example_list.examples[0].SerializeToString()
