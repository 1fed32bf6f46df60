"""``python tests/in_parts.py``: every test, two folders of ``tests/`` at a time, each in a pytest of its own.

Most tests wait for servers that they have started, so one at a time leaves processors idle. What each pytest says comes
once it has ended, in one piece. The exit status is 1 if a part failed. Options are handed to every pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, SimpleQueue

TESTS = Path(__file__).parent
SIDE_BY_SIDE = 2
"""More would make tests that load a server with many clients fight for memory and time-outs."""

LONGEST = ("conformance", "platforms", "web", "clients", "front", "browser", "third_party", "batcher", "commands")
"""These folders begin first, so that none is left to itself at the end; the order changes no result."""

NO_TESTS = 5
"""How pytest ends where it found nothing to run."""


def parts() -> list[list[str]]:
    """Every folder with tests, and the files beside them in a few parts; each test belongs to one of these."""
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    first = [name for name in LONGEST if name in folders]
    files = sorted(path.name for path in TESTS.glob("test_*.py"))
    pages = [name for name in files if name.endswith(("_page.py", "_pages.py"))]
    rest = [name for name in files if name not in pages]
    half = len(rest) // 2
    small = sorted(folders - set(first))
    return [*([name] for name in first[:3]), pages, rest[:half], rest[half:], *([name] for name in first[3:]), small]


def main() -> int:
    """Run them all; returns the exit status."""
    waiting: SimpleQueue[list[str]] = SimpleQueue()
    for part in parts():
        waiting.put(part)
    failed: list[str] = []
    telling = threading.Lock()

    def work() -> None:
        while True:
            try:
                part = waiting.get_nowait()
            except Empty:
                return
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]
            started_s = time.monotonic()
            done = subprocess.run(
                [*command, *(str(TESTS / name) for name in part)],
                cwd=TESTS.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            with telling:
                print(f"\n=== {' '.join(part)}: {time.monotonic() - started_s:.0f} s", flush=True)
                os.write(sys.stdout.fileno(), done.stdout)
                if done.returncode not in (0, NO_TESTS):
                    failed.append(f"{' '.join(part)}: pytest ended with {done.returncode}")

    workers = [threading.Thread(target=work) for _ in range(SIDE_BY_SIDE)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("\n=== " + ("; ".join(failed) if failed else "all parts passed"), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
