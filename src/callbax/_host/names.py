"""Names of host code in compiled programs: how it gets them, and how the runtime finds it by them.

What programs call is a *callee*: a callback (_host/identity.py) or a compiled loop (loop_names.py).

- *Stable* names are equal in each process: the path of what can be imported, a name that was given,
  the content of a print. A process that has not traced a program finds them (see _host/trust.py).
- Anything else (a lambda, a closure, a function of the main script) gets a *local* name: a label
  and the first number that is free. It is found only by the program whose lowering has just
  registered it, and this makes it safe that another process, or another function after this one has
  died, has the same name: JAX's persistent compilation cache hits on equal programs, each of which
  calls what its own process means by the name.
- In an exported program, which travels, what has no stable name is named by a random mark of the
  process and a number that is never used again. Elsewhere it means nothing.

A registration keeps the callee. That of an exported program is kept by the callee's own object, which
JAX's Exported keeps; so the registry gets a copy, or both would keep each other for ever.
"""

from __future__ import annotations

import contextlib
import copyreg
import dataclasses
import functools
import inspect
import itertools
import os
import pickle
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from callbax import _native
from callbax._host import numbers, program_names
from callbax._jax import cache
from callbax._runtime import threads

_lock = threads.new_lock(reentrant=True)  # a finaliser may run anywhere, and lower a program
_process = uuid.uuid4().hex
_numbers = itertools.count()


def _renew_process() -> None:
    global _process
    _process = uuid.uuid4().hex  # parent and child count on from the same number


os.register_at_fork(after_in_child=_renew_process)


def _mark_of_process() -> str:
    """What marks a name in an exported program as that of something in this process only."""
    cache.keep_out_of_cache(_process)
    return _process


# Not a context variable: a callback keeps the context that it is lowered in, and so its keeper.
_this_thread = threading.local()


@contextlib.contextmanager
def exports_kept_by(keeper: Any) -> Iterator[None]:
    """What is registered inside for an exported program lives as long as `keeper`.

    For callees that are made while a program is lowered, so that its jaxpr does not have them. Within
    another such block it is that one's keeper, since this one may have been made there.
    """
    outer = _keeper()
    _this_thread.keeper = keeper if outer is None else outer
    try:
        yield
    finally:
        _this_thread.keeper = outer


def _keeper() -> Any:
    return getattr(_this_thread, "keeper", None)


