"""Torch's way to a GPU: on the CPU with a stand-in for CUDA, and on a GPU where there is one."""

import contextlib
import json
import threading
import types

import numpy as np
import pytest
from gpu import needs_torch_cuda

from stfs.errors import OutOfMemory
from stfs.platforms.base import LoadOptions
from stfs.platforms.memory import run_on
from stfs.platforms.pytorch import PyTorchPlatform
from stfs.platforms.torch_device import WARM_UP_RUNS, Device, Graphs, captured
from stfs.signature import Signature, TensorSpec

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

S = "serving_default"
FLOAT = np.dtype("float32")
LINEAR = Signature(S, (TensorSpec("x", FLOAT, (None, 3)),), (TensorSpec("y", FLOAT, (None, 3)),), True)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = torch.nn.Linear(4, 8)
        self.out = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor):
        return torch.softmax(self.out(torch.relu(self.hidden(x))), dim=1)


def rows(n, width=4):
    return np.random.default_rng(n).normal(size=(n, width)).astype(np.float32)


def save_script(folder):
    torch.jit.script(Net()).save(str(folder / "model.pt"))
    signature = {"inputs": [{"name": "x", "shape": [None, 4]}], "outputs": [{"name": "p", "shape": [None, 3]}]}
    (folder / "model-signature.json").write_text(json.dumps(signature))
    return folder


