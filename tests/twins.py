"""The two twins of the codec, side by side: the same tests run over both."""

import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest

from stfs.codec_py import read, write


@dataclass(frozen=True)
class Twin:
    Reader: Any
    Column: Any
    encode: Any
    encode_rows: Any
    encode_string: Any


READABLE = Twin(read.Reader, read.Column, write.encode, write.encode_rows, write.encode_string)
COMPILED: Twin | None = None

if importlib.util.find_spec("stfs._fastjson") is not None:
    from stfs import _fastjson as f

    COMPILED = Twin(f.Reader, f.Column, f.encode, f.encode_rows, f.encode_string)

needs_compiled = pytest.mark.skipif(COMPILED is None, reason="stfs._fastjson is not built here")
BOTH = [pytest.param(READABLE, id="readable"), pytest.param(COMPILED, id="compiled", marks=needs_compiled)]
