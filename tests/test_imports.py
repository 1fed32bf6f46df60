"""The rooms import in one direction only, as ARCHITECTURE.md lists them, and importing stfs imports no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import stfs

PACKAGE = Path(stfs.__file__).parent

# Lowest first: a room may import those above it in this list, and its own files.
ROOMS = [
    "errors",
    "signature",
    "images",
    "clients",
    "metrics",
    "history",
    "codec",
    "batcher",
    "platforms",
    "lifecycle",
    "options",
    "config",
    "access",
    "model_server",
    "calibration",
    "first_runs",
    "model",
    "loader",
    "protocols",
    "warmup",
    "repository_batching",
    "repository_config",
    "repository_file",
    "repository",
    "tracing",
    "context",
    "oip_served",
    "carry",
    "web",
    "front",
    "rpc",
    "server",
    "process",
    "commands",
    "cli",
]

# What a room must never know, though the order would allow it.
FORBIDDEN = {
    "batcher": {"metrics", "codec"},
    "platforms": {"batcher", "metrics", "codec"},
    "lifecycle": {"batcher", "platforms", "metrics", "codec", "signature"},
    "protocols": {"batcher", "platforms", "lifecycle", "model", "first_runs", "loader", "config"},
    "web": {"batcher", "platforms"},
    "rpc": {"batcher", "platforms", "web"},
    "commands": {"lifecycle", "web", "server", "process"},
}

# Third-party packages that only one room may import.
ONLY_IN = {
    "aiohttp": {"web", "front", "server"},
    "prometheus_client": {"web"},
    "jinja2": {"clients", "web"},
    "uvloop": {"commands", "front", "process"},
    "grpc": {"rpc"},
    "zstandard": {"web"},
    "PIL": {"images"},
    "opentelemetry": {"tracing"},
}


def room_of(module: str) -> str:
    name = module.removeprefix("stfs.").split(".")[0]
    return "codec" if name in ("_fastjson", "codec_py") else name


def imports() -> list[tuple[str, str, str]]:
    """(room, file, imported module) of every import statement in the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        if relative.name == "__init__.py" and len(relative.parts) == 1:
            continue
        room = room_of(relative.parts[0].removesuffix(".py"))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(room, str(relative), alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{relative}: imports are absolute"
                if node.module == "stfs":
                    found += [(room, str(relative), f"stfs.{alias.name}") for alias in node.names]
                else:
                    found.append((room, str(relative), node.module))
    return found


def test_rooms_import_upward_only():
    order = {room: index for index, room in enumerate(ROOMS)}
    wrong = []
    for room, file, module in imports():
        if not module.startswith("stfs.") or room == "__main__" or module == "stfs.__version__":
            continue
        target = room_of(module)
        assert target in order, f"{file} imports {module}: give the room its place in ROOMS and in ARCHITECTURE.md"
        if target != room and (order[target] > order[room] or target in FORBIDDEN.get(room, ())):
            wrong.append(f"{file} imports {module}")
    assert wrong == []


def test_every_room_has_its_place():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {room_of(r) for r in rooms} - {"__init__", "__main__"} == set(ROOMS)


def test_transport_stays_in_its_room():
    wrong = [
        f"{file} imports {module}"
        for room, file, module in imports()
        if (package := module.split(".")[0]) in ONLY_IN and room not in ONLY_IN[package]
    ]
    assert wrong == []


def test_importing_the_server_imports_no_framework():
    frameworks = ("tensorflow", "onnxruntime", "onnx", "sklearn", "joblib", "skops", "torch", "keras", "scipy")
    code = f"import sys, stfs.server, stfs.cli; print([m for m in {frameworks!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
