"""Reductions: where XLA cannot call the host, and would end the process, there is an error.

`jax.lax.reduce`, `jax.lax.reduce_window` and `x.at[...].apply` take a function of elements, which XLA
compiles into its loop over them. A call of the host in it is a failed assertion of XLA's compiler (JAX
0.10 to 0.12). JAX refuses effects there by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax._src import core
from jax._src.lax import lax, slicing, windowed_reductions

from callbax._jax.jax_callbacks import replace_lowering

# Primitives that call the host, and what to call them in a message, by their parameters.
host_calls: dict[Any, Callable[[Any], str]] = {}

_REDUCTIONS = {
    lax.reduce_p: "jax.lax.reduce",
    windowed_reductions.reduce_window_p: "jax.lax.reduce_window",
    slicing.scatter_p: "x.at[...].apply",
}


def refuse_host_calls() -> None:
    for primitive, name in _REDUCTIONS.items():
        replace_lowering(primitive, _refusing(name))


def _refusing(name: str) -> Callable[..., Any]:
    def rule(jax_rule: Any, ctx: Any, *operands: Any, **params: Any) -> Any:
        for jaxpr in core.jaxprs_in_params(params):
            if (call := _host_call_in(jaxpr)) is not None:
                raise NotImplementedError(
                    f"{call} is applied to each element by {name}, in a loop of XLA's that cannot call "
                    "the host. Call it on whole arrays, as in x.at[i].set(f(x[i])), or combine elements "
                    "by jax.lax.scan or jax.lax.associative_scan."
                )
        return jax_rule(ctx, *operands, **params)

    return rule


def _host_call_in(jaxpr: Any) -> str | None:
    for equation in jaxpr.eqns:
        if (describe := host_calls.get(equation.primitive)) is not None:
            return describe(equation.params)
    return next(filter(None, map(_host_call_in, core.subjaxprs(jaxpr))), None)
