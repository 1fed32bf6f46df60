"""Models in worker processes: the same answers, typed errors, groups, closing. How they die is in test_worker_death."""

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from waiting import is_alive
from worker_platforms import GroupedPlatform, Unruly, UnrulyPlatform, order, text, wait_for, write_model

from stfs.errors import (
    ConfigError,
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelFailed,
    Overloaded,
    PlatformMissing,
    Unavailable,
)
from stfs.platforms import worker_supervisor
from stfs.platforms.base import LoadOptions
from stfs.platforms.loading import Hosting, open_servable
from stfs.platforms.worker_run import run_once

SIGNATURE = "serving_default"


@pytest.fixture
def opened():
    """``opened(path, platform, hosting)`` is a servable in a worker; closed when the test ends."""
    servables = []

    def open_it(path, platform=None, hosting=None, **options):
        servable = open_servable(
            platform or UnrulyPlatform(), path, LoadOptions("m", **options), hosting or Hosting("process")
        )
        servables.append(servable)
        return servable

    yield open_it
    for servable in servables:
        servable.close()


@pytest.fixture
def model(tmp_path, opened):
    return opened(write_model(tmp_path))


def test_a_worker_answers_as_the_model_does_here(tmp_path, model):
    here = open_servable(UnrulyPlatform(), tmp_path / "model.unruly", LoadOptions("m"), Hosting())
    assert here.worker_status is None
    assert model.signatures == here.signatures
    assert (model.platform, model.default_signature) == (here.platform, here.default_signature)
    assert model.runtime == "unruly 1.0, in a worker process"
    random = np.random.default_rng(0)
    for rows in (0, 1, 3, 1000):
        inputs = {
            "x": random.random((rows, 5), dtype=np.float32),
            "text": text(*[b"\x00\xff" * (i % 4) for i in range(rows)]),
        }
        there, expected = model.run(SIGNATURE, inputs), here.run(SIGNATURE, inputs)
        assert list(there) == list(expected)
        for name in expected:
            if name == "pid":
                assert (there[name] == model.worker_status.pid).all()
                assert model.worker_status.pid != os.getpid()
                continue
            assert there[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(there[name], expected[name])


@pytest.mark.parametrize(
    ("value", "kind", "told", "fields"),
    [
        (Unruly.INVALID, InvalidInput, 'input "x": the value -1 is cursed', {"input_name": "x"}),
        (Unruly.UNAVAILABLE, Unavailable, "the heap is full", {"retry_after_s": 7.0}),
        (Unruly.OVERLOADED, Overloaded, "too much", {"retry_after_s": 2.5}),
        (Unruly.DEADLINE, DeadlineExceeded, "too late", {}),
        (Unruly.FAILED, ModelFailed, "it failed", {}),
    ],
)
def test_errors_keep_type_text_and_fields(model, value, kind, told, fields):
    with pytest.raises(kind) as caught:
        model.run(SIGNATURE, order(value))
    assert type(caught.value) is kind
    assert str(caught.value) == told
    assert fields.items() <= vars(caught.value).items()
    assert "in obey" in str(caught.value.__cause__), "the traceback there is the cause here"
    assert model.run(SIGNATURE, order(1.0))["y"] == 2.0


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        (Unruly.BUG, "KeyError", "a bug in the model"),
        (Unruly.EXIT_CODE, "SystemExit", "3"),
        (Unruly.MEMORY, "OutOfMemory", "out of memory: no room"),
    ],
)
def test_other_errors_read_as_they_would_here(model, value, kind, told):
    with pytest.raises(Exception, match=told) as caught:
        model.run(SIGNATURE, order(value))
    assert type(caught.value).__name__ == kind
    assert model.worker_status.restarts == 0


def test_load_errors_are_typed(tmp_path, opened):
    with pytest.raises(LoadFailed, match="it is broken") as failed:
        opened(write_model(tmp_path, "broken", broken=True))
    assert str(tmp_path) in str(failed.value)
    with pytest.raises(PlatformMissing) as missing:
        opened(write_model(tmp_path, "missing", missing=True))
    assert (missing.value.platform, missing.value.extra) == ("unruly", "test")
    with pytest.raises(Exception, match="a bug in the adapter") as bug:
        opened(write_model(tmp_path, "bug", bug=True))
    assert type(bug.value).__name__ == "ZeroDivisionError"


def test_a_worker_of_a_newer_stfs_is_refused(tmp_path, opened, monkeypatch):
    """As where the package is upgraded under a running server: the worker is started from the new files."""

    def decode(message):
        raise TypeError("unexpected keyword argument 'colour'")

    monkeypatch.setattr(worker_supervisor, "decode_signature", decode)
    with pytest.raises(LoadFailed, match=r"stfs has changed since the server started.*'colour'"):
        opened(write_model(tmp_path))


def test_options_and_processing_arrive(tmp_path, opened):
    processing = tmp_path / "elsewhere.py"
    processing.write_text("def postprocess(outputs):\n    return outputs | {'y': outputs['y'] + 1}\n")
    servable = opened(
        write_model(tmp_path), hosting=Hosting("process", processing_file=processing), jvm_heap_bytes=12345
    )
    outputs = servable.run(SIGNATURE, order(4.0))
    assert outputs["y"] == 9.0
    assert outputs["heap"] == 12345


