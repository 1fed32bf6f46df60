"""``memory_limit``: what a model in a worker process may have, for real."""

import memory_models
import numpy as np
import pytest
from simple_models import write_linear
from worker_platforms import UnrulyPlatform

from stfs import platforms
from stfs.errors import ConfigError, LoadFailed, OutOfMemory, PlatformMissing
from stfs.platforms.base import LoadOptions
from stfs.platforms.loading import Hosting, open_servable
from stfs.platforms.memory_limit import check_limit, load_error, may_use_gpu, told

S = "serving_default"
MIB = 1 << 20


def open_within(path, limit_bytes, name="onnx", hosting=None):
    options = LoadOptions(model_name="m", memory_limit_bytes=limit_bytes, device="cpu")
    return open_servable(platforms.find(name), path, options, hosting or Hosting())


def rows(n):
    return {"x": np.arange(3 * n, dtype=np.float32).reshape(n, 3)}


@pytest.mark.slow
def test_a_run_over_the_limit_fails_and_the_process_lives_on(tmp_path):
    """400 MB that any machine has, in a process that may have 300 MiB."""
    servable = open_within(memory_models.write_onnx(tmp_path, elements=100_000_000), 300 * MIB)
    try:
        before = servable.worker_status
        for _ in range(2):
            with pytest.raises(OutOfMemory, match="Failed to allocate memory for requested buffer of size 400000000"):
                servable.run(S, rows(17))
            np.testing.assert_array_equal(servable.run(S, rows(16))["y"], 2 * rows(16)["x"])
        assert servable.worker_status.pid == before.pid
        assert servable.worker_status.restarts == 0
    finally:
        servable.close()


@pytest.mark.slow
def test_without_a_limit_the_same_run_fits(tmp_path):
    """So that it is the limit that is tested above, and not the machine."""
    servable = open_within(memory_models.write_onnx(tmp_path, elements=100_000_000), 2048 * MIB)
    try:
        np.testing.assert_array_equal(servable.run(S, rows(17))["y"], 2 * rows(17)["x"])
    finally:
        servable.close()


@pytest.mark.slow
def test_a_limit_that_is_too_low_to_load_is_told(tmp_path):
    path = write_linear(tmp_path)
    with pytest.raises(
        LoadFailed, match=r"model.onnx: memory_limit of 16 MiB is too low: the process has taken \d+ MiB"
    ):
        open_within(path, 16 * MIB)


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_told(tmp_path):
    from joblib import dump
    from sklearn.neighbors import KNeighborsRegressor

    many = np.zeros((4_000_000, 4))
    dump(KNeighborsRegressor(algorithm="brute").fit(many, many[:, 0]), tmp_path / "large.joblib")
    with pytest.raises(LoadFailed, match=r"large.joblib: does not load within memory_limit of 200 MiB: ") as caught:
        open_within(tmp_path / "large.joblib", 200 * MIB, "scikitlearn")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_process_that_dies_of_its_load_is_told_to_be_bounded(tmp_path):
    (tmp_path / "m.unruly").write_text('{"abort_unless": "/nonexistent"}')
    options = LoadOptions(memory_limit_bytes=1024 * MIB)
    with pytest.raises(LoadFailed, match=r"died of SIGABRT while loading it.*\(memory_limit bounds it to 1024 MiB\)$"):
        open_servable(UnrulyPlatform(), tmp_path / "m.unruly", options, Hosting())


def test_a_limit_that_could_not_be_kept_is_refused(tmp_path):
    path = write_linear(tmp_path)
    with pytest.raises(ConfigError, match="memory_limit bounds the model's own process: isolation cannot be thread"):
        open_within(path, 300 * MIB, hosting=Hosting("thread"))
    with pytest.raises(ConfigError, match="models of pmml share a process: bound it by jvm_heap"):
        check_limit(platforms.find("pmml"), LoadOptions(memory_limit_bytes=1), "auto")
    check_limit(platforms.find("pmml"), LoadOptions(), "auto")


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError("no room"), True),
        (PlatformMissing("onnx", "onnx", "libfoo.so: failed to map segment from shared object"), True),
        (ImportError("libfoo.so: cannot allocate memory in static TLS block"), False),
        (RuntimeError("can't start new thread"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (LoadFailed("m: is damaged"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_loads_failed_for_want_of_memory(tmp_path, error, is_memory):
    found = load_error(error, tmp_path, 300 * MIB)
    assert (found is not None) == is_memory
    if found is not None:
        assert str(found).startswith(f"{tmp_path}: does not load within memory_limit of 300 MiB: ")


def test_only_where_there_is_a_gpu_may_one_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr("stfs.platforms.memory_limit.GPU_FILES", (str(tmp_path / "nvidiactl"),))
    assert not may_use_gpu(LoadOptions(device="auto"))
    (tmp_path / "nvidiactl").touch()
    assert may_use_gpu(LoadOptions(device="auto"))
    assert may_use_gpu(LoadOptions(device="cuda:1"))
    assert not may_use_gpu(LoadOptions(device="cpu"))


def test_sizes_are_told_in_mebibytes():
    assert told(300 * MIB) == "300 MiB"
    assert told(2 * MIB) == "2 MiB"
    assert (told(1), told(500_000)) == ("1 byte", "500000 bytes")


@pytest.mark.slow
def test_the_server_is_told_of_a_model_on_a_gpu(tmp_path):
    """Where the model lies is the child's to say, functions around it or not; here it claims to lie on a GPU."""
    (tmp_path / "m.unruly").write_text('{"on_gpu": true}')
    (tmp_path / "around.py").write_text("def preprocess(inputs):\n    return inputs\n")
    for hosting in (Hosting("process"), Hosting("process", processing_file=tmp_path / "around.py")):
        servable = open_servable(UnrulyPlatform(), tmp_path / "m.unruly", LoadOptions(), hosting)
        try:
            assert servable.on_gpu
        finally:
            servable.close()
