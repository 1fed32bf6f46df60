"""The program of every language against models of every kind, for ``make test-clients``, which keeps what it sees.

What was run by what, and what could not be had and why, is written to ``build/clients-run.json``;
``docs/write_clients_run.py`` makes the table in the documentation of it. ``make test`` runs less of this elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import modelzoo
import pytest
from client_runners import RUNNERS, interpreter, lacking, require, run
from images.pictures import encoded, smooth
from onnx import TensorProto, helper
from running import SHARED_MODELS, running
from simple_models import save

from stfs.clients import languages

pytestmark = [
    pytest.mark.slow,  # starts a server, compiles
    pytest.mark.skipif("STFS_TEST_CLIENTS" not in os.environ, reason="make test-clients runs every language"),
]

RUN = Path(__file__).parents[2] / "build" / "clients-run.json"
LANGUAGES = [language.name for language in languages.LANGUAGES]
KINDS = ("scalar", "matrix", "string", "image")
IMAGES = """
class Model:
    signature = {
        "inputs": [{"name": "image_bytes", "dtype": "string", "shape": [None]}],
        "outputs": [{"name": "seen", "dtype": "string", "shape": [None]}],
    }

    def __init__(self, folder):
        pass

    def predict(self, inputs):
        return {"seen": inputs["image_bytes"]}
"""


def write_scalar(folder):
    """``y`` is ``-x``, a number without a shape."""
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "scalar",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    save(graph, folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with a model for each of ``KINDS``; that of images is the real one where it is there."""
    folder = tmp_path_factory.mktemp("served")
    write_scalar(folder / "scalar" / "1")
    modelzoo.onnx_mlp(folder / "matrix" / "1")
    modelzoo.onnx_strings(folder / "string" / "1")
    (folder / "image" / "1").mkdir(parents=True)
    (folder / "image" / "1" / "model.py").write_text(IMAGES)
    real = SHARED_MODELS / "deep_image_model"
    places = {kind: folder / kind for kind in KINDS} | ({"image": real} if real.exists() else {})
    entries = [{"name": kind, "base_path": str(place)} for kind, place in places.items()]
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}") as server:
        yield server


def uploaded(server, image):
    """The answer to a form with the file, sent by curl."""
    command = ["curl", "-sS", "--form", "image=@-;filename=x", "--form", "model_name=image", server.url]
    return json.loads(subprocess.run(command, input=image.read_bytes(), capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def told():
    """What has been run, to be kept at the end."""
    found = {language: {"by": "", "lacking": lacking(language), "models": {}} for language in LANGUAGES}
    yield found
    if all(one["models"] or one["lacking"] for one in found.values()):  # and not of a part of it
        RUN.parent.mkdir(exist_ok=True)
        RUN.write_text(json.dumps(found, indent=1) + "\n")


def test_every_language_tells_its_version():
    assert set(RUNNERS) == set(LANGUAGES)
    for language in LANGUAGES:
        assert lacking(language) or interpreter(language)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_program_is_answered(served, told, tmp_path, language, kind):
    runner = require(language)
    folder = tmp_path / f"{kind}-{language}"
    folder.mkdir()
    source = served.get(f"/v1/models/{kind}/gen_client?language={language}")
    assert source.status == 200, source.body
    (folder / languages.find(language).file).write_bytes(source.body)
    command = runner.build(folder)
    body = served.get(f"/v1/models/{kind}/gen_json").body
    wanted = served.post("/", body)
    assert wanted.status == 200, wanted.body
    done = run(command, folder, {})
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    seen = [kind]
    if language == "postman":
        (execution,) = json.loads((folder / "report.json").read_text())["run"]["executions"]
        assert json.loads(bytes(execution["response"]["stream"]["data"])) == wanted.json
    else:
        assert json.loads(done.stdout) == wanted.json
        if kind == "image":
            image = folder / 'a "mew", é;.jpg'
            image.write_bytes(encoded(smooth(32, 32), "JPEG"))
            form = uploaded(served, image)
            done = run([*command, str(image)], folder, {})
            assert (done.returncode, done.stderr) == (0, ""), done.stdout
            assert json.loads(done.stdout) == form
            absent = run([*command, "absent.jpg"], folder, {})
            assert absent.returncode > 0
            assert absent.stdout == ""
            assert absent.stderr != ""
            seen.append("image file")
    told[language]["by"] = interpreter(language)
    told[language]["models"] |= dict.fromkeys(seen, "answered")
