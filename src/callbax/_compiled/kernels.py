"""Kernels: compiled functions that get whole arrays, as JAX functions.

A kernel is a pure callback whose function the runtime calls itself, by the prototype of
callbax/kernel.h; vmap, lowering, names and the path of an error are those of every callback.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from callbax._callbacks import primitives
from callbax._callbacks.batching import VMAP_METHODS
from callbax._callbacks.flavours import KERNEL
from callbax._callbacks.results import flatten_result_spec
from callbax._compiled import c_names
from callbax._compiled.c_functions import CFunction
from callbax._host import identity, offers, program_names
from callbax._host.call import HostCall
from callbax._host.offers import Offer, Offerable
from callbax._jax import frames
from callbax._runtime.errors import KernelError
from callbax._runtime.wrapper import Wrapper

# Those of kernel.h. Packed types are left out: their elements have no addresses.
_DTYPES = frozenset(
    np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128", jax.numpy.bfloat16),
    )
)


@dataclasses.dataclass(frozen=True, slots=True)
class KernelFunction(Wrapper):
    """What programs hold of a kernel. Equal ones call the same code with the same data, and keep the
    same objects alive.

    Attributes:
      symbol, library: by which programs name it; empty if they cannot.
    """

    address: int
    user_data: int
    name: str
    owners: Any = dataclasses.field(repr=False)
    symbol: str = ""
    library: str = ""

    @property
    def code(self) -> tuple[int, int]:
        """What the runtime calls (see _host/identity.py)."""
        return self.address, self.user_data

    @property
    def description(self) -> str:
        return self.name

    @property
    def program_name(self) -> dict[str, Any] | None:
        return {"kernel": self.symbol, "library": self.library} if self.symbol else None

    def failure(self, code: int, message: str) -> KernelError:
        """The exception for a code that the kernel returned. The runtime calls it."""
        reason = f": {message}" if message else ""
        return KernelError(f"the kernel {self.name} returned {code}{reason}", code)


class Kernel(Offerable):
    """A kernel as a JAX function of arrays; `callbax.native(..., kernel=True)` makes it.

    `callbax/kernel.h` says what a kernel is; [compiled code](../compiled.md#kernels)
    has one that is compiled and called.

    >>> import ctypes, callbax as cb
    >>> address = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p).value  # in place of a kernel's
    >>> cb.native(address, kernel=True, result=lambda x: x)
    <callbax.native kernel ...>
    """

    def __init__(
        self, function: CFunction, result: Any, user_data: int, owners: Any, vmap_method: str
    ):
        if vmap_method not in VMAP_METHODS:
            raise ValueError(
                f"vmap_method must be one of {list(VMAP_METHODS)}, but got: {vmap_method}"
            )
        named = {} if user_data else c_names.of_symbol(function) or {}
        self._function = KernelFunction(function.address, user_data, str(function), owners, **named)
        self._result = result
        self._vmap_method = vmap_method
        self.__name__ = function.short_name

    def __repr__(self) -> str:
        return f"<callbax.native kernel {self._function.name}>"

    def offer(self) -> Offer:
        kernel = self._function
        if not kernel.symbol:
            raise ValueError(
                f"callbax.allow cannot let in {self!r}: programs find a kernel by its library and its "
                "symbol there, and this one has no symbol, or it has user_data"
            )
        return Offer((kernel.symbol, kernel.library), kernel)

    @frames.api_boundary
    def __call__(self, *args: Any) -> Any:
        """Calls the kernel with the arrays that are the leaves of `args`, in order.

        Returns:
          A pytree of `jax.Array` as `result` says.

        Raises:
          TypeError: an argument or a result has a dtype that kernels do not know.
          jax.errors.JaxRuntimeError: the kernel returned a code other than 0;
            `callbax.original_exception` gives the `callbax.KernelError` with the code.
        """
        function: Any = self._function  # called by the runtime, and never as a Python function
        host_call, values = HostCall.from_arguments(function, args, {}, split_static=False)
        values = [jax.numpy.asarray(value) for value in values]
        abstract = jax.tree.unflatten(
            jax.tree.structure(args), [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in values]
        )
        spec = self._result(*abstract) if callable(self._result) else self._result
        avals, tree = flatten_result_spec(spec, self._function)
        self._check_dtypes("argument", values)
        self._check_dtypes("result", avals)
        results = primitives.bind(KERNEL, host_call, values, avals, vmap_method=self._vmap_method)
        return jax.tree.unflatten(tree, results)

    def _check_dtypes(self, role: str, arrays: Any) -> None:
        for i, array in enumerate(arrays):
            if array.dtype not in _DTYPES:
                raise TypeError(
                    f"{role} {i} of the kernel {self._function.name} has dtype {array.dtype}, for "
                    "which callbax/kernel.h has no code; convert it"
                )


def _find(name: dict[str, Any]) -> Any:
    symbol, library = (program_names.string(name, key) for key in ("kernel", "library"))
    missing = (
        "which this process has not let in. If you trust the program to call it with arrays of any "
        "number, shapes and dtypes, write callbax.allow(kernel) before it runs, where kernel is what "
        "callbax.native has made of it."
    )
    return offers.find((symbol, library), f"the kernel {symbol} of {library}", missing)


identity.add_kind("kernel", _find)
