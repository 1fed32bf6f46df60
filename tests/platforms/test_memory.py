"""Which exceptions mean that memory ran out: those of the frameworks themselves, and not those that sound alike."""

import memory_models
import numpy as np
import pytest

from stfs import platforms
from stfs.errors import DeadlineExceeded, InvalidRequest, ModelFailed, OutOfMemory, Unavailable
from stfs.platforms.base import LoadOptions, Servable
from stfs.platforms.memory import out_of_memory, run_on

S = "serving_default"


class Raises(Servable):
    """Raises what it is given, as an adapter does: from what the framework raised."""

    platform = "test"
    runtime = "test"
    signatures = {}  # noqa: RUF012

    def __init__(self, raised, wrapped=True):
        self.raised, self.wrapped = raised, wrapped

    def run(self, signature_name, inputs):
        if not self.wrapped:
            raise self.raised
        try:
            raise self.raised
        except BaseException as error:
            raise ModelFailed("the model failed") from error


def rows(n):
    return {"x": np.arange(3 * n, dtype=np.float32).reshape(n, 3)}


def check(path, words):
    """The model doubles what fits, and says so in its framework's words of what does not."""
    servable = platforms.detect(path).load(path, LoadOptions(device="cpu"))
    (output,) = servable.signatures[servable.default_signature].outputs
    some = rows(memory_models.MOST_ROWS)
    answer = run_on(servable, servable.default_signature, some)[output.name]
    np.testing.assert_array_equal(answer, 2 * some["x"])
    with pytest.raises(OutOfMemory, match=words) as caught:
        run_on(servable, servable.default_signature, rows(memory_models.MOST_ROWS + 1))
    assert "\n" not in str(caught.value)
    assert run_on(servable, servable.default_signature, some)[output.name].shape == (16, 3), "it goes on"
    servable.close()


def test_onnxruntimes(tmp_path):
    memory_models.write_onnx(tmp_path)
    check(tmp_path, "^out of memory: .*Failed to allocate memory for requested buffer of size 281474976710656")


def test_numpys_in_an_estimator(tmp_path):
    import numpy

    path = memory_models.write_estimator(tmp_path)
    servable = platforms.detect(path).load(path, LoadOptions())
    name = servable.signatures[S].inputs[0].name
    with pytest.raises(OutOfMemory, match=r"Unable to allocate 512\. TiB"):
        run_on(servable, S, {name: numpy.ones((17, 3))})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch would rather have torch.export
def test_torchs_on_the_cpu(tmp_path):
    pytest.importorskip("torch")
    memory_models.write_torchscript(tmp_path)
    check(tmp_path, r"DefaultCPUAllocator: can't allocate memory: you tried to allocate 281474976710656 bytes")


@pytest.mark.slow
def test_torchs_on_a_gpu():
    torch = pytest.importorskip("torch")
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ...")
    for wrapped in (True, False):
        with pytest.raises(OutOfMemory, match=r"^out of memory: CUDA out of memory\. Tried to allocate 2.00 GiB"):
            run_on(Raises(error, wrapped), S, {})
    # TorchScript's interpreter passes the words on, and not the type.
    script = (
        "The following operation failed in the TorchScript interpreter.\nTraceback\n  File\nRuntimeError: CUDA out "
    )
    script += "of memory. Tried to allocate 20.00 MiB."
    assert out_of_memory(RuntimeError(script)) == "RuntimeError: CUDA out of memory. Tried to allocate 20.00 MiB."
    assert out_of_memory(torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be")) is not None


@pytest.mark.slow
def test_tensorflows(tmp_path):
    pytest.importorskip("tensorflow")
    memory_models.write_saved_model(tmp_path)
    check(tmp_path, r"^out of memory: .*OOM when allocating tensor with shape\[70368744177664\]")


@pytest.mark.parametrize(
    "text",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'c' "
        "Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
        "AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 8388608000",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Expand node. Name:'' "
        "Status Message: std::bad_alloc",
        "[ONNXRuntimeError] : 1 : FAIL : CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc(&p, s);",
    ],
)
def test_onnxruntimes_on_a_gpu(text):
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    for kind in (state.RuntimeException, state.Fail):
        with pytest.raises(OutOfMemory):
            run_on(Raises(kind(text)), S, {})


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("cannot parse 'CUDA out of memory. Tried to allocate'"),
        RuntimeError("Failed to allocate memory for requested buffer of size 12"),
        KeyError("out of memory"),
        ModelFailed("out of memory"),
    ],
)
def test_words_alone_mean_nothing(error):
    assert out_of_memory(error) is None
    with pytest.raises(type(error)):
        run_on(Raises(error, wrapped=False), S, {})


@pytest.mark.parametrize("error", [InvalidRequest("no"), Unavailable("gone"), DeadlineExceeded("late")])
def test_what_blames_something_else_stays_as_it_is(error):
    error.__cause__ = None if isinstance(error, DeadlineExceeded) else MemoryError("no room")
    with pytest.raises(type(error)) as caught:
        run_on(Raises(error, wrapped=False), S, {})
    assert caught.value is error


def test_what_was_handled_before_does_not_count():
    """``raise ... from None`` says that the two have nothing to do with each other."""
    error = ValueError("another thing")
    error.__context__, error.__suppress_context__ = MemoryError("no room"), True
    assert out_of_memory(error) is None
    error.__suppress_context__ = False
    assert out_of_memory(error) == "no room"


def test_a_chain_without_end_is_looked_at_for_a_while():
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__cause__ = second, first
    assert out_of_memory(first) is None
