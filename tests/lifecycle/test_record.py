from pathlib import Path

import pytest

from stfs.lifecycle.policy import State
from stfs.lifecycle.record import ModelRecord, ModelSpec, VersionRecord
from stfs.lifecycle.source import Fingerprint, FolderSource

PRINT = Fingerprint(1, 1, 1, 1)


def record(*versions):
    found = ModelRecord(ModelSpec("m", FolderSource(Path("/m"), lambda path: False)))
    found.versions = {version.version: version for version in versions}
    return found


def failed(version, retries, interval_s=None, times=1):
    made = VersionRecord(version, Path("/m"), 0.0, state=State.END, error="broken", found=PRINT)
    for _ in range(times):
        made.fail(100.0, retries, interval_s)
    return made


@pytest.mark.parametrize(
    ("interval_s", "times", "delay_s"), [(None, 1, 1.0), (None, 3, 4.0), (0.0, 3, 0.0), (7.5, 1, 7.5), (7.5, 3, 7.5)]
)
def test_when_a_failed_load_is_tried_again(interval_s, times, delay_s):
    assert failed(1, 5, interval_s, times).retry_at_s == 100.0 + delay_s


def test_retries_end():
    assert failed(1, 2, 0.0, times=2).retry_at_s == 100.0
    assert failed(1, 2, 0.0, times=3).retry_at_s is None
    assert failed(1, 0, 0.0).retry_at_s is None


def test_what_is_hopeless():
    assert not record().is_hopeless(), "what is not there may come"
    assert record(failed(1, 0)).is_hopeless()
    assert not record(failed(1, 1)).is_hopeless(), "it will be tried again"
    assert not record(failed(1, 0), failed(2, 1)).is_hopeless()
    for state in (State.LOADING, State.AVAILABLE):
        assert not record(failed(1, 0), VersionRecord(2, Path("/m"), 0.0, state=state, found=PRINT)).is_hopeless()
    gone = failed(1, 0)
    gone.found = None
    assert not record(gone).is_hopeless(), "it is no longer on disk"
