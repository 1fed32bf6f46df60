"""CNTK models in worker processes, as they are served, against numpy and recorded answers."""

from __future__ import annotations

import contextlib
import threading

import cntk_zoo as zoo
import numpy as np
import pytest
from running import SHARED_MODELS

from stfs.errors import InvalidRequest, LoadFailed, PlatformMissing
from stfs.platforms import detect
from stfs.platforms.base import LoadOptions
from stfs.platforms.cntk import CntkPlatform, find_libraries
from stfs.platforms.loading import Hosting, open_servable

pytestmark = pytest.mark.slow

S = "serving_default"
MNIST = SHARED_MODELS / "cntk_mnist"

needs_cntk = pytest.mark.skipif(find_libraries() is None, reason="CNTK is not installed: stfs platforms install cntk")
needs_mnist = pytest.mark.skipif(not MNIST.is_dir(), reason="shared/models is not beside the checkout")

random = np.random.default_rng(5)
WEIGHT, BIAS = random.normal(size=(4, 3)).astype("float32"), random.normal(size=3).astype("float32")


@pytest.fixture
def load():
    """Opens models where they are served, in worker processes, and closes them."""
    opened = []

    def open_it(path, **options):
        opened.append(open_servable(CntkPlatform(), path, LoadOptions(**options), Hosting()))
        return opened[-1]

    yield open_it
    for servable in opened:
        servable.close()


def specs(side):
    return [(spec.name, spec.dtype_name, spec.shape) for spec in side]


@needs_cntk
@needs_mnist
def test_knows_the_digits_of_a_real_model(load):
    from PIL import Image

    servable = load(MNIST)
    signature = servable.signatures[S]
    assert servable.runtime.startswith("CNTK 2.7, CPU")
    assert signature.batchable
    assert specs(signature.inputs) == [("input", "float32", (None, 1, 28, 28))]
    assert specs(signature.outputs) == [("output", "float32", (None, 10))]
    images = [np.asarray(Image.open(MNIST / f"sample_{digit}.bmp").convert("L"), "float32") for digit in (4, 9)]
    # The digits are turned over if rows and columns are mixed up, and then are no digits.
    answers = servable.run(S, {"input": np.stack(images)[:, None]})["output"]
    assert answers.argmax(axis=1).tolist() == [4, 9]
    assert (answers.max(axis=1) > 0.99).all()


@needs_cntk
@needs_mnist
def test_batched_equals_alone(load):
    servable = load(MNIST)
    images = np.random.default_rng(0).uniform(0, 1, (37, 1, 28, 28)).astype("float32")
    together = servable.run(S, {"input": images})["output"]
    alone = np.concatenate([servable.run(S, {"input": image[None]})["output"] for image in images])
    assert np.ptp(alone, axis=0).max() > 1e-3
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert servable.run(S, {"input": images[:0]})["output"].shape == (0, 10)


@needs_cntk
@pytest.mark.parametrize("axes", [(zoo.BATCH,), (zoo.SEQUENCE, zoo.BATCH)])
def test_answers_are_those_of_numpy(tmp_path, load, axes):
    """Rows of a model that is no sequence's batch, whether or not its input was declared as one."""
    servable = load(zoo.dense(tmp_path / "model.cmf", WEIGHT, BIAS, *axes))
    assert servable.signatures[S].batchable
    for rows in (1, 2, 33):
        x = random.normal(size=(rows, 4)).astype("float32")
        np.testing.assert_allclose(servable.run(S, {"x": x})["y"], np.tanh(x @ WEIGHT + BIAS), atol=1e-6)


@needs_cntk
def test_several_inputs_and_outputs(tmp_path, load):
    servable = load(zoo.two_of_each(tmp_path / "model.dnn"))
    signature = servable.signatures[S]
    assert specs(signature.inputs) == [("a", "float32", (None, 2)), ("b", "float32", (None, 3))]
    assert specs(signature.outputs) == [("sum", "float32", (None, 3)), ("squashed", "float32", (None, 2))]
    a, b = random.normal(size=(5, 2)).astype("float32"), random.normal(size=(5, 3)).astype("float32")
    answers = servable.run(S, signature.bind({"b": b, "a": a}))
    np.testing.assert_allclose(answers["sum"], a.sum(axis=1, keepdims=True) + b, atol=1e-6)
    np.testing.assert_allclose(answers["squashed"], np.tanh(a), atol=1e-6)


