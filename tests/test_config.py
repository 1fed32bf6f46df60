"""Flags, environment and file amount to one configuration, and every mistake is named."""

import json
from pathlib import Path

import pytest

from stfs.config import ServerConfig, load, unknown_variables
from stfs.errors import ConfigError
from stfs.lifecycle.policy import All, Latest, Specific
from stfs.options import OPTIONS


def configure(*argv: str, environ: dict[str, str] | None = None, positional: bool = False) -> ServerConfig:
    return load(argv, environ or {}, prog="test", positional=positional)


def test_defaults_are_the_seeds():
    config = configure()
    (model,) = config.models
    assert (model.name, model.base_path, model.platform) == ("default", Path("./model"), None)
    assert (config.host, config.port, config.auth_username, config.auth_password) == ("0.0.0.0", 8500, "admin", "admin")
    assert not config.enable_auth
    assert not config.enable_ssl
    assert model.version_policy == Latest(1)


def test_every_seed_flag_and_its_environment_variable_are_known():
    seed = [
        "host",
        "port",
        "enable_ssl",
        "secret_pem",
        "secret_key",
        "model_name",
        "model_base_path",
        "model_platform",
        "model_config_file",
        "reload_models",
        "custom_op_paths",
        "session_config",
        "debug",
        "log_level",
        "enable_auth",
        "auth_username",
        "auth_password",
        "enable_cors",
        "enable_b64_autoconvert",
        "download_inference_images",
        "workers",
        "threads",
    ]
    options = {option.name: option for option in OPTIONS}
    assert set(seed) <= set(options)
    for name in seed:
        expected = "STFS_B64_AUTOCONVERT" if name == "enable_b64_autoconvert" else f"STFS_{name.upper()}"
        assert options[name].variable == expected


@pytest.mark.parametrize(
    "spelling", [["--enable_auth=True"], ["--enable_auth", "true"], ["--enable_auth", "1"], ["--enable_auth"]]
)
def test_true_in_all_spellings(spelling):
    assert configure(*spelling, "--host=127.0.0.1").enable_auth is True


@pytest.mark.parametrize("spelling", [["--enable_cors=False"], ["--enable_cors", "false"], ["--enable_cors=0"]])
def test_false_is_false(spelling):
    assert configure(*spelling).enable_cors is False


def test_dashes_are_as_good_as_underscores():
    assert configure("--model-base-path", "m").models[0].base_path == Path("m")


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path):
    file = tmp_path / "models.json"
    entries = [{"name": "a", "base_path": "x"}]
    file.write_text(json.dumps({"port": 1001, "host": "file", "log_level": "error", "model_config_list": entries}))
    environ = {"STFS_PORT": "1002", "STFS_HOST": "env", "STFS_MODEL_CONFIG_FILE": str(file)}
    config = configure("--port=1003", environ=environ)
    assert (config.port, config.host, config.log_level, config.enable_cors) == (1003, "env", "error", True)


def test_a_models_own_settings_beat_those_beside_the_list_and_flags_beat_both(tmp_path):
    file = tmp_path / "models.json"
    entries = [
        {"name": "a", "base_path": "x", "platform": "onnx", "max_batch_size": 8, "allowed_batch_sizes": [2, 8]},
        {"name": "b", "base_path": "y", "version_policy": {"specific": {"versions": [1, 3]}}, "batchable": False},
    ]
    content = {"model_config_list": entries, "max_batch_size": 64, "threads": 2, "model_version_policy": "all"}
    file.write_text(json.dumps(content))
    config = configure(f"--model_config_file={file}", "--batch_timeout_ms=2", "--threads=3")
    a, b = config.models
    assert (a.name, a.platform, a.batch.max_batch_size, a.batch.allowed_batch_sizes) == ("a", "onnx", 8, (2, 8))
    assert a.version_policy == All()
    assert (b.platform, b.batch.max_batch_size, b.batch.batch_timeout_s) == (None, 64, 0.002)
    assert b.version_policy == Specific(frozenset({1, 3}))
    assert (a.batchable, b.batchable) == (None, False)
    assert (a.threads, b.threads) == (3, 3)


