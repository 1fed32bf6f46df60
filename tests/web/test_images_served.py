"""Images uploaded to real servers, by curl and by Python's own HTTP client."""

import base64
import http.client
import json
import subprocess
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from images.pictures import encoded, exif, noise, png_head, smooth
from modelzoo import digits, save_estimator
from odd_estimators import write_odd
from onnx import TensorProto, helper
from running import SHARED_MODELS, Answer, basic_auth, environment, running
from simple_models import save, write_linear
from waiting import wait_until

pytestmark = pytest.mark.slow  # starts servers, imports TensorFlow

MAX_REQUEST_BYTES = 1 << 20


def identity(folder, kind, shape, name="x", **more):
    """``y`` is the input; inputs of ``more`` (float scalars) are answered as they are."""
    inputs = [helper.make_tensor_value_info(name, kind, shape)]
    inputs += [helper.make_tensor_value_info(other, TensorProto.FLOAT, []) for other in more]
    outputs = [helper.make_tensor_value_info("y", kind, shape)]
    outputs += [helper.make_tensor_value_info(f"{other}_out", TensorProto.FLOAT, []) for other in more]
    nodes = [helper.make_node("Identity", [name], ["y"])]
    nodes += [helper.make_node("Identity", [other], [f"{other}_out"]) for other in more]
    save(helper.make_graph(nodes, "identity", inputs, outputs), folder)


ECHO = """
class Model:
    signature = {
        "inputs": [{"name": "NAME", "dtype": "string", "shape": SHAPE}],
        "outputs": [{"name": "y", "dtype": "string", "shape": SHAPE}],
    }

    def __init__(self, folder):
        pass

    def predict(self, inputs):
        return {"y": inputs["NAME"]}
"""


def echo(folder, name, shape):
    """``y`` is the input, of strings."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(ECHO.replace("NAME", name).replace("SHAPE", repr(shape)))


MEAN = """
import time
from pathlib import Path

class Model:
    signature = {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3, 8, 8]}],
        "outputs": [{"name": "mean", "dtype": "float32", "shape": [None]}],
    }

    def __init__(self, folder):
        self.gate = Path(folder) / "gate"

    def predict(self, inputs):
        if (inputs["x"] == HELD).any():
            end = time.monotonic() + 60
            while not self.gate.exists() and time.monotonic() < end:
                time.sleep(0.005)
        return {"mean": inputs["x"].mean((1, 2, 3))}
"""
HELD = 77


def mean(folder):
    """``mean`` [n] of images; one of value ``HELD`` keeps the model busy until there is a file ``gate`` beside it."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MEAN.replace("HELD", str(HELD)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_models")
    identity(folder / "nhwc" / "1", TensorProto.UINT8, ["n", 16, 12, 3])
    identity(folder / "nchw" / "1", TensorProto.FLOAT, ["n", 3, 16, 12])
    identity(folder / "open" / "1", TensorProto.UINT8, ["n", "h", "w", "c"])
    identity(folder / "one" / "1", TensorProto.UINT8, [16, 12, 1])
    identity(folder / "flat" / "1", TensorProto.FLOAT, ["n", 192])
    identity(folder / "two" / "1", TensorProto.FLOAT, ["n", 16, 12, 3], keep_prob=1)
    echo(folder / "text" / "1", "images", [None])
    echo(folder / "raw" / "1", "image_bytes", [None, 1])
    mean(folder / "mean" / "1")
    write_linear(folder / "linear" / "1")
    write_odd(folder / "odd" / "1")
    return folder


