"""Derivatives of call_where: zero in dead lanes, and of the host calls they see live lanes only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import callbax as cb

pytestmark = pytest.mark.sampled(6)

x = np.float32([4, 0, -1, 9, 0.25])
live = x > 0
seen = []
seen_by_rules = []


def host_root(x):
    assert np.all(x > 0), "a dead lane"
    seen.append(np.array(x))
    return np.sqrt(x)


def host_slope(x):
    assert np.all(x > 0), "a dead lane, in a derivative"
    seen_by_rules.append(np.array(x))
    return np.asarray(0.5 / np.sqrt(x))


def by_defjvp(f, slope):
    @f.defjvp
    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), slope(x) * t / 1


def by_defjvp_of_itself(f, slope):
    f.defjvps(lambda t, root, x: t / (2 * f(x)))


def by_defvjp(f, slope):
    f.defvjp(lambda x: (f(x), x), lambda x, g: (slope(x) * g,))


def by_a_function_under_jit(f, slope):
    shared = jax.jit(slope)  # traced within the rule, and used again elsewhere
    f.defjvps(lambda t, root, x: t * shared(x))


def by_host_jvp(f, slope):
    f.def_host_jvp(lambda primals, tangents: host_slope(primals[0]) * tangents[0])


def by_host_vjp(f, slope):
    f.def_host_vjp(lambda primals, outputs, cotangents: (host_slope(primals[0]) * cotangents,))


ROUTES = [
    by_defjvp,
    by_defjvp_of_itself,
    by_defvjp,
    by_a_function_under_jit,
    by_host_jvp,
    by_host_vjp,
]
METHODS = ["sequential", "expand_dims", "threads"]


@pytest.fixture(autouse=True)
def forget():
    seen.clear()
    seen_by_rules.clear()


def root(route, method):
    f = cb.external(host_root, result=cb.like(0), vmap_method=method)
    slope = cb.external(host_slope, result=cb.like(0), vmap_method=method)
    route(f, slope)
    return f


def expected_slope(at):
    return np.where(at > 0, 0.5 / np.sqrt(np.abs(at) + (at == 0)), 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("route", ROUTES)
def test_reverse_and_forward_mode(route, method):
    f = root(route, method)

    def call(x):
        return f.call_where(x > 0, x, otherwise=-1.0)

    for transform in (lambda f: f, jax.jit):
        grads = transform(jax.vmap(jax.grad(call)))(x)
        np.testing.assert_allclose(grads, expected_slope(x), rtol=1e-6)
        of_sum = transform(jax.grad(lambda x: jax.vmap(call)(x).sum()))(x)
        np.testing.assert_allclose(of_sum, expected_slope(x), rtol=1e-6)
        if route is by_defvjp:
            continue
        values, tangents = transform(lambda x: jax.jvp(jax.vmap(call), (x,), (x + 3,)))(x)
        np.testing.assert_allclose(values, np.where(live, np.sqrt(np.abs(x)), -1), rtol=1e-6)
        np.testing.assert_allclose(tangents, expected_slope(x) * (x + 3), rtol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
def test_eager_single_calls(route):
    f = root(route, "sequential")
    call = jax.grad(lambda m, x: f.call_where(m, x, otherwise=x * 3), argnums=1)
    for _ in range(2):
        np.testing.assert_allclose(call(True, 4.0), 0.25, rtol=1e-6)
        np.testing.assert_allclose(call(False, 0.0), 3)


@pytest.mark.parametrize("options", [{}, {"vmap_method": "threads"}])
@pytest.mark.parametrize("derivative", ["central", "forward", "complex_step"])
def test_numerical_derivatives(derivative, options):
    def positive_root(x):
        assert np.all(np.real(x) > 0), "a dead lane"
        return np.sqrt(x)

    f = cb.external(positive_root, result=cb.like(0), derivative=derivative, **options)
    grads = jax.jit(jax.vmap(jax.grad(lambda x: f.call_where(x > 0, x))))(x)
    np.testing.assert_allclose(grads, expected_slope(x), rtol=1e-2)


def test_a_transpose():
    @cb.external(result=cb.like(0))
    def reverse(x):
        seen.append(x.copy())
        return x[::-1] * np.float32([1, 2])

    reverse.def_transpose(lambda t: (t * np.float32([1, 2]))[::-1])
    a = np.arange(6, dtype=np.float32).reshape(3, 2)
    mask = np.array([True, False, True])

    def total(a):
        return (jax.vmap(reverse.call_where)(mask, a) * a).sum()

    matrix = np.float32([[0, 1], [2, 0]])
    expected = mask[:, None] * (a @ (matrix + matrix.T))
    np.testing.assert_allclose(jax.jit(jax.grad(total))(a), expected, rtol=1e-6)


@pytest.mark.full
def test_higher_orders():
    f = root(by_defjvp_of_itself, "expand_dims")

    def call(x):
        return jax.vmap(lambda x: f.call_where(x > 0, x, otherwise=x * x))(x).sum()

    second = jax.vmap(jax.grad(jax.grad(lambda x: f.call_where(x > 0, x, otherwise=x * x))))(x)
    expected = np.where(live, -0.25 * np.abs(x + (x == 0)) ** -1.5, 2)
    np.testing.assert_allclose(second, expected, rtol=1e-5)
    np.testing.assert_allclose(np.diag(jax.hessian(call)(x)), expected, rtol=1e-5)
    check_grads(call, (np.float32([4, -1, -2, 9, 1.5]),), order=2, atol=2e-2, rtol=2e-2)


def test_derivatives_of_otherwise_and_of_shared_arguments():
    @cb.external(result=cb.like(0))
    def scale(x, factor):
        assert x > 0
        return x * factor

    scale.defjvps(lambda t, ans, x, factor: t * factor, lambda t, ans, x, factor: t * x)

    def total(x, factor, other):
        call = jax.vmap(lambda x, o: scale.call_where(x > 0, x, factor, otherwise=o))
        return call(x, other).sum()

    grads = jax.jit(jax.grad(total, (0, 1, 2)))(x, np.float32(3), x * 7)
    np.testing.assert_allclose(grads[0], np.where(live, 3, 0))
    np.testing.assert_allclose(grads[1], x[live].sum())
    np.testing.assert_allclose(grads[2], np.where(live, 0, 1))


def test_a_mask_within_a_mask():
    inner = cb.external(host_slope, result=cb.like(0))
    f = cb.external(host_root, result=cb.like(0))
    f.defjvps(lambda t, root, x: t * inner.call_where(x > 1, x, otherwise=100.0))
    grads = jax.jit(jax.vmap(jax.grad(lambda x: f.call_where(x > 0, x))))(x)
    np.testing.assert_allclose(grads, [0.25, 0, 0, 1 / 6, 100], rtol=1e-6)
    assert sorted(float(v) for v in seen_by_rules) == [4, 9]


def test_the_mask_does_not_outlive_its_rule():
    """A function under jit, traced within a rule, is used elsewhere without the mask."""
    slope = cb.external(host_slope, result=cb.like(0))
    shared = jax.jit(slope)
    f = cb.external(host_root, result=cb.like(0))
    f.defjvps(lambda t, root, x: t * shared(x))
    for _ in range(2):
        grads = jax.jit(jax.vmap(jax.grad(lambda x: f.call_where(x > 0, x))))(x)
        np.testing.assert_allclose(grads, expected_slope(x), rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(shared)(x[live]), expected_slope(x)[live], rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(jax.grad(f))(x[live]), expected_slope(x)[live])


def test_rules_that_are_added_later():
    f = cb.external(host_root, result=cb.like(0))
    np.testing.assert_allclose(f.call_where(True, 4.0), 2)
    f.defjvps(lambda t, root, x: t / (2 * root))
    np.testing.assert_allclose(jax.grad(lambda x: f.call_where(True, x))(4.0), 0.25)


def test_without_a_rule_the_advice_is_given():
    f = cb.external(host_root, result=cb.like(0))
    with pytest.raises(ValueError, match=r"host_root .* has no derivative\. Define one"):
        jax.grad(lambda x: f.call_where(x > 0, x))(4.0)


def test_remat_and_scan():
    f = root(by_defjvp_of_itself, "sequential")

    @jax.checkpoint
    def step(c, x):
        return c + f.call_where(x > 0, x), c

    total = jax.jit(lambda x: jax.lax.scan(step, jnp.float32(0), x)[0])
    np.testing.assert_allclose(jax.grad(total)(x), expected_slope(x), rtol=1e-6)
