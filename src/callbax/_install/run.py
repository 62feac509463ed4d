"""Runs a program with callbax installed from the moment at which it imports JAX.

A script of its own, started by `python -m callbax run` in a fresh interpreter: it imports neither
callbax nor JAX, so that what the program does before it imports JAX still counts, such as setting
JAX's environment variables. Everything else is as if Python had started the program.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import pkgutil
import runpy
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import TracebackType
from typing import Any


class InstallAfterJax:
    """Finds JAX and callbax where the other finders do, and installs callbax once JAX is imported.

    Importing JAX imports callbax, and callbax, which imports JAX first, is installed as it is
    imported, whichever of them the program names first.
    """

    def __init__(self, arguments: str):
        self._arguments = arguments
        self._searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name not in ("jax", "callbax") or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._after[name])  # type: ignore[assignment]
        return spec

    @property
    def _after(self) -> dict[str, Callable[[], None]]:
        return {"jax": self._import_callbax, "callbax": self._install}

    def _import_callbax(self) -> None:
        if "callbax" in sys.modules:
            return  # it is importing JAX
        if importlib.util.find_spec("callbax") is None:  # it was found in the current directory
            sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
        importlib.import_module("callbax")

    def _install(self) -> None:
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        sys.modules["callbax"].install(self._arguments)


class _Loader:
    """A module's own loader, with something to do once the module is loaded."""

    def __init__(self, loader: Any, after: Callable[[], None]):
        self._loader, self._after = loader, after

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._after()


def run_program(arguments: str, is_module: bool, program: str, rest: Sequence[str]) -> None:
    """Runs a script, or a module, as `__main__`."""
    sys.meta_path.insert(0, InstallAfterJax(arguments))  # type: ignore[arg-type]
    _leave_this_file_out_of_tracebacks()
    main = types.ModuleType("__main__")
    main.__builtins__ = builtins  # type: ignore[attr-defined]
    sys.modules["__main__"] = main
    sys.argv = [program, *rest]
    if is_module:
        _set_first_path(os.getcwd())
        runpy._run_module_as_main(program)  # type: ignore[attr-defined]  # as `python -m` does
    elif pkgutil.get_importer(program) is not None:  # a directory, or an archive
        _set_first_path(os.path.abspath(program))
        runpy._run_module_as_main("__main__", False)  # type: ignore[attr-defined]
    else:
        _run_script(main, program)


def _run_script(main: types.ModuleType, program: str) -> None:
    path = os.path.abspath(program)
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as error:
        sys.stderr.write(
            f"{sys.executable}: can't open file {path!r}: [Errno {error.errno}] {error.strerror}\n"
        )
        sys.exit(2)
    _set_first_path(os.path.dirname(os.path.realpath(program)))
    main.__file__ = path
    main.__loader__ = SourceFileLoader("__main__", path)
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)  # noqa: S102


def _set_first_path(directory: str) -> None:
    """In place of this script's own, which Python has put there unless it was told not to."""
    if not sys.flags.safe_path:
        sys.path[0] = directory


def _leave_this_file_out_of_tracebacks() -> None:
    show = sys.excepthook

    def show_program(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        show(kind, error.with_traceback(trace), trace)

    sys.excepthook = show_program


def command_line(arguments: str, is_module: bool, program: str, rest: Sequence[str]) -> list[str]:
    """What follows the interpreter, and its own options, to run a program in a fresh one."""
    return [__file__, arguments, "module" if is_module else "script", program, *rest]


if __name__ == "__main__":
    _, _arguments, _kind, _program, *_rest = sys.argv
    run_program(_arguments, _kind == "module", _program, _rest)
