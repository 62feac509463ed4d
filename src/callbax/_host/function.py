"""HostFunction: a host function with options of how it is called.

The public functions hand unknown keywords to the user's function, so options cannot be keywords of
theirs; the callable itself carries them.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any, Literal

from callbax._runtime import threads
from callbax._runtime.errors import attribute, describe_function
from callbax._runtime.wrapper import Wrapper

# Which results of another dtype than the promised one are converted:
#   none       none, as JAX has it;
#   safe       what loses nothing: what NumPy calls safe, and integers as floating-point or complex
#              numbers that hold them exactly. Python's own numbers take the promised dtype as in
#              JAX's promotion: bool, int, float, complex become what comes later in this row, and
#              integers any integer dtype that holds them;
#   same_kind  that, and what NumPy calls same_kind: also narrower numbers.
Casting = Literal["none", "safe", "same_kind"]


class Hashable:
    """Any value as a part of a key: by value if it can be hashed and compared, else by identity.

    The type counts, since values of different types may be equal (`numpy.dtype("int32")` equals
    the string "int32").
    """

    __slots__ = ("_hash", "_key", "value")

    def __init__(self, value: Any):
        self.value = value
        self._key: Any = (type(value), value)
        try:
            self._hash = hash(self._key)
        except Exception:  # noqa: BLE001 - whatever a user's __hash__ raises
            self._key = self._hash = id(value)

    def __eq__(self, other: object) -> bool:
        try:
            return isinstance(other, Hashable) and bool(self._key == other._key)
        except Exception:  # noqa: BLE001 - whatever a user's __eq__ raises, as that of arrays does
            return False

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> Any:
        return type(self), (self.value,)  # the key names a type, which pickle may not find


@dataclasses.dataclass(frozen=True)
class Around(Wrapper):
    """A callable around a host function, by whose name messages call it."""

    function: Hashable

    @property
    def description(self) -> str:
        return describe_function(self.function.value)

    @property
    def host_function(self) -> Any:
        return self.function.value


@dataclasses.dataclass(frozen=True)
class HostFunction(Wrapper):
    """A function for `pure_callback` or `io_callback`, with options; called directly, it is itself.

    The runtime calls the function that is wrapped, so that the options cost nothing per call.
    Equal functions with equal options are equal: nothing is traced twice.

    Attributes:
      function: the host function.
      views: its arguments are read-only views of XLA's own memory instead of copies. It must not keep
        one: that is a CallbackViewError of the call. Packed types (2 and 4 bits) come as copies.
      out: it gets one more keyword argument, `out`, and writes its result there: a writable view of
        the result's memory, or a pytree of them in the structure of `result_shape_dtypes`. It returns
        None or `out`. What it does not write is undefined.
      casting: which results of another dtype are converted.
      masked: its first argument is a mask of the lanes of a batch, and it does nothing for the others.
      name: its name in programs, stable from process to process, in place of the path that it can
        be imported from.
      external: the vmap_method that messages name, if it is a function of `callbax.external`. Then
        its result must have the structure of what was declared, and not only as many arrays. Lists
        and named tuples count as tuples.

    Raises:
      ValueError: `name` is taken by another living function, or cannot be a name.

    >>> import jax, numpy as np, callbax
    >>> x = np.float32([3, 4])
    >>> add = HostFunction(np.add, views=True, out=True)
    >>> jax.jit(lambda x: callbax.pure_callback(add, x, x, x))(x)
    Array([6., 8.], dtype=float32)
    """

    function: Callable[..., Any] = dataclasses.field(compare=False)
    views: bool = dataclasses.field(default=False, kw_only=True)
    out: bool = dataclasses.field(default=False, kw_only=True)
    casting: Casting = dataclasses.field(default="none", kw_only=True)
    masked: bool = dataclasses.field(default=False, kw_only=True)
    name: str | None = dataclasses.field(default=None, kw_only=True)
    external: str = dataclasses.field(default="", kw_only=True)
    _key: Hashable = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key", Hashable(self.function))
        if self.name is not None:
            _give_name(self)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def description(self) -> str:
        return describe_function(self.function)


_lock = threads.new_lock()
_named: dict[str, list[weakref.ref[HostFunction]]] = {}  # guarded by _lock; the newest is last


def find_named(name: str) -> HostFunction | None:
    """The living function that was given that name last."""
    with _lock:
        living = _living(name)
    return living[-1] if living else None


def _give_name(new: HostFunction) -> None:
    name = new.name
    assert name is not None
    if not name or set(name) & set("():#"):
        raise ValueError(
            f"{name!r} cannot be the name of {describe_function(new.function)}: a name is not empty, "
            "and has none of the characters ( ) : #"
        )
    with _lock:
        for other in _living(name):
            if other._key != new._key and not _is_redefined(other.function, new.function):
                raise ValueError(
                    f"the name {name!r}, given to {describe_function(new.function)}, is already that "
                    f"of {describe_function(other.function)}; programs find a function by its name, "
                    "so give each its own, or let go of the other"
                )
        _named.setdefault(name, []).append(weakref.ref(new))


def _living(name: str) -> list[HostFunction]:
    found = [(ref, ref()) for ref in _named.get(name, ())]
    _named[name] = [ref for ref, function in found if function is not None]
    if not _named[name]:
        del _named[name]
    return [function for _, function in found if function is not None]


def _is_redefined(old: Any, new: Any) -> bool:
    """Whether the code of one top-level function ran again, as a notebook's cell does."""
    path, other = (
        (attribute(f, "__module__"), attribute(f, "__qualname__") or attribute(f, "__name__"))
        for f in (old, new)
    )
    return path == other and None not in path and "<" not in str(path[1])
