"""ONNX models against onnxruntime called directly, and against numpy."""

from __future__ import annotations

import threading

import modelzoo
import numpy as np
import pytest

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed, ModelFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.onnx import CPU, CUDA, OnnxPlatform, providers

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

S = "serving_default"


def load(path, **options):
    return OnnxPlatform().load(path, LoadOptions(**options))


def direct(path, feed):
    """The same file in a plain session with onnxruntime's own settings: the reference."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=[CPU])
    return dict(zip([node.name for node in session.get_outputs()], session.run(None, feed), strict=True))


def test_mlp_signature_and_answers(tmp_path):
    path = modelzoo.onnx_mlp(tmp_path)
    servable = load(tmp_path)
    assert servable.runtime.startswith("onnxruntime ")
    assert servable.runtime.endswith(CPU)
    signature = servable.signatures[S]
    assert signature.batchable
    assert [(s.name, s.dtype_name, s.shape) for s in signature.inputs] == [("x", "float32", (None, 4))]
    assert [(s.name, s.dtype_name, s.shape) for s in signature.outputs] == [
        ("probabilities", "float32", (None, 3)),
        ("label", "int64", (None,)),
    ]
    for rows in (1, 2, 33):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype("float32")
        have, want = servable.run(S, {"x": x}), direct(path, {"x": x})
        np.testing.assert_array_equal(have["label"], want["label"])
        np.testing.assert_allclose(have["probabilities"], want["probabilities"], rtol=1e-6)
    servable.close()


def test_several_inputs_and_dtypes(tmp_path):
    modelzoo.onnx_several_inputs(tmp_path)
    servable = load(tmp_path / "model.onnx")
    signature = servable.signatures[S]
    assert [(s.name, s.dtype_name) for s in signature.inputs] == [
        ("ids", "int64"),
        ("scale", "float16"),
        ("flip", "bool"),
    ]
    inputs = signature.bind(
        {
            "flip": np.array([[False, True], [True, False]]),
            "ids": np.array([2, 0]),
            "scale": np.array([[0.5, 2], [1, 3]], "float16"),
        }
    )
    outputs = servable.run(S, inputs)
    np.testing.assert_array_equal(outputs["rows"], np.array([[2.5, -12], [-1, 6]], "float16"))
    assert outputs["rows"].dtype == np.float16
    np.testing.assert_array_equal(outputs["echo"], [2, 0])
    assert not np.may_share_memory(outputs["echo"], inputs["ids"])


def test_a_value_that_the_model_refuses_is_the_clients_fault(tmp_path, capfd):
    modelzoo.onnx_several_inputs(tmp_path)
    servable = load(tmp_path)
    inputs = {"ids": np.array([7]), "scale": np.ones((1, 2), "float16"), "flip": np.zeros((1, 2), bool)}
    with pytest.raises(InvalidRequest, match=r"^Gather: indices element out of data bounds, idx=7"):
        servable.run(S, inputs)
    assert capfd.readouterr().err == ""  # onnxruntime would print each such error


def test_a_model_that_fails_is_not(tmp_path):
    modelzoo.onnx_several_inputs(tmp_path)
    servable = load(tmp_path)
    inputs = {"ids": np.array([1, 1, 1]), "scale": np.ones((2, 2), "float16"), "flip": np.zeros((5, 2), bool)}
    with pytest.raises(ModelFailed):
        servable.run(S, inputs)


def test_strings(tmp_path):
    modelzoo.onnx_strings(tmp_path)
    servable = load(tmp_path)
    signature = servable.signatures[S]
    assert [s.dtype_name for s in (*signature.inputs, *signature.outputs)] == ["string", "string", "int64"]
    words = np.array([b"yes", "é\0x".encode(), b"", b"oui"], object)
    outputs = servable.run(S, {"text": words})
    assert outputs["same"].dtype == object
    assert outputs["same"].tolist() == words.tolist()
    np.testing.assert_array_equal(outputs["id"], [1, -1, -1, 2])
    assert servable.run(S, {"text": np.empty(0, object)})["same"].tolist() == []


def test_strings_that_are_not_text(tmp_path):
    modelzoo.onnx_strings(tmp_path)
    with pytest.raises(InvalidInput, match='input "text": not UTF-8'):
        load(tmp_path).run(S, {"text": np.array([b"\xff\xfe"], object)})


@pytest.mark.parametrize("text_labels", [False, True])
def test_zip_maps_become_an_array(tmp_path, text_labels):
    pytest.importorskip("skl2onnx")
    path = modelzoo.onnx_zip_map(tmp_path, text_labels)
    servable = load(tmp_path)
    x = modelzoo.iris()[0][::10].astype("float32")
    want = direct(path, {"x": x})
    have = servable.run(S, {"x": x})
    assert servable.signatures[S].batchable
    assert have["output_probability"].dtype == np.float32
    for i, row in enumerate(want["output_probability"]):
        assert list(row) == sorted(row)
        assert have["output_probability"][i].tolist() == [np.float32(row[label]) for label in sorted(row)]
    labels = [v.encode() for v in want["output_label"]] if text_labels else want["output_label"].tolist()
    assert have["output_label"].tolist() == labels
    assert servable.run(S, {"x": x[:0]})["output_probability"].shape[0] == 0


def test_a_fixed_batch_of_one_is_freed(tmp_path):
    path = modelzoo.onnx_fixed_batch(tmp_path)
    servable = load(tmp_path)
    signature = servable.signatures[S]
    assert signature.batchable
    assert signature.inputs[0].shape == (None, 2, 3)
    images = np.random.default_rng(1).normal(size=(9, 2, 3)).astype("float32")
    have = servable.run(S, {"image": images})["probabilities"]
    want = np.concatenate([direct(path, {"image": image[None]})["probabilities"] for image in images])
    np.testing.assert_allclose(have, want, rtol=1e-5)


def test_a_fixed_batch_with_weights_in_another_file_is_freed(tmp_path):
    import onnx

    path = modelzoo.onnx_fixed_batch(tmp_path / "inline")
    model = onnx.load(str(path))
    (tmp_path / "apart").mkdir()
    apart = tmp_path / "apart" / "model.onnx"
    onnx.save(model, str(apart), save_as_external_data=True, location="weights.bin", size_threshold=64)
    servable = load(apart.parent)
    assert servable.signatures[S].batchable
    image = np.random.default_rng(1).normal(size=(2, 2, 3)).astype("float32")
    want = np.concatenate([direct(path, {"image": row[None]})["probabilities"] for row in image])
    np.testing.assert_allclose(servable.run(S, {"image": image})["probabilities"], want, rtol=1e-5)


def test_a_fixed_batch_whose_rows_mix_stays_fixed(tmp_path, caplog):
    path = modelzoo.onnx_rows_mixed(tmp_path)
    servable = load(tmp_path)
    signature = servable.signatures[S]
    assert not signature.batchable
    assert signature.inputs[0].shape == (1, 4)
    assert "keeps its fixed batch of 1" in caplog.text
    x = np.array([[1, 2, 3, 6]], "float32")
    np.testing.assert_array_equal(servable.run(S, {"x": x})["y"], direct(path, {"x": x})["y"])


def test_a_fixed_batch_without_the_onnx_package_stays_fixed(tmp_path, python):
    modelzoo.onnx_fixed_batch(tmp_path)
    code = """
