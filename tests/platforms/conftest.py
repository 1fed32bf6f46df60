"""Makes ``tests/modelzoo.py`` importable, and gives the tests of this room what they share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

Python = Callable[..., str]


@pytest.fixture
def python() -> Python:
    """Runs code in a fresh interpreter that finds stfs and the zoo; returns what it printed."""

    def run(code: str, *arguments: object) -> str:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
