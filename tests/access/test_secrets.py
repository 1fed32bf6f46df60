"""What is kept of passwords and tokens."""

import hashlib
import re

import pytest

from stfs.access.secrets import PasswordHash, TokenHash, hash_password, hash_token, new_token, parse_hash
from stfs.errors import ConfigError


@pytest.mark.slow  # as hashing is meant to be
def test_a_password_fits_its_hash_and_no_other():
    kept = hash_password("geheim \0 ü".encode())
    assert kept.fits("geheim \0 ü".encode())
    assert not kept.fits(b"geheim")
    assert not kept.fits(b"")
    assert parse_hash(str(kept)) == kept
    assert str(kept).startswith("$scrypt$ln=15,r=8,p=1$")
    assert hash_password(b"x").salt != hash_password(b"x").salt


def test_the_hash_is_that_of_rfc_7914():
    """Section 12, the second vector, cut to 32 bytes: PBKDF2's first block, so that it is a prefix."""
    expected = bytes.fromhex("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162")
    kept = PasswordHash(10, 8, 16, b"NaCl", expected)
    assert kept.fits(b"password")
    assert not kept.fits(b"Password")


def test_tokens_are_long_and_random_and_kept_as_a_digest():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert re.fullmatch(r"stfs_[A-Za-z0-9_-]{43}", token)
    assert hash_token(b"abc").digest == hashlib.sha256(b"abc").digest()
    assert parse_hash(str(hash_token(b"abc"))) == hash_token(b"abc")


def test_what_is_kept_is_not_shown_by_accident():
    assert repr(hash_password(b"x")) == "PasswordHash(...)"
    assert repr(TokenHash(b"x")) == "TokenHash(...)"


@pytest.mark.parametrize(
    "text",
    [
        "", "geheim", "$scrypt$", "$sha256$", "$sha256$abc", "$2y$05$abcdefghijklmnopqrstuv", "{SHA}abc=",
        "$scrypt$ln=15,r=8,p=1$salt", "$scrypt$ln=99,r=8,p=1$c2FsdA$AAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=0,r=8,p=1$c2FsdA$AAAAAAAAAAAAAAAAAAAAAA", "$scrypt$ln=4,r=0,p=1$c2FsdA$AAAAAAAAAAAAAAAAAAAAAA",
        "$scrypt$ln=20,r=64,p=1$c2FsdA$AAAAAAAAAAAAAAAAAAAAAA", "$scrypt$ln=4,r=8,p=1$c2FsdA$AAAA",
        "$scrypt$ln=4,r=8,p=1$A$AAAAAAAAAAAAAAAAAAAAAA", "$scrypt$ln=4,r=8,p=1$c2FsdA$AAAAAAAAAAAAAAAAAAAAAA ",
    ],
)  # fmt: skip
def test_what_is_no_hash_is_refused(text):
    with pytest.raises(ConfigError):
        parse_hash(text)
