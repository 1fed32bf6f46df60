"""Tensors to and from JSON: the switch between the compiled twin and the readable one. Sole importer of ``_fastjson``.

Owns nothing but the choice. The readable twin (``codec_py``) defines what is right; the compiled one gives the same
results, errors and bytes, faster. ``STFS_PURE_PYTHON=1`` in the environment chooses the readable one.
"""

import os

try:
    if os.environ.get("STFS_PURE_PYTHON") == "1":
        raise ImportError("the environment asks for pure Python")
    from stfs._fastjson import Column, Reader, encode, encode_rows, encode_string

    ACCELERATED: bool = True
except ImportError:
    from stfs.codec_py.read import Column, Reader
    from stfs.codec_py.write import encode, encode_rows, encode_string

    ACCELERATED = False

__all__ = ["ACCELERATED", "Column", "Reader", "encode", "encode_rows", "encode_string"]
