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
from callbax._compiled.c_functions import CFunction
from callbax._host.call import HostCall
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
    same objects alive."""

    address: int
    user_data: int
    name: str
    owners: Any = dataclasses.field(repr=False)

    @property
    def code(self) -> tuple[int, int]:
        """What the runtime calls (see _host/identity.py)."""
        return self.address, self.user_data

    @property
    def description(self) -> str:
        return self.name

    def failure(self, code: int, message: str) -> KernelError:
        """The exception for a code that the kernel returned. The runtime calls it."""
        reason = f": {message}" if message else ""
        return KernelError(f"the kernel {self.name} returned {code}{reason}", code)


class Kernel:
    """A kernel as a JAX function of arrays; `callbax.native(..., kernel=True)` makes it."""

    def __init__(
        self, function: CFunction, result: Any, user_data: int, owners: Any, vmap_method: str
    ):
        if vmap_method not in VMAP_METHODS:
            raise ValueError(
                f"vmap_method must be one of {list(VMAP_METHODS)}, but got: {vmap_method}"
            )
        self._function = KernelFunction(function.address, user_data, str(function), owners)
        self._result = result
        self._vmap_method = vmap_method
        self.__name__ = function.short_name

    def __repr__(self) -> str:
        return f"<callbax.native kernel {self._function.name}>"

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
