"""The lifecycle's decisions as a table, and the parsing of version policies."""

import pytest

from stfs.errors import ConfigError
from stfs.lifecycle.policy import (
    LONGEST_RETRY_S,
    All,
    Latest,
    Load,
    Snapshot,
    Specific,
    State,
    Unload,
    Wait,
    next_action,
    parse_version_policy,
    retry_delay_s,
    wanted,
)
from stfs.lifecycle.source import Fingerprint

A, B = Fingerprint(1, 10, 1, 1), Fingerprint(1, 20, 2, 2)
NOW = 100.0


def new(version, steady=True):
    return Snapshot(version, State.START, A, steady)


def loading(version, failures=0):
    return Snapshot(version, State.LOADING, A, tried=A, failures=failures)


def serving(version, found=A):
    return Snapshot(version, State.AVAILABLE, found)


def gone(version):
    return serving(version, found=None)


def leaving(version, found=A):
    return Snapshot(version, State.UNLOADING, found)


def unloaded(version):
    return Snapshot(version, State.END, A)


def broken(version, retry_at_s=None, found=A, steady=True):
    return Snapshot(version, State.END, found, steady, tried=A, failures=1, retry_at_s=retry_at_s)


TABLE = {
    "nothing": (Latest(), [], None),
    "first": (Latest(), [new(1)], Load(1)),
    "newest first": (Latest(), [new(1), new(2)], Load(2)),
    "newest first of all": (All(), [new(1), new(2)], Load(2)),
    "then the next of all": (All(), [new(1), serving(2)], Load(1)),
    "one load at a time": (All(), [new(1), loading(2)], None),
    "at rest": (Latest(), [unloaded(1), serving(2)], None),
    "older than wanted is left alone": (Latest(), [new(1), serving(2)], None),
    "a new one that is still changing waits": (Latest(), [serving(1), new(2, steady=False)], None),
    "a new one that is still changing does not keep an older one from loading": (
        Latest(),
        [new(1), new(2, steady=False)],
        Load(1),
    ),
    "a steady new one loads beside": (Latest(), [serving(1), new(2)], Load(2)),
    "no gap while the new one loads": (Latest(), [serving(1), loading(2)], None),
    "swap once the new one serves": (Latest(), [serving(1), serving(2)], Unload(1)),
    "the old one is leaving": (Latest(), [leaving(1), serving(2)], None),
    "a newer one may load while an old one leaves": (Latest(), [leaving(1), serving(2), new(3)], Load(3)),
    "two wanted: surplus stays until both serve": (Latest(2), [serving(1), serving(2), loading(3)], None),
    "two wanted: oldest goes": (Latest(2), [serving(1), serving(2), serving(3)], Unload(1)),
    "two wanted, two new: the newest loads first": (Latest(2), [serving(1), serving(2), new(3), new(4)], Load(4)),
    "two wanted, two new: no unload before both": (Latest(2), [serving(1), serving(2), new(3), serving(4)], Load(3)),
    # failures
    "the newest failed, the older serves on": (Latest(), [serving(1), broken(2)], None),
    "the newest failed, the next older is loaded": (Latest(), [new(1), broken(2)], Load(1)),
    "the next older again": (Latest(), [new(1), broken(2), broken(3)], Load(1)),
    "an unloaded one comes back if the newest failed": (Latest(), [unloaded(1), broken(2)], Load(1)),
    "no fallback to a version that is not pinned": (Specific(frozenset({2})), [new(1), broken(2)], None),
    "fallback among pinned ones": (Specific(frozenset({1, 2})), [new(1), broken(2)], Load(1)),
    "fallback before a retry that is due": (Latest(), [new(1), broken(2, NOW)], Load(1)),
    "retry not due": (Latest(), [serving(1), broken(2, NOW + 1)], Wait(NOW + 1)),
    "retry due": (Latest(), [serving(1), broken(2, NOW)], Load(2)),
    "retry due of the only one": (Latest(), [broken(2, NOW - 1)], Load(2)),
    "the earliest retry": (All(), [broken(1, NOW + 5), broken(2, NOW + 9), serving(3)], Wait(NOW + 5)),
    "no retries left": (Latest(), [broken(2)], None),
    "a retry waits its turn": (All(), [loading(1), broken(2, NOW)], None),
    "changed files are tried again": (Latest(), [serving(1), broken(2, None, found=B)], Load(2)),
    "changing files are not": (Latest(), [serving(1), broken(2, NOW, found=B, steady=False)], None),
    "a broken older one is of no interest": (Latest(), [broken(1, NOW), serving(2)], None),
    "a broken one between is": (Latest(), [serving(1), broken(2, None, found=B), broken(3)], Load(2)),
    "a retry in flight keeps the fallback": (Latest(), [serving(1), loading(2, failures=1)], None),
    "the repaired one takes over": (Latest(), [serving(1), serving(2)], Unload(1)),
    # removals
    "removed, another serves": (Latest(), [serving(1), gone(2)], Unload(2)),
    "removed, another must load first": (Latest(), [new(1), gone(2)], Load(1)),
    "removed, another is loading": (Latest(), [loading(1), gone(2)], None),
    "removed, another is being copied": (Latest(), [new(1, steady=False), gone(2)], None),
    "removed, only broken ones left": (Latest(), [broken(1), gone(2)], None),
    "removed, none left": (Latest(), [gone(2)], Unload(2)),
    "all removed": (All(), [gone(1), gone(2)], Unload(1)),
    "removed of several": (All(), [serving(1), gone(2), loading(3)], Unload(2)),
    "removed, one that is not pinned is left": (Specific(frozenset({2})), [new(1), gone(2)], Unload(2)),
    "removed while leaving": (Latest(), [leaving(2, found=None)], None),
    "back while leaving": (Latest(), [leaving(2)], None),
    "back while leaving keeps the other": (Latest(), [serving(1), leaving(2)], None),
    "no longer pinned": (Specific(frozenset({2})), [serving(1), serving(2)], Unload(1)),
}


