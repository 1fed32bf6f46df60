"""The STFS dialect's other body: a form of image files, ``-F image=@mew.jpg``, with the JSON body's small keys beside.

What a form says, and which input each file is meant for. What becomes of a file is ``stfs.images``' to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from stfs.codec import Reader
from stfs.errors import InvalidInput, InvalidRequest
from stfs.images.decode import Upload
from stfs.images.plan import DEPTHS, Asked, parse_shape
from stfs.protocols.forms import read_named
from stfs.protocols.multipart import Part, parse
from stfs.protocols.request import parse_version, require_object
from stfs.protocols.stfs import OPTIONS
from stfs.signature import STRING, Signature, Tensors

IMAGE_FIELDS = ("image", "images", "image[]", "images[]")

TEXT_FIELDS = (*OPTIONS, "channel_layout", "shape", "data")

MAX_FIELD_BYTES = 64 << 10
"""Of each of the small fields; ``data`` may fill the body."""


@dataclass(frozen=True, slots=True)
class ImageForm:
    """One form. ``files`` stand in its order, each with the field that it came in; ``data`` is JSON, or empty."""

    model_name: str | None
    model_version: int | None
    signature_name: str | None
    raw_strings: bool
    asked: Asked
    data: bytes
    files: tuple[tuple[str, Upload], ...]


def read(content_type: str, body: bytes | memoryview) -> ImageForm:
    """What the form says; blocking, for its length. The files are copies. Raises :class:`InvalidRequest`."""
    texts: dict[str, bytes] = {}
    files: list[tuple[str, Upload]] = []
    for part in parse(content_type, bytes(body)):
        if part.filename is None and part.name not in IMAGE_FIELDS:
            if part.name in texts:
                raise InvalidRequest(f'the field "{part.name}" stands twice in the form')
            texts[_known(part)] = part.data
        elif part.data or part.filename:  # a browser sends an empty file where none was chosen
            files.append((part.name, _upload(part)))
    if not files:
        raise InvalidRequest("the form has no image: send it in the field image (curl -F image=@FILE)")
    version = _text(texts, "model_version")
    shape = _text(texts, "shape")
    return ImageForm(
        _text(texts, "model_name"),
        None if version is None else parse_version(version),
        _text(texts, "signature_name"),
        _switch(texts, "base64_decode"),
        Asked(_channels(_text(texts, "channel_layout")), None if shape is None else parse_shape(shape)),
        texts.get("data", b"").strip(),
        tuple(files),
    )


def assign(form: ImageForm, signature: Signature) -> tuple[dict[str, list[Upload]], Tensors]:
    """The files by the input that they are meant for, and the inputs that the form's ``data`` holds.

    A field that is called like an input means that one; ``image`` and ``images`` mean the one that is left, or of
    several the one that looks like images. Raises :class:`InvalidRequest`.
    """
    names = {spec.name for spec in signature.inputs}
    told = _keys(form.data)
    named = {field for field, _ in form.files if field in names}
    files: dict[str, list[Upload]] = {}
    for field, upload in form.files:
        if field not in names:
            if field not in IMAGE_FIELDS:
                raise InvalidRequest(f'the field "{field[:100]}" is unknown here; send files in {_fields(signature)}')
            field = _image_input(signature, named | told)
        files.setdefault(field, []).append(upload)
    if both := told & files.keys():
        raise InvalidInput(min(both), 'sent as a file, and in "data" beside it')
    if not form.data:
        return files, {}
    rest = tuple(spec for spec in signature.inputs if spec.name not in files)
    if not rest:
        raise InvalidRequest(f'"data" is not needed: the only inputs are {signature.input_names()}')
    return files, read_named(Reader(form.data), form.data, replace(signature, inputs=rest), inner=True)


def _image_input(signature: Signature, taken: set[str]) -> str:
    called = [spec for spec in signature.inputs if spec.name in IMAGE_FIELDS]
    free = [spec for spec in signature.inputs if spec.name not in taken]
    pictures = [spec for spec in free if spec.dtype != STRING and spec.shape is not None and len(spec.shape) >= 3]
    for found in (signature.inputs, called, free, pictures, [spec for spec in free if spec.dtype == STRING]):
        if len(found) == 1:
            return found[0].name
    raise InvalidRequest(f"which input is the image? Send the file in a field of its name: {signature.input_names()}")


def _keys(data: bytes) -> set[str]:
    """What ``data`` names."""
    if not data:
        return set()
    reader = Reader(data)
    require_object(reader)
    keys = set()
    while (key := reader.next_key()) is not None:
        keys.add(key)
        reader.skip()
    return keys


def _known(part: Part) -> str:
    if part.name not in TEXT_FIELDS:
        raise InvalidRequest(
            f'the field "{part.name[:100]}" is unknown here; known are image, images, {", ".join(TEXT_FIELDS)}'
        )
    if part.name != "data" and len(part.data) > MAX_FIELD_BYTES:
        raise InvalidRequest(f'the field "{part.name}" is over {MAX_FIELD_BYTES} bytes')
    return part.name


def _upload(part: Part) -> Upload:
    if part.filename is None and len(part.data) < 256 and part.data.isascii():
        raise InvalidRequest(f'the field "{part.name}" holds text, not a file: with curl, write {part.name}=@FILE')
    return Upload(part.filename or part.name, part.data)


def _fields(signature: Signature) -> str:
    return "image, images" + "".join(f", {spec.name}" for spec in signature.inputs)


def _text(texts: Mapping[str, bytes], name: str) -> str | None:
    """The field as text; ``None`` if it is left out or empty, as a form on a page sends it."""
    try:
        return texts.get(name, b"").decode().strip() or None
    except UnicodeDecodeError:
        raise InvalidRequest(f'the field "{name}" is not UTF-8') from None


def _switch(texts: Mapping[str, bytes], name: str) -> bool:
    value = (_text(texts, name) or "false").lower()
    if value not in ("true", "1", "false", "0"):
        raise InvalidRequest(f'"{name}" must be true or false, not {value[:50]!r}')
    return value in ("true", "1")


def _channels(text: str | None) -> str | None:
    if text is not None and text.upper() not in DEPTHS:
        raise InvalidRequest(f'"channel_layout" must be one of {", ".join(DEPTHS)}, not {text[:50]!r}')
    return None if text is None else text.upper()
