import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stfs.model_server
from stfs.errors import ConfigError
from stfs.model_server import text_format

HERE = Path(stfs.model_server.__file__).parent
PROTOS = ("model_server.proto", "triton.proto")


def test_reads_what_the_documentation_shows(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(
        """
        # two models
        model_config_list: {
          config {
            name: 'first', base_path: "/models/first"; model_platform: "tensorflow"
            model_version_policy { specific { versions: 42 versions: [43, 44] } }
            version_labels { key: 'stable' value: 42 }
            version_labels { key: "canary" value: 43 }
            logging_config { sampling_config { sampling_rate: 0.1 } }
          }
          config: < name: "sec" "ond" base_path: "/models/second" >
        }
        """
    )
    first, second = text_format.read(path, "ModelServerConfig").model_config_list.config
    assert list(first.model_version_policy.specific.versions) == [42, 43, 44]
    assert dict(first.version_labels) == {"stable": 42, "canary": 43}
    assert (second.name, second.base_path) == ("second", "/models/second")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("model_config_list { config { nam: 'm' } }", "1:30"),
        ("model_config_list {\n config {\n", "3:1|2:"),
        ("{}", "1:"),
        ('{"model_config_list": []}', "1:"),
        ("model_config_list { config { version_labels { key: 'a' value: 99999999999999999999 } } }", "1:"),
        ("model_config_list { config { name: 7 } }", "1:36"),
    ],
)
def test_what_does_not_parse_is_told_with_its_place(tmp_path, content, told):
    path = tmp_path / "models.config"
    path.write_text(content)
    with pytest.raises(
        ConfigError, match=f"Error parsing text-format tensorflow.serving.ModelServerConfig: .*({told})"
    ) as caught:
        text_format.read(path, "ModelServerConfig")
    assert f"Invalid protobuf file: '{path}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=f"cannot read {tmp_path / 'none'}: No such file"):
        text_format.read(tmp_path / "none", "SSLConfig")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        text_format.read(tmp_path / "binary", "SSLConfig")


def test_other_fields_of_tensorflows_own_message_are_passed_over():
    config = text_format.parse(
        "intra_op_parallelism_threads: 3 graph_options { rewrite_options { } } gpu_options { allow_growth: true }",
        "ConfigProto",
    )
    assert config.intra_op_parallelism_threads == 3
    assert config.gpu_options.allow_growth


@given(st.text(max_size=60))
def test_any_text_parses_or_is_refused(content):
    try:
        text_format.parse(content, "ModelServerConfig")
    except ConfigError as error:
        assert "Error parsing text-format" in str(error)  # noqa: PT017 - most texts, not all, are refused


def test_the_descriptors_are_those_of_the_proto_file(tmp_path):
    pytest.importorskip("grpc_tools")
    made = tmp_path / "made.binpb"
    command = ["-m", "grpc_tools.protoc", f"--proto_path={HERE}", "--include_imports", f"--descriptor_set_out={made}"]
    subprocess.run([sys.executable, *command, *PROTOS], check=True)
    described = [_described(path) for path in (made, HERE / "model_server.binpb")]
    assert described[0] == described[1], "run `make protos`"


def _described(path):
    from google.protobuf import descriptor_pb2

    files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
    return {file.name: file for file in files if file.name in PROTOS}


# --- Triton's, of which fields that are not known are passed over ----------------------------------------------------


def known(path, content):
    path.write_text(content)
    return text_format.read_known(path, "inference.ModelConfig")


def test_tritons_file_is_told_as_in_json(tmp_path):
    told, unknown = known(
        tmp_path / "config.pbtxt",
        """
        name: "lines [1] # no comment"  # a comment { with: [
        input [ { name: 'x' data_type: TYPE_INT64 dims: [ -1, 4 ] reshape { shape: [ ] } } ]
        dynamic_batching { priority_queue_policy { key: 1 value { timeout_action: DELAY max_queue_size: 2 } } }
        instance_group [ { count: 2 gpus: [ 0, 1 ] }, { kind: KIND_GPU } ]
        version_policy: < all: < > >
        """,
    )
    assert unknown == ()
    assert told == {
        "name": "lines [1] # no comment",
        "input": [{"name": "x", "data_type": "TYPE_INT64", "dims": ["-1", "4"], "reshape": {}}],
        "dynamic_batching": {"priority_queue_policy": {"1": {"timeout_action": "DELAY", "max_queue_size": 2}}},
        "instance_group": [{"count": 2, "gpus": [0, 1]}, {"kind": "KIND_GPU"}],
        "version_policy": {"all": {}},
    }
    assert known(tmp_path / "config.pbtxt", "max_batch_size: 0")[0] == {"max_batch_size": 0}
    assert known(tmp_path / "config.pbtxt", "")[0] == {}