def test_the_seeds_config_file_is_read(tmp_path):
    file = tmp_path / "models.json"
    session = {"log_device_placement": True, "allow_soft_placement": True, "per_process_gpu_memory_fraction": 0.5}
    file.write_text(
        json.dumps(
            {
                "model_config_list": [
                    {
                        "name": "default",
                        "base_path": "./models/m/",
                        "platform": "tensorflow",
                        "custom_op_paths": "./a/,./b.so",
                        "session_config": session,
                    }
                ]
            }
        )
    )
    (model,) = configure("--model_config_file", str(file)).models
    assert model.custom_op_paths == (Path("./a"), Path("./b.so"))
    assert model.session_config == session
    assert model.platform == "tensorflow"


def test_instances_and_their_places(tmp_path):
    (model,) = configure("--instances=2", "--cpus=0-1;3", "--gpus=1,0", "--run_timeout_s=1.5", "--device=cuda:1").models
    assert (model.instances, model.cpus, model.gpus, model.run_timeout_s) == (2, ((0, 1), (3,)), (1, 0), 1.5)
    assert model.device == "cuda:1"
    entry = {"name": "a", "base_path": "/a", "instances": 3, "cpus": ["0,2", "1", "4-5"], "gpus": [0, 2]}
    file = tmp_path / "models.json"
    file.write_text(json.dumps({"run_timeout_s": 2, "model_config_list": [entry]}))
    (model,) = configure(f"--model_config_file={file}").models
    assert (model.instances, model.cpus, model.gpus) == (3, ((0, 2), (1,), (4, 5)), (0, 2))
    assert model.run_timeout_s == 2
    for wrong in ("--instances=0", "--cpus=3-1", "--gpus=cuda", "--run_timeout_s=-1", "--device=cuda:", "--device=gpu"):
        with pytest.raises(ConfigError, match=wrong.split("=")[0]):
            configure(wrong)


def test_the_path_may_stand_alone_after_serve():
    assert configure("m.onnx", positional=True).models[0].base_path == Path("m.onnx")


def test_sizes_in_bytes_take_a_unit():
    assert configure("--max_request_bytes=2M").max_request_bytes == 2 << 20


def test_reload_models_off_stops_the_watching():
    assert configure("--reload_models=False").model_poll_interval_s == 0
    assert configure().model_poll_interval_s > 0


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--prot=1"], "unknown argument --prot=1, did you mean --port?"),
        (["--priority-level", "3"], "unknown argument --priority-level, did you mean --priority_levels?"),
        (["--zzz"], "unknown argument --zzz (see"),
        (["--cache_bytes=x"], "--cache_bytes: 'x' will not do: expected a number of bytes, such as 268435456 or 256M"),
        (["--max_request_bytes=x"], "expected a positive number of bytes, such as"),
        (["--sequence_buckets=a"], "expected lengths of 1 or more that ascend, such as 32,64,128"),
        (["--allowed_batch_sizes=a"], "expected whole numbers with commas between, such as 8,32,128"),
        (["--share_weight=x"], "expected a number from 0.001 to 1000, such as 2"),
        (["--tracing_sample=x"], "expected a number from 0 to 1, such as 0.1"),
        (["--queue_timeout_ms=x"], "expected a number, 0 or more, such as"),
        (["--request_timeout_s=inf"], "expected a number, 0 or more"),
        (["--priority_policies=x"], 'expected a JSON object, such as {"1": {"queue_timeout_ms": 50}} (Expecting value'),
        (["--version_labels=x"], 'expected a JSON object, such as {"stable": 1}'),
        (["--model_version_policy={"], "expected a JSON object, such as"),
        (["--port=eight"], "--port: 'eight'"),
        (["--port=70000"], "--port: '70000' will not do"),
        (["--enable_auth=maybe"], "--enable_auth: 'maybe' will not do: expected true or false"),
        (["--log_level=loud"], "--log_level: 'loud' will not do: expected one of debug"),
        (["--session_config={"], "--session_config"),
        (["--session_config=[]"], "expected a JSON object"),
        (["--max_batch_size=0"], "--max_batch_size: '0' will not do: expected a whole number, 1 or more"),
        (["--max_batch_size=8", "--allowed_batch_sizes=2,4"], "allowed_batch_sizes must end in max_batch_size"),
        (["--model_version_policy=newest"], "--model_version_policy: 'newest'"),
        (["--model_name=a/b"], "'a/b' will not do"),
        (["--model_base_path="], "the path is empty"),
        (["--model_config_file=/nowhere.json"], "cannot read the config file /nowhere.json: No such file"),
        (["--max_request_bytes=0"], "positive number of bytes"),
        (["--workers=0"], "--workers: '0'"),
        (["--batch_timeout_ms=-1"], "--batch_timeout_ms: '-1'"),
        (["--max_enqueued=0"], "--max_enqueued: '0'"),
        (["--auth_username=a:b"], "has no ':'"),
        (["--request_timeout_s=-1"], "--request_timeout_s"),
        (["--request_timeout_s=nan"], "--request_timeout_s"),
    ],
)
def test_a_wrong_flag_is_named(argv, told):
    with pytest.raises(ConfigError) as caught:
        configure(*argv)
    assert told in str(caught.value)


