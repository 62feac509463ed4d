"""The gateway's part for compiled programs: which of them hold callbacks, and what is in them.

Programs on several devices are watched as they are compiled, for the question that comes up once a
callback in them has failed: do the devices wait for each other, so that the failing one must not
leave?
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import inspect
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any

import jax
from jax._src.interpreters import pxla
from jax._src.lib import _jax as _jaxlib


def disable_programs(marker_types: tuple[type, ...], message: str) -> None:
    """Makes every compiled program that keeps one of these types alive raise `message` when called.

    For forked children only: XLA's threads do not exist there, so the call would never return.
    JAX's C++ caches of all programs are emptied, since they would bypass what is changed here; they
    fill again from JAX's Python caches, without compiling anything.
    """

    def refuse(args: Any) -> Any:
        raise RuntimeError(message)

    for program in gc.get_objects():
        if type(program) is pxla.ExecuteReplicated:
            if any(isinstance(kept, marker_types) for kept in program.keepalive or ()):
                program.in_handler = refuse
    _jaxlib.PjitFunctionCache.clear_all()


# -- programs whose results have no data -----------------------------------------------------------
def look_at_results(program: Any) -> None:
    """Has calls of the program raise what has failed in it, if all that it returns is of float0.

    JAX makes such results without a look at the booleans that XLA has for them, which carry the failure
    of a program on another platform than CPU, or on a thread of XLA's. Calls wait for these now.
    """
    results = program.out_handler
    avals = getattr(results, "out_avals", ())
    if avals and all(getattr(aval, "dtype", None) == jax.dtypes.float0 for aval in avals):
        results.handlers = [handler.pre_wrap(_when_ready) for handler in results.handlers]


def _when_ready(array: Any) -> Any:
    array.block_until_ready()
    return array


# -- programs on several devices -----------------------------------------------------------------
_COLLECTIVE = re.compile(r"All(Gather|Reduce|ToAll)|Collective|ReduceScatter|^k(Send|Recv)")


@dataclasses.dataclass
class _Compiled:
    """A program, and the calls in it: those that were numbered while it was compiled."""

    after: int
    last: int
    targets: list[Any]  # of the calls, as far as the program keeps them
    executable: weakref.ref[Any]

    @functools.cached_property
    def has_collectives(self) -> bool:
        executable = self.executable()
        if executable is None:
            return True
        try:
            return any(
                _COLLECTIVE.search(instruction.opcode.name)
                for module in executable.xla_executable.hlo_modules()
                for computation in module.computations()  # also those of loops, fusions, async calls
                for instruction in computation.instructions()
            )
        except Exception:  # noqa: BLE001 - a JAX that does not say it: they are assumed
            return True


_lock = threading.Lock()
_compiled: list[_Compiled] = []  # guarded by _lock


def devices_wait_for_each_other(call_number: int, target: Any) -> bool:
    """Whether the program with that call has collectives. Of an unknown one it has to be assumed.

    Programs may be compiled at the same time, and then the number alone does not say which of them
    has the call; the target does, unless they share it.
    """
    with _lock:
        programs = [p for p in _compiled if p.after < call_number <= p.last]
    if len(programs) > 1:
        programs = [p for p in programs if target in p.targets] or programs
    return not programs or any(program.has_collectives for program in programs)


def watch_programs(marker_types: tuple[type, ...], count_calls: Callable[[], int]) -> bool:
    """Wraps `UnloadedMeshExecutable.from_hlo` (JAX 0.10 to 0.12), which compiles every program.

    Programs without callbacks, and those on one device, pass through. Where the function is not as
    expected, it stays as it is: collectives are then assumed in every program.

    Args:
      marker_types: what programs keep alive for their calls.
      count_calls: how many calls XLA has been given so far in programs on several devices.
    """
    compile_hlo = pxla.UnloadedMeshExecutable.from_hlo
    signature = inspect.signature(compile_hlo)
    if not {"keepalive", "device_list"} <= signature.parameters.keys():
        return False

    @functools.wraps(compile_hlo)
    def compile_and_note(*args: Any, **kwargs: Any) -> Any:
        before = count_calls()
        executable = compile_hlo(*args, **kwargs)
        after = count_calls()
        if after > before:
            keepalive = signature.bind(*args, **kwargs).arguments["keepalive"] or ()
            targets = [item.target for item in keepalive if isinstance(item, marker_types)]  # type: ignore[attr-defined]
            _note(before, after, targets, executable)
        return executable

    pxla.UnloadedMeshExecutable.from_hlo = staticmethod(compile_and_note)  # type: ignore[method-assign]
    return True


def _note(after: int, last: int, targets: list[Any], executable: Any) -> None:
    with _lock:
        _compiled[:] = [program for program in _compiled if program.executable() is not None]
        _compiled.append(_Compiled(after, last, targets, weakref.ref(executable)))
