"""The compiled twin: by definition the signatures of the readable one."""

from stfs.codec_py.read import Column as Column
from stfs.codec_py.read import Reader as Reader
from stfs.codec_py.write import encode as encode
from stfs.codec_py.write import encode_rows as encode_rows
from stfs.codec_py.write import encode_string as encode_string
