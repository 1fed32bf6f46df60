"""Exported programs against the modules that they were made of."""

import gc
import json
import threading
import weakref
import zipfile

import numpy as np
import pytest

from stfs.errors import InvalidInput, InvalidRequest, LoadFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.pytorch import PyTorchPlatform
from stfs.platforms.torch_archive import Kind, kind_of

torch = pytest.importorskip("torch")

# What torch warns of in its own code while it exports.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

S = "serving_default"
Dim = torch.export.Dim


def save(folder, module, args, kwargs=None, *, shapes=None, name="model.pt2"):
    program = torch.export.export(module.eval(), args, kwargs, dynamic_shapes=shapes)
    torch.export.save(program, folder / name)
    return folder / name


def load(path, **options):
    return PyTorchPlatform().load(path, LoadOptions(**options))


def told(specs):
    return [(spec.name, spec.dtype_name, spec.shape) for spec in specs]


def rows(n, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def reference(module, **arrays):
    with torch.inference_mode():
        return module.eval()(**{name: torch.from_numpy(array) for name, array in arrays.items()})


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(4, 8)
        self.drop = torch.nn.Dropout(0.5)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, x, scale=None):
        y = self.out(self.drop(torch.relu(self.hidden(x))))
        return {"prob": torch.softmax(y, 1), "logit": y}


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    module = Net()
    return module, save(tmp_path_factory.mktemp("net"), module, (torch.rand(5, 4),), shapes=({0: Dim("b")},))


def test_answers_are_those_of_the_module(net):
    module, file = net
    assert PyTorchPlatform().detect(file.parent)
    assert PyTorchPlatform().isolation_for(file.parent) == "process"
    servable = load(file.parent)
    signature = servable.signatures[S]
    assert told(signature.inputs) == [("x", "float32", (None, 4))]
    assert told(signature.outputs) == [("prob", "float32", (None, 3)), ("logit", "float32", (None, 3))]
    assert signature.batchable
    assert servable.runtime.startswith(f"torch {torch.__version__}, torch.export, c")
    for n in (1, 2, 7):
        have, want = servable.run(S, {"x": rows(n)}), reference(module, x=rows(n))
        assert list(have) == ["prob", "logit"]
        for name, array in have.items():
            np.testing.assert_allclose(array, want[name].numpy(), rtol=1e-5)
    servable.close()


