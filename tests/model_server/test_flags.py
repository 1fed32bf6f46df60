import pytest

from stfs.errors import ConfigError
from stfs.model_server.flags import BY_NAME, FLAGS, parse, renamed, usage

# What main.cc of TensorFlow Serving declares, in its order.
REAL = """
port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name model_base_path
num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros file_system_poll_wait_seconds
flush_filesystem_caches tensorflow_session_parallelism tensorflow_session_config_file tensorflow_intra_op_parallelism
tensorflow_inter_op_parallelism use_alts_credentials ssl_config_file platform_config_file
per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads enable_model_warmup
num_request_iterations_for_warmup version monitoring_config_file remove_unused_fields_from_bundle_metagraph
prefer_tflite_model num_tflite_pools num_tflite_interpreters_per_pool enable_signature_method_name_check
xla_cpu_compilation_enabled xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file
mixed_precision skip_initialize_tpu enable_grpc_healthcheck_service
enable_serialization_as_tensor_content
"""


def test_every_flag_is_known():
    assert set(REAL.split()) <= set(BY_NAME)
    assert len(BY_NAME) == len(FLAGS)


def test_defaults():
    given = parse([])
    assert (given.number("port"), given.number("rest_api_port")) == (8500, 0)
    assert given.number("load_retry_interval_micros") == 60_000_000
    assert given.on("enable_model_warmup")
    assert not given.on("enable_batching")
    assert given.text("model_name") == "default"
    assert given.said == frozenset()


def test_the_spellings():
    given = parse(["--port=1", "--model_name", "m", "--enable_batching", "--flush_filesystem_caches=FALSE"])
    assert given.number("port") == 1
    assert given.text("model_name") == "m"
    assert given.on("enable_batching")
    assert not given.on("flush_filesystem_caches")


def test_a_switch_takes_no_value_apart():
    with pytest.raises(ConfigError, match="unknown argument: false"):
        parse(["--enable_batching", "false"])


def test_values_may_be_empty_negative_or_hold_signs():
    given = parse(["--model_name=", "--file_system_poll_wait_seconds=-1", "--grpc_channel_arguments=a=1,b=x"])
    assert given.text("model_name") == ""
    assert given.number("file_system_poll_wait_seconds") == -1
    assert given.text("grpc_channel_arguments") == "a=1,b=x"
    assert parse(["--max_num_load_retries", "-1"]).number("max_num_load_retries") == -1


def test_the_last_one_counts():
    assert parse(["--port=1", "--port=2"]).number("port") == 2


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("--nothing=1", "unknown argument: --nothing=1"),
        ("--noenable_batching", "unknown argument: --noenable_batching"),
        ("-port=1", "unknown argument: -port=1"),
        ("port=1", "unknown argument: port=1"),
        ("", "unknown argument: "),
        ("--", "unknown argument: --"),
        ("--rest-api-port=1", "unknown argument"),
        ("--port=x", "--port=x: expected a whole number"),
        ("--port=1_0", "expected a whole number"),
        ("--port=", "expected a whole number"),
        ("--port=2147483648", "expected a whole number"),
        ("--load_retry_interval_micros=9223372036854775808", "expected a whole number"),
        ("--enable_batching=1", "--enable_batching=1: expected true or false"),
        ("--per_process_gpu_memory_fraction=nan", "expected a number"),
        ("--model_name", "--model_name needs a value: --model_name=..."),
    ],
)
def test_refused(argument, problem):
    with pytest.raises(ConfigError, match=problem):
        parse([argument])


def test_a_flag_without_a_value_does_not_take_the_next_flag():
    with pytest.raises(ConfigError, match="--model_name needs a value"):
        parse(["--model_name", "--port=1"])


def test_flags_without_meaning_are_told_of_once():
    given = parse(["--rest_api_num_threads=4", "--rest_api_num_threads=4", "--num_load_threads=0", "--port=1"])
    (line,) = given.without_meaning()
    assert line.startswith("--rest_api_num_threads changes nothing here: ")


def test_usage_lists_every_flag_with_its_default():
    text = usage("tensorflow_model_server")
    assert text.startswith("usage: tensorflow_model_server\nFlags:\n")
    for flag in FLAGS:
        assert f"\t--{flag.name}=" in text
    assert "--enable_batching=false" in text
    assert '--model_name="default"' in text


def test_the_servers_messages_name_these_flags():
    assert renamed("no; choose another --port or --host") == "no; choose another --rest_api_port"
    assert renamed("no; choose another --grpc_port or --host") == "no; choose another --port"
    assert renamed("choose another --grpc_socket_path") == "choose another --grpc_socket_path"
