"""What holds for every test: frameworks and clients beside the server are looked for in the environment's own folder.

Nothing that tests use or make may lie in the user's folders. ``make test`` fills this one.
"""

import os
import sys
from pathlib import Path

from hypothesis import settings

os.environ.setdefault("STFS_HOME", str(Path(sys.prefix) / "stfs-home"))
os.environ.setdefault("STFS_TEST_KSERVE_PYTHON", str(Path(sys.prefix) / "kserve" / "bin" / "python"))

settings.register_profile("usual", deadline=None)
settings.register_profile("quick", max_examples=20, deadline=None)
"""For the fast loop: ``make check`` looks at fewer examples than ``make test``. No time is measured."""
settings.load_profile("usual")
