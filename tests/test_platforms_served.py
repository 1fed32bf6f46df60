"""Real models of each platform over HTTP: right answers, the same batched as alone.

Tolerance: 1e-5 relative and absolute; a matrix product may round its last float32 digit differently in a larger batch.
"""

import base64
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from running import SHARED_MODELS, running

pytestmark = pytest.mark.slow  # starts real servers, many of them

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
ROOT = Path(__file__).parent.parent

needs_shared_models = pytest.mark.skipif(
    not SHARED_MODELS.is_dir(), reason=f"the folder of real models is not beside the checkout: {SHARED_MODELS}"
)


def predict(server, name, data, version=None, signature=None):
    body = {"model_name": name, "data": data}
    body |= {"model_version": version} if version else {}
    body |= {"signature_name": signature} if signature else {}
    answer = server.post("/", body)
    assert answer.status == 200, answer.body
    return {key: np.array(value) for key, value in answer.json.items()}


def assert_batched_equals_alone(server, name, rows: dict[str, np.ndarray], clients=32):
    """Each row alone; then each row again from many clients at once, so that they share batches; then all in one."""
    count = len(next(iter(rows.values())))
    bodies = [{key: array[i : i + 1].tolist() for key, array in rows.items()} for i in range(count)]
    alone = [predict(server, name, body) for body in bodies]
    runs_before = server.metric("stfs_batch_rows_count", model=name)
    with ThreadPoolExecutor(clients) as pool:
        together = list(pool.map(lambda body: predict(server, name, body), bodies))
    runs = server.metric("stfs_batch_rows_count", model=name) - runs_before
    whole = predict(server, name, {key: array.tolist() for key, array in rows.items()})
    for i, (one, shared) in enumerate(zip(alone, together, strict=True)):
        for key, value in one.items():
            if value.dtype.kind == "f":
                np.testing.assert_allclose(shared[key], value, **TOLERANCE)
                np.testing.assert_allclose(whole[key][i : i + 1], value, **TOLERANCE)
            else:
                np.testing.assert_array_equal(shared[key], value)
                np.testing.assert_array_equal(whole[key][i : i + 1], value)
    assert runs < count, "no two of the concurrent requests shared a batch"
    return whole


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    subprocess.run([sys.executable, ROOT / "examples" / "make_demo_models.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def demo_server(demo):
    with running(f"--model_config_file={demo / 'models.json'}") as server:
        yield server


def test_the_demos_models_answer_as_their_frameworks_do(demo, demo_server):
    import joblib
    import onnxruntime
    from sklearn.datasets import load_digits

    pixels = load_digits().data[:96]
    forest = joblib.load(demo / "digits_forest" / "1" / "model.joblib")
    network = onnxruntime.InferenceSession(demo / "digits" / "1" / "model.onnx", providers=["CPUExecutionProvider"])

    got = assert_batched_equals_alone(demo_server, "digits_forest", {"data": pixels})
    np.testing.assert_array_equal(got["predict"], forest.predict(pixels))
    np.testing.assert_allclose(got["predict_proba"], forest.predict_proba(pixels), **TOLERANCE)

    probabilities, digit = network.run(["probabilities", "digit"], {"pixels": pixels.astype(np.float32)})
    got = assert_batched_equals_alone(demo_server, "digits", {"pixels": pixels})
    np.testing.assert_array_equal(got["digit"], digit)
    np.testing.assert_allclose(got["probabilities"], probabilities, **TOLERANCE)


def test_the_demos_example_is_recognised(demo, demo_server):
    body = (demo / "example.json").read_text()
    answer = demo_server.post("/v1/models/digits:predict", body)
    assert answer.status == 200
    assert answer.json["predictions"][0]["digit"] == 2


def test_scikit_learn_columns_may_come_without_a_name(demo_server):
    pixels = [[0.0] * 64]
    bare = demo_server.post("/", {"model_name": "digits_forest", "data": pixels})
    named = demo_server.post("/", {"model_name": "digits_forest", "data": {"data": pixels}})
    assert bare.status == 200
    assert bare.json == named.json


@pytest.fixture(scope="module")
def tensorflow_server(tmp_path_factory):
    """The real TensorFlow models and a Keras export made here, on one server."""
    import modelzoo

    folder = tmp_path_factory.mktemp("tensorflow")
    modelzoo.keras_export(folder / "keras" / "1")
    entries = [{"name": "keras", "base_path": str(folder / "keras")}]
    if SHARED_MODELS.is_dir():
        entries += [
            {
                "name": "template",
                "base_path": str(SHARED_MODELS / "tensorflow_template_application_model"),
                "platform": "tensorflow",
                "version_policy": "all",
            },
            {"name": "image", "base_path": str(SHARED_MODELS / "deep_image_model"), "platform": "tensorflow"},
        ]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}") as server:
        yield server, folder


def reference(path: Path, feeds: dict, signature="serving_default") -> dict:
    """TensorFlow called directly, in its own process and by its own v2 loader."""
    code = (
        "import sys, pickle, tensorflow as tf\n"
        "path, name, feeds = pickle.load(sys.stdin.buffer)\n"
        "f = tf.saved_model.load(path).signatures[name]\n"
        "out = f(**{k: tf.constant(v) for k, v in feeds.items()})\n"
        "pickle.dump({k: v.numpy() for k, v in out.items()}, sys.stdout.buffer)\n"
    )
    import pickle

    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((str(path), signature, feeds)),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return pickle.loads(done.stdout)


@pytest.mark.slow
def test_a_keras_export_answers_as_keras_does(tensorflow_server):
    server, folder = tensorflow_server
    (shown,) = [m for m in server.get("/v1/models").json if m["model_name"] == "keras"]
    (spec,) = shown["model_signature"]["inputs"]
    rng = np.random.default_rng(0)
    x = rng.random((48, *spec["shape"][1:]), dtype=np.float32)
    got = assert_batched_equals_alone(server, "keras", {spec["name"]: x})
    expected = reference(folder / "keras" / "1", {spec["name"]: x})
    assert set(got) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, **TOLERANCE)


