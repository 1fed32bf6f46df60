"""Warm-up by the real loader: what is run, how often, and that a version whose requests fail is not loaded."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from modelzoo import sklearn_logistic
from prediction_logs import float_tensor, linear_log, predict_log, write
from simple_models import write_linear

from stfs.config import ModelConfig
from stfs.errors import LoadFailed
from stfs.loader import ModelLoader
from stfs.metrics import Metrics
from stfs.warmup.replay import MAX_RECORDS, replay


def load(version: Path, **settings):
    """Rows of each run that the recorded requests caused; the loader's own runs are not counted there."""
    metrics = Metrics()
    config = replace(ModelConfig(name="m", base_path=version.parent, calibrate=False), **settings)

    async def main():
        loader = ModelLoader(metrics, replay)
        loader.configure([config])
        model = await loader("m", 1, version)
        await model.close()

    asyncio.run(main())
    return dict(metrics.statistics("m", "1").by_rows)


def test_each_request_runs(tmp_path):
    write_linear(tmp_path / "1")
    rows = [[[1.0] * 3], [[1.0] * 3, [2.0] * 3]]
    write(tmp_path / "1", [predict_log({"x": float_tensor(each)}) for each in rows])
    assert {count: runs.count for count, runs in load(tmp_path / "1").items()} == {1: 1, 2: 1}


def test_as_often_as_asked(tmp_path):
    write_linear(tmp_path / "1")
    write(tmp_path / "1", [linear_log()])
    assert load(tmp_path / "1", warmup_iterations=3)[1].count == 3
    assert load(tmp_path / "1", warmup_iterations=0) == {}


def test_no_file_no_runs(tmp_path):
    write_linear(tmp_path / "1")
    assert load(tmp_path / "1") == {}


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        (predict_log({"wrong": float_tensor([[1.0] * 3])}), 'warmup record 2: input "x": missing'),
        (predict_log({"x": float_tensor([[1.0] * 4])}), 'warmup record 2: input "x"'),
        (linear_log(signature_name="none"), 'warmup record 2: .*no signature "none"'),
        (b"\x32\xff", "warmup record 2: the message is no valid protobuf"),
        (b"\x2a\x00", "warmup record 2: Unsupported log_type for warmup: session_run_log"),
    ],
)
def test_a_request_that_fails_fails_the_load(tmp_path, record, problem):
    write_linear(tmp_path / "1")
    path = write(tmp_path / "1", [linear_log(), record])
    with pytest.raises(LoadFailed, match=problem) as caught:
        load(tmp_path / "1")
    assert str(path) in str(caught.value)


def test_too_many_records(tmp_path):
    write_linear(tmp_path / "1")
    write(tmp_path / "1", [b""] * MAX_RECORDS)
    assert load(tmp_path / "1") == {}
    write(tmp_path / "1", [b""] * (MAX_RECORDS + 1))
    with pytest.raises(LoadFailed, match="Number of warmup records exceeds the maximum"):
        load(tmp_path / "1")


def test_no_tfrecord_file(tmp_path):
    write_linear(tmp_path / "1")
    write(tmp_path / "1", []).write_text("requests")
    with pytest.raises(LoadFailed, match="verify your warmup data is in TFRecord format"):
        load(tmp_path / "1")


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_model_of_another_platform_wherever_it_runs(tmp_path, isolation):
    sklearn_logistic(tmp_path / "1")
    write(tmp_path / "1", [predict_log({"data": float_tensor([[1.0] * 4] * 3)})])
    assert load(tmp_path / "1", isolation=isolation)[3].count == 1
