"""Runs KServe's own client in an interpreter of its own, since it asks for other versions of what the server uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def told_by(program: str, address: str) -> dict[str, Any]:
    """The JSON that the Python text ``program`` prints, given ``address``. Skips where there is no kserve."""
    for python in (os.environ.get("STFS_TEST_KSERVE_PYTHON"), sys.executable):
        if not python or not Path(python).exists():
            continue
        if subprocess.run([python, "-c", "import kserve"], capture_output=True).returncode == 0:
            done = subprocess.run([python, "-c", program, address], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)
    pytest.skip("kserve is not installed: make test does so; STFS_TEST_KSERVE_PYTHON may name its interpreter")
