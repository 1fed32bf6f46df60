"""The server's certificate: read, checked, and taken anew when its files change, without a restart.

HTTPS gets one ``ssl.SSLContext`` for as long as the server runs; each handshake is led by the context of the files as
they were read last, so that a certificate, its key and the authorities of clients change together or not at all. gRPC
asks for the same bytes before each handshake. Connections that are open keep what they were made with.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from stfs.access.certificate import validity
from stfs.access.follow import Followed
from stfs.config import ServerConfig
from stfs.errors import ConfigError

log = logging.getLogger("stfs.access")

MAX_FILE_BYTES = 16 << 20

_MISMATCHES = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
"""OpenSSL's reasons: another key of the same kind, and of another kind."""


@dataclass(frozen=True, slots=True)
class Material:
    """The files as they were at one time, known to fit together. ``client_ca`` is empty if clients show nothing."""

    context: ssl.SSLContext
    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes


class ServerTls:
    """What the server shows, now. Made blocking; raises :class:`ConfigError` that says which file is wrong and how.

    ``context`` is for HTTPS, on the event loop; ``material`` may be read by any thread.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self.material: Material
        paths = [config.secret_pem, config.secret_key]
        if config.ssl_client_ca is not None:
            paths.append(config.ssl_client_ca)
        self.followed = Followed(paths, lambda: read(config), self._use)
        self.context = self.material.context
        self.context.sni_callback = self._choose

    def _use(self, material: Material) -> None:
        self.material = material

    def _choose(self, handshake: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        """At the start of every handshake, whether the client names a server or not."""
        if self.material.context is not self.context:
            handshake.context = self.material.context


def make_tls(config: ServerConfig) -> ServerTls | None:
    """What is configured; ``None`` if the server speaks in the clear. Blocking. Raises :class:`ConfigError`."""
    return ServerTls(config) if config.enable_ssl else None


def read(config: ServerConfig) -> Material:
    """The files as they are now. Blocking. Raises :class:`ConfigError`; logs a warning if they are not valid today."""
    pem, key_path, ca_path = config.secret_pem, config.secret_key, config.ssl_client_ca
    certificate, key = _bytes_of(pem, "secret_pem"), _bytes_of(key_path, "secret_key")
    if b"-----BEGIN CERTIFICATE-----" not in certificate:
        raise ConfigError(f"--secret_pem: {pem} holds no certificate in PEM form")
    if b"PRIVATE KEY-----" not in key:
        raise ConfigError(f"--secret_key: {key_path} holds no private key in PEM form")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, config, certificate, key)
    client_ca = b""
    if ca_path is not None:
        client_ca = _bytes_of(ca_path, "ssl_client_ca")
        try:
            context.load_verify_locations(cadata=client_ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise ConfigError(f"--ssl_client_ca: {ca_path} holds no certificates in PEM form: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED if config.ssl_client_verify == "required" else ssl.CERT_OPTIONAL
        # Who resumes a session is not asked for a certificate again, though its authority may have been taken away.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    found = validity(certificate)
    if found is not None and (problem := found.problem(datetime.now(UTC))) is not None:
        log.warning("clients will refuse the certificate %s: %s", pem, problem)
    return Material(context, certificate, key, client_ca)


def _load_pair(context: ssl.SSLContext, config: ServerConfig, certificate: bytes, key: bytes) -> None:
    """These very bytes, and not what the files hold a moment later: by files that are in memory alone."""
    try:
        with _in_memory(certificate) as certificate_name, _in_memory(key) as key_name:
            context.load_cert_chain(certificate_name, key_name, _refuse_to_ask)
    except _EncryptedError:
        raise ConfigError(
            f"--secret_key: {config.secret_key} is encrypted: decrypt it (openssl pkey -in KEY -out PLAIN), "
            "and let nobody else read it"
        ) from None
    except (OSError, ssl.SSLError) as error:
        if isinstance(error, ssl.SSLError) and error.reason in _MISMATCHES:
            raise ConfigError(
                f"the key {config.secret_key} (--secret_key) is not that of {config.secret_pem} (--secret_pem)"
            ) from None
        raise ConfigError(
            f"--enable_ssl: cannot use certificate {config.secret_pem} with key {config.secret_key}: {error}"
        ) from None


@contextlib.contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The name of a file of this content that no other process can open."""
    handle = os.memfd_create("stfs-tls", os.MFD_CLOEXEC)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{handle}"


class _EncryptedError(Exception):
    """OpenSSL has asked for a password."""


def _refuse_to_ask() -> str:
    """Without this, OpenSSL would ask at the terminal, and wait."""
    raise _EncryptedError


def _bytes_of(path: Path, option: str) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"--{option}: cannot read {path}: {error.strerror}") from None
    if len(found) > MAX_FILE_BYTES:
        raise ConfigError(f"--{option}: {path} is larger than {MAX_FILE_BYTES >> 20} MiB: is it the right file?")
    return found
