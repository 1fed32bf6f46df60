"""How languages write texts and values down. Pure.

Names of models, inputs and categories come from files and may hold anything, so this is where a client is kept from
running what a name says: of every text only ``PLAIN`` characters are written as they are, all others as escapes of the
language (or of JSON, inside JSON), so that no quote, backslash, line end or sigil of any language gets through. No text
may reach a template but by way of here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stfs.clients.example import Filled

WIDTH = 100
"""Characters of a line above which a value is spread over several."""

PLAIN = re.compile(r"[A-Za-z0-9 _.,:/+=-]")
"""Characters that mean themselves in the quoted texts of every language here."""

LONGEST_PIECE = 16_000
"""Characters of a text constant; Java takes 65,535 bytes of one, and Microsoft's C++ 16,380 characters."""

Escape = Callable[[str], str]
"""From one character to what stands for it between quotation marks."""


def utf16(character: str) -> str:
    r"""``\uXXXX``, twice for what lies beyond the first plane: JSON, JavaScript."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def short_or_long(character: str) -> str:
    r"""``\uXXXX`` or ``\UXXXXXXXX``: Python, C#, R, Go."""
    code = ord(character)
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def braced_u(character: str) -> str:
    r"""``\u{XX}``: Ruby, PHP, Rust."""
    return f"\\u{{{ord(character):x}}}"


def braced_x(character: str) -> str:
    r"""``\x{XX}``: Perl, Erlang."""
    return f"\\x{{{ord(character):x}}}"


def decimal_bytes(character: str) -> str:
    r"""``\DDD`` for each byte of UTF-8: Lua."""
    return "".join(f"\\{byte:03d}" for byte in _utf8(character))


def octal_bytes(character: str) -> str:
    r"""``\OOO`` for each byte of UTF-8: C++, whose hexadecimal escapes have no end, and bash's ``$'...'``."""
    return "".join(f"\\{byte:03o}" for byte in _utf8(character))


def java(character: str) -> str:
    r"""``\OOO``, or ``\uXXXX`` beyond Latin-1; a ``\u0022`` would end the text, for Java reads it as a quote first."""
    return f"\\{ord(character):03o}" if ord(character) < 256 else utf16(character)


def _utf8(character: str) -> bytes:
    return character.encode("utf-8", "replace")


def quoted(text: str, escape: Escape) -> str:
    """``text`` between double quotation marks."""
    return '"' + "".join(c if PLAIN.match(c) else escape(c) for c in text) + '"'


@dataclass(frozen=True, slots=True)
class Style:
    """How a language writes values: the marks around arrays and objects, what stands after a key, and so on.

    ``filled`` writes a call of the program's own function that makes a :class:`Filled`, given the sizes,
    comma-separated, and the value. ``empty_object`` is for where that is not just the two marks, ``whole`` writes whole
    numbers, ``trailing`` is what stands after the last of several lines.
    """

    escape: Escape
    array: tuple[str, str] = ("[", "]")
    mapping: tuple[str, str] = ("{", "}")
    key: str = "{}: "
    booleans: tuple[str, str] = ("true", "false")
    filled: str = "filled([{}], {})"
    empty_object: str = ""
    whole: str = "{}"
    indent: int = 4
    trailing: str = ","

    def write(self, value: Any, depth: int = 0) -> str:
        """``value`` as source text, its first line at the cursor, the others indented for ``depth``."""
        if isinstance(value, Filled):
            return self.filled.format(", ".join(map(str, value.shape)), self.write(value.value))
        if isinstance(value, bool):
            return self.booleans[0] if value else self.booleans[1]
        if isinstance(value, str):
            return quoted(value, self.escape)
        if isinstance(value, int):
            return self.whole.format(value)
        if isinstance(value, float):
            return repr(value)
        if isinstance(value, dict):
            if not value and self.empty_object:
                return self.empty_object
            keys = [self.key.format(quoted(key, self.escape)) for key in value]
            marks, parts = self.mapping, list(value.values())
        else:
            keys, marks, parts = [""] * len(value), self.array, list(value)
        flat = marks[0] + ", ".join(k + self.write(part) for k, part in zip(keys, parts, strict=True)) + marks[1]
        if isinstance(value, dict) and set(value) == {"b64"}:
            return flat
        # What names things is spread out for people to find the place, lists of numbers only if they must be.
        if "\n" not in flat and len(flat) + depth * self.indent <= WIDTH and not any(_is_long(p) for p in parts):
            return flat
        inner = " " * (self.indent * (depth + 1))
        if all(not isinstance(part, list | dict | Filled) for part in parts) and not any(keys):
            body = _wrapped([self.write(part) for part in parts], inner)
        else:
            body = [inner + k + self.write(part, depth + 1) for k, part in zip(keys, parts, strict=True)]
        return "\n".join([marks[0], *_separated(body, self.trailing), " " * (self.indent * depth) + marks[1]])


def _is_long(value: Any) -> bool:
    return isinstance(value, dict) and set(value) != {"b64"}


def _separated(lines: list[str], trailing: str) -> list[str]:
    return [line + "," for line in lines[:-1]] + [line + trailing for line in lines[-1:]]


def _wrapped(items: list[str], indent: str) -> list[str]:
    """As many ``items`` a line as fit; the commas within lines, but not those after them."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + 2 + len(item) <= WIDTH:
            lines[-1] += ", " + item
        else:
            lines.append(indent + item)
    return lines


_MARK = "\x00"
"""Around a :class:`Filled` while the text is put together; no written value has it."""

_JSON = Style(utf16, filled=_MARK + "{}" + _MARK + "{}" + _MARK, indent=2, trailing="")


def json_pieces(value: Any) -> list[str | tuple[str, str]]:
    r"""``value`` as JSON text in pieces, of printable ASCII that is harmless in every language.

    Texts in it hold ``PLAIN`` characters and ``\uXXXX`` only, so there is no quote or brace but JSON's own, and no
    backquote, parenthesis, ``$``, ``#`` or single quote.

    A piece that is a pair stands for a :class:`Filled`: its sizes, comma-separated, and its value in JSON. Joined they
    are the text.
    """
    pieces: list[str | tuple[str, str]] = []
    parts = _JSON.write(value).split(_MARK)
    for at in range(0, len(parts), 3):
        pieces += _cut(parts[at])
        if at + 2 < len(parts):
            pieces.append((parts[at + 1], parts[at + 2]))
    return pieces


def _cut(text: str) -> list[str]:
    """``text`` in pieces of at most ``LONGEST_PIECE``, or a line."""
    pieces: list[str] = []
    for line in text.splitlines(keepends=True):
        if pieces and len(pieces[-1]) + len(line) <= LONGEST_PIECE:
            pieces[-1] += line
        else:
            pieces.append(line)
    return pieces
