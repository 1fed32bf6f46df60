"""Builds the extension modules. Everything else is said in pyproject.toml.

They are optional: where no C++ compiler is found the package installs without them. The Python twin in
``stfs/codec_py`` then does the same work more slowly (the server says so once when it starts), and requests take
aiohttp's own path.
"""

from pathlib import Path
from typing import Any

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup


def extension(name: str, **more: Any) -> Extension:
    """One compiled module, from the ``.pyx`` file of the same name."""
    return Extension(
        name,
        sources=[f"{name.replace('.', '/')}.pyx"],
        depends=sorted(str(path) for path in Path("stfs/native").glob("*.hpp")),
        include_dirs=["stfs/native", numpy.get_include()],
        language="c++",
        # Nothing here reads errno, and without it rounding is one instruction.
        extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-math-errno"],
        **more,
    )


fastjson = extension("stfs._fastjson", define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")])
headscan = extension("stfs.web._headscan")

modules = cythonize([fastjson, headscan], language_level=3)
for module in modules:
    # Said here because cythonize makes new Extension objects and forgets it.
    module.optional = True

setup(ext_modules=modules)
