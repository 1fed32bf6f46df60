"""docs/languages.md: the program of each language is run, as it stands, against a server."""

import importlib.util
import json

import pytest
from client_runners import require, run
from pages import DOCS, blocks
from running import running
from simple_models import write_linear

from stfs.clients import languages

PROGRAMS = {block.language: block.text for block in blocks(DOCS / "languages.md")}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linear")
    write_linear(folder / "1")
    with running(str(folder)) as server:
        yield server


def test_the_page_has_the_languages_of_the_clients_and_names_the_others():
    names = {language.name for language in languages.LANGUAGES}
    assert set(PROGRAMS) <= names
    assert len(PROGRAMS) == 10
    named = {
        "csharp": "C#",
        "cpp": "C++",
        "java": "Java",
        "postman": "Postman",
        "rust": "Rust",
        "typescript": "TypeScript",
    }
    assert names - set(PROGRAMS) == set(named)
    page = (DOCS / "languages.md").read_text()
    assert f"({', '.join(named.values())})" in page


def test_the_table_of_what_was_run_has_every_language_and_a_reason_for_each_gap():
    spec = importlib.util.spec_from_file_location("write_clients_run", DOCS / "write_clients_run.py")
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    page = (DOCS / "languages.md").read_text()
    rows = page.split(writer.BEGIN)[1].split(writer.END)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows.strip().splitlines()]
    assert cells[0] == ["language", "run by", *writer.KINDS.values()]
    found = {name: (by, told) for name, by, *told in cells[2:]}
    assert list(found) == [language.name for language in languages.LANGUAGES]
    for name, (by, told) in found.items():
        if by.startswith("not to be had:"):
            assert not any(told)
        else:
            # Postman's collection is changed by hand to send a file.
            assert told == ["answered"] * 4 + ["" if name == "postman" else "answered"], name
            assert any(character.isdigit() for character in by)
    run = {
        name: {"by": by, "lacking": "", "models": dict(zip(writer.KINDS, told, strict=True))}
        for name, (by, told) in found.items()
    }
    assert writer.put(page, writer.table(run)) == page
    lacking = {"cobol": {"by": "", "lacking": "cobc", "models": {}}}
    assert "| cobol | not to be had: `cobc` fails |  |" in writer.table(lacking)


@pytest.mark.slow  # starts a server, compiles
@pytest.mark.parametrize("language", sorted(PROGRAMS))
def test_a_program_prints_the_answer(server, tmp_path, language):
    runner = require(language)
    source = PROGRAMS[language].replace("127.0.0.1:8500", f"127.0.0.1:{server.port}")
    assert source != PROGRAMS[language]
    (tmp_path / languages.find(language).file).write_text(source)
    done = run(runner.build(tmp_path), tmp_path, {})
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"y": [[2.0, 4.0, 6.0]]}
