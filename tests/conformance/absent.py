"""Loads a model where its framework cannot be imported: ``python -m conformance.absent PLATFORM MODEL``.

Prints the message of the :class:`PlatformMissing` that this must raise. ``$STFS_HOME`` names an empty folder.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from stfs import platforms
from stfs.errors import PlatformMissing
from stfs.platforms.base import LoadOptions

FRAMEWORKS = {
    *("catboost", "h2o", "joblib", "jpmml_evaluator", "jpype", "lightgbm", "onnx", "onnxruntime", "pyarrow"),
    *("sklearn", "tensorflow", "torch", "xgboost"),
}


class Nowhere:
    """Finds none of the frameworks, as if they had never been installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in FRAMEWORKS:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return None


def main(name: str, path: Path) -> None:
    sys.meta_path.insert(0, Nowhere())  # type: ignore[arg-type]
    try:
        platforms.find(name).load(path, LoadOptions())
    except PlatformMissing as error:
        print(error)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
