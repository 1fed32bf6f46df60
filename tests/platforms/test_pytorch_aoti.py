"""Compiled packages against the modules that they were made of. Compiling one takes half a minute, so few are."""

import gc
import json
import os
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stfs.errors import InvalidInput, LoadFailed
from stfs.platforms.aoti import cpu_lacks
from stfs.platforms.base import LoadOptions
from stfs.platforms.pytorch import PyTorchPlatform
from stfs.platforms.torch_archive import Kind, kind_of

torch = pytest.importorskip("torch")

# What torch warns of in its own code while it exports and compiles.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling a package takes g++"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

S = "serving_default"


class Pair(torch.nn.Module):
    """Two inputs of the same length, of which one is a keyword's; a length of 3 to 16, and 1 to 8 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.rand(1, 1))

    def forward(self, x, *, mask):
        kept = x * mask * self.scale
        return {"sum": kept.sum(1), "kept": kept}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The module and its package."""
    module = Pair().eval()
    rows, length = torch.export.Dim("rows", min=1, max=8), torch.export.Dim("length", min=3, max=16)
    shapes = {"x": {0: rows, 1: length}, "mask": {0: rows, 1: length}}
    program = torch.export.export(module, (torch.rand(4, 5),), {"mask": torch.rand(4, 5)}, dynamic_shapes=shapes)
    file = tmp_path_factory.mktemp("pair") / "model.pt2"
    torch._inductor.aoti_compile_and_package(program, package_path=str(file))
    return module, file


def load(path, **options):
    return PyTorchPlatform().load(path, LoadOptions(**options))


def inputs(rows, length=5, first="input_0"):
    random = np.random.default_rng(rows)
    return {
        first: random.normal(size=(rows, length)).astype(np.float32),
        "mask": random.integers(0, 2, (rows, length)).astype(np.float32),
    }


def assert_right(module, servable, given, first="input_0"):
    have = servable.run(S, given)
    with torch.inference_mode():
        want = module(torch.from_numpy(given[first]), mask=torch.from_numpy(given["mask"]))
    assert list(have) == ["sum", "kept"]
    for name, array in have.items():
        np.testing.assert_allclose(array, want[name].numpy(), rtol=1e-5, atol=1e-6)


def test_its_signature_is_read_from_what_was_compiled(pair):
    _, file = pair
    assert kind_of(file) is Kind.AOTI
    assert PyTorchPlatform().isolation_for(file.parent) == "process"
    servable = load(file.parent)
    signature = servable.signatures[S]
    assert [(s.name, s.dtype_name, s.shape) for s in (*signature.inputs, *signature.outputs)] == [
        ("input_0", "float32", (None, None)),
        ("mask", "float32", (None, None)),
        ("sum", "float32", (None,)),
        ("kept", "float32", (None, None)),
    ]
    assert signature.batchable
    assert servable.runtime == f"torch {torch.__version__}, AOTInductor, cpu"


@pytest.mark.parametrize("rows", [1, 2, 8, 9, 17, 64])
def test_any_number_of_rows_is_answered_though_it_was_compiled_for_few(pair, rows):
    module, file = pair
    assert_right(module, load(file), inputs(rows))
    assert_right(module, load(file), inputs(rows, 16))


def test_rows_together_are_rows_alone_and_callers_get_their_own(pair):
    servable = load(pair[1])
    given = inputs(20)
    together = servable.run(S, given)["sum"]
    wrong = []

    def call(i):
        for _ in range(20):
            alone = servable.run(S, {name: array[i : i + 1] for name, array in given.items()})["sum"]
            if not np.allclose(alone, together[i : i + 1], rtol=1e-5, atol=1e-6):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_sizes_that_it_was_not_compiled_for_are_refused(pair):
    servable = load(pair[1])
    assert os.environ["AOTI_RUNTIME_CHECK_INPUTS"] == "1"
    for length in (2, 17):
        with pytest.raises(InvalidInput, match=f'input "input_0": dimension 1 is {length}, and must be 3 to 16'):
            servable.run(S, inputs(3, length))
    mixed = inputs(3, 8) | {"mask": inputs(3, 6)["mask"]}
    with pytest.raises(InvalidInput, match='input "mask": dimension 1 is 6, which does not go with dimension 1 of'):
        servable.run(S, mixed)


