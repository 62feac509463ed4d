"""`native`: compiled C functions, by their pointers, as JAX functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

import jax

from callbax._compiled import c_functions, c_names, loop_names
from callbax._compiled.c_functions import CFunction
from callbax._compiled.c_signature import CSignature, parse
from callbax._compiled.derivatives import Central
from callbax._compiled.kernels import Kernel
from callbax._compiled.loops import Loop
from callbax._compiled.scalars import Owners, ScalarFunction
from callbax._compiled.ufunc import Ufunc, ufunc
from callbax._external.results import Like
from callbax._host.trust import OptIn
from callbax._typing import JaxVmapMethod


def get_include() -> str:
    """The directory to give to a C compiler's -I, for `#include <callbax/kernel.h>`.

    Returns:
      Its path.

    >>> import callbax, os
    >>> os.path.exists(os.path.join(callbax.get_include(), "callbax", "kernel.h"))
    True
    """
    return str(Path(__file__).resolve().parent.parent / "include")


@overload
def native(
    fn: Any,
    signature: str | None = None,
    *,
    kernel: Literal[False] = False,
    user_data: Any = None,
    parallel: bool = False,
    derivatives: Sequence[Any] | None = None,
    derivative: Central | None = None,
) -> Ufunc[..., jax.Array]: ...


@overload
def native(
    fn: Any,
    *,
    kernel: Literal[True],
    result: Any,
    user_data: Any = None,
    vmap_method: JaxVmapMethod = "sequential",
) -> Kernel: ...


def native(
    fn: Any,
    signature: str | None = None,
    *,
    kernel: bool = False,
    result: Any = None,
    user_data: Any = None,
    vmap_method: JaxVmapMethod | None = None,
    parallel: bool = False,
    derivatives: Sequence[Any] | None = None,
    derivative: Central | None = None,
) -> Ufunc[..., jax.Array] | Kernel:
    """Makes a JAX function of a compiled C function. Python and its GIL have no part in a call.

    There are two shapes of callee. A *scalar* function, such as `double (double, int)`, is mapped over
    arrays that broadcast, and batched and differentiated like a ufunc; see `callbax.ufunc`. Its
    arguments and its result are of the types double, float, int and 64-bit integers, up to four in
    any mixture; or, up to three, of complex double (or complex float) with real numbers of the same
    precision and integers. A *kernel* gets whole arrays, by the prototype of `callbax/kernel.h` (see
    `callbax.get_include`).

    XLA may run two calls at the same time on two threads, so the function must not keep state. It, the
    object that it comes from and its shared library stay alive as long as a program may call
    it.

    Args:
      fn: a function of ctypes or cffi, a Numba `@cfunc`, a `scipy.LowLevelCallable`, a capsule of a
        Cython module's `__pyx_capi__` or another capsule of a function pointer, or an address. It has
        to be a C function of just the signature that it is said to have: nothing can check that.
      signature: as in C, "double (double, int)", or as in Numba, "float64(float64, int32)"; needed
        if `fn` does not say itself. Only for scalar functions.
      kernel: `fn` is a kernel.
      result: of a kernel: a pytree of `jax.ShapeDtypeStruct`, or a function of the abstract arguments
        that returns one, such as `lambda x, *_: x`.
      user_data: what the function gets as its trailing `void*` argument, or the kernel as
        `call->user_data`: a NumPy array or a ctypes object, by its address, or a pointer.
      vmap_method: of a kernel, as in `callbax.pure_callback`. The default runs it once for each lane,
        in one native loop.
      parallel: of a scalar function: one call on a large array is split over XLA's threads.
      derivatives, derivative: of a scalar function, as in `callbax.ufunc`.

    Returns:
      A function of arrays. The elements are converted to the C function's types where JAX's
      promotion loses nothing; with x64 disabled a double result becomes float32 afterwards.

    Raises:
      TypeError: `fn` is none of these objects, or what it says differs from `signature`; there is no
        signature, or one that cannot be called; later, arguments that the function cannot take.
      ValueError: a null pointer; text that is not a signature.

    >>> import callbax as cb, jax
    >>> from scipy.special import cython_special
    >>> digamma = cb.native(cython_special.__pyx_capi__["__pyx_fuse_1psi"])
    >>> jax.jit(jax.vmap(digamma))(jax.numpy.array([1.0, 2.0]))
    Array([-0.5772157 ,  0.42278433], dtype=float32)
    """
    function = c_functions.read(fn)
    data = function.user_data if user_data is None else c_functions.address_of_data(user_data)
    owners = Owners(function.needs_alive, user_data)
    if kernel:
        _check_kernel(function, signature, result)
        if derivatives is not None or derivative is not None:
            raise TypeError(
                f"the kernel {function} takes no derivatives=; give its call a derivative with "
                "jax.custom_jvp or jax.custom_vjp"
            )
        if parallel:
            raise TypeError(
                f"the kernel {function} takes no parallel=: it gets whole arrays, and threads are its own"
            )
        return Kernel(function, result, data, owners, vmap_method or "sequential")
    for name, value in (("result", result), ("vmap_method", vmap_method)):
        if value is not None:
            raise TypeError(
                f"{name}= is for kernels, but {function} is called elementwise: its result follows from "
                "its signature. Say kernel=True if it is a kernel of callbax/kernel.h."
            )
    program_name = None if data else c_names.of_object(fn, function)
    agreed = _agree(function, signature)
    if user_data is not None and agreed.tail != "void*":
        raise TypeError(
            f"{function} was given user_data=, but its signature {agreed} has no trailing void* for it"
        )
    scalar = ScalarFunction(function, agreed, data, owners, program_name, parallel, OptIn(fn))
    return ufunc(scalar, derivatives=derivatives, derivative=derivative)


def _agree(function: CFunction, text: str | None) -> CSignature:
    """The signature that the object carries and the one that the user gives, if they are the same."""
    given = None if text is None else parse(text)
    known = function.signature
    if known is None and given is None:
        raise TypeError(
            f"{function} does not say {function.unsaid}; give the signature as "
            'callbax.native(fn, "double (double, int)")'
        )
    if known is None or given is None:
        return known or given  # type: ignore[return-value]
    if not known.is_said_by(given):
        raise TypeError(f"{function} is declared as {known}, but was given the signature {given}")
    return known


def _check_kernel(function: CFunction, signature: str | None, result: Any) -> None:
    leaves = jax.tree.leaves(result)
    is_spec = leaves and all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves)
    if not is_spec and (not callable(result) or isinstance(result, Like)):
        raise TypeError(
            f"the kernel {function} needs result=: shape and dtype of what it writes, as a pytree of "
            "jax.ShapeDtypeStruct, or a function of the abstract arguments that returns one, such as "
            f"lambda x: x; but it was given {result!r}"
        )
    if signature is not None:
        raise TypeError(
            f"the kernel {function} was given the signature {signature!r}, but every kernel has the one "
            "of callbax/kernel.h: int (const callbax_call*)"
        )
    known = function.signature
    if known is not None and not _may_be_kernel(known):
        raise TypeError(
            f"{function} is declared as {known}, but a kernel is int (const callbax_call*), see "
            "callbax/kernel.h; without kernel=True it is called elementwise"
        )


def _may_be_kernel(signature: CSignature) -> bool:
    """One pointer in, whatever the library that wraps it calls its target."""
    pointers = [*signature.arguments, *([signature.tail] if signature.tail else [])]
    return signature.result == "int32" and len(pointers) == 1 and pointers[0].endswith("*")


def _find(found: Any, types: str) -> Loop | None:
    """The loop of an imported C function, for programs that another process has traced."""
    try:
        loop = cast(ScalarFunction, native(found)).only_loop
    except (TypeError, ValueError):
        return None
    return loop if loop.types == types else None


loop_names.add_finder(_find)
