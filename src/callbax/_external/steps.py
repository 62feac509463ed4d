"""Steps of numerical derivatives: how far a number is moved.

The step of x is max(relative |x|, absolute). Unless the user says otherwise both are a power of eps,
the relative spacing of the coarsest dtype that takes part, which balances truncation and rounding:

    kind            first order    second order    error, relative to the function's scale
    central         eps^(1/3)      eps^(1/4)       eps^(2/3), eps^(1/2)
    forward         eps^(1/2)      eps^(1/3)       eps^(1/2), eps^(1/3)
    complex_step    eps^(3/2)      central of it   eps, eps^(2/3)

(Press et al., Numerical Recipes, section 5.7; for differences of differences the rounding error is
eps / h², and the truncation error as before.)
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

EXPONENTS = {
    ("central", 1): 1 / 3,
    ("central", 2): 1 / 4,
    ("forward", 1): 1 / 2,
    ("forward", 2): 1 / 3,
    ("complex_step", 1): 3 / 2,
    ("complex_step", 2): 3 / 2,
}


@dataclasses.dataclass(frozen=True)
class Steps:
    """How to move numbers, for derivatives of that order.

    Attributes:
      kind: "central", "forward" or "complex_step".
      given: the user's (relative, absolute), or None.
      order: 1, or 2 where the differences are differentiated again.
      dtypes: of the function's results.
    """

    kind: str
    given: tuple[float, float] | None
    order: int
    dtypes: tuple[Any, ...]

    def size(self, x: Any) -> Any:
        """The step of each number of `x`."""
        x = jnp.asarray(x)
        real = jnp.finfo(x.dtype).dtype
        if self.given is not None:
            relative, absolute = self.given
        else:
            eps = max(float(jnp.finfo(dtype).eps) for dtype in (x.dtype, *self.dtypes))
            relative = absolute = eps ** EXPONENTS[self.kind, self.order]
        return jnp.maximum(relative * jnp.abs(x), absolute).astype(real)

    def outer(self) -> Steps:
        """Those of the second differences, whose points are the first ones' origins."""
        if self.kind == "complex_step":
            return Steps("central", None, 1, self.dtypes)
        return self


def parse_step(where: str, step: Any) -> tuple[float, float] | None:
    """What `step=` says, as (relative, absolute).

    Raises:
      TypeError: it is neither a number nor a pair.
      ValueError: it is not positive and finite.
    """
    if step is None:
        return None
    pair = step if isinstance(step, (tuple, list)) else (step, step)
    try:
        relative, absolute = map(float, pair)
    except (TypeError, ValueError):
        raise TypeError(
            f"external function {where}: step={step!r} must be a number, or a pair (relative, "
            "absolute): x is moved by max(relative * |x|, absolute)"
        ) from None
    if not (0 <= relative < float("inf") and 0 < absolute < float("inf")):
        raise ValueError(
            f"external function {where}: step={step!r} must be positive and finite; of a pair "
            "(relative, absolute), relative may be zero"
        )
    return relative, absolute
