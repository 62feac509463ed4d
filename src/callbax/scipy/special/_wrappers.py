"""Functions of `scipy.special` that are thin Python around a ufunc: the same around ours."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from callbax.scipy import special


def lambertw(z: ArrayLike, k: ArrayLike = 0, tol: float = 1e-8) -> Array:
    """`scipy.special.lambertw` as a JAX function: the Lambert W function.

    Args:
      z: numbers; the result is complex.
      k: the branches, integers.
      tol: the tolerance of SciPy's iteration.

    Returns:
      An array of the shape to which z and k broadcast. It can be differentiated with respect to z.

    >>> import callbax as cb, jax
    >>> float(jax.grad(lambda x: cb.scipy.special.lambertw(x).real)(0.0))
    1.0
    """
    return special._lambertw(z, k, tol)


def zeta(x: ArrayLike, q: ArrayLike | None = None) -> Array:
    """`scipy.special.zeta` as a JAX function: the Hurwitz zeta function, or Riemann's.

    Args:
      x: the exponents.
      q: the first terms; left out, it is Riemann's zeta function.

    Returns:
      An array of the shape to which x and q broadcast. It can be differentiated with respect to q.

    >>> import callbax as cb, jax
    >>> zeta = cb.scipy.special.zeta
    >>> bool(jax.grad(zeta, argnums=1)(2.0, 5.0) == -2 * zeta(3.0, 5.0))
    True
    """
    return special._riemann_zeta(x) if q is None else special._zeta(x, q)


def polygamma(n: ArrayLike, x: ArrayLike) -> Array:
    """`scipy.special.polygamma` as a JAX function: the n-th derivative of the digamma function.

    By DLMF 25.11.12 it is (-1)^(n + 1) n! ζ(n + 1, x) for n > 0.

    Args:
      n: integers.
      x: real numbers.

    Returns:
      An array of the shape to which n and x broadcast. It can be differentiated with respect to x.

    >>> import callbax as cb, jax
    >>> polygamma = cb.scipy.special.polygamma
    >>> bool(jax.grad(polygamma, argnums=1)(0, 2.0) == polygamma(1, 2.0))
    True
    """
    n, x = jnp.asarray(n), jnp.asarray(x)
    sign = jnp.where(n % 2 == 0, -1.0, 1.0)
    # At n = 0 the zeta function has its pole, and no derivative.
    order = jnp.where(n == 0, 1, n)
    higher = sign * special.gamma(order + 1.0) * special._zeta(order + 1.0, x)
    return jnp.where(n == 0, special.digamma(x), higher)
