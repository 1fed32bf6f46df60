"""docs/images.md: its options and fields are those of the code; tests/test_pages.py runs its commands."""

import re

from pages import DOCS, blocks

from stfs.config import load
from stfs.images.options import ImageOptions
from stfs.options import BY_NAME
from stfs.protocols.stfs_form import IMAGE_FIELDS, TEXT_FIELDS

PAGE = (DOCS / "images.md").read_text()


def test_the_configuration_is_read_as_the_page_says(tmp_path):
    (block,) = blocks(PAGE, "json")
    (tmp_path / "models.json").write_text(block.text)
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
