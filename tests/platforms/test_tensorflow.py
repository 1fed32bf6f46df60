"""SavedModels against TensorFlow called directly, by both routes into a session."""

from __future__ import annotations

import base64
import gc
import io
import os
import shutil
import subprocess
import threading
from pathlib import Path

import modelzoo
import numpy as np
import pytest

from stfs.errors import ConfigError, InvalidRequest, LoadFailed, ModelFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.tensorflow import TensorFlowPlatform, op_libraries, session_config, told

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.slow

S = "serving_default"


@pytest.fixture(params=["callable", "session.run"])
def route(request, monkeypatch):
    """Runs a test by the fast route, and again with the private API it needs taken away."""
    if request.param == "session.run":

        def gone(self, *args):
            raise AttributeError("taken away by a test")

        monkeypatch.setattr(tf.compat.v1.Session, "_make_callable_from_options", gone)
    return request.param


@pytest.fixture(scope="module")
def tf1(tmp_path_factory):
    return modelzoo.tf1_export(tmp_path_factory.mktemp("tf1") / "1")


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    return modelzoo.keras_export(tmp_path_factory.mktemp("keras") / "1")


def load(path, **options):
    return TensorFlowPlatform().load(Path(path), LoadOptions(**options))


def direct(path, signature, inputs):
    """The TF2 loader, the other way into a SavedModel: the reference."""
    function = tf.saved_model.load(str(path)).signatures[signature]
    return {k: v.numpy() for k, v in function(**{k: tf.constant(v) for k, v in inputs.items()}).items()}


def shared(*parts):
    path = modelzoo.SHARED_MODELS.joinpath(*parts)
    if not path.is_dir():
        pytest.skip(f"shared/models/{'/'.join(parts)} is not beside this checkout")
    return path


def test_signatures(tf1):
    servable = load(tf1)
    try:
        assert list(servable.signatures) == ["parse", "serving_default", "sparse", "text"]
        assert servable.default_signature == S
        signature = servable.signatures[S]
        assert [(s.name, s.dtype_name, s.shape) for s in signature.inputs] == [
            ("keys", "int32", (None, 1)),
            ("x", "float32", (None, 2)),
        ]
        assert [(s.name, s.dtype_name, s.shape) for s in signature.outputs] == [
            ("keys", "int32", (None, 1)),
            ("same", "float32", (None, 2)),
            ("weights", "float32", (2,)),
            ("y", "float32", (None, 2)),
        ]
        assert not signature.batchable  # weights has no rows
        assert servable.signatures["text"].batchable
        assert not servable.signatures["sparse"].batchable
        assert servable.runtime == f"tensorflow {tf.__version__}, CPU"
        graph_names = [s.graph_name for s in (*signature.inputs, *signature.outputs)]
        assert graph_names == ["keys:0", "x:0", "keys:0", "Identity:0", "Identity_1:0", "add:0"]
        assert all(":" in s.graph_name for s in servable.signatures["sparse"].outputs)
        assert {s.method_name for s in servable.signatures.values()} == {""}  # as its exporter left it
    finally:
        servable.close()


def test_answers(tf1, route):
    servable = load(tf1)
    try:
        x = np.random.default_rng(0).normal(size=(5, 2)).astype("float32")
        keys = np.arange(5, dtype="int32").reshape(5, 1)
        outputs = servable.run(S, servable.signatures[S].bind({"x": x, "keys": keys}))
        np.testing.assert_array_equal(outputs["keys"], keys)
        np.testing.assert_array_equal(outputs["same"], x)
        np.testing.assert_array_equal(outputs["weights"], np.array([2, 3], "float32"))
        np.testing.assert_allclose(outputs["y"], x * [2, 3] + 1, rtol=1e-6)
        for spec in servable.signatures[S].outputs:
            assert outputs[spec.name].dtype == spec.dtype
    finally:
        servable.close()


