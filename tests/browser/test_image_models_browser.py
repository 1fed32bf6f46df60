"""Image models as their users meet them: curl, the page, and generated clients that are given a file.

One model is the real one of old, which takes JPEG as strings and decodes it in its graph; the other takes numbers, so
the server decodes. The reference for the second is Pillow's pixels, run by onnxruntime without a server.
"""

import base64
import json
import re
import subprocess

import numpy as np
import onnxruntime
import pytest
from client_runners import require, run
from images.pictures import smooth
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from playwright.sync_api import expect
from running import SHARED_MODELS, running
from simple_models import save

from stfs.clients import languages

pytestmark = pytest.mark.slow  # imports TensorFlow, drives a browser

DEEP = SHARED_MODELS / "deep_image_model"
SIZE, CLASSES = 32, 10
KINDS = ("jpg", "png", "webp")


def write_classifier(folder):
    """``probability`` [n, 10] of images float32 [n, 3, 32, 32] between 0 and 1: a convolution, a mean, a softmax."""
    random = np.random.default_rng(7)
    weights = numpy_helper.from_array(random.normal(0, 0.3, (CLASSES, 3, 5, 5)).astype(np.float32), "weights")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixels", "weights"], ["seen"], strides=[2, 2]),
            helper.make_node("GlobalAveragePool", ["seen"], ["means"]),
            helper.make_node("Flatten", ["means"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probability"]),
        ],
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", CLASSES])],
        [weights],
    )
    return save(graph, folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder with the same picture in each format, under names that a shell and curl would stumble over."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind in KINDS:
        Image.fromarray(smooth(SIZE, SIZE)).save(folder / f"mew.{kind}", quality=90)
        (folder / f'it"s; a \\ $mew, é.{kind}').write_bytes((folder / f"mew.{kind}").read_bytes())
    return folder


@pytest.fixture(scope="module")
def image_server(tmp_path_factory):
    """The model that no name leads to is the real one, where it is there."""
    folder = tmp_path_factory.mktemp("image_models")
    write_classifier(folder / "classifier" / "1")
    entries = [{"name": "classifier", "base_path": str(folder / "classifier"), "image_scale": "1/255"}]
    if DEEP.exists():
        entries.insert(0, {"name": "default", "base_path": str(DEEP)})
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}") as server:
        server.classifier = onnxruntime.InferenceSession(folder / "classifier" / "1" / "model.onnx")
        yield server


def reference(server, file):
    """What the classifier makes of the pixels that Pillow reads."""
    pixels = np.asarray(Image.open(file).convert("RGB"), np.float32) / np.float32(255)
    return server.classifier.run(None, {"pixels": pixels.transpose(2, 0, 1)[None]})[0]


def deep_reference(server, file):
    """What the real model is answered with over JSON, as its own documentation has it."""
    if not DEEP.exists():
        pytest.skip("the real image model is not here")
    text = base64.urlsafe_b64encode(file.read_bytes()).decode()
    got = server.post("/", {"model_name": "default", "data": {"images": [text]}})
    assert got.status == 200, got.body
    assert len(got.json["prediction"]) == 1
    return got.json


def curl(server, folder, line):
    """Exactly the line of the documentation, at this server's port."""
    line = line.replace("127.0.0.1:8500", f"127.0.0.1:{server.port}")
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_curl_asks_the_model_of_old_in_the_words_of_old(image_server, pictures):
    wanted = deep_reference(image_server, pictures / "mew.jpg")
    (pictures / "images").mkdir()
    (pictures / "images" / "mew.jpg").write_bytes((pictures / "mew.jpg").read_bytes())
    line = """curl -X POST -F 'image=@./images/mew.jpg' -F "model_version=1" 127.0.0.1:8500"""
    assert curl(image_server, pictures, line) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_curl_asks_a_model_of_numbers(image_server, pictures, kind):
    line = f"curl -X POST -F 'image=@mew.{kind}' -F model_version=1 -F model_name=classifier 127.0.0.1:8500"
    got = curl(image_server, pictures, line)["probability"]
    np.testing.assert_allclose(got, reference(image_server, pictures / f"mew.{kind}"), rtol=1e-5)


@pytest.mark.parametrize("language", ["bash", "python", "javascript"])
def test_generated_clients_are_given_a_file(image_server, pictures, tmp_path, language):
    for model in ("classifier", "default"):
        if model == "default" and not DEEP.exists():
            continue
        source = image_server.get(f"/v1/models/{model}/gen_client?language={language}")
        assert source.status == 200, source.body
        assert b"photo.jpg" in source.body  # its head says how
        (tmp_path / languages.find(language).file).write_bytes(source.body)
        command = require(language).build(tmp_path)
        example = run(command, tmp_path, {})
        assert (example.returncode, example.stderr) == (0, "")
        for kind in KINDS if model == "classifier" else ("jpg",):
            file = pictures / f'it"s; a \\ $mew, é.{kind}'
            done = run([*command, str(file)], tmp_path, {})
            assert (done.returncode, done.stderr) == (0, "")
            answer = json.loads(done.stdout)
            if model == "classifier":
                np.testing.assert_allclose(answer["probability"], reference(image_server, file), rtol=1e-5)
            else:
                assert answer == deep_reference(image_server, file)
        (tmp_path / "note.txt").write_text("no picture")
        refused = run([*command, "note.txt"], tmp_path, {})
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "is no image that is read here" in refused.stderr
        absent = run([*command, "absent.jpg"], tmp_path, {})
        assert (absent.returncode > 0, absent.stdout) == (True, "")
        assert absent.stderr.count("\n") == 1


def choose(page, file):
    page.locator("#images-file").set_input_files(file)
    expect(page.locator("#images-preview")).to_have_attribute("alt", f"Preview of {file.name}")
    # It is drawn, and not only there.
    expect(page.locator("#images-preview")).to_have_js_property("naturalWidth", SIZE)
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#images-status .badge")).to_have_text(re.compile("^200"))


def test_the_page_asks_a_model_of_numbers(image_server, open_page, pictures):
    page = open_page(image_server.url + "/image_inference?model=classifier")
    for kind in KINDS:
        file = pictures / f"mew.{kind}"
        choose(page, file)
        wanted = reference(image_server, file)[0]
        order = np.argsort(-wanted)[:5]
        classes = page.locator("#images-classes li")
        expect(classes.locator(".name")).to_have_text([f"class {index}" for index in order])
        shown = [float(text.removesuffix(" %")) for text in classes.locator(".count").all_inner_texts()]
        np.testing.assert_allclose(shown, wanted[order] * 100, rtol=0.01, atol=0.01)


def test_the_page_asks_the_model_of_old(image_server, open_page, pictures):
    wanted = deep_reference(image_server, pictures / "mew.jpg")
    page = open_page(image_server.url + "/image_inference?model=default")
    choose(page, pictures / "mew.jpg")
    expect(page.locator("#images-classes li").first.locator(".name")).to_have_text(f"class {wanted['prediction'][0]}")
    assert json.loads(page.locator("#images-body").inner_text())["prediction"] == wanted["prediction"]
