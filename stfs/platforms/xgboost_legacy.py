"""Models that only an older XGBoost reads, made into JSON once and kept. Serves nothing.

XGBoost 3.1 dropped the binary form of the releases before, and pickles up to 1.5 hold it. Release 3.0.5 reads them all
and stands beside the server (``stfs platforms install xgboost-legacy``); it runs in a process of its own, for two
XGBoosts cannot live in one. Models are not served with it: it misreads the files of later releases.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from stfs.errors import LoadFailed
from stfs.platforms import beside
from stfs.platforms.base import one_line
from stfs.platforms.pickle_owner import PICKLES
from stfs.platforms.pickled import content_of

NAME = "xgboost-legacy"
COMMAND = f"stfs platforms install {NAME}"
CONVERTER = Path(__file__).with_name("xgboost_convert.py")
LIMIT_S = 600.0

# Part of the name of what is kept: count up when the converter learns to keep more of a model.
_EDITION = 1
_UBJ_VERSION = re.compile(rb"L\0{7}\x07version\[")


def may_read(error: BaseException | None, file: Path) -> bool:
    """Whether a pickle that failed with ``error`` is of the kind that is converted."""
    if error is None or _UBJ_VERSION.search(content_of(file)):
        return False
    gone = ("XGBoostLabelEncoder", "sklearn.preprocessing.label")
    return type(error).__name__ == "XGBoostError" or any(name in str(error) for name in gone)


def convert(file: Path) -> bytes:
    """The model in ``file`` as XGBoost JSON; from the cache if these very bytes have been converted before.

    Blocking, seconds the first time. A pickle is loaded, so its code runs, in the process that converts. What a
    scikit-learn wrapper knows beside its booster is in the attribute ``scikit_learn``. Raises :class:`LoadFailed`.
    """
    content = file.read_bytes()
    kept = cache() / f"{hashlib.sha256(content).hexdigest()}-{_EDITION}.json"
    with suppress(OSError):
        return kept.read_bytes()
    folder = beside.folder(NAME)
    if not (folder / "xgboost").is_dir():
        form = (
            "a pickle of a release before 1.6" if file.suffix in PICKLES else "the binary form of releases before 3.1"
        )
        raise LoadFailed(f"{file}: is {form}, which XGBoost cannot read any more: run {COMMAND} to have it converted")
    with tempfile.TemporaryDirectory(prefix="stfs-xgboost-") as scratch:
        made = Path(scratch) / "model.json"
        _run(folder, file, made)
        converted = made.read_bytes()
    with suppress(OSError):  # a home that cannot be written costs a conversion at every start
        _keep(converted, kept)
    return converted


def cache() -> Path:
    """Where converted models are kept: ``stfs/xgboost`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    told = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(told) if Path(told).is_absolute() else Path("~/.cache").expanduser()) / "stfs" / "xgboost"


def _run(folder: Path, file: Path, made: Path) -> None:
    # -P, for the converter lies among adapters that are called like the frameworks they import.
    command = [sys.executable, "-P", str(CONVERTER), str(folder), str(file), str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"{file}: its conversion took more than {LIMIT_S:.0f} s") from error
    if done.returncode or not made.is_file():
        lines = done.stderr.strip().splitlines()
        reason = one_line(lines[-1]) if lines else f"the converter ended with status {done.returncode}"
        raise LoadFailed(f"{file}: cannot be converted by the XGBoost of {folder}: {reason}")


def _keep(content: bytes, kept: Path) -> None:
    """Whole or not at all: another server may be reading there."""
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.NamedTemporaryFile(dir=kept.parent, prefix=".", delete=False) as part:
        part.write(content)
    Path(part.name).replace(kept)
