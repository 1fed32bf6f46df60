"""``config.pbtxt`` beside a model's versions: what it sets, what beats it, and what is said of files that are wrong."""

import logging
import sys

import numpy as np
import pytest
from running import running
from simple_models import write_linear

from stfs import platforms
from stfs.commands import local_model
from stfs.config import ModelConfig, load
from stfs.errors import ConfigError, LoadFailed
from stfs.lifecycle.policy import All, Latest, Specific
from stfs.loader import files_of, load_servable
from stfs.model_server import text_format
from stfs.repository_config import DEFAULT_CACHE_BYTES
from stfs.repository_file import NAME, with_file

FULL = """
name: "m"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]
dynamic_batching {
  preferred_batch_size: [ 8, 4 ]
  max_queue_delay_microseconds: 500
  priority_levels: 2
  default_priority_level: 1
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 7000000 max_queue_size: 9 }
  priority_queue_policy { key: 2 value { max_queue_size: 3 } }
}
instance_group [ { count: 2 kind: KIND_CPU } ]
version_policy: { specific { versions: [ 1, 3 ] } }
response_cache { enable: true }
optimization { cuda { graphs: true } }
"""


@pytest.fixture
def folder(tmp_path):
    write_linear(tmp_path / "m" / "1")
    return tmp_path / "m"


def configured(folder, *argv, environ=None):
    (model,) = load([f"--model_base_path={folder}", *argv], environ or {}, prog="test", positional=False).models
    return model


def read(folder, text, *argv, **more):
    (folder / NAME).write_text(text)
    return with_file(configured(folder, *argv, **more))


# --- what is read ---------------------------------------------------------------------------------------------------


def test_what_a_file_says(folder, caplog):
    model = read(folder, FULL)
    batch = model.batch
    assert (model.name, model.platform, model.version_policy) == ("default", "onnx", Specific(frozenset({1, 3})))
    assert (batch.max_batch_size, batch.preferred_batch_sizes, batch.batch_timeout_s) == (16, (4, 8), 0.0005)
    assert (batch.priority_levels, batch.default_priority_level) == (2, 1)
    assert (batch.queue.timeout_s, batch.queue.action, batch.queue.max_requests) == (7.0, "delay", 9)
    assert [(level, queue.max_requests) for level, queue in batch.level_queues] == [(2, 3)]
    assert (model.instances, model.device, model.cache_bytes) == (2, "cpu", DEFAULT_CACHE_BYTES)
    assert (model.cuda_graphs, batch.allowed_batch_sizes) == (True, (1, 2, 4, 8, 16))
    assert caplog.text == ""


def test_an_empty_file_says_nothing_and_sizes_are_told_apart_from_none(folder):
    plain = configured(folder)
    assert with_file(plain) is plain
    read_ = read(folder, "# nothing\n")
    assert (read_.batch, read_.batchable, read_.platform) == (plain.batch, None, None)
    assert read(folder, "max_batch_size: 0").batchable is False
    assert read(folder, "max_batch_size: 8").batchable is None


def test_commands_go_by_it_too(folder):
    (folder / NAME).write_text('max_batch_size: 5 default_model_filename: "model.onnx"')
    model = local_model.configured([str(folder)], "stfs check")
    assert model.batch.max_batch_size == 5
    with local_model.opened(model) as opened:
        assert (opened.path, opened.version) == (folder / "1" / "model.onnx", 1)


def test_models_that_are_configured_by_others_have_no_such_file(folder):
    (folder / NAME).write_text("max_batch_size: broken")
    model = ModelConfig("m", folder)
    assert with_file(model) is model, "tensorflow_model_server, say, has files of its own"


