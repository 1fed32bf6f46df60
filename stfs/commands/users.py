"""``stfs user``: adding, listing and removing the users of a file (``--auth_users_file``).

Owns the arguments and what is printed. A new token goes to standard output, once; all else to standard error.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stfs.access import secrets
from stfs.access.scopes import name_scopes, parse_scopes
from stfs.access.users import Identity, User, changing, check_name, is_user_line, make_users, parse_users
from stfs.errors import ConfigError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"{message} (see {self.prog} --help)")


def run(argv: Sequence[str]) -> None:
    """``stfs user ARGV``. Raises :class:`ConfigError` for what is wrong with arguments or file."""
    parser = _Parser(
        prog="stfs user",
        description="Users of a file for --auth_users_file. A running server notices changes within seconds.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    adding = commands.add_parser(
        "add",
        help="add a user, with a password that is asked for or read from standard input, or with a new token",
        allow_abbrev=False,
    )
    adding.add_argument("file", type=Path, metavar="FILE")
    adding.add_argument("name", metavar="NAME")
    adding.add_argument("--scopes", default=None, help="infer, metrics, admin, comma-separated (default: infer)")
    adding.add_argument("--token", action="store_true", help="make a bearer token and print it, which happens once")
    adding.add_argument("--replace", action="store_true", help="give a user who is there a new password or token")
    listing = commands.add_parser("list", help="list names, scopes and kinds", allow_abbrev=False)
    listing.add_argument("file", type=Path, metavar="FILE")
    removing = commands.add_parser("remove", help="remove a user", allow_abbrev=False)
    removing.add_argument("file", type=Path, metavar="FILE")
    removing.add_argument("name", metavar="NAME")
    given = parser.parse_args(argv)
    match given.command:
        case "add":
            _add(given.file, check_name(given.name), given.scopes, is_token=given.token, may_replace=given.replace)
        case "list":
            _list(given.file)
        case "remove":
            _remove(given.file, given.name)


def _add(file: Path, name: str, scopes: str | None, *, is_token: bool, may_replace: bool) -> None:
    wanted = None if scopes is None else parse_scopes(scopes)
    with changing(file) as (lines, _):
        _before(file, lines, name, may_replace=may_replace)  # before anybody is asked for a password
    token = secrets.new_token() if is_token else None
    kept = secrets.hash_password(_password(name)) if token is None else secrets.hash_token(token.encode())
    with changing(file) as (lines, write):
        before = _before(file, lines, name, may_replace=may_replace)
        if wanted is None:
            wanted = parse_scopes("infer") if before is None else before.identity.scopes
        user = User(Identity(name, wanted), kept)
        others = [line for line in lines if not _is_of(line, name)]
        write([*others, str(user)] if before is None else [str(user) if _is_of(line, name) else line for line in lines])
    told = "added" if before is None else "replaced"
    print(f"{told} {name} with {name_scopes(wanted)} in {file}", file=sys.stderr)
    if token is not None:
        print("the token, which is not shown again:", file=sys.stderr, flush=True)
        print(token, flush=True)


def _before(file: Path, lines: list[str], name: str, *, may_replace: bool) -> User | None:
    """The user of that name, if any. Raises :class:`ConfigError` if there is one who may not be replaced."""
    user = _users(file, lines).get(name)
    if user is not None and not may_replace:
        raise ConfigError(f"{name} is in {file} already: add --replace to give a new password or token")
    return user


def _list(file: Path) -> None:
    if not file.exists():
        raise ConfigError(f"there is no file {file}")
    with changing(file) as (lines, _):
        users = _users(file, lines)
    width = max(map(len, users), default=0)
    for name, user in users.items():
        kind = "token" if isinstance(user.kept, secrets.TokenHash) else "password"
        print(f"{name:{width}}  {name_scopes(user.identity.scopes):20}  {kind}")


def _remove(file: Path, name: str) -> None:
    with changing(file) as (lines, write):
        if name not in _users(file, lines):
            raise ConfigError(f"{name} is not in {file}")
        write([line for line in lines if not _is_of(line, name)])
    print(f"removed {name} from {file}", file=sys.stderr)


def _users(file: Path, lines: list[str]) -> dict[str, User]:
    try:
        return dict(make_users(parse_users("\n".join(lines)), None).by_name)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _is_of(line: str, name: str) -> bool:
    return is_user_line(line) and line.strip().partition(":")[0] == name


def _password(name: str) -> bytes:
    """Asked for twice at a terminal, else the first line of standard input."""
    if sys.stdin.isatty():
        password = getpass.getpass(f"password of {name}: ")
        if getpass.getpass("once more: ") != password:
            raise ConfigError("the two passwords differ: nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise ConfigError("the password is empty: nothing was changed")
    return password.encode()
