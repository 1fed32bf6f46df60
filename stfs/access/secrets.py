"""Passwords and tokens, and what is kept of them: a slow salted hash of the one, a digest of the other.

Passwords are hashed by scrypt (RFC 7914), as ``$scrypt$ln=15,r=8,p=1$SALT$HASH`` with unpadded base64 (the PHC string
format). A token is 32 random bytes, which nobody guesses, so that a plain SHA-256 of it is enough:
``$sha256$HASH``. Blocking: a password takes a tenth of a second and 32 MiB.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from stfs.errors import ConfigError

LOG2_COST, BLOCK, PARALLEL = 15, 8, 1
"""Of new hashes: 32 MiB each, which OWASP counts as enough with three times the work, and small machines have."""

MAX_LOG2_COST, MAX_MEMORY_BYTES = 20, 1 << 30

_SCRYPT = re.compile(r"\$scrypt\$ln=([0-9]{1,2}),r=([0-9]{1,2}),p=([0-9]{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)")
_SHA256 = re.compile(r"\$sha256\$([A-Za-z0-9+/]{43})")


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A password as it is kept."""

    log2_cost: int
    block: int
    parallel: int
    salt: bytes
    hashed: bytes

    def fits(self, password: bytes) -> bool:
        """Whether this is the password. Slow on purpose; lets other threads run meanwhile."""
        return hmac.compare_digest(self._hash(password), self.hashed)

    def _hash(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=1 << self.log2_cost,
            r=self.block,
            p=self.parallel,
            maxmem=2 * _memory_bytes(self),
            dklen=len(self.hashed),
        )

    def __str__(self) -> str:
        kept = f"ln={self.log2_cost},r={self.block},p={self.parallel}"
        return f"$scrypt${kept}${_encode(self.salt)}${_encode(self.hashed)}"

    def __repr__(self) -> str:
        return "PasswordHash(...)"


@dataclass(frozen=True, slots=True)
class TokenHash:
    """A token as it is kept."""

    digest: bytes

    def __str__(self) -> str:
        return f"$sha256${_encode(self.digest)}"

    def __repr__(self) -> str:
        return "TokenHash(...)"


def hash_password(password: bytes) -> PasswordHash:
    """A new salt, and the password's hash with it."""
    blank = PasswordHash(LOG2_COST, BLOCK, PARALLEL, secrets.token_bytes(16), bytes(32))
    return PasswordHash(LOG2_COST, BLOCK, PARALLEL, blank.salt, blank._hash(password))


def new_token() -> str:
    """256 random bits in characters that stand in a header (RFC 6750), with a prefix by which leaks are found."""
    return "stfs_" + secrets.token_urlsafe(32)


def hash_token(token: bytes) -> TokenHash:
    """What is kept of a token."""
    return TokenHash(hashlib.sha256(token).digest())


def parse_hash(text: str) -> PasswordHash | TokenHash:
    """What :func:`str` of one of the two gives. Raises :class:`ConfigError`."""
    try:
        if match := _SCRYPT.fullmatch(text):
            log2_cost, block, parallel = (int(part) for part in match.groups()[:3])
            found = PasswordHash(log2_cost, block, parallel, _decode(match[4]), _decode(match[5]))
            if not (1 <= log2_cost <= MAX_LOG2_COST and block and parallel and len(found.hashed) >= 16):
                raise ConfigError("its scrypt parameters are out of range")
            if _memory_bytes(found) > MAX_MEMORY_BYTES:
                raise ConfigError("its scrypt parameters take more than 1 GiB")
            return found
        if match := _SHA256.fullmatch(text):
            return TokenHash(_decode(match[1]))
    except (binascii.Error, ValueError):
        pass
    raise ConfigError("it has no hash of the form $scrypt$... or $sha256$...")


def _memory_bytes(hashed: PasswordHash) -> int:
    return 128 * hashed.block * ((1 << hashed.log2_cost) + hashed.parallel + 2)


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
