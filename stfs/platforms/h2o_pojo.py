"""POJOs: models that H2O wrote as Java source. Owns compiling them once and bringing the class into the JVM."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed
from stfs.platforms import beside, jvm
from stfs.platforms.base import one_line

HEAD_BYTES = 1 << 14
COMPILE_WITHIN_S = 300
CLASS = re.compile(rb"public\s+class\s+(\w+)\s+extends\s+(?:hex\.genmodel\.)?GenModel\b")


def is_pojo(file: Path) -> bool:
    """Whether ``file`` is the source of a model: by what its first lines import. Never raises."""
    try:
        with file.open("rb") as stream:
            return b"hex.genmodel" in stream.read(HEAD_BYTES)
    except OSError:
        return False


def instantiate(jpype: Any, file: Path, class_path: Sequence[Path]) -> Any:
    """The model that ``file`` is the source of, a ``hex.genmodel.GenModel``. ``class_path`` holds the jar of H2O.

    Raises :class:`LoadFailed` where there is no compiler or the source does not compile.
    """
    source = file.read_bytes()
    named = CLASS.search(source)
    if named is None:
        raise LoadFailed(f"{file}: holds no public class that extends GenModel")
    name = named.group(1).decode()
    folder = _compiled(file, source, name, class_path)
    urls = jpype.JArray(jpype.JClass("java.net.URL"))([jpype.JClass("java.io.File")(str(folder)).toURI().toURL()])
    parent = jpype.JClass("hex.genmodel.GenModel").class_.getClassLoader()
    loader = jpype.JClass("java.net.URLClassLoader")(urls, parent)
    return loader.loadClass(name).getDeclaredConstructor().newInstance()


def _compiled(file: Path, source: bytes, name: str, class_path: Sequence[Path]) -> Path:
    """The folder with the classes of ``source``: compiled before, or now. A folder appears whole or not at all."""
    told = [source, *(str(jar).encode() for jar in class_path)]
    digest = hashlib.sha256(b"\0".join(told)).hexdigest()
    cache = beside.home() / "cache" / "h2o"
    folder = cache / digest[:32]
    if (folder / f"{name}.class").is_file():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        work = Path(tempfile.mkdtemp(prefix="compiling-", dir=cache))
    except OSError as error:
        raise LoadFailed(f"{file}: {cache} cannot be written: {error.strerror}") from error
    try:
        # The compiler wants the file to be named as its class, which a served file need not be.
        (work / f"{name}.java").write_bytes(source)
        _compile(file, work / f"{name}.java", work, class_path)
        with contextlib.suppress(OSError):  # another process was first: its classes are the same
            work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _compile(file: Path, source: Path, folder: Path, class_path: Sequence[Path]) -> None:
    compiler = jvm.program("javac")
    if compiler is None:
        raise LoadFailed(
            f"{file}: a POJO is compiled by javac, which is not here: install a JDK, "
            "or export the model as a MOJO (model.save_mojo), which needs none"
        )
    command = [str(compiler), "-J-Xmx1g", "-nowarn", "-proc:none", "-encoding", "UTF-8"]
    command += ["-cp", os.pathsep.join(map(str, class_path)), "-d", str(folder), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_WITHIN_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise LoadFailed(f"{file}: did not compile within {COMPILE_WITHIN_S} s; export a MOJO instead") from error
    if done.returncode != 0:
        raise LoadFailed(f"{file}: does not compile: {one_line(done.stderr.replace(str(source), file.name))}")