@pytest.fixture(scope="module")
def server(folder):
    names = ("nhwc", "nchw", "open", "one", "flat", "two", "text", "raw", "mean", "linear", "odd")
    entries = [{"name": name, "base_path": str(folder / name)} for name in names]
    entries[1] |= {"image_scale": "1/255", "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    config = folder / "models.json"
    config.write_text(json.dumps({"model_config_list": entries}))
    with running(f"--model_config_file={config}", f"--max_request_bytes={MAX_REQUEST_BYTES}") as server:
        yield server


def form(*fields):
    """Content-Type and body; each field is a name and its text, or a name, the file's bytes and its name."""
    boundary = uuid.uuid4().hex
    body = b""
    for name, data, *filename in fields:
        told = f'; filename="{filename[0]}"' if filename else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode()
        body += (data if isinstance(data, bytes) else str(data).encode()) + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


def post(server, *fields, headers=None) -> Answer:
    content_type, body = form(*fields)
    return server.call("POST", "/", body, {"Content-Type": content_type, **(headers or {})})


def answer(server, *fields):
    got = post(server, *fields)
    assert got.status == 200, got.body
    return got.json


def curl(server, *arguments, cwd=None):
    """Status and answer."""
    command = ["curl", "-sS", "-X", "POST", *arguments, "-w", "\n%{http_code}", server.url.removeprefix("http://")]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def test_curl_as_in_the_documentation_of_old(server, tmp_path):
    pixels = noise(16, 12)
    (tmp_path / "mew.png").write_bytes(encoded(pixels))
    status, got = curl(server, "-F", "image=@mew.png", "-F", "model_name=nhwc", "-F", "model_version=1", cwd=tmp_path)
    assert status == 200
    np.testing.assert_array_equal(got["y"], pixels[None])


def test_pythons_own_client_and_the_same_answer_as_json(server):
    pixels = noise(16, 12)
    content_type, body = form(("model_name", "nhwc"), ("image", encoded(pixels), "a.png"))
    request = urllib.request.Request(server.url, body, {"Content-Type": content_type})
    with urllib.request.urlopen(request, timeout=60) as response:
        have = response.read()
        assert response.headers["X-Served-Model-Version"] == "1"
    assert have == server.post("/", {"model_name": "nhwc", "data": {"x": pixels[None].tolist()}}).body


def test_several_images_are_rows_of_one_request_in_their_order(server):
    pictures = [noise(16, 12, seed=seed) for seed in range(5)]
    fields = [("images", encoded(pixels), f"{at}.png") for at, pixels in enumerate(pictures)]
    np.testing.assert_array_equal(answer(server, ("model_name", "nhwc"), *fields)["y"], pictures)
    mixed = [("image", *fields[0][1:]), ("images[]", *fields[1][1:]), ("x", *fields[2][1:])]
    np.testing.assert_array_equal(answer(server, *mixed, ("model_name", "nhwc"))["y"], pictures[:3])


def test_channels_first_scaled_and_normalized_by_the_models_options(server):
    pixels = noise(16, 12)
    have = answer(server, ("model_name", "nchw"), ("image", encoded(pixels), "a.png"))["y"]
    wanted = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(have, wanted.transpose(2, 0, 1)[None], rtol=1e-6)


def test_other_sizes_are_resized_and_the_camera_is_turned(server):
    upright = smooth(64, 48)
    lying = encoded(np.ascontiguousarray(np.rot90(upright)), "JPEG", quality=95, exif=exif(6))
    have = np.array(answer(server, ("model_name", "nhwc"), ("image", lying, "a.jpg"))["y"][0], int)
    wanted = answer(server, ("model_name", "nhwc"), ("image", encoded(upright), "a.png"))["y"][0]
    assert np.abs(have - wanted).max() < 12


def test_what_the_signature_leaves_open_the_client_says(server):
    pixels = noise(16, 12)
    image = ("image", encoded(pixels), "a.png")
    have = answer(server, ("model_name", "open"), image, ("shape", "1,16,12,3"))
    np.testing.assert_array_equal(have["y"], pixels[None])
    grey = answer(server, ("model_name", "open"), image, ("shape", "8,6,1"), ("channel_layout", "L"))
    assert np.shape(grey["y"]) == (1, 8, 6, 1)
    turned = answer(server, ("model_name", "nhwc"), image, ("channel_layout", "BGR"))
    np.testing.assert_array_equal(turned["y"], pixels[None, ..., ::-1])
    flat = answer(server, ("model_name", "flat"), ("image", encoded(pixels[..., :1]), "a.png"), ("shape", "16,12"))
    np.testing.assert_array_equal(flat["y"], pixels[..., 0].reshape(1, -1))


def test_other_inputs_stand_in_data(server):
    pixels = noise(16, 12)
    have = answer(server, ("model_name", "two"), ("image", encoded(pixels), "a.png"), ("data", '{"keep_prob": 0.5}'))
    assert have["keep_prob_out"] == 0.5
    np.testing.assert_array_equal(have["y"], pixels[None])
    missing = post(server, ("model_name", "two"), ("image", encoded(pixels), "a.png"))
    assert (missing.status, 'input "keep_prob": missing' in missing.error) == (400, True)


def test_models_of_strings_get_base64_as_of_old_or_bytes_by_the_inputs_name_or_by_request(server):
    files = [encoded(noise(9, 9, seed=seed), kind) for seed, kind in enumerate(("PNG", "JPEG", "WEBP"))]
    fields = [("images", data, "f") for data in files]
    have = answer(server, ("model_name", "text"), *fields)["y"]
    assert have == [base64.urlsafe_b64encode(data).decode() for data in files]
    raw = answer(server, ("model_name", "raw"), *fields)["y"]
    assert [base64.b64decode(row[0]["b64"]) for row in raw] == files
    asked = answer(server, ("model_name", "text"), ("base64_decode", "true"), *fields)["y"]
    assert [base64.b64decode(row["b64"]) for row in asked] == files


GOOD = ("image", encoded(noise(16, 12)), "good.png")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ([("model_name", "nhwc")], "the form has no image"),
        ([("model_name", "nhwc"), ("image", b"", "")], "the form has no image"),
        ([("model_name", "nhwc"), GOOD, ("colour", "red")], 'the field "colour" is unknown here; known are image'),
        ([("model_name", "nhwc"), GOOD, ("model_version", "one")], "whole number"),
        ([("model_name", "nhwc"), GOOD, ("channel_layout", "L")], "takes 3 channels"),
        ([("model_name", "nhwc"), GOOD, ("shape", "20,20")], "the field shape says 20 for 16"),
        ([("model_name", "nhwc"), GOOD, ("picture", b"x", "p")], '"picture" is unknown'),
        ([("model_name", "nhwc"), GOOD, ("image", b"hello", "note.txt")], 'file "note.txt" is no image that is read'),
        ([("model_name", "text"), GOOD, ("image", b"hello", "note.txt")], 'file "note.txt" is no image that is read'),
        ([("model_name", "nhwc"), ("image", GOOD[1][:-200], "cut.png")], 'file "cut.png" is broken or cut short'),
        ([("model_name", "text"), ("image", GOOD[1][:-200], "cut.png")], 'file "cut.png" is broken or cut short'),
        ([("model_name", "nhwc"), ("image", png_head(10_000, 6_000), "b.png")], "over the limit of 50000000"),
        ([("model_name", "text"), ("image", png_head(10_000, 6_000), "b.png")], "over the limit of 50000000"),
        ([("model_name", "open"), GOOD], "image_layout"),
        ([("model_name", "open"), GOOD, ("shape", "600,600,3")], "send fewer at a time or raise --max_request_bytes"),
        ([("model_name", "one"), GOOD, GOOD], "takes 1 image at a time, and 2 were sent"),
        ([("model_name", "linear"), GOOD], "its shape [?, 3] does not tell height and width"),
        ([("model_name", "none"), GOOD], 'model "none"'),
        ([("model_name", "nhwc"), ("model_version", "7"), GOOD], "version 7"),
        ([("model_name", "nhwc"), ("signature_name", "other"), GOOD], "other"),
    ],
)
def test_what_is_wrong_is_told_and_the_next_request_is_served(server, fields, says):
    got = post(server, *fields)
    assert (got.status, says in got.error) == (400, True), got.body
    assert answer(server, ("model_name", "nhwc"), GOOD)


