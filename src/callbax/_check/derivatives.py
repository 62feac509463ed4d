"""Self-tests of the derivatives: against finite differences, between the modes, under transformations.

Forward mode is compared, one argument at a time, with a central difference along a direction t,

    J t ≈ (4 D(h/2) - D(h)) / 3,    D(h) = (f(x + h t) - f(x - h t)) / 2h,

Richardson's extrapolation, whose error is O(h⁴) (Press et al., Numerical Recipes, 5.7). Reverse mode
is compared with forward mode by <c, J t> = <Jᵀ c, t> for a random cotangent c.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from callbax._check.report import NotTested
from callbax._check.samples import Sample, difference, random_like, widened
from callbax._external.jax_rules import VjpRule


def forward_agrees(sample: Sample) -> str:
    """jvp against finite differences."""
    if any(isinstance(rule, VjpRule) for rule in sample.function.definition.rules):
        raise NotTested("defvjp serves reverse mode only")
    for i in sample.differentiable:
        tangent = sample.direction(i)
        _, actual = jax.jvp(_of_one(sample, i), (sample.leaves[i],), (tangent,))
        expected = _finite_difference(sample, i, tangent)
        if found := difference(_inexact(actual), _inexact(expected), tolerance(sample)):
            return f"derivative in {sample.names[i]}: {found}"
    return ""


def reverse_agrees(sample: Sample) -> str:
    """vjp against finite differences."""
    for i in sample.differentiable:
        tangent = sample.direction(i)
        value, pull = jax.vjp(_of_one(sample, i), sample.leaves[i])
        cotangent = _cotangent(value)
        (gradient,) = pull(cotangent)
        actual = _pair(gradient, tangent)
        expected = _pair(cotangent, _finite_difference(sample, i, tangent))
        if found := difference(actual, expected, tolerance(sample)):
            return f"derivative in {sample.names[i]}: a directional derivative is {found}"
    return ""


def transformed_agrees(sample: Sample) -> str:
    """The gradient under jit, vmap and scan against the gradient itself."""
    lanes = [sample.lanes(i) for i in sample.differentiable]

    def gradient(*floating: Any) -> Any:
        return jax.grad(_weighted_sum(sample), tuple(range(len(floating))))(*floating)

    singles = [gradient(*lane) for lane in zip(*lanes, strict=True)]
    expected = jax.tree.map(lambda *parts: np.stack(parts), *singles)
    precision = 1e-4 if tolerance(sample) > 1e-4 else 1e-9
    first = [lane[0] for lane in lanes]
    if found := difference(jax.jit(gradient)(*first), singles[0], precision):
        return f"under jit: {found}"
    if found := difference(jax.vmap(gradient)(*lanes), expected, precision):
        return f"under vmap: {found}"
    _, scanned = jax.lax.scan(lambda carry, lane: (carry, gradient(*lane)), None, tuple(lanes))
    if found := difference(scanned, expected, precision):
        return f"under scan: {found}"
    return ""


def tolerance(sample: Sample) -> float:
    """What finite differences of the example's least precise array can promise."""
    return 1e-5 if _epsilon(sample) < 1e-12 else 2e-2


def _epsilon(sample: Sample) -> float:
    """The rounding error of the least precise array, or of the result, if that is less precise."""
    results = jax.tree.leaves(jax.eval_shape(sample.call, *sample.leaves))
    dtypes = [sample.leaves[i].dtype for i in sample.differentiable]
    dtypes += [r.dtype for r in results if jnp.issubdtype(r.dtype, jnp.inexact)]
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes)


def _of_one(sample: Sample, index: int) -> Any:
    """The function of one of its arrays."""
    leaves = sample.leaves

    def of_one(value: Any) -> Any:
        return sample.call(*leaves[:index], value, *leaves[index + 1 :])

    return of_one


def _finite_difference(sample: Sample, index: int, tangent: np.ndarray) -> Any:
    value = sample.leaves[index]
    step = _epsilon(sample) ** 0.2  # relative, as the tangent has the size of the elements
    function = _of_one(sample, index)

    def at(distance: float) -> Any:
        return jax.tree.map(widened, function((value + distance * tangent).astype(value.dtype)))

    def central(h: float) -> Any:
        return jax.tree.map(lambda above, below: (above - below) / (2 * h), at(h), at(-h))

    return jax.tree.map(
        lambda coarse, fine: (4 * fine - coarse) / 3, central(step), central(step / 2)
    )


def _inexact(tree: Any) -> list[Any]:
    """The leaves that have tangents: those of integer results are float0."""
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != jax.dtypes.float0]


def _cotangent(value: Any) -> Any:
    generator = np.random.default_rng(0)

    def of(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return np.zeros(leaf.shape, jax.dtypes.float0)
        return random_like(generator, leaf)

    return jax.tree.map(of, value)


def _pair(one: Any, other: Any) -> np.ndarray:
    """The real part of sum(one * other): JAX's pairing of cotangents with tangents."""
    total = 0.0
    for a, b in zip(_inexact(one), _inexact(other), strict=True):
        total += np.sum(widened(a) * widened(b)).real
    return np.asarray(total)


def _weighted_sum(sample: Sample) -> Any:
    """A real number that depends on each element of the result, to take gradients of."""

    def weighted_sum(*floating: Any) -> Any:
        leaves = list(sample.leaves)
        for i, value in zip(sample.differentiable, floating, strict=True):
            leaves[i] = value
        value = sample.call(*leaves)
        weights = _cotangent(value)
        parts = [
            jnp.sum(leaf * weight).real
            for leaf, weight in zip(jax.tree.leaves(value), jax.tree.leaves(weights), strict=True)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ]
        return sum(parts[1:], parts[0])

    return weighted_sum
