"""``benchmarks/serving/setup.py [NAME ...]``: an environment for each peer, from its pins, in ``build/peers``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

PINS = Path(__file__).parent / "pins"
ROOT = Path(__file__).resolve().parents[2]


def make(name: str, folder: Path) -> None:
    """Raises ``subprocess.CalledProcessError`` where pip fails; what is there already is brought up to its pins."""
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--requirement", str(PINS / f"{name}.txt")], check=True)


def main() -> None:
    known = sorted(file.stem for file in PINS.glob("*.txt"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all unless given")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "peers", help="where to make them (build/peers)"
    )
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"no peer {unknown[0]!r}; there are {', '.join(known)}")
    failed = []
    for name in args.names or known:
        try:
            make(name, args.folder / name)
            print(f"{name}: {args.folder / name}")
        except subprocess.CalledProcessError:
            failed.append(name)
    if failed:
        sys.exit(f"not made: {', '.join(failed)}")


if __name__ == "__main__":
    main()