def aligned(rows, columns):
    """float32 at an address that TensorFlow takes without a copy, as numpy often gives it for larger arrays."""
    raw = np.zeros(rows * columns + 16, "float32")
    start = -(raw.ctypes.data // 4) % 16
    return raw[start : start + rows * columns].reshape(rows, columns)


def test_outputs_are_nobody_elses_memory(tf1, route):
    servable = load(tf1)
    try:
        x, keys = aligned(4, 2), np.zeros((4, 1), "int32")
        x[:] = 1
        first = servable.run(S, {"keys": keys, "x": x})
        x[:] = 7
        keys[:] = 7
        assert first["same"].tolist() == [[1, 1]] * 4
        assert first["keys"].tolist() == [[0]] * 4
        first["weights"][:] = 0
        assert servable.run(S, {"keys": keys, "x": x})["weights"].tolist() == [2, 3]
        large, keys = aligned(100_000, 2), np.zeros((100_000, 1), "int32")
        first = servable.run(S, {"keys": keys, "x": large})
        large[:] = keys[:] = 7
        assert not first["same"].any()
        assert not first["keys"].any()
    finally:
        servable.close()


def test_a_constant_of_the_model_cannot_be_written_to(tmp_path, route):
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        outputs = {"small": tf.constant(np.ones(10, "float32")), "large": tf.constant(np.ones(100_000, "float32"))}
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, outputs)
    servable = load(tmp_path / "1")
    try:
        first = servable.run(S, {"x": np.zeros(1, "float32")})
        first["small"][:] = 5
        with pytest.raises(ValueError, match="read-only"):
            first["large"][:] = 5
        again = servable.run(S, {"x": np.zeros(1, "float32")})
        assert again["small"].tolist() == [1] * 10
        assert again["large"].tolist() == [1] * 100_000
    finally:
        servable.close()


def test_bfloat16_is_shown_as_float32(tmp_path, route):
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.bfloat16, [None], name="x")
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"same": x, "twice": x + x})
    servable = load(tmp_path / "1")
    try:
        signature = servable.signatures[S]
        assert [s.dtype_name for s in (*signature.inputs, *signature.outputs)] == ["float32"] * 3
        outputs = servable.run(S, {"x": np.array([1.5, 1.001], "float32")})
        assert outputs["twice"].tolist() == [3.0, 2.0]  # 1.001 is 1 in bfloat16
        assert outputs["same"].tolist() == [1.5, 1.0]
        assert outputs["same"].dtype == np.float32
    finally:
        servable.close()


def test_signatures_that_cannot_be_served_are_left_out(tmp_path, caplog):
    module = tf.Module()
    module.plain = tf.function(lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    module.complex = tf.function(
        lambda x: {"y": tf.complex(x, x)}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
    )
    signatures = {"plain": module.plain.get_concrete_function(), "odd": module.complex.get_concrete_function()}
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=signatures)
    servable = load(tmp_path / "1")
    try:
        assert list(servable.signatures) == ["plain"]
        assert servable.run("plain", {"x": np.array([1], "float32")})["y"].tolist() == [2]
        assert 'signature "odd" cannot be served: "y" is of type complex64' in caplog.text
    finally:
        servable.close()
    tf.saved_model.save(module, str(tmp_path / "2"), signatures={"odd": signatures["odd"]})
    with pytest.raises(LoadFailed, match="complex64"):
        load(tmp_path / "2")


def test_strings_and_tables(tf1, route):
    servable = load(tf1)
    try:
        words = np.array([b"yes", b"no", b"\xff\x00", b""], object)
        outputs = servable.run("text", {"words": words})
        assert outputs["upper"].dtype == object
        assert outputs["upper"].tolist() == [b"YES", b"NO", b"\xff\x00", b""]
        np.testing.assert_array_equal(outputs["ids"], [1, 0, -1, -1])
    finally:
        servable.close()


def test_sparse_outputs(tf1, route):
    servable = load(tf1)
    try:
        outputs = servable.run("sparse", {"x": np.array([[0, 5], [6, 0], [0, 0]], "float32")})
        assert outputs["nonzero_values"].tolist() == [5, 6]
        assert outputs["nonzero_indices"].tolist() == [[0, 1], [1, 0]]
        assert outputs["nonzero_shape"].tolist() == [3, 2]
        for spec in servable.signatures["sparse"].outputs:
            assert spec.bind(outputs[spec.name]).dtype == outputs[spec.name].dtype
    finally:
        servable.close()


