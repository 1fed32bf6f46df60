"""Cores and GPUs: what is said of them, how they are dealt out, what is not there."""

import os

import pytest

from stfs.errors import ConfigError
from stfs.platforms import placement
from stfs.platforms.base import CORES_LEFT, all_cores
from stfs.platforms.placement import VISIBLE_GPUS, Seat, count_of, parse_cpus, parse_gpus, seats, told


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("", ()),
        ("  ", ()),
        ("3", ((3,),)),
        ("0-3,8", ((0, 1, 2, 3, 8),)),
        ("8, 0 - 1,1", ((0, 1, 8),)),
        ("0-1;2-3", ((0, 1), (2, 3))),
    ],
)
def test_cores_as_they_are_said(text, sets):
    assert parse_cpus(text) == sets


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "0,,1", "0;", "0-99999999", "1.5", "²"])
def test_cores_that_are_none(text):
    with pytest.raises(ValueError, match=r"core"):
        parse_cpus(text)


def test_gpus_as_they_are_said():
    assert parse_gpus("") == ()
    assert parse_gpus("1, 0") == (1, 0)
    for wrong in ("cuda:1", "-1", "0-1", "99999999"):
        with pytest.raises(ValueError, match="no GPU's number"):
            parse_gpus(wrong)


def test_how_many_instances_are_meant():
    assert count_of(1, (), ()) == 1
    assert count_of(3, [(0,)], ()) == 3
    assert count_of(1, [(0,), (1,)], ()) == 2
    assert count_of(1, (), [0, 1]) == 2
    assert count_of(4, (), [0, 1]) == 4
    with pytest.raises(ConfigError, match="257 are more than there can be, 256"):
        count_of(257, (), ())
    with pytest.raises(ConfigError, match="there are 2 sets for 4 instances"):
        count_of(4, [(0,), (1,)], ())


def test_seats_are_dealt_out():
    assert seats(1, (), (), shared_out=False) == [Seat()]
    assert Seat().is_any
    assert seats(3, [(0, 1)], [4, 5], shared_out=True) == [Seat((0, 1), 4), Seat((0, 1), 5), Seat((0, 1), 4)]
    dealt = seats(2, (), (), shared_out=True)
    assert [seat.cores for seat in dealt] == [max(1, all_cores() // 2)] * 2


def test_what_a_process_is_told():
    assert Seat().environment({VISIBLE_GPUS: "3"}) == {}
    assert Seat((0,), 1).environment({}) == {CORES_LEFT: "0", VISIBLE_GPUS: "1"}
    assert Seat((), 1).environment({VISIBLE_GPUS: "6,7"}) == {VISIBLE_GPUS: "7"}, "as the server's own numbers go"
    assert Seat((), None, 1).environment({}) == {CORES_LEFT: str(all_cores() - 1)}


def test_cores_that_are_not_there(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
    placement.check([Seat((0, 5)), Seat()])
    with pytest.raises(ConfigError, match="there is no core 2 for this process: it may use 0-1,5"):
        placement.check([Seat((0, 2))])


def test_gpus_that_are_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(placement, "GPUS_FOLDER", tmp_path / "none")
    monkeypatch.delenv(VISIBLE_GPUS, raising=False)
    with pytest.raises(ConfigError, match="there is no GPU 0: NVIDIA's driver shows none here"):
        placement.check([Seat(gpu=0)])
    with pytest.raises(ConfigError, match=r"^device cuda:1: there is no GPU 1: NVIDIA's driver shows none here"):
        placement.check([Seat(gpu=1)], "cuda:1")
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    monkeypatch.setattr(placement, "GPUS_FOLDER", tmp_path / "gpus")
    placement.check([Seat(gpu=0), Seat(gpu=1)])
    with pytest.raises(ConfigError, match="there is no GPU 2: there are 0-1"):
        placement.check([Seat(gpu=2)])
    monkeypatch.setenv(VISIBLE_GPUS, "5,-1,6")
    placement.check([Seat(gpu=0)])
    with pytest.raises(ConfigError, match="there is no GPU 1: there are 0"):
        placement.check([Seat(gpu=1)])


def test_numbers_in_short():
    assert told([]) == ""
    assert told([3]) == "3"
    assert told([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
