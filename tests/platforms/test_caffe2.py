"""Caffe2 models as a user has them: files, what stands beside them, what is refused and how."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from caffe2_nets import S, fill, load, net, noise, operator, save
from running import SHARED_MODELS

from stfs import platforms
from stfs.errors import InvalidInput, LoadFailed
from stfs.platforms.caffe2 import Caffe2Platform
from stfs.platforms.caffe2_proto import read_net

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

LENET = SHARED_MODELS / "caffe2_lenet"


def two_layers(folder: Path, inputs: dict | None = None) -> tuple[Path, dict]:
    """``softmax(relu(x w + b) v + c)``, 6 numbers to 3 classes; and its weights."""
    w = {"w": noise(5, 6), "b": noise(5), "v": noise(3, 5), "c": noise(3)}
    operators = [
        operator("FC", ["x", "w", "b"], ["h"], called="hidden"),
        operator("Relu", ["h"], ["h"]),
        operator("FC", ["h", "v", "c"], ["z"]),
        operator("Softmax", ["z"], ["p"]),
    ]
    return save(folder, operators, ["p"], w, {"x": noise(1, 6)} if inputs is None else inputs), w


def expected(x, w):
    z = np.maximum(x @ w["w"].T + w["b"], 0) @ w["v"].T + w["c"]
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def lenet(folder: Path, described: dict | None = None) -> Path:
    if not LENET.is_dir():
        pytest.skip("the real LeNet is not beside this checkout")
    folder.mkdir(exist_ok=True)
    for name in ("init_net.pb", "predict_net.pb"):
        (folder / name).write_bytes((LENET / name).read_bytes())
    if described is not None:
        (folder / "value_info.json").write_text(json.dumps(described))
    return folder


def lenet_by_hand(images, weights):
    """The forward pass in float64, from the weights as the init net holds them."""

    def conv(x, w, b):
        windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
        return np.einsum("nchwij,mcij->nmhw", windows, w) + b[:, None, None]

    def pool(x):
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))

    x = np.maximum(pool(conv(images.astype(np.float64), weights["2"], weights["3"])), 0)
    x = np.maximum(pool(conv(x, weights["4"], weights["5"])), 0)
    return (x.reshape(len(x), 800) @ weights["6"].T + weights["7"]) @ weights["8"].T + weights["9"]


def test_the_real_lenet(tmp_path):
    folder = lenet(tmp_path / "lenet", {"1": [1, [64, 1, 28, 28]]})
    init = read_net(folder / "init_net.pb")
    weights = {
        op.outputs[0]: op.args.values("values", np.dtype("float64")).reshape(op.args.integers("shape"))
        for op in init.operators
    }
    assert weights["6"].shape == (500, 800)
    servable = load(folder)
    signature = servable.signatures[S]
    assert signature.batchable
    assert [(s.name, s.dtype_name, s.shape) for s in signature.inputs] == [("1", "float32", (None, 1, 28, 28))]
    assert [(s.name, s.dtype_name, s.shape) for s in signature.outputs] == [("26", "float32", (None, 10))]
    assert servable.platform == "caffe2"
    assert servable.runtime.startswith("onnxruntime ")
    images = noise(9, 1, 28, 28, low=0.0)
    want = lenet_by_hand(images, weights)
    have = servable.run(S, {"1": images})["26"]
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    for i in range(9):
        np.testing.assert_allclose(servable.run(S, {"1": images[i : i + 1]})["26"], have[i : i + 1], rtol=1e-4)
    assert platforms.detect(folder) is platforms.find("caffe2")


def test_the_error_without_a_shape_holds_one_that_works(tmp_path):
    folder = lenet(tmp_path / "lenet")
    with pytest.raises(LoadFailed, match="do not say what shape the input has") as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    decode = json.JSONDecoder().raw_decode
    first, end = decode(message, message.index("{"))
    second, _ = decode(message, message.index("{", end))
    assert first == {"1": [1, [1, 1, 28, 28]]}
    for name, content in (("value_info.json", first), ("signature.json", second)):
        (folder / name).write_text(json.dumps(content))
        assert load(folder).signatures[S].inputs[0].shape == (None, 1, 28, 28)
        (folder / name).unlink()


def test_callers_at_once_get_their_own_rows(tmp_path):
    folder, w = two_layers(tmp_path)
    servable = load(folder, threads=1)
    xs = [noise(3, 6, seed=i) for i in range(8)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(100):
            if not np.allclose(servable.run(S, {"x": xs[i]})["p"], expected(xs[i], w), rtol=1e-4):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_inputs_that_do_not_fit_are_refused(tmp_path):
    folder, _ = two_layers(tmp_path)
    signature = load(folder).signatures[S]
    for wrong in ({"x": np.zeros((1, 7), np.float32)}, {"y": np.zeros((1, 6), np.float32)}, {"x": np.array([b"a"])}):
        with pytest.raises(InvalidInput):
            signature.bind(
                {name: array.astype(object) if array.dtype.kind == "S" else array for name, array in wrong.items()}
            )


def test_closing_lets_the_session_go(tmp_path):
    folder, _ = two_layers(tmp_path)
    servable = load(folder)
    session = weakref.ref(servable.session)
    assert session() is not None
    servable.close()
    gc.collect()
    assert session() is None


def test_the_shape_of_rows_follows_from_a_first_layer(tmp_path):
    folder, w = two_layers(tmp_path, inputs={})
    servable = load(folder)
    assert [(s.name, s.shape) for s in servable.signatures[S].inputs] == [("x", (None, 6))]
    x = noise(4, 6)
    np.testing.assert_allclose(servable.run(S, {"x": x})["p"], expected(x, w), rtol=1e-4)


@pytest.mark.parametrize("rows", [None, -1, 1, 16])
def test_any_number_of_rows_in_the_description(tmp_path, rows):
    folder, w = two_layers(tmp_path)
    (folder / "value_info.json").write_text(json.dumps({"x": [1, [rows, 6]]}))
    servable = load(folder)
    assert servable.signatures[S].batchable
    assert servable.signatures[S].inputs[0].shape == (None, 6)
    x = noise(5, 6)
    np.testing.assert_allclose(servable.run(S, {"x": x})["p"], expected(x, w), rtol=1e-4)


def test_a_net_for_one_number_of_rows_keeps_it(tmp_path):
    x = noise(4, 6)
    save(tmp_path, [operator("Reshape", ["x"], ["y", "_"], shape=[2, 12])], ["y"], inputs={"x": x})
    servable = load(tmp_path)
    assert not servable.signatures[S].batchable
    assert servable.signatures[S].inputs[0].shape == (4, 6)
    np.testing.assert_array_equal(servable.run(S, {"x": x})["y"], x.reshape(2, 12))


def test_a_net_whose_rows_mix_runs_one_row(tmp_path, caplog):
    x = noise(1, 6)
    save(tmp_path, [operator("ReduceMean", ["x"], ["y"], axes=[0])], ["y"], inputs={"x": x})
    servable = load(tmp_path)
    assert not servable.signatures[S].batchable
    assert servable.signatures[S].inputs[0].shape == (1, 6)
    assert "keeps its fixed batch of 1" in caplog.text


def test_an_output_that_is_called_like_an_input(tmp_path):
    save(tmp_path, [operator("Relu", ["data"], ["data"])], ["data"], inputs={"data": noise(1, 20)})
    servable = load(tmp_path)
    x = noise(3, 20)
    have = servable.run(S, {"data": x})
    assert list(have) == ["data"]
    np.testing.assert_array_equal(have["data"], np.maximum(x, 0))


def test_a_net_that_names_no_outputs(tmp_path):
    folder = save(tmp_path, [operator("Relu", ["x"], ["y"])], [], inputs={"x": noise(1, 9)})
    with pytest.raises(LoadFailed, match=r"predict_net\.pb: names no outputs, so it may be cut off"):
        load(folder)
    told = {"inputs": [{"name": "x", "shape": [None, 9]}], "outputs": [{"name": "y"}]}
    (folder / "signature.json").write_text(json.dumps(told))
    assert list(load(folder).run(S, {"x": noise(2, 9)})) == ["y"]


def test_a_signature_file_names_inputs_and_outputs(tmp_path):
    folder, _ = two_layers(tmp_path / "model", inputs={})
    content = {"inputs": [{"data_name": "x", "data_shape": [1, 6]}], "outputs": [{"name": "z"}, {"name": "p"}]}
    (folder / "signature.json").write_text(json.dumps(content))
    x = noise(2, 6)
    have = load(folder).run(S, {"x": x})
    assert list(have) == ["z", "p"]
    np.testing.assert_allclose(np.exp(have["z"]) / np.exp(have["z"]).sum(1, keepdims=True), have["p"], rtol=1e-4)
    (folder / "signature.json").unlink()
    for name in ("elsewhere.json", "value_info.json"):
        apart = tmp_path / name
        apart.write_text(json.dumps(content if name == "elsewhere.json" else {"x": [1, [1, 6]]}))
        np.testing.assert_allclose(load(folder, signature_file=apart).run(S, {"x": x})["p"], have["p"], rtol=1e-6)
    with pytest.raises(LoadFailed, match="cannot be read"):
        load(folder, signature_file=tmp_path / "gone" / "value_info.json")


@pytest.mark.parametrize(
    "names", [("init_net.pb", "predict_net.pb"), ("a_init_net.pb", "a_predict_net.pb"), ("init_net.pb", "exec_net.pb")]
)
def test_names_of_the_files(tmp_path, names):
    _, w = two_layers(tmp_path / "from")
    folder = tmp_path / "to"
    folder.mkdir()
    for old, new in zip(("init_net.pb", "predict_net.pb"), names, strict=True):
        (folder / new).write_bytes((tmp_path / "from" / old).read_bytes())
        assert Caffe2Platform().detect(folder) == (new == names[1])
    (folder / "value_info.json").write_text('{"x": [1, [1, 6]]}')
    x = noise(2, 6)
    for path in (folder, folder / names[0], folder / names[1]):
        assert platforms.detect(path) is platforms.find("caffe2")
        np.testing.assert_allclose(load(path).run(S, {"x": x})["p"], expected(x, w), rtol=1e-4)


def test_two_models_in_one_folder(tmp_path):
    two_layers(tmp_path / "from")
    for prefix in ("a", "b"):
        for name in ("init_net.pb", "predict_net.pb"):
            (tmp_path / f"{prefix}_{name}").write_bytes((tmp_path / "from" / name).read_bytes())
    with pytest.raises(LoadFailed, match=r"which is the model, a_predict_net\.pb and b_predict_net\.pb"):
        load(tmp_path)
    (tmp_path / "b_value_info.json").write_text('{"x": [1, [1, 6]]}')
    assert load(tmp_path / "b_predict_net.pb").signatures[S].batchable


def test_nets_in_text(tmp_path):
    from google.protobuf import text_format

    two_layers(tmp_path / "from")
    w = {"w": noise(3, 6), "b": noise(3)}
    made = {
        "init_net": net([fill(name, array) for name, array in w.items()]),
        "predict_net": net([operator("FC", ["x", "w", "b"], ["y"])], ["x", *w], ["y"]),
    }
    for name, content in made.items():
        (tmp_path / f"{name}.pbtxt").write_text(
            text_format.MessageToString(content) + "device_option { device_type: 1 }"
        )
    (tmp_path / "value_info.json").write_text('{"x": [1, [1, 6]]}')
    assert Caffe2Platform().detect(tmp_path)
    x = noise(2, 6)
    np.testing.assert_allclose(load(tmp_path).run(S, {"x": x})["y"], x @ w["w"].T + w["b"], rtol=1e-4, atol=1e-5)
    (tmp_path / "predict_net.pbtxt").write_text("op { type: ")
    with pytest.raises(LoadFailed, match=r"predict_net\.pbtxt: is damaged, or not a Caffe2 net"):
        load(tmp_path)


def test_what_is_no_caffe2_model(tmp_path):
    claims = Caffe2Platform().detect
    assert not claims(tmp_path)
    assert not claims(tmp_path / "gone")
    (tmp_path / "saved_model.pb").write_bytes(b"")
    (tmp_path / "variables").mkdir()
    assert not claims(tmp_path)
    (tmp_path / "predict_net.pb").write_bytes(b"")
    assert not claims(tmp_path)
    (tmp_path / "other_init_net.pb").write_bytes(b"")
    assert not claims(tmp_path)
    assert not claims(tmp_path / "predict_net.pb")
    with pytest.raises(LoadFailed, match="no pair of nets"):
        load(tmp_path)


def test_what_the_outputs_do_not_need_is_left_out(tmp_path):
    """Operators for training, dummies for inputs, weights of what is gone."""
    folder, w = two_layers(tmp_path)
    predict = read_net(folder / "predict_net.pb")
    operators = [
        operator("FC", ["x", "w", "b"], ["h"]),
        operator("Relu", ["h"], ["h"]),
        operator("FC", ["h", "v", "c"], ["z"]),
        operator("Softmax", ["z"], ["p"]),
        operator("Accuracy", ["p", "label"], ["accuracy"]),
    ]
    init = [
        *(fill(name, array) for name, array in w.items()),
        operator("ConstantFill", [], ["x"], shape=[1]),
        operator("GaussianFill", [], ["head"], shape=[9]),
    ]
    (folder / "init_net.pb").write_bytes(net(init).SerializeToString())
    made = net(operators, ["x", "label", *w], predict.external_outputs)
    (folder / "predict_net.pb").write_bytes(made.SerializeToString())
    x = noise(2, 6)
    for described in (True, False):
        if not described:
            (folder / "value_info.json").unlink()  # then the dummy tells which blob is the input
        np.testing.assert_allclose(load(folder).run(S, {"x": x})["p"], expected(x, w), rtol=1e-4)


def test_every_missing_operator_is_named(tmp_path):
    operators = [
        operator("RoIAlign", ["x"], ["r"], called="align"),
        operator("Relu", ["r"], ["s"]),
        operator("GenerateProposals", ["s"], ["g"]),
        operator("SoftmaxWithLoss", ["g"], ["y", "loss"]),
    ]
    save(tmp_path, operators, ["y"], inputs={"x": noise(1, 6)})
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f'{tmp_path / "predict_net.pb"}: the converter lacks operator 1 "align" (RoIAlign), '
        'operator 3 "g" (GenerateProposals), operator 4 "y" (SoftmaxWithLoss)'
    )
    assert "SoftmaxWithLoss belongs to training" in message


def test_an_output_that_is_not_computed(tmp_path):
    operators = [operator("Dropout", ["x"], ["d", "mask"], is_test=1), operator("Mul", ["d", "mask"], ["y"])]
    save(tmp_path, operators, ["y"], inputs={"x": noise(1, 6)})
    with pytest.raises(LoadFailed, match=r'output 2 of operator 1 "d" \(Dropout\), "mask", is not computed'):
        load(tmp_path)
    save(tmp_path, operators[:1], ["mask"], inputs={"x": noise(1, 6)})
    with pytest.raises(LoadFailed, match='"mask", is not computed'):
        load(tmp_path)


@pytest.mark.parametrize("name", ["init_net.pb", "predict_net.pb"])
def test_files_that_are_cut_off(tmp_path, name):
    folder, w = two_layers(tmp_path)
    whole = (folder / name).read_bytes()
    x, refused = noise(2, 6), []
    for length in range(len(whole)):
        (folder / name).write_bytes(whole[:length])
        try:
            servable = load(folder)
        except LoadFailed as error:
            refused.append(str(error))
        else:  # no more is gone than names of blobs at the end, which serving does not need
            np.testing.assert_allclose(servable.run(S, {"x": x})["p"], expected(x, w), rtol=1e-4)
    assert len(refused) > 0.9 * len(whole)
    assert all(str(folder) in told and name in told and "\n" not in told for told in refused)


def test_files_of_another_kind(tmp_path):
    import onnx

    folder, _ = two_layers(tmp_path)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    for content in (b"", b"\x80\x04garbage", b"{}", onnx.helper.make_model(graph).SerializeToString()):
        (folder / "predict_net.pb").write_bytes(content)
        with pytest.raises(LoadFailed, match=r"predict_net\.pb: is damaged, or not a Caffe2 net"):
            load(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ("{}", "must be an object"),
        ('{"x": [1, 6]}', '"x" must be a number for the dtype and a shape'),
        ('{"x": [8, [1, 6]]}', '"x": 8 is no dtype'),
        ('{"x": [1, [1, "a"]]}', "list of sizes"),
        ('{"x": [1, [1, null]]}', r"\[1, \?\], but only the first dimension"),
        ('{"data": [1, [1, 6]]}', r'"data" is no input of predict_net\.pb, which takes "x"'),
        ('{"x": [1, [1, 7]]}', r'operator 1 "hidden" \(FC\): 7 numbers do not go with weights for 6'),
    ],
)
def test_descriptions_that_are_wrong(tmp_path, content, reason):
    folder, _ = two_layers(tmp_path)
    (folder / "value_info.json").write_text(content)
    with pytest.raises(LoadFailed, match=reason) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_input_that_is_not_described(tmp_path):
    save(tmp_path, [operator("Add", ["a", "b"], ["y"])], ["y"], inputs={"a": noise(1, 3)})
    with pytest.raises(LoadFailed, match=r'it reads "b", which init_net\.pb does not fill and which no input brings'):
        load(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_numbers_as_caffe2_and_as_newer_writers_lay_them(tmp_path, packed):
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    numbers = np.array([1.5, -2.0, 3.25], "<f4")
    floats = field(5, numbers.tobytes()) if packed else b"".join(b"\x2d" + v.tobytes() for v in numbers)
    ints = field(6, b"\x03\x01") if packed else b"\x30\x03\x30\x01"
    op = field(2, b"w") + field(4, b"GivenTensorFill")
    op += field(5, field(1, b"values") + floats) + field(5, field(1, b"shape") + ints)
    (tmp_path / "init_net.pb").write_bytes(field(2, op))
    (arguments,) = (op.args for op in read_net(tmp_path / "init_net.pb").operators)
    np.testing.assert_array_equal(arguments.values("values", np.dtype("float32")), numbers)
    assert arguments.integers("shape") == [3, 1]


def test_other_messages_called_caffe2_do_no_harm(tmp_path, python):
    two_layers(tmp_path)
    code = """
import sys
from pathlib import Path
from google.protobuf import descriptor_pb2, descriptor_pool
other = descriptor_pb2.FileDescriptorProto(name="caffe2/proto/caffe2.proto", package="caffe2")
other.message_type.add(name="NetDef")
descriptor_pool.Default().Add(other)
from stfs.platforms.base import LoadOptions
from stfs.platforms.caffe2 import Caffe2Platform
print(Caffe2Platform().load(Path(sys.argv[1]), LoadOptions()).signature.inputs[0].name)
"""
    assert python(code, tmp_path) == "x"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "google.protobuf"])
def test_without_what_it_needs(tmp_path, python, package):
    two_layers(tmp_path)
    code = """
import sys
sys.modules[sys.argv[2]] = None
from pathlib import Path
from stfs import platforms
from stfs.errors import PlatformMissing
from stfs.platforms.base import LoadOptions
platform = platforms.find("caffe2")
assert platform.detect(Path(sys.argv[1]))
try:
    platform.load(Path(sys.argv[1]), LoadOptions())
except PlatformMissing as error:
    print(error)
"""
    assert "stfs[caffe2]" in python(code, tmp_path, package)