def test_a_model_that_is_a_file_has_none(folder):
    (folder / "1" / NAME).write_text("max_batch_size: 4")
    model = configured(folder / "1" / "model.onnx")
    assert with_file(model) is model
    assert with_file(configured(folder / "1")).batch.max_batch_size == 4, "a folder without versions is a base folder"


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ('platform: "onnxruntime_onnx"', "onnx"),
        ('backend: "onnxruntime"', "onnx"),
        ('platform: "pytorch_libtorch"', "pytorch"),
        ('backend: "pytorch"', "pytorch"),
        ('platform: "tensorflow_savedmodel"', "tensorflow"),
        ('platform: "tensorflow_graphdef"', "tensorflow"),
        ('backend: "tensorflow"', "tensorflow"),
        ('backend: "python"', "python"),
        ('platform: "something" backend: "onnxruntime"', "onnx"),
        ('backend: "fil"', None),
    ],
)
def test_platforms(folder, said, ours):
    assert read(folder, said).platform == ours
    assert read(folder, said, "--model_platform=scikitlearn").platform == "scikitlearn"


def test_what_there_is_not_here_is_told_only_where_the_files_tell_nothing(folder):
    servable = load_servable(read(folder, 'platform: "tensorrt_plan"'), folder / "1")
    assert servable.platform == "onnx"
    servable.close()
    (folder / "2").mkdir()
    (folder / "2" / "model.plan").write_bytes(b"\0")
    model = with_file(configured(folder))
    with pytest.raises(LoadFailed, match=rf'{NAME} asks for "tensorrt_plan", which there is not here, and no platform'):
        load_servable(model, folder / "2")


def test_the_file_that_is_named_is_served(folder, caplog):
    write_linear(folder / "1" / "other", scale=5.0)
    (folder / "1" / "other" / "model.onnx").rename(folder / "1" / "five.onnx")
    model = read(folder, 'default_model_filename: "five.onnx"')
    path = files_of(model, folder / "1")
    assert path == folder / "1" / "five.onnx"
    assert files_of(model, path) == path, "as front processes ask"
    assert caplog.text == ""
    servable = load_servable(model, path)
    x = np.ones((1, 3), np.float32)
    assert servable.run("serving_default", {"x": x})["y"].tolist() == [[5, 5, 5]]
    servable.close()
    with pytest.raises(LoadFailed, match=f"there is no six.onnx, which is default_model_filename in .*{NAME}"):
        files_of(read(folder, 'default_model_filename: "six.onnx"'), folder / "1")


def test_saved_models_are_found_where_triton_has_them(folder):
    saved = folder / "1" / "model.savedmodel"
    saved.mkdir()
    (saved / "saved_model.pb").write_bytes(b"")
    assert files_of(configured(folder), folder / "1") == folder / "1", "there is another model beside it"
    (folder / "1" / "model.onnx").unlink()
    path = files_of(configured(folder), folder / "1")
    assert path == saved
    assert platforms.detect(path).name == "tensorflow"


# --- what beats it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "changed"),
    [
        ((), {}),
        (("--max_batch_size=4",), {"max_batch_size": 4, "preferred": (4,), "allowed": (1, 2, 4)}),
        (("--allowed_batch_sizes=3,128",), {"max_batch_size": 128, "allowed": (3, 128)}),
        (("--batch_timeout_ms=2",), {"timeout": 0.002}),
        (("--preferred_batch_sizes=5",), {"preferred": (5,)}),
        (("--queue_timeout_action=reject",), {"queue": (float("inf"), "reject", 0)}),
        (("--default_priority_level=0",), {"levels": (0, 0, ())}),
        (("--cuda_graphs=false",), {"graphs": False, "allowed": ()}),
        (("--cache_bytes=0",), {"cache": 0}),
        (("--model_version_policy=all",), {"policy": All()}),
        (("--device=auto",), {"device": "auto"}),
        (("--instances=1",), {"instances": 1}),
        (("--instances=3", "--device=cuda"), {"instances": 3, "device": "cuda"}),
    ],
)
def test_what_the_user_says_beats_the_file(folder, argv, changed):
    model = read(folder, FULL, *argv)
    batch = model.batch
    got = {
        "max_batch_size": batch.max_batch_size,
        "allowed": batch.allowed_batch_sizes,
        "preferred": batch.preferred_batch_sizes,
        "timeout": batch.batch_timeout_s,
        "queue": (batch.queue.timeout_s, batch.queue.action, batch.queue.max_requests),
        "levels": (batch.priority_levels, batch.default_priority_level, tuple(n for n, _ in batch.level_queues)),
        "graphs": model.cuda_graphs,
        "cache": model.cache_bytes,
        "policy": model.version_policy,
        "device": model.device,
        "instances": model.instances,
    }
    plain = {
        "max_batch_size": 16,
        "allowed": (1, 2, 4, 8, 16),
        "preferred": (4, 8),
        "timeout": 0.0005,
        "queue": (7.0, "delay", 9),
        "levels": (2, 1, (2,)),
        "graphs": True,
        "cache": DEFAULT_CACHE_BYTES,
        "policy": Specific(frozenset({1, 3})),
        "device": "cpu",
        "instances": 2,
    }
    assert got == plain | changed


