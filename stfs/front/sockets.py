"""Listening sockets that share one port (``SO_REUSEPORT``, socket(7)): the kernel spreads connections over them."""

from __future__ import annotations

import socket
from collections.abc import Iterable

BACKLOG = 1024
"""Connections that may wait to be accepted, on each socket."""


def bound(held: socket.socket, count: int) -> list[socket.socket]:
    """``count`` sockets bound to the address that ``held`` is bound to, beside it. None of them listens yet.

    The caller's own. Raises :class:`OSError`.
    """
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            made.append(_another(held.getsockname(), held.family))
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def listen(held: socket.socket, made: Iterable[socket.socket]) -> None:
    """Have all that :func:`bound` has made listen. ``held`` is closed.

    A socket that shares its port lets in any other of the same user that asks to share it too, another server by
    mistake for one. So ``held``, which does not share, listens first, which fails if anybody listens there. Raises
    :class:`OSError` then.
    """
    with held:
        held.listen(1)
    for sock in made:
        sock.listen(BACKLOG)


def another(address: object, family: int) -> socket.socket:
    """One more socket that listens on that address, which others share. Raises :class:`OSError`."""
    sock = _another(address, family)
    try:
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _another(address: object, family: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
