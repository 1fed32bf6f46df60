"""A small part of ``tests/fuzz/storm_batcher.py``, always the same; and that the storm sees what it should."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))  # a program rather than a module of the tests

import storm_batcher


def test_whatever_happens_in_any_order_each_is_answered_once():
    seen = storm_batcher.storm(seed=1_000_000, runs=250)
    assert seen["runs"] == 250
    met = ["answered", "gone", "full", "swap", "DeadlineExceeded", "InvalidRequest", "ModelFailed", "Unavailable"]
    assert all(seen[what] >= 2 for what in [*met, "Overloaded"]), seen


@pytest.mark.parametrize("fault", ["twice", "never", "wrong rows"])
def test_the_storm_sees_what_must_not_be(fault, monkeypatch):
    """A batcher with a fault does not pass."""
    from stfs.batcher.queue import Entry

    answer = Entry.answer

    def twice(entry, outputs, error):
        reply = entry.reply
        answer(entry, outputs, error)
        if reply is not None and error is None:
            reply(outputs, None)

    def never(entry, outputs, error):
        if error is None:
            entry.reply = None
        answer(entry, outputs, error)

    def wrong_rows(entry, outputs, error):
        if outputs is not None:
            outputs = {"y": outputs["y"] + 3}
        answer(entry, outputs, error)

    monkeypatch.setattr(Entry, "answer", {"twice": twice, "never": never, "wrong rows": wrong_rows}[fault])
    with pytest.raises(storm_batcher.Broken, match="repeat it with --seed"):
        storm_batcher.storm(seed=5, runs=20)