def test_rows_together_are_rows_alone_and_callers_get_their_own(net):
    servable = load(net[1])
    x = rows(30)
    together = servable.run(S, {"x": x})["prob"]
    wrong = []

    def call(i):
        for _ in range(10):
            if not np.allclose(servable.run(S, {"x": x[i : i + 1]})["prob"][0], together[i], rtol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("n", [1, 3, 4, 6, 7, 13, 30])
def test_the_rows_that_it_was_exported_for_are_kept(tmp_path, n):
    module = Net()
    file = save(tmp_path, module, (torch.rand(5, 4),), shapes=({0: Dim("b", min=4, max=6)},))
    have = load(file).run(S, {"x": rows(n)})["prob"]
    np.testing.assert_allclose(have, reference(module, x=rows(n))["prob"].numpy(), rtol=1e-5)


def test_a_fixed_number_of_rows_is_told(tmp_path):
    signature = load(save(tmp_path, Net(), (torch.rand(5, 4),))).signatures[S]
    assert told(signature.inputs) == [("x", "float32", (5, 4))]
    assert not signature.batchable


class Odd(torch.nn.Module):
    def forward(self, x, inputs, *, scale, flag=True, n=3):
        return (x * scale * n).sum(1), [inputs["a"] + inputs["b"], x.to(torch.bfloat16)]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    b, length = Dim("b"), Dim("length", min=2, max=32)
    pair = {"a": torch.rand(4, 2), "b": torch.rand(4, 2)}
    shapes = {
        "x": {0: b, 1: 2 * length},
        "inputs": {"a": {0: b}, "b": {0: b}},
        "scale": {0: b},
        "flag": None,
        "n": None,
    }
    kwargs = {"scale": torch.rand(4, 1), "flag": True, "n": 2}
    return save(tmp_path_factory.mktemp("odd"), Odd(), (torch.rand(4, 6), pair), kwargs, shapes=shapes)


def odd_inputs(n=3, width=8):
    return {"x": rows(n, width), "inputs_a": rows(n, 2, 1), "inputs_b": rows(n, 2, 2), "scale": rows(n, 1, 3)}


def test_nested_and_keyword_inputs_and_constants(odd):
    servable = load(odd)
    signature = servable.signatures[S]
    assert [spec.name for spec in signature.inputs] == ["x", "inputs_a", "inputs_b", "scale"]
    assert told(signature.outputs) == [
        ("output_0", "float32", (None,)),
        ("output_1_0", "float32", (None, 2)),
        ("output_1_1", "float32", (None, None)),
    ]
    inputs = odd_inputs()
    have = servable.run(S, inputs)
    np.testing.assert_allclose(have["output_0"], (inputs["x"] * inputs["scale"] * 2).sum(1), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(have["output_1_0"], inputs["inputs_a"] + inputs["inputs_b"])
    np.testing.assert_array_equal(have["output_1_1"], torch.from_numpy(inputs["x"]).bfloat16().float().numpy())


@pytest.mark.parametrize(
    ("width", "problem"),
    [
        (7, "dimension 1 is 7, and must be 2 times a whole number"),
        (66, "dimension 1 is 66, and must be 4 to 64"),
        (2, "dimension 1 is 2, and must be 4 to 64"),
    ],
)
def test_other_sizes_are_refused(odd, width, problem):
    with pytest.raises(InvalidInput, match=problem):
        load(odd).run(S, odd_inputs(width=width))


class TwoRows(torch.nn.Module):
    def forward(self, x, y):
        return x.sum(0) + y.sum(0)


def test_rows_that_are_not_independent_do_not_batch(tmp_path):
    shapes = ({0: Dim("n")}, {0: Dim("m")})
    servable = load(save(tmp_path, TwoRows(), (torch.rand(3, 4), torch.rand(5, 4)), shapes=shapes))
    assert not servable.signatures[S].batchable
    have = servable.run(S, {"x": rows(6), "y": rows(2)})["output_0"]
    np.testing.assert_allclose(have, rows(6).sum(0) + rows(2).sum(0), rtol=1e-5)


class Cat(torch.nn.Module):
    def forward(self, x):
        return torch.cat([x, x])


def test_twice_the_rows_do_not_batch(tmp_path):
    assert not load(save(tmp_path, Cat(), (torch.rand(3, 4),), shapes=({0: Dim("n")},))).signatures[S].batchable


class Keeps(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(2))

    def forward(self, x):
        self.last.copy_(x)
        return x, self.last * 1


class Gives(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(6).reshape(2, 3))

    def forward(self, i):
        return torch.index_select(self.table, 0, i), self.table


def test_no_memory_is_shared_with_inputs_or_with_the_model(tmp_path):
    servable = load(save(tmp_path, Keeps(), (torch.rand(2),)))
    x = np.ones(2, np.float32)
    x.flags.writeable = False
    first = servable.run(S, {"x": x})
    servable.run(S, {"x": np.full(2, 5, np.float32)})
    assert first["output_0"].tolist() == first["output_1"].tolist() == [1, 1]
    assert not np.may_share_memory(first["output_0"], x)
    gives = load(save(tmp_path, Gives(), (torch.tensor([0, 1, 1]),), name="gives.pt2"))
    gives.run(S, {"i": np.array([0, 1, 1])})["output_1"][:] = 9
    assert gives.run(S, {"i": np.array([0, 1, 1])})["output_1"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_an_index_out_of_range_is_refused(tmp_path):
    gives = load(save(tmp_path, Gives(), (torch.tensor([0, 1, 1]),)))
    with pytest.raises(InvalidRequest, match="out of range"):
        gives.run(S, {"i": np.array([0, 1, 7])})


class Half(torch.nn.Module):
    def forward(self, x):
        return x * 2


def test_bfloat16_is_served_as_float32(tmp_path):
    servable = load(save(tmp_path, Half(), (torch.rand(3).bfloat16(),), shapes=({0: Dim("n")},)))
    assert told(servable.signatures[S].inputs) == [("x", "float32", (None,))]
    have = servable.run(S, {"x": np.array([1.0, 1.001953125], np.float32)})["output_0"]
    np.testing.assert_array_equal(have, np.array([2, 2], np.float32), strict=True)


def test_a_signature_file_names_the_outputs(net, tmp_path):
    _, file = net
    mine = tmp_path / "mine.json"
    x = {"name": "x", "shape": [None, 4]}
    mine.write_text(json.dumps({"inputs": [x], "outputs": [{"name": "logit"}]}))
    assert list(load(file, signature_file=mine).run(S, {"x": rows(2)})) == ["logit"]
    mine.write_text(json.dumps({"inputs": [x | {"name": "y"}]}))
    with pytest.raises(LoadFailed, match=r"mine\.json: its inputs are not those of model\.pt2, which takes x$"):
        load(file, signature_file=mine)


class Integer(torch.nn.Module):
    def forward(self, x, n):
        return x * n


def test_inputs_that_are_no_tensors_are_refused(tmp_path):
    file = save(tmp_path, Integer(), (torch.rand(2), 3), shapes=(None, Dim.DYNAMIC))
    with pytest.raises(LoadFailed, match=r'model\.pt2: input "n" is not a tensor'):
        load(file)


@pytest.mark.parametrize(
    ("suffix", "change", "problem"),
    [
        (
            "models/model.json",
            lambda data: data.replace(b'"schema_version": {"major": ', b'"schema_version": {"major": 99'),
            r"torch 2\S+ does not load what torch 2\S+ wrote: .*major=99\d*, minor.*does not match our current",
        ),
        ("models/model.json", lambda data: data[:100], r"torch 2\S+ does not load it: "),
        ("weight_0", lambda data: data[:4], r"torch 2\S+ does not load what torch 2\S+ wrote: "),
    ],
    ids=["newer", "damaged program", "damaged weights"],
)
def test_files_of_other_versions_and_damaged_ones(net, tmp_path, suffix, change, problem):
    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(net[1]) as old, zipfile.ZipFile(bad, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith(suffix) else data)
    assert kind_of(bad) is Kind.EXPORT
    with pytest.raises(LoadFailed, match=problem) as caught:
        load(bad)
    assert str(caught.value).startswith(str(bad))
    assert "\n" not in str(caught.value)


def test_close_frees_the_weights(net):
    servable = load(net[1])
    module = weakref.ref(servable._module)
    servable.close()
    del servable
    gc.collect()
    assert module() is None
