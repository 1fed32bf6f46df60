from functools import partial

import pytest

from stfs.batcher.policy import BatchPolicy
from stfs.batcher.shape_plan import ShapeOptions
from stfs.errors import ConfigError
from stfs.lifecycle.policy import All, Latest, Specific
from stfs.model_server.flags import parse
from stfs.model_server.settings import MAX_MESSAGE_BYTES, METRICS_PATH, read

ONE = ("--model_base_path=/models/m",)


policy = partial(BatchPolicy, max_enqueued_bytes=1 << 30)


def server(*argv):
    return read(parse([*ONE, *argv])).server


def common(*argv):
    return read(parse([*ONE, *argv])).common


@pytest.fixture
def write(tmp_path):
    def write(content, name="file"):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return write


def test_what_nothing_said_amounts_to():
    config = server()
    (model,) = config.models
    assert (model.name, str(model.base_path), model.platform) == ("default", "/models/m", None)
    assert (model.batch, model.threads, model.warmup_iterations) == (policy(), 0, 1)
    assert (model.session_config, model.saved_model_tags) == ({}, ())
    assert (config.grpc_port, config.http, config.host) == (8500, False, "0.0.0.0")
    assert (config.dialect, config.enable_cors, config.metrics_path) == ("tfserving", False, "")
    assert (config.request_timeout_s, config.grpc_request_timeout_s) == (30.0, 0.0)
    assert (config.model_poll_interval_s, config.max_load_retries, config.load_retry_interval_s) == (1.0, 5, 60.0)
    assert (config.label_rule, config.wait_for_models) == ("available", True)
    assert config.max_request_bytes == MAX_MESSAGE_BYTES
    assert config.grpc_tls is None


def test_plain_flags():
    config = server(
        "--port=0",
        "--grpc_socket_path=/tmp/s",
        "--rest_api_port=8501",
        "--rest_api_timeout_in_ms=1500",
        "--rest_api_enable_cors_support",
        "--model_name=n",
        "--max_num_load_retries=2",
        "--load_retry_interval_micros=-1",
        "--file_system_poll_wait_seconds=-1",
        "--allow_version_labels_for_unavailable_models",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,grpc.primary_user_agent=me",
        "--enable_model_warmup=false",
    )
    assert (config.grpc_port, str(config.grpc_socket_path), config.port, config.http) == (None, "/tmp/s", 8501, True)
    assert (config.request_timeout_s, config.enable_cors) == (1.5, True)
    assert (config.max_load_retries, config.load_retry_interval_s, config.model_poll_interval_s) == (2, 0.0, 0.0)
    assert config.label_rule == "new"
    assert config.grpc_channel_arguments == (
        ("grpc.max_connection_age_ms", 2000),
        ("grpc.primary_user_agent", "me"),
    )
    assert (config.models[0].name, config.models[0].warmup_iterations) == ("n", 0)


def test_one_port_for_both_skips_rest():
    settings = read(parse([*ONE, "--port=9000", "--rest_api_port=9000"]))
    assert not settings.server.http
    assert "--rest_api_port cannot be same as --port" in settings.warnings[0]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--model_base_path="], "Both --model_base_path and --model_config_file are empty"),
        (
            ["--model_base_path=models/m"],
            "Expected model default to have an absolute path or URI; got base_path.*models/m",
        ),
        (["--model_base_path=gs://bucket/m"], "gs://bucket/m is not on this machine"),
        (["--model_name="], 'model name ""'),
        (["--model_name=a/b"], 'model name "a/b"'),
        (["--port=0"], "At least one of --port"),
        (["--port=70000"], "--port=70000: expected a port number"),
        (["--batching_parameters_file=/x"], "set without setting --enable_batching"),
        (["--use_alts_credentials"], "ALTS is not spoken here"),
        (["--per_process_gpu_memory_fraction=1.5"], "between 0.0 and 1.0"),
        (["--grpc_channel_arguments=a"], "'a' is not NAME=VALUE"),
        (["--ssl_config_file=/none"], "cannot read /none"),
        (
            [f"--tensorflow_{n}=2" for n in ("session_parallelism", "intra_op_parallelism", "inter_op_parallelism")],
            "You cannot configure all",
        ),
    ],
)
def test_refused(argv, problem):
    with pytest.raises(ConfigError, match=problem):
        read(parse([*ONE, *argv]))


