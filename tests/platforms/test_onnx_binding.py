"""IO binding, CUDA graphs and page-locked memory: on the CPU the same code gives the answers of ``session.run``."""

import ctypes
import ctypes.util
import gc
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import memory_models
import modelzoo
import numpy as np
import onnx
import pytest
import simple_models
from gpu import needs_onnxruntime_cuda
from onnx import helper
from simple_models import save

from stfs.errors import InvalidRequest, OutOfMemory
from stfs.platforms.base import LoadOptions
from stfs.platforms.memory import run_on
from stfs.platforms.onnx import CPU, CUDA, OnnxPlatform
from stfs.platforms.onnx_binding import BoundRuns, CapturedRuns, can_bind, can_capture
from stfs.platforms.onnx_device import captured_runs, tuned
from stfs.platforms.pinned import PinnedMemory, PlainMemory, host_memory

S = "serving_default"
DTYPES = ["float16", "float32", "float64", "bool", *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64))]


def load(path, **options):
    return OnnxPlatform().load(path, LoadOptions(device="cpu", **options))


def bound(servable, memory=None):
    """The same servable as it is set up on a GPU, but for the device."""
    servable.bind(servable.session, BoundRuns(servable.session, servable.graph, memory or PlainMemory()))
    return servable


def captured(servable, sizes):
    import onnxruntime

    runs = CapturedRuns(onnxruntime, servable.session, servable.graph, sizes, "cpu", 0, PlainMemory())
    servable.bind(servable.session, runs)
    return servable


def write_identity(folder, dtype, shape=("n", 2), out_shape=("n", 2)):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, out_shape)],
    )
    return save(graph, folder)


def values(dtype, rows):
    random = np.random.default_rng(rows)
    drawn = random.normal(0, 50, (rows, 2)) if np.dtype(dtype).kind == "f" else random.integers(0, 100, (rows, 2))
    return (drawn > 40 if dtype == "bool" else drawn).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", ["bound", "captured"])
def test_every_dtype_is_passed_on_as_it_is(tmp_path, dtype, way):
    servable = load(write_identity(tmp_path, dtype))
    servable = bound(servable) if way == "bound" else captured(servable, (1, 4))
    for rows in (1, 4, 3, 0, 4, 1):
        x = values(dtype, rows)
        y = servable.run(S, {"x": x})["y"]
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y, x)
        assert not np.may_share_memory(y, x)


@pytest.mark.parametrize("way", ["bound", "captured"])
def test_answers_are_those_of_a_plain_run_whatever_ran_before(tmp_path, way):
    path = modelzoo.onnx_mlp(tmp_path)
    plain = load(path)
    other = bound(load(path)) if way == "bound" else captured(load(path), (1, 8, 32))
    kept = []
    for rows in (32, 1, 8, 7, 32, 0, 100, 1, 8):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        want, have = plain.run(S, {"x": x}), other.run(S, {"x": x})
        assert list(have) == list(want)
        for name in want:
            np.testing.assert_array_equal(have[name], want[name])
        kept.append((have, {name: array.copy() for name, array in have.items()}))
    for have, copy in kept:
        for name in copy:
            np.testing.assert_array_equal(have[name], copy[name], err_msg="a later run wrote into an earlier answer")


def test_inputs_need_not_be_contiguous_and_are_not_written_to(tmp_path):
    servable = bound(load(modelzoo.onnx_mlp(tmp_path)))
    wide = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    before = wide.copy()
    want = load(tmp_path).run(S, {"x": np.ascontiguousarray(wide[::2, ::2])})
    np.testing.assert_array_equal(servable.run(S, {"x": wide[::2, ::2]})["probabilities"], want["probabilities"])
    np.testing.assert_array_equal(wide, before)


@pytest.mark.parametrize("way", ["bound", "captured"])
def test_many_threads_get_their_own_answers(tmp_path, way):
    path = simple_models.write_linear(tmp_path)
    servable = bound(load(path)) if way == "bound" else captured(load(path), (1, 2, 3))
    wrong = []

    def call(number):
        for i in range(100):
            x = np.full((1 + (number + i) % 4, 3), number * 1000 + i, np.float32)
            if not np.array_equal(servable.run(S, {"x": x})["y"], 2 * x):
                wrong.append((number, i))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_cannot_be_bound_is_told_by_the_signature(tmp_path):
    modelzoo.onnx_strings(tmp_path / "strings")
    assert not can_bind(load(tmp_path / "strings").graph)
    sequence = load(write_identity(tmp_path / "open", "float32", ("n", "m"), ("n", "m"))).graph
    assert not can_bind(sequence), "the output's size is known only once it ran"
    pooled = load(memory_models.write_onnx(tmp_path / "pooled")).graph
    assert can_bind(pooled)
    assert can_capture(pooled)


