"""Signature files beside ONNX models: new names, the graph's own names, and files for another model."""

from __future__ import annotations

import json

import modelzoo
import numpy as np
import pytest

from stfs.errors import LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.onnx import OnnxPlatform

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

S = "serving_default"


def load(path, **options):
    return OnnxPlatform().load(path, LoadOptions(**options))


def describe(folder, inputs, outputs=(), name="model-signature.json"):
    (folder / name).write_text(json.dumps({"inputs": inputs, "outputs": list(outputs)}))


def names(specs):
    return [spec.name for spec in specs]


def test_new_names(tmp_path):
    modelzoo.onnx_mlp(tmp_path)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    want = load(tmp_path).run(S, {"x": x})
    describe(
        tmp_path,
        [{"data_name": "features", "data_shape": [1, 4]}],
        [{"name": "scores", "shape": [None, 3]}, {"name": "class"}],
    )
    servable = load(tmp_path)
    signature = servable.signatures[S]
    assert names(signature.inputs) == ["features"]
    assert names(signature.outputs) == ["scores", "class"]
    assert [s.shape for s in (*signature.inputs, *signature.outputs)] == [(None, 4), (None, 3), (None,)]
    assert signature.batchable
    have = servable.run(S, signature.bind({"features": x}))
    assert list(have) == ["scores", "class"]
    np.testing.assert_array_equal(have["scores"], want["probabilities"])
    np.testing.assert_array_equal(have["class"], want["label"])


def test_new_names_for_several_inputs_in_any_order_of_the_request(tmp_path):
    modelzoo.onnx_several_inputs(tmp_path)
    describe(tmp_path, [{"name": "places"}, {"name": "factor"}, {"name": "negative"}])
    servable = load(tmp_path)
    bound = servable.signatures[S].bind(
        {
            "negative": np.array([[False, True], [True, False]]),
            "factor": np.array([[0.5, 2], [1, 3]], "float16"),
            "places": np.array([2, 0]),
        }
    )
    np.testing.assert_array_equal(servable.run(S, bound)["rows"], np.array([[2.5, -12], [-1, 6]], "float16"))


def test_new_names_for_text(tmp_path):
    modelzoo.onnx_strings(tmp_path)
    describe(tmp_path, [{"name": "words", "dtype": "string"}])
    words = np.array([b"yes", b"oui"], object)
    np.testing.assert_array_equal(load(tmp_path).run(S, {"words": words})["id"], [1, 2])


def test_new_names_for_a_fixed_batch_that_is_freed(tmp_path):
    modelzoo.onnx_fixed_batch(tmp_path)
    images = np.random.default_rng(1).normal(size=(4, 2, 3)).astype("float32")
    want = load(tmp_path).run(S, {"image": images})["probabilities"]
    describe(tmp_path, [{"name": "pixels"}], [{"name": "p"}])
    servable = load(tmp_path)
    assert servable.signatures[S].batchable
    np.testing.assert_array_equal(servable.run(S, {"pixels": images})["p"], want)


def test_the_graphs_own_names_change_nothing(tmp_path):
    modelzoo.onnx_several_inputs(tmp_path)
    plain = load(tmp_path).signatures[S]
    describe(tmp_path, [{"name": "flip"}, {"name": "ids"}])  # neither all of them nor in the graph's order
    assert load(tmp_path).signatures[S] == plain


def test_a_file_kept_elsewhere(tmp_path):
    modelzoo.onnx_mlp(tmp_path / "model")
    describe(tmp_path, [{"name": "features"}], name="mine.json")
    assert names(load(tmp_path / "model", signature_file=tmp_path / "mine.json").signatures[S].inputs) == ["features"]


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason"),
    [
        ([{"name": "a"}, {"name": "b"}], [], r'inputs: the model has no a, b; it has "x"'),
        ([{"name": "x", "shape": [None, 5]}], [], r'inputs: "x" has shape \[\?, 5\] there, but .* says \[\?, 4\]'),
        ([{"name": "a", "shape": [4]}], [], r'inputs: "a" has shape \[4\] there'),
        ([{"name": "x"}], [{"name": "label"}, {"name": "p"}], r'outputs: the model has no p; it has "probabilities"'),
        ([{"name": "x"}], [{"name": "p"}], r"outputs: the model has no p; it has .* give each of its 2 a new one"),
    ],
)
def test_a_file_for_another_model(tmp_path, inputs, outputs, reason):
    modelzoo.onnx_mlp(tmp_path)
    describe(tmp_path, inputs, outputs)
    with pytest.raises(LoadFailed, match=reason) as caught:
        load(tmp_path)
    assert str(tmp_path / "model-signature.json") in str(caught.value)
    assert "\n" not in str(caught.value)
