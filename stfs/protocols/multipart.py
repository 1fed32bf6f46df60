"""Forms with files: ``multipart/form-data`` (RFC 7578, over RFC 2046, 5.1) as a list of parts. Pure functions.

Strict where leniency would let two readers see two different forms: lines end in CRLF, a part has a name, the last
boundary is there. Nothing here knows what the fields mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from stfs.errors import InvalidRequest

MAX_PARTS = 1000
MAX_HEAD_BYTES = 8 << 10
"""Of one part."""

MAX_BOUNDARY_CHARACTERS = 70


@dataclass(frozen=True, slots=True)
class Part:
    """One field. ``filename`` is the client's word for its file, ``None`` if it gave none: never use it as a path."""

    name: str
    filename: str | None
    data: bytes


def parse(content_type: str, body: bytes) -> list[Part]:
    """The parts in their order. Raises :class:`InvalidRequest` for a form that is broken or has too many of them."""
    boundary = _boundary(content_type)
    delimiter = b"\r\n--" + boundary
    # The first boundary may stand at the very start, without a line's end before it.
    at = 0 if body.startswith(delimiter[2:]) else body.find(delimiter) + 2
    if at == 1:
        raise InvalidRequest("the form has no boundary of the one that its Content-Type names: let your client set it")
    at += len(delimiter) - 2
    parts: list[Part] = []
    while not body.startswith(b"--", at):
        at = _line_end(body, at)
        if len(parts) == MAX_PARTS:
            raise InvalidRequest(f"the form has over {MAX_PARTS} fields: send fewer images at a time")
        end = _next_delimiter(body, delimiter, max(0, at - 2))  # of a part without head and data they share a line end
        parts.append(_part(body, at, end, len(parts)))
        at = end + len(delimiter)
    return parts


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary("")
    if not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS or not boundary.isascii() or not boundary.isprintable():
        raise InvalidRequest("the form's Content-Type names no boundary: let your client set the header")
    return boundary.encode()


def _line_end(body: bytes, at: int) -> int:
    """Past the line end that follows a boundary, and the blanks that may stand before it."""
    while body[at : at + 1] in (b" ", b"\t"):
        at += 1
    if not body.startswith(b"\r\n", at):
        raise InvalidRequest(f"the form is broken at byte {at}: a boundary is followed by neither a line end nor --")
    return at + 2


def _next_delimiter(body: bytes, delimiter: bytes, at: int) -> int:
    """Where the next boundary is. A line that goes on after it is data that looks like one."""
    while (found := body.find(delimiter, at)) >= 0:
        after = found + len(delimiter)
        if body.startswith(b"--", after) or body[after : after + 64].lstrip(b" \t").startswith(b"\r\n"):
            return found
        at = after
    raise InvalidRequest("the form is cut short: its last boundary is missing")


def _part(body: bytes, start: int, end: int, index: int) -> Part:
    where = f"field {index + 1} of the form"
    head_end = body.find(b"\r\n\r\n", start, min(end, start + MAX_HEAD_BYTES))
    if head_end < 0:
        raise InvalidRequest(f"{where} has no head that ends in an empty line within {MAX_HEAD_BYTES} bytes")
    head = HeaderParser().parsestr(body[start:head_end].decode("utf-8", "replace"))
    name = _parameter(head, "name")
    if head.get_content_disposition() != "form-data" or not name:
        raise InvalidRequest(f"{where} has no Content-Disposition: form-data with a name")
    coding = str(head.get("Content-Transfer-Encoding", "binary")).strip().lower()
    if coding not in ("binary", "8bit", "7bit") or "Content-Encoding" in head:
        raise InvalidRequest(f'field "{name[:100]}" is encoded: send it as it is (RFC 7578, 4.7)')
    return Part(name, _parameter(head, "filename"), body[head_end + 4 : end])


def _parameter(head: Message, name: str) -> str | None:
    """A parameter of the Content-Disposition, in any of the ways that clients write other than plain text."""
    value = head.get_param(name, header="content-disposition")
    if value is None:
        return None
    if isinstance(value, tuple):  # RFC 2231: charset, language, text
        charset, _, text = value
        try:
            return text.encode("latin-1").decode(charset or "utf-8", "replace")
        except (LookupError, UnicodeEncodeError):
            return text
    return value
