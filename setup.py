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
        depends=sorted(map(str, [*Path("stfs/native").glob("*.hpp"), *Path("stfs").glob("*/*.pxd")])),
        include_dirs=["stfs/native", numpy.get_include()],
        language="c++",
        # Nothing here reads errno, and without it rounding is one instruction.
        extra_compile_args=["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-math-errno"],
        **more,
    )


numpy_api = [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")]
extensions = [
    extension("stfs._fastjson", define_macros=numpy_api),
    extension("stfs.web._headscan"),
    extension("stfs.batcher._lane", define_macros=numpy_api),
    extension("stfs.web._express", define_macros=numpy_api),
    extension("stfs.web._express_answers", define_macros=numpy_api),
]

modules = cythonize(extensions, language_level=3)
for module in modules:
    # Said here because cythonize makes new Extension objects and forgets it.
    module.optional = True

setup(ext_modules=modules)
