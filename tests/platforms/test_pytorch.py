"""TorchScript against torch itself, and what is said of files that cannot be served."""

import gc
import json
import threading
import warnings
import weakref
import zipfile

import numpy as np
import pytest

from stfs.errors import InvalidRequest, LoadFailed, ModelFailed
from stfs.platforms.base import LoadOptions
from stfs.platforms.pytorch import PyTorchPlatform
from stfs.platforms.torch_archive import Kind, kind_of
from stfs.platforms.torch_tensors import default_threads

torch = pytest.importorskip("torch")

# The formats that are served here are deprecated by torch, in favour of torch.export, and are still what people have.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

S = "serving_default"


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(4, 8)
        self.drop = torch.nn.Dropout(0.5)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor):
        return torch.softmax(self.out(self.drop(torch.relu(self.hidden(x)))), dim=1)


def tensor(name="x", shape=(None, 4), **more):
    return {"name": name, "shape": list(shape), **more}


def save(folder, module, inputs, outputs=None, *, name="model.pt", inside=False):
    """Scripts ``module`` into the folder, with its signature beside it, or inside."""
    script = module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module)
    signature = {"inputs": inputs} | ({"outputs": outputs} if outputs else {})
    if inside:
        torch.jit.save(script, str(folder / name), _extra_files={"signature.json": json.dumps(signature)})
    else:
        script.save(str(folder / name))
        (folder / f"{name.partition('.')[0]}-signature.json").write_text(json.dumps(signature))
    return folder / name


def load(path, **options):
    return PyTorchPlatform().load(path, LoadOptions(**options))


