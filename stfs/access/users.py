"""Users and the file that holds them: one a line, ``NAME:SCOPES:HASH``; lines that begin with ``#`` are passed over.

Must not live here: how credentials come in and what follows from wrong ones (``stfs.access.door``).
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from stfs.access.scopes import EVERY_SCOPE, Scope, name_scopes, parse_scopes
from stfs.access.secrets import PasswordHash, TokenHash, hash_token, parse_hash
from stfs.errors import ConfigError

log = logging.getLogger("stfs.access")

MAX_NAME_CHARACTERS = 200

MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody has shown to be, and what that allows."""

    name: str
    scopes: Scope


@dataclass(frozen=True, slots=True)
class User:
    """One line of the file."""

    identity: Identity
    kept: PasswordHash | TokenHash

    def __str__(self) -> str:
        return f"{self.identity.name}:{name_scopes(self.identity.scopes)}:{self.kept}"


@dataclass(frozen=True, slots=True)
class Configured:
    """The user of ``--auth_username`` and ``--auth_password``, who may do everything."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Users:
    """Everybody who is let in. Replaced whole when the file changes."""

    configured: Configured | None = None
    by_name: Mapping[str, User] = field(default_factory=lambda: MappingProxyType({}))
    by_token: Mapping[bytes, User] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def are_hashed(self) -> bool:
        """Whether looking at a password takes a thread: somebody's is kept as a hash."""
        return any(isinstance(user.kept, PasswordHash) for user in self.by_name.values())

    def of_token(self, token: bytes) -> Identity | None:
        """Whose token it is. The look-up goes by a digest, so its time tells nothing of the tokens."""
        user = self.by_token.get(hash_token(token).digest)
        return None if user is None else user.identity

    def of_configured(self, name: bytes, password: bytes) -> Identity | None:
        """The configured user, if it is that one. Both are compared in full and in constant time."""
        if self.configured is None:
            return None
        name_fits = hmac.compare_digest(name, self.configured.name.encode())
        password_fits = hmac.compare_digest(password, self.configured.password.encode())
        return Identity(self.configured.name, EVERY_SCOPE) if name_fits and password_fits else None

    def of_password(self, name: bytes, password: bytes) -> Identity | None:
        """Whose password it is. Blocking. A name that is not there takes as long as a wrong password."""
        user = self.by_name.get(name.decode(errors="replace"))
        if user is None or not isinstance(user.kept, PasswordHash):
            any_hash = next((u.kept for u in self.by_name.values() if isinstance(u.kept, PasswordHash)), None)
            if any_hash is not None:
                any_hash.fits(password)
            return None
        return user.identity if user.kept.fits(password) else None


def make_users(users: list[User], configured: Configured | None) -> Users:
    """Raises :class:`ConfigError` for a name that is there twice."""
    by_name: dict[str, User] = {}
    for user in users:
        name = user.identity.name
        if name in by_name:
            raise ConfigError(f"user {name!r} is there twice")
        if configured is not None and name == configured.name:
            raise ConfigError(f"user {name!r} is also that of --auth_username: give it another name")
        by_name[name] = user
    by_token = {user.kept.digest: user for user in users if isinstance(user.kept, TokenHash)}
    return Users(configured, MappingProxyType(by_name), MappingProxyType(by_token))


def check_name(name: str) -> str:
    """The name, if it can be one. Raises :class:`ConfigError`."""
    is_fine = name == name.strip() and name.isprintable() and 0 < len(name) <= MAX_NAME_CHARACTERS
    if not is_fine or ":" in name or name.startswith("#"):
        raise ConfigError(
            f"{name[:60]!r} will not do as a user's name: it is not empty, has no ':' and no control characters, "
            "and does not begin with '#' or a space"
        )
    return name


def parse_users(text: str) -> list[User]:
    """The file's users. Raises :class:`ConfigError` naming the line, but never what stands in it."""
    users = []
    for number, line in enumerate(text.splitlines(), 1):
        if is_user_line(line):
            try:
                users.append(_parse_line(line.strip()))
            except ConfigError as error:
                raise ConfigError(f"line {number}: {error}") from None
    return users


def is_user_line(line: str) -> bool:
    """Whether it tells of a user, rightly or not."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parse_line(line: str) -> User:
    name, _, rest = line.partition(":")
    scopes, colon, kept = rest.partition(":")
    if not colon:
        raise ConfigError("it is not NAME:SCOPES:HASH")
    return User(Identity(check_name(name), parse_scopes(scopes)), parse_hash(kept))


def read_users(path: Path, configured: Configured | None) -> Users:
    """Everybody whom the file names, beside the configured user. Blocking.

    Raises :class:`ConfigError` naming the file. Logs a warning if others on the machine can read the file.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--auth_users_file: cannot read {path}: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"--auth_users_file: {path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        users = make_users(parse_users(raw.decode()), configured)
    except UnicodeDecodeError:
        raise ConfigError(f"--auth_users_file: {path} is not UTF-8 text") from None
    except ConfigError as error:
        raise ConfigError(f"--auth_users_file: {path}: {error}") from None
    if mode & 0o007:
        log.warning("everybody on this machine can read or write %s: run chmod o= on it", path)
    return users


@contextlib.contextmanager
def changing(path: Path) -> Iterator[tuple[list[str], Callable[[list[str]], None]]]:
    """The file's lines, and what writes them back whole. Blocking; one change at a time, across processes.

    A file that is not there is empty; a new one can be read by its owner only, an old one keeps its mode and owner.
    Raises :class:`ConfigError` for what cannot be read or written.
    """
    path = Path(os.path.realpath(path))
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigError(f"cannot open the folder {path.parent}: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
        yield lines, lambda changed: _replace(path, "".join(line + "\n" for line in changed))
    finally:
        os.close(folder)


def _replace(path: Path, text: str) -> None:
    """Whoever reads the file meanwhile finds the old one or the new one."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                if path.exists():
                    was = path.stat()
                    os.fchmod(file.fileno(), stat.S_IMODE(was.st_mode))
                    if (was.st_uid, was.st_gid) != (os.getuid(), os.getgid()):
                        os.fchown(file.fileno(), was.st_uid, was.st_gid)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
