"""Who is let in, who is not, and who has to wait: the policy itself, with a clock of the test's own."""

import asyncio
import base64
import logging
import threading

import pytest
from access_users import with_password, with_token

from stfs.access import door as module
from stfs.access.door import Door, Why, parse_authorization
from stfs.access.scopes import EVERY_SCOPE, Scope
from stfs.access.users import Configured, Users, make_users

CONFIGURED = Configured("admin", "näive:pass")
USERS = make_users(
    [
        with_password("ana", "a", "infer"),
        with_token("app", "token-of-app", "metrics"),
        with_password("eve", "e", "admin"),
    ],
    CONFIGURED,
)


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def basic(name: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{name}:{password}".encode())


def make_door(users: Users = USERS, failures: int = 30) -> tuple[Door, Clock]:
    clock = Clock()
    return Door(users, failures, clock), clock


def asked(door: Door, authorization: bytes | None, needs: Scope = Scope.INFER, address: str | None = "10.0.0.1"):
    return asyncio.run(door.refusal(authorization, address, needs))


@pytest.mark.parametrize(
    ("authorization", "scopes"),
    [
        (basic("ana", "a"), Scope.INFER),
        (basic("eve", "e"), Scope.ADMIN),
        (b"Bearer token-of-app", Scope.METRICS),
        (b"bearer  token-of-app", Scope.METRICS),
        (basic("admin", "näive:pass"), EVERY_SCOPE),
        (b"bAsIc " + basic("ana", "a")[6:] + b" ", Scope.INFER),
    ],
)
def test_the_right_ones_may_do_what_their_scopes_say_and_no_more(authorization, scopes):
    door, _ = make_door()
    for needs in (Scope.INFER, Scope.METRICS, Scope.ADMIN):
        assert not door.lets_in(authorization, needs)  # it has not been looked at
    for _ in range(2):
        for needs in (Scope.INFER, Scope.METRICS, Scope.ADMIN):
            refusal = asked(door, authorization, needs)
            assert (refusal is None) == bool(needs & scopes)
            assert refusal is None or refusal.why is Why.SCOPE
            assert door.lets_in(authorization, needs) == bool(needs & scopes)
    assert asked(door, authorization, EVERY_SCOPE) is None  # any of them will do
    assert asked(door, None, Scope.OPEN) is None


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        b"",
        b"Basic",
        b"Basic ",
        b"Basic !!!",
        b"Basic bm9jb2xvbg==",
        b"Basic " + b"A" * 100_000,
        basic("ana", ""),
        basic("ana", "b"),
        basic("bob", "a"),
        basic("app", "token-of-app"),
        basic("admin", "naive:pass"),
        basic("", ""),
        b"Bearer",
        b"Bearer ",
        b"Bearer token-of-ap",
        b"Bearer " + basic("ana", "a")[6:],
        b"Digest " + basic("ana", "a")[6:],
        basic("ana", "a")[6:],
        b"\xff\xfe",
    ],
)
def test_the_wrong_ones_may_do_nothing(authorization):
    door, _ = make_door()
    for needs in (Scope.INFER, Scope.METRICS, Scope.ADMIN, EVERY_SCOPE):
        refusal = asked(door, authorization, needs)
        assert refusal is not None
        assert (refusal.why, refusal.retry_after_s) == (Why.CREDENTIALS, 0)
        assert not door.lets_in(authorization, needs)


def test_without_any_user_nobody_is_let_in():
    door, _ = make_door(Users())
    for authorization in (basic("admin", "admin"), basic("", ""), b"Bearer ", b"Bearer x"):
        refusal = asked(door, authorization)
        assert refusal is not None
        assert refusal.why is Why.CREDENTIALS


def test_ten_thousand_wrong_tries_are_told_and_slowed_and_hurt_nobody_else(caplog):
    door, clock = make_door()

    async def storm():
        assert await door.refusal(basic("ana", "a"), "10.0.0.1", Scope.INFER) is None  # before it begins
        whys = []
        for number in range(10_000):
            clock.now_s += 1 / 1024
            refusal = await door.refusal(basic("ana", f"geheim{number}"), "10.0.0.1", Scope.INFER)
            assert refusal is not None
            assert refusal.why is Why.CREDENTIALS or 1 <= refusal.retry_after_s <= 2
            whys.append(refusal.why)
        waits = await door.refusal(basic("eve", "e"), "10.0.0.1", Scope.ADMIN)
        stays = await door.refusal(basic("ana", "a"), "10.0.0.1", Scope.INFER)
        other = await door.refusal(basic("eve", "e"), "10.0.0.2", Scope.ADMIN)
        # Seen from another address only: or else the one who guesses could go on guessing at it.
        still_waits = await door.refusal(basic("eve", "e"), "10.0.0.1", Scope.ADMIN)
        clock.now_s += 3
        after = await door.refusal(basic("eve", "e"), "10.0.0.1", Scope.ADMIN)
        return whys, waits, stays, other, still_waits, after

    with caplog.at_level(logging.WARNING, "stfs.access"):
        whys, waits, stays, other, still_waits, after = asyncio.run(storm())
    assert whys.count(Why.CREDENTIALS) == 30 + 4  # nearly ten seconds
    assert waits is not None
    assert waits.why is Why.TRIES
    assert (stays, other, after) == (None, None, None)
    assert still_waits is not None
    assert "geheim" not in caplog.text
    assert caplog.text.count("wrong credentials for user 'ana' from 10.0.0.1") == 34
    assert caplog.text.count("has to wait") == 5