def test_batching(write):
    assert common("--enable_batching").batch == policy(1000, max_enqueued_rows=10_000)
    file = write("max_batch_size { value: 32 } batch_timeout_micros { value: 2500 } max_enqueued_batches { value: 4 }")
    assert common("--enable_batching", f"--batching_parameters_file={file}").batch == policy(
        32, batch_timeout_s=0.0025, max_enqueued_rows=128
    )
    file = write("max_batch_size { value: 8 } allowed_batch_sizes: 2 allowed_batch_sizes: 8")
    assert common("--enable_batching", f"--batching_parameters_file={file}").batch.allowed_batch_sizes == (2, 8)


def test_batching_with_splitting(write):
    file = write(
        "max_batch_size { value: 64 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 16 } max_enqueued_batches { value: 2 }"
    )
    assert common("--enable_batching", f"--batching_parameters_file={file}").batch == policy(16, max_enqueued_rows=128)


def test_batching_parameters_that_cannot_be(write):
    file = write("max_batch_size { value: 8 } allowed_batch_sizes: 4")
    with pytest.raises(ConfigError, match=f"{file}: allowed_batch_sizes must end in max_batch_size"):
        common("--enable_batching", f"--batching_parameters_file={file}")
    file = write("max_batch_sice { value: 8 }")
    with pytest.raises(ConfigError, match=r"Error parsing text-format tensorflow\.serving\.BatchingParameters: 1:1"):
        common("--enable_batching", f"--batching_parameters_file={file}")


def test_what_means_nothing_is_told(write):
    file = write('thread_pool_name { value: "p" }')
    argv = [*ONE, "--enable_batching", f"--batching_parameters_file={file}", "--rest_api_num_threads=3"]
    warnings = read(parse(argv)).warnings
    for word in ("--rest_api_num_threads", "thread_pool_name"):
        assert sum(word in line for line in warnings) == 1, warnings


def test_batch_threads_are_instances(write):
    file = write("num_batch_threads { value: 4 }")
    assert common("--enable_batching", f"--batching_parameters_file={file}").instances == 4
    assert common("--enable_batching").instances == 1


def test_inputs_of_unlike_length_are_padded_where_that_is_said(write):
    file = write("pad_variable_length_inputs: true")
    padded = common("--enable_batching", f"--batching_parameters_file={file}")
    assert padded.shapes == ShapeOptions(pad_variable_length_inputs=True)
    assert common("--enable_batching").shapes == ShapeOptions()


def test_threads_and_session(write):
    assert common("--tensorflow_session_parallelism=3").threads == 3
    assert common("--tensorflow_intra_op_parallelism=2", "--tensorflow_inter_op_parallelism=5").threads == 2
    file = write("intra_op_parallelism_threads: 4 gpu_options { allow_growth: true } log_device_placement: true")
    model = common(f"--tensorflow_session_config_file={file}", "--per_process_gpu_memory_fraction=0.5")
    assert model.threads == 4
    assert model.session_config == {
        "allow_growth": True,
        "log_device_placement": True,
        "per_process_gpu_memory_fraction": 0.5,
    }
    assert common(f"--tensorflow_session_config_file={file}", "--tensorflow_intra_op_parallelism=7").threads == 7


def test_tags_are_a_must_only_where_they_are_said():
    assert common().saved_model_tags == ()
    assert common("--saved_model_tags=serve,gpu").saved_model_tags == ("serve", "gpu")


@pytest.mark.parametrize(("flag", "iterations"), [("0", 1), ("-1", 1), ("4", 4)])
def test_warm_up_iterations(flag, iterations):
    assert common(f"--num_request_iterations_for_warmup={flag}").warmup_iterations == iterations


