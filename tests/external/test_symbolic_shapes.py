"""External functions and compiled loops in programs that are exported with symbolic shapes."""

import re

import jax
import numpy as np
import pytest
import scipy.special
from jax import export

import callbax as cb

CHECKS = [
    export.DisabledSafetyCheck.custom_call(target) for target in ("callbax_call", "callbax_loop")
]

hypot = cb.external(np.hypot, result="broadcast", derivative="central")
alike = cb.external(np.hypot, result=cb.like(0), derivative="central")
product = cb.external(np.matmul, signature="(n,k),(k,m)->(n,m)")
solve = cb.external(np.linalg.solve, signature="(n,n),(n)->(n)")


def solve_where(matrix, right):
    return solve.call_where(matrix[..., 0, 0] > 0, matrix, right)


flipped = cb.external(
    np.transpose, result=lambda x: jax.ShapeDtypeStruct(x.shape[::-1], np.float32)
)
wide = cb.external(np.hypot, result="broadcast", dtype=np.float32, vmap_method="broadcast_all")
loop = cb.ufunc(np.hypot, derivative="central")
inferred = cb.external(np.hypot, result=cb.infer)
by_host_code = cb.external(np.sin, result=cb.like(0))
by_host_code.def_host_jvp(lambda primals, tangents: np.cos(primals[0]) * tangents[0])
on_threads = cb.external(np.hypot, result=cb.like(0), vmap_method="threads")


def exported(function, shapes):
    scope = export.SymbolicScope()
    structs = [
        jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope) if shape else (), np.float32)
        for shape in shapes
    ]
    return export.export(jax.jit(function), disabled_checks=CHECKS)(*structs)


def values(*shapes):
    generator = np.random.default_rng(0)
    return [generator.uniform(1, 2, shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("function", [hypot, wide, loop], ids=["external", "whole", "ufunc"])
@pytest.mark.parametrize(
    "symbolic, shapes",
    [
        (["b, 3", "3"], [(2, 3), (3,)]),
        (["b, 3", "b, 1"], [(2, 3), (2, 1)]),
        (["1, 3", "b, 1"], [(1, 3), (4, 1)]),
        (["a, b", "b"], [(2, 5), (5,)]),
        (["b, 3", ""], [(2, 3), ()]),
        (["a, 2*b", "2*b"], [(2, 6), (6,)]),
        (["b", "b"], [(1,), (1,)]),
    ],
)
def test_elementwise(function, symbolic, shapes):
    arguments = values(*shapes)
    actual = exported(function, symbolic).call(*arguments)
    np.testing.assert_allclose(actual, np.hypot(*arguments), rtol=1e-6)


@pytest.mark.parametrize("function", [hypot, loop], ids=["external", "ufunc"])
def test_elementwise_under_transformations(function):
    x, y = values((4, 3), (3,))
    batched = jax.vmap(function, (0, None))
    np.testing.assert_allclose(
        exported(batched, ["b, 3", "3"]).call(x, y), np.hypot(x, y), rtol=1e-6
    )
    gradient = jax.grad(lambda x, y: function(x, y).sum())
    actual = exported(gradient, ["b, 3", "3"]).call(x, y)
    np.testing.assert_allclose(actual, x / np.hypot(x, y), rtol=1e-2)


def test_results_like_an_argument_and_computed_ones():
    x, y = values((4, 3), (3,))
    np.testing.assert_allclose(exported(alike, ["b, c", "c"]).call(x, y), np.hypot(x, y), rtol=1e-6)
    np.testing.assert_array_equal(exported(flipped, ["b, c"]).call(x), x.T)
    tangent = lambda x, y: jax.jvp(alike, (x, y), (x, y))[1]  # noqa: E731
    np.testing.assert_allclose(
        exported(tangent, ["b, 3", "3"]).call(x, y), np.hypot(x, y), rtol=1e-2
    )


def test_core_dimensions_of_signatures():
    x, y = values((4, 3), (3, 2))
    np.testing.assert_allclose(exported(product, ["n, k", "k, m"]).call(x, y), x @ y, rtol=1e-6)


@pytest.mark.parametrize("call", [solve, jax.jit(solve), solve_where], ids=["eager", "jit", "live"])
@pytest.mark.parametrize(
    "symbolic, shapes",
    [
        (["b, 3, 3", "b, 3"], [(4, 3, 3), (4, 3)]),
        (["b, 3, 3", "3"], [(4, 3, 3), (3,)]),
        (["a, b, 3, 3", "b, 3"], [(2, 4, 3, 3), (4, 3)]),
    ],
)
@pytest.mark.filterwarnings("ignore:the exported program calls")
def test_batches_of_signatures(call, symbolic, shapes):
    matrix, right = values(*shapes)
    matrix = matrix + 3 * np.eye(3, dtype=np.float32)
    expected = np.linalg.solve(matrix, right[..., None])[..., 0]
    actual = exported(call, symbolic).call(matrix, right)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_functions_of_scipy():
    [x] = values((6,))
    of_order = jax.vmap(jax.grad(lambda z: cb.scipy.special.jv(1.0, z)))
    np.testing.assert_allclose(
        exported(of_order, ["b"]).call(x), scipy.special.jvp(1, x), rtol=1e-5
    )


@pytest.mark.parametrize(
    "function, shapes, message",
    [
        (hypot, ["b", "c"], "dimension 1 is b in x1, but c in x2"),
        (inferred, ["b", "b"], "on zeros, but the shapes of its arguments are symbolic here: (b,)"),
        (on_threads, ["b", "b"], "has the symbolic shape (b,) here, but on threads"),
        (jax.grad(lambda x, y: alike(x, y).sum()), ["b", "b"], "needs arrays of known sizes"),
        (
            lambda x: jax.jvp(by_host_code, (x,), (x,))[1],
            ["b"],
            "by host code need shapes that are",
        ),
    ],
)
def test_what_cannot_be(function, shapes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        exported(function, shapes)
