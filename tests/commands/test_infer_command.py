"""``stfs infer``: every form of body gives the same answer with and without a server; refusals and statuses."""

import json

import pytest
from certificates import authority
from running import run_cli, running
from simple_models import write_linear, write_many

from stfs.commands import bodies

pytestmark = pytest.mark.slow  # starts processes

FORMS = {
    '{"data": {"x": [[1, 2, 3]]}}': {"y": [[2.0, 4.0, 6.0]]},
    "[[1, 2, 3]]": {"y": [[2.0, 4.0, 6.0]]},
    '{"x": [[1, 2, 3]]}': {"y": [[2.0, 4.0, 6.0]]},
    '{"instances": [[1, 2, 3]]}': {"predictions": [[2.0, 4.0, 6.0]]},
    '{"inputs": {"x": [[1, 2, 3]]}}': {"outputs": [[2.0, 4.0, 6.0]]},
    '{"signature_name": "serving_default", "instances": [{"x": [1, 2, 3]}]}': {"predictions": [[2.0, 4.0, 6.0]]},
}
OIP = '{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'
OIP_OUTPUTS = [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 4.0, 6.0]}]


def told(*argv, env=None):
    done = run_cli("infer", *argv, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return json.loads(done.stdout)


def refused(*argv, status, env=None):
    done = run_cli("infer", *argv, env=env)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("stfs infer: error: ")
    return line


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return write_linear(tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def server(linear):
    with running(str(linear), "--model_name=lin") as one:
        yield one


@pytest.mark.parametrize("body", FORMS)
def test_every_form_without_a_server_and_on_one(body, linear, server):
    assert told(str(linear), "--data", body) == FORMS[body]
    assert told(server.url, "--model_name=lin", "--data", body) == FORMS[body]


def test_the_open_inference_protocol(linear, server):
    assert told(str(linear), "--data", OIP)["outputs"] == OIP_OUTPUTS
    for url in ("/v2/models/lin", "/v2/models/lin/infer", "/v2/models/lin/versions/1", "/v1/models/lin"):
        assert told(server.url + url, "--data", OIP)["outputs"] == OIP_OUTPUTS


@pytest.mark.parametrize("path", ["/v1/models/lin", "/v1/models/lin/versions/1", "/v1/models/lin:predict", "/"])
def test_an_address_in_every_form(server, path):
    body = '{"inputs": [[1, 2, 3]]}'
    name = () if "lin" in path else ("--model_name=lin",)
    assert told(server.url + path, *name, "--data", body) == {"outputs": [[2.0, 4.0, 6.0]]}


def test_the_name_in_an_address_reaches_bodies_that_go_to_the_root(server):
    assert told(f"{server.url}/v1/models/lin", "--data", '{"data": [[1, 2, 3]]}') == {"y": [[2.0, 4.0, 6.0]]}
    line = refused(f"{server.url}/v1/models/none", "--data", '{"data": [[1, 2, 3]]}', status=1)
    assert "none" in line


def test_data_of_a_file_and_of_standard_input_and_a_document_of_json(linear, tmp_path):
    (tmp_path / "body").write_text("[[1, 2, 3]]")
    answer = told(str(linear), "--data", f"@{tmp_path / 'body'}", "--json")
    assert (answer["status"], answer["answer"]) == (200, {"y": [[2.0, 4.0, 6.0]]})
    assert answer["seconds"] > 0
    assert "cannot read" in refused(str(linear), "--data", f"@{tmp_path / 'absent'}", status=2)


def test_without_data_a_request_is_made_up_that_fits(tmp_path, server):
    write_many(tmp_path)
    assert set(told(str(tmp_path))) == {f"{name}_out" for name in ("whole", "long", "flag", "text", "real")}
    made = told(f"{server.url}/v1/models/lin")
    assert len(made["y"][0]) == 3
    with running(str(tmp_path)) as many:
        for dialect in ("stfs", "tfserving", "oip"):
            answer = told(many.url, "--dialect", dialect, "--json")["answer"]
            read = bodies.read_answer(dialect, json.dumps(answer).encode())
            assert read["text_out"] == ["text"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"data": {"x": [[1, 2]]}}', "shape [1, 2] does not match [?, 3]"),
        ('{"data": ', "malformed JSON at byte"),
        ('{"model_name": "other", "data": [[1, 2, 3]]}', "other"),
        ('{"signature_name": "none", "instances": [[1, 2, 3]]}', "none"),
    ],
)
def test_what_is_refused_ends_with_status_1_and_one_line(body, said, linear, server):
    assert said in refused(str(linear), "--data", body, status=1)
    assert said in refused(f"{server.url}/v1/models/lin", "--data", body, status=1)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "say what to ask"),
        (["nowhere"], "there is no nowhere"),
        (["http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
        (["http://"], "no address of a server"),
        (["http://me:secret@127.0.0.1:1"], "credentials do not belong into an address"),
        (["http://127.0.0.1:1/v1/models/a", "--model_name=b"], "the address says model a"),
        (["http://127.0.0.1:1", "--threads=2"], "not understood: --threads=2"),
        (["http://127.0.0.1:1", "--header", "nonsense"], "expected NAME: VALUE"),
    ],
)
def test_wrong_arguments_end_with_status_2(argv, said):
    assert said in refused(*argv, status=2)


def test_credentials_and_certificates(linear, tmp_path):
    signer = authority(tmp_path)
    pair = signer.sign("server")
    flags = ("--enable_ssl", f"--secret_pem={pair.pem}", f"--secret_key={pair.key}")
    with running(str(linear), *flags, "--enable_auth", "--auth_password=right") as server:
        ask = (server.url, "--data", "[[1, 2, 3]]")
        known = {"STFS_AUTH_USERNAME": "admin", "STFS_AUTH_PASSWORD": "right"}
        trust = ("--ca_file", str(signer.pair.pem))
        assert told(*ask, *trust, env=known) == {"y": [[2.0, 4.0, 6.0]]}
        assert told(*ask, "--insecure", env=known) == {"y": [[2.0, 4.0, 6.0]]}
        assert "certificate" in refused(*ask, status=2, env=known)
        assert "STFS_AUTH_USERNAME" in refused(*ask, *trust, status=1)


def test_an_image_reaches_a_server_as_a_form(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    Image.new("RGB", (2, 2), (7, 8, 9)).save(tmp_path / "small.png")
    (tmp_path / "model.py").write_text(
        "class Model:\n"
        "    signature = {'inputs': [{'name': 'pixels', 'dtype': 'uint8', 'shape': [None, 2, 2, 3]}],\n"
        "                 'outputs': [{'name': 'seen', 'dtype': 'uint8', 'shape': [None, 2, 2, 3]}]}\n"
        "    def __init__(self, folder): pass\n"
        "    def predict(self, inputs): return {'seen': inputs['pixels']}\n"
    )
    picture = str(tmp_path / "small.png")
    with running(str(tmp_path / "model.py"), "--model_name=eye") as server:
        assert told(f"{server.url}/v1/models/eye", "--image", picture) == {"seen": [[[[7, 8, 9]] * 2] * 2]}
    assert "a server" in refused(str(tmp_path / "model.py"), "--image", picture, status=2)
