"""docs/platforms: each page's model is made as the page says, served by its command, and answers as the page shows.

Where a page makes no model (its framework wants another Python, or a cluster), the platform's example of the
conformance suite stands in. Numbers are compared to two decimals: a library's next release may grow other trees.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.conftest import Workshop, why_not
from conformance.mixed import listed
from pages import DOCS, blocks, commands
from running import environment, running

from stfs import platforms
from stfs.platforms import catalog

PAGES = DOCS / "platforms"
MAKE_LIMIT_S = 200.0
SERVED = {"mxnet": "mxnet_mlp", "caffe2": "lenet", "spark": "lr_model"}
"""Folders that pages serve; elsewhere the page serves one file."""


def asked_and_shown(page: str) -> list[tuple[list[str], str]]:
    """The commands of the page's one console block as arguments, each with what the page shows of its output."""
    (console,) = blocks(page, "console")
    return [(shlex.split(line), printed) for line, printed in commands(console.text)]


def assert_like(answer: Any, shown: Any) -> None:
    """The same names, text and shapes; numbers to two decimals."""
    assert set(answer) == set(shown)
    for name, want in shown.items():
        have = answer[name]
        assert np.shape(have) == np.shape(want), name
        if np.array(want).dtype.kind == "f":
            np.testing.assert_allclose(np.array(have, float), np.array(want, float), atol=0.005, err_msg=name)
        else:
            assert have == want, name


@pytest.fixture(scope="session")
def page_workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("pages"))


def write_model(name: str, page: str, served: str, folder: Path, workshop: Workshop) -> None:
    """Puts what the page serves into ``folder``: by the page's own code, or else the suite's example."""
    if source := blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-c", source[0].text],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=MAKE_LIMIT_S,
        )
        assert done.returncode == 0, done.stderr
        return
    made = workshop.make(name)
    if name in SERVED:
        shutil.copytree(made.path, folder / served)
    else:
        shutil.copyfile(made.path / made.example.file, folder / served)
    row = {key: listed(values[:1]) for key, values in made.inputs.items()}
    (folder / "digit.json").write_text(json.dumps({"data": row}))


@pytest.mark.slow  # imports every framework, starts a server for each
@pytest.mark.parametrize("name", sorted(catalog.FACTS))
def test_a_page_is_true(name, tmp_path, page_workshop, monkeypatch):
    if reason := why_not(name):
        pytest.skip(reason)
    page = (PAGES / f"{name}.md").read_text()
    (serve, _), *asked = asked_and_shown(page)
    assert serve[:2] == ["stfs", "serve"]
    write_model(name, page, serve[2], tmp_path, page_workshop)
    monkeypatch.chdir(tmp_path)
    with running(*serve[2:]) as server:
        assert server.get("/v1/models/default").json["platform"] == name
        for argv, printed in asked:
            body = argv[argv.index("-d") + 1]
            answer = server.post("/", (tmp_path / body[1:]).read_text() if body.startswith("@") else body)
            assert answer.status == 200, answer.body
            assert_like(answer.json, json.loads(printed))


def test_every_platform_has_a_page_that_names_its_command():
    listed = (PAGES / "README.md").read_text()
    for name, facts in catalog.FACTS.items():
        page = (PAGES / f"{name}.md").read_text()
        assert page.startswith(f"# {facts.title}\n")
        assert f"[{facts.title}]({name}.md)" in listed
        if command := catalog.install_command(platforms.find(name)):
            assert f"`{command}`" in page, name
            assert f"`{command}`" in listed, name