def test_an_output_that_is_not_as_it_was_declared_runs_plainly(tmp_path, caplog):
    """The file says [n, 2] and the model gives [n, 3]: a buffer for the former would not hold the latter."""
    graph = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
        "twice",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["m", 3])],
    )
    servable = bound(load(save(graph, tmp_path)))
    x = np.ones((2, 3), np.float32)
    for _ in range(2):
        assert servable.run(S, {"x": x})["y"].shape == (4, 3)
    assert sum("does not run by IO binding" in record.message for record in caplog.records) == 1


def test_runs_side_by_side_find_out_together_that_binding_does_not_work(tmp_path):
    """Two are under way when the first of them gives binding up for good."""
    servable = load(simple_models.write_linear(tmp_path))
    both = threading.Barrier(2, timeout=30)

    class Refused(BoundRuns):
        def run(self, feed):
            is_second = both.wait()
            end_s = time.monotonic() + 30
            while is_second and servable.bound_by and time.monotonic() < end_s:
                time.sleep(0.001)
            raise RuntimeError("not by IO binding")

    servable.bind(servable.session, Refused(servable.session, servable.graph, PlainMemory()))
    x = np.ones((2, 3), np.float32)
    with ThreadPoolExecutor(2) as threads:
        told = [threads.submit(servable.run, S, {"x": x}) for _ in range(2)]
        assert all(np.array_equal(one.result()["y"], 2 * x) for one in told)


