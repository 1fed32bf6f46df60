"""Folders on a real disk, as users lay them out and as copies and mounts disturb them."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from stfs.lifecycle.source import MAX_VERSION, FolderSource, Poll, fingerprint


@pytest.fixture
def shut(monkeypatch):
    """Folders that cannot be listed, for the super-user too."""
    folders = set()
    scandir = os.scandir

    def guarded(path):
        if os.fspath(path) in folders:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    return folders


def put(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def has_weights(path):
    return (path / "weights").is_file()


def poll(base, last_good=None):
    return FolderSource(base, has_weights).poll(last_good)


def test_a_file_is_version_1(tmp_path):
    put(tmp_path / "model.onnx", "12345")
    seen = poll(tmp_path / "model.onnx")
    assert list(seen.found) == [1]
    assert seen.found[1].path == tmp_path / "model.onnx"
    assert (seen.found[1].fingerprint.files, seen.found[1].fingerprint.total_bytes) == (1, 5)
    assert (seen.problem, seen.transient) == (None, False)


def test_numbered_folders_are_versions(tmp_path):
    for name in ("1", "007", "20240131", "assets", "v2", ".tmp", "1.5", "²", "-3"):
        put(tmp_path / name / "m")
    put(tmp_path / "5")
    put(tmp_path / "weights")
    seen = poll(tmp_path)
    assert {v: f.path.name for v, f in seen.found.items()} == {1: "1", 7: "007", 20240131: "20240131"}
    assert all(f.version == v for v, f in seen.found.items())
    assert seen.problem is None


def test_the_canonical_name_wins(tmp_path):
    for name in ("007", "7", "07"):
        put(tmp_path / name / "m")
    seen = poll(tmp_path)
    assert seen.found[7].path.name == "7"
    assert seen.problem is not None
    assert "7, 07, 007" in seen.problem
    assert not seen.transient


def test_an_empty_folder_does_not_shadow_a_full_one(tmp_path):
    put(tmp_path / "007" / "m")
    (tmp_path / "7").mkdir()
    assert poll(tmp_path).found[7].path.name == "007"


def test_a_number_that_no_client_can_name_is_ignored(tmp_path):
    put(tmp_path / str(MAX_VERSION) / "m")
    put(tmp_path / str(MAX_VERSION + 1) / "m")
    seen = poll(tmp_path)
    assert list(seen.found) == [MAX_VERSION]
    assert str(MAX_VERSION + 1) in (seen.problem or "")


def test_a_model_folder_is_version_1(tmp_path):
    put(tmp_path / "weights")
    put(tmp_path / "variables" / "data")
    seen = poll(tmp_path)
    assert seen.found[1].path == tmp_path
    assert seen.found[1].fingerprint.files == 2


def test_an_empty_numbered_folder_is_not_found_yet(tmp_path):
    put(tmp_path / "1" / "m")
    (tmp_path / "2" / "variables").mkdir(parents=True)
    seen = poll(tmp_path)
    assert list(seen.found) == [1]
    assert f"{tmp_path / '2'} is empty" in (seen.problem or "")


def test_nothing_there_tells_what_to_do(tmp_path):
    put(tmp_path / "readme")
    seen = poll(tmp_path)
    assert not seen.found
    assert not seen.transient
    assert seen.problem is not None
    assert "holds no model" in seen.problem
    assert str(tmp_path / "1") in seen.problem
    assert "\n" not in seen.problem


def test_a_folder_of_models_is_told_from_one_of_versions(tmp_path):
    for name in ("double/1", "half/3", "notes/old"):
        put(tmp_path / name / "weights")
    problem = poll(tmp_path).problem or ""
    assert "holds several models (double, half): set base_path to the folder of one, or name each in" in problem


def test_a_prefix_that_is_recognised_is_version_1(tmp_path):
    """MXNet's models go by what the names of their files begin with."""
    base = tmp_path / "mlp"
    (tmp_path / "mlp-symbol.json").write_text("{}")
    source = FolderSource(base, lambda path: path.with_name(path.name + "-symbol.json").exists())
    first = source.poll()
    assert list(first.found) == [1]
    assert first.found[1].path == base
    assert first.problem is None
    assert not first.transient
    (tmp_path / "mlp-0000.params").write_bytes(b"123")
    assert source.poll(first).found[1].fingerprint != first.found[1].fingerprint
    (tmp_path / "mlp-symbol.json").unlink()
    assert source.poll(first).transient


def test_a_missing_folder_is_no_proof_of_removal(tmp_path):
    seen = poll(tmp_path / "models")
    assert not seen.found
    assert seen.transient
    assert f"{tmp_path / 'models'} does not exist" in (seen.problem or "")


def test_a_relative_path_is_told_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"models ({tmp_path / 'models'})" in (poll(Path("models")).problem or "")


