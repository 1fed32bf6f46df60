"""The file of a Unix socket: whether it may be listened on, and that none is left behind."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from stfs.errors import ConfigError

MAX_PATH_BYTES = 107
"""What ``sockaddr_un`` holds beside the closing zero (Linux, unix(7))."""


def make_way(path: Path) -> None:
    """Remove the file that a killed server has left at ``path``.

    Raises :class:`ConfigError` if somebody listens there, if it is no socket, or if no socket can be made there.
    """
    if len(bytes(path)) > MAX_PATH_BYTES:
        raise ConfigError(f"--grpc_socket_path {path}: longer than the {MAX_PATH_BYTES} bytes that a socket's path has")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"--grpc_socket_path {path}: there is a file that is no socket: choose another path")
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigError(f"--grpc_socket_path {path}: the folder {path.parent} does not exist") from None
        return
    except OSError as error:
        raise ConfigError(f"--grpc_socket_path {path}: {error.strerror}") from None
    if _is_live(path):
        raise ConfigError(f"--grpc_socket_path {path}: another server listens there: choose another path")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"--grpc_socket_path {path}: cannot remove the old socket: {error.strerror}") from None


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:  # full, or not ours to connect to: somebody is there
            return True
    return True