def test_flags_environment_and_both_places_of_the_configuration_file_beat_it(folder, tmp_path):
    (folder / NAME).write_text("max_batch_size: 16 version_policy { latest { num_versions: 2 } }")
    models = tmp_path / "models.json"
    entry = f'{{"name": "m", "base_path": "{folder}"'

    def sizes(text, *argv, environ=None):
        models.write_text(text)
        config = load([f"--model_config_file={models}", *argv], environ or {}, prog="test", positional=False)
        (model,) = map(with_file, config.models)
        assert model.version_policy == Latest(2), "what nobody has said comes from the file of the model"
        return model.batch.max_batch_size

    plain = f'{{"model_config_list": [{entry}}}]}}'
    assert sizes(plain) == 16
    assert sizes(plain, "--max_batch_size=5") == 5
    assert sizes(plain, environ={"STFS_MAX_BATCH_SIZE": "6"}) == 6
    assert sizes(f'{{"model_config_list": [{entry}, "max_batch_size": 7}}]}}') == 7
    assert sizes(f'{{"max_batch_size": 8, "model_config_list": [{entry}}}]}}') == 8
    assert read(folder, "max_batch_size: 0", "--max_batch_size=128").batchable is None, "a default that is said counts"


# --- files that are wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name: "m"\nmax_batch_size: eight', "2:17 .*Couldn't parse integer: eight"),
        ('name: "m"\n\ninput [ { name: "x" ', '3:.*Expected "}"'),
        ("instance_group [ { kind: KIND_TPU } ]", "1:26 .*has no value named KIND_TPU"),
        ("max_batch_size: -1", '"max_batch_size" must be a whole number of 0 or more'),
        ("instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]", "puts instances on CPU and GPU"),
        ("max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", "must not be over max_batch_size"),
        ("version_policy { specific { } }", '"version_policy" must be'),
    ],
)
def test_a_file_that_is_wrong_is_told_in_one_line(folder, text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        read(folder, text)
    assert str(folder / NAME) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "parameter" not in str(caught.value)


def test_what_changes_nothing_is_named_in_one_warning(folder, caplog):
    read(
        folder,
        """
        name: "other"
        max_batch_size: 8  # sequence_batching { }
        sort_of_new: 5
        model_warmup [ { name: "w" inputs { key: "x" value: { dims: [ 3 ] zero_data: true } } } ]
        optimization {
          cuda { graphs: false, busy_wait_events: true }
          execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] }
        }
        parameters: { key: "max_batch_size { }" value: { string_value: "7" } }
        input [ { name: "x" dims: [ 3, 1 ] reshape { shape: [ 3 ] } }, { name: "z" format: FORMAT_NCHW } ]
        """,
    )
    path = folder / NAME
    assert [record.getMessage() for record in caplog.records] == [
        f"model default: {path}: what it says of these changes nothing here: sort_of_new, model_warmup, "
        "optimization.cuda.busy_wait_events, optimization.execution_accelerators, parameters, input.format, "
        "input.reshape",
        f'model default: {path} says name: "other", which is not the name of its folder',
    ]


def test_without_protobuf_the_model_is_served_without_the_file(folder, monkeypatch, caplog):
    (folder / NAME).write_text(FULL)
    for made in (text_format.message_class, text_format._classes):
        made.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    model = configured(folder)
    assert with_file(model) is model
    assert f"{folder / NAME} is not read, and the model is served without it: protobuf is not installed" in caplog.text
    assert 'run pip install "stfs[grpc]"' in caplog.text
    monkeypatch.undo()
    assert with_file(model).batch.max_batch_size == 16


# --- inputs and outputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('max_batch_size: 8 input [{ name: "x" data_type: TYPE_FP32 dims: [3] }]', ""),
        ('input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 3] }]', ""),
        ('input [{ name: "x" data_type: TYPE_FP32 dims: [3] }]', ""),
        (
            'max_batch_size: 8 input [{ name: "x" data_type: TYPE_FP64 dims: [4] }] output [{ name: "z" }]',
            'input "x" is float64 [?, 4] there and float32 [?, 3] in the model; output "z" is none of y',
        ),
        ('max_batch_size: 8 input [{ name: "x" data_type: TYPE_FP32 dims: [-1, 3] }]', "float32 [?, ?, 3] there"),
        ('input [{ name: "x" data_type: TYPE_BF16 dims: [3] }]', "unknown dtype 'TYPE_BF16'"),
    ],
)
def test_a_model_that_tells_its_signature_keeps_it(folder, caplog, text, told):
    servable = load_servable(read(folder, text), folder / "1")
    (spec,) = servable.signatures["serving_default"].inputs
    assert (spec.name, spec.dtype_name, spec.shape) == ("x", "float32", (None, 3))
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)
    servable.close()


