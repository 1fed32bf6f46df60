"""Listening sockets that share one port (``SO_REUSEPORT``, socket(7)): the kernel spreads connections over them."""

from __future__ import annotations

import socket

BACKLOG = 1024
"""Connections that may wait to be accepted, on each socket."""


def shared(held: socket.socket, count: int) -> list[socket.socket]:
    """``count`` sockets that listen on the address that ``held`` is bound to, which is closed. The caller's own.

    A socket that shares its port lets in any other of the same user that asks to share it too, another server by
    mistake for one. So ``held``, which does not share, listens first, which fails if anybody listens there. Raises
    :class:`OSError` then.
    """
    address, family = held.getsockname(), held.family
    held.listen(1)
    held.close()
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            made.append(another(address, family))
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def another(address: object, family: int) -> socket.socket:
    """One more socket that listens on that address, which others share. Raises :class:`OSError`."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)  # type: ignore[arg-type]
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