def test_a_form_that_is_broken_or_too_large_or_of_another_kind_is_refused(server):
    def call(body, content_type):
        return server.call("POST", "/", body, {"Content-Type": content_type})

    assert "names no boundary" in call(b"x", "multipart/form-data").error
    content_type, body = form(GOOD)
    assert "cut short" in call(body[:-10], content_type).error
    assert call(body, content_type.replace("form-data", "mixed")).status == 400
    large = call(form(("image", bytes(MAX_REQUEST_BYTES), "large"))[1], content_type)
    assert (large.status, "over the limit of 1048576 bytes" in large.error) == (413, True)


def test_the_other_protocols_take_no_forms(server):
    content_type, body = form(GOOD)
    for path in ("/v1/models/nhwc:predict", "/v2/models/nhwc/infer"):
        got = server.call("POST", path, body, {"Content-Type": content_type})
        assert got.status == 400, got.body


def test_a_form_that_arrives_in_pieces_is_read(server):
    content_type, body = form(("model_name", "nhwc"), GOOD)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    connection.request("POST", "/", pieces, {"Content-Type": content_type}, encode_chunked=True)
    response = connection.getresponse()
    assert response.status == 200
    np.testing.assert_array_equal(json.load(response)["y"], noise(16, 12)[None])
    connection.close()