def test_an_error_of_the_file_system_is_transient(tmp_path):
    put(tmp_path / "file")
    seen = poll(tmp_path / "file" / "below")
    assert seen.transient
    assert "Not a directory" in (seen.problem or "")


def test_an_unreadable_base_is_transient(tmp_path, shut):
    put(tmp_path / "1" / "m")
    shut.add(str(tmp_path))
    seen = poll(tmp_path)
    assert not seen.found
    assert seen.transient
    assert "Permission denied" in (seen.problem or "")


def test_an_unreadable_version_is_there_and_told(tmp_path, shut):
    put(tmp_path / "1" / "m")
    shut.add(str(tmp_path / "1"))
    unreadable = poll(tmp_path)
    assert unreadable.found[1].fingerprint.unreadable == 1
    assert "cannot be read" in (unreadable.problem or "")
    shut.clear()
    assert poll(tmp_path).found[1].fingerprint != unreadable.found[1].fingerprint, "mending it is a change"


def test_a_removed_version_is_removed_for_sure(tmp_path):
    put(tmp_path / "1" / "m")
    put(tmp_path / "2" / "m")
    before = poll(tmp_path)
    shutil.rmtree(tmp_path / "2")
    after = poll(tmp_path, before)
    assert list(after.found) == [1]
    assert not after.transient
    shutil.rmtree(tmp_path / "1")
    last = poll(tmp_path, after)
    assert not last.found
    assert not last.transient


def test_a_bare_mount_point_is_no_proof_of_removal(tmp_path):
    put(tmp_path / "1" / "m")
    before = poll(tmp_path)
    shutil.rmtree(tmp_path / "1")
    on_the_mount = Poll(before.found, device=(before.device or 0) + 1)
    seen = poll(tmp_path, on_the_mount)
    assert seen.transient
    assert "unmounted" in (seen.problem or "")
    empty_before = Poll({}, device=on_the_mount.device)
    assert not poll(tmp_path, empty_before).transient, "nothing was there to lose"
    put(tmp_path / "2" / "m")
    assert not poll(tmp_path, on_the_mount).transient, "what is there speaks for itself"


def test_links(tmp_path):
    put(tmp_path / "store" / "abc" / "m", "123")
    base = tmp_path / "base"
    base.mkdir()
    (base / "1").symlink_to(tmp_path / "store" / "abc")
    (base / "2").symlink_to(tmp_path / "away")
    (base / "3").symlink_to(tmp_path / "store" / "abc" / "m")
    seen = poll(base)
    assert list(seen.found) == [1, 2], "a link to nothing is there, a link to a file is no folder"
    assert seen.found[1].fingerprint.total_bytes == 3
    assert seen.found[2].fingerprint.unreadable == 1


def test_fingerprint_sees_each_kind_of_change(tmp_path):
    folder = tmp_path / "1"
    put(folder / "m", "abc")
    seen = [fingerprint(folder)]

    def changed(what):
        seen.append(fingerprint(folder))
        assert seen[-1] not in seen[:-1], what

    put(folder / ".m.swp")
    changed("a hidden file counts")
    put(folder / "deep" / "er" / "m")
    changed("a file below counts")
    put(folder / "m", "abcd")
    changed("bytes count")
    times = (folder / "m").stat()
    os.utime(folder / "m", ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    changed("the time counts")
    (folder / "m").unlink()
    changed("a missing file counts")
    assert fingerprint(folder) == fingerprint(folder)


def test_fingerprint_sees_a_replacement_that_keeps_size_and_time(tmp_path):
    folder = tmp_path / "1"
    put(folder / "m", "abc")
    before = (folder / "m").stat()
    first = fingerprint(folder)
    while True:  # until the file system's clock has moved on
        put(tmp_path / "m", "xyz")
        os.utime(tmp_path / "m", ns=(before.st_atime_ns, before.st_mtime_ns))
        if (tmp_path / "m").stat().st_ctime_ns != before.st_ctime_ns:
            break
    (tmp_path / "m").rename(folder / "m")
    second = fingerprint(folder)
    assert first is not None
    assert second is not None
    assert (first.total_bytes, first.newest_mtime_ns) == (second.total_bytes, second.newest_mtime_ns)
    assert first != second


def test_fingerprint_of_nothing_and_of_loops(tmp_path):
    assert fingerprint(tmp_path / "1") is None
    put(tmp_path / "2" / "m")
    (tmp_path / "2" / "self").symlink_to(tmp_path / "2")
    (tmp_path / "2" / "nowhere").symlink_to(tmp_path / "nowhere")
    found = fingerprint(tmp_path / "2")
    assert found is not None
    assert found.files == 2


def test_fingerprint_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("stfs.lifecycle.source.MAX_FILES_WALKED", 10)
    for n in range(30):
        put(tmp_path / f"d{n % 5}" / f"f{n}")
    found = fingerprint(tmp_path)
    assert found is not None
    assert found.files == 10
    assert found == fingerprint(tmp_path)
