"""The gateway's part for programs that are written to files, and read.

**Effects.** JAX (0.10 to 0.12) writes an effect as the name of its class, and demands that the class,
called without arguments, gives an equal effect. Those of callbacks do not: they are compared by
identity. JAX makes one effect of each class, when it is imported, and so the classes are made to
give that very one. Pickles of compiled programs, which hold effects too, then get it as well. A class
that gives an equal effect already is left alone, and one that does not take the change keeps its
own way: JAX then refuses to write its programs.

**Loaded programs.** A call of callbax's in a loaded program has no lowering rule that could leave a
mark for how the whole program is called (see `runtime.py`). JAX lowers a call of a loaded program by
a rule of its own (`_call_exported_lowering`, JAX 0.10 to 0.12). It is wrapped: if the program has a
call of callbax's, the marks are left as they would be without the detour. Where JAX has another
rule, it stays alone, and such programs are called in JAX's way.

**Refused programs.** JAX exports a library's calls only if it is told so, and its error does not say how
for callbax's. Its check of a program (`_check_module`, JAX 0.10 to 0.12) is wrapped, to add a note to the
error. Where there is no such function, there is no note.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

from jax._src.export import _export

from callbax import _jax
from callbax._jax import runtime


def make_effects_readable() -> None:
    """Lets JAX write and read programs with the effects of callbacks."""
    for effect in (
        _jax.IO_EFFECT,
        _jax.ORDERED_IO_EFFECT,
        _jax.DEBUG_EFFECT,
        _jax.ORDERED_DEBUG_EFFECT,
    ):
        _make_single(effect)


def _make_single(effect: Any) -> bool:
    """Makes an effect the only one of its class. Whether `type(effect)()` equals it now."""
    kind: Any = type(effect)
    if _is_readable(effect):
        return True
    if "__new__" in vars(kind) or "__init__" in vars(kind):
        return False

    def the_one(cls: type, *args: Any, **kwargs: Any) -> Any:
        return effect if cls is kind else object.__new__(cls)

    kind.__new__ = the_one
    if _is_readable(effect):
        return True
    del kind.__new__
    return False


def _is_readable(effect: Any) -> bool:
    try:
        return bool(type(effect)() == effect) and hash(type(effect)()) == hash(effect)
    except Exception:  # noqa: BLE001 - a class that is called in another way
        return False


def note_at_refusals(targets: Sequence[str], note: str) -> bool:
    """Adds a note where JAX does not export a program with such calls. Whether it can be done."""
    check = getattr(_export, "_check_module", None)
    if not inspect.isfunction(check):
        return False

    @functools.wraps(check)
    def check_and_note(*args: Any, **kwargs: Any) -> Any:
        try:
            return check(*args, **kwargs)
        except ValueError as error:
            if any(f"@{target}(" in str(error) for target in targets):
                error.add_note(note)
            raise

    _export._check_module = check_and_note
    return True


def mark_loaded_programs(targets: Sequence[str], waits_for_pool: str, keeps_objects: str) -> bool:
    """Leaves marks in programs that call loaded ones. Whether JAX's rule was as expected.

    Args:
      targets: the names by which programs call callbax.
      waits_for_pool: the attribute of calls of functions that hold jax Arrays.
      keeps_objects: the attribute of calls that make the program's call a run.
    """
    lower = getattr(_export, "_call_exported_lowering", None)
    primitive = getattr(_export, "call_exported_p", None)
    if not inspect.isfunction(lower) or primitive is None:
        return False
    if list(inspect.signature(lower).parameters) != ["ctx", "args", "exported"]:
        return False

    @functools.wraps(lower)
    def lower_and_mark(ctx: Any, *args: Any, exported: Any) -> Any:
        results = lower(ctx, *args, exported=exported)
        text = bytes(exported.mlir_module_serialized)
        if any(target.encode() in text for target in targets):
            runtime.mark_calls(
                ctx,
                effectful=bool(exported.ordered_effects or exported.unordered_effects),
                holds_jax_arrays=waits_for_pool.encode() in text,
                is_loaded=True,
                keeps_objects=keeps_objects.encode() in text,
            )
        return results

    _jax.register_lowering(primitive, lower_and_mark)
    return True
