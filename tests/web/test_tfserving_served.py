"""A TensorFlow model that classifies and regresses, served: its answers are TensorFlow's own."""

from __future__ import annotations

import base64
import json
import threading
import time

import numpy as np
import pytest
from running import Running, running

tf = pytest.importorskip("tensorflow")

pytestmark = pytest.mark.slow

LABELS = ["no", "maybe", "ja, ü"]
EXAMPLES = [
    {"x": [1.0, 2.0], "word": "yes"},
    {"x": [0.5, -3.25], "word": {"b64": base64.b64encode(b"\xff\x00").decode()}},
    {"x": [1e-3, 7.0], "count": 3},
]
COUNT = 5
"""What an example without a count counts as."""


def export(folder):
    """A graph over parsed examples: x float [2], word bytes (default ""), count int64 (default 5)."""
    v1 = tf.compat.v1
    with v1.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        serialized = v1.placeholder(tf.string, [None], name="tf_example")
        features = {
            "x": v1.FixedLenFeature([2], tf.float32),
            "word": v1.FixedLenFeature([], tf.string, default_value=""),
            "count": v1.FixedLenFeature([], tf.int64, default_value=COUNT),
        }
        parsed = v1.io.parse_example(serialized, features)
        length = tf.cast(tf.strings.length(parsed["word"]), tf.float32)
        total = tf.reduce_sum(parsed["x"], axis=1) + length + tf.cast(parsed["count"], tf.float32)
        scores = tf.nn.softmax(tf.stack([total, -total, parsed["x"][:, 0]], axis=1), name="scores")
        classes = tf.tile(tf.constant([LABELS]), [tf.shape(scores)[0], 1])
        info, build = v1.saved_model.build_tensor_info, v1.saved_model.build_signature_def
        inputs = {"inputs": info(serialized)}
        both = {"classes": info(classes), "scores": info(scores)}
        regress = {"outputs": info(tf.reshape(total, [-1, 1], name="total"))}
        signatures = {
            "serving_default": build(inputs, both, "tensorflow/serving/classify"),
            "scores_only": build(inputs, {"scores": info(scores)}, "tensorflow/serving/classify"),
            "regress": build(inputs, regress, "tensorflow/serving/regress"),
            "predict": build({"examples": info(serialized)}, {"total": info(total)}, "tensorflow/serving/predict"),
        }
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    export(folder / "3")
    return folder


@pytest.fixture(scope="module")
def server(folder) -> Running:
    labels = '--version_labels={"stable":3}'
    with running(f"--model_base_path={folder}", "--model_name=m", "--dialect=tfserving", labels) as server:
        yield server


def message(example):
    """The same example, built with TensorFlow's own messages."""
    built = tf.train.Example()
    for name, value in example.items():
        feature = built.features.feature[name]
        if name == "x":
            feature.float_list.value.extend(value)
        elif name == "count":
            feature.int64_list.value.append(value)
        else:
            feature.bytes_list.value.append(
                value.encode() if isinstance(value, str) else base64.b64decode(value["b64"])
            )
    return built.SerializeToString()


def direct(folder, examples, *signatures):
    """TensorFlow's own answers: the outputs of each signature for the same examples."""
    loaded = tf.saved_model.load(str(folder / "3"))
    raw = tf.constant([message(example) for example in examples])
    found = {}
    for name in signatures:
        function = loaded.signatures[name]
        (key,) = function.structured_input_signature[1]
        found |= {output: value.numpy() for output, value in function(**{key: raw}).items()}
    return found


def test_classify_gives_labels_and_scores(server, folder):
    expected = direct(folder, EXAMPLES, "serving_default")
    answer = server.post("/v1/models/m:classify", {"examples": EXAMPLES})
    assert answer.status == 200, answer.body
    assert answer.json.keys() == {"results"}
    for row, scores in zip(answer.json["results"], expected["scores"], strict=True):
        assert [label for label, _ in row] == LABELS
        assert [np.float32(score) for _, score in row] == scores.tolist()
    only = server.post("/v1/models/m:classify", {"examples": EXAMPLES, "signature_name": "scores_only"})
    assert [[["", score] for _, score in row] for row in answer.json["results"]] == only.json["results"]


def test_regress_gives_a_value_for_each(server, folder):
    expected = direct(folder, EXAMPLES, "regress")["outputs"]
    body = {"signature_name": "regress", "examples": EXAMPLES}
    answer = server.post("/v1/models/m/versions/3:regress", body)
    assert answer.status == 200, answer.body
    assert [np.float32(value) for value in answer.json["results"]] == expected[:, 0].tolist()
    assert server.post("/V1/Models/m/Labels/stable:REGRESS", body).body == answer.body


def test_a_context_stands_in_every_example(server, folder):
    body = {"signature_name": "regress", "context": {"x": [1.0, 2.0], "count": 9}, "examples": [{}, {"x": [0.0, 0.5]}]}
    merged = [{"x": [1.0, 2.0], "count": 9}, {"x": [0.0, 0.5], "count": 9}]
    expected = direct(folder, merged, "regress")["outputs"]
    assert server.post("/v1/models/m:regress", body).json["results"] == expected[:, 0].tolist()