@pytest.fixture
def torchscript(tmp_path):
    torch = pytest.importorskip("torch")

    class Apart(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor):
            return left - right, right * 2

    (tmp_path / "t" / "1").mkdir(parents=True)
    torch.jit.script(Apart()).save(str(tmp_path / "t" / "1" / "model.pt"))
    return tmp_path / "t"


TWO = """
backend: "pytorch"
input [ { name: "INPUT__1" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "OUT__1" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "OUT__0" data_type: TYPE_FP32 dims: [ 3 ] } ]
"""


@pytest.mark.slow  # imports torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_torchscript_takes_its_signature_from_the_file(torchscript, caplog, isolation):
    model = read(torchscript, TWO + "max_batch_size: 8", f"--isolation={isolation}")
    servable = load_servable(model, torchscript / "1")
    try:
        signature = servable.signatures["serving_default"]
        assert [(spec.name, spec.shape) for spec in signature.inputs] == [
            ("INPUT__1", (None, 3)),
            ("INPUT__0", (None, 3)),
        ]
        assert [spec.name for spec in signature.outputs] == ["OUT__0", "OUT__1"]
        assert signature.batchable
        left, right = np.full((2, 3), 5, np.float32), np.full((2, 3), 2, np.float32)
        got = servable.run("serving_default", {"INPUT__1": right, "INPUT__0": left})
        np.testing.assert_array_equal(got["OUT__0"], left - right)
        np.testing.assert_array_equal(got["OUT__1"], right * 2)
        assert "does not fit" not in caplog.text
    finally:
        servable.close()


@pytest.mark.slow  # imports torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_rows_of_torchscript_stack_where_the_file_says_a_size(torchscript):
    whole = TWO.replace("dims: [ 3 ]", "dims: [ -1, 3 ]")
    for text, argv, batches in (
        (whole, (), False),
        (whole + "max_batch_size: 0", (), False),
        (whole, ("--max_batch_size=4",), True),
    ):
        servable = load_servable(read(torchscript, text, *argv), torchscript / "1")
        signature = servable.signatures["serving_default"]
        assert signature.batchable is batches
        assert signature.inputs[0].shape == (None, 3)
        servable.close()
    with pytest.raises(LoadFailed, match=rf"{NAME}: inputs\[0\]: unknown dtype 'TYPE_BF16'"):
        load_servable(read(torchscript, TWO.replace("FP32", "BF16")), torchscript / "1")


# --- a real server --------------------------------------------------------------------------------------------------


def told(server, name="m"):
    return server.get(f"/v2/models/{name}/config").json


