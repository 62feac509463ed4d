"""Compiled loops: the primitive that calls one, and its rules.

A loop is a C function of NumPy's inner-loop form,

    void loop(char** args, npy_intp const* dims, npy_intp const* steps, void* data)

which reads and writes whole arrays of items, and is called without Python and without the GIL. An
item is an element, or, if the loop has core dimensions, the trailing part of the array that these
make up. The other dimensions are the loop dimensions: `vmap` adds one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from callbax import _jax
from callbax._compiled import error_state, loop_lowering
from callbax._compiled.derivatives import Derivatives
from callbax._jax import per_shard, reductions
from callbax._runtime.errors import MissingDerivativeError


class LoopSource(Protocol):
    """Where a loop comes from. Hashable; equal sources are the same function; kept alive with it."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def path(self) -> str | None:
        """'module:name' of where it comes from, if it is known."""

    @property
    def program_name(self) -> dict[str, str] | None:
        """By which another process finds it; None if it exists in this one only."""

    def address(self) -> tuple[int, int]:
        """The addresses of the C function and of its data."""


@dataclasses.dataclass(frozen=True)
class Loop:
    """A compiled loop, as a parameter of the primitive: equal loops share traces and programs.

    Attributes:
      source: what it belongs to.
      operands, results: the types that the C function reads and writes.
      core: for each operand and then each result, the numbers of its core dimensions, which are
        counted as they first appear; empty for an elementwise loop.
      may_raise: the C function may set a Python exception (it takes the GIL itself).
      parallel: the items of a call may be split over threads.
    """

    source: Any
    operands: tuple[np.dtype, ...]
    results: tuple[np.dtype, ...]
    core: tuple[tuple[int, ...], ...] = ()
    may_raise: bool = False
    parallel: bool = True
    # What _host/names.py keeps here: its name in programs, if it has no stable one, and what keeps it
    # registered for exported programs.
    local_name: str | None = dataclasses.field(default=None, init=False, compare=False, repr=False)
    exported: Any = dataclasses.field(default=None, init=False, compare=False, repr=False)

    @property
    def types(self) -> str:
        """As NumPy writes them: 'dd->d'."""
        letters = ["".join(dtype.char for dtype in some) for some in (self.operands, self.results)]
        return "->".join(letters)

    def __str__(self) -> str:
        return f"{self.source.name} ({self.types})"

    def core_of(self, position: int) -> tuple[int, ...]:
        return self.core[position] if self.core else ()

    def loop_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The loop dimensions, from operands' shapes."""
        cut = (shape[: len(shape) - len(self.core_of(i))] for i, shape in enumerate(shapes))
        return next((shape for shape in cut if shape), ())

    def batch(self, shapes: Sequence[tuple[int, ...]]) -> per_shard.Batch:
        """The loop dimensions, of which each operand has all or none."""
        ranks = (len(shape) - len(self.core_of(i)) for i, shape in enumerate(shapes))
        return per_shard.Batch(self.loop_shape(shapes), tuple(tuple(range(r)) for r in ranks))


def bind_loop(
    loop: Loop,
    args: Sequence[Any],
    *,
    result_dtypes: Sequence[np.dtype] | None = None,
    core_sizes: tuple[int, ...] = (),
    derivatives: Derivatives | None = None,
) -> list[Any]:
    """Calls a compiled loop on JAX values. The loop dimensions broadcast.

    Args:
      loop: the loop.
      args: one array for each operand, of the loop's types, or where these have 64 bits of the same
        kind with 32, which the runtime widens.
      result_dtypes: of the results; the loop's, or likewise narrower ones. Default: the loop's, as
        far as JAX has them.
      core_sizes: the size of each core dimension.
      derivatives: how to differentiate; without, that is an error.

    Returns:
      A list with one array for each result.
    """
    ranks = [len(loop.core_of(i)) for i in range(len(args))]
    shape = jnp.broadcast_shapes(
        *(arg.shape[: arg.ndim - rank] for arg, rank in zip(args, ranks, strict=True))
    )
    # One item for all stays one: the loop reads it again and again.
    values = [
        arg if arg.ndim == rank else jnp.broadcast_to(arg, (*shape, *arg.shape[arg.ndim - rank :]))
        for arg, rank in zip(args, ranks, strict=True)
    ]
    if result_dtypes is None:
        result_dtypes = [_jax.canonical_dtype(dtype) for dtype in loop.results]
    return _primitive.bind(
        *values,
        loop=loop,
        result_dtypes=tuple(result_dtypes),
        core_sizes=core_sizes,
        derivatives=derivatives,
        errors=error_state.current(loop.source.path),
    )