def test_a_value_that_the_model_refuses_is_the_clients_fault(tf1, route):
    servable = load(tf1)
    try:
        with pytest.raises(InvalidRequest) as caught:
            servable.run("parse", {"numbers": np.array([b"1.5", b"pear"], object)})
        assert str(caught.value) == "StringToNumberOp could not correctly convert string: pear"
        assert servable.run("parse", {"numbers": np.array([b"1.5"], object)})["y"].tolist() == [1.5]
    finally:
        servable.close()


def test_a_model_that_fails_is_not(tmp_path, route):
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        n = v1.placeholder(tf.int64, [], name="n")
        huge = tf.zeros([n, n], tf.float64)
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"n": n}, {"total": tf.reduce_sum(huge)})
    servable = load(tmp_path / "1")
    try:
        assert servable.run(S, {"n": np.array(3)})["total"] == 0
        assert servable.run(S, {"n": np.array(3)})["total"].shape == ()
        with pytest.raises(ModelFailed, match="OOM when allocating"):
            servable.run(S, {"n": np.array(10**7)})
    finally:
        servable.close()


def test_keras_export(keras, route):
    servable = load(keras / "saved_model.pb")
    try:
        signature = servable.signatures[S]
        assert signature.batchable
        (name,) = (s.name for s in signature.inputs)
        for rows in (1, 4, 33):
            x = np.random.default_rng(rows).normal(size=(rows, 9)).astype("float32")
            have = servable.run(S, signature.bind({name: x}))
            want = direct(keras, S, {name: x})
            assert list(have) == list(want)
            np.testing.assert_allclose(have["output_0"], want["output_0"], rtol=1e-5)
    finally:
        servable.close()


def test_many_threads(keras):
    servable = load(keras)
    (name,) = (s.name for s in servable.signatures[S].inputs)
    xs = np.random.default_rng(1).normal(size=(8, 3, 9)).astype("float32")
    wants = direct(keras, S, {name: xs.reshape(24, 9)})["output_0"].reshape(8, 3, 2)
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(100):
            if not np.allclose(servable.run(S, {name: xs[i]})["output_0"], wants[i], rtol=1e-4):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    servable.close()
    assert wrong == []


@pytest.mark.parametrize("version", ["1", "2"])
def test_template_application_model(version, route):
    path = shared("tensorflow_template_application_model", version)
    servable = load(path)
    try:
        inputs = {"keys": np.array([[1], [2]], "int32"), "features": np.ones((2, 9), "float32")}
        have = servable.run(S, servable.signatures[S].bind(inputs))
        want = direct(path, S, inputs)
        assert servable.signatures[S].batchable
        assert have.keys() == want.keys() == {"keys", "prediction", "softmax"}
        np.testing.assert_array_equal(have["keys"], [[1], [2]])
        np.testing.assert_array_equal(have["prediction"], want["prediction"])
        np.testing.assert_allclose(have["softmax"], want["softmax"], rtol=1e-5)
    finally:
        servable.close()


def test_deep_image_model(route):
    image = pytest.importorskip("PIL.Image")
    path = shared("deep_image_model", "1")
    servable = load(path)
    try:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
        texts = []
        for each in pixels:
            file = io.BytesIO()
            image.fromarray(each).save(file, "JPEG")
            texts.append(base64.urlsafe_b64encode(file.getvalue()))
        inputs = {"images": np.array(texts, object)}
        have = servable.run(S, servable.signatures[S].bind(inputs))
        want = direct(path, S, inputs)
        np.testing.assert_array_equal(have["prediction"], want["prediction"])
        np.testing.assert_allclose(have["softmax"], want["softmax"], rtol=1e-5)
        with pytest.raises(InvalidRequest) as caught:
            servable.run(S, {"images": np.array([base64.urlsafe_b64encode(b"no image")], object)})
        assert "\n" not in str(caught.value)
        assert "{{" not in str(caught.value)
    finally:
        servable.close()


