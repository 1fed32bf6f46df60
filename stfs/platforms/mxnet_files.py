"""MXNet's files: which of them belong together. Reads none of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stfs.errors import LoadFailed

SYMBOL = "-symbol.json"
PARAMS = re.compile(r"(.*)-(\d{4,})\.params")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A symbol and its parameters; ``prefix`` is what their names begin with."""

    prefix: str
    symbol: Path
    params: Path


def symbol_files(path: Path) -> list[Path]:
    """The symbols at ``path``: a symbol or params file, a folder, or a folder and prefix (``models/mlp``).

    Never raises; an unreadable path gives an empty list. One called ``model-symbol.json`` is the answer alone.
    """
    try:
        if path.is_dir():
            found = sorted(f for f in path.iterdir() if f.name.endswith(SYMBOL) and not f.name.startswith("."))
            model = [file for file in found if file.name == f"model{SYMBOL}"]
            return [file for file in model or found if file.is_file()]
        if path.name.endswith(SYMBOL):
            candidate = path
        elif named := PARAMS.fullmatch(path.name):
            candidate = path.with_name(named[1] + SYMBOL)
        else:
            candidate = path.with_name(path.name + SYMBOL)
        return [candidate] if candidate.is_file() else []
    except OSError:
        return []


def find_files(path: Path) -> ModelFiles:
    """The symbol at ``path`` and its parameters: those that ``path`` names, else those of the highest epoch.

    Raises :class:`LoadFailed` naming what is missing, or what cannot be chosen between.
    """
    symbols = symbol_files(path)
    if not symbols:
        raise LoadFailed(f"{path}: no file that ends in {SYMBOL}; export(prefix) and save_checkpoint write one")
    if len(symbols) > 1:
        told = " and ".join(file.name for file in symbols)
        raise LoadFailed(f"{path}: which is the model, {told}? Name one of them model{SYMBOL}, or keep one only")
    symbol = symbols[0]
    prefix = symbol.name.removesuffix(SYMBOL)
    if path.name.endswith(".params"):
        return ModelFiles(prefix, symbol, path)
    epochs = {}
    for file in symbol.parent.iterdir():
        named = PARAMS.fullmatch(file.name)
        if named and named[1] == prefix:
            epochs[int(named[2])] = file
    if not epochs:
        raise LoadFailed(f"{symbol}: its parameters are not beside it: {prefix}-0000.params, or of another epoch")
    return ModelFiles(prefix, symbol, epochs[max(epochs)])