def _abstract_eval(
    *avals: Any, loop: Loop, result_dtypes: Any, core_sizes: tuple[int, ...], **_: Any
) -> Any:
    shape = loop.loop_shape([aval.shape for aval in avals])
    cores = [
        tuple(core_sizes[d] for d in loop.core_of(len(avals) + i))
        for i in range(len(result_dtypes))
    ]
    weak = all(aval.weak_type for aval in avals)
    batch = loop.batch([aval.shape for aval in avals])
    return [
        _jax.ShapedArray(
            (*shape, *core),
            dtype,
            weak_type=weak,
            sharding=per_shard.distributed_as(avals, batch, len(shape) + len(core)),
        )
        for core, dtype in zip(cores, result_dtypes, strict=True)
    ]


def _jvp(primals: Any, tangents: Any, *, loop: Loop, derivatives: Any, **params: Any) -> Any:
    answers = _primitive.bind(*primals, loop=loop, derivatives=derivatives, **params)
    given = [None if _jax.is_zero_tangent(tangent) else tangent for tangent in tangents]
    if derivatives is None:
        raise MissingDerivativeError(
            f"{loop.source.name} has no derivative. Give derivative rules with derivatives=, or stop "
            "the differentiation of its arguments with jax.lax.stop_gradient."
        )
    outputs = derivatives.jvp(primals, answers, given)
    return answers, [
        _jax.zero_tangent(answer) if output is None else output
        for answer, output in zip(answers, outputs, strict=True)
    ]


def _batch(args: Any, dims: Any, *, loop: Loop, **params: Any) -> Any:
    size = next(arg.shape[d] for arg, d in zip(args, dims, strict=True) if d is not None)
    shape = loop.loop_shape([_shape_without(arg, d) for arg, d in zip(args, dims, strict=True)])

    def widen(position: int, arg: Any, d: int | None) -> Any:
        rank = len(loop.core_of(position))
        if d is None:
            if np.ndim(arg) == rank:
                return arg
            return jnp.broadcast_to(arg, (size, *np.shape(arg)))
        arg = _jax.move_axis(arg, d, 0)
        core = arg.shape[arg.ndim - rank :]
        if arg.ndim == rank + 1:  # one item for each lane
            arg = arg.reshape(size, *(1,) * len(shape), *core)
        return jnp.broadcast_to(arg, (size, *shape, *core))

    values = [widen(i, arg, d) for i, (arg, d) in enumerate(zip(args, dims, strict=True))]
    results = _primitive.bind(*values, loop=loop, **params)
    return results, [0] * len(results)


def _shape_without(arg: Any, d: int | None) -> tuple[int, ...]:
    # Where it is not batched, a Python number may be among the arguments.
    return np.shape(arg) if d is None else (*arg.shape[:d], *arg.shape[d + 1 :])


_primitive = _jax.Primitive("callbax_loop")
_primitive.multiple_results = True
_primitive.def_abstract_eval(_abstract_eval)
_primitive.def_impl(partial(_jax.apply_primitive, _primitive))
_jax.primitive_jvps[_primitive] = _jvp
_jax.primitive_batchers[_primitive] = _batch
_jax.register_lowering(_primitive, loop_lowering.lower)
reductions.host_calls[_primitive] = lambda params: f"the compiled function {params['loop']}"