def test_the_only_tags_there_are(tmp_path):
    modelzoo.tf1_export(tmp_path / "1", tags=(("serve", "gpu"),))
    servable = load(tmp_path / "1")
    assert servable.run("parse", {"numbers": np.array([b"2"], object)})["y"].tolist() == [2]
    servable.close()


def test_serve_among_several_tags(tmp_path):
    modelzoo.tf1_export(tmp_path / "1", tags=(("train",), ("serve",)))
    servable = load(tmp_path / "1")
    assert servable.run("parse", {"numbers": np.array([b"2"], object)})["y"].tolist() == [2]
    servable.close()


def test_several_tags_and_no_serve(tmp_path):
    modelzoo.tf1_export(tmp_path / "1", tags=(("train",), ("gpu", "serve")))
    with pytest.raises(LoadFailed, match='no graph is tagged "serve" alone; the tags are train; gpu, serve'):
        load(tmp_path / "1")


def test_tags_that_were_asked_for(tmp_path):
    modelzoo.tf1_export(tmp_path / "1", tags=(("serve",), ("gpu", "serve")))
    servable = load(tmp_path / "1", saved_model_tags=("serve", "gpu"))
    assert servable.run("parse", {"numbers": np.array([b"2"], object)})["y"].tolist() == [2]
    servable.close()
    with pytest.raises(LoadFailed, match='no graph is tagged "train" alone; the tags are serve; gpu, serve'):
        load(tmp_path / "1", saved_model_tags=("train",))


def test_devices_of_a_cluster_that_is_gone(tmp_path):
    modelzoo.tf1_export(tmp_path / "1", device="/job:ps/task:3")
    servable = load(tmp_path / "1")
    x = np.ones((1, 2), "float32")
    assert servable.run(S, {"keys": np.zeros((1, 1), "int32"), "x": x})["y"].tolist() == [[3, 4]]
    servable.close()


def test_text_form_of_a_saved_model(tf1, tmp_path):
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    folder = tmp_path / "1"
    shutil.copytree(tf1, folder)
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (folder / "saved_model.pbtxt").write_text(text_format.MessageToString(saved))
    (folder / "saved_model.pb").unlink()
    servable = load(folder)
    assert servable.run("parse", {"numbers": np.array([b"2"], object)})["y"].tolist() == [2]
    servable.close()


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_corrupt_file(tmp_path, content):
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_variables_that_are_missing(tf1, tmp_path):
    shutil.copy(tf1 / "saved_model.pb", tmp_path)
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)


def test_session_config(tf1):
    good = {"allow_soft_placement": "true", "log_device_placement": False, "allow_growth": 1}
    load(tf1, session_config=good | {"per_process_gpu_memory_fraction": "0.5"}, threads=1).close()
    with pytest.raises(ConfigError, match='unknown key "allow_hard_placement"; there are log_device_placement'):
        load(tf1, session_config={"allow_hard_placement": True})
    with pytest.raises(ConfigError, match="allow_growth cannot be 'perhaps'"):
        load(tf1, session_config={"allow_growth": "perhaps"})


def test_cuda_that_is_not_there(tf1):
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(LoadFailed, match=r"TensorFlow sees no GPU: run pip install \"stfs\[tensorflow-gpu\]\""):
        load(tf1, device="cuda")


def test_custom_op_paths_that_are_wrong(tf1, tmp_path):
    with pytest.raises(ConfigError, match=r"ops\.so does not exist"):
        load(tf1, custom_op_paths=(tmp_path / "ops.so",))
    with pytest.raises(ConfigError, match=r"holds no \.so file"):
        load(tf1, custom_op_paths=(tmp_path,))
    (tmp_path / "ops.txt").write_text("")
    with pytest.raises(ConfigError, match=r"ops\.txt is not a \.so file"):
        load(tf1, custom_op_paths=(tmp_path / "ops.txt",))
    (tmp_path / "ops.so").write_text("")
    assert op_libraries([tmp_path]) == [tmp_path / "ops.so"]
    with pytest.raises(LoadFailed, match=r"ops\.so: the custom op does not load"):
        load(tf1, custom_op_paths=(tmp_path,))


