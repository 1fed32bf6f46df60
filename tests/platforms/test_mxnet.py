"""MXNet models against MXNet's own Python package, which computes the answers in a process of its own, and numpy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from mxnet_params_file import params_file
from running import SHARED_MODELS, TESTS, running

from stfs.errors import InvalidRequest, LoadFailed, PlatformMissing
from stfs.platforms import detect
from stfs.platforms.base import LoadOptions
from stfs.platforms.mxnet import MxnetPlatform, find_library
from stfs.platforms.mxnet_params import read_params
from stfs.platforms.mxnet_runner import MOST_EXECUTORS, MOST_ROWS

S = "serving_default"
MLP = SHARED_MODELS / "mxnet_mlp"

needs_mxnet = pytest.mark.skipif(find_library() is None, reason="MXNet is not installed: stfs platforms install mxnet")
needs_mlp = pytest.mark.skipif(not MLP.is_dir(), reason="shared/models is not beside the checkout")


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """A folder of models and recorded answers; MXNet itself makes both."""
    pytest.importorskip("scipy")
    folder = tmp_path_factory.mktemp("mxnet")
    command = [sys.executable, "-c", "import sys; sys.path[:0] = sys.argv[2:4]; import runpy; del sys.argv[2:4]; "]
    command[-1] += "runpy.run_module('mxnet_zoo', run_name='__main__')"
    done = subprocess.run(
        [*command, str(folder), str(TESTS.parent), str(TESTS)], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return folder


def load(path, **options):
    return MxnetPlatform().load(path, LoadOptions(**options))


def specs(side):
    return [(spec.name, spec.dtype_name, spec.shape) for spec in side]


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    for file in target.iterdir():
        file.chmod(0o644)
    return target


@needs_mxnet
@needs_mlp
class TestRealModel:
    def test_answers(self):
        servable = load(MLP)
        signature = servable.signatures[S]
        assert servable.runtime == "MXNet 1.9.1, CPU"
        assert signature.batchable
        assert specs(signature.inputs) == [("data", "float32", (None, 2))]
        assert specs(signature.outputs) == [("lro", "float32", (None, 1))]
        assert servable.run(S, {"data": np.array([[0, 1]], "float32")})["lro"].item() == pytest.approx(1.630976)
        servable.close()

    def test_any_number_of_rows(self):
        """The model is a weighted sum, so numpy knows its answers; buckets of rows and pieces must not show."""
        params = read_params(MLP / "mx_mlp-0001.params")
        servable = load(MLP)
        for rows in (0, 1, 2, 3, 5, 31, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS + 7):
            x = np.random.default_rng(rows).normal(size=(rows, 2)).astype("float32")
            wanted = x @ params["arg:fc1_weight"].T + params["arg:fc1_bias"]
            answer = servable.run(S, {"data": x})["lro"]
            assert answer.shape == (rows, 1)
            np.testing.assert_allclose(answer, wanted, atol=1e-5)

    def test_answers_are_the_callers(self):
        servable = load(MLP)
        first = servable.run(S, {"data": np.array([[0, 1]], "float32")})["lro"]
        servable.run(S, {"data": np.array([[5, 5]], "float32")})
        assert first.item() == pytest.approx(1.630976)

    def test_wrong_inputs_are_refused(self):
        signature = load(MLP).signatures[S]
        for wrong, problem in (
            ({"data": np.zeros((1, 3), "float32")}, r'"data": shape \[1, 3\] does not match \[\?, 2\]'),
            ({"data": np.array([[b"a", b"b"]], object)}, '"data": dtype string cannot be used as float32'),
            ({"dta": np.zeros((1, 2), "float32")}, '"data": missing'),
            ({"data": np.zeros((1, 2)), "lin_reg_label": np.zeros((1, 1))}, '"lin_reg_label": unknown'),
        ):
            with pytest.raises(InvalidRequest, match=problem):
                signature.bind(wrong)

    def test_nan_stays_in_its_row(self):
        servable = load(MLP)
        answer = servable.run(S, {"data": np.array([[np.nan, 1], [0, 1], [1, np.nan]], "float32")})["lro"]
        assert np.isnan(answer[[0, 2]]).all()
        assert answer[1].item() == pytest.approx(1.630976)

    def test_files_may_be_named_in_many_ways(self, tmp_path):
        for path in (MLP / "mx_mlp-symbol.json", MLP / "mx_mlp-0001.params", MLP / "mx_mlp"):
            found = detect(path)
            assert found is not None
            assert found.name == "mxnet"
            assert load(path).signatures[S].batchable

    def test_the_highest_epoch_is_taken_unless_one_is_named(self, tmp_path):
        folder = copied(MLP, tmp_path / "m")
        content = bytearray((folder / "mx_mlp-0001.params").read_bytes())
        bias = np.float32(0.80086350440979).tobytes()
        at = content.index(bias)
        content[at : at + 4] = np.float32(10).tobytes()
        (folder / "mx_mlp-0012.params").write_bytes(content)
        (folder / "other-0099.params").write_bytes(b"of another model")
        x = {"data": np.array([[0, 0]], "float32")}
        assert load(folder).run(S, x)["lro"].item() == 10
        assert load(folder / "mx_mlp-0001.params").run(S, x)["lro"].item() == pytest.approx(0.8008635)

    def test_without_a_signature_file_shapes_come_from_the_weights(self, tmp_path):
        folder = copied(MLP, tmp_path / "m")
        (folder / "mx_mlp-signature.json").unlink()
        signature = load(folder).signatures[S]
        assert signature.batchable
        assert specs(signature.inputs) == [("data", "float32", (None, 2))]
        assert specs(signature.outputs) == [("lro_output", "float32", (None, 1))]

    @pytest.mark.slow
    def test_is_served_by_its_prefix(self):
        """The way in which MXNet itself names a checkpoint."""
        home = {"STFS_HOME": os.environ["STFS_HOME"]}
        with running(f"--model_base_path={MLP / 'mx_mlp'}", "--model_platform=mxnet", env=home) as server:
            answer = server.post("/", {"data": {"data": [[0, 1], [0, 1]]}})
            assert answer.status == 200
            assert answer.json == {"lro": [[pytest.approx(1.630976)]] * 2}
            assert server.post("/", {"data": {"data": [[0, 1, 2]]}}).status == 400

    @pytest.mark.slow
    def test_concurrent_callers_get_their_own_rows(self):
        params = read_params(MLP / "mx_mlp-0001.params")
        servable = load(MLP)
        wrong = []

        def call(seed):
            own = np.random.default_rng(seed)
            for _ in range(200):
                x = own.normal(size=(int(own.integers(1, 40)), 2)).astype("float32")
                wanted = x @ params["arg:fc1_weight"].T + params["arg:fc1_bias"]
                if not np.allclose(servable.run(S, {"data": x})["lro"], wanted, atol=1e-5):
                    wrong.append(seed)

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


@needs_mxnet
@pytest.mark.slow
class TestAgainstMxnetItself:
    @pytest.mark.parametrize(
        ("name", "input_", "outputs", "batches"),
        [
            ("convolution", ("float32", (None, 1, 8, 8)), [("dense0_fwd_output", "float32", (None, 5))], True),
            ("softmax", ("float32", (None, 5)), [("softmax_output", "float32", (None, 3))], True),
            # The index comes out with the dtype that the input has, which the predict interface gets wrong.
            ("lstm", ("int32", (None, 3)), [("dense", "float32", (None, 2)), ("argmax", "int32", (None,))], True),
            ("double", ("float64", (None, 4)), [("dense1_fwd_output", "float64", (None, 3))], True),
            ("any_size", ("float32", (None, 3, None, None)), [("conv2", "float32", (None, 1, None, None))], True),
            (
                "halves",
                ("float32", (None, 4)),
                [("slicechannel", "float32", (None, 2)), ("_mulscalar", "float32", (None, 2))],
                True,
            ),
            # Every row changes the others' answers, so only the number of rows that was promised is taken.
            ("centred", ("float32", (4, 3)), [("fc_output", "float32", (4, 2))], False),
        ],
    )
    def test_signature_and_answers(self, zoo, name, input_, outputs, batches):
        servable = load(zoo / name)
        signature = servable.signatures[S]
        assert specs(signature.inputs) == [("data", *input_)]
        assert [(s.dtype_name, s.shape) for s in signature.outputs] == [tuple(output[1:]) for output in outputs]
        for spec, (part, *_) in zip(signature.outputs, outputs, strict=True):
            assert part in spec.name
        assert signature.batchable == batches
        recorded = np.load(zoo / f"{name}.npz")
        answers = servable.run(S, signature.bind({"data": recorded["x"]}))
        for i, spec in enumerate(signature.outputs):
            np.testing.assert_allclose(answers[spec.name], recorded[f"y{i}"], rtol=1e-5, atol=1e-6)
            assert answers[spec.name].dtype == spec.dtype
        if batches:
            alone = [servable.run(S, {"data": row[None]}) for row in recorded["x"]]
            for spec in signature.outputs:
                together = np.concatenate([answer[spec.name] for answer in alone])
                np.testing.assert_allclose(together, answers[spec.name], rtol=1e-4, atol=1e-5)
        servable.close()

    def test_more_shapes_than_executors_are_kept(self, zoo):
        """A shift of the picture shifts the answer: a convolution's answers at any size follow from one size."""
        servable = load(zoo / "any_size")
        picture = np.load(zoo / "any_size.npz")["x"]
        whole = np.load(zoo / "any_size.npz")["y0"]
        sizes = [(height, width) for height in (5, 8, 10) for width in range(4, 12)]
        assert len(sizes) > MOST_EXECUTORS
        for _ in range(2):
            for height, width in sizes:
                (answer,) = servable.run(S, {"data": picture[:, :, :height, :width]}).values()
                # But for the edge, where the padding is.
                np.testing.assert_allclose(
                    answer[..., : height - 1, : width - 1], whole[..., : height - 1, : width - 1], atol=1e-5
                )

    def test_several_sizes_at_once(self, zoo):
        """Executors of one model run side by side; what they share is only read."""
        servable = load(zoo / "convolution")
        recorded = np.load(zoo / "convolution.npz")
        wrong = []

        def call(seed):
            own = np.random.default_rng(seed)
            for _ in range(50):
                rows = own.integers(0, len(recorded["x"]), int(own.integers(1, 9)))
                (answer,) = servable.run(S, {"data": recorded["x"][rows]}).values()
                if not np.allclose(answer, recorded["y0"][rows], atol=1e-5):
                    wrong.append(seed)

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []

    def test_sizes_that_the_graph_cannot_take(self, zoo, tmp_path):
        folder = copied(zoo / "convolution", tmp_path / "m")
        said = {"inputs": [{"name": "data", "shape": [None, 1, None, None]}]}
        (folder / "net-signature.json").write_text(json.dumps(said))
        servable = load(folder)
        with pytest.raises(
            InvalidRequest, match=r'does not take inputs of these shapes, "data" \[1, 1, 9, 20\]: .*dense'
        ):
            servable.run(S, {"data": np.zeros((1, 1, 9, 20), "float32")})
        recorded = np.load(zoo / "convolution.npz")
        (answer,) = servable.run(S, {"data": recorded["x"]}).values()
        np.testing.assert_allclose(answer, recorded["y0"], atol=1e-5)

    def test_asks_for_a_signature_file_and_shows_one(self, zoo, tmp_path):
        folder = copied(zoo / "convolution", tmp_path / "m")
        (folder / "net-signature.json").unlink()
        with pytest.raises(LoadFailed, match=r"does not tell the shape of data; write it into net-signature") as caught:
            load(folder)
        example = json.loads(str(caught.value)[str(caught.value).index("{") :])
        assert example["inputs"] == [{"name": "data", "dtype": "float32", "shape": [None, 1, 224, 224]}]
        example["inputs"][0]["shape"] = [None, 1, 8, 8]
        (folder / "net-signature.json").write_text(json.dumps({"inputs": example["inputs"]}))
        assert load(folder).signatures[S].batchable

    @pytest.mark.parametrize(
        ("said", "problem"),
        [
            ({"inputs": [{"name": "dat", "shape": [1, 5]}]}, 'the model has no input "dat"; it takes data'),
            ({"inputs": [{"name": "data", "shape": [1, 6]}]}, r"fc1: Shape inconsistent, Provided = \[4,5\]"),
            ({"inputs": [{"name": "data"}]}, '"shape" is missing'),
            ({"inputs": [{"name": "data", "dtype": "string", "shape": [1, 5]}]}, "MXNet has no tensors of string"),
            ({"inputs": [{"name": "fc1_weight", "shape": [1]}]}, 'the model has no input "fc1_weight"'),
            (
                {"inputs": [{"name": "data", "shape": [1, 5]}], "outputs": [{"name": "a"}, {"name": "b"}]},
                "lists the outputs a, b; the model gives softmax_output",
            ),
        ],
    )
    def test_wrong_signature_files(self, zoo, tmp_path, said, problem):
        folder = copied(zoo / "softmax", tmp_path / "m")
        (folder / "net-signature.json").write_text(json.dumps(said))
        with pytest.raises(LoadFailed, match=problem) as caught:
            load(folder)
        assert str(folder) in str(caught.value)

    def test_an_output_may_be_renamed_or_left_out(self, zoo, tmp_path):
        folder = copied(zoo / "halves", tmp_path / "m")
        recorded = np.load(zoo / "halves.npz")
        inputs = [{"name": "data", "shape": [None, 4]}]
        for outputs in (["first", "second"], ["_mulscalar0"]):
            said = {"inputs": inputs, "outputs": [{"name": name} for name in outputs]}
            (folder / "net-signature.json").write_text(json.dumps(said))
            answers = load(folder).run(S, {"data": recorded["x"]})
            assert list(answers) == outputs
            np.testing.assert_allclose(answers[outputs[-1]], recorded["y1"], rtol=1e-5)

    def test_parameters_of_another_model(self, zoo, tmp_path):
        folder = copied(zoo / "softmax", tmp_path / "m")
        shutil.copyfile(zoo / "double" / "net-0000.params", folder / "net-0008.params")
        with pytest.raises(LoadFailed, match=r"net-0008.params: is not of net-symbol.json, which has no dense1_bias"):
            load(folder)

    def test_parameters_for_python_code_only(self, zoo, tmp_path):
        folder = copied(zoo / "softmax", tmp_path / "m")
        shutil.copyfile(zoo / "parameters_only" / "net-0000.params", folder / "net-0008.params")
        with pytest.raises(LoadFailed, match=r"as save_parameters writes them: write the model with net.export"):
            load(folder)

    def test_parameters_of_the_wrong_shape(self, zoo, tmp_path):
        folder = copied(zoo / "softmax", tmp_path / "m")
        symbol = folder / "net-symbol.json"
        symbol.write_text(symbol.read_text().replace('"num_hidden": "4"', '"num_hidden": "9"'))
        with pytest.raises(LoadFailed, match=r"net-symbol.json: with net-0007.params: .*Shape inconsistent"):
            load(folder)

    def test_what_the_library_cannot_compute_does_not_load(self, zoo, tmp_path):
        """Fully connected layers of half precision are for its builds with CUDA only, which shows when one is run."""
        folder = copied(zoo / "softmax", tmp_path / "m")
        halves = {name: array.astype("float16") for name, array in read_params(folder / "net-0007.params").items()}
        (folder / "net-0008.params").write_bytes(params_file(halves))
        said = {"inputs": [{"name": "data", "dtype": "float16", "shape": [None, 5]}]}
        (folder / "net-signature.json").write_text(json.dumps(said))
        with pytest.raises(LoadFailed, match=r"net-symbol.json: with net-0008.params: .*\bfloat16"):
            load(folder)
        # What one model's run left behind in the library must not reach another's.
        assert load(zoo / "softmax").signatures[S].batchable

    def test_a_later_version_is_named_with_ours(self, zoo, tmp_path):
        folder = copied(zoo / "softmax", tmp_path / "m")
        symbol = folder / "net-symbol.json"
        later = re.sub(r'"int", \d+', '"int", 20000', symbol.read_text()).replace('"tanh"', '"of_the_future"')
        symbol.write_text(later)
        with pytest.raises(LoadFailed, match=r"net-symbol.json: was written by MXNet 2.0.0, and this is MXNet 1.9.1: "):
            load(folder)

    def test_every_truncation_is_refused(self, zoo, tmp_path):
        folder = copied(zoo / "convolution", tmp_path / "m")
        params = folder / "net-0003.params"
        whole = params.read_bytes()
        for kept in range(0, len(whole), 29):
            params.write_bytes(whole[:kept])
            with pytest.raises(
                LoadFailed, match=rf"{params}: does not load as parameters of MXNet, at byte \d+: "
            ) as told:
                load(folder)
            assert "\n" not in str(told.value)

    def test_flipped_bytes_end_in_an_error_or_a_model(self, zoo, tmp_path, python):
        """In a process of its own, which a crash would end."""
        folder = copied(zoo / "convolution", tmp_path / "m")
        code = """
import sys; from pathlib import Path
from stfs.errors import LoadFailed
from stfs.platforms.base import LoadOptions; from stfs.platforms.mxnet import MxnetPlatform
folder = Path(sys.argv[1]); params = folder / "net-0003.params"; whole = params.read_bytes()
counts = {"loaded": 0, "refused": 0}
for at in range(0, len(whole), 7):
    params.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    try:
        MxnetPlatform().load(folder, LoadOptions(threads=1)).close()
        counts["loaded"] += 1
    except LoadFailed as error:
        assert str(folder) in str(error), error
        counts["refused"] += 1
print(counts["loaded"], counts["refused"])
"""
        loaded, refused = map(int, python(code, folder).split())
        assert loaded > 10  # a weight of another value is a weight
        assert refused > 10

    def test_unloading_frees_memory(self, zoo, python):
        """The resident set over 200 loads and closes, each with executors for six numbers of rows."""
        code = """
import sys; from pathlib import Path; import numpy as np
from stfs.platforms.base import LoadOptions; from stfs.platforms.mxnet import MxnetPlatform
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4
seen = []
for cycle in range(200):
    servable = MxnetPlatform().load(Path(sys.argv[1]), LoadOptions(threads=1))
    for rows in (1, 2, 4, 8, 64, 256):
        servable.run("serving_default", {"data": np.ones((rows, 1, 8, 8), "float32")})
    servable.close()
    seen.append(resident())
print(max(seen[180:]) - max(seen[20:40]))
"""
        grown_kilobytes = int(python(code, zoo / "convolution"))
        # The largest executor alone holds some 600 kB: keeping it for 160 cycles would be 96 MB.
        assert grown_kilobytes < 15_000

    @pytest.mark.parametrize("order", [("mxnet", "torch", "onnxruntime"), ("torch", "onnxruntime", "mxnet")])
    def test_shares_a_process_with_other_frameworks(self, zoo, python, order):
        """OpenMP and BLAS come with each of them; whichever is first, answers are right and nothing crashes."""
        for name in set(order) - {"mxnet"}:
            pytest.importorskip(name)
        code = """
import sys; from pathlib import Path; import numpy as np
from stfs.platforms.base import LoadOptions; from stfs.platforms.mxnet import MxnetPlatform
zoo, names, loaded = Path(sys.argv[1]), sys.argv[2:], {}
recorded = np.load(zoo / "convolution.npz")
def mxnet():
    servable = loaded.setdefault("mxnet", MxnetPlatform().load(zoo / "convolution", LoadOptions()))
    (answer,) = servable.run("serving_default", {"data": recorded["x"]}).values()
    np.testing.assert_allclose(answer, recorded["y0"], atol=1e-5)
def torch():
    import torch
    a = torch.arange(90000.0).reshape(300, 300) / 90000
    assert abs(float((a @ a).sum()) - float((a.numpy().astype(float) @ a.numpy().astype(float)).sum())) < 1
def onnxruntime():
    import onnxruntime
    assert "CPUExecutionProvider" in onnxruntime.get_available_providers()
for _ in range(3):
    for name in names:
        globals()[name]()
print("right")
"""
        assert python(code, zoo, *order).endswith("right")