def rows(n, width=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def reference(module, *arrays):
    with torch.inference_mode():
        return module.eval()(*(torch.from_numpy(array) for array in arrays)).numpy()


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
@pytest.mark.parametrize("name", ["model.pt", "net.pth", "net.ts"])
def test_answers_are_torchs_own(tmp_path, name, inside):
    net = Net()
    save(tmp_path, net.train(), [tensor()], [tensor("p", (None, 3))], name=name, inside=inside)
    assert PyTorchPlatform().detect(tmp_path)
    assert PyTorchPlatform().isolation_for(tmp_path) == "thread"
    servable = load(tmp_path)
    signature = servable.signatures[S]
    assert [(s.name, s.dtype_name, s.shape) for s in (*signature.inputs, *signature.outputs)] == [
        ("x", "float32", (None, 4)),
        ("p", "float32", (None, 3)),
    ]
    assert signature.batchable
    assert servable.runtime.startswith(f"torch {torch.__version__}, TorchScript, c")
    x = rows(7)
    p = servable.run(S, {"x": x})["p"]
    np.testing.assert_allclose(p, reference(net, x), rtol=1e-6)
    assert p.dtype == np.float32
    servable.close()


def test_rows_together_are_rows_alone_and_callers_get_their_own(tmp_path):
    servable = load(save(tmp_path, Net(), [tensor()]))
    x = rows(40)
    together = servable.run(S, {"x": x})["output_0"]
    for i in range(40):
        np.testing.assert_allclose(servable.run(S, {"x": x[i : i + 1]})["output_0"][0], together[i], rtol=1e-5)
    wrong = []

    def call(i):
        for _ in range(50):
            answer = servable.run(S, {"x": x[i : i + 1]})["output_0"][0]
            if not np.allclose(answer, together[i], rtol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Kinds(torch.nn.Module):
    def forward(self, real: torch.Tensor, whole: torch.Tensor, flag: torch.Tensor):
        return (
            real.to(torch.float16),
            real.to(torch.bfloat16),
            whole.to(torch.int8),
            torch.logical_not(flag),
            whole * 2,
            real.to(torch.float64),
        )


def test_dtypes(tmp_path):
    inputs = [tensor("real", [None]), tensor("whole", [None], dtype="int64"), tensor("flag", [None], dtype="bool")]
    servable = load(save(tmp_path, Kinds(), inputs))
    told = {spec.name: (spec.dtype_name, spec.shape) for spec in servable.signatures[S].outputs}
    names = ["float16", "float32", "int8", "bool", "int64", "float64"]
    assert told == {f"output_{i}": (name, (None,)) for i, name in enumerate(names)}
    real = np.array([1 / 3, 2], np.float32)
    outputs = servable.run(S, {"real": real, "whole": np.array([3, -4]), "flag": np.array([True, False])})
    bfloat = torch.from_numpy(real).bfloat16().float().numpy()
    want = [real.astype(np.float16), bfloat, np.array([3, -4], np.int8), np.array([False, True]), np.array([6, -8])]
    for i, array in enumerate(want):
        np.testing.assert_array_equal(outputs[f"output_{i}"], array, strict=True)


class Named(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: float = 2.0):
        return {"sum": (a + b) * scale, "difference": a - b}


def test_inputs_and_outputs_go_by_name(tmp_path):
    servable = load(save(tmp_path, Named(), [tensor("b"), tensor("a")], [tensor("difference")]))
    assert [spec.name for spec in servable.signatures[S].outputs] == ["difference"]
    a, b = rows(2), rows(2, seed=1)
    outputs = servable.run(S, {"b": b, "a": a})
    np.testing.assert_array_equal(outputs["difference"], a - b)
    assert list(outputs) == ["difference"]


class OneDict(torch.nn.Module):
    def forward(self, inputs: dict[str, torch.Tensor]):
        return inputs["a"] - inputs["b"], [inputs["a"], inputs["b"]]


def test_a_dict_of_inputs_and_nested_outputs(tmp_path):
    servable = load(save(tmp_path, OneDict(), [tensor("b"), tensor("a")]))
    a, b = rows(2), rows(2, seed=1)
    outputs = servable.run(S, {"b": b, "a": a})
    np.testing.assert_array_equal(outputs["output_0"], a - b)
    np.testing.assert_array_equal(outputs["output_1_1"], b)
    assert not np.may_share_memory(outputs["output_1_1"], b)


class WritesAndKeeps(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 4))

    def forward(self, x: torch.Tensor):
        x.add_(1)
        self.last.copy_(x[:1])
        return self.last, x.t().t()


def test_no_memory_is_shared_with_inputs_or_with_the_model(tmp_path):
    servable = load(save(tmp_path, WritesAndKeeps(), [tensor(shape=(1, 4))]))
    x = np.zeros((1, 4), np.float32)
    x.flags.writeable = False
    first = servable.run(S, {"x": x})
    servable.run(S, {"x": np.full((1, 4), 5, np.float32)})
    assert (x == 0).all()
    assert (first["output_0"] == 1).all()
    assert (first["output_1"] == 1).all()
    assert all(array.flags.c_contiguous for array in first.values())


class PerToken(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(10, 2)

    def forward(self, tokens: torch.Tensor):
        return self.words(tokens), self.words(tokens).sum(1)


def test_sizes_that_vary_are_found_out_and_an_index_out_of_range_is_refused(tmp_path):
    servable = load(save(tmp_path, PerToken(), [tensor("t", (None, None), dtype="int64")]))
    assert [spec.shape for spec in servable.signatures[S].outputs] == [(None, None, 2), (None, 2)]
    assert servable.run(S, {"t": np.zeros((3, 5), np.int64)})["output_0"].shape == (3, 5, 2)
    with pytest.raises(InvalidRequest, match="index out of range in self"):
        servable.run(S, {"t": np.array([[10]])})


def test_what_fails_in_the_model_is_told_in_one_line(tmp_path):
    servable = load(save(tmp_path, Net(), [tensor(shape=(None, None))], [tensor("p", (None, 3))]))
    with pytest.raises(ModelFailed, match=r"^mat1 and mat2 shapes cannot be multiplied \(2x5 and 4x8\)$"):
        servable.run(S, {"x": rows(2, 5)})


def test_close_frees_the_weights(tmp_path):
    servable = load(save(tmp_path, Net(), [tensor()]))
    module = weakref.ref(servable._module)
    servable.close()
    del servable
    gc.collect()
    assert module() is None


@pytest.mark.parametrize(
    ("inputs", "outputs", "problem"),
    [
        (
            [tensor("a"), tensor("c")],
            None,
            r'an input "c", but forward of model\.pt takes "a" \(Tensor\), "b" \(Tensor\)',
        ),
        ([tensor("a")], None, r'model-signature\.json: leaves out input "b" of model\.pt'),
        (
            [tensor("a"), tensor("b")],
            [tensor("x")] * 1 + [tensor(n) for n in "yz"],
            "names 3 outputs.*returned 2: sum, diff",
        ),
        (
            [tensor("a"), tensor("b")],
            [tensor("sum", (None, 5))],
            r'output "sum" is \[\?, 5\], the model returned \[\?, 4\]',
        ),
        ([tensor("a"), tensor("b", (None, 3))], None, "a first run on zeros failed, so say .outputs.*must match"),
    ],
)
def test_a_signature_that_does_not_fit(tmp_path, inputs, outputs, problem):
    with pytest.raises(LoadFailed, match=problem):
        load(save(tmp_path, Named(), inputs, outputs))


def test_without_a_signature_an_example_is_shown_that_works(tmp_path):
    file = save(tmp_path, Named(), [])
    (tmp_path / "model-signature.json").unlink()
    with pytest.raises(LoadFailed, match=r"write them to model-signature\.json beside it, such as \{") as caught:
        load(tmp_path)
    example = json.loads(str(caught.value).partition("such as ")[2])
    assert [entry["name"] for entry in example["inputs"]] == ["a", "b"]
    del example["outputs"]
    (tmp_path / "model-signature.json").write_text(json.dumps(example))
    assert load(file).signatures[S].batchable


def repack(source, target, suffix, change):
    """The zip file ``source`` as ``target``, with what ends in ``suffix`` changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            new.writestr(entry.filename, change(data) if entry.filename.endswith(suffix) else data)


@pytest.mark.parametrize(
    ("how", "kind", "problem"),
    [
        ("cut", Kind.UNKNOWN, "is no PyTorch file, or is cut short"),
        ("empty", Kind.UNKNOWN, "is no PyTorch file"),
        ("text", Kind.UNKNOWN, "is no PyTorch file"),
        ("newer", Kind.TORCHSCRIPT, r"torch 2\S+ does not load it: .*version 99, but the maximum supported version"),
        ("damaged", Kind.TORCHSCRIPT, r"torch 2\S+ does not load it: "),
        ("whole", Kind.PICKLED, r"a pickled \S+Net, which would run any code.*torch\.jit\.script"),
        ("weights", Kind.PICKLED, r"holds weights without the model.*torch\.export\.save"),
        ("checkpoint", Kind.PICKLED, "holds weights without the model"),
        ("old weights", Kind.PICKLED, "holds weights without the model"),
    ],
)
def test_files_that_cannot_be_served(tmp_path, how, kind, problem):
    good, bad = save(tmp_path, Net(), [tensor()], name="good.pt"), tmp_path / "bad.pt"
    match how:
        case "cut":
            bad.write_bytes(good.read_bytes()[:-100])
        case "empty":
            bad.write_bytes(b"")
        case "text":
            bad.write_text("hello")
        case "newer":
            repack(good, bad, "good/version", lambda _: b"99\n")
        case "damaged":
            repack(good, bad, ".py", lambda data: data[:40])
        case "whole":
            torch.save(Net(), bad)
        case "weights":
            torch.save(Net().state_dict(), bad)
        case "checkpoint":
            torch.save({"epoch": 3, "model": Net().state_dict()}, bad)
        case "old weights":
            torch.save(Net().state_dict(), bad, _use_new_zipfile_serialization=False)
    assert kind_of(bad) is kind
    with pytest.raises(LoadFailed, match=problem) as caught:
        load(bad)
    assert str(caught.value).startswith(str(bad))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(tmp_path):
    file = save(tmp_path, Net(), [tensor()])
    with pytest.raises(LoadFailed, match=r"model\.pt: device cuda was asked for, but torch .* finds none"):
        load(file, device="cuda")
    assert load(file, device="cpu").runtime.endswith("cpu")


def test_threads(tmp_path, caplog):
    file = save(tmp_path, Net(), [tensor()])
    load(file, threads=2)
    assert torch.get_num_threads() == 2
    load(file)
    assert torch.get_num_threads() == 2
    load(file, threads=1)
    assert torch.get_num_threads() == 1
    assert "threads of torch are the process's: 1 from now on for every model, not 2" in caplog.text
    assert [default_threads(cores) for cores in (1, 2, 4, 64)] == [1, 1, 3, 8]


def test_nothing_of_torch_is_printed_while_serving(tmp_path):
    servable = load(save(tmp_path, Net(), [tensor()]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        servable.run(S, {"x": rows(1)})
