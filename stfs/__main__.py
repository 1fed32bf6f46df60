"""``python -m stfs``: the same as ``stfs``."""

from stfs.cli import main

main()