@needs_mxnet
@needs_mlp
class TestWrongFiles:
    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda text: text[: len(text) // 2], "is not the JSON of an MXNet symbol"),
            (lambda text: "{}", 'is not an MXNet symbol: it has no "nodes"'),
            (lambda text: "[1, 2]", 'is not an MXNet symbol: it has no "nodes"'),
            (lambda text: text.replace("[1, 0, 0]", "[9, 0, 0]"), "refers to a node that does not come before it"),
            (lambda text: text.replace("[1, 0, 0]", "[-1, 0, 0]"), "refers to a node that does not come before it"),
            (lambda text: text.replace("[3, 0, 0]", "[3, 5, 0]"), 'output 5 of node "fc1" is used, which has no such'),
            (lambda text: text.replace("FullyConnected", "Unconnected"), "Unconnected"),
            (lambda text: text.replace("[[5, 0, 0]]", "[[6, 0, 0]]"), '"heads" is missing or names a node that is not'),
            (lambda text: text.replace('"arg_nodes"', '"nodes_of_args"'), '"arg_nodes" is missing'),
            (lambda text: text.replace("fc1_bias", "fc1_offset_bias"), "has no fc1_offset_bias, which"),
        ],
    )
    def test_symbols(self, tmp_path, change, problem):
        folder = copied(MLP, tmp_path / "m")
        symbol = folder / "mx_mlp-symbol.json"
        symbol.write_text(change(symbol.read_text()))
        with pytest.raises(LoadFailed, match=problem) as caught:
            load(folder)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_parameters_that_are_not_there(self, tmp_path):
        folder = copied(MLP, tmp_path / "m")
        (folder / "mx_mlp-0001.params").unlink()
        with pytest.raises(LoadFailed, match=r"its parameters are not beside it: mx_mlp-0000.params"):
            load(folder)

    def test_two_models_in_one_folder(self, tmp_path):
        folder = copied(MLP, tmp_path / "m")
        shutil.copyfile(folder / "mx_mlp-symbol.json", folder / "other-symbol.json")
        with pytest.raises(LoadFailed, match=r"which is the model, mx_mlp-symbol.json and other-symbol.json\?"):
            load(folder)
        for name in ("symbol.json", "0001.params", "signature.json"):
            shutil.copyfile(folder / f"mx_mlp-{name}", folder / f"model-{name}")
        assert load(folder).signatures[S].batchable

    def test_the_gpu_is_not_promised(self):
        with pytest.raises(LoadFailed, match="device cuda was asked for, but MXNet models are run on the CPU"):
            load(MLP, device="cuda")