@pytest.mark.parametrize(("policy", "snapshots", "action"), TABLE.values(), ids=TABLE.keys())
def test_next_action(policy, snapshots, action):
    assert next_action(snapshots, policy, NOW) == action
    assert next_action(reversed(snapshots), policy, NOW) == action, "the order of the snapshots must not matter"


UNSURE = {
    "nothing is unloaded because it is out of sight": (Latest(), [gone(1)], None),
    "nor beside others": (All(), [gone(1), serving(2)], None),
    "a replaced one is unloaded all the same": (Latest(), [serving(1), gone(2)], Unload(1)),
    "nothing out of sight is loaded": (Latest(), [Snapshot(1, State.END, None)], None),
    "no retry out of sight": (Latest(), [broken(1, NOW, found=None, steady=False)], None),
}


@pytest.mark.parametrize(("policy", "snapshots", "action"), UNSURE.values(), ids=UNSURE.keys())
def test_next_action_when_the_source_cannot_be_read(policy, snapshots, action):
    assert next_action(snapshots, policy, NOW, source_sure=False) == action


def test_wanted():
    assert wanted(Latest(2), [5, 1, 3]) == {5, 3}
    assert wanted(Latest(9), [5, 1]) == {5, 1}
    assert wanted(All(), [5, 1]) == {5, 1}
    assert wanted(Specific(frozenset({1, 2})), [5, 1]) == {1}
    assert wanted(Latest(), []) == frozenset()


def test_latest_of_none_is_refused():
    with pytest.raises(ValueError, match="serve nothing"):
        Latest(0)


def test_retry_delays_grow_to_a_bound():
    delays = [retry_delay_s(n) for n in range(1, 2000)]
    assert delays[:3] == [1.0, 2.0, 4.0]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_RETRY_S


@pytest.mark.parametrize(
    ("value", "policy"),
    [
        ("latest", Latest(1)),
        ("latest:2", Latest(2)),
        (" Latest : 2 ", Latest(2)),
        ("all", All()),
        ("specific:1,3", Specific(frozenset({1, 3}))),
        ("specific: 7", Specific(frozenset({7}))),
        ({}, Latest(1)),
        ({"latest": {}}, Latest(1)),
        ({"latest": {"num_versions": 2}}, Latest(2)),
        ({"latest": {"numVersions": 2}}, Latest(2)),
        ({"latest": {"num_versions": 0}}, Latest(1)),
        ({"all": {}}, All()),
        ({"specific": {"versions": [1, 2]}}, Specific(frozenset({1, 2}))),
        ({"specific": {"versions": ["1", "2"]}}, Specific(frozenset({1, 2}))),
    ],
)
def test_parse_version_policy(value, policy):
    assert parse_version_policy(value) == policy


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("newest", "must be latest"),
        ("", "must be latest"),
        ("all:2", "must be latest"),
        ("specific", "must be latest"),
        ("latest:", "''"),
        ("latest:0", "at least 1"),
        ("latest:-1", "'-1'"),
        ("latest:two", "'two'"),
        ("specific:", "''"),
        ("specific:1,,2", "''"),
        ("specific:1.5", r"'1\.5'"),
        (3, "text or an object"),
        (None, "text or an object"),
        ({"newest": {}}, "no policy 'newest'"),
        ({"latest": {}, "all": {}}, "one policy only"),
        ({"latest": 2}, "needs an object for latest"),
        ({"latest": {"n": 2}}, "unknown field 'n'"),
        ({"latest": {"num_versions": True}}, "True"),
        ({"latest": {"num_versions": 1.5}}, r"1\.5"),
        ({"all": {"": 1}}, "unknown field ''"),
        ({"specific": {}}, "needs a list"),
        ({"specific": {"versions": "12"}}, "needs a list"),
        ({"specific": {"versions": []}}, "names no version"),
        ({"specific": {"versions": [-1]}}, "-1"),
        ({"specific": {"versions": [None]}}, "None"),
    ],
)
def test_parse_version_policy_names_what_is_wrong(value, told):
    with pytest.raises(ConfigError, match=told):
        parse_version_policy(value)