def test_predict_takes_the_serialized_examples(server, folder):
    raw = [{"b64": base64.b64encode(message(example)).decode()} for example in EXAMPLES]
    expected = direct(folder, EXAMPLES, "predict")["total"]
    for body in ({"instances": raw}, {"instances": [{"examples": one} for one in raw]}):
        answer = server.post("/v1/models/m:predict", body | {"signature_name": "predict"})
        assert [np.float32(value) for value in answer.json["predictions"]] == expected.tolist()
    answer = server.post("/v1/models/m:predict", {"signature_name": "predict", "inputs": {"examples": raw}})
    assert [np.float32(value) for value in answer.json["outputs"]] == expected.tolist()
    # What can be classified can be predicted with too, under the names of its tensors.
    both = server.post("/v1/models/m:predict", {"instances": raw}).json["predictions"]
    assert [row["classes"] for row in both] == [LABELS] * 3


def test_callers_share_a_run_and_get_their_own(server):
    """Concurrent callers until two of them have shared a run: all answers are as alone."""
    examples = [{"x": [float(i), 0.5]} for i in range(16)]
    alone = [server.post("/v1/models/m:classify", {"examples": [example]}).json for example in examples]
    rows, runs = "stfs_batch_rows_sum", "stfs_batch_rows_count"
    limit_s = time.monotonic() + 60
    shared = False
    while not shared and time.monotonic() < limit_s:
        before = [server.metric(name, model="m") for name in (rows, runs)]
        together: dict[int, object] = {}

        def call(i, into=together):
            into[i] = server.post("/v1/models/m:classify", {"examples": [examples[i]]}).json

        threads = [threading.Thread(target=call, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [together[i] for i in range(16)] == alone
        after = [server.metric(name, model="m") for name in (rows, runs)]
        assert after[0] - before[0] == 16
        shared = after[1] - before[1] < 16
    assert shared, "no two requests ever shared a run"


@pytest.mark.parametrize(
    ("verb", "body", "status", "told"),
    [
        (
            "classify",
            {"signature_name": "predict", "examples": EXAMPLES},
            400,
            "No classification inputs found in",
        ),
        (
            "classify",
            {"signature_name": "regress", "examples": EXAMPLES},
            400,
            "Expected classification signature",
        ),
        ("regress", {"examples": EXAMPLES}, 400, "Expected one output Tensor."),
        ("regress", {"signature_name": "no", "examples": EXAMPLES}, 400, "No signature was found with the name: no"),
        ("regress", {"instances": []}, 400, "When method is regress, key 'examples' is expected and was not found"),
        ("classify", {"examples": [{"x": [1, 2]}]}, 400, "x"),  # whole numbers are int64 features
        ("classify", {"examples": [{"x": [1.5, None]}]}, 400, "Feature: x has element with unexpected JSON type: Null"),
        ("classify", "{", 400, "JSON Parse error: "),
    ],
)
def test_what_is_refused(server, verb, body, status, told):
    answer = server.post(f"/v1/models/m:{verb}", body)
    assert answer.status == status, answer.body
    assert told in answer.error
    assert server.post("/v1/models/m:classify", {"examples": EXAMPLES}).status == 200


def test_metadata_is_what_the_graph_says(server, folder):
    from tensorflow.core.framework import types_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((folder / "3" / "saved_model.pb").read_bytes())
    defined = saved.meta_graphs[0].signature_def
    for path in ("/v1/models/m/metadata", "/v1/models/m/versions/3/metadata", "/v1/models/m/labels/stable/metadata"):
        told = server.get(path).json
        assert told["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
        told = told["metadata"]["signature_def"]["signature_def"]
        assert told.keys() == defined.keys()
    for name, signature in defined.items():
        assert told[name]["method_name"] == signature.method_name
        assert told[name]["defaults"] == {}
        for side in ("inputs", "outputs"):
            tensors = getattr(signature, side)
            assert told[name][side].keys() == tensors.keys()
            for key, info in tensors.items():
                dims = [{"size": str(dim.size), "name": ""} for dim in info.tensor_shape.dim]
                assert told[name][side][key] == {
                    "dtype": types_pb2.DataType.Name(info.dtype),
                    "tensor_shape": {"dim": dims, "unknown_rank": info.tensor_shape.unknown_rank},
                    "name": info.name,
                }


def test_status_is_what_the_stubs_read(server):
    """The JSON parses as the public message, and back."""
    json_format = pytest.importorskip("google.protobuf.json_format")
    status_pb2 = pytest.importorskip("tensorflow_serving.apis.get_model_status_pb2")
    for path in ("/v1/models/m", "/v1/models/m/versions/3", "/v1/models/m/labels/stable"):
        answer = server.get(path)
        read = json_format.Parse(answer.body, status_pb2.GetModelStatusResponse())
        (version,) = read.model_version_status
        assert (version.version, version.state) == (3, status_pb2.ModelVersionStatus.AVAILABLE)
        assert (version.status.error_code, version.status.error_message) == (0, "")
        assert json.loads(answer.body) == {
            "model_version_status": [
                {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        }