OP = r"""
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"

REGISTER_OP("StfsTestDouble").Input("x: int32").Output("y: int32").SetShapeFn(
    [](tensorflow::shape_inference::InferenceContext* c) { c->set_output(0, c->input(0)); return absl::OkStatus(); });

class StfsTestDouble : public tensorflow::OpKernel {
 public:
  explicit StfsTestDouble(tensorflow::OpKernelConstruction* c) : OpKernel(c) {}
  void Compute(tensorflow::OpKernelContext* c) override {
    const tensorflow::Tensor& x = c->input(0);
    tensorflow::Tensor* y = nullptr;
    OP_REQUIRES_OK(c, c->allocate_output(0, x.shape(), &y));
    for (int i = 0; i < x.NumElements(); ++i) y->flat<tensorflow::int32>()(i) = 2 * x.flat<tensorflow::int32>()(i);
  }
};
REGISTER_KERNEL_BUILDER(Name("StfsTestDouble").Device(tensorflow::DEVICE_CPU), StfsTestDouble);
"""

EXPORT_OP = """
import sys
import tensorflow as tf
op = tf.load_op_library(sys.argv[1])
v1 = tf.compat.v1
with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
    x = v1.placeholder(tf.int32, [None], name="x")
    v1.saved_model.simple_save(session, sys.argv[2], {"x": x}, {"y": op.stfs_test_double(x=x)})
"""


def test_a_custom_op(tmp_path, python):
    """Exported in another process, so that the op is known here only if the platform loads it."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    library = tmp_path / "ops" / "double.so"
    library.parent.mkdir()
    (tmp_path / "double.cc").write_text(OP)
    flags = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags(), "-shared", "-fPIC", "-O0"]
    subprocess.run([compiler, str(tmp_path / "double.cc"), "-o", str(library), *flags], check=True, timeout=280)
    python(EXPORT_OP, library, tmp_path / "1")
    with pytest.raises(LoadFailed, match="StfsTestDouble"):
        load(tmp_path / "1")
    for paths in ((library,), (library.parent,)):  # a second time, too
        servable = load(tmp_path / "1", custom_op_paths=paths)
        assert servable.run(S, {"x": np.array([3, -4], "int32")})["y"].tolist() == [6, -8]
        servable.close()


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_does_not_grow_over_reloads(tmp_path):
    """A model of 16 MB, loaded and closed 20 times after a warm-up: what leaks shows as 320 MB."""
    v1 = tf.compat.v1
    graph = tf.Graph()
    with graph.as_default(), v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None, 2048], name="x")
        weights = v1.get_variable("weights", [2048, 2048], initializer=v1.ones_initializer())
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": tf.matmul(x, weights)})
    ones = np.ones((1, 2048), "float32")

    def cycle() -> None:
        servable = load(tmp_path / "1")
        assert servable.run(S, {"x": ones})["y"][0, 0] == 2048
        servable.close()

    for _ in range(5):
        cycle()
    gc.collect()
    before = resident_bytes()
    for _ in range(20):
        cycle()
    gc.collect()
    assert resident_bytes() - before < 64 << 20


def test_messages_are_one_clean_line():
    assert told("{{function_node __wrapped}} shapes differ [Op:MatMul]\n\t [[{{node a}}]]") == "shapes differ"
    assert (
        told("2 root error(s) found.\n  (0) INVALID_ARGUMENT: bad image\n\t [[{{node b}}]]\n  (1) INVALID_ARGUMENT: x")
        == "bad image"
    )
    assert (
        told(
            "Graph execution error:\n\nDetected at node 'c' defined at (most recent call last):\nNode: 'c'\nbad\n\t [["
        )
        == "bad"
    )
    assert told("") == ""


def test_a_limit_of_memory_is_told_of_every_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU:0", "GPU:1"])
    devices = session_config(tf, LoadOptions(memory_limit_bytes=300 << 20)).gpu_options.experimental.virtual_devices
    assert [list(device.memory_limit_mb) for device in devices] == [[300.0], [300.0]]
    on_cpu = session_config(tf, LoadOptions(device="cpu", memory_limit_bytes=300 << 20))
    assert not on_cpu.gpu_options.experimental.virtual_devices
    assert not session_config(tf, LoadOptions()).gpu_options.experimental.virtual_devices