def test_while_anybody_waits_the_hot_path_leaves_it_to_the_other():
    door, clock = make_door(failures=1)
    assert asked(door, basic("ana", "a")) is None
    assert door.lets_in(basic("ana", "a"), Scope.INFER)
    asked(door, b"Basic eDp5", address="10.0.0.9")
    assert not door.lets_in(basic("ana", "a"), Scope.INFER)
    assert asked(door, basic("ana", "a")) is None
    clock.now_s += 60
    assert door.lets_in(basic("ana", "a"), Scope.INFER)


def test_no_credentials_at_all_are_no_wrong_try():
    door, _ = make_door(failures=1)
    for _ in range(100):
        refusal = asked(door, None)
        assert refusal is not None
        assert refusal.why is Why.CREDENTIALS
    assert asked(door, basic("ana", "a")) is None


class Slow:
    """Stands for the users of a file whose passwords take as long as the test wants."""

    def __init__(self, users: Users) -> None:
        self.go_on = threading.Event()
        self.looked = []
        self._users = users
        self.are_hashed = True
        self.of_configured = users.of_configured
        self.of_token = users.of_token

    def of_password(self, name, password):
        assert threading.current_thread() is not threading.main_thread()
        self.looked.append(name)
        assert self.go_on.wait(60)
        return self._users.of_password(name, password)


def test_the_same_credentials_are_looked_at_once_however_many_send_them_and_never_on_the_loop():
    slow = Slow(USERS)
    door, _ = make_door(slow)

    async def many():
        tasks = [asyncio.create_task(door.refusal(basic("ana", "a"), "10.0.0.1", Scope.INFER)) for _ in range(100)]
        await asyncio.sleep(0)
        assert await door.refusal(b"Bearer token-of-app", "10.0.0.1", Scope.METRICS) is None  # the loop is free
        slow.go_on.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(many()) == [None] * 100
    assert slow.looked == [b"ana"]


def test_a_client_that_does_not_wait_for_its_answer_has_tried_all_the_same():
    slow = Slow(USERS)
    door, _ = make_door(slow, failures=3)

    async def impatient():
        tasks = []
        for number in range(3):
            tasks.append(asyncio.create_task(door.refusal(basic("ana", str(number)), "10.0.0.1", Scope.INFER)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            tasks[-1].cancel()
        slow.go_on.set()
        for _ in range(6000):
            if len(slow.looked) == 3 and (await door.refusal(b"Bearer x", "10.0.0.1", Scope.INFER)).why is Why.TRIES:
                return await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.01)
        raise AssertionError("its tries were not counted")

    assert all(isinstance(one, asyncio.CancelledError) for one in asyncio.run(impatient()))


def test_no_more_than_so_many_wait_for_a_thread(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 4)
    slow = Slow(USERS)
    door, _ = make_door(slow, failures=0)

    async def crowd():
        tasks = [
            asyncio.create_task(door.refusal(basic("ana", str(number)), f"10.0.0.{number}", Scope.INFER))
            for number in range(10)
        ]
        for _ in range(5):
            await asyncio.sleep(0)
        slow.go_on.set()
        return [one.why for one in await asyncio.gather(*tasks)]

    assert asyncio.run(crowd()) == [Why.CREDENTIALS] * 4 + [Why.TRIES] * 6


def test_who_is_no_longer_a_user_is_out_at_once():
    door, _ = make_door()
    assert asked(door, basic("ana", "a")) is None
    assert asked(door, b"Bearer token-of-app", Scope.METRICS) is None
    door.replace(make_users([with_password("ana", "new")], None))
    for authorization in (basic("ana", "a"), b"Bearer token-of-app", basic("admin", "näive:pass")):
        assert not door.lets_in(authorization, Scope.INFER)
        assert asked(door, authorization, EVERY_SCOPE) is not None
    assert asked(door, basic("ana", "new")) is None


def test_users_that_change_while_a_password_is_looked_at_decide():
    slow = Slow(USERS)
    door, _ = make_door(slow)

    async def changing():
        task = asyncio.create_task(door.refusal(basic("ana", "a"), "10.0.0.1", Scope.INFER))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        door.replace(make_users([with_password("ana", "new")], None))
        slow.go_on.set()
        return await task

    refusal = asyncio.run(changing())
    assert refusal is not None
    assert refusal.why is Why.CREDENTIALS
    assert not door.lets_in(basic("ana", "a"), Scope.INFER)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 10)
    door, _ = make_door()
    spellings = [b"Basic " + b" " * number + basic("admin", "näive:pass")[6:] for number in range(25)]
    for spelling in spellings:
        assert asked(door, spelling) is None
    known = [spelling for spelling in spellings if door.lets_in(spelling, Scope.INFER)]
    assert known == spellings[-10:]


def test_neither_headers_nor_secrets_are_kept_in_the_open():
    door, _ = make_door()
    asked(door, basic("ana", "a"))
    assert all(len(key) == 16 and key not in basic("ana", "a") for key in door._remembered)
    assert "geheim" not in repr(parse_authorization(basic("ana", "geheim")))
    other, _ = make_door()
    asked(other, basic("ana", "a"))
    assert set(door._remembered).isdisjoint(other._remembered)  # the key is each process's own
