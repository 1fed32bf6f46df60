"""Runs a user's own Python: importing a file beside a model, and calling what is in it. Must not live here:
what the functions in it are called, and what they return.

A module is imported under a name of its own, so that two versions of a model live side by side and one that is
forgotten is freed. While it is imported its folder comes first on ``sys.path``, so that ``import helper`` finds the
``helper.py`` beside it; afterwards ``helper`` is taken out of ``sys.modules`` again, for the next version has one too.
So a helper is imported at the top of the file, not inside a function. No bytecode is written: the folder may be
read-only, and a new file in it would look like a new version.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from stfs.errors import InvalidRequest, LoadFailed, ModelFailed, RequestError
from stfs.platforms.base import one_line

RAISES = (Exception, SystemExit)
"""What a user's code may raise: some call ``sys.exit`` where they mean that they cannot."""

_numbers = itertools.count(1)
# sys.path and sys.modules are the whole process's, and two models may be loaded at once on two threads.
_importing = threading.Lock()


class UserCode:
    """One imported file. Its functions are called one at a time, for few people write them for several threads.

    ``module`` is what was imported. :meth:`close` forgets it, so that it can be freed.
    """

    def __init__(self, file: Path) -> None:
        """Import ``file``. Raises :class:`LoadFailed` with the file, the line and what was raised, in one line."""
        self.file = file
        self._one_at_a_time = threading.Lock()
        self._beside = _Beside(file)
        self.module = self._import()

    def build(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what prepares a model. Raises :class:`LoadFailed`, told in one line, for whatever it raises."""
        try:
            # A pickle that is read here may name the helpers' classes.
            with self._beside.importable():
                return function(*arguments)
        except RAISES as error:
            raise self._does_not_load(error) from error

    def call(self, function: Callable[..., Any], *arguments: Any, refuses: bool = True) -> Any:
        """Call what answers requests.

        A :class:`ValueError` says that the request is wrong, and becomes :class:`InvalidRequest`, if ``refuses``; an
        error of this package's own stays what it is; anything else is :class:`ModelFailed`, with file and line.
        """
        try:
            with self._one_at_a_time:
                return function(*arguments)
        except RequestError:
            raise
        except RAISES as error:
            if refuses and isinstance(error, ValueError):
                raise InvalidRequest(one_line(error)) from error
            raise ModelFailed(told(error, self.file.parent) or _what(error)) from error

    def close(self) -> None:
        """Forget the module; whatever still refers to it keeps it alive until then."""
        sys.modules.pop(self.module.__name__, None)

    def _import(self) -> ModuleType:
        """The module, run now under a name that no other has."""
        name = f"stfs_user_{re.sub('[^A-Za-z0-9]', '_', self.file.stem)}_{next(_numbers)}"
        spec = importlib.util.spec_from_file_location(name, self.file)
        if spec is None:
            raise LoadFailed(f"{self.file}: is no Python file: its name must end in .py")
        module = importlib.util.module_from_spec(spec)
        try:
            source = self.file.read_bytes()
            with self._beside.importable():
                sys.modules[name] = module  # where dataclasses look for the names in annotations
                # Compiled here: the loader would take any bytecode beside the file that is of the same second.
                exec(compile(source, str(self.file), "exec"), module.__dict__)
        except BaseException as error:
            sys.modules.pop(name, None)
            if isinstance(error, RAISES):
                raise self._does_not_load(error) from error
            raise
        return module

    def _does_not_load(self, error: BaseException) -> LoadFailed:
        if isinstance(error, LoadFailed):
            return error
        place = told(error, self.file.parent)
        return LoadFailed(f"{self.file.parent / place}" if place else f"{self.file}: {_what(error)}")


def told(error: BaseException, folder: Path) -> str:
    """``model.py:12: KeyError: 'x'``: the last line under ``folder`` that had a part in it, and what was raised.

    Empty if no line under ``folder`` had.
    """
    if isinstance(error, SyntaxError) and error.filename and _own(Path(error.filename), folder):
        return f"{Path(error.filename).relative_to(folder)}:{error.lineno}: {type(error).__name__}: {error.msg}"
    place = ""
    trace = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if _own(file, folder):
            place = f"{file.relative_to(folder)}:{trace.tb_lineno}: {_what(error)}"
        trace = trace.tb_next
    return place


class _Beside:
    """The modules and packages beside a file, which ``import`` finds inside :meth:`importable` and nowhere else."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._imported: dict[str, ModuleType] = {}

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Raises :class:`LoadFailed` if a name beside the file means another module in this process already."""
        folder = self._file.parent
        with _importing:
            names = self._names()
            for name in sorted(names & sys.modules.keys()):
                where = getattr(sys.modules[name], "__file__", None) or "built in"
                if Path(where).is_relative_to(folder):
                    names.remove(name)  # this process runs from that folder: what is imported is what is there
                else:
                    raise LoadFailed(f"{folder}: {name}, beside {self._file.name}, would hide {where}: rename it")
            writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
            sys.path.insert(0, str(folder))
            sys.modules.update(self._imported)
            importlib.invalidate_caches()
            try:
                yield
            finally:
                sys.path.remove(str(folder))
                sys.dont_write_bytecode = writes
                for name in list(sys.modules):
                    if name.partition(".")[0] in names:
                        self._imported[name] = sys.modules.pop(name)

    def _names(self) -> set[str]:
        try:
            entries = [entry for entry in self._file.parent.iterdir() if entry != self._file]
        except OSError:
            return set()
        modules = {entry.stem for entry in entries if entry.suffix == ".py"}
        packages = {entry.name for entry in entries if (entry / "__init__.py").is_file()}
        return {name for name in modules | packages if name.isidentifier()}


def _own(file: Path, folder: Path) -> bool:
    """Whether ``file`` is a user's: a virtual environment may lie in the same folder."""
    return file.is_relative_to(folder) and "site-packages" not in file.parts


def _what(error: BaseException) -> str:
    """``KeyError: 'x'``; the type alone for an error that says nothing."""
    kind, text = type(error).__name__, one_line(error)
    return kind if text in ("", kind) else f"{kind}: {text}"
