"""The file of users, and what is looked up in it."""

import logging

import pytest
from access_users import with_password, with_token, write_users

from stfs.access.scopes import EVERY_SCOPE, Scope
from stfs.access.users import Configured, Identity, changing, make_users, parse_users, read_users
from stfs.errors import ConfigError

ADMIN = Configured("admin", "näive:pass")


def test_a_file_is_read_as_it_was_written(tmp_path):
    written = [with_password("ana", "a", "infer,metrics"), with_token("app", "t", "admin"), with_password("bö b", "b")]
    file = write_users(tmp_path / "users", *written)
    assert parse_users(file.read_text()) == written
    users = read_users(file, ADMIN)
    assert users.of_password(b"ana", b"a") == Identity("ana", Scope.INFER | Scope.METRICS)
    assert users.of_password("bö b".encode(), b"b") == Identity("bö b", Scope.INFER)
    assert users.of_token(b"t") == Identity("app", Scope.ADMIN)
    assert users.of_configured(b"admin", "näive:pass".encode()) == Identity("admin", EVERY_SCOPE)


def test_wrong_ones_are_nobody(tmp_path):
    users = read_users(write_users(tmp_path / "users", with_password("ana", "a"), with_token("app", "t")), ADMIN)
    for name, password in ((b"ana", b""), (b"ana", b"b"), (b"bob", b"a"), (b"app", b"t"), (b"", b""), (b"\xff", b"a")):
        assert users.of_password(name, password) is None
        assert users.of_configured(name, password) is None
    for token in (b"", b"T", b"tt", b"a"):
        assert users.of_token(token) is None
    assert users.of_configured(b"admin", b"naive:pass") is None
    assert make_users([], None).of_configured(b"admin", b"admin") is None


def test_secrets_are_not_shown_by_accident():
    shown = repr(make_users([with_password("ana", "geheim"), with_token("app", "geheim")], Configured("a", "geheim")))
    assert "geheim" not in shown
    assert "ana" in shown


HASH = str(with_password("ana", "a").kept)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ana", "line 2: it is not NAME:SCOPES:HASH"),
        ("ana:geheim", "line 2: it is not NAME:SCOPES:HASH"),
        ("ana:infer:geheim", "line 2: it has no hash of the form"),
        (f"ana:root:{HASH}", "line 2: no scope 'root'"),
        (f"ana::{HASH}", "line 2: no scope is given"),
        (f":infer:{HASH}", "line 2: '' will not do"),
        (f"a\x01b:infer:{HASH}", "will not do"),
        (f"ana:infer:{HASH}\nana:admin:{HASH}", "user 'ana' is there twice"),
        (f"admin:infer:{HASH}", "user 'admin' is also that of --auth_username"),
    ],
)
def test_what_is_wrong_is_told_with_its_line_and_without_its_secret(tmp_path, line, told):
    file = tmp_path / "users"
    file.write_text(f"# a comment\n{line}\n")
    with pytest.raises(ConfigError) as error:
        read_users(file, ADMIN)
    assert told in str(error.value)
    assert str(file) in str(error.value)
    assert "geheim" not in str(error.value)


def test_files_that_are_none(tmp_path):
    (tmp_path / "raw").write_bytes(b"\xff\xfe")
    for name, told in (("gone", "No such file"), ("raw", "not UTF-8"), (".", "Is a directory")):
        with pytest.raises(ConfigError, match=told):
            read_users(tmp_path / name, None)


def test_a_file_that_everybody_can_read_is_warned_of(tmp_path, caplog):
    file = write_users(tmp_path / "users", with_password("ana", "a"))
    with caplog.at_level(logging.WARNING, "stfs.access"):
        read_users(file, None)
        assert caplog.text == ""
        file.chmod(0o640)
        read_users(file, None)
        assert caplog.text == ""
        file.chmod(0o644)
        read_users(file, None)
    assert "run chmod o= on it" in caplog.text


def test_a_change_keeps_other_lines_and_the_mode_and_leaves_nothing_behind(tmp_path):
    file = tmp_path / "users"
    with changing(file) as (lines, write):
        assert lines == []
        write(["# mine", "x"])
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    with changing(link) as (lines, write):
        assert lines == ["# mine", "x"]
        write([*lines, "y"])
    assert file.read_text() == "# mine\nx\ny\n"
    assert file.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "users"]
