"""Makes one example: ``python -m conformance.make ID FOLDER``, in a process that never imports stfs.

Writes the model into FOLDER/model, and its inputs and expected outputs into FOLDER/answers.pickle.
"""

import pickle
import sys
from pathlib import Path

from conformance.examples import EXAMPLES


def main(identifier: str, folder: Path) -> None:
    answers = EXAMPLES[identifier].write(folder / "model")
    assert "stfs" not in sys.modules, "the reference would not be independent"
    (folder / "answers.pickle").write_bytes(pickle.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
