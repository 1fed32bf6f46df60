"""Under what conditions figures were taken: the machine, the versions, the commit, the date, what else ran."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("numpy", "onnxruntime", "scikit-learn", "aiohttp", "uvloop")


def commit() -> str:
    """The checkout's commit, ``+`` if files of the server differ from it; ``BENCH_COMMIT`` outside a checkout."""
    if told := os.environ.get("BENCH_COMMIT"):
        return told
    short = _git("rev-parse", "--short", "HEAD")
    return f"{short or 'unknown'}{'+' if _git('status', '--porcelain', '--untracked-files=no', 'stfs') else ''}"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if not done.returncode else ""


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def conditions() -> dict[str, str]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES if _installed(name))
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": f"{processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}",
        "load of the machine": "{:.1f}, {:.1f}, {:.1f} (1, 5, 15 minutes, at the start)".format(*os.getloadavg()),
        "Python": f"{sys.version.split()[0]}, {versions}",
    }


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def pinned(environment: str) -> str:
    """What the peer's environment was made of, by its pins."""
    file = Path(__file__).parent / "pins" / f"{environment}.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line for line in lines if line and not line.startswith("#")), "")