def test_models_of_a_group_share_one_process(tmp_path, opened):
    first, second = (
        opened(write_model(tmp_path, str(n), scale=float(n)), GroupedPlatform(), Hosting()) for n in (2, 3)
    )
    alone = opened(write_model(tmp_path, "alone"))
    pids = [int(s.run(SIGNATURE, order(1.0))["pid"][0]) for s in (first, second, alone)]
    assert pids[0] == pids[1] == first.worker_status.pid
    assert pids[2] != pids[0]
    assert [float(s.run(SIGNATURE, order(1.0))["y"][0, 0]) for s in (first, second)] == [2.0, 3.0]
    first.close()
    assert second.run(SIGNATURE, order(1.0))["pid"] == pids[0]
    second.close()
    assert not is_alive(pids[0])
    assert is_alive(pids[2])
    third = opened(write_model(tmp_path, "third"), GroupedPlatform(), Hosting())
    assert third.run(SIGNATURE, order(1.0))["pid"] != pids[0]


def test_closing_closes_the_model_and_ends_its_process(tmp_path, opened):
    closed = tmp_path / "closed"
    servable = opened(write_model(tmp_path, closed=closed))
    pid = servable.worker_status.pid
    servable.close()
    assert closed.read_text() == f"{pid}\n"
    assert not is_alive(pid)
    assert (servable.worker_status.pid, servable.worker_status.state) == (None, "closed")
    with pytest.raises(Unavailable, match='model "m" has been unloaded'):
        servable.run(SIGNATURE, order(1.0))
    servable.close()


def test_a_run_that_crosses_a_close_on_its_way_is_unavailable(tmp_path, opened):
    """Too narrow a gap to hit: so the message goes out as if the close had come just before it."""
    servable = opened(write_model(tmp_path), GroupedPlatform(), Hosting())
    process = servable._worker._process
    with pytest.raises(Unavailable, match="the model has been unloaded"):
        run_once(process, 999, SIGNATURE, order(1.0))
    assert servable.run(SIGNATURE, order(1.0))["y"] == 2.0


def test_what_closing_raises_is_told(tmp_path, opened):
    opened(write_model(tmp_path, "other"), GroupedPlatform(), Hosting())
    servable = opened(write_model(tmp_path, close_fails=True), GroupedPlatform(), Hosting())
    with pytest.raises(Exception, match="closing is hard"):
        servable.close()


def test_runs_of_one_worker_do_not_wait_for_one_another(tmp_path, opened):
    started, go = tmp_path / "started", tmp_path / "go"
    slow = opened(write_model(tmp_path, "slow", started=started, go=go), GroupedPlatform(), Hosting())
    quick = opened(write_model(tmp_path, "quick"), GroupedPlatform(), Hosting())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slow.run, SIGNATURE, order(Unruly.WAIT))
        wait_for(started)
        assert quick.run(SIGNATURE, order(5.0))["y"] == 10.0
        assert slow.run(SIGNATURE, order(6.0))["y"] == 12.0
        assert not waiting.done()
        go.touch()
        assert waiting.result(60)["turned"].tolist() == [b"ba"]


def test_concurrent_callers_get_their_own_rows(model):
    def ask(number):
        digits = b"%d" % number
        outputs = model.run(SIGNATURE, {"x": np.full((3, 4), number, np.float32), "text": text(*[digits] * 3)})
        return (outputs["y"] == 2 * number).all() and outputs["turned"].tolist() == [digits[::-1]] * 3

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(300)))


def test_arrays_are_the_callers_own(model):
    inputs = order(3.0, rows=1000)
    first = model.run(SIGNATURE, inputs)
    first["y"][:] = -1  # writable
    again = model.run(SIGNATURE, order(4.0, rows=1000))
    assert (first["y"] == -1).all()
    assert (again["y"] == 8.0).all()
    assert (inputs["x"] == 3.0).all()


def test_large_arrays_both_ways(model):
    rows = 1000
    large = np.random.default_rng(0).random((rows, 12_500), dtype=np.float32)
    outputs = model.run(SIGNATURE, {"x": large, "text": text(*[b"ab" * 1000] * rows)})
    np.testing.assert_array_equal(outputs["y"], large * 2)
    assert set(outputs["turned"].tolist()) == {b"ba" * 1000}
    second = model.run(SIGNATURE, {"x": large + 1, "text": text(*[b"ab"] * rows)})
    np.testing.assert_array_equal(outputs["y"], large * 2)
    np.testing.assert_array_equal(second["y"], (large + 1) * 2)


def test_what_is_printed_is_logged_line_by_line_and_bounded(model, caplog):
    with caplog.at_level(logging.INFO, "stfs.worker"):
        assert model.run(SIGNATURE, order(Unruly.GARBAGE))["turned"].tolist() == [b"ba"]
        model.close()  # takes in all that was printed
    lines = [record.getMessage() for record in caplog.records]
    assert r'worker of model "m": \x00\xff\x1b[31m garbage' in lines
    assert 100 < len(lines) < 1000
    assert max(map(len, lines)) < 2100
    assert any("lines left out here: it prints too much" in line for line in lines)


def test_logged_errors_stay_errors(tmp_path, opened, caplog):
    with caplog.at_level(logging.INFO, "stfs.worker"):
        opened(write_model(tmp_path, print="<3>it is bad")).close()
    assert (logging.ERROR, 'worker of model "m": it is bad') in [(r.levelno, r.getMessage()) for r in caplog.records]


def test_isolation_thread_is_refused_where_it_cannot_be(tmp_path):
    path = write_model(tmp_path)
    with pytest.raises(ConfigError, match="models of grouped run in a worker process only"):
        open_servable(GroupedPlatform(), path, LoadOptions(), Hosting("thread"))
    with pytest.raises(ConfigError, match="python names the interpreter of a worker process"):
        open_servable(UnrulyPlatform(), path, LoadOptions(), Hosting("thread", python=sys.executable))