def ask(server, rows, name="m"):
    body = {"inputs": [{"name": "x", "shape": [rows, 3], "datatype": "FP32", "data": list(range(rows * 3))}]}
    answer = server.post(f"/v2/models/{name}/infer", body)
    assert answer.status == 200, answer.body
    return answer.json["outputs"][0]["data"]


SERVED = """
max_batch_size: 2
dynamic_batching { preferred_batch_size: [ 2 ] max_queue_delay_microseconds: 100 }
instance_group [ { count: 2 kind: KIND_CPU } ]
version_policy: { all { } }
response_cache { enable: true }
"""


@pytest.mark.slow  # starts a server
def test_a_server_goes_by_the_file_and_a_load_by_name_reads_it_again(folder):
    write_linear(folder / "2", scale=3.0)
    (folder / NAME).write_text(SERVED)
    with running(str(folder), "--model_name=m", "--model_control=explicit", "--model_poll_interval_s=0") as server:
        config = told(server)
        assert config["max_batch_size"] == 2
        assert config["dynamic_batching"]["preferred_batch_size"] == [2]
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 100
        assert config["instance_group"][0]["count"] == 2
        assert config["version_policy"] == {"all": {}}
        assert config["response_cache"] == {"enable": True}
        assert server.get("/v2/models/m/versions/1/ready").status == 200
        # Five rows are three runs; the same five again are none.
        assert ask(server, 5) == ask(server, 5) == [3.0 * n for n in range(15)]
        (stats,) = server.get("/v2/models/m/versions/2/stats").json["model_stats"]
        assert {one["batch_size"] for one in stats["batch_stats"]} <= {1, 2}
        assert stats["execution_count"] == 3
        assert stats["inference_stats"]["cache_hit"]["count"] == 1

        (folder / NAME).write_text("max_batch_size: 4")
        assert server.post("/v2/repository/models/m/load", {}).status == 200
        config = told(server)
        assert (config["max_batch_size"], config["instance_group"][0]["count"]) == (4, 1)
        assert config["version_policy"] == {"latest": {"num_versions": 1}}
        assert "response_cache" not in config

        (folder / NAME).write_text("max_batch_size: 4\nmax_batch_sise: 4\nname: 5")
        refused = server.post("/v2/repository/models/m/load", {})
        assert refused.status == 400
        assert refused.error.startswith("failed to load 'm': Invalid protobuf file: ")
        assert f"{folder / NAME}" in refused.error
        assert " 3:7 : " in refused.error
        assert told(server)["max_batch_size"] == 4, "what was served goes on"

        (folder / NAME).write_text("max_batch_size: 6 optimization { cuda { graphs: true } }")
        override = {"parameters": {"config": '{"max_batch_size": 3}'}}
        assert server.post("/v2/repository/models/m/load", override).status == 200
        assert told(server)["max_batch_size"] == 3, "an override beats the file"
        assert told(server)["optimization"] == {"cuda": {"graphs": True}}
        assert ask(server, 1) == [0.0, 3.0, 6.0]


@pytest.mark.slow  # starts servers
def test_every_way_to_serve_a_folder_reads_it(folder, tmp_path):
    (folder / NAME).write_text("max_batch_size: 9")
    (tmp_path / "models.json").write_text(f'{{"model_config_list": [{{"name": "m", "base_path": "{folder}"}}]}}')
    with running(f"--model_config_file={tmp_path / 'models.json'}", "--workers=2", "--engine=replicated") as server:
        assert told(server)["max_batch_size"] == 9
        assert ask(server, 1) == [0.0, 2.0, 4.0]
    with running(
        f"--model_base_path={folder}", "--model_name=m", "--max_batch_size=7", module="seed_main", serve=False
    ) as server:
        assert told(server)["max_batch_size"] == 7


@pytest.mark.slow  # starts a server
def test_a_file_that_does_not_parse_ends_the_start(folder):
    (folder / NAME).write_text("max_batch_size: many")
    with pytest.raises(AssertionError) as caught, running(str(folder)):
        pass
    (line,) = [line for line in str(caught.value).splitlines() if NAME in line]
    assert "1:17 : " in line
    assert "Couldn't parse integer: many" in line
