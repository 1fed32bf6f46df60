"""TLS on real servers: certificates of clients, and a renewed certificate under open connections, HTTPS and gRPC."""

import contextlib
import http.client
import json
import socket
import ssl

import grpc
import pytest
from certificates import authority
from rpc_calls import PREDICT, address, call, outputs_of, predict_bytes
from running import run_cli, running
from simple_models import write_linear
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers

BODY = json.dumps({"data": [[1.0, 2.0, 3.0]]})
ASK = predict_bytes("default", x=[[1.0, 2.0, 3.0]])


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    return authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_linear(tmp_path_factory.mktemp("m")))


def infer(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/", BODY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert (response.status, json.loads(response.read())) == (200, {"y": [[2.0, 4.0, 6.0]]})


@contextlib.contextmanager
def https(server, context):
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def shown(server, context) -> str:
    """The name in the certificate that the server shows."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        return dict(pair for (pair,) in tls.getpeercert()["subject"])["commonName"]


def shown_over_rpc(server, ca) -> bool:
    """Whether a client that trusts ``ca`` alone is answered."""
    credentials = grpc.ssl_channel_credentials(ca.pair.pem.read_bytes())
    with grpc.secure_channel(address(server), credentials) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=5)
        except grpc.FutureTimeoutError:
            return False
        return outputs_of(call(channel, PREDICT, ASK))["y"].tolist() == [[2.0, 4.0, 6.0]]


def test_a_renewed_certificate_is_shown_without_a_restart_and_connections_stay(tmp_path, ca, model):
    other = authority(tmp_path / "other", "other")
    pem, key = tmp_path / "secret.pem", tmp_path / "secret.key"
    ca.sign("before").put(pem, key)
    argv = (model, "--enable_ssl", f"--secret_pem={pem}", f"--secret_key={key}", "--grpc_port=0")
    credentials = grpc.ssl_channel_credentials(ca.pair.pem.read_bytes())
    with (
        running(*argv) as server,
        https(server, ca.trusting()) as open_one,
        grpc.secure_channel(address(server), credentials) as channel,
    ):
        infer(open_one)
        call(channel, PREDICT, ASK)
        assert shown(server, ca.trusting()) == "before"
        after = other.sign("after")
        pem.write_bytes(after.pem.read_bytes())
        wait_until(lambda: "what was read before stays in use" in server.log())
        assert shown(server, ca.trusting()) == "before"
        infer(open_one)
        after.put(pem, key)
        wait_until(lambda: f"read anew: {pem}, {key}" in server.log())
        assert shown(server, other.trusting()) == "after"
        with pytest.raises(ssl.SSLCertVerificationError):
            shown(server, ca.trusting())
        infer(open_one)
        call(channel, PREDICT, ASK)
        assert shown_over_rpc(server, other)
        with https(server, other.trusting()) as new_one:
            infer(new_one)
        assert server.log().count("stays in use") == 1
        assert server.stop() == 0


def test_clients_show_certificates_over_https_and_grpc(tmp_path, ca, model):
    clients = authority(tmp_path / "clients", "clients")
    pair, friend, stranger = ca.sign("server"), clients.sign("friend"), ca.sign("stranger")
    tls = ("--enable_ssl", f"--secret_pem={pair.pem}", f"--secret_key={pair.key}")
    root = ca.pair.pem.read_bytes()
    with running(model, *tls, f"--ssl_client_ca={clients.pair.pem}", "--grpc_port=0") as server:
        known, unknown, none = ca.trusting(), ca.trusting(), ca.trusting()
        known.load_cert_chain(friend.pem, friend.key)
        unknown.load_cert_chain(stranger.pem, stranger.key)
        with https(server, known) as connection:
            infer(connection)
        for context in (unknown, none):
            with https(server, context) as connection, pytest.raises((ssl.SSLError, OSError)):
                infer(connection)
        mine = grpc.ssl_channel_credentials(root, friend.key.read_bytes(), friend.pem.read_bytes())
        with grpc.secure_channel(address(server), mine) as channel:
            assert outputs_of(call(channel, PREDICT, ASK))["y"].tolist() == [[2.0, 4.0, 6.0]]
        theirs = grpc.ssl_channel_credentials(root, stranger.key.read_bytes(), stranger.pem.read_bytes())
        for credentials in (theirs, grpc.ssl_channel_credentials(root)):
            with grpc.secure_channel(address(server), credentials) as channel:
                with pytest.raises(grpc.RpcError) as error:
                    call(channel, PREDICT, ASK, timeout=20)
                assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    optional = ("--ssl_client_verify=optional", f"--ssl_client_ca={clients.pair.pem}")
    with running(model, *tls, *optional) as server:
        for context in (known, none):
            with https(server, context) as connection:
                infer(connection)
        with https(server, unknown) as connection, pytest.raises((ssl.SSLError, OSError)):
            infer(connection)


def test_what_is_wrong_at_the_start_is_one_line_and_status_2(tmp_path, ca, model):
    good, other = ca.sign("good"), ca.sign("other")
    cases = (
        ((good.pem, other.key), "is not that of"),
        ((good.pem, tmp_path / "gone"), "--secret_key: cannot read"),
        ((good.pem, good.key, f"--ssl_client_ca={good.key}"), "--ssl_client_ca"),
    )
    for (pem, key, *more), told in cases:
        flags = ("--port=0", "--host=127.0.0.1", "--enable_ssl", f"--secret_pem={pem}", f"--secret_key={key}")
        done = run_cli("serve", model, *flags, *more)
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_clients_certificates_need_tls(model):
    done = run_cli("serve", model, "--ssl_client_ca=x")
    assert (done.returncode, "add --enable_ssl" in done.stderr) == (2, True)
