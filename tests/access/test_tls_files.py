"""The files of a certificate: what is wrong with them is told, and what replaces them is shown."""

import logging
import ssl
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from certificates import Pair, authority, encrypted

from stfs.access.certificate import Validity, validity
from stfs.access.tls import ServerTls, make_tls, read
from stfs.config import ServerConfig
from stfs.errors import ConfigError


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def good(ca):
    return ca.sign("good")


def config_of(pair: Pair, **more) -> ServerConfig:
    return ServerConfig(models=(), enable_ssl=True, secret_pem=pair.pem, secret_key=pair.key, **more)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str | None]:
    """Whose certificate the client is shown, and whose the server. Raises :class:`ssl.SSLError` if they disagree."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (here, there):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert len(done) == 2
    return name_in(here.getpeercert()), name_in(there.getpeercert())


def name_in(certificate):
    return dict(pair for (pair,) in certificate["subject"])["commonName"] if certificate else None


def test_without_ssl_there_is_none():
    assert make_tls(ServerConfig(models=())) is None


def test_a_good_pair_is_shown(ca, good):
    assert shake_hands(ServerTls(config_of(good)).context, ca.trusting()) == ("good", None)


def test_tls_below_1_2_is_not_spoken(ca, good):
    client = ca.trusting()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(ServerTls(config_of(good)).context, client)


def test_what_is_wrong_is_told_with_the_file_and_the_option(ca, good, tmp_path):
    other = ca.sign("other")
    text = tmp_path / "text"
    text.write_text("hello")
    cases = [
        (Pair(tmp_path / "gone", good.key), "--secret_pem: cannot read", "gone"),
        (Pair(good.pem, tmp_path / "gone"), "--secret_key: cannot read", "gone"),
        (Pair(tmp_path, good.key), "--secret_pem: cannot read", "Is a directory"),
        (Pair(text, good.key), "--secret_pem", "holds no certificate"),
        (Pair(good.key, good.key), "--secret_pem", "holds no certificate"),
        (Pair(good.pem, text), "--secret_key", "holds no private key"),
        (Pair(good.pem, other.key), "is not that of", str(other.key)),
        (Pair(good.pem, encrypted(good, tmp_path / "locked.key")), "is encrypted", "openssl pkey"),
    ]
    for pair, *told in cases:
        with pytest.raises(ConfigError) as error:
            read(config_of(pair))
        assert all(part in str(error.value) for part in told), str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match=r"--ssl_client_ca.*holds no certificates"):
        read(config_of(good, ssl_client_ca=text))


def test_one_file_may_hold_both(ca, good, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(good.key.read_bytes() + good.pem.read_bytes())
    assert shake_hands(ServerTls(config_of(Pair(both, both))).context, ca.trusting()) == ("good", None)


def test_a_certificate_that_is_not_valid_today_is_warned_of_with_its_date(ca, good, caplog):
    with caplog.at_level(logging.WARNING, "stfs.access"):
        read(config_of(good))
        assert caplog.text == ""
        read(config_of(ca.sign("old", ends="20210203040506Z")))
        assert "it expired on 2021-02-03 04:05 UTC" in caplog.text
        read(config_of(ca.sign("future", begins="20450203040506Z", ends="20600203040506Z")))
        assert "it is not valid before 2045-02-03 04:05 UTC" in caplog.text


@pytest.mark.slow  # makes an RSA key
def test_dates_are_read_in_both_forms(ca):
    found = validity(ca.sign("dates", begins="19990102030405Z", ends="20510607080910Z", key="rsa").pem.read_bytes())
    assert found == Validity(datetime(1999, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2051, 6, 7, 8, 9, 10, tzinfo=UTC))
    assert found.problem(datetime(2020, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_damaged_certificates_have_no_dates(good, cut):
    der = ssl.PEM_cert_to_DER_cert(good.pem.read_text())
    damaged = ssl.DER_cert_to_PEM_cert(der[:cut]).encode()
    assert validity(damaged) is None
    assert validity(b"") is None


@pytest.mark.slow  # makes an RSA key
@pytest.mark.parametrize("key", ["ec", "rsa"])  # OpenSSL would keep a key of each kind, and choose between them
def test_what_replaces_the_files_is_shown_from_the_next_handshake_on(ca, good, tmp_path, key):
    pem, pem_key = tmp_path / "live.pem", tmp_path / "live.key"
    good.put(pem, pem_key)
    tls = ServerTls(config_of(Pair(pem, pem_key)))
    renewed = ca.sign(f"renewed-{key}", key=key)
    pem.write_bytes(renewed.pem.read_bytes())
    with pytest.raises(ConfigError, match="is not that of"):
        tls._use(read(tls._config))
    assert shake_hands(tls.context, ca.trusting()) == ("good", None)
    renewed.put(pem, pem_key)
    tls._use(read(tls._config))
    for _ in range(2):
        assert shake_hands(tls.context, ca.trusting()) == (f"renewed-{key}", None)


def test_clients_show_certificates_of_the_right_authority(ca, good, tmp_path):
    clients = authority(tmp_path / "clients", "clients")
    required = config_of(good, ssl_client_ca=clients.pair.pem)
    optional = replace(required, ssl_client_verify="optional")
    known, unknown, none = ca.trusting(), ca.trusting(), ca.trusting()
    friend, stranger = clients.sign("friend"), ca.sign("stranger")
    known.load_cert_chain(friend.pem, friend.key)
    unknown.load_cert_chain(stranger.pem, stranger.key)
    for config in (required, optional):
        assert shake_hands(ServerTls(config).context, known) == ("good", "friend")
        with pytest.raises(ssl.SSLError):
            shake_hands(ServerTls(config).context, unknown)
    assert shake_hands(ServerTls(optional).context, none) == ("good", None)
    with pytest.raises(ssl.SSLError):
        shake_hands(ServerTls(required).context, none)


def test_the_authorities_of_clients_are_replaced_too(ca, good, tmp_path):
    before, after = authority(tmp_path / "before", "before"), authority(tmp_path / "after", "after")
    live = tmp_path / "clients.pem"
    live.write_bytes(before.pair.pem.read_bytes())
    tls = ServerTls(config_of(good, ssl_client_ca=live))
    old, new = ca.trusting(), ca.trusting()
    for client, pair in ((old, before.sign("old")), (new, after.sign("new"))):
        client.load_cert_chain(pair.pem, pair.key)
    assert shake_hands(tls.context, old) == ("good", "old")
    live.write_bytes(after.pair.pem.read_bytes())
    tls._use(read(tls._config))
    assert shake_hands(tls.context, new) == ("good", "new")
    with pytest.raises(ssl.SSLError):
        shake_hands(tls.context, old)
