"""docs/images.md: its model is made by its own code, and every command and script on it is run against it."""

import json
import re
import shlex
import subprocess
import sys

import pytest
from running import TESTS, environment, running

from stfs.config import load
from stfs.images.options import ImageOptions
from stfs.options import BY_NAME
from stfs.protocols.stfs_form import IMAGE_FIELDS, TEXT_FIELDS

PAGE = (TESTS.parent / "docs" / "images.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow  # starts a server
def test_every_command_and_script_on_the_page(tmp_path):
    make, ask = blocks("python")
    script(make, tmp_path)
    (console,) = blocks("console")
    first, *commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", console, re.MULTILINE)
    assert first == ("stfs serve model.py", "")
    with running(str(tmp_path / "model.py")) as server:
        for line, shown in commands:
            assert shlex.split(line)[0] == "curl"
            local = line.replace("curl ", "curl -sS ").replace("127.0.0.1:8500", server.url.removeprefix("http://"))
            assert local.endswith(str(server.port))
            done = subprocess.run(["bash", "-c", local], cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == json.loads(shown), line
        assert len(commands) == 4
        pytest.importorskip("requests")
        script(ask.replace("http://127.0.0.1:8500", server.url), tmp_path)


def script(source, folder):
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_configuration_is_read_as_the_page_says(tmp_path):
    (text,) = blocks("json")
    (tmp_path / "models.json").write_text(text)
    config = load([f"--model_config_file={tmp_path / 'models.json'}"], {}, prog="stfs", positional=False)
    assert config.models[0].images == ImageOptions(
        scale=1 / 255, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="crop"
    )


def test_the_page_tells_every_field_and_option_with_its_default():
    for field in (*IMAGE_FIELDS, *TEXT_FIELDS):
        assert f"`{field}`" in PAGE, field
    for name in [name for name in BY_NAME if name.startswith("image_")]:
        assert f"`{name}`" in PAGE, name
    rows = dict(re.findall(r"^\| `(image_\w+)` \| (\S+) \|", PAGE, re.MULTILINE))
    assert rows == {name: BY_NAME[name].default for name in rows}
    assert len(rows) == 4
    assert f"{int(BY_NAME['max_image_pixels'].default):,}" in PAGE


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (TESTS.parent / "docs" / target).exists(), target
