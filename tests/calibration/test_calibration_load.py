"""Calibration as a model is loaded: measured once, kept and believed while nothing has changed; else told why not."""

import json
import os
import threading

import numpy as np
import pytest

from stfs.batcher.policy import BatchPolicy
from stfs.calibration import digests, load
from stfs.calibration.inputs import GENERATED, RECORDED, ZEROS
from stfs.calibration.load import calibrate_model
from stfs.config import ModelConfig
from stfs.platforms.base import Servable
from stfs.signature import Signature, TensorSpec

X = TensorSpec("x", np.dtype("float32"), (None, 2))
TEXT = TensorSpec("x", np.dtype(object), (None,))
Y = TensorSpec("y", np.dtype("float32"), (None, 2))
BATCH = BatchPolicy(max_batch_size=8)


class Model(Servable):
    """Answers with its input. ``runs`` are the rows of each run, ``sums`` those of their values."""

    platform = "fake"
    concurrent = False

    def __init__(self, *specs, batchable=True, runtime="fake 1.0", refuse=lambda inputs: None):
        self.runtime = runtime
        self.signatures = {f"s{i}": Signature(f"s{i}", (spec,), (Y,), batchable) for i, spec in enumerate(specs)}
        self.runs, self.sums, self.refuse = [], [], refuse
        self.lock = threading.Lock()

    def run(self, signature_name, inputs):
        with self.lock:
            self.runs.append(len(inputs["x"]))
            if inputs["x"].dtype != object:
                self.sums.append(float(np.abs(inputs["x"]).sum()))
        self.refuse(inputs["x"])
        return {"y": inputs["x"]}


@pytest.fixture
def version(tmp_path):
    folder = tmp_path / "model" / "1"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"1234")
    return folder


@pytest.fixture
def calibrated(tmp_path, version):
    def calibrate(model, *, recorded=dict, path=version, cache=tmp_path / "cache", **settings):
        config = ModelConfig("m", path.parent, **{"batch": BATCH, "calibration_cache": str(cache), **settings})
        return calibrate_model(model, model.signatures, config, path, recorded)

    return calibrate


MEASURING = [1, 1, 2, 2, 4, 4, 8, 8]


def test_the_second_start_measures_nothing_and_knows_as_much(calibrated):
    first, second = Model(X), Model(X)
    (measured,) = calibrated(first).values()
    (kept,) = calibrated(second).values()
    assert first.runs == MEASURING
    assert second.runs == [8], "it is warmed up at its largest size"
    assert (measured.cached, kept.cached) == (False, True)
    assert kept.cost == pytest.approx(measured.cost)
    assert (kept.ran_on, kept.machine) == (GENERATED, measured.machine)
    assert min(first.sums) > 0, "zeros are no example"


def test_without_a_cache_nothing_is_kept(calibrated, tmp_path):
    for model in (Model(X), Model(X)):
        calibrated(model, cache="off")
        assert model.runs == MEASURING
    assert not (tmp_path / "cache").exists()


def test_switched_off_nothing_runs(calibrated, tmp_path):
    model = Model(X)
    (skipped,) = calibrated(model, calibrate=False).values()
    assert (model.runs, skipped.cost, skipped.why_skipped) == ([], None, "calibrate is false")
    assert not (tmp_path / "cache").exists()


def test_what_runs_request_by_request_is_not_timed(calibrated):
    model = Model(X, batchable=False)
    assert [one.why_skipped for one in calibrated(model).values()] == ["it runs request by request"]
    assert model.runs == []


@pytest.mark.parametrize(
    "change",
    [
        lambda model, path: {"model": Model(X, runtime="fake 1.1")},
        lambda model, path: {"threads": 2},
        lambda model, path: {"device": "cpu"},
        lambda model, path: {"session_config": {"a": 1}},
        lambda model, path: {"batch": BatchPolicy(max_batch_size=4)},
        lambda model, path: {"model": Model(TensorSpec("x", np.dtype("float64"), (None, 2)))},
        lambda model, path: (path / "weights").write_bytes(b"123456") and {},
        lambda model, path: (path / "more").write_bytes(b"") or {},
        lambda model, path: (path / "weights").rename(path / "renamed") and {},
    ],
)
def test_it_is_measured_again_when_something_has_changed(calibrated, version, change):
    calibrated(Model(X))
    settings = change(Model, version)
    model = settings.pop("model", Model(X))
    (found,) = calibrated(model, **settings).values()
    assert not found.cached
    assert len(model.runs) > 1


