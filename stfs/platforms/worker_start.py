"""The first file that a worker process runs: makes this stfs importable there, and nothing else of the server's folder.

It is run by its path, by an interpreter that may be of another environment, whose own packages must come first and
whose Python may be too old. So it has to be valid in older Pythons, and imports only what comes with Python.

Arguments: the number of the control socket's descriptor, and a JSON object: ``parent`` is the server's process id,
``path`` the server's ``sys.path`` where the interpreter is the same, else null, ``cpus`` the cores that it is to keep
to, none for all.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

OLDEST = (3, 11)


def import_stfs(package: Path) -> None:
    """Import the package ``stfs`` that lies in the folder ``package``, whatever ``sys.path`` says."""
    spec = importlib.util.spec_from_file_location(
        "stfs", str(package / "__init__.py"), submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        sys.exit("stfs is not in " + str(package))
    module = importlib.util.module_from_spec(spec)
    sys.modules["stfs"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    if sys.version_info < OLDEST:
        needed, have = ".".join(map(str, OLDEST)), sys.version.split()[0]
        sys.exit("a worker process needs Python {} or newer, and {} is {}".format(needed, sys.executable, have))  # noqa: UP032
    told = json.loads(sys.argv[2])
    if told["cpus"]:
        # Before anything is imported: libraries count the cores once, and threads inherit where they may run.
        try:
            os.sched_setaffinity(0, told["cpus"])
        except OSError as error:
            sys.exit("it cannot keep to cores {}: {}".format(told["cpus"], error.strerror))
    here = Path(__file__).resolve().parent
    # A script's folder comes first in the path, and this one has a file for each framework, named like it.
    sys.path[:] = told["path"] or [entry for entry in sys.path if Path(entry).resolve() != here]
    import_stfs(here.parent)
    from stfs.platforms.worker_child import main

    main(int(sys.argv[1]), told["parent"])
