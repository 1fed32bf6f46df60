"""Fills in the templates. Nothing of a model reaches one but as ``url`` and ``body``, written by ``languages``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jinja2

from stfs import __version__
from stfs.clients import languages, postman
from stfs.clients.call import Call
from stfs.clients.example import Filled, has_base64
from stfs.clients.languages import Language


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,  # none of these languages is HTML: each writes its constants by its own rules
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(language: Language, call: Call) -> str:
    """The source of a program in ``language`` that makes ``call``: ASCII, complete. Any thread."""
    if language.name == "postman":
        return postman.collection(call)
    data = call.body["data"]
    return (
        _templates()
        .get_template(f"{language.name}.j2")
        .render(
            version=__version__,
            url=languages.literal(language, call.url),
            body=language.body(call.body),
            auth=call.auth,
            tls=call.tls,
            has_filled=any(isinstance(value, Filled) for value in data.values()),
            has_base64=has_base64(data),
            form=None if call.form is None else {name: languages.literal(language, v) for name, v in call.form.items()},
        )
    )
