"""Who is let in: looks at ``Authorization`` headers, remembers the right ones, makes those wait who are often wrong.

A password that is kept as a hash takes a tenth of a second on a thread; the header that it came in is remembered by a
keyed digest, so that each later request costs one look-up. What is remembered is forgotten when the users change.

What a wrong try costs: each address may be wrong so many times a minute (``stfs.access.limiter``). After that its tries
are refused unlooked at, right or wrong, except for credentials that have been shown from that very address before:
whoever shares an address with somebody who guesses keeps working, and other addresses notice nothing.

For the event-loop thread. Must not live here: headers, statuses, the forms of errors (``web.guard``, ``rpc.auth``).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import math
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial

from stfs.access.follow import Followed
from stfs.access.limiter import FailureLimiter, bucket_of
from stfs.access.scopes import Scope, name_scopes
from stfs.access.users import Configured, Identity, Users, read_users
from stfs.config import ServerConfig

log = logging.getLogger("stfs.access")

MAX_REMEMBERED = 4096
"""Headers; the oldest is forgotten first, and looked at again when it comes."""

MAX_ADDRESSES_EACH = 64
"""Addresses remembered for a header."""

MAX_HEADER_CHARACTERS = 4096

MAX_WAITING = 128
"""Passwords that may wait for a thread."""

THREADS = 2

TOLD_CHARACTERS = 60
"""Of a name that somebody claims, in the log."""


class Why(Enum):
    """Why somebody is not let in."""

    CREDENTIALS = "credentials"
    SCOPE = "scope"
    TRIES = "tries"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not let in. ``retry_after_s`` is whole seconds, 0 unless waiting helps."""

    why: Why
    text: str
    retry_after_s: int = 0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an ``Authorization`` header holds: a name and a password, or a token as the password without a name."""

    name: bytes | None
    secret: bytes

    def __repr__(self) -> str:
        return f"Credentials({self.name!r}, ...)"


@dataclass(slots=True)
class _Remembered:
    identity: Identity
    allows: int
    buckets: set[str]


NEED_AUTH = "Need basic auth to request the resources"
"""The seed's words."""

_WRONG = Refusal(Why.CREDENTIALS, NEED_AUTH)