def test_a_compressed_form_is_read(server):
    import gzip

    content_type, body = form(("model_name", "nhwc"), GOOD)
    got = server.call("POST", "/", gzip.compress(body), {"Content-Type": content_type, "Content-Encoding": "gzip"})
    assert got.status == 200


def test_images_sent_at_once_share_batches_and_each_gets_its_own_answer(server, folder):
    def one(value):
        return post(server, ("model_name", "mean"), ("image", encoded(np.full((8, 8, 3), value, np.uint8)), "a.png"))

    before = server.metric("stfs_batches_total", model="mean")
    values = list(range(10, 250, 10))
    with ThreadPoolExecutor(len(values) + 1) as pool:
        held = pool.submit(one, HELD)
        wait_until(lambda: server.metric("stfs_in_flight_rows", model="mean") == 1)
        answers = pool.map(one, values)
        wait_until(lambda: server.metric("stfs_queued_rows", model="mean") == len(values))
        (folder / "mean" / "1" / "gate").touch()
        assert [round(got.json["mean"][0]) for got in answers] == values
        assert held.result().json == {"mean": [HELD]}
    assert server.metric("stfs_batches_total", model="mean") - before <= 1 + len(values) // 2


def test_a_request_is_counted_and_told_where_its_time_went(server):
    labels = {"model": "nhwc", "dialect": "stfs"}
    before = server.metric("stfs_requests_total", **labels)
    got = post(server, ("model_name", "nhwc"), GOOD, headers={"X-Server-Timing": "1", "X-Request-Id": "r1"})
    assert got.headers["X-Request-Id"] == "r1"
    assert "decode;dur=" in got.headers["Server-Timing"]
    assert server.metric("stfs_requests_total", **labels) == before + 1


def test_a_deadline_that_passes_is_told(server):
    photo = encoded(smooth(1200, 1600), "JPEG")
    assert len(photo) < MAX_REQUEST_BYTES // 2
    late = post(server, ("model_name", "nhwc"), ("image", photo, "a.jpg"), headers={"X-Request-Timeout-Ms": "1"})
    assert (late.status, "deadline" in late.error) == (504, True)