@pytest.mark.parametrize("way", ["bound", "captured"])
def test_inputs_of_unlike_rows_are_not_made_alike(tmp_path, way):
    """A model whose requests run one by one may mean something by a single row."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["b"], ["s"], noop_with_empty_axes=0),
            helper.make_node("Add", ["a", "s"], ["y"]),
        ],
        "sum",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [name, 2]) for name in ("a", "b")],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["a", 2])],
    )
    path = save(graph, tmp_path)
    servable = bound(load(path)) if way == "bound" else captured(load(path), (1, 4))
    for a_rows, b_rows in ((4, 1), (4, 4), (4, 2), (1, 4)):
        inputs = {"a": np.zeros((a_rows, 2), np.float32), "b": np.ones((b_rows, 2), np.float32)}
        np.testing.assert_array_equal(servable.run(S, inputs)["y"], np.full((a_rows, 2), 2.0 * b_rows))


def test_what_the_client_is_to_blame_for_is_told_as_without(tmp_path):
    modelzoo.onnx_several_inputs(tmp_path)
    servable = bound(load(tmp_path))
    inputs = {"ids": np.array([7]), "scale": np.ones((1, 2), "float16"), "flip": np.zeros((1, 2), bool)}
    with pytest.raises(InvalidRequest, match=r"^Gather: indices element out of data bounds, idx=7"):
        servable.run(S, inputs)


def test_memory_that_runs_out_is_told_and_tried_once(tmp_path, caplog):
    servable = bound(load(memory_models.write_onnx(tmp_path)))
    with pytest.raises(OutOfMemory, match="Failed to allocate memory"):
        run_on(servable, S, {"x": np.ones((17, 3), np.float32)})
    assert run_on(servable, S, {"x": np.ones((16, 3), np.float32)})["y"].shape == (16, 3)
    assert not caplog.records


class Counted(PlainMemory):
    def __init__(self):
        self.sizes = []

    def bytes(self, size):
        self.sizes.append(size)
        return super().bytes(size)


def test_memory_is_kept_from_run_to_run_and_only_so_much_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("stfs.platforms.onnx_binding.MOST_KEPT_BYTES", 1 << 16)
    memory = Counted()
    servable = bound(load(simple_models.write_linear(tmp_path)), memory)
    for rows in (8, 5, 8, 1, 7):
        servable.run(S, {"x": np.ones((rows, 3), np.float32)})
    assert memory.sizes == [128, 128], "one of each for all of them"
    large = np.ones((10_000, 3), np.float32)
    for _ in range(2):
        servable.run(S, {"x": large})
    assert len(memory.sizes) == 6, "what is too large to keep is had anew"


def test_a_batch_of_another_size_runs_without_a_graph(tmp_path):
    servable = captured(load(simple_models.write_linear(tmp_path)), (2, 4))
    for rows in (1, 2, 3, 4, 5):
        x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
        np.testing.assert_array_equal(servable.run(S, {"x": x})["y"], 2 * x)


def test_a_model_that_allows_no_graph_is_told_and_runs(tmp_path, caplog):
    import onnxruntime

    options = LoadOptions(model_name="m", batch_sizes=(4,), cuda_graphs=True)
    strings = load(modelzoo.onnx_strings(tmp_path / "strings"))
    assert captured_runs(onnxruntime, lambda: strings.session, strings.graph, options) is None
    assert 'model "m" runs without CUDA graphs: sizes other than the number of rows vary' in caplog.text

    def refuse():
        raise RuntimeError("not all nodes are on the GPU")

    mlp = load(modelzoo.onnx_mlp(tmp_path / "mlp"))
    assert captured_runs(onnxruntime, refuse, mlp.graph, options) is None
    assert 'model "m" runs without CUDA graphs: not all nodes are on the GPU' in caplog.text


def test_graphs_on_the_cpu_are_told_to_be_none(tmp_path, caplog):
    servable = load(modelzoo.onnx_mlp(tmp_path), model_name="m", cuda_graphs=True, batch_sizes=(1, 8))
    assert servable.bound_by == ""
    assert 'model "m" runs without CUDA graphs: it runs on the CPU' in caplog.text


def test_what_a_gpu_is_told_of_its_memory():
    limited = LoadOptions(memory_limit_bytes=1 << 30)
    assert tuned([CPU], limited) == [CPU]
    assert tuned([CUDA, CPU], LoadOptions()) == [CUDA, CPU]
    said = {"gpu_mem_limit": str(1 << 30), "arena_extend_strategy": "kSameAsRequested"}
    assert tuned([CUDA, CPU], limited) == [(CUDA, said), CPU]
    assert tuned([(CUDA, {"device_id": 1}), CPU], limited) == [(CUDA, {"device_id": 1, **said}), CPU]
    assert tuned([CUDA, CPU], LoadOptions(), graphs=True) == [(CUDA, {"enable_cuda_graph": "1"}), CPU]


class FakeRuntime:
    """The two calls of the CUDA runtime by those of the C library, counted."""

    def __init__(self, fails=False):
        self.held = set()
        self.fails = fails
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
        libc.free.argtypes = (ctypes.c_void_p,)

        class Allocate:
            def __call__(_, place, size, flags):  # noqa: N805
                assert flags == 1
                if self.fails:
                    return 2
                place._obj.value = libc.malloc(size)
                self.held.add(place._obj.value)
                return 0

        class Free:
            def __call__(_, place):  # noqa: N805
                self.held.remove(place)
                libc.free(place)
                return 0

        self.cudaHostAlloc, self.cudaFreeHost = Allocate(), Free()


def test_page_locked_memory_is_freed_with_the_last_view_of_it():
    runtime = FakeRuntime()
    block = PinnedMemory(runtime).bytes(64)
    block[:] = 7
    view = block[8:16].view(np.int32)
    del block
    gc.collect()
    assert len(runtime.held) == 1
    assert view.tolist() == [0x07070707] * 2
    del view
    gc.collect()
    assert not runtime.held


def test_page_locked_memory_that_cannot_be_had():
    with pytest.raises(MemoryError, match="cudaHostAlloc of 64 bytes: error 2"):
        PinnedMemory(FakeRuntime(fails=True)).bytes(64)


def test_without_a_cuda_runtime_it_is_ordinary_memory(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("stfs.platforms.pinned.RUNTIMES", ("libnosuchthing.so.1",))
    assert isinstance(host_memory(pinned=True), PlainMemory)
    assert "no page-locked memory" in caplog.text
    assert isinstance(host_memory(pinned=False), PlainMemory)


@pytest.mark.slow
@needs_onnxruntime_cuda
@pytest.mark.parametrize("options", [{}, {"cuda_graphs": True, "batch_sizes": (1, 8, 32)}], ids=["bound", "graphs"])
def test_on_a_gpu_answers_are_those_of_the_cpu(tmp_path, options):
    path = modelzoo.onnx_mlp(tmp_path)
    here, there = load(path), OnnxPlatform().load(path, LoadOptions(device="cuda", **options))
    assert there.runtime.endswith(CUDA)
    assert there.bound_by == ("CUDA graphs" if options else "IO binding")
    for rows in (32, 1, 8, 7, 32, 100):
        x = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)
        want, have = here.run(S, {"x": x}), there.run(S, {"x": x})
        np.testing.assert_allclose(have["probabilities"], want["probabilities"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@needs_onnxruntime_cuda
def test_on_a_gpu_the_limit_of_memory_is_kept(tmp_path):
    path = memory_models.write_onnx(tmp_path, elements=1 << 28)
    servable = OnnxPlatform().load(path, LoadOptions(device="cuda", memory_limit_bytes=256 << 20))
    with pytest.raises(OutOfMemory):
        run_on(servable, S, {"x": np.ones((17, 3), np.float32)})
    assert run_on(servable, S, {"x": np.ones((16, 3), np.float32)})["y"].shape == (16, 3)