class Door:
    """The users of one server, and who of them has been seen."""

    def __init__(self, users: Users, failures_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._users = users
        self._clock = clock
        self._limiter = FailureLimiter(failures_per_minute)
        self._key = secrets.token_bytes(32)  # so that a dump of the table tells nothing that could be looked up
        self._remembered: dict[bytes, _Remembered] = {}
        self._being_looked_at: dict[bytes, asyncio.Future[Identity | None]] = {}
        self.followed: Followed[Users] | None = None
        """The file of users, if there is one."""
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="stfs-access")

    def replace(self, users: Users) -> None:
        """Let these in from now on. What was remembered of the others is forgotten."""
        self._users = users
        self._remembered.clear()
        self._being_looked_at.clear()  # what they find out is not of these users

    def lets_in(self, authorization: bytes | None, needs: Scope) -> bool:
        """Whether these credentials are known to be right and allow that. If not, :meth:`refusal` looks closer.

        For the hot path: never waits. While any address has to wait, only :meth:`refusal` can tell.
        """
        if authorization is None or self._is_anybody_waiting():
            return False
        found = self._remembered.get(self._digest(authorization))
        # As whole numbers, for flags take longer than all the rest here.
        return found is not None and bool(needs._value_ & found.allows)

    def name_of(self, authorization: bytes | None) -> str | None:
        """The user whose credentials these are, of those that have been found right; for the access log."""
        found = None if authorization is None else self._remembered.get(self._digest(authorization))
        return None if found is None else found.identity.name

    async def refusal(self, authorization: bytes | None, address: str | None, needs: Scope) -> Refusal | None:
        """Why this request is refused, ``None`` if it is not: any of the scopes in ``needs`` will do.

        ``address`` is the client's, without a port; ``None`` for one on a Unix socket.
        """
        if not needs:
            return None
        if authorization is None:
            return _WRONG  # not a wrong try: so every client of HTTP begins
        identity = await self._identify(authorization, bucket_of(address))
        if isinstance(identity, Refusal):
            return identity
        if needs & identity.scopes:
            return None
        return Refusal(Why.SCOPE, f"user {identity.name!r} has no scope {name_scopes(needs)!r}, which this needs")

    def close(self) -> None:
        """Start no more threads; those that still look at a password end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _identify(self, authorization: bytes, bucket: str) -> Identity | Refusal:
        digest = self._digest(authorization)
        found = self._remembered.get(digest)
        wait_s = self._limiter.wait_s(bucket, self._clock())
        if found is not None and (not wait_s or bucket in found.buckets):
            if len(found.buckets) < MAX_ADDRESSES_EACH:
                found.buckets.add(bucket)
            return found.identity
        if wait_s:
            return Refusal(Why.TRIES, "too many wrong credentials from this address: wait", max(1, math.ceil(wait_s)))
        given, users = parse_authorization(authorization), self._users
        if given is None:
            return self._wrong(None, bucket)
        if given.name is None:
            identity = users.of_token(given.secret)
        else:
            identity = users.of_configured(given.name, given.secret)
            if identity is None and users.are_hashed:
                if (job := self._look_up(digest, given)) is None:
                    return Refusal(Why.TRIES, "too many credentials are waiting to be looked at: try again", 1)
                # A client that goes away meanwhile has tried all the same: its try is counted without it.
                waiting = asyncio.create_task(self._wait_for(job, authorization, given, bucket))
                return await asyncio.shield(waiting)
        return self._conclude(digest, given, identity, bucket)

    def _look_up(self, digest: bytes, given: Credentials) -> asyncio.Future[Identity | None] | None:
        """Begin to look at a password on a thread, once for all who send it meanwhile; ``None`` if too many wait."""
        job = self._being_looked_at.get(digest)
        if job is None and len(self._being_looked_at) < MAX_WAITING:
            loop = asyncio.get_running_loop()
            job = loop.run_in_executor(self._threads, self._users.of_password, given.name or b"", given.secret)
            self._being_looked_at[digest] = job
            job.add_done_callback(partial(self._looked_at, digest))
        return job

    def _looked_at(self, digest: bytes, job: asyncio.Future[Identity | None]) -> None:
        if self._being_looked_at.get(digest) is job:
            del self._being_looked_at[digest]

    async def _wait_for(
        self, job: asyncio.Future[Identity | None], authorization: bytes, given: Credentials, bucket: str
    ) -> Identity | Refusal:
        users = self._users
        identity = await asyncio.shield(job)
        if users is not self._users:
            return await self._identify(authorization, bucket)
        return self._conclude(self._digest(authorization), given, identity, bucket)

    def _conclude(
        self, digest: bytes, given: Credentials, identity: Identity | None, bucket: str
    ) -> Identity | Refusal:
        if identity is None:
            return self._wrong(given, bucket)
        if (found := self._remembered.get(digest)) is not None:
            found.buckets.add(bucket)
            return identity
        if len(self._remembered) >= MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[digest] = _Remembered(identity, identity.scopes.value, {bucket})
        return identity

    def _wrong(self, given: Credentials | None, bucket: str) -> Refusal:
        """Count the try, and log it without what must stay secret."""
        if given is None:
            who = "credentials that are none"
        elif given.name is None:
            who = "a wrong token"
        else:
            who = f"wrong credentials for user {given.name[:TOLD_CHARACTERS].decode(errors='replace')!r}"
        log.warning("%s from %s", who, bucket)
        if self._limiter.failed(bucket, self._clock()):
            log.warning("%s has been wrong too often: it has to wait before it may try again", bucket)
        return _WRONG

    def _digest(self, authorization: bytes) -> bytes:
        return hashlib.blake2b(authorization, digest_size=16, key=self._key).digest()

    def _is_anybody_waiting(self) -> bool:
        return self._clock() < self._limiter.blocked_until_s


def parse_authorization(value: bytes) -> Credentials | None:
    """What the header holds: Basic (RFC 7617, in UTF-8) or Bearer (RFC 6750); ``None`` if it is neither."""
    if len(value) > MAX_HEADER_CHARACTERS:
        return None
    scheme, _, rest = value.partition(b" ")
    match scheme.lower():
        case b"basic":
            try:
                name, colon, password = base64.b64decode(rest.strip(), validate=True).partition(b":")
            except (binascii.Error, ValueError):
                return None
            return Credentials(name, password) if colon else None
        case b"bearer":
            return Credentials(None, rest.strip())
    return None


def configured_user(config: ServerConfig) -> Configured | None:
    """The user of ``--auth_username``; with a file of users only where a password has been given."""
    return Configured(config.auth_username, config.auth_password) if config.auth_by_password else None


def make_door(config: ServerConfig) -> Door | None:
    """The door that is configured, ``None`` if everybody is let in. Blocking: reads the file of users.

    Raises :class:`stfs.errors.ConfigError` if it cannot be read.
    """
    if not config.enable_auth:
        return None
    configured = configured_user(config)
    door = Door(Users(configured), config.auth_failures_per_minute)
    if (path := config.auth_users_file) is not None:
        door.followed = Followed([path], lambda: read_users(path, configured), door.replace)
    return door