@pytest.mark.parametrize(
    ("content", "unknown"),
    [
        ("new: 5 newer { a: 1 } newest < > new: 6", ("new", "newer", "newest")),
        ("list [ { name: 'a' in { b: [1] } }, { other: 2 } ] max_batch_size: 1", ("list",)),
        ("list\n[ 1, 2 ] text: \"a\" 'b {' words: [A, B]", ("list", "text", "words")),
        ("instance_group [ { rate: { resources [ { x: 1 } ] } count: 1 }, { host: 'a' count: 2 } ]",
         ("instance_group.rate", "instance_group.host")),
        ("optimization { cuda { graphs: true spec { n: 1 } } graph { level: 1 } } priority: 1",
         ("optimization.cuda.spec", "optimization.graph", "priority")),
        ("input { name: 'x' format: FORMAT_NCHW, dims: 3; optional: true }", ("input.format", "input.optional")),
    ],
)  # fmt: skip
def test_fields_that_are_passed_over_are_named(tmp_path, content, unknown):
    assert known(tmp_path / "config.pbtxt", content)[1] == unknown


@given(st.text(alphabet="ab_:{}<>[],;#\"'\\ \n1", max_size=40))
def test_any_text_of_tritons_parses_or_is_refused(content):
    try:
        message = text_format.parse(content, "inference.ModelConfig", lenient=True)
    except ConfigError as error:
        assert "Error parsing text-format inference.ModelConfig" in str(error)  # noqa: PT017 - not all are refused
    else:
        text_format._unknown(content, message.DESCRIPTOR)


def test_fields_are_those_of_tritons_message():
    model_config_pb2 = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    checked = []

    def check(ours, theirs):
        known = {field.name: field for field in theirs.fields}
        for field in ours.fields:
            other = known[field.name]
            assert (field.number, field.type) == (other.number, other.type), field.full_name
            assert field.is_repeated == other.is_repeated, field.full_name
            checked.append(field.full_name)
            if field.message_type is not None:
                check(field.message_type, other.message_type)
            if field.enum_type is not None:
                assert {v.name: v.number for v in field.enum_type.values} == {
                    v.name: v.number for v in other.enum_type.values
                }

    check(text_format.message_class("inference.ModelConfig").DESCRIPTOR, model_config_pb2.ModelConfig.DESCRIPTOR)
    assert len(checked) > 40


@pytest.mark.slow
def test_fields_are_those_of_the_public_messages():
    """Names, numbers and types, so that what clients and files say is read as it is meant."""
    pytest.importorskip("tensorflow")
    model_server_config_pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    from tensorflow.core.protobuf import config_pb2

    public = {
        "ModelServerConfig": model_server_config_pb2.ModelServerConfig,
        "ModelConfigList": model_server_config_pb2.ModelConfigList,
        "ModelConfig": model_server_config_pb2.ModelConfig,
        "ConfigProto": config_pb2.ConfigProto,
        "GPUOptions": config_pb2.GPUOptions,
    }
    for name, theirs in public.items():
        known = {field.name: field for field in theirs.DESCRIPTOR.fields}
        for field in text_format.message_class(name).DESCRIPTOR.fields:
            other = known[field.name]
            assert (field.number, field.type) == (other.number, other.type), f"{name}.{field.name}"


def test_protobufs_common_pool_stays_as_it_was():
    code = (
        "from google.protobuf import descriptor_pool; from stfs.model_server import text_format;"
        "text_format.message_class('ModelConfig');"
        "descriptor_pool.Default().FindMessageTypeByName('tensorflow.serving.ModelConfig')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "KeyError" in done.stderr