def save_export(folder):
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(Net().eval(), (torch.zeros(2, 4),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, str(folder / "model.pt2"))
    return folder


def load(folder, device="cpu", **options):
    return PyTorchPlatform().load(folder, LoadOptions(device=device, **options))


class FakeStream:
    def __init__(self, cuda):
        self.cuda = cuda

    def wait_stream(self, other):
        self.cuda.said.append(("wait", threading.get_ident()))

    def synchronize(self):
        self.cuda.said.append(("synchronize", threading.get_ident()))


class FakeCuda:
    """What of ``torch.cuda`` is used for a run; it notes the calls."""

    def __init__(self):
        self.said = []
        self.streams = 0

    def Stream(self, name):  # noqa: N802
        self.streams += 1
        return FakeStream(self)

    def default_stream(self, name):
        return None

    @contextlib.contextmanager
    def stream(self, stream):
        self.said.append(("enter", threading.get_ident()))
        yield

    def get_device_properties(self, name):
        return types.SimpleNamespace(total_memory=8 << 30)

    def set_per_process_memory_fraction(self, fraction, device):
        self.said.append(("fraction", fraction))


class FakeTorch:
    """Torch whose GPU is the CPU: page-locked memory is ordinary memory."""

    def __init__(self):
        self.cuda = FakeCuda()

    def __getattr__(self, name):
        return getattr(torch, name)

    def empty(self, *args, pin_memory=False, **kwargs):
        return torch.empty(*args, **kwargs)


def fake_gpu():
    device = Device(FakeTorch(), "cpu")
    device.is_gpu = True
    return device, device.torch.cuda


def test_one_run_waits_once_on_a_stream_of_its_thread():
    device, cuda = fake_gpu()
    answers = []

    def run():
        with device.running():
            x = device.put(np.ones((2, 3), np.float32), None)
            answers.append(device.fetch({"a": x * 2, "b": [x, (x + 1,)]}))

    run()
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run()
    assert cuda.streams == 3
    assert sum(what == "synchronize" for what, _ in cuda.said) == 4
    for answer in answers:
        assert answer["a"].tolist() == [[2.0] * 3] * 2
        assert answer["b"][1][0].tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool", "uint8", "int8", "int32", "int64"])
def test_what_is_staged_is_the_array_in_other_memory(dtype):
    device, _ = fake_gpu()
    wide = np.arange(24).reshape(4, 6).astype(dtype)
    read_only = np.broadcast_to(wide[:1], (4, 6))
    for array in (wide, wide[::2, ::3], read_only, wide[:0]):
        staged = device.put(array, None)
        np.testing.assert_array_equal(staged.numpy(), array)
        assert staged.numpy().dtype == array.dtype
        assert not np.may_share_memory(staged.numpy(), array)


def test_what_is_staged_may_be_of_another_dtype():
    device, _ = fake_gpu()
    staged = device.put(np.array([[1.5, 2.5]], np.float32), torch.bfloat16)
    assert staged.dtype is torch.bfloat16
    assert staged.tolist() == [[1.5, 2.5]]


def test_a_limit_is_a_fraction_of_the_gpu():
    device, cuda = fake_gpu()
    device.limit(2 << 30)
    device.limit(0)
    device.limit(100 << 30)
    assert cuda.said == [("fraction", 0.25), ("fraction", 1.0)]
    Device(FakeTorch(), "cpu").limit(1 << 30)


def rerun(run):
    """A stand-in for a CUDA graph: what was returned, and what computes it anew into the same tensors."""
    returned = run()

    def replay():
        old, new = (torch.utils._pytree.tree_leaves(one) for one in (returned, run()))
        for a, b in zip(old, new, strict=True):
            a.copy_(b)

    return returned, replay


def test_graphs_give_each_run_its_own_answer():
    calls = []

    def call(tensors):
        calls.append(tensors["x"].shape[0])
        return {"y": tensors["x"] * 2}

    graphs = Graphs(torch, Device(torch, "cpu"), LINEAR, {}, (1, 4), call, rerun)
    assert graphs.sizes == (1, 4)
    assert calls == [1] * (WARM_UP_RUNS + 1) + [4] * (WARM_UP_RUNS + 1)
    assert not graphs.has({"x": np.zeros((2, 3), np.float32)})
    unlike = {"x": np.zeros((4, 3), np.float32), "z": np.zeros((1, 3), np.float32)}
    assert not graphs.has(unlike), "a single row would be copied to all four"
    wrong = []

    def ask(number):
        kept = []
        for i in range(50):
            x = np.full((1 if i % 2 else 4, 3), number * 100 + i, np.float32)
            kept.append((x, graphs.run({"x": x})["y"]))
        wrong.extend(x for x, y in kept if not np.array_equal(y.numpy(), 2 * x))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_graphs_are_for_models_whose_sizes_are_settled(caplog):
    options = LoadOptions(model_name="m", cuda_graphs=True, batch_sizes=(2,))
    device = Device(torch, "cpu")

    def call(tensors):
        return tensors["x"]

    open_size = Signature(S, (TensorSpec("x", FLOAT, (None, None)),), LINEAR.outputs, True)
    assert captured(torch, device, open_size, {}, options, call, rerun) is None
    assert 'model "m" runs without CUDA graphs: sizes other than the number of rows vary' in caplog.text

    def refuse(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    assert captured(torch, device, LINEAR, {}, options, call, refuse) is None
    assert 'model "m" runs without CUDA graphs: operation not permitted' in caplog.text
    assert captured(torch, device, LINEAR, {}, options, call, rerun).sizes == (2,)
    assert captured(torch, device, LINEAR, {}, LoadOptions(), call, rerun) is None, "not asked for"
    assert captured(torch, device, LINEAR, {}, options, call) is None, "no GPU"


@pytest.mark.parametrize("save", [save_script, save_export])
def test_models_run_the_same_by_graphs(tmp_path, save, monkeypatch):
    plain = load(save(tmp_path))
    real = captured

    def with_stand_in(*args):
        return real(*args, rerun)

    for module in ("torchscript", "torch_export"):
        monkeypatch.setattr(f"stfs.platforms.{module}.captured", with_stand_in)
    graphs = load(tmp_path, cuda_graphs=True, batch_sizes=(1, 8))
    (name,) = (spec.name for spec in plain.signatures[S].outputs)
    for n in (8, 1, 5, 8, 1):
        want = plain.run(S, {"x": rows(n)})[name]
        np.testing.assert_allclose(graphs.run(S, {"x": rows(n)})[name], want, rtol=1e-6)


@needs_torch_cuda
@pytest.mark.parametrize("save", [save_script, save_export])
@pytest.mark.parametrize("options", [{}, {"cuda_graphs": True, "batch_sizes": (1, 8, 32)}], ids=["stream", "graphs"])
def test_on_a_gpu_answers_are_those_of_the_cpu(tmp_path, save, options):
    here, there = load(save(tmp_path)), load(tmp_path, "cuda", **options)
    assert there.on_gpu
    assert bool(options) == (there._graphs is not None)
    (name,) = (spec.name for spec in here.signatures[S].outputs)
    wrong = []

    def ask():
        for n in (32, 1, 8, 7, 32, 100):
            have, want = there.run(S, {"x": rows(n)})[name], here.run(S, {"x": rows(n)})[name]
            if not np.allclose(have, want, rtol=1e-3, atol=1e-5):
                wrong.append(n)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@needs_torch_cuda
def test_on_a_gpu_memory_that_runs_out_is_told(tmp_path):
    class Large(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            n = 1
            if x.size(0) > 16:
                n = 1 << 40
            return x * 2 + torch.zeros(n, device=x.device).max()

    torch.jit.script(Large()).save(str(tmp_path / "model.pt"))
    signature = {"inputs": [{"name": "x", "shape": [None, 4]}], "outputs": [{"name": "y", "shape": [None, 4]}]}
    (tmp_path / "model-signature.json").write_text(json.dumps(signature))
    servable = load(tmp_path, "cuda")
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        run_on(servable, S, {"x": rows(17)})
    np.testing.assert_allclose(run_on(servable, S, {"x": rows(16)})["y"], 2 * rows(16))
