"""H2O models in their worker process, against the predictions of the server of H2O that trained them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h2o_models
import numpy as np
import pmml_models
import pytest

from stfs.errors import InvalidInput, LoadFailed
from stfs.platforms.base import LoadOptions, Servable
from stfs.platforms.h2o import H2oPlatform
from stfs.platforms.loading import Hosting, open_servable
from stfs.platforms.pmml import PmmlPlatform

pytestmark = pytest.mark.slow
pytest.importorskip("jpype")
INSTALLED = (
    importlib.metadata.version("h2o")
    if importlib.util.find_spec("h2o")
    else pytest.skip("h2o is not installed", allow_module_level=True)
)

S = "serving_default"
Load = Callable[[Path], Servable]
LEVELS = {"a": (), "b": (), "c": ("blue", "green", "red"), "d": ("0", "1", "7")}


def open_h2o(path: Path) -> Servable:
    return open_servable(H2oPlatform(), path, LoadOptions(), Hosting())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return h2o_models.make(tmp_path_factory.mktemp("h2o"))


@pytest.fixture(scope="module")
def jvm(made) -> Iterator[None]:
    """A model that stays open, so that all tests share one JVM; what it keeps lies in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STFS_HOME", str(made / "home"))
        held = open_h2o(made / "kmeans.zip")
        yield
        held.close()


@pytest.fixture
def load(jvm) -> Iterator[Load]:
    opened: list[Servable] = []

    def load_one(path: Path) -> Servable:
        opened.append(open_h2o(path))
        return opened[-1]

    yield load_one
    for servable in opened:
        servable.close()


def data(made: Path, servable: Servable) -> dict[str, np.ndarray]:
    """The training data, missing values and all, as the model takes it: through its signature's own checks."""
    signature = servable.signatures[S]
    names = tuple(spec.name for spec in signature.inputs)
    return signature.bind(h2o_models.arrays(h2o_models.columns(made / "data.csv"), names))


def cut(inputs: dict[str, np.ndarray], *rows: int) -> dict[str, np.ndarray]:
    return {name: values[list(rows)] for name, values in inputs.items()}


