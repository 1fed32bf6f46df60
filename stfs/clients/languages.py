"""Every language that clients are made in, once: its names, its file, how it writes texts and the body. Pure.

A new language is an entry here, a template beside the others, and a way to run it in ``tests/clients``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stfs.clients import literals
from stfs.clients.literals import Escape, Style, json_pieces, quoted
from stfs.errors import InvalidRequest

Body = Callable[[Mapping[str, Any]], str]
"""From the body of a request to an expression of the language that gives it, or the JSON text of it."""


@dataclass(frozen=True, slots=True)
class Language:
    """``file`` is what the program is best called; ``body`` and ``escape`` write the only data that is put into it."""

    name: str
    aliases: tuple[str, ...]
    file: str
    escape: Escape
    body: Body


def find(name: str) -> Language:
    """The language of that name or alias, in any case. Raises :class:`InvalidRequest` that lists them."""
    wanted = name.strip().lower()
    for language in LANGUAGES:
        if wanted == language.name or wanted in language.aliases:
            return language
    raise InvalidRequest(f'no client in "{name[:100]}": there are {", ".join(one.name for one in LANGUAGES)}')


def _joined(
    text: Callable[[str], str],
    filled: Callable[[str, str], str],
    separator: str = " + ",
    whole: Callable[[str], str] = str,
    only: Callable[[str], str] = str,
) -> Body:
    """A body of JSON text: its pieces written by ``text`` and ``filled`` (sizes, value), with ``separator`` between.

    ``whole`` makes an expression of several, ``only`` of a single one.
    """

    def write(body: Mapping[str, Any]) -> str:
        pieces = [text(p) if isinstance(p, str) else filled(*p) for p in json_pieces(dict(body))]
        return only(pieces[0]) if len(pieces) == 1 else whole(separator.join(pieces))

    return write


def _values(style: Style, depth: int = 0) -> Body:
    return lambda body: style.write(dict(body), depth)


def _backslashed(text: str) -> str:
    """JSON's text between quotation marks, in languages where a backslash takes the meaning from what follows it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _spaced(sizes: str) -> str:
    return sizes.replace(",", "")


_JAVASCRIPT = Style(literals.utf16, key="{}: ", indent=2)
_RUST = 'r#"{}"#'
_CPP = 'R"json({})json"'

LANGUAGES: tuple[Language, ...] = (
    Language(
        "bash",
        ("sh", "shell", "curl"),
        "client.sh",
        literals.octal_bytes,
        _joined("'{}'".format, lambda sizes, value: f"\"$(filled '{value}' {_spaced(sizes)})\"", separator=""),
    ),
    Language(
        "python",
        ("python3", "py"),
        "client.py",
        literals.short_or_long,
        _values(Style(literals.short_or_long, booleans=("True", "False"))),
    ),
    Language(
        "golang",
        ("go",),
        "client.go",
        literals.short_or_long,
        _joined("`{}`".format, lambda sizes, value: f"filled(`{value}`, {sizes})"),
    ),
    Language("javascript", ("js", "node", "nodejs"), "client.js", literals.utf16, _values(_JAVASCRIPT)),
    Language("typescript", ("ts",), "client.ts", literals.utf16, _values(_JAVASCRIPT)),
    Language(
        "java",
        (),
        "Client.java",
        literals.java,
        _joined(
            # A text block; of its backslashes each is written twice, lest Java read \u for itself before all else.
            lambda text: '"""\n' + text.rstrip(" ").replace("\\", "\\\\") + '"""',
            lambda sizes, value: f"filled({_backslashed(value)}, {sizes})",
            separator=", ",
            whole='String.join("", {})'.format,
        ),
    ),
    Language(
        "csharp",
        ("c#", "cs", "dotnet"),
        "Program.cs",
        literals.short_or_long,
        _joined(
            lambda text: '@"' + text.replace('"', '""') + '"',
            lambda sizes, value: f"Filled({_backslashed(value)}, {sizes})",
        ),
    ),
    Language(
        "rust",
        ("rs",),
        "main.rs",
        literals.braced_u,
        _joined(
            _RUST.format,
            lambda sizes, value: f"&filled({_RUST.format(value)}, &[{sizes}])",
            separator=", ",
            whole="[{}].concat()".format,
            only="{}.to_string()".format,
        ),
    ),
    Language(
        "cpp",
        ("c++", "cxx", "cc"),
        "client.cpp",
        literals.octal_bytes,
        _joined(
            _CPP.format,
            lambda sizes, value: f"filled({_CPP.format(value)}, {{{sizes}}})",
            whole="std::string() + {}".format,
        ),
    ),
    Language(
        "ruby",
        ("rb",),
        "client.rb",
        literals.braced_u,
        _values(Style(literals.braced_u, key="{} => ", indent=2)),
    ),
    Language(
        "php",
        (),
        "client.php",
        literals.braced_u,
        # As objects, for PHP makes a list of an array whose keys are "0", "1", ...
        _values(Style(literals.braced_u, mapping=("(object) [", "]"), key="{} => ")),
    ),
    Language(
        "erlang",
        ("erl", "escript"),
        "client.erl",
        literals.braced_x,
        _joined(
            _backslashed,
            lambda sizes, value: f"filled({_backslashed(value)}, [{sizes}])",
            separator=", ",
            whole="[{}]".format,
        ),
    ),
    Language(
        "lua",
        (),
        "client.lua",
        literals.decimal_bytes,
        _values(
            Style(
                literals.decimal_bytes,
                array=("{", "}"),
                key="[{}] = ",
                filled="filled({{{}}}, {})",
                empty_object='setmetatable({}, { __jsontype = "object" })',
                indent=2,
            )
        ),
    ),
    Language(
        "perl",
        ("pl",),
        "client.pl",
        literals.braced_x,
        _values(Style(literals.braced_x, key="{} => ", booleans=("JSON::PP::true", "JSON::PP::false"))),
    ),
    Language(
        "r",
        ("rscript",),
        "client.R",
        literals.short_or_long,
        _values(
            Style(
                literals.short_or_long,
                array=("list(", ")"),
                mapping=("list(", ")"),
                key="{} = ",
                booleans=("TRUE", "FALSE"),
                filled="filled(c({}), {})",
                empty_object="setNames(list(), character())",
                whole="{}L",
                indent=2,
                trailing="",
            )
        ),
    ),
    Language("postman", ("newman",), "client.postman_collection.json", literals.utf16, lambda body: ""),
)


def literal(language: Language, text: str) -> str:
    """``text`` as a constant of the language."""
    constant = quoted(text, language.escape)
    return f"$'{constant[1:-1]}'" if language.name == "bash" else constant
