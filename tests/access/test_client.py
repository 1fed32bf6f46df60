"""Who a client counts as."""

import asyncio
import base64

import pytest
from access_users import with_password, with_token

from stfs.access.client import client_of
from stfs.access.door import Door
from stfs.access.scopes import Scope
from stfs.access.users import make_users


def basic(name, password):
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


@pytest.fixture
def door():
    made = Door(make_users([with_password("ana", "secret"), with_token("job", "t0ken")], None), 30)
    yield made
    made.close()


def test_nobody_asks_where_it_is_off(door):
    assert client_of("off", door, basic("ana", "secret"), "10.0.0.1") is None


def test_an_address_is_one_of_ipv4_or_a_network_of_ipv6():
    names = [client_of("address", None, None, address) for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1")]
    assert names[0] == names[2] != names[1]
    six = [client_of("address", None, None, address) for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")]
    assert six[0] == six[1] != six[2]
    assert client_of("address", None, None, None) == client_of("address", None, None, None) is not None


def test_a_user_is_the_same_from_everywhere_once_the_credentials_have_been_found_right(door):
    shown = basic("ana", "secret")
    assert client_of("user", door, shown, "10.0.0.1") == client_of("address", door, shown, "10.0.0.1")

    async def let_in():
        for credentials in (shown, b"Bearer t0ken"):
            assert await door.refusal(credentials, "10.0.0.1", Scope.INFER) is None

    asyncio.run(let_in())
    names = [client_of("user", door, shown, address) for address in ("10.0.0.1", "10.9.9.9", None)]
    assert names == ["user ana"] * 3
    assert client_of("user", door, b"Bearer t0ken", None) == "user job"
    assert client_of("address", door, shown, "10.0.0.1") != "user ana"


@pytest.mark.parametrize("shown", [None, basic("ana", "wrong"), b"Bearer wrong", b""])
def test_who_shows_nothing_that_is_known_is_an_address(door, shown):
    assert client_of("user", door, shown, "10.0.0.1") == client_of("address", None, None, "10.0.0.1")


def test_without_users_everybody_is_an_address():
    assert client_of("user", None, basic("ana", "secret"), "10.0.0.1") == client_of("address", None, None, "10.0.0.1")
    assert client_of("user", None, None, None) != "user None"
