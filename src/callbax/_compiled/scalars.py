"""C functions of numbers, called elementwise: each becomes a NumPy ufunc with a loop of its own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, cast

import jax
import numpy as np

from callbax import _native
from callbax._compiled.c_functions import CFunction
from callbax._compiled.c_signature import CSignature
from callbax._compiled.dtypes import Resolution, resolve_only_loop
from callbax._compiled.loop_names import offer_c_function
from callbax._compiled.loops import Loop
from callbax._compiled.ufunc import Ufunc
from callbax._host.trust import OptIn


@dataclasses.dataclass(frozen=True)
class ScalarSource:
    """The source of a C function's loop (see loops.LoopSource)."""

    ufunc: np.ufunc
    name: str
    named: tuple[tuple[str, str], ...]

    @property
    def path(self) -> str | None:
        return dict(self.named).get("loop")

    @property
    def program_name(self) -> dict[str, str] | None:
        return dict(self.named) or None

    def address(self) -> tuple[int, int]:
        return _native.ufunc_loop(self.ufunc, 0)


class ScalarFunction(Ufunc[..., jax.Array]):
    """A C function that is called elementwise; `callbax.native` makes it."""

    maker = "callbax.native"

    def __init__(
        self,
        function: CFunction,
        signature: CSignature,
        user_data: int,
        owners: Owners,
        program_name: dict[str, str] | None,
        parallel: bool,
        opt_in: OptIn,
    ):
        code = _callable_code(function, signature)
        inner = _scalar_ufunc(function.address, code, user_data, function, owners)
        super().__init__(inner, (None,) * inner.nin)
        self._opt_in = opt_in  # of what has the path
        named = tuple((program_name or {}).items())
        self._source = ScalarSource(inner, function.short_name, named)
        self._parallel = parallel
        self._offer = offer_c_function(self.only_loop)
        self.__doc__ = inner.__doc__

    @property
    def only_loop(self) -> Loop:
        types = tuple(map(np.dtype, self.ufunc.types[0].replace("->", "")))
        return Loop(self._source, types[: self.nin], types[self.nin :], parallel=self._parallel)

    def _resolve(self, args: Sequence[Any]) -> Resolution:
        return resolve_only_loop(self.ufunc, args)

    def _loop(self, resolution: Resolution, core: tuple[tuple[int, ...], ...] = ()) -> Loop:
        return self.only_loop

    def __eq__(self, other: object) -> bool:
        return (
            super().__eq__(other)
            and isinstance(other, ScalarFunction)
            and self.only_loop == other.only_loop
        )

    def __hash__(self) -> int:
        return super().__hash__()

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be pickled: it stands for an address in this process")

    def __repr__(self) -> str:
        return f"<callbax.native function {self.__name__}>"


class Owners:
    """What a C function needs alive. It is equal to another one if these are the same objects.

    So a function of some address shares nothing with one of the same address that keeps less alive.
    Addresses themselves keep nothing.
    """

    def __init__(self, *owners: Any):
        self._owners = tuple(None if isinstance(owner, int) else owner for owner in owners)

    def _identities(self) -> tuple[int, ...]:
        return tuple(map(id, self._owners))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Owners) and self._identities() == other._identities()

    def __hash__(self) -> int:
        return hash(self._identities())


@functools.lru_cache(maxsize=256)
def _scalar_ufunc(
    address: int, code: str, data: int, function: CFunction, owners: Owners
) -> np.ufunc:
    """One ufunc for one function, so that equal calls share their traces and programs.

    What is kept here keeps its owners, so no other function can come to lie at its address.
    """
    doc = f"The C function {function}."
    made = _native.scalar_ufunc(function.short_name, doc, code, address, data, owners)
    return cast(np.ufunc, made)


def _callable_code(function: CFunction, signature: CSignature) -> str:
    code = signature.code
    if code is None or not _native.has_scalar_loop(code):
        raise TypeError(
            f"{function} has the signature {signature}, which cannot be called elementwise. Scalar "
            "functions have a result and one to four arguments of the types double, float, int and "
            "int64_t; or up to three of double complex, double, int and int64_t, or of float "
            "complex, float, int and int64_t; a trailing void* of a double function gets user_data. "
            "For others write a kernel (callbax/kernel.h, kernel=True), or call them with ctypes in "
            "a function for callbax.external."
        )
    return code
