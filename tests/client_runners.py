"""How the program of each language is built and run, and what has to be installed for it.

Compilers' warnings are errors. What they keep for the next time, and the packages of npm, lie in the environment's
folder; ``make test-clients`` fills it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

KEPT = Path(sys.prefix) / "clients"
NPM = KEPT / "node_modules"
DEBIAN_CRATES = Path("/usr/share/cargo/registry")
LIMIT_S = 240.0

Build = Callable[[Path], list[str]]
"""Makes what has to be made of the source in its folder, and returns the command that runs it."""


@dataclass(frozen=True)
class Runner:
    """``needs`` are commands that must succeed for the language to be had, ``package`` what to install for that."""

    build: Build
    needs: tuple[tuple[str, ...], ...]
    package: str


def environment() -> dict[str, str]:
    """As bare as a program is started with; no proxy and no setting of the tests' own gets through."""
    kept = {
        key: os.environ[key] for key in ("PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "JAVA_HOME") if key in os.environ
    }
    return {
        **kept,
        "LANG": "C.UTF-8",
        "GOCACHE": str(KEPT / "go"),
        "GOPATH": str(KEPT / "gopath"),
        "GO111MODULE": "off",
        "CARGO_TARGET_DIR": str(KEPT / "cargo"),
        "CARGO_NET_OFFLINE": "true",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "RUSTFLAGS": "-Dwarnings",
        "MONO_REGISTRY_PATH": str(KEPT / "mono"),
    }


def tool(*command: str, folder: Path) -> None:
    """A compiler; it must succeed and have nothing to say."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert (done.stdout + done.stderr).strip() == "", (command, done.stdout, done.stderr)


def run(command: list[str], folder: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The program to its end."""
    whole = {**environment(), **env}
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, encoding="utf-8", timeout=LIMIT_S)


def _interpreted(*command: str) -> Build:
    return lambda folder: [*command]


def _go(folder: Path) -> list[str]:
    tool("gofmt", "-l", "client.go", folder=folder)
    tool("go", "vet", "client.go", folder=folder)
    tool("go", "build", "-o", "client", "client.go", folder=folder)
    return ["./client"]


def _java(folder: Path) -> list[str]:
    tool("javac", "-Xlint:all", "-Werror", "-d", ".", "Client.java", folder=folder)
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", ".", "Client"]


def _csharp(folder: Path) -> list[str]:
    tool("mcs", "-nologo", "-warn:4", "-warnaserror", "-r:System.Net.Http", "Program.cs", folder=folder)
    return ["mono", "Program.exe"]


def _cpp(folder: Path) -> list[str]:
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Werror")
    tool("g++", "-std=c++17", *warnings, "client.cpp", "-lcurl", "-o", "client", folder=folder)
    return ["./client"]


def _rust(folder: Path) -> list[str]:
    source = (folder / "main.rs").read_text()
    marked = source.split("//     [dependencies]\n")[1].split("use std")[0].splitlines()
    wanted = [line.removeprefix("//").strip() for line in marked]
    name = "client_" + folder.name.replace("-", "_")
    (folder / "src").mkdir(exist_ok=True)
    (folder / "main.rs").rename(folder / "src" / "main.rs")
    (folder / "Cargo.toml").write_text(
        f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n\n[dependencies]\n'
        + "\n".join(wanted)
        + "\n"
    )
    (folder / ".cargo").mkdir(exist_ok=True)
    (folder / ".cargo" / "config.toml").write_text(
        f'[source.crates-io]\nreplace-with = "debian"\n\n[source.debian]\ndirectory = "{DEBIAN_CRATES}"\n'
    )
    tool("cargo", "build", "--quiet", "--offline", folder=folder)
    return [str(KEPT / "cargo" / "debug" / name)]


def _typescript(folder: Path) -> list[str]:
    strict = (
        "--strict",
        "--noUnusedLocals",
        "--noUncheckedIndexedAccess",
        "--target",
        "es2022",
        "--module",
        "nodenext",
    )
    types = ("--types", "node", "--typeRoots", str(NPM / "@types"))
    tool(str(NPM / ".bin" / "tsc"), *strict, *types, "client.ts", folder=folder)
    return ["node", "client.js"]


def _postman(folder: Path) -> list[str]:
    # The answer is printed nowhere but in a report of the run.
    report = ("--reporters", "cli,json", "--reporter-json-export", "report.json", "--timeout-request", "30000")
    return [str(NPM / ".bin" / "newman"), "run", "client.postman_collection.json", *report]


