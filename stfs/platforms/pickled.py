"""Reading pickled estimators, and saying in one line what is wrong with those that cannot be read. Serves nothing.

A pickle runs code as it loads: whoever can write the model's folder can run code in the server. That is true of every
server that takes pickles; skops files are the safe kind.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed
from stfs.platforms.base import one_line

# scikit-learn writes its version beside each estimator's state, in every pickle protocol as the next string.
_VERSION = re.compile(rb"_sklearn_version.{1,16}?(\d+\.\d+(?:\.\d+)?(?:\.?(?:rc|dev|post|a|b)\d+)?)", re.DOTALL)
_READ_LIMIT_BYTES = 256 << 20

# warnings.catch_warnings swaps a table that belongs to the whole process; one load at a time may do so.
_warnings_lock = threading.Lock()


def load_pickle(path: Path) -> tuple[Any, list[warnings.WarningMessage]]:
    """The object in a joblib or pickle file, compressed or not, and the warnings that it gave.

    Blocking, one at a time in the process. Raises :class:`LoadFailed` with both versions of scikit-learn, where the
    file tells its own, because that is what most failures come down to; whatever else the pickle raises is its reason,
    and the cause of the error. Without joblib only plain pickles are read.
    """
    try:
        from joblib import load
    except ImportError:
        from pickle import load
    with _warnings_lock, warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        try:
            with path.open("rb") as file:
                return load(file), list(given)
        except Exception as error:  # a pickle may raise anything
            reason = one_line(error)
            if not isinstance(error, OSError):
                reason = f"{type(error).__name__}: {reason}"
            saved, here = saved_version(path), _version_here()
            if saved is None or here is None or saved == here:
                raise LoadFailed(f"{path}: does not unpickle: {reason}") from error
            raise LoadFailed(
                f"{path}: was saved by scikit-learn {saved}, and this is {here}, which cannot read it ({reason}): "
                f"install scikit-learn {saved}, or train and save the model again with {here}"
            ) from error


def saved_version(path: Path) -> str | None:
    """The version of scikit-learn that wrote the pickle at ``path``; ``None`` if it does not say. Never raises.

    Looks at the bytes, so that it can tell of pickles that no longer load.
    """
    match = _VERSION.search(content_of(path))
    return match.group(1).decode("ascii") if match else None


def content_of(path: Path) -> bytes:
    """The pickle itself, up to 256 MiB of the file, decompressed; empty if it cannot be read. Never raises."""
    try:
        with path.open("rb") as file:
            return _decompressed(file.read(_READ_LIMIT_BYTES))
    except OSError:
        return b""


def _version_here() -> str | None:
    try:
        import sklearn
    except ImportError:
        return None
    return str(sklearn.__version__)


def _decompressed(content: bytes) -> bytes:
    """What joblib's compressors wrote, empty if it is broken; ``content`` itself if it was none of them."""
    kinds = ((b"\x1f\x8b", gzip.decompress), (b"x", zlib.decompress), (b"BZh", bz2.decompress))
    lzmas = ((b"\xfd7zXZ", lzma.decompress), (b"]\x00", lzma.decompress))
    for magic, decompress in (*kinds, *lzmas):
        if content.startswith(magic):
            try:
                return decompress(content)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
                return b""
    return content