def test_a_file_of_the_same_size_and_date_with_other_bytes_is_seen(calibrated, version):
    file = version / "weights"
    calibrated(Model(X))
    was = file.stat()
    file.write_bytes(b"4321")
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    (found,) = calibrated(Model(X)).values()
    assert not found.cached


def test_a_copy_elsewhere_is_the_same_model(calibrated, version, tmp_path):
    calibrated(Model(X))
    copy = tmp_path / "elsewhere" / "7"
    copy.mkdir(parents=True)
    (copy / "weights").write_bytes((version / "weights").read_bytes())
    (found,) = calibrated(Model(X), path=copy).values()
    assert found.cached


def test_an_unchanged_model_is_not_read_again(calibrated, monkeypatch):
    read = []
    contents = digests.contents
    monkeypatch.setattr(digests, "contents", lambda path: read.append(path) or contents(path))
    for _ in range(3):
        calibrated(Model(X))
    assert len(read) == 1


def test_of_a_very_large_model_no_file_is_read(calibrated, monkeypatch):
    monkeypatch.setattr(digests, "MAX_HASHED_BYTES", 3)
    monkeypatch.setattr(digests, "contents", lambda path: pytest.fail("it would take longer than the timing"))
    calibrated(Model(X))
    (found,) = calibrated(Model(X)).values()
    assert found.cached


def test_large_files_are_read_in_pieces(version, monkeypatch):
    whole = digests.contents(version)
    monkeypatch.setattr(digests, "PIECE_BYTES", 1)
    assert digests.contents(version) == whole


@pytest.mark.parametrize(
    "damage",
    [
        lambda told: {},
        lambda told: {**told, "signatures": {}},
        lambda told: {**told, "signatures": None},
        lambda told: {**told, "signatures": {"s0": told["signatures"]["s0"] | {"overlap": -1}}},
    ],
)
def test_what_is_not_what_was_written_is_measured_again(calibrated, tmp_path, damage):
    calibrated(Model(X))
    (file,) = (tmp_path / "cache").glob("model-*.json")
    file.write_text(json.dumps(damage(json.loads(file.read_text()))))
    model = Model(X)
    (found,) = calibrated(model).values()
    assert (found.cached, model.runs) == (False, MEASURING)
    (again,) = calibrated(Model(X)).values()
    assert again.cached, "it has been mended"


def test_a_folder_that_takes_no_files_costs_only_the_measuring(calibrated, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    model = Model(X)
    (found,) = calibrated(model, cache=tmp_path / "file" / "below").values()
    assert (found.cached, model.runs) == (False, MEASURING)
    assert "takes no files" in caplog.text


def test_recorded_requests_are_what_it_is_timed_on(calibrated):
    model = Model(TEXT)
    (found,) = calibrated(model, recorded=lambda: {"s0": [{"x": np.array([b"text"], dtype=object)}]}).values()
    assert (found.ran_on, model.runs) == (RECORDED, MEASURING)


def test_text_without_recorded_requests_is_skipped_with_a_reason(calibrated):
    model = Model(TEXT, X)
    skipped, timed = calibrated(model).values()
    assert "strings" in skipped.why_skipped
    assert timed.cost is not None
    skipped, timed = calibrated(Model(TEXT, X)).values()
    assert (skipped.cost, timed.cached) == (None, True)


def refuse_what_is_not_zero(array):
    if array.any():
        raise SystemExit("no such value")


def refuse_all(array):
    raise RuntimeError("never again")


def test_a_model_that_refuses_what_was_made_up_gets_zeros(calibrated):
    (found,) = calibrated(Model(X, refuse=refuse_what_is_not_zero)).values()
    assert found.ran_on == ZEROS
    (kept,) = calibrated(Model(X, refuse=refuse_what_is_not_zero)).values()
    assert kept.cached


def test_a_model_that_refuses_everything_loads_all_the_same(calibrated, tmp_path):
    (found,) = calibrated(Model(X, refuse=refuse_all)).values()
    assert found.why_skipped == "the model refused zeros: never again"
    assert not list((tmp_path / "cache").glob("model-*")), "a failure is no finding"


def test_two_at_once_are_tried_only_where_the_platform_takes_them(calibrated, monkeypatch):
    tried = []
    monkeypatch.setattr(load, "measure_overlap", lambda run, run_s: tried.append(run) or (1.8, ""))
    (alone,) = calibrated(Model(X), cache="off").values()
    assert (tried, alone.overlap, alone.in_flight) == ([], None, 1)
    assert "one batch at a time" in alone.why_no_overlap
    model = Model(X)
    model.concurrent = True
    (both,) = calibrated(model, cache="off").values()
    assert (len(tried), both.overlap, both.in_flight) == (1, 1.8, 2)