def assert_predicted(outputs: dict[str, np.ndarray], predicted: dict[str, list[str]]) -> None:
    for have, want in zip(outputs.values(), predicted.values(), strict=True):
        if have.dtype == object:
            assert [value.decode() for value in have.tolist()] == want
        else:
            numbers = np.array([float(value) if value else np.nan for value in want])
            np.testing.assert_allclose(have, numbers, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", h2o_models.MOJOS)
def test_mojos_answer_as_h2o_does(load, made, name):
    servable = load(made / f"{name}.zip")
    outputs = servable.run(S, data(made, servable))
    predicted = h2o_models.columns(made / f"{name}.csv")
    assert list(outputs) == [spec.name for spec in servable.signatures[S].outputs]
    # H2O calls the number of a cluster a prediction.
    assert list(outputs) == (["cluster"] if name == "kmeans" else list(predicted))
    assert_predicted(outputs, predicted)
    assert servable.runtime.startswith(f"h2o {INSTALLED}, Java ")
    assert f"MOJO of {INSTALLED}" in servable.runtime


def test_signature_of_a_classifier(load, made):
    signature = load(made / "gbm_multinomial.zip").signatures[S]
    assert signature.batchable
    inputs = {spec.name: (spec.dtype_name, spec.shape, spec.nullable, spec.values) for spec in signature.inputs}
    assert inputs == {
        name: ("string" if levels else "float64", (None,), True, levels) for name, levels in LEVELS.items()
    }
    assert [(spec.name, spec.dtype_name, spec.shape, spec.doc) for spec in signature.outputs] == [
        ("predict", "string", (None,), "one of x, y, z"),
        *((label, "float64", (None,), f"probability of {label}") for label in "xyz"),
    ]


def test_signature_with_an_offset(load, made):
    spec = load(made / "glm_offset.zip").signatures[S].input("offset")
    assert (spec.dtype_name, spec.nullable, spec.doc) == ("float64", False, "offset")


@pytest.mark.parametrize("name", ["gbm_one_hot", "gbm_enum_limited", "gbm_eigen"])
def test_encoded_categories_are_asked_for_by_their_own_names(load, made, name):
    signature = load(made / f"{name}.zip").signatures[S]
    assert {spec.name: spec.values for spec in signature.inputs} == LEVELS


@pytest.mark.parametrize("name", ["gbm_binomial", "glm_offset", "gbm_eigen"])
def test_rows_together_answer_as_rows_alone(load, made, name):
    servable = load(made / f"{name}.zip")
    inputs = data(made, servable)
    together = servable.run(S, cut(inputs, *range(40)))
    for i in range(40):
        alone = servable.run(S, cut(inputs, i))
        for key, values in together.items():
            np.testing.assert_array_equal(alone[key], values[[i]])
    nothing = servable.run(S, cut(inputs))
    assert {key: (values.shape, values.dtype) for key, values in nothing.items()} == {
        key: ((0,), values.dtype) for key, values in together.items()
    }


def test_missing_values(load, made):
    """The rows of the data that miss something, apart from the others."""
    servable = load(made / "gbm_binomial.zip")
    inputs = data(made, servable)
    rows = np.flatnonzero(np.isnan(inputs["a"]) | (inputs["c"] == b"")).tolist()
    assert len(rows) > 10
    predicted = h2o_models.columns(made / "gbm_binomial.csv")
    assert_predicted(
        servable.run(S, cut(inputs, *rows)), {name: [values[i] for i in rows] for name, values in predicted.items()}
    )


def test_an_unknown_level_is_refused_with_the_known_ones(load, made):
    servable = load(made / "gbm_binomial.zip")
    inputs = cut(data(made, servable), 0, 1, 2)
    inputs["c"] = np.array([b"red", b"purple", b"blue"], object)
    with pytest.raises(InvalidInput, match=r"purple.*blue.*green.*red"):
        servable.signatures[S].bind(inputs)
    # The adapter's own refusal, which counts where the signature did not check.
    with pytest.raises(InvalidInput) as caught:
        servable.run(S, inputs)
    assert str(caught.value) == 'input "c", row 1: "purple" is none of its levels: "blue", "green", "red"'
    assert len(servable.run(S, cut(inputs, 0, 2))["predict"]) == 2


@pytest.mark.parametrize("name", ["gbm_multinomial", "deep_learning"])
def test_concurrent_callers_get_their_own_rows(load, made, name):
    servable = load(made / f"{name}.zip")
    inputs = data(made, servable)
    parts = [cut(inputs, *range(start, start + 12)) for start in range(0, 96, 12)]
    wants = [servable.run(S, part) for part in parts]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(25):
            have = servable.run(S, parts[i])
            if any(not np.array_equal(have[key], values) for key, values in wants[i].items()):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_pojo_is_compiled_once(load, made, tmp_path):
    if shutil.which("javac") is None:
        pytest.skip("there is no javac here, which compiles POJOs")
    shutil.copy(made / "Glm.java", tmp_path / "model.java")
    cache = made / "home" / "cache" / "h2o"
    for _ in range(2):
        servable = load(tmp_path)
        assert_predicted(servable.run(S, data(made, servable)), h2o_models.columns(made / "glm_binomial.csv"))
        assert "Binomial POJO" in servable.runtime
        assert len(list(cache.iterdir())) == 1


def test_a_pojo_that_does_not_compile(load, made, tmp_path):
    if shutil.which("javac") is None:
        pytest.skip("there is no javac here, which compiles POJOs")
    path = tmp_path / "model.java"
    path.write_text((made / "Glm.java").read_text().replace("double[] score0", "double[ score0"))
    with pytest.raises(LoadFailed, match=r"model\.java: does not compile: model\.java:\d+: error"):
        load(path)


def test_a_binary_model_of_this_version(load, made):
    servable = load(made / "glm.bin")
    assert_predicted(servable.run(S, data(made, servable)), h2o_models.columns(made / "glm_binomial.csv"))
    assert f"Binomial binary model of {INSTALLED}" in servable.runtime


def test_a_binary_model_of_another_version_names_both_and_the_way_out(load, made, tmp_path):
    path = tmp_path / "GLM_model_python_1"
    old = b"3.18.0.8"
    path.write_bytes(b"\x1c\xed" + bytes([len(old) + 1]) + old + (made / "glm.bin").read_bytes()[11:])
    assert H2oPlatform().detect(tmp_path)
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(
        f"{path}: is a binary model of H2O 3.18.0.8, which no other version reads, and this is {INSTALLED}: "
    )
    assert "save_mojo" in str(caught.value)


def test_a_binary_model_that_is_cut_short(load, made, tmp_path):
    path = tmp_path / "glm.bin"
    path.write_bytes((made / "glm.bin").read_bytes()[:20000])
    with pytest.raises(LoadFailed, match=r"glm\.bin: H2O does not turn it into a MOJO: ") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("autoencoder", "a model of category AutoEncoder cannot be served"),
        ("gam", "models that make up their features themselves (GAM) cannot be served"),
    ],
)
def test_models_that_cannot_be_served(load, made, name, told):
    path = made / f"{name}.zip"
    with pytest.raises(LoadFailed) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {told}")