def test_monitoring(write):
    file = write("prometheus_config { enable: true }")
    assert server("--rest_api_port=1", f"--monitoring_config_file={file}").metrics_path == METRICS_PATH
    settings = read(parse([*ONE, f"--monitoring_config_file={file}"]))
    assert "changes nothing without --rest_api_port" in settings.warnings[0]
    file = write('prometheus_config { enable: true path: "/stats" }')
    assert server("--rest_api_port=1", f"--monitoring_config_file={file}").metrics_path == "/stats"
    file = write('prometheus_config { path: "/stats" }')
    assert server("--rest_api_port=1", f"--monitoring_config_file={file}").metrics_path == ""
    file = write('prometheus_config { enable: true path: "stats" }')
    with pytest.raises(ConfigError, match="path 'stats' must be plain"):
        server("--rest_api_port=1", f"--monitoring_config_file={file}")


def test_tls(write):
    file = write('server_key: "key\\n" server_cert: "cert\\n" custom_ca: "ca" client_verify: true')
    tls = server(f"--ssl_config_file={file}").grpc_tls
    assert tls is not None
    assert (tls.key, tls.certificate, tls.client_ca, tls.verify_client) == (b"key\n", b"cert\n", b"ca", True)
    file = write('server_key: "key"')
    with pytest.raises(ConfigError, match="must hold a key and a certificate"):
        server(f"--ssl_config_file={file}")


CONFIG = """
model_config_list {
  config { name: "a" base_path: "/models/a" model_platform: "onnx" }
  config { name: "b" base_path: "file:///models/b" model_type: TENSORFLOW model_version_policy { all { } } }
  config { name: "c" base_path: "/models/c"
           model_version_policy { specific { versions: 3 versions: 5 } } version_labels { key: "stable" value: 3 } }
  config { name: "d" base_path: "/models/d" model_version_policy { latest { num_versions: 2 } } }
  config { name: "e" base_path: "/models/e" model_version_policy { latest { } } }
}
"""


def test_a_list_of_models(write):
    settings = read(
        parse([f"--model_config_file={write(CONFIG)}", "--model_name=ignored", "--tensorflow_session_parallelism=2"])
    )
    models = {model.name: model for model in settings.server.models}
    assert list(models) == ["a", "b", "c", "d", "e"]
    assert [model.platform for model in models.values()] == ["onnx", "tensorflow", None, None, None]
    assert str(models["b"].base_path) == "/models/b"
    assert [model.version_policy for model in models.values()] == [
        Latest(1),
        All(),
        Specific(frozenset({3, 5})),
        Latest(2),
        Latest(1),
    ]
    assert models["c"].version_labels == {"stable": 3}
    assert {model.threads for model in models.values()} == {2}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("custom_model_config { }", "does not yet support custom model config"),
        ("config { }", "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:1"),
        ('model_config_list { config { name: "a" base_path: "a" } }', "to have an absolute path"),
        ('model_config_list { config { base_path: "/a" } }', 'model name ""'),
        (
            'model_config_list { config { name: "a" base_path: "/a" } config { name: "a" base_path: "/b" } }',
            "Illegal to list model a multiple times in config list",
        ),
        ('model_config_list { config { name: "a" base_path: "/a" model_type: OTHER } }', "OTHER is not served"),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_type: TENSORFLOW model_platform: "x" } }',
            "Illegal setting both",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_version_policy { specific { } } } }',
            "specific needs versions",
        ),
        (
            'model_config_list { config { name: "a" base_path: "/a" version_labels { key: "" value: 1 } } }',
            'version label ""',
        ),
    ],
)
def test_lists_that_cannot_be(write, content, problem):
    file = write(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read(parse([f"--model_config_file={file}"]))
    assert str(file) in str(caught.value)


def test_an_empty_file_serves_nothing(write):
    assert read(parse([f"--model_config_file={write('')}"])).server.models == ()
