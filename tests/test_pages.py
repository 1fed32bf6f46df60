"""The documentation: every block of code on every page is run by a test, and the site builds without a warning."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pages import DOCS, ROOT, Block, Reader, blocks, commands, is_like, links
from running import TESTS
from simple_models import write_linear

from stfs.options import BY_NAME

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
FRONT = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md"]

ELSEWHERE = {
    "docs/platforms/adding-a-platform.md": "third_party/test_adding_a_platform.py",
    "docs/platforms/": "test_platform_pages.py",
    "docs/protocols/": "test_protocol_pages.py",
    "docs/metrics.md": "web/test_metrics_served.py",
    "docs/tools.md": "test_tools_page.py",
    "docs/languages.md": "clients/test_languages_page.py",
}
"""Pages that need more than is done here, and the tests that run them. The first that fits counts."""

NOT_RUN = Counter(
    {
        "README.md": 5,
        "CONTRIBUTING.md": 1,
        "docs/start.md": 1,
        "docs/gpu.md": 5,
        "docs/containers.md": 3,
        "docs/tensorflow-model-server.md": 1,
    }
)
"""How many blocks of a page are not run, each with a reason above it. More need a change here, which is seen."""

TENSORFLOW = {"docs/start.md", "docs/gpu.md", "docs/custom-ops.md"}
NEEDED = {"docs/images.md": ("PIL", "requests"), **dict.fromkeys(TENSORFLOW, ("tensorflow",))}
RUNNABLE = {"console", "bash", "sh", "shell", "python", "json", "cpp"}
TOLD_BY_WORDS = {"", "toml", "yaml", "text", "{toctree}"}
"""Not run here: configuration of others, outlines of answers, the order of pages."""


def elsewhere(page: str) -> str | None:
    return next((test for start, test in ELSEWHERE.items() if page.startswith(start)), None)


HERE = [page for page in PAGES if elsewhere(page) is None]


@pytest.mark.slow  # starts servers
@pytest.mark.parametrize("page", [page for page in HERE if blocks(ROOT / page)])
def test_what_a_page_says_is_so(page, tmp_path):
    for module in NEEDED.get(page, ()):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    write_linear(tmp_path)
    with Reader(tmp_path) as reader:
        for block in blocks(ROOT / page):
            try:
                reader.do(block)
            except AssertionError as error:
                raise AssertionError(f"{page}:{block.line}: {error}") from error


@pytest.mark.slow  # trains the demo's models, starts a server
def test_what_the_readme_says_is_so(tmp_path):
    for module in ("onnx", "onnxruntime", "sklearn"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    demo = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "make_demo_models.py"), "build/demo"]
    subprocess.run(demo, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    with Reader(tmp_path) as reader:
        reader.serve(["--model_config_file=build/demo/models.json"])
        for block in blocks(ROOT / "README.md"):
            reader.do(block)
        assert reader.ran == 2


@pytest.mark.parametrize("page", [*HERE, "README.md", "CONTRIBUTING.md"])
def test_what_is_not_run_is_counted_and_everything_else_is_of_a_kind_that_is(page):
    found = blocks(ROOT / page)
    assert {block.language for block in found} <= RUNNABLE | TOLD_BY_WORDS
    assert sum(bool(block.not_run) for block in found) == NOT_RUN[page]
    for block in found:
        assert block.language != "bash", f"line {block.line}: write it as console, which is run"
        assert block.not_run or block.language != "" or "$ " not in block.text, f"line {block.line}"
        assert not (block.language == "cpp" and not block.file and not block.not_run), f"line {block.line}"


def test_pages_that_are_run_elsewhere_are():
    for start, test in ELSEWHERE.items():
        assert any(page.startswith(start) for page in PAGES), start
        source = (TESTS / test).read_text()
        assert all(part in source for part in start.removeprefix("docs/").rstrip("/").split("/")[:1]), test


@pytest.mark.parametrize("page", [*PAGES, *FRONT])
def test_links_and_options_exist(page):
    file = ROOT / page
    for target in links(file):
        assert (file.parent / target).exists(), target
    for block in blocks(file, "console"):
        for line, _ in commands(block.text):
            if line.startswith("stfs serve "):
                names = [word[2:].partition("=")[0] for word in line.split() if word.startswith("--")]
                assert [name for name in names if name not in BY_NAME and name != "help"] == [], line


@pytest.mark.slow  # reads and writes all pages
def test_the_site_builds_without_a_warning(tmp_path):
    """Links and anchors that lead nowhere are warnings, and so are pages that no list has."""
    for module in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(module, reason='the site\'s generator is not installed: pip install "stfs[site]"')
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "cache", DOCS, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert (done.returncode, done.stderr) == (0, "")
    built = {path.relative_to(tmp_path).with_suffix("").as_posix() for path in tmp_path.rglob("*.html")}
    assert built >= {Path(page).relative_to("docs").with_suffix("").as_posix() for page in PAGES}
    for path in tmp_path.rglob("*.html"):
        assert_nothing_from_elsewhere(path.read_text())
    assert "Rooms" in (tmp_path / "architecture.html").read_text()


def assert_nothing_from_elsewhere(html: str) -> None:
    for part in ("src=", 'rel="stylesheet" type="text/css" href='):
        for rest in html.split(part)[1:]:
            assert not rest.lstrip("\"'").startswith(("http", "//")), rest[:200]


def test_pictures_are_small_and_shown():
    shown = {(ROOT / page).parent.joinpath(target).resolve() for page in PAGES for target in links(ROOT / page)}
    pictures = sorted((DOCS / "images").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture.name
        assert picture.resolve() in shown, f"{picture.name}: no page shows it"


PAGE = """# A page

<!-- file: a.json -->
```json
{"a": 1}
```

<!-- not run: it costs money -->
```console
$ buy
```

```console
$ echo '{"b":
 2}'
{"b": 2}
$ cat a.json; echo one  two
{...1} one two
```
"""


def test_a_page_taken_apart():
    file, paid, console = blocks(PAGE)
    assert file == Block("json", '{"a": 1}\n', 4, file="a.json")
    assert (paid.not_run, paid.line) == ("it costs money", 9)
    assert list(commands(console.text)) == [
        ("echo '{\"b\":\n 2}'", '{"b": 2}\n'),
        ("cat a.json; echo one  two", "{...1} one two\n"),
    ]


def test_a_page_read(tmp_path):
    with Reader(tmp_path) as reader:
        for block in blocks(PAGE):
            reader.do(block)
        assert reader.ran == 2
        with pytest.raises(AssertionError, match="instead of"):
            reader.do(Block("console", "$ echo 1\n2\n", 1))
        with pytest.raises(AssertionError, match="oh"):
            reader.do(Block("python", "raise SystemExit('oh')", 1))


def test_likeness():
    assert is_like('{"a": [1.0]}', '{"a":[1.0]}')
    assert not is_like('{"a": [1.0]}', '{"a":[2.0]}')
    assert is_like("a  b\n", "a b")
    assert is_like("Server-Timing: x;dur=1", "Server-Timing: ...")
    assert not is_like("Else: x", "Server-Timing: ...")