def without_crc(path: Path, made: Path) -> None:
    raw = bytearray((made / "gbm_binomial.zip").read_bytes())
    raw[120:160] = bytes(40)
    path.write_bytes(raw)


def other_version(path: Path, made: Path) -> None:
    with zipfile.ZipFile(made / "gbm_binomial.zip") as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            if entry == "model.ini":
                lines = content.decode().replace(INSTALLED, "9.9.9.9").splitlines()
                lines = ["mojo_version = 99.0" if line.startswith("mojo_version") else line for line in lines]
                content = "\n".join(lines).encode()
            target.writestr(entry, content)


def other_archive(path: Path, made: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path, made: path.write_bytes(b""), "this is no zip archive"),
        (lambda path, made: path.write_bytes(b"hello" * 100), "this is no zip archive"),
        (
            lambda path, made: path.write_bytes((made / "gbm_binomial.zip").read_bytes()[:9000]),
            "this is no zip archive, or only the first part of one",
        ),
        (without_crc, ""),
        (other_archive, "this archive is no MOJO: it holds no model.ini"),
        (other_version, f"written by H2O 9.9.9.9, and this is {INSTALLED}"),
    ],
    ids=["empty", "text", "truncated", "damaged", "another archive", "another version"],
)
def test_files_that_are_refused(load, made, tmp_path, damage, told):
    path = tmp_path / "model.zip"
    damage(path, made)
    with pytest.raises(LoadFailed) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_detection(made, tmp_path):
    platform = H2oPlatform()
    for name in ("gbm_binomial.zip", "Glm.java", "glm.bin"):
        assert platform.detect(made / name)
        (tmp_path / name).mkdir()
        shutil.copy(made / name, tmp_path / name)
        assert platform.detect(tmp_path / name)
    assert not platform.detect(made / "data.csv")
    assert not platform.detect(tmp_path)
    assert not platform.detect(tmp_path / "nothing")
    (tmp_path / "Other.java").write_text("public class Other {}")
    assert not platform.detect(tmp_path / "Other.java")
    other_archive(tmp_path / "other.zip", made)
    assert not platform.detect(tmp_path / "other.zip")


def test_several_models_in_a_folder(load, made):
    with pytest.raises(LoadFailed, match=r"which is the model, autoencoder\.zip and deep_learning\.zip and .* or keep"):
        load(made)


def test_pmml_and_h2o_share_one_jvm(load, made, tmp_path):
    one = load(made / "gbm_binomial.zip")
    other = open_servable(PmmlPlatform(), pmml_models.regression(tmp_path), LoadOptions(), Hosting())
    assert one.worker_status is not None
    assert other.worker_status is not None
    assert one.worker_status.pid == other.worker_status.pid
    inputs = {"a": np.ones(1), "b": np.zeros(1), "c": np.array([b"red"], object)}
    assert other.run(S, inputs)["y"].tolist() == [3.5]
    assert len(one.run(S, cut(data(made, one), 0))["predict"]) == 1
    other.close()


CYCLES = """
import gc
import sys
from pathlib import Path
import h2o_models
from stfs.platforms import jvm
from stfs.platforms.base import LoadOptions
from stfs.platforms.h2o import H2oPlatform

folder = Path(sys.argv[1])
table = h2o_models.arrays(h2o_models.columns(folder / "data.csv"))

def resident_kib():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line).split()[1])

def cycle():
    servable = H2oPlatform().load(folder / "gbm_multinomial.zip", LoadOptions(jvm_heap_bytes=64 << 20))
    assert servable.run("serving_default", table)["predict"].shape == (300,)
    servable.close()

for _ in range(60):
    cycle()
import jpype
memory = jpype.JClass("java.lang.Runtime").getRuntime()
used = lambda: (gc.collect(), jvm.collect(), int(memory.totalMemory() - memory.freeMemory()))[2]
before, resident = used(), resident_kib()
for _ in range(200):
    cycle()
print(used() - before, resident_kib() - resident)
"""


def test_unloading_frees_memory(python, made):
    heap_bytes, resident_kib = map(int, python(CYCLES, made).split())
    assert heap_bytes < 4 << 20
    assert resident_kib < 48 << 10
