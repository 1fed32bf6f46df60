"""KServe's V1 protocol as functions: bytes to tensors and back, with no server."""

import json

import numpy as np
import pytest

from stfs import errors
from stfs.protocols import kserve1
from stfs.signature import STRING, Signature, TensorSpec


def resolver(*inputs):
    specs = tuple(TensorSpec(name, np.dtype(dtype), None) for name, dtype in inputs)
    found = Signature("serving_default", specs, (), batchable=False)

    def resolve(model_name, version, signature_name):
        if signature_name not in (None, "s"):
            raise errors.SignatureNotFound("x")
        return found

    return resolve


def decode(body, *inputs):
    return kserve1.decode(json.dumps(body).encode(), resolver(*inputs))[1]


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_rows_under_either_name(key):
    np.testing.assert_array_equal(decode({key: [[1, 2], [3, 4]]}, ("x", "float32"))["x"], [[1, 2], [3, 4]])
    rows = decode({key: [{"a": 1, "b": "x"}, {"b": "y", "a": 2}]}, ("a", "int64"), ("b", "object"))
    assert rows["a"].tolist() == [1, 2]
    assert rows["b"].tolist() == [b"x", b"y"]
    binary = decode({key: [{"b64": "AP8="}], "signature_name": "s"}, ("x", "object"))
    assert binary["x"].tolist() == [b"\x00\xff"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": {"x": [1]}}, '"inputs" must be a list, not object'),
        ({"instances": 1}, '"instances" must be a list, not number'),
        ({"inputs": []}, '"inputs" is empty'),
        ({"inputs": [1], "instances": [1]}, "Expecting only one of 'inputs' or 'instances' keys to exist, once"),
        ({"inputs": [{"x": 1}, 2]}, '"inputs" [1] is number where the ones before are objects'),
        ({"inputs": [1, [2]]}, 'input "x", element [1] at byte 15: '),
    ],
)
def test_bodies_that_are_refused(body, told):
    with pytest.raises(errors.InvalidRequest) as caught:
        decode(body, ("x", "int64"))
    assert str(caught.value).startswith(told)


def test_predictions():
    third = np.array([[1 / 3], [2]], np.float32)
    assert kserve1.encode({"y": third}) == b'{"predictions":[[0.33333334],[2.0]]}'
    labels = np.array([b"a", b"b"], STRING)
    both = kserve1.encode({"y": third, "label": labels})
    assert both == b'{"predictions":[{"y":[0.33333334],"label":"a"},{"y":[2.0],"label":"b"}]}'
    with pytest.raises(errors.InvalidRequest, match="no common row count"):
        kserve1.encode({"y": third, "all": np.zeros(3)})


def test_what_is_there():
    assert json.loads(kserve1.encode_models(["a", 'ü"'])) == {"models": ["a", 'ü"']}
    assert json.loads(kserve1.encode_models([])) == {"models": []}
    assert json.loads(kserve1.encode_ready('ü"')) == {"name": 'ü"', "ready": True}
    assert str(kserve1.not_ready("m")) == "Model with name m is not ready."


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (errors.ModelNotFound("x", "m"), 404, "Model with name m does not exist."),
        (errors.ModelNotFound("x", "m" * 5000), 404, "Model with name mmmm does not exist."),
        (errors.VersionNotFound("x", "m", 3), 404, "told"),
        (errors.SignatureNotFound("x"), 400, "told"),
        (errors.MalformedJson("x", 3), 400, "told"),
        (errors.InvalidInput("x", "y"), 400, "told"),
        (errors.TooLarge("x"), 413, "told"),
        (kserve1.not_ready("m"), 503, "told"),
        (errors.Overloaded("x"), 503, "told"),
        (errors.DeadlineExceeded("x"), 504, "told"),
        (errors.ModelFailed("x"), 500, "told"),
    ],
)
def test_errors(error, status, told):
    assert kserve1.status_of(error) == status
    assert json.loads(kserve1.encode_error(error, "told")) == {"error": told}
