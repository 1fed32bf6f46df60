"""MXNet models on MXNet's native library. Owns finding the library, loading a model's files and closing it.

How the library is called is told in :mod:`stfs.platforms.mxnet_capi`, which executor runs a request in
:mod:`stfs.platforms.mxnet_runner`, where names and shapes come from in :mod:`stfs.platforms.mxnet_signature`. MXNet's
Python package is never imported: it needs an older numpy than the server.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from stfs.errors import LoadFailed, ModelFailed, PlatformMissing
from stfs.platforms.base import LoadOptions, Platform, Servable, one_line, usable_cores
from stfs.platforms.beside import folder
from stfs.platforms.mxnet_capi import Library, MxnetError, NdArray, Symbol, dotted, load_library
from stfs.platforms.mxnet_files import find_files, symbol_files
from stfs.platforms.mxnet_graph import Graph, read_graph
from stfs.platforms.mxnet_params import read_params
from stfs.platforms.mxnet_runner import Runner
from stfs.platforms.mxnet_signature import by_symbol_name, find_inputs, settle
from stfs.platforms.sidecar import find_sidecar
from stfs.signature import Array, Signature, Tensors

INSTALL = "stfs platforms install mxnet"
PACKAGE, LIBRARY = "mxnet", "libmxnet.so"
MOST_DEFAULT_THREADS = 8

logger = logging.getLogger(__name__)


class MxnetPlatform(Platform):
    """``<prefix>-symbol.json`` and ``<prefix>-NNNN.params``, as ``save_checkpoint`` and Gluon's ``export`` write them.

    ``<prefix>-signature.json`` beside them tells names, dtypes and shapes. Runs are on threads of the server: the
    library releases the GIL, and files are checked before it sees them, for it would crash on damaged ones. A graph
    that is whole but makes no sense to an operator may still crash it; ``isolation: process`` contains that.
    """

    name = "mxnet"
    aliases = ("gluon",)
    extra = "mxnet"

    def detect(self, path: Path) -> bool:
        """See :meth:`Platform.detect`."""
        return bool(symbol_files(path))

    def load(self, path: Path, options: LoadOptions) -> MxnetServable:
        """See :meth:`Platform.load`.

        ``options.threads`` is the number of threads of one run, 0 as many as there are usable cores, up to 8; the first
        MXNet model of the process decides for all. Raises :class:`LoadFailed` for ``device="cuda"``.
        """
        library = _library(options.threads or min(usable_cores(), MOST_DEFAULT_THREADS))
        files = find_files(path)
        if options.device == "cuda":
            raise LoadFailed(f"{files.symbol}: device cuda was asked for, but MXNet models are run on the CPU")
        text, graph = read_graph(files.symbol)
        sidecar = find_sidecar(files.symbol, options, files.prefix)
        loaded = read_params(files.params)
        try:
            symbol = _symbol(library, text, graph)
            parameters = by_symbol_name(symbol, loaded, files)
            arrays = {name: NdArray.of(library, values) for name, values in parameters.items()}
            inputs = find_inputs(symbol, parameters, files, graph, sidecar)
            runner = Runner(library, symbol, arrays, inputs)
            signature, places = settle(inputs, symbol, runner, files, sidecar)
        except (MxnetError, ModelFailed, ValueError) as error:
            raise LoadFailed(_written(files.symbol, graph, library, f"with {files.params.name}: {error}")) from error
        servable = MxnetServable(runner, signature, places)
        servable.runtime = f"MXNet {library.version}, CPU"
        logger.info("model %s runs on %s", options.model_name, servable.runtime)
        return servable


class MxnetServable(Servable):
    """A graph with its parameters. Runs on any thread, several at once."""

    platform = MxnetPlatform.name

    def __init__(self, runner: Runner, signature: Signature, places: Sequence[int]) -> None:
        """``places`` are those of the signature's outputs among the graph's. Takes over ``runner``."""
        self._runner = runner
        self._places = places
        self._names = [spec.name for spec in signature.outputs]
        self.signatures = {signature.name: signature}

    def run(self, signature_name: str, inputs: Mapping[str, Array]) -> Tensors:
        """See :meth:`Servable.run`."""
        signature = self.signatures[signature_name]
        if signature.batchable:
            found = self._runner.run_rows(inputs, signature.rows(inputs))
        else:
            found = self._runner.run(inputs)
        return {name: found[i] for name, i in zip(self._names, self._places, strict=True)}

    def close(self) -> None:
        """See :meth:`Servable.close`."""
        self._runner.close()


def find_library() -> Path | None:
    """``libmxnet.so``: beside the server, or of an ``mxnet`` package in its environment; ``None`` if there is none."""
    beside = folder(PACKAGE) / PACKAGE / LIBRARY
    if beside.is_file():
        return beside
    package = importlib.util.find_spec(PACKAGE)  # which does not import it
    for place in (package and package.submodule_search_locations) or ():
        if (found := Path(place) / LIBRARY).is_file():
            return found
    return None


def _library(threads: int) -> Library:
    found = find_library()
    if found is None:
        raise PlatformMissing(MxnetPlatform.name, MxnetPlatform.extra, command=INSTALL)
    try:
        return load_library(found, threads)
    except OSError as error:  # a library that it needs is missing, or it is for another kind of machine
        raise PlatformMissing(MxnetPlatform.name, MxnetPlatform.extra, one_line(error), INSTALL) from error


def _symbol(library: Library, text: bytes, graph: Graph) -> Symbol:
    if graph.uses_later_outputs():
        graph.check_outputs(Symbol(library, graph.first_outputs_json()).internals_json())
    return Symbol(library, text)


def _written(file: Path, graph: Graph, library: Library, problem: str) -> str:
    """The problem, with both versions where the file is of a later MXNet than the library."""
    ours = [int(part) for part in library.version.split(".")]
    theirs = dotted(graph.version)
    if [int(part) for part in theirs.split(".")] > ours:
        problem = f"was written by MXNet {theirs}, and this is MXNet {library.version}: {problem}"
    return f"{file}: {problem}"
