"""Authorities and certificates of a test's own, made by the ``openssl`` command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Pair:
    """Two files in PEM form."""

    pem: Path
    key: Path

    def put(self, pem: Path, key: Path) -> None:
        """In the place of the files that a server looks at: whole, one after the other, as renewals do it."""
        for source, target in ((self.pem, pem), (self.key, key)):
            new = target.with_name(target.name + ".new")
            new.write_bytes(source.read_bytes())
            new.replace(target)


@dataclass(frozen=True)
class Authority:
    """Signs others, in its folder."""

    pair: Pair
    folder: Path

    def sign(self, name: str, *, key: str = "ec", begins: str = "", ends: str = "", issuer: Pair | None = None) -> Pair:
        """A certificate for 127.0.0.1 and localhost; dates are ``YYYYMMDDHHMMSSZ``, else two days from now on."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        request = self.folder / f"{name}.csr"
        _openssl("req", "-new", *_new_key(key), "-nodes", "-subj", f"/CN={name}", "-keyout", pair.key, "-out", request)
        extensions = self.folder / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        database = self.folder / "database"
        database.mkdir(exist_ok=True)
        for file, text in (("index", ""), ("serial", "1000")):
            if not (database / file).exists():
                (database / file).write_text(text)
        config = database / "config"
        config.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={database}/index\nserial={database}/serial\nnew_certs_dir={database}\n"
            "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
        )
        signer = issuer or self.pair
        dates = ["-days", "2"] if not ends else ["-startdate", begins or "20200101000000Z", "-enddate", ends]
        _openssl(
            "ca", "-batch", "-config", config, "-cert", signer.pem, "-keyfile", signer.key, "-in", request,
            "-out", pair.pem, "-extfile", extensions, "-notext", *dates,
        )  # fmt: skip
        return pair

    def trusting(self) -> ssl.SSLContext:
        """What a client that trusts this authority, and no other, speaks TLS with."""
        return ssl.create_default_context(cafile=str(self.pair.pem))


def authority(folder: Path, name: str = "authority") -> Authority:
    """A new one. Skips the test where there is no ``openssl``."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command, which makes the certificates, is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    _openssl(
        "req", "-x509", *_new_key("ec"), "-nodes", "-days", "2", "-subj", f"/CN={name}",
        "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", pair.pem, "-keyout", pair.key,
    )  # fmt: skip
    return Authority(pair, folder)


def _new_key(kind: str) -> tuple[str, ...]:
    return ("-newkey", "rsa:2048") if kind == "rsa" else ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def encrypted(pair: Pair, target: Path) -> Path:
    """The pair's key under a password."""
    _openssl("pkey", "-in", pair.key, "-aes256", "-passout", "pass:geheim", "-out", target)
    return target