import sys
sys.modules["onnx"] = None
from pathlib import Path
import numpy as np
from stfs.platforms.base import LoadOptions
from stfs.platforms.onnx import OnnxPlatform
servable = OnnxPlatform().load(Path(sys.argv[1]), LoadOptions())
signature = servable.signatures["serving_default"]
answer = servable.run("serving_default", {"image": np.zeros((1, 2, 3), "float32")})
print(signature.batchable, signature.inputs[0].shape, answer["probabilities"].shape)
"""
    assert python(code, tmp_path) == "False (1, 2, 3) (1, 3)"


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_a_corrupt_file(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert str(tmp_path / "model.onnx") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_opset_that_is_refused(tmp_path):
    import onnx

    path = modelzoo.onnx_mlp(tmp_path)
    model = onnx.load(str(path))
    model.opset_import[0].version = 999
    onnx.save(model, str(path))
    with pytest.raises(LoadFailed, match=r"model\.onnx: .*Opset 999") as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)
    assert "onnxruntime_src" not in str(caught.value)


def test_a_type_that_cannot_be_served(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["s"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "m.onnx")
    )
    with pytest.raises(LoadFailed, match=r'"s" is of type seq\(tensor\(float\)\), which cannot be served'):
        load(tmp_path)


def test_providers_are_asked_for_only_where_listed():
    assert providers("auto", [CPU]) == [CPU]
    assert providers("cuda", [CPU]) == [CPU]
    assert providers("auto", [CUDA, CPU]) == [CUDA, CPU]
    assert providers("cuda", [CUDA, CPU]) == [CUDA, CPU]
    assert providers("cpu", [CUDA, CPU]) == [CPU]


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_cuda_that_does_not_start_fails_the_load(tmp_path, monkeypatch):
    import onnxruntime

    modelzoo.onnx_mlp(tmp_path)
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime is built for CUDA")
    # What onnxruntime-gpu lists on a machine without a driver.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    with pytest.raises(LoadFailed, match=r"stfs\[onnx-gpu\]"):
        load(tmp_path, device="cuda")
    assert load(tmp_path, device="auto").runtime.endswith(CPU)


def test_many_threads(tmp_path):
    path = modelzoo.onnx_mlp(tmp_path)
    servable = load(tmp_path, threads=1)
    xs = np.random.default_rng(5).normal(size=(8, 3, 4)).astype("float32")
    wants = [direct(path, {"x": x})["probabilities"] for x in xs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(200):
            if not np.allclose(servable.run(S, {"x": xs[i]})["probabilities"], wants[i], rtol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_scalar_answer(tmp_path):
    from onnx import TensorProto, helper, save

    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, [])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "m.onnx"))
    total = load(tmp_path).run(S, {"x": np.array([1, 2, 3], "float32")})["total"]
    assert isinstance(total, np.ndarray)
    assert total.shape == ()
    assert total == 6