def test_a_wrong_environment_variable_is_named():
    with pytest.raises(ConfigError, match="STFS_PORT: 'x'"):
        configure(environ={"STFS_PORT": "x"})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "model_config_list"),
        ('{"model_config_list": []}', "model_config_list"),
        ('{"model_config_list": [{"name": "a"}]}', "[0]: 'base_path' is missing"),
        ('{"model_config_list": [{"name": "a", "base_path": "x", "plattform": "onnx"}]}', "unknown key 'plattform'"),
        ('{"model_config_list": [{"name": "a", "base_path": "x", "threads": "many"}]}', "threads: 'many'"),
        (
            '{"model_config_list": [{"name": "a", "base_path": "x", "plattform": "onnx"}]}',
            "did you mean 'platform'?",
        ),
        ('{"model_config_list": [{"name": "a", "base_path": "x", "zzz": 1}]}', "unknown key 'zzz'; known are name"),
        (
            '{"model_config_list": [{"name": "a", "base_path": "x", "client_share": "user"}]}',
            "unknown key 'client_share': it is said of the whole server, at the top of the file",
        ),
        (
            '{"model_config_list": [{"name": "a", "base_path": "x", "model_platform": "onnx"}]}',
            "unknown key 'model_platform', did you mean 'platform'?",
        ),
        (
            '{"model_config_list": [{"name": "a", "base_path": "x", "share_weight": "x"}]}',
            "[0]: share_weight: 'x' will not do: expected a number from 0.001 to 1000, such as 2",
        ),
        ('{"run_slot": 1, "model_config_list": [{"name": "a", "base_path": "x"}]}', "did you mean 'run_slots'?"),
        (
            '{"version_policy": "all", "model_config_list": [{"name": "a", "base_path": "x"}]}',
            "a model's own, say it as 'version_policy' in its entry of model_config_list",
        ),
        (
            '{"model_name": "a", "model_config_list": [{"name": "a", "base_path": "x"}]}',
            "a model's own, say it as 'name' in its entry",
        ),
        ('{"model_config_lists": [{"name": "a", "base_path": "x"}]}', "did you mean 'model_config_list'?"),
        (
            '{"model_config_list": [{"name": "a", "base_path": "x"}, {"name": "a", "base_path": "y"}]}',
            "[1]: the name 'a'",
        ),
        ('{"prot": 1, "model_config_list": [{"name": "a", "base_path": "x"}]}', "unknown key 'prot'"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, content, told):
    file = tmp_path / "models.json"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        configure(f"--model_config_file={file}")
    assert told in str(caught.value)
    assert str(file) in str(caught.value)