def test_a_signature_file_names_the_inputs(pair, tmp_path):
    module, file = pair
    mine = tmp_path / "mine.json"
    said = {"inputs": [{"name": "values", "shape": [None, None]}, {"name": "mask", "shape": [None, None]}]}
    mine.write_text(json.dumps(said))
    servable = load(file, signature_file=mine)
    assert_right(module, servable, inputs(3, first="values"), "values")
    said["inputs"][1] |= {"dtype": "int64"}
    mine.write_text(json.dumps(said))
    with pytest.raises(LoadFailed, match=r'"mask" is int64 \[\?, \?\], but it was compiled for float32'):
        load(file, signature_file=mine)
    mine.write_text(json.dumps({"inputs": said["inputs"][:1]}))
    with pytest.raises(LoadFailed, match=r"names 1 inputs, but model\.pt2 takes 2"):
        load(file, signature_file=mine)


def repack(source, target, change):
    """The zip file ``source`` as ``target``; ``change`` gets a name and its bytes, and gives others, or ``None``."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = change(entry.filename, old.read(entry))
            if data is not None:
                new.writestr(entry.filename, data)
    return target


def metadata(**changed):
    def change(name, data):
        return json.dumps(json.loads(data) | changed).encode() if name.endswith("wrapper_metadata.json") else data

    return change


def test_a_signature_inside_the_package(pair, tmp_path):
    said = {"inputs": [{"name": "values", "shape": [None, None]}, {"name": "mask", "shape": [None, None]}]}
    file = repack(pair[1], tmp_path / "model.pt2", metadata(**{"stfs.signature": json.dumps(said)}))
    assert_right(pair[0], load(file), inputs(3, first="values"), "values")


def test_without_its_source_it_needs_a_signature_file_and_still_checks(pair, tmp_path):
    file = repack(pair[1], tmp_path / "model.pt2", lambda name, data: None if name.endswith(".cpp") else data)
    with pytest.raises(LoadFailed, match=r"does not tell dtypes and shapes: write them to model-signature\.json"):
        load(file)
    said = {"inputs": [{"name": "x", "shape": [None, 5]}, {"name": "mask", "shape": [None, 5]}]}
    (tmp_path / "model-signature.json").write_text(json.dumps(said))
    servable = load(file)
    assert_right(pair[0], servable, inputs(4, first="x"), "x")
    with pytest.raises(Exception, match="dim value is too large at 0"):
        servable.run(S, inputs(9, first="x"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (metadata(AOTI_DEVICE_KEY="cuda"), "was compiled for cuda, and there is none here|input_handles"),
        (metadata(AOTI_MACHINE="s390x"), "was compiled for s390x, and this machine is "),
        (lambda name, data: data[:1000] if name.endswith(".so") else data, r"\.so inside is cut short, or no library"),
        (lambda name, data: data[:-1] if name.endswith(".so") else data, r"\.so inside is cut short, or no library"),
        (lambda name, data: b"hello" if name.endswith(".so") else data, r"\.so inside is cut short, or no library"),
    ],
    ids=["cuda", "machine", "cut", "cut by one", "text"],
)
def test_packages_that_cannot_run_here(pair, tmp_path, change, problem):
    bad = repack(pair[1], tmp_path / "bad.pt2", change)
    with pytest.raises(LoadFailed, match=problem) as caught:
        load(bad, device="cpu")
    assert str(caught.value).startswith(str(bad))
    assert "\n" not in str(caught.value)


def test_a_damaged_library_is_found_by_its_checksum(pair, tmp_path):
    data = bytearray(pair[1].read_bytes())
    with zipfile.ZipFile(pair[1]) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith(".so"))
    data[entry.header_offset + entry.compress_size // 2] ^= 1
    (tmp_path / "bad.pt2").write_bytes(data)
    with pytest.raises(LoadFailed, match=r"bad\.pt2: Bad CRC-32 for file .*\.so"):
        load(tmp_path / "bad.pt2")


def test_an_instruction_set_that_the_processor_lacks():
    assert cpu_lacks("AVX512 AVX512_VNNI", {"avx2", "avx512f", "avx512_vnni"}) == ""
    assert cpu_lacks("AVX512 AVX512_VNNI", {"avx2"}) == "AVX512"
    assert cpu_lacks("SOMETHING_NEW", {"avx2"}) == ""
    assert cpu_lacks("AVX512", set()) == ""


def test_close_frees_the_code(pair):
    servable = load(pair[1])
    servable.run(S, inputs(2))
    mapped = mappings()
    assert mapped
    servable.close()
    del servable
    gc.collect()
    assert mappings() < mapped


def mappings():
    """The packages' libraries that are mapped into this process: each is unpacked to a folder of its own."""
    with Path("/proc/self/maps").open() as maps:
        return {line.split()[-1] for line in maps if ".wrapper.so" in line}