@needs_cntk
def test_a_sequence_is_one_request(tmp_path, load):
    servable = load(zoo.running_sum(tmp_path / "model.cmf"))
    signature = servable.signatures[S]
    assert not signature.batchable
    assert specs(signature.inputs) == [("x", "float32", (None, 2))]
    assert specs(signature.outputs) == [("total", "float32", (None, 2))]
    for steps in (1, 4, 9):
        x = random.normal(size=(steps, 2)).astype("float32")
        np.testing.assert_allclose(servable.run(S, {"x": x})["total"], np.cumsum(x, axis=0), atol=1e-5)
    with pytest.raises(InvalidRequest, match='input "x": a sequence must have a step at least'):
        servable.run(S, {"x": np.zeros((0, 2), "float32")})


@needs_cntk
def test_a_sequence_beside_what_is_none(tmp_path, load):
    servable = load(zoo.sum_and_row(tmp_path / "model.cmf"))
    signature = servable.signatures[S]
    assert specs(signature.inputs) == [("x", "float32", (None, 2)), ("b", "float32", (2,))]
    assert specs(signature.outputs) == [("y", "float32", (2,))]
    x, b = random.normal(size=(6, 2)).astype("float32"), np.array([1, -1], "float32")
    np.testing.assert_allclose(servable.run(S, {"x": x, "b": b})["y"], x.sum(axis=0) + b, atol=1e-5)


@needs_cntk
def test_rows_that_cannot_run_together_run_one_by_one(tmp_path, load):
    """The sum is over the batch, so rows that were run together would be mixed."""
    servable = load(zoo.over_the_batch(tmp_path / "model.cmf"))
    a = random.normal(size=(5, 2)).astype("float32")
    np.testing.assert_array_equal(servable.run(S, {"a": a})["y"], a)


@needs_cntk
def test_a_free_dimension(tmp_path, load):
    servable = load(zoo.any_width(tmp_path / "model.cmf"))
    assert specs(servable.signatures[S].inputs) == [("a", "float32", (None, None))]
    for width in (3, 7):
        a = random.normal(size=(2, width)).astype("float32")
        np.testing.assert_allclose(servable.run(S, {"a": a})["y"], np.tanh(a), atol=1e-6)


@needs_cntk
def test_names_that_nobody_gave(tmp_path, load):
    servable = load(zoo.dense(tmp_path / "model.cmf", WEIGHT, BIAS, names=("", "")))
    x = random.normal(size=(2, 4)).astype("float32")
    np.testing.assert_allclose(servable.run(S, {"input": x})["output"], np.tanh(x @ WEIGHT + BIAS), atol=1e-6)


@needs_cntk
@needs_mnist
def test_what_cntk_exports_as_onnx_is_served_as_onnx(tmp_path, load, python):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    python("import sys, cntk_export; cntk_export.export(*sys.argv[1:])", MNIST / "mnist_conv.cmf", tmp_path / "m.onnx")
    found = detect(tmp_path)
    assert found is not None
    assert found.name == "onnx"
    exported, original = found.load(tmp_path, LoadOptions()), load(MNIST)
    assert exported.signatures[S].batchable
    images = np.random.default_rng(1).uniform(0, 1, (5, 1, 28, 28)).astype("float32")
    (answers,) = exported.run(S, {"input": images}).values()
    np.testing.assert_allclose(answers, original.run(S, {"input": images})["output"], atol=1e-5)


@needs_cntk
def test_nan_stays_in_its_row(tmp_path, load):
    servable = load(zoo.dense(tmp_path / "model.cmf", WEIGHT, BIAS))
    x = random.normal(size=(3, 4)).astype("float32")
    x[1, 2] = np.nan
    y = servable.run(S, {"x": x})["y"]
    assert np.isnan(y[1]).all()
    np.testing.assert_allclose(y[[0, 2]], np.tanh(x @ WEIGHT + BIAS)[[0, 2]], atol=1e-6)


@needs_cntk
def test_wrong_inputs_are_refused(tmp_path, load):
    signature = load(zoo.dense(tmp_path / "model.cmf", WEIGHT, BIAS)).signatures[S]
    with pytest.raises(InvalidRequest, match=r'input "x": shape \[2, 5\] does not match \[\?, 4\]'):
        signature.bind({"x": np.zeros((2, 5), "float32")})
    with pytest.raises(InvalidRequest, match='input "z": unknown'):
        signature.bind({"x": np.zeros((2, 4), "float32"), "z": np.zeros(1)})