def test_one_model_is_said_in_one_way(tmp_path):
    file = tmp_path / "models.json"
    file.write_text('{"model_config_list": [{"name": "a", "base_path": "x"}]}')
    with pytest.raises(ConfigError, match="not both"):
        configure(f"--model_config_file={file}", "--model_base_path=y")
    with pytest.raises(ConfigError, match="--model_platform"):
        configure(f"--model_config_file={file}", "--model_platform=onnx")
    # Between a flag and the environment there is no conflict: the flag wins.
    assert configure(f"--model_config_file={file}", environ={"STFS_MODEL_BASE_PATH": "/model"}).models[0].name == "a"
    environ = {"STFS_MODEL_CONFIG_FILE": str(file)}
    assert configure("y", environ=environ, positional=True).models[0].base_path == Path("y")
    with pytest.raises(ConfigError, match="once"):
        configure("y", "--model_base_path=z", positional=True)


SEED = ("--enable_auth=True", "--auth_username=admin", "--auth_password=admin")


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (SEED, {}),  # as the seed's own page has it, on 0.0.0.0
        (("--enable_auth",), {"STFS_AUTH_PASSWORD": "geheim"}),
        (("--enable_auth", "--allow_default_password"), {}),
        (("--enable_auth", "--host=127.0.0.1"), {}),
        (("--enable_auth", "--host=127.1.2.3"), {}),
        (("--enable_auth", "--host=::1"), {}),
        (("--enable_auth", "--host=localhost"), {}),
        (("--enable_auth", "--auth_users_file=users"), {}),
    ],
)
def test_a_password_that_was_said_or_is_nobody_elses_business_will_do(argv, environ):
    assert configure(*argv, environ=environ).enable_auth


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.7", "model.example"])
def test_a_default_password_that_others_can_try_will_not_do(host):
    for argv in (("--enable_auth",), ("--enable_auth", "--auth_username=ana")):
        with pytest.raises(ConfigError) as error:
            configure(*argv, f"--host={host}")
        for option in ("--auth_password", "--auth_users_file", "--host", "--allow_default_password"):
            assert option in str(error.value)


def test_a_password_in_the_config_file_has_been_said(tmp_path):
    file = tmp_path / "models.json"
    entries = [{"name": "a", "base_path": "x"}]
    file.write_text(json.dumps({"enable_auth": True, "auth_password": "geheim", "model_config_list": entries}))
    config = configure(f"--model_config_file={file}")
    assert (config.enable_auth, config.auth_password, config.auth_by_password) == (True, "geheim", True)


def test_a_file_of_users_asks_for_credentials_and_brings_no_default_user():
    config = configure("--auth_users_file=users")
    assert (config.enable_auth, config.auth_users_file, config.auth_by_password) == (True, Path("users"), False)
    assert configure("--auth_users_file=users", "--auth_password=x").auth_by_password
    with pytest.raises(ConfigError, match="--auth_username: give its password too"):
        configure("--auth_users_file=users", "--auth_username=ana")


def test_origins_are_spelled_as_browsers_spell_them():
    assert configure("--cors_origins= https://a.example, http://b:81,https://a.example").cors_origins == (
        "https://a.example",
        "http://b:81",
    )
    for wrong in ("https://a.example/", "a.example", "*", "https://A.example", "https://a b"):
        with pytest.raises(ConfigError, match=r"--cors_origins.*is no origin"):
            configure(f"--cors_origins={wrong}")


def test_a_variable_that_is_nobodys_is_told_with_the_nearest_name():
    ours = dict.fromkeys(
        ("STFS_HOME", "STFS_PURE_PYTHON", "STFS_TEST_LONG", "STFS_AUTH_TOKEN", "STFS_PORT", "PATH"), ""
    )
    of_kubernetes = dict.fromkeys(("STFS_SERVICE_HOST", "STFS_SERVICE_PORT_HTTP", "STFS_PORT_8500_TCP_ADDR"), "")
    assert unknown_variables(ours | of_kubernetes) == ""
    told = unknown_variables(ours | {"STFS_CACH_BYTES": "1M", "STFS_QQQ": "1"})
    assert "STFS_CACH_BYTES, did you mean STFS_CACHE_BYTES?; STFS_QQQ" in told
    assert "STFS_HOME" not in told
