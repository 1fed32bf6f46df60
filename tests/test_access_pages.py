"""docs/authentication.md and docs/tls.md: options that they name exist; tests/test_pages.py runs their commands."""

import re

import pytest
from pages import DOCS, blocks, commands

from stfs.options import BY_NAME


@pytest.mark.parametrize("page", ["authentication.md", "tls.md"])
def test_options_exist(page):
    text = (DOCS / page).read_text()
    lines = [line for block in blocks(text, "console") for line, _ in commands(block.text)]
    serving = " ".join(line for line in lines if line.startswith("stfs serve "))
    for name in re.findall(r"--([a-z_]+)", serving + " ".join(re.findall(r"`(--[a-z_]+)", text))):
        assert name in BY_NAME or name == "ssl_config_file", name  # which is of tensorflow_model_server
    assert "curl" in "".join(lines)