def test_detection(tmp_path):
    (tmp_path / "model.json").write_text('{"learner": {}}')
    assert not MxnetPlatform().detect(tmp_path)
    (tmp_path / "m-symbol.json").write_text("{}")
    assert MxnetPlatform().detect(tmp_path)
    assert MxnetPlatform().detect(tmp_path / "m")
    assert not MxnetPlatform().detect(tmp_path / "n")
    assert not MxnetPlatform().detect(tmp_path / "nowhere" / "m")


def test_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STFS_HOME", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PlatformMissing, match=r"platform mxnet is not installed: run stfs platforms install mxnet$"):
        load(tmp_path)
    library = tmp_path / "platforms" / "mxnet" / "mxnet" / "libmxnet.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"not a library at all")
    with pytest.raises(PlatformMissing, match=r"libmxnet.so: .*: run stfs platforms install mxnet$"):
        load(tmp_path)


def test_a_package_in_the_environment_will_do(tmp_path, monkeypatch):
    (tmp_path / "mxnet").mkdir()
    (tmp_path / "mxnet" / "__init__.py").write_text("raise ImportError('it must not be imported')")
    monkeypatch.setenv("STFS_HOME", str(tmp_path / "empty"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_library() is None
    (tmp_path / "mxnet" / "libmxnet.so").write_bytes(b"")
    assert find_library() == tmp_path / "mxnet" / "libmxnet.so"