def files_below(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("said", [[], ["--download_inference_images=true"], ["--download_inference_images=kept/here"]])
def test_nothing_is_written_unless_it_is_said_where(folder, tmp_path, said):
    files = [encoded(noise(16, 12, seed=1)), encoded(noise(16, 12, seed=2), "JPEG")]
    evil = [("image", data, "../../evil.png") for data in files]
    kept = tmp_path / "kept" / "here"
    said = [text.replace("kept/here", str(kept)) for text in said]
    with running(str(folder / "nhwc"), *said, env={"TMPDIR": str(tmp_path)}) as server:
        before = files_below(tmp_path)
        assert np.shape(answer(server, *evil)["y"]) == (2, 16, 12, 3)
        assert post(server, *evil, ("image", b"none", "none")).status == 400
        found = [path for path in files_below(tmp_path) if path not in before]
    if not any("kept" in text for text in said):
        assert found == []
        return
    assert {path.parent for path in found} == {kept}
    assert {path.read_bytes() for path in found} == set(files)
    assert {path.suffix for path in found} == {".png", ".jpg"}
    assert {path.stat().st_mode & 0o777 for path in found} == {0o600}


def test_limits_and_choices_are_options(folder):
    options = ["--max_image_pixels=150", "--image_resize=exact", "--image_channels=bgr"]
    who = basic_auth("ana", "secret")
    auth = ["--enable_auth", "--auth_username=ana", "--auth_password=secret"]
    with running(str(folder / "nhwc"), *options, *auth) as server:
        assert post(server, GOOD).status == 401
        got = post(server, GOOD, headers=who)
        assert "over the limit of 150: send it smaller or raise --max_image_pixels" in got.error
        small = post(server, ("image", encoded(noise(8, 8)), "s.png"), headers=who)
        assert 'file "s.png" has 8 by 8 pixels, and the model takes 16 by 12' in small.error


def test_front_processes_pass_forms_on(folder):
    with running(str(folder / "nhwc"), "--workers=2") as server:
        for _ in range(4):
            np.testing.assert_array_equal(answer(server, GOOD)["y"], noise(16, 12)[None])


def test_without_pillow_the_answer_says_what_to_install(folder, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'PIL' else find(name, *more)\n"
    )
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    with running(str(folder / "nhwc"), env={"PYTHONPATH": path}) as server:
        got = post(server, GOOD)
        assert (got.status, got.json["error"]) == (400, "Error, unsupported content type")
        assert 'pip install "stfs[images]"' in got.json["detail"]
        assert server.post("/", {"data": {"x": noise(16, 12)[None].tolist()}}).status == 200


def test_a_classifier_knows_the_same_digits_in_every_format(tmp_path):
    from sklearn.neighbors import KNeighborsClassifier

    rows, labels = digits()
    classifier = KNeighborsClassifier(3).fit(rows[200:], labels[200:])
    save_estimator(classifier, tmp_path / "digits")
    wanted = classifier.predict(rows[:40])
    assert np.mean(wanted == labels[:40]) > 0.8
    pictures = [np.rint(row.reshape(8, 8) / 16 * 255).astype(np.uint8)[..., None] for row in rows[:40]]
    with running(str(tmp_path / "digits"), "--image_scale=16/255") as server:
        for kind in ("PNG", "WEBP", "BMP", "GIF", "JPEG"):
            options = {"quality": 95} if kind == "JPEG" else {}
            files = [encoded(np.repeat(pixels, 3, 2), kind, **options) for pixels in pictures]
            got = answer(server, ("shape", "8,8"), *[("images", data, "digit") for data in files])
            same = np.mean(np.array(got["predict"]) == wanted)
            assert same >= (0.95 if kind == "JPEG" else 1), "a JPEG loses a little"


@pytest.mark.skipif(not (SHARED_MODELS / "deep_image_model").exists(), reason="the real image model is not here")
def test_the_image_model_of_old_by_curl_in_every_format(tmp_path):
    picture = smooth(32, 32)
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        (tmp_path / f"mew.{kind.lower()}").write_bytes(
            encoded(picture, kind, **({"quality": 95} if kind == "JPEG" else {}))
        )
    with running(f"--model_base_path={SHARED_MODELS / 'deep_image_model'}") as server:
        status, got = curl(server, "-F", "image=@mew.jpeg", "-F", "model_version=1", cwd=tmp_path)
        assert status == 200, got
        text = base64.urlsafe_b64encode((tmp_path / "mew.jpeg").read_bytes()).decode()
        assert server.post("/", {"model_name": "default", "data": {"images": [text]}}).json == got
        # The graph's own decoder reads PNG too, and sees nearly the same.
        for name in ("mew.png", "mew.gif"):
            status, other = curl(server, "-F", f"image=@{name}", cwd=tmp_path)
            assert (status, other.get("prediction")) == (200, got["prediction"]), other
        # BMP it does not, and says so; the server has passed the file on, since it is an image.
        status, refused = curl(server, "-F", "image=@mew.bmp", cwd=tmp_path)
        assert (status, "BMP" in refused["error"]) == (400, True), refused
        status, refused = curl(server, "-F", "image=@/dev/null;filename=none.jpg", cwd=tmp_path)
        assert (status, 'file "none.jpg" is no image' in refused["error"]) == (400, True)
