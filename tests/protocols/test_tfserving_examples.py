"""Bodies of classify and regress as functions: JSON to serialized tf.Example bytes, outputs to results. No server."""

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfs import errors
from stfs.protocols import tfserving_results as results
from stfs.protocols.tfserving_examples import decode_examples, encode_example
from stfs.signature import STRING, Signature, TensorSpec


def decode(body, verb="classify"):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return decode_examples(text, verb)


def refused(body, verb="classify"):
    with pytest.raises(errors.InvalidRequest) as caught:
        decode(body, verb)
    return str(caught.value)


# --- the bytes of an example ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [
        # As feature.proto and example.proto say, by hand: features 1 { feature 1 { key 1, value 2 { list 1|2|3 } } }.
        ({}, ""),
        ({"a": [1, -1]}, "0a16 0a14 0a0161 120f 1a0d 0a0b 01ffffffffffffffffff01"),
        ({"a": 1.5}, "0a0f 0a0d 0a0161 1208 1206 0a04 0000c03f"),
        ({"a": ["x", {"b64": "AP8="}]}, "0a10 0a0e 0a0161 1209 0a07 0a0178 0a0200ff"),
        ({"a": []}, "0a07 0a05 0a0161 1200"),
        ({"a": True}, "0a0c 0a0a 0a0161 1205 1a03 0a01 01"),
        ({"a": 1, "b": 2}, "0a18 0a0a 0a0161 1205 1a03 0a01 01 0a0a 0a0162 1205 1a03 0a01 02"),
    ],
)
def test_the_bytes_of_an_example(value, told):
    assert encode_example(value) == bytes.fromhex(told)


def test_what_an_example_may_not_hold():
    for value, told in [
        ([1], "Example must be JSON object but got JSON Array"),
        (None, "Example must be JSON object but got JSON Null"),
        ({"a": None}, "Feature: a has element with unexpected JSON type: Null"),
        ({"a": [[1]]}, "Feature: a has element with unexpected JSON type: Array"),
        ({"a": {"b65": ""}}, "Feature: a has element with unexpected JSON type: Object"),
        ({"a": {"b64": "AA==", "more": 1}}, "Feature: a has element with unexpected JSON type: Object"),
        ({"a": {"b64": 1}}, "Feature: a has element with unexpected JSON type: Object"),
        ({"a": {"b64": "!"}}, "Unable to base64 decode"),
        ({"a": [1, 1.5]}, "Unexpected element type in feature: a expecting type: int64"),
        ({"a": [1.5, 1]}, "Unexpected element type in feature: a expecting type: float"),
        ({"a": ["x", True]}, "Unexpected element type in feature: a expecting type: bytes"),
        ({"a": 2**63}, "Feature: a has uint64_t element. Only int64_t is supported."),
        ({"a" * 5000: None}, f"Feature: {'a' * 100} has element with unexpected JSON type: Null"),
    ]:
        with pytest.raises(errors.InvalidRequest) as caught:
            encode_example(value)
        assert str(caught.value) == told


