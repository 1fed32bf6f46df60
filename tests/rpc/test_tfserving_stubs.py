"""TensorFlow Serving's own Python stubs, unmodified, against a real server with an ONNX model and SavedModels."""

import importlib
import json
import os
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from rpc_calls import address
from running import running
from simple_models import write_linear

pytestmark = pytest.mark.slow  # imports TensorFlow, and so does the server

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_serving.apis")

Code = grpc.StatusCode


def pb(name):
    return importlib.import_module(f"tensorflow_serving.apis.{name}_pb2")


def write_examples(folder: Path) -> Path:
    """A SavedModel whose three signatures take ``tf.Example`` records with a float feature ``f`` and a label ``l``."""

    class Module(tf.Module):
        def parse(self, inputs):
            kinds = {"f": tf.io.FixedLenFeature([2], tf.float32), "l": tf.io.FixedLenFeature([], tf.string, b"none")}
            return tf.io.parse_example(inputs, kinds)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def classify(self, inputs):
            parsed = self.parse(inputs)
            classes = tf.stack([parsed["l"], tf.fill(tf.shape(parsed["l"]), b"other")], axis=1)
            return {"classes": classes, "scores": parsed["f"]}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
        def regress(self, inputs):
            return {"outputs": tf.reduce_sum(self.parse(inputs)["f"], axis=1)}

    module = Module()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.classify, "regress": module.regress})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stubs")
    write_linear(folder / "linear" / "1")
    write_linear(folder / "linear" / "2", scale=3.0)
    write_examples(folder / "examples" / "1")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    models = [{"name": name, "base_path": str(folder / name)} for name in ("linear", "examples")]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": models}))
    with running(f"--model_config_file={config}", "--grpc_port=0") as server:
        yield server


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(address(server)) as channel:
        yield importlib.import_module("tensorflow_serving.apis.prediction_service_pb2_grpc").PredictionServiceStub(
            channel
        )


@pytest.fixture(scope="module")
def models(server):
    with grpc.insecure_channel(address(server)) as channel:
        yield importlib.import_module("tensorflow_serving.apis.model_service_pb2_grpc").ModelServiceStub(channel)


def refused(method, request):
    with pytest.raises(grpc.RpcError) as caught:
        method(request, timeout=60)
    return caught.value.code(), caught.value.details()


def example(values, label=None):
    found = tf.train.Example()
    found.features.feature["f"].float_list.value.extend(values)
    if label is not None:
        found.features.feature["l"].bytes_list.value.append(label)
    return found


def test_predict_on_onnx_with_both_forms_of_a_tensor(stub):
    request = pb("predict").PredictRequest()
    request.model_spec.name = "linear"
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for tensor in (tf.make_tensor_proto(x), tf.make_tensor_proto(x.tolist(), tf.float32)):
        request.inputs["x"].CopyFrom(tensor)
        answer = stub.Predict(request, timeout=60)
        assert tf.make_ndarray(answer.outputs["y"]).tolist() == (x * 3).tolist()
        assert len(answer.outputs["y"].float_val) == 6
        assert answer.model_spec.version.value == 2
        assert (answer.model_spec.name, answer.model_spec.signature_name) == ("linear", "serving_default")
    request.output_filter.append("none")
    assert refused(stub.Predict, request)[0] is Code.INVALID_ARGUMENT


def test_predict_on_a_saved_model_in_the_same_process(stub):
    """TensorFlow registers its messages in the server's process; nothing of ours may meet them."""
    request = pb("predict").PredictRequest()
    request.model_spec.name = "examples"
    rows = [example([0.25, 0.75], b"a\xc3\xbc"), example([1.0, 0.0])]
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([row.SerializeToString() for row in rows]))
    answer = stub.Predict(request, timeout=60)
    assert set(answer.outputs) == {"classes", "scores"}
    assert tf.make_ndarray(answer.outputs["classes"]).tolist() == [["aü".encode(), b"other"], [b"none", b"other"]]
    request.output_filter.append("scores")
    answer = stub.Predict(request, timeout=60)
    assert set(answer.outputs) == {"scores"}
    assert tf.make_ndarray(answer.outputs["scores"]).tolist() == [[0.25, 0.75], [1.0, 0.0]]


def test_classify(stub):
    request = pb("classification").ClassificationRequest()
    request.model_spec.name = "examples"
    request.input.example_list.examples.extend([example([0.25, 0.75], b"cat"), example([-1.0, 0.0])])
    answer = stub.Classify(request, timeout=60)
    got = [[(c.label, c.score) for c in row.classes] for row in answer.result.classifications]
    assert got == [[("cat", 0.25), ("other", 0.75)], [("none", -1.0), ("other", 0.0)]]
    assert answer.model_spec.version.value == 1
    request.input.example_list_with_context.context.CopyFrom(example([9.0, 9.0], b"dog"))
    request.input.example_list_with_context.examples.extend([example([0.5, 0.5])])
    answer = stub.Classify(request, timeout=60)
    got = [[(c.label, c.score) for c in row.classes] for row in answer.result.classifications]
    assert got == [[("dog", 0.5), ("other", 0.5)]]


