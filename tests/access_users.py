"""Users whose passwords are quick to look at: hashed by ``hashlib`` itself, at the least cost."""

from __future__ import annotations

import hashlib
from pathlib import Path

from stfs.access.scopes import parse_scopes
from stfs.access.secrets import PasswordHash, hash_token
from stfs.access.users import Identity, User

SALT = b"0123456789abcdef"


def with_password(name: str, password: str, scopes: str = "infer") -> User:
    hashed = hashlib.scrypt(password.encode(), salt=SALT, n=16, r=8, p=1, dklen=32)
    return User(Identity(name, parse_scopes(scopes)), PasswordHash(4, 8, 1, SALT, hashed))


def with_token(name: str, token: str, scopes: str = "infer") -> User:
    return User(Identity(name, parse_scopes(scopes)), hash_token(token.encode()))


def write_users(file: Path, *users: User) -> Path:
    """Put in place whole, as ``stfs user`` does."""
    new = file.with_name(file.name + ".new")
    new.write_text("# users\n\n" + "".join(f"{user}\n" for user in users))
    new.chmod(0o600)
    new.replace(file)
    return file