@needs_cntk
def test_concurrent_callers_get_their_own_rows(tmp_path, load):
    servable = load(zoo.dense(tmp_path / "model.cmf", WEIGHT, BIAS))
    wrong = []

    def call(seed):
        own = np.random.default_rng(seed)
        for _ in range(40):
            x = own.normal(size=(int(own.integers(1, 9)), 4)).astype("float32")
            if not np.allclose(servable.run(S, {"x": x})["y"], np.tanh(x @ WEIGHT + BIAS), atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_cntk
def test_models_of_double_precision_are_refused(tmp_path, load):
    """CNTK's C interface takes numbers of single precision only."""
    path = zoo.dense(tmp_path / "model.cmf", WEIGHT.astype("float64"), BIAS.astype("float64"), data_type=2)
    with pytest.raises(LoadFailed, match=rf"{path}: CNTK 2.7 does not take it: .*DataType Double"):
        load(path)


@needs_cntk
@pytest.mark.parametrize("kept", [0, 1, 40, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, load, kept):
    whole = zoo.dense(tmp_path / "whole.cmf", WEIGHT, BIAS).read_bytes()
    path = tmp_path / "cut" / "model.cmf"
    path.parent.mkdir()
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(LoadFailed, match=rf"{path}: is not a model of CNTK: it "):
        load(path)


@needs_cntk
def test_other_files_are_refused(tmp_path, load):
    path = tmp_path / "model.dnn"
    path.write_bytes("BCN\0".encode("utf-16-le") + bytes(100))
    with pytest.raises(LoadFailed, match=rf"{path}: CNTK 2.7 does not take it: \S"):
        load(path)
    path.write_text("tree\nversion=v4\n")
    with pytest.raises(LoadFailed, match=rf"{path}: is not a model of CNTK"):
        load(path)
    with pytest.raises(LoadFailed, match="device cuda was asked for"):
        load(zoo.dense(tmp_path / "model.cmf", WEIGHT, BIAS), device="cuda")


@needs_cntk
def test_damaged_files_do_not_harm_the_server(tmp_path, load):
    """Whatever a file does to CNTK, it does in its worker process, and all that comes here is that it did not load."""
    whole = zoo.dense(tmp_path / "whole.cmf", WEIGHT, BIAS).read_bytes()
    for at in range(5, len(whole), len(whole) // 6):
        path = tmp_path / str(at) / "model.cmf"
        path.parent.mkdir()
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(LoadFailed):
            load(path)
    good = load(tmp_path / "whole.cmf")
    x = random.normal(size=(2, 4)).astype("float32")
    np.testing.assert_allclose(good.run(S, {"x": x})["y"], np.tanh(x @ WEIGHT + BIAS), atol=1e-6)


def test_detection_leaves_files_of_others(tmp_path):
    zoo.dense(tmp_path / "cntk" / "a.model", WEIGHT, BIAS)
    legacy = tmp_path / "legacy" / "b.model"
    legacy.parent.mkdir()
    legacy.write_bytes("BCN\0BVersion\0".encode("utf-16-le"))
    trees = tmp_path / "trees" / "c.model"
    trees.parent.mkdir()
    trees.write_text("tree\nversion=v4\nnum_class=1\n")
    for folder, expected in (("cntk", "cntk"), ("legacy", "cntk")):
        found = detect(tmp_path / folder)
        assert found is not None
        assert found.name == expected
    assert not CntkPlatform().detect(trees)
    assert not CntkPlatform().detect(tmp_path / "nowhere")


def test_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("STFS_HOME", str(tmp_path))
    with pytest.raises(PlatformMissing, match=r"platform cntk is not installed: run stfs platforms install cntk$"):
        CntkPlatform().load(tmp_path, LoadOptions())
    libraries = tmp_path / "platforms" / "cntk" / "cntk" / "libs"
    libraries.mkdir(parents=True)
    for name in ("libCntk.Core-2.7.so", "libCntk.Math-2.7.so", "libCntk.PerformanceProfiler-2.7.so"):
        (libraries / name).write_bytes(b"not a library at all")
    with pytest.raises(PlatformMissing, match="it is not a 64-bit ELF file"):
        CntkPlatform().load(tmp_path, LoadOptions())


@needs_cntk
def test_unloading_frees_memory(tmp_path, python):
    """The resident set over 200 loads and closes, in a process of its own."""
    path = zoo.dense(tmp_path / "model.cmf", np.ones((300, 300), "float32"), np.ones(300, "float32"))
    code = """
import sys; from pathlib import Path; import numpy as np
from stfs.platforms.base import LoadOptions; from stfs.platforms.cntk import CntkPlatform
def resident(): return int(Path("/proc/self/statm").read_text().split()[1]) * 4
seen = []
for cycle in range(200):
    servable = CntkPlatform().load(Path(sys.argv[1]), LoadOptions(threads=1))
    servable.run("serving_default", {"x": np.ones((4, 300), "float32")})
    servable.close()
    seen.append(resident())
print(max(seen[180:]) - max(seen[20:40]))
"""
    grown_kilobytes = int(python(code, path))
    # A model is 360 kB, read twice and changed once: keeping any of that for 160 cycles would be 58 MB at least.
    assert grown_kilobytes < 15_000