def test_regress(stub):
    request = pb("regression").RegressionRequest()
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "regress"
    request.input.example_list.examples.extend([example([0.25, 0.75]), example([2.0, 3.0]), example([0.0, 0.0])])
    answer = stub.Regress(request, timeout=60)
    assert [row.value for row in answer.result.regressions] == [1.0, 5.0, 0.0]
    assert answer.model_spec.signature_name == "regress"


def test_multi_inference_answers_as_the_single_calls_do(stub):
    request = pb("inference").MultiInferenceRequest()
    for signature, method in (("regress", "regress"), ("", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "examples", signature
    request.input.example_list.examples.extend([example([0.25, 0.75], b"cat"), example([1.0, 2.0])])
    regression, classification = stub.MultiInference(request, timeout=60).results
    assert [row.value for row in regression.regression_result.regressions] == [1.0, 3.0]
    assert regression.model_spec.signature_name == "regress"
    alone = pb("classification").ClassificationRequest(input=request.input)
    alone.model_spec.name = "examples"
    assert classification.classification_result == stub.Classify(alone, timeout=60).result
    request.tasks[0].method_name = "tensorflow/serving/nope"
    assert "Unsupported signature method_name" in refused(stub.MultiInference, request)[1]
    request.tasks[0].CopyFrom(request.tasks[1])
    assert "Duplicate evaluation of signature" in refused(stub.MultiInference, request)[1]
    request.tasks[0].model_spec.name = "linear"
    assert "must access the same model name" in refused(stub.MultiInference, request)[1]


def test_what_cannot_be_classified_is_told(stub):
    request = pb("classification").ClassificationRequest()
    request.model_spec.name = "examples"
    assert refused(stub.Classify, request) == (Code.INVALID_ARGUMENT, "Input is empty.")
    request.input.example_list.examples.append(example([1.0]))
    code, text = refused(stub.Classify, request)
    assert (code, "f" in text) == (Code.INVALID_ARGUMENT, True)
    request.model_spec.signature_name = "regress"
    code, text = refused(stub.Classify, request)
    assert (code, "classes" in text) == (Code.INVALID_ARGUMENT, True)
    request.model_spec.name, request.model_spec.signature_name = "linear", ""
    code, text = refused(stub.Classify, request)
    assert (code, "No classification inputs found in SignatureDef" in text) == (Code.INVALID_ARGUMENT, True)
    request.model_spec.name = "nope"
    code, text = refused(stub.Classify, request)
    assert (code, "Servable not found for request: Latest(nope)" in text) == (Code.NOT_FOUND, True)


def test_metadata(stub, folder):
    metadata = pb("get_model_metadata")
    request = metadata.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "examples"
    answer = stub.GetModelMetadata(request, timeout=60)
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("examples", 1)
    got = metadata.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(got)
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((folder / "examples" / "1" / "saved_model.pb").read_bytes())
    theirs = saved.meta_graphs[0].signature_def
    for name in ("serving_default", "regress"):
        ours = got.signature_def[name]
        assert ours.method_name == theirs[name].method_name
        for kind in ("inputs", "outputs"):
            assert dict(getattr(ours, kind)) == dict(getattr(theirs[name], kind))
    request.model_spec.name = "linear"
    assert stub.GetModelMetadata(request, timeout=60).metadata["signature_def"].Unpack(got)
    x = got.signature_def["serving_default"].inputs["x"]
    assert (x.dtype, [dim.size for dim in x.tensor_shape.dim]) == (1, [-1, 3])
    for fields, problem in (([], "at least one metadata_field"), (["other"], "other is not supported")):
        del request.metadata_field[:]
        request.metadata_field.extend(fields)
        code, text = refused(stub.GetModelMetadata, request)
        assert (code, problem in text) == (Code.INVALID_ARGUMENT, True)


def test_status(models):
    status = pb("get_model_status")
    request = status.GetModelStatusRequest()
    request.model_spec.name = "linear"
    (only,) = models.GetModelStatus(request, timeout=60).model_version_status
    assert (only.version, only.state, only.status.error_code) == (2, status.ModelVersionStatus.AVAILABLE, 0)
    request.model_spec.version.value = 7
    assert refused(models.GetModelStatus, request) == (Code.NOT_FOUND, "Could not find version 7 of model linear")
    request.model_spec.name = "nope"
    request.model_spec.ClearField("version")
    assert refused(models.GetModelStatus, request) == (Code.NOT_FOUND, "Could not find any versions of model nope")
    assert refused(models.GetModelStatus, status.GetModelStatusRequest())[0] is Code.INVALID_ARGUMENT


def test_clients_change_no_models_unless_they_may(folder):
    management = pb("model_management")
    request = management.ReloadConfigRequest()
    request.config.model_config_list.config.add(name="other", base_path=str(folder / "linear"))
    with (
        running(str(folder / "linear"), "--model_name=linear", "--grpc_port=0") as server,
        grpc.insecure_channel(address(server)) as channel,
    ):
        service = importlib.import_module("tensorflow_serving.apis.model_service_pb2_grpc").ModelServiceStub(channel)
        code, text = refused(service.HandleReloadConfigRequest, request)
        assert code is Code.FAILED_PRECONDITION
        assert "--allow_config_reload" in text
        assert [model["model_name"] for model in server.get("/v1/models").json] == ["linear"]


def test_reloading_the_configuration(folder):
    management = pb("model_management")

    def entry(request, name, path, **more):
        return request.config.model_config_list.config.add(name=name, base_path=str(path), **more)

    with (
        running(str(folder / "linear"), "--model_name=linear", "--grpc_port=0", "--allow_config_reload") as server,
        grpc.insecure_channel(address(server)) as channel,
    ):
        service = importlib.import_module("tensorflow_serving.apis.model_service_pb2_grpc").ModelServiceStub(channel)
        predict = importlib.import_module("tensorflow_serving.apis.prediction_service_pb2_grpc")
        ask = pb("predict").PredictRequest()
        ask.model_spec.name = "linear"
        ask.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones((1, 3), np.float32)))
        stub = predict.PredictionServiceStub(channel)

        def answered():
            return tf.make_ndarray(stub.Predict(ask, timeout=60).outputs["y"])[0, 0]

        assert answered() == 3.0
        loads = server.log().count("LOADING")
        request = management.ReloadConfigRequest(metric_names=["/tensorflow/serving/x"])
        linear = entry(request, "linear", folder / "linear", model_platform="onnx")
        done, asked = threading.Event(), []

        def keep_asking():
            while not done.is_set():
                asked.append(answered())

        asking = threading.Thread(target=keep_asking)
        asking.start()
        answer = service.HandleReloadConfigRequest(request, timeout=60)
        assert answer.status.error_code == 0
        assert [(m.name, m.int64_value_increase) for m in answer.metric] == [("/tensorflow/serving/x", 0)]
        assert server.log().count("LOADING") == loads, "the same configuration in other words loads nothing"

        linear.version_labels["old"] = 1
        linear.model_version_policy.all.SetInParent()
        code, text = refused(service.HandleReloadConfigRequest, request)
        assert code is Code.FAILED_PRECONDITION
        assert "Request to assign label to version 1 of model linear, which is not currently available" in text
        linear.version_labels.clear()
        service.HandleReloadConfigRequest(request, timeout=60)
        linear.version_labels["old"] = 1
        entry(request, "more", folder / "linear").model_version_policy.specific.versions.append(1)
        service.HandleReloadConfigRequest(request, timeout=60)
        done.set()
        asking.join()
        assert set(asked) == {3.0}, "what serves goes on serving"
        ask.model_spec.version_label = "old"
        assert answered() == 2.0
        ask.model_spec.Clear()
        ask.model_spec.name = "more"
        assert answered() == 2.0

        before = management.ReloadConfigRequest.FromString(request.SerializeToString())
        for name, path, more, code, problem in (
            ("more", folder / "linear", {}, Code.INVALID_ARGUMENT, "Illegal to list model more multiple times"),
            ("rel", "a/b", {}, Code.INVALID_ARGUMENT, "Expected model rel to have an absolute path"),
            ("alien", folder, {"model_platform": "alien"}, Code.INVALID_ARGUMENT, "alien"),
            ("gone", folder / "gone", {}, Code.UNKNOWN, "1 servable(s) did not become available: {gone: "),
        ):
            request.CopyFrom(before)
            entry(request, name, path, **more)
            got, text = refused(service.HandleReloadConfigRequest, request)
            assert (got, problem in text) == (code, True), text
            assert answered() == 2.0
        request.CopyFrom(before)
        request.config.model_config_list.config[0].model_platform = "tensorflow"
        assert "Illegal to change a model's platform" in refused(service.HandleReloadConfigRequest, request)[1]
        empty = management.ReloadConfigRequest()
        assert "Only ModelConfigList is currently supported" in refused(service.HandleReloadConfigRequest, empty)[1]
        del request.config.model_config_list.config[0]
        request.config.model_config_list.config[0].ClearField("model_platform")
        service.HandleReloadConfigRequest(request, timeout=60)
        ask.model_spec.name = "linear"
        assert refused(stub.Predict, ask)[0] is Code.NOT_FOUND
