"""The examples, each made once a run by a process of its own; skipped, with the reason, where it cannot be."""

import importlib.util
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conformance.examples import EXAMPLES, SHARED_MODELS, Example
from running import environment

from stfs.commands import survey

MAKE_LIMIT_S = 280.0  # below the limit of a test; H2O starts a cluster for it


@dataclass(frozen=True)
class Made:
    """An example on disk. ``path`` is what is served; ``inputs`` and ``expected`` belong together row by row."""

    identifier: str
    example: Example
    path: Path
    answers: Path
    inputs: dict[str, Any]
    expected: dict[str, Any]

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: Any) -> dict[str, Any]:
        """The inputs of these rows, an index array or a slice."""
        return {name: values[rows] for name, values in self.inputs.items()}


def why_not(identifier: str) -> str:
    """Why the example cannot be used here; empty if it can."""
    example = EXAMPLES[identifier]
    status = next((status for status in survey.survey() if status.name == example.platform), None)
    if status is None:
        return f"there is no platform {example.platform}"
    if not status.installed:
        return f"{example.platform} is not installed: {status.install}"
    if example.shared and not (SHARED_MODELS / example.shared).is_dir():
        return f"the real model {example.shared} is not beside the checkout"
    absent = [name for name in example.needs if importlib.util.find_spec(name) is None]
    return f"making the model needs {', '.join(absent)}" if absent else ""


class Workshop:
    """Makes each example the first time it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Made] = {}

    def make(self, identifier: str) -> Made:
        """The example, made; skips the test if that cannot be."""
        if reason := why_not(identifier):
            pytest.skip(reason)
        if identifier not in self._made:
            folder = self._folder / identifier
            folder.mkdir()
            done = subprocess.run(
                [sys.executable, "-m", "conformance.make", identifier, str(folder)],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=MAKE_LIMIT_S,
            )
            assert done.returncode == 0, done.stderr
            answers = folder / "answers.pickle"
            inputs, expected = pickle.loads(answers.read_bytes())
            self._made[identifier] = Made(identifier, EXAMPLES[identifier], folder / "model", answers, inputs, expected)
        return self._made[identifier]


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session", params=sorted(EXAMPLES))
def made(request, workshop) -> Made:
    return workshop.make(request.param)