RUNNERS: dict[str, Runner] = {
    "bash": Runner(_interpreted("bash", "client.sh"), (("curl", "--version"),), "curl"),
    "python": Runner(_interpreted(sys.executable, "-W", "error", "client.py"), (), ""),
    "golang": Runner(_go, (("go", "version"), ("gofmt", "-h")), "golang-go"),
    "javascript": Runner(_interpreted("node", "client.js"), (("node", "-e", "fetch"),), "nodejs (18 or newer)"),
    "typescript": Runner(
        _typescript,
        (("node", "-e", "fetch"), (str(NPM / ".bin" / "tsc"), "--version")),
        "nodejs, and typescript of npm",
    ),
    "java": Runner(_java, (("javac", "-version"), ("java", "-version")), "openjdk-17-jdk-headless"),
    "csharp": Runner(_csharp, (("mcs", "--version"), ("mono", "--version")), "mono-mcs, mono-runtime"),
    "rust": Runner(
        _rust,
        (("cargo", "--version"), ("sh", "-c", f"ls {DEBIAN_CRATES}/ureq-2*")),
        "cargo, librust-ureq-dev (crates.io is not asked)",
    ),
    "cpp": Runner(
        _cpp,
        (("g++", "--version"), ("sh", "-c", "echo '#include <curl/curl.h>' | g++ -E -x c++ - > /dev/null")),
        "g++, libcurl4-openssl-dev",
    ),
    "ruby": Runner(_interpreted("ruby", "-w", "client.rb"), (("ruby", "-e", "require 'net/http'"),), "ruby"),
    "php": Runner(
        _interpreted("php", "-d", "error_reporting=-1", "-d", "display_errors=stderr", "client.php"),
        (("php", "-r", "curl_init();"),),
        "php-cli, php-curl",
    ),
    "erlang": Runner(
        _interpreted("escript", "client.erl"),
        (("erl", "-noshell", "-eval", "ok = ssl:start(), ok = inets:start(), halt(0)."),),
        "erlang-base, erlang-inets, erlang-ssl",
    ),
    "lua": Runner(
        _interpreted("lua5.4", "client.lua"),
        (("lua5.4", "-e", 'require("dkjson") require("socket.http") require("ssl.https")'),),
        "lua5.4, lua-socket, lua-sec, lua-dkjson",
    ),
    "perl": Runner(
        _interpreted("perl", "-w", "client.pl"),
        (("perl", "-MHTTP::Tiny", "-MJSON::PP", "-MIO::Socket::SSL", "-e", "1"),),
        "perl, libio-socket-ssl-perl",
    ),
    "r": Runner(
        _interpreted("Rscript", "--vanilla", "client.R"),
        (("Rscript", "--vanilla", "-e", "library(httr); library(jsonlite)"),),
        "r-base-core, r-cran-httr, r-cran-jsonlite",
    ),
    "postman": Runner(_postman, ((str(NPM / ".bin" / "newman"), "--version"),), "nodejs, and newman of npm"),
}


_VERSIONS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "bash": (("bash", ("bash", "--version")), ("curl", ("curl", "--version"))),
    "python": (("Python", (sys.executable, "--version")),),
    "golang": (("Go", ("go", "version")),),
    "javascript": (("Node.js", ("node", "--version")),),
    "typescript": (("TypeScript", (str(NPM / ".bin" / "tsc"), "--version")), ("Node.js", ("node", "--version"))),
    "java": (("OpenJDK", ("java", "-version")),),
    "csharp": (("Mono", ("mono", "--version")),),
    "rust": (("Rust", ("rustc", "--version")),),
    "cpp": (("g++", ("g++", "-dumpfullversion")), ("libcurl", ("curl-config", "--version"))),
    "ruby": (("Ruby", ("ruby", "--version")),),
    "php": (("PHP", ("php", "--version")),),
    "erlang": (("Erlang", ("erl", "-noshell", "-eval", "io:put_chars(erlang:system_info(otp_release)), halt(0).")),),
    "lua": (("Lua", ("lua5.4", "-v")),),
    "perl": (("Perl", ("perl", "-e", "print $^V")),),
    "r": (("R", ("Rscript", "--version")),),
    "postman": (("newman", (str(NPM / ".bin" / "newman"), "--version")), ("Node.js", ("node", "--version"))),
}
"""What the programs of a language are run or compiled by: its name, and the command that prints its version."""


@cache
def interpreter(language: str) -> str:
    """What runs the programs, with versions: ``bash 5.2.15, curl 7.88.1``."""
    told = []
    for name, command in _VERSIONS[language]:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=LIMIT_S)
        version = re.search(r"\d+(?:\.\d+)*", done.stdout + done.stderr)
        assert version is not None, (command, done)
        told.append(f"{name} {version[0]}")
    return ", ".join(told)


@cache
def lacking(language: str) -> str:
    """The command that fails because the language is not installed; empty if it is."""
    for command in RUNNERS[language].needs:
        if shutil.which(command[0]) is None:
            return command[0]
        if subprocess.run(command, env=environment(), capture_output=True, timeout=LIMIT_S).returncode != 0:
            return " ".join(command)
    return ""


def require(language: str) -> Runner:
    """The runner of ``language``; skips the test where it is not installed, saying what is to be."""
    if command := lacking(language):
        pytest.skip(f"{command[:80]!r} fails: install {RUNNERS[language].package} (make test-clients)")
    return RUNNERS[language]
