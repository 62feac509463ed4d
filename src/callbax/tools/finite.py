"""check_finite: values and gradients that must be neither infinite nor NaN."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax import debug
from callbax.tools._places import describe_place, line_of_caller

_MOST_LEAVES = 8


def check_finite(tree: Any, name: str = "", step: Any = None, gradients: bool = False) -> Any:
    """`tree`, unless a value in it is infinite or NaN: then the program fails.

    The error names each leaf with such values and the first of them, the step, the lanes of `vmap`,
    and the device. For the rest, this is `raise_if`.

    Args:
      tree: a pytree. Leaves that are not arrays of floating-point or complex numbers pass.
      name: what the error calls it.
      step: a number that the error names, such as the step of the loop around.
      gradients: in reverse mode, check the gradients with respect to `tree`, too.

    Returns:
      `tree`. With `gradients`, use it: the gradients are those that reach the result.

    Raises:
      FloatingPointError: as `raise_if` raises.

    >>> import jax, callbax
    >>> @callbax.tools.checked
    ... @jax.jit
    ... def f(params):
    ...     return check_finite(params, "params", step=7)
    >>> f({"w": [1.0, jax.numpy.array([2.0, float("nan")])]})
    Traceback (most recent call last):
    FloatingPointError: params['w'][1] has 1 value of 2 that is not finite: nan at [1] (step 7...)
    """
    where = line_of_caller()
    _check(tree, name, step, where)
    if not gradients:
        return tree
    return debug.on_gradient(
        tree, _GradientCheck(f"the gradient of {name or 'value'}", where), step
    )


@dataclasses.dataclass(frozen=True)
class _GradientCheck:
    """The check of a gradient: equal for equal checks, so that their programs are shared."""

    name: str
    where: str

    def __call__(self, gradient: Any, step: Any) -> None:
        _check(gradient, self.name, step, self.where)


def _check(tree: Any, name: str, step: Any, where: str) -> None:
    found = [
        (name + jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.inexact)
    ]
    if not found:
        return
    names, leaves = zip(*found, strict=True)
    failed = functools.reduce(operator.or_, (~jnp.isfinite(leaf).all() for leaf in leaves))
    debug.watch(_report, names, leaves, step, where, when=failed, quiet=True)


def _report(batch: debug.Batch, names: Any, leaves: Any, step: Any, where: str) -> None:
    lane = tuple(np.argwhere(batch.live)[0])
    failures = [
        text
        for name, leaf in zip(names, leaves, strict=True)
        if (text := _describe(name or "the value", leaf[lane]))
    ]
    if len(failures) > _MOST_LEAVES:
        failures[_MOST_LEAVES:] = [f"{len(failures) - _MOST_LEAVES} more leaves"]
    at = [where] if step is None else [f"step {_number(step, lane)}", where]
    error = FloatingPointError(f"{'; '.join(failures)} ({', '.join(at)}{describe_place(batch)})")
    raise error


def _describe(name: str, values: Any) -> str:
    """What is not finite of one array; empty if all is."""
    values = np.asarray(values)
    if values.dtype.kind not in "fc":
        values = values.astype(np.float32)  # of types that NumPy itself does not have
    wrong = np.argwhere(~np.isfinite(values))
    if not len(wrong):
        return ""
    first = values[tuple(wrong[0])]
    if not values.ndim:
        return f"{name} is {first}"
    verb = "value of {} that is" if len(wrong) == 1 else "values of {} that are"
    place = ", ".join(map(str, wrong[0]))
    return f"{name} has {len(wrong)} {verb.format(values.size)} not finite: {first} at [{place}]"


def _number(step: Any, lane: tuple[int, ...]) -> Any:
    return step[lane] if isinstance(step, np.ndarray) else step
