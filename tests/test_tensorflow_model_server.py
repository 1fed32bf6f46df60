"""``tensorflow_model_server`` as its users run it: a process, real files, REST and gRPC."""

import json
import signal
import socket
import subprocess

import grpc
import numpy as np
import pytest
from model_server_running import free_ports, model_server, run_to_the_end
from prediction_logs import float_tensor, linear_log, predict_log, write
from rpc_calls import PREDICT, call, outputs_of, predict_bytes, refused
from running import environment
from simple_models import write_linear

pytestmark = pytest.mark.slow  # starts servers

ROW = [[1.0, 2.0, 3.0]]
X = np.array(ROW, np.float32)


def config_of(*models):
    """A model config in text format; each model is a name, a folder and whatever else stands in its entry."""
    entries = "".join(
        f'config {{ name: "{name}" base_path: "{path}" {more} }}\n'
        for name, path, *rest in models
        for more in [" ".join(rest)]
    )
    return f"model_config_list {{\n{entries}}}\n"


def predictions(answer):
    assert answer.status == 200, answer.body
    return answer.json["predictions"]


def over_grpc(address, name="m"):
    with grpc.insecure_channel(address) as channel:
        return outputs_of(call(channel, PREDICT, predict_bytes(name, x=X)))["y"].tolist()


def test_both_protocols_with_the_flags_of_the_container_image(tmp_path):
    write_linear(tmp_path / "m" / "1")
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
    with model_server(
        "--model_name=m",
        f"--model_base_path={tmp_path / 'm'}",
        f"--monitoring_config_file={monitoring}",
        f"--grpc_socket_path={tmp_path / 'socket'}",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=60000",
        "--enable_batching",
        "--num_load_threads=4",
    ) as server:
        assert predictions(server.predict("m", ROW)) == [[2.0, 4.0, 6.0]]
        assert over_grpc(f"127.0.0.1:{server.grpc_port}") == [[2.0, 4.0, 6.0]]
        assert over_grpc(f"unix:{tmp_path / 'socket'}") == [[2.0, 4.0, 6.0]]
        assert server.predict("other", ROW).status == 404
        listed = server.get("/v1/models")
        assert (listed.status, listed.json) == (400, {"error": "Missing model name in request."})
        assert list(server.get("/v1/models/m").json) == ["model_version_status"]
        assert "Access-Control-Allow-Origin" not in server.get("/v1/models/m").headers
        page = server.get("/monitoring/prometheus/metrics").body.decode()
        assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 3' in page
        assert server.log().count("--num_load_threads changes nothing here") == 1
        assert "--enable_batching changes" not in server.log()
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_rest_is_off_unless_it_is_asked_for(tmp_path):
    write_linear(tmp_path / "m" / "1")
    with model_server(
        "--rest_api_port=0", "--model_name=m", f"--model_base_path={tmp_path / 'm'}", listening=False
    ) as server:
        server.wait_until(lambda: "Serving m over gRPC at" in server.log())
        assert over_grpc(f"127.0.0.1:{server.grpc_port}") == [[2.0, 4.0, 6.0]]
        assert not server.is_listening()
        assert server.stop() == 0


def test_version_and_help():
    done = run_to_the_end("--version")
    assert (done.returncode, done.stdout.splitlines()[0].split(":")[0]) == (0, "TensorFlow ModelServer")
    done = run_to_the_end("--help")
    assert done.returncode == 0
    assert "--model_config_file_poll_wait_seconds=0" in done.stdout


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--nothing"], "unknown argument: --nothing"),
        ([], "Both --model_base_path and --model_config_file are empty"),
        (["--model_base_path=relative"], "to have an absolute path or URI; got base_path()=relative"),
        (["--model_config_file=/none"], "cannot read /none: No such file or directory"),
    ],
)
def test_what_cannot_be_ends_with_one_line(argv, told):
    done = run_to_the_end(*argv)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("tensorflow_model_server: error: ")
    assert told in line


def test_a_config_that_does_not_parse(tmp_path):
    file = tmp_path / "models.config"
    file.write_text("model_config_list {\n config { nom: 'm' }\n}")
    done = run_to_the_end(f"--model_config_file={file}")
    assert done.returncode == 2
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 2:11" in done.stderr
    assert str(file) in done.stderr