class ExportWarning(UserWarning):
    """A program was exported whose callback exists in this process only.

    `callbax.external` gives one a name; `callbax.allow` lets programs call by it.

    >>> import warnings, callbax as cb
    >>> warnings.simplefilter("error", cb.ExportWarning)  # a program that cannot travel is an error
    """


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of callee, and how it gets names.

    Attributes:
      enter: registers a callee under a name with the runtime.
      stable: a callee's stable name, or None.
      is_same: whether the holder of a stable name may be called for another callee of this kind.
      label: what a callee is called where it has no stable name; equal in each process.
      describe: what messages call it.
      remedy: what to do so that it has a stable name.
    """

    enter: Callable[[str, Any], Any]
    stable: Callable[[Any], dict[str, Any] | None]
    is_same: Callable[[Any, Any], bool]
    label: Callable[[Any], str]
    describe: Callable[[Any], str]
    remedy: Callable[[Any], str]

    def add_finder(self, key: str, find: Callable[[dict[str, Any]], Any]) -> None:
        """Adds a kind of stable names.

        Args:
          key: the key that names of this kind have, and no others.
          find: called with the name; returns the callee, or raises a LookupError.
        """
        _finders[key] = self, find

    def register(self, callee: Any, *, exporting: bool) -> Any:
        """Enters a callee in the runtime's registry.

        Returns the registration, which has the name, and must live until the program is compiled. For
        an exported program the callee itself keeps it from now on (see `exports_kept_by`).
        """
        is_new_local = False
        with _lock:
            if exporting and callee.exported is not None:
                return callee.exported
            name = self._stable_name(callee)
            if name is None and exporting:
                name = self._process_name(callee)
                is_new_local = True
            elif name is None:
                name = self._local_name(callee)
                object.__setattr__(callee, "local_name", name)  # frozen for everybody else
            registration = self.enter(name, _copy_of(callee))
            if exporting:
                object.__setattr__(callee, "exported", registration)
                if (keeper := _keeper()) is not None:
                    vars(keeper).setdefault("exported", []).append(registration)
        if is_new_local:
            _warn_of_export(f"{self.describe(callee)}, {_ONLY_HERE} {self.remedy(callee)}")
        return registration

    def _stable_name(self, callee: Any) -> str | None:
        name = self.stable(callee)
        if name is None:
            return None
        text = program_names.write(name)
        # A name may still be held by a function that was redefined since (a notebook's cell).
        holder = _native.lookup(text)
        return text if holder is None or self._is_same(holder, callee) else None

    def _is_same(self, holder: Any, callee: Any) -> bool:
        return type(holder) is type(callee) and self.is_same(holder, callee)

    def _process_name(self, callee: Any) -> str:
        name = {
            "process": _mark_of_process(),
            "number": next(_numbers),
            "label": self.describe(callee),
        }
        return program_names.write(name)

    def _local_name(self, callee: Any) -> str:
        start = _start_of_local_name(self.label(callee))

        def name(number: int) -> str:
            return f'{start},"number":{number}}}'  # many may be tried

        def is_free(candidate: str) -> bool:
            holder = _native.lookup(candidate)
            return holder is None or (self._is_same(holder, callee) and holder == callee)

        if callee.local_name is not None and is_free(callee.local_name):
            return callee.local_name
        return name(numbers.free_number(start, lambda number: is_free(name(number))))


@functools.lru_cache(1024)
def _start_of_local_name(label: str) -> str:
    return program_names.write({"local": label})[:-1]


def _copy_of(callee: Any) -> Any:
    """Equal, with what it has found out about itself, but without what is kept for the names."""
    copy = object.__new__(type(callee))
    copy.__dict__.update(callee.__dict__, exported=None)
    return copy


_finders: dict[str, tuple[Kind, Callable[[dict[str, Any]], Any]]] = {}
when_unknown: list[Callable[[], None]] = []  # what imports more finders, for a name of another kind


def resolve(text: str) -> Any:
    """Registers the callee that a stable name means (called by the runtime).

    Returns the registration, or text that says why there is none.
    """
    try:
        kind, callee = find(program_names.read(text))
    except LookupError as error:
        return str(error)
    return kind.enter(text, callee)


def find(name: dict[str, Any]) -> tuple[Kind, Any]:
    """The callee that a stable name means, and its kind.

    Raises:
      LookupError: there is none, or programs may not call it; the message says what to do.
    """
    if (why := _local_only(name)) is not None:
        raise LookupError(why)
    if not _finders.keys() & name.keys():
        for import_more in when_unknown:
            import_more()
    keys = [key for key in name if key in _finders]
    if len(keys) != 1:
        raise LookupError(
            f"{program_names.write(name)[:200]!r}, which this version of callbax does not know."
        )
    kind, find_it = _finders[keys[0]]
    return kind, find_it(name)


def _reduce(registration: Any) -> Any:
    """Pickles a registration, which a compiled program keeps, as its name."""
    if _local_only(program_names.read(registration.name)) is not None:
        raise pickle.PicklingError(
            f"the compiled program calls {registration.target}, {_ONLY_HERE} Give it one, as "
            "callbax.ExportWarning says when the program is exported."
        )
    return _registered, (registration.name,)


def _registered(text: str) -> Any:
    found = resolve(text)
    if isinstance(found, str):
        raise LookupError(f"callbax: this program calls the host function {found}")
    return found


copyreg.pickle(_native.Registration, _reduce)


def _warn_of_export(what: str) -> None:
    """Says that an exported program calls something that no other process can find."""
    warnings.warn(
        f"the exported program calls {what}",
        ExportWarning,
        stacklevel=_frames_to_user(),
    )


_ONLY_HERE = (
    "which has no name that another process could find it by; it can be called in this process "
    "only."
)


def _frames_to_user() -> int:
    """For `warnings`: how many frames lie between the caller of this and the user's own code."""
    level = 1
    frame = inspect.currentframe()
    frame = frame.f_back if frame else None
    while frame is not None and _is_internal(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
        level += 1
    return level


def _is_internal(module: str) -> bool:
    return module.partition(".")[0] in ("callbax", "jax", "jaxlib", "contextlib")


def _local_only(name: dict[str, Any]) -> str | None:
    """Why a name means nothing here, if it is one that only another process knows."""
    if "process" in name:
        return (
            f"{program_names.string(name, 'label')}, which existed only in the process that exported "
            "the program (a lambda, a function inside a function or of the main script, a method, or "
            f"what only has an address). {_EXPORT_AGAIN}"
        )
    if "local" in name:
        return (
            f"{program_names.string(name, 'local')}, which existed only in the process that "
            f"compiled the program. {_EXPORT_AGAIN}"
        )
    return None


_EXPORT_AGAIN = (
    "Define it with `def` at the top level of a module, or give it a name with "
    "callbax.external(name=...), and export the program again."
)