@pytest.mark.slow
@needs_shared_models
@pytest.mark.parametrize("version", [1, 2])
def test_the_template_model_answers_as_tensorflow_does_in_both_versions(tensorflow_server, version):
    server, _ = tensorflow_server
    rng = np.random.default_rng(version)
    feeds = {
        "keys": np.arange(40, dtype=np.int32).reshape(40, 1),
        "features": rng.integers(1, 10, (40, 9)).astype(np.float32),
    }
    path = SHARED_MODELS / "tensorflow_template_application_model" / str(version)
    expected = reference(path, feeds)
    got = predict(server, "template", {key: value.tolist() for key, value in feeds.items()}, version=version)
    assert set(got) == set(expected)
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, **TOLERANCE)
    if version == 2:
        assert_batched_equals_alone(server, "template", feeds)


@pytest.mark.slow
@needs_shared_models
def test_the_seeds_own_request_is_answered(tensorflow_server):
    """The curl line of the seed's documentation: ``keys`` as floats though the model takes int32."""
    server, _ = tensorflow_server
    body = {"model_name": "template", "data": {"keys": [[11.0], [2.0]], "features": [[1] * 9, [1] * 9]}}
    answer = server.post("/", body)
    assert answer.status == 200
    assert answer.json["keys"] == [[11], [2]]
    wrapped = server.post("/v1/models/template:predict", {"inputs": {"keys": [[11], [2]], "features": [[1] * 9] * 2}})
    np.testing.assert_allclose(wrapped.json["outputs"]["softmax"], answer.json["softmax"], **TOLERANCE)


@pytest.mark.slow
@needs_shared_models
def test_a_jpeg_as_base64_text_is_classified(tensorflow_server):
    from PIL import Image

    server, _ = tensorflow_server
    rng = np.random.default_rng(5)
    texts = []
    for _ in range(12):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
        texts.append(base64.urlsafe_b64encode(buffer.getvalue()))
    expected = reference(SHARED_MODELS / "deep_image_model" / "1", {"images": np.array(texts, object)})
    got = predict(server, "image", {"images": [text.decode() for text in texts]})
    for key, value in expected.items():
        np.testing.assert_allclose(got[key], value, **TOLERANCE)

    # One picture that is none, sent together with good ones: it alone is refused.
    def one(text):
        return server.post("/", {"model_name": "image", "data": {"images": [text]}})

    with ThreadPoolExecutor(13) as pool:
        answers = list(pool.map(one, [text.decode() for text in texts] + ["bm8gcGljdHVyZQ=="]))
    assert [answer.status for answer in answers] == [200] * 12 + [400], answers[-1].body
    assert 'model "image"' in answers[-1].error
    for i, answer in enumerate(answers[:12]):
        for key, value in expected.items():
            np.testing.assert_allclose(answer.json[key], value[i : i + 1], **TOLERANCE)