def test_a_model_that_is_not_there_is_waited_for(tmp_path):
    with model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}", listening=False) as server:
        server.wait_until(lambda: 'waiting for model "m"' in server.log())
        assert not server.is_listening()
        write_linear(tmp_path / "m" / "1")
        server.wait_until(lambda: "Serving m" in server.log())
        assert predictions(server.predict("m", ROW)) == [[2.0, 4.0, 6.0]]


@pytest.mark.slow
def test_a_port_that_is_taken_is_named_by_its_flag(tmp_path):
    write_linear(tmp_path / "m" / "1")
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        (free,) = free_ports(1)
        base = f"--model_base_path={tmp_path / 'm'}"
        done = run_to_the_end(base, f"--port={port}")
        assert (done.returncode, done.stderr.strip().endswith("choose another --port")) == (2, True), done.stderr
        done = run_to_the_end(base, f"--port={free}", f"--rest_api_port={port}")
        assert (done.returncode, done.stderr.strip().endswith("choose another --rest_api_port")) == (2, True)


@pytest.mark.slow
def test_no_models_yet(tmp_path):
    write_linear(tmp_path / "m" / "1")
    file = tmp_path / "models.config"
    file.write_text("")
    with model_server(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1") as server:
        assert server.predict("m", ROW).status == 404
        file.write_text(config_of(("m", tmp_path / "m")))
        server.wait_until(lambda: server.status("m") == {"1": "AVAILABLE"})
        assert predictions(server.predict("m", ROW)) == [[2.0, 4.0, 6.0]]


def test_without_grpc_it_says_what_to_install(tmp_path):
    write_linear(tmp_path / "m" / "1")
    hidden = tmp_path / "hidden"
    (hidden / "google").mkdir(parents=True)
    for file in ("grpc.py", "google/__init__.py"):
        (hidden / file).write_text("raise ImportError('hidden')")
    env = {"PYTHONPATH": f"{hidden}:{environment()['PYTHONPATH']}"}
    base = ("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    (port,) = free_ports(1)
    done = run_to_the_end(f"--port={port}", *base, env=env)
    assert done.returncode == 2
    assert 'gRPC is not installed (hidden): run pip install "stfs[grpc]"' in done.stderr
    file = tmp_path / "models.config"
    file.write_text(config_of(("m", tmp_path / "m")))
    done = run_to_the_end(f"--model_config_file={file}", env=env)
    assert done.returncode == 2
    assert 'protobuf is not installed (hidden): run pip install "stfs[grpc]"' in done.stderr
    with model_server("--port=0", *base, env=env) as server:  # what needs neither is served
        assert predictions(server.predict("m", ROW)) == [[2.0, 4.0, 6.0]]


@pytest.mark.slow
def test_waiting_ends_at_a_signal(tmp_path):
    with model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}", listening=False) as server:
        server.wait_until(lambda: 'waiting for model "m"' in server.log())
        assert server.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_nothing_is_waited_for_where_nobody_looks(tmp_path):
    done = run_to_the_end(f"--model_base_path={tmp_path / 'm'}", "--file_system_poll_wait_seconds=0")
    assert done.returncode == 2
    assert f"base_path {tmp_path / 'm'} does not exist" in done.stderr


@pytest.mark.slow
def test_a_model_that_does_not_load_ends_the_start_after_its_retries(tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"broken")
    _, port = free_ports(2)
    done = run_to_the_end(
        f"--port={port}",
        f"--model_base_path={tmp_path / 'm'}",
        "--max_num_load_retries=2",
        "--load_retry_interval_micros=1000",
    )
    assert done.returncode == 2
    assert str(tmp_path / "m" / "1") in done.stderr.splitlines()[-1]
    assert done.stderr.count("version 1: LOADING") == 3


@pytest.mark.slow
def test_labels_at_the_start_must_be_allowed(tmp_path):
    write_linear(tmp_path / "m" / "1")
    write_linear(tmp_path / "m" / "2", scale=3.0)
    file = tmp_path / "models.config"
    file.write_text(
        config_of(
            ("m", tmp_path / "m", "model_version_policy { all { } }", "version_labels { key: 'stable' value: 1 }")
        )
    )
    done = run_to_the_end(f"--model_config_file={file}")
    assert done.returncode == 2
    assert "Request to assign label to version 1 of model m, which is not currently available" in done.stderr
    with model_server(f"--model_config_file={file}", "--allow_version_labels_for_unavailable_models") as server:
        # One version is enough for the start; the other may still be loading.
        server.wait_until(lambda: {server.predict(f"m/versions/{n}", ROW).status for n in (1, 2)} == {200})
        assert predictions(server.predict("m/labels/stable", ROW)) == [[2.0, 4.0, 6.0]]
        assert predictions(server.predict("m", ROW)) == [[3.0, 6.0, 9.0]]
        assert server.predict("m/labels/other", ROW).status == 400


@pytest.mark.slow
def test_the_model_config_is_looked_at_again(tmp_path):
    for name, scale in (("a", 2.0), ("b", 5.0)):
        write_linear(tmp_path / name / "1", scale=scale)
    file = tmp_path / "models.config"
    file.write_text(config_of(("a", tmp_path / "a")))
    with model_server(f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1") as server:
        assert server.predict("b", ROW).status == 404
        file.write_text(config_of(("a", tmp_path / "a"), ("b", tmp_path / "b")))
        server.wait_until(lambda: server.status("b") == {"1": "AVAILABLE"})
        assert predictions(server.predict("b", ROW)) == [[5.0, 10.0, 15.0]]

        file.write_text("model_config_list { config {")
        server.wait_until(lambda: "Error parsing text-format tensorflow.serving.ModelServerConfig" in server.log())
        assert predictions(server.predict("a", ROW)) == [[2.0, 4.0, 6.0]]
        assert predictions(server.predict("b", ROW)) == [[5.0, 10.0, 15.0]]

        # Version 2 is not there yet, so it gets no label, and nothing of the file is done; then it comes.
        labelled = ("a", tmp_path / "a", "version_labels { key: 'new' value: 2 }")
        file.write_text(config_of(labelled))
        server.wait_until(lambda: "Request to assign label to version 2 of model a" in server.log())
        assert predictions(server.predict("b", ROW)) == [[5.0, 10.0, 15.0]]
        write_linear(tmp_path / "a" / "2", scale=7.0)
        server.wait_until(lambda: server.predict("a/labels/new", ROW).status == 200)
        assert predictions(server.predict("a/labels/new", ROW)) == [[7.0, 14.0, 21.0]]
        server.wait_until(lambda: server.predict("b", ROW).status == 404)


def test_recorded_requests_are_run_before_a_version_serves(tmp_path):
    write_linear(tmp_path / "m" / "1")
    write(tmp_path / "m" / "1", [linear_log(), predict_log({"x": float_tensor(ROW * 5)})])
    base = ("--model_name=m", f"--model_base_path={tmp_path / 'm'}")
    with model_server(*base, "--num_request_iterations_for_warmup=3") as server:
        assert "warmed up m version 1 by 2 recorded requests" in server.log()
        assert server.metric("stfs_batch_rows_sum", model="m", version="1") == 3 * (1 + 5)
        # A new version whose requests fail does not replace it.
        write_linear(tmp_path / "m" / "2", scale=3.0)
        path = write(tmp_path / "m" / "2", [predict_log({"x": float_tensor([[1.0] * 4])})])
        server.wait_until(lambda: server.status("m").get("2") == "END")
        versions = server.get("/v1/models/m").json["model_version_status"]
        error = next(told["status"] for told in versions if told["version"] == "2")
        assert f"{path}: warmup record 1" in error["error_message"]
        assert predictions(server.predict("m", ROW)) == [[2.0, 4.0, 6.0]]
    with model_server(*base, "--enable_model_warmup=false") as server:
        assert predictions(server.predict("m", ROW)) == [[3.0, 6.0, 9.0]]


@pytest.mark.slow
def test_tls_is_grpcs_alone(tmp_path):
    pem, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", pem, "-keyout", key],
        check=True, capture_output=True,
    )  # fmt: skip
    write_linear(tmp_path / "m" / "1")
    ssl = tmp_path / "ssl.config"
    certificate, private = json.dumps(pem.read_text()), json.dumps(key.read_text())
    ssl.write_text(
        f"server_key: {private}\nserver_cert: {certificate}\ncustom_ca: {certificate}\nclient_verify: true\n"
    )
    with model_server("--model_name=m", f"--model_base_path={tmp_path / 'm'}", f"--ssl_config_file={ssl}") as server:
        assert predictions(server.predict("m", ROW)) == [[2.0, 4.0, 6.0]]
        address = f"127.0.0.1:{server.grpc_port}"
        known = grpc.ssl_channel_credentials(pem.read_bytes(), key.read_bytes(), pem.read_bytes())
        with grpc.secure_channel(address, known) as channel:
            assert outputs_of(call(channel, PREDICT, predict_bytes("m", x=X)))["y"].tolist() == (X * 2).tolist()
        for credentials in (grpc.ssl_channel_credentials(pem.read_bytes()), None):
            secure = None if credentials is None else grpc.secure_channel(address, credentials)
            with secure or grpc.insecure_channel(address) as channel:
                status, _ = refused(channel, PREDICT, predict_bytes("m", x=X))
                assert status is grpc.StatusCode.UNAVAILABLE


@pytest.mark.slow
def test_a_saved_model_by_the_public_stubs(tmp_path):
    tensorflow = pytest.importorskip("tensorflow")
    apis = "tensorflow_serving.apis"
    predict_pb2 = pytest.importorskip(f"{apis}.predict_pb2")
    prediction_log_pb2 = pytest.importorskip(f"{apis}.prediction_log_pb2")
    get_model_status_pb2 = pytest.importorskip(f"{apis}.get_model_status_pb2")
    model_management_pb2 = pytest.importorskip(f"{apis}.model_management_pb2")
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    class Affine(tensorflow.Module):
        @tensorflow.function(input_signature=[tensorflow.TensorSpec([None, 3], tensorflow.float32, name="x")])
        def __call__(self, x):
            return {"y": x * 2.0 + 1.0}

    module = Affine()
    version = tmp_path / "m" / "7"
    tensorflow.saved_model.save(module, str(version), signatures=module.__call__)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tensorflow.make_tensor_proto(X))
    (version / "assets.extra").mkdir()
    with tensorflow.io.TFRecordWriter(str(version / "assets.extra" / "tf_serving_warmup_requests")) as writer:
        log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
        writer.write(log.SerializeToString())
    file = tmp_path / "models.config"
    file.write_text(config_of(("m", tmp_path / "m", 'model_platform: "tensorflow"')))
    with model_server(f"--model_config_file={file}", "--tensorflow_intra_op_parallelism=1") as server:
        assert "warmed up m version 7 by 1 recorded requests" in server.log()
        expected = module(tensorflow.constant(X))["y"].numpy()
        assert predictions(server.predict("m/versions/7", ROW)) == expected.tolist()
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
            assert np.array_equal(tensorflow.make_ndarray(answer.outputs["y"]), expected)
            assert answer.model_spec.version.value == 7
            models = model_service_pb2_grpc.ModelServiceStub(channel)
            asked = get_model_status_pb2.GetModelStatusRequest()
            asked.model_spec.name = "m"
            (status,) = models.GetModelStatus(asked, timeout=60).model_version_status
            assert (status.version, status.state) == (7, 30)
            reload = model_management_pb2.ReloadConfigRequest()
            entry = reload.config.model_config_list.config.add()
            entry.name, entry.base_path, entry.model_platform = "m", str(tmp_path / "m"), "tensorflow"
            entry.version_labels["stable"] = 8
            with pytest.raises(grpc.RpcError) as caught:
                models.HandleReloadConfigRequest(reload, timeout=60)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            entry.version_labels["stable"] = 7
            assert models.HandleReloadConfigRequest(reload, timeout=60).status.error_code == 0
        assert predictions(server.predict("m/labels/stable", ROW)) == expected.tolist()
