"""Builds the one extension module. Everything else is said in pyproject.toml.

The extension is optional: where no C++ compiler is found the package installs without it, and the Python twin in
``stfs/codec_py`` does the same work more slowly (the server says so once when it starts).
"""

from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

fastjson = Extension(
    "stfs._fastjson",
    sources=["stfs/_fastjson.pyx"],
    depends=sorted(str(path) for path in Path("stfs/native").glob("*.hpp")),
    include_dirs=["stfs/native", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    language="c++",
    # Nothing here reads errno, and without it rounding is one instruction.
    extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-math-errno"],
    optional=True,
)

setup(ext_modules=cythonize([fastjson], language_level=3))
