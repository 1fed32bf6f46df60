"""Builds the one extension module. Everything else is said in pyproject.toml.

The extension is optional: where no C++ compiler is found the package installs without it, and the Python twin in
``stfs/codec.py`` does the same work more slowly (the server says so once when it starts).
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

fastjson = Extension(
    "stfs._fastjson",
    sources=["stfs/_fastjson.pyx"],
    include_dirs=["stfs/native"],
    language="c++",
    extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden"],
    optional=True,
)

setup(ext_modules=cythonize([fastjson], language_level=3))
