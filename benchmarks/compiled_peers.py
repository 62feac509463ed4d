"""Other ways of calling compiled code from a JAX program, as far as their libraries can be imported."""

import jax
import numpy as np

from callbax._tour.peers import tvm_registration

# The least that a C++ callee can do: one scalar, negated.
_SOURCE = """
void negate(tvm::ffi::TensorView x, tvm::ffi::TensorView y) {
  *static_cast<double*>(y.data_ptr()) = -*static_cast<const double*>(x.data_ptr());
}
"""


def tvm_ffi_negate():
    """jax-tvm-ffi with a callee in C++, compiled here."""
    register = tvm_registration()
    import tvm_ffi.cpp

    module = tvm_ffi.cpp.load_inline("callbax_benchmark", cpp_sources=_SOURCE, functions=["negate"])
    name = register(module.negate)
    return lambda x: jax.ffi.ffi_call(name, jax.ShapeDtypeStruct((), np.float64))(x)


def numba4jax_negate():
    """numba4jax with a callee compiled by Numba."""
    import numba
    import numba4jax

    @numba.njit
    def negate(arguments):
        out, x = arguments
        out[()] = -x[()]

    struct = jax.core.ShapedArray((), np.float64)
    call = numba4jax.njit_to_jax(negate, lambda x: struct)
    return lambda x: call(x)[0]


def negations():
    """The name and function of each, and a line for each that is not available."""
    found, missing = {}, []
    for name, find in (
        ("jax-tvm-ffi, C++ callee", tvm_ffi_negate),
        ("numba4jax", numba4jax_negate),
    ):
        try:
            found[name] = find()
            jax.block_until_ready(jax.jit(found[name])(1.5))
        except Exception as error:  # noqa: BLE001 - a peer that does not work here is left out
            found.pop(name, None)
            missing.append(
                f"Left out: {name} ({type(error).__name__}: {str(error).splitlines()[0]})."
            )
    return found, missing