FEATURES = st.dictionaries(
    st.text(max_size=4),
    st.one_of(
        *(
            st.one_of(kind, st.lists(kind, max_size=4))
            for kind in (
                st.integers(-(2**63), 2**63 - 1),
                st.booleans(),
                st.floats(),
                st.text(max_size=5),
                st.binary(max_size=5).map(lambda raw: {"b64": base64.b64encode(raw).decode()}),
            )
        )
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def tf_example():
    """TensorFlow's own message, which is what a model's graph parses the bytes as."""
    return pytest.importorskip("tensorflow").train.Example


@pytest.mark.slow
def test_tensorflow_reads_every_example_back(tf_example):
    @given(FEATURES)
    def check(features):
        read = tf_example.FromString(encode_example(features)).features.feature
        assert read.keys() == features.keys()
        for name, content in features.items():
            expected = content if isinstance(content, list) else [content]
            feature = read[name]
            kind = feature.WhichOneof("kind")
            if not expected:
                assert kind is None
            elif isinstance(expected[0], int):
                assert list(feature.int64_list.value) == expected
            elif isinstance(expected[0], float):
                with np.errstate(over="ignore"):
                    np.testing.assert_array_equal(feature.float_list.value, np.array(expected).astype(np.float32))
            else:
                told = [x.encode() if isinstance(x, str) else base64.b64decode(x["b64"]) for x in expected]
                assert list(feature.bytes_list.value) == told

    check()


@pytest.mark.slow
def test_a_context_gives_way_to_the_example(tf_example):
    body = {"context": {"a": 1, "b": "c"}, "examples": [{"a": 2.5}, {}, {"d": True}]}
    read = [tf_example.FromString(row).features.feature for row in decode(body).serialized]
    assert [sorted(row) for row in read] == [["a", "b"], ["a", "b"], ["a", "b", "d"]]
    assert [list(row["a"].float_list.value) for row in read] == [[2.5], [], []]
    assert [list(row["a"].int64_list.value) for row in read] == [[], [1], [1]]
    assert {row["b"].bytes_list.value[0] for row in read} == {b"c"}


# --- the body ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [b"", b"x", b"\xff"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_parts_of_a_body_stand_in_any_order(tail, mark):
    for body in (
        b'{"signature_name":"s","context":{"c":1},"examples":[{"x":1},{}]}',
        b'{"examples":[{"x":1},{}],"other":[{}],"context":{"c":1},"signature_name":"s"}',
    ):
        read = decode(mark + body + tail)
        assert read.signature_name == "s"
        assert read.serialized.dtype == STRING
        context, example = encode_example({"c": 1}), encode_example({"x": 1})
        assert read.serialized.tolist() == [context + example, context]
    assert decode({"examples": [{}]}).signature_name is None


def test_a_body_that_is_none():
    assert refused({"instances": []}) == "When method is classify, key 'examples' is expected and was not found"
    assert refused({}, "regress") == "When method is regress, key 'examples' is expected and was not found"
    assert refused({"examples": {}}) == "Expecting 'examples' value to be an list/array"
    assert refused({"examples": []}) == "'examples' value is an empty array"
    assert refused({"examples": [{}, 7]}) == "Example must be JSON object but got JSON Number"
    assert refused({"examples": [{}], "context": [1]}) == "Example must be JSON object but got JSON Array"
    assert refused({"examples": [{}], "signature_name": 1}).endswith("must be a string, not number")
    for body in (b"", b"[]", b'{"examples":[{"a":1}', b'{"examples":[{"a":1,}]}'):
        with pytest.raises(errors.MalformedJson):
            decode(body)


# --- which signatures -------------------------------------------------------------------------------------------------


def signature(inputs, outputs, name="serving_default"):
    spec = {"inputs": (STRING, (None,)), "classes": (STRING, (None, None)), "scores": (np.dtype("float32"), None)}
    made = [
        tuple(TensorSpec(key, *spec.get(key, (np.dtype("float32"), (None,)))) for key in keys)
        for keys in (inputs, outputs)
    ]
    return Signature(name, made[0], made[1], batchable=True)


def resolver(found):
    def resolve(model_name, version, signature_name):
        if isinstance(found, Exception):
            raise found
        return found

    return resolve


@pytest.mark.parametrize("outputs", [["classes"], ["scores"], ["classes", "scores"], ["scores", "more"]])
def test_what_classifies(outputs):
    found = signature(["inputs"], outputs)
    assert results.classify_signature(resolver(found), None) is found


def test_what_regresses():
    found = signature(["inputs"], ["outputs"])
    assert results.regress_signature(resolver(found), "s") is found


@pytest.mark.parametrize(
    ("check", "inputs", "outputs", "told"),
    [
        (results.classify_signature, ["a", "inputs"], ["classes"], "Expected one input Tensor."),
        (results.classify_signature, ["x"], ["classes"], "No classification inputs found in SignatureDef: "),
        (results.classify_signature, ["inputs"], ["a", "b", "classes"], "Expected one or two output Tensors, found 3"),
        (results.classify_signature, ["inputs"], ["y"], "Expected classification signature outputs to contain at"),
        (results.regress_signature, [], ["outputs"], "Expected one input Tensor."),
        (results.regress_signature, ["x"], ["outputs"], "No regression inputs found in SignatureDef: "),
        (results.regress_signature, ["inputs"], ["outputs", "y"], "Expected one output Tensor."),
        (results.regress_signature, ["inputs"], ["y"], "No regression outputs found in SignatureDef: "),
    ],
)
def test_what_does_neither(check, inputs, outputs, told):
    with pytest.raises(errors.SignatureNotFound) as caught:
        check(resolver(signature(inputs, outputs)), None)
    assert str(caught.value).startswith(told)


def test_a_signature_that_is_not_there():
    for check in (results.classify_signature, results.regress_signature):
        for name, told in (("s", "s"), (None, "serving_default"), ("s" * 5000, "s" * 100)):
            with pytest.raises(errors.SignatureNotFound) as caught:
                check(resolver(errors.SignatureNotFound("x")), name)
            assert str(caught.value) == f"No signature was found with the name: {told}"
        with pytest.raises(errors.Unavailable):
            check(resolver(errors.Unavailable("loading")), None)


# --- results ----------------------------------------------------------------------------------------------------------


def strings(rows):
    array = np.empty((len(rows), len(rows[0])), STRING)
    for index, row in enumerate(rows):
        array[index] = row
    return array


LABELS = strings([[b"a", b'"b'], ["ü".encode(), b"\xff"]])
SCORES = np.array([[0.25, 1 / 3], [9e6, np.nan]], np.float32)


def test_classes_and_scores():
    told = results.encode_classifications({"scores": SCORES, "classes": LABELS}, 2)
    text = '{"results":[[["a",0.25],["\\"b",0.333333343]],[["ü",9e+06],["\N{REPLACEMENT CHARACTER}",NaN]]]}'
    assert told.decode() == text
    only = results.encode_classifications({"scores": SCORES[:1]}, 1)
    assert only == b'{"results":[[["",0.25],["",0.333333343]]]}'
    only = results.encode_classifications({"classes": LABELS[:1]}, 1)
    assert only == b'{"results":[[["a",0.0],["\\"b",0.0]]]}'
    assert results.encode_classifications({"scores": SCORES[:, :0]}, 2) == b'{"results":[[],[]]}'


def test_scores_in_any_memory_order():
    turned = np.asfortranarray(SCORES[:1])
    assert results.encode_classifications({"scores": turned}, 1) == b'{"results":[[["",0.25],["",0.333333343]]]}'


def test_values():
    for values in (np.array([1, 0.1], np.float32), np.array([[1], [0.1]], np.float32)):
        assert results.encode_regressions({"outputs": values}, 2) == b'{"results":[1.0,0.1]}'


@pytest.mark.parametrize(
    ("outputs", "rows", "told"),
    [
        ({"scores": SCORES[0]}, 2, "Expected Tensor shape: [batch_size num_classes] but got [2]"),
        ({"scores": SCORES.astype("float64")}, 2, "Expected scores Tensor of DT_FLOAT. Got: float64"),
        ({"classes": SCORES}, 2, "Expected classes Tensor of DT_STRING. Got: float32"),
        ({"scores": SCORES}, 3, "Expected scores output batch size of 3. Got: 2"),
        ({"classes": LABELS, "scores": SCORES[:, :1]}, 2, "should match in dim_size(1). Got 2 vs. 1"),
    ],
)
def test_outputs_that_are_no_classifications(outputs, rows, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        results.classifications(outputs, rows)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("values", "rows", "told"),
    [
        (np.zeros((2, 2), np.float32), 2, "[batch_size] or [batch_size, 1] but got [2, 2]"),
        (np.float32(1), 1, "[batch_size] or [batch_size, 1] but got []"),
        (np.zeros(2, np.float32), 3, "Input batch size did not match output batch size: 3 vs. 2"),
        (np.zeros(2), 2, "Expected output Tensor of DT_FLOAT.  Got: float64"),
    ],
)
def test_outputs_that_are_no_regressions(values, rows, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        results.regressions({"outputs": np.asarray(values)}, rows)
    assert told in str(caught.value)
