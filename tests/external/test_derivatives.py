"""Every route to a derivative: values, orders, modes, and each transformation of JAX."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from external.derivative_routes import each
from helpers import compile_count, devices
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

import callbax as cb

pytestmark = pytest.mark.sampled(12)

VMAP_METHODS = pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all"])


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def example(dtype="float64", shape=(3,)):
    generator = np.random.default_rng(0)

    def array():
        values = generator.uniform(0.3, 1.7, shape)
        if np.issubdtype(dtype, np.complexfloating):
            values = values + 1j * generator.uniform(-0.5, 0.5, shape)
        return jnp.asarray(values.astype(dtype))

    return array(), array()


def loss(f):
    """A real number from `f`, which uses all its results."""

    def of(x, y):
        out = f(x, y)
        weights = jnp.arange(1, out.size + 1).reshape(out.shape).astype(out.dtype)
        weighted = (out * weights).sum()
        return weighted.real

    return of


def derivative(modes, f):
    """The first derivative of `f`, in each of the modes: along (1, -1), and a gradient."""

    def of(x, y):
        derivatives = []
        if "fwd" in modes:
            derivatives.append(jax.jvp(f, (x, y), (jnp.ones_like(x), -jnp.ones_like(y)))[1])
        if "rev" in modes:
            derivatives.append(jax.grad(loss(f), (0, 1))(x, y))
        return derivatives

    return of


def assert_close(actual, expected, tolerance):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance),
        actual,
        expected,
    )


@each()
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_both_modes_give_the_true_derivative(route, dtype):
    f, (x, y) = route.make(), example(dtype)
    tolerance = route.tolerance[dtype == "float32"]
    modes = [jax.jacfwd] * bool(route.forward) + [jax.jacrev] * bool(route.reverse)
    actual = jax.jit(lambda x, y: [mode(f, (0, 1))(x, y) for mode in modes])(x, y)
    expected = jax.jit(jax.jacfwd(route.reference, (0, 1)))(x, y)
    assert_close(actual, [expected] * len(modes), tolerance)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(actual))


@each(lambda route: route.complex)
@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
def test_complex_derivatives_follow_jax(route, dtype):
    f, (x, y) = route.make(), example(dtype)
    tolerance = 10 * route.tolerance[dtype == "complex64"]
    actual, expected = (jax.jit(derivative(route.modes, g))(x, y) for g in (f, route.reference))
    assert_close(actual, expected, tolerance)


@each()
def test_derivatives_hold_to_the_order_stated(route):
    f, arguments = route.make(), example()
    tolerance = max(2e-3, route.tolerance[0])
    for mode, order in (("fwd", route.forward), ("rev", route.reverse)):
        if order:
            check_grads(
                jax.jit(f), arguments, min(order, 2), [mode], atol=tolerance, rtol=tolerance
            )


@each(lambda route: route.name in ("defjvps", "transpose"))
def test_orders_beyond_the_second(route):
    check_grads(jax.jit(route.make()), example(), 3, ["fwd"])


@each(lambda route: route.forward and route.reverse)
def test_single_precision_derivatives_pass_jaxs_check(route):
    f, arguments = route.make(), example("float32")
    check_grads(jax.jit(f), arguments, 1, atol=5e-2, rtol=5e-2)


@each(lambda route: route.name in ("defjvps", "central", "complex_step"))
def test_second_derivatives_in_every_combination_of_modes(route):
    f, (x, y) = route.make(), example()
    modes = (jax.jacfwd, jax.jacrev)

    def second(x, y):
        return [outer(inner(loss(f), (0, 1)), (0, 1))(x, y) for outer in modes for inner in modes]

    expected = jax.jit(jax.hessian(loss(route.reference), (0, 1)))(x, y)
    assert_close(jax.jit(second)(x, y), [expected] * 4, max(1e-6, 20 * route.tolerance[0]))


@each(lambda route: route.forward == route.reverse == 1)
def test_first_order_routes_say_so(route):
    f, (x, y) = route.make(), example()
    with pytest.raises(ValueError, match=r"full\w* \(.*host code \(host_.*first order.*defjvp"):
        jax.hessian(loss(f))(x, y)


EXPECTED = {}


def assert_same_run(route, program, transform):
    """`transform(modes, f)` gives the same for the route's function and for its reference."""

    def run(f):
        return jax.jit(transform(route.modes, f))(*example())

    key = (program, route.reference, *route.modes)  # many routes have one reference
    if key not in EXPECTED:
        EXPECTED[key] = run(route.reference)
    assert_close(run(route.make()), EXPECTED[key], 20 * route.tolerance[0])


def batched(x, count):
    return x * jnp.linspace(0.5, 1.5, count).reshape(-1, *(1,) * x.ndim)


def vmap(g, x, y):
    return jax.vmap(g, (0, None))(batched(x, 4), y)


def nested_vmap(g, x, y):
    return jax.vmap(jax.vmap(g, (None, 0)), (0, None))(batched(x, 2), batched(y, 3))


def scan(g, x, y):
    def body(x, y):
        derivatives = g(x, y)
        return x + 0.1 * jax.tree.leaves(derivatives)[0].sum(), derivatives

    return jax.lax.scan(body, x, batched(y, 3))


def cond(g, x, y):
    return jax.lax.cond(x.sum() > 0, g, lambda x, y: jax.tree.map(jnp.zeros_like, g(y, x)), x, y)


def fori_loop(g, x, y):
    return jax.lax.fori_loop(0, 3, lambda i, x: x + 0.1 * jax.tree.leaves(g(x, y))[0].mean(), x)


PROGRAMS = [vmap, nested_vmap, scan, cond, fori_loop]


@each()
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_derivatives_inside_transformations(route, program):
    assert_same_run(route, program, lambda modes, f: partial(program, derivative(modes, f)))


def over_scan(f, x, y):
    return jax.lax.scan(lambda x, y: (jnp.tanh(f(x, y)), f(y, x).sum()), x, batched(y, 3))[0]


def over_cond(f, x, y):
    return jax.lax.cond(x.sum() > 0, f, lambda x, y: x * y, x, y)


def over_remat(f, x, y):
    return jax.checkpoint(lambda x: f(jnp.sin(f(x, y)), y))(x)


def over_vmap(f, x, y):
    return jax.vmap(f, (0, None))(batched(x, 4), y)


def over_jit(f, x, y):
    return jax.jit(f)(x, jax.jit(f)(y, x))


OVER = [over_scan, over_cond, over_remat, over_vmap, over_jit]


@each()
@pytest.mark.parametrize("program", OVER, ids=lambda program: program.__name__)
def test_derivatives_of_transformed_programs(route, program):
    assert_same_run(route, program, lambda modes, f: derivative(modes, partial(program, f)))


@each()
@VMAP_METHODS
def test_every_vmap_method_serves_the_derivative(route, method):
    make = partial(route.make, vmap_method=method)
    route = dataclasses.replace(route, make=make)
    assert_same_run(route, vmap, lambda modes, f: partial(vmap, derivative(modes, f)))


@each(lambda route: route.reverse)
@pytest.mark.parametrize("check_vma", [True, False])
def test_gradients_in_shard_map(route, check_vma):
    """Also for an argument that is the same on all devices: its cotangents are summed."""
    f, (_, weights) = route.make(), example()
    x = example(shape=(12,))[0]
    mesh = Mesh(np.array(devices(4)), ("i",))
    split, whole = PartitionSpec("i"), PartitionSpec()

    def gradient(f):
        def local(x, weights):
            return f(x, weights) * weights

        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=check_vma
        )
        return jax.jit(jax.grad(loss(mapped), (0, 1)))(x, weights)

    def in_parts(x, w):
        return jax.vmap(lambda x: route.reference(x, w) * w)(x.reshape(4, 3)).ravel()

    expected = jax.jit(jax.grad(loss(in_parts), (0, 1)))(x, weights)
    assert_close(gradient(f), expected, 20 * route.tolerance[0])


@each()
def test_nothing_is_compiled_twice(route):
    f, (x, y) = route.make(), example()
    g = jax.jit(derivative(route.modes, f))
    jax.block_until_ready((g(x, y), x + 1))
    with compile_count() as compiled:
        jax.block_until_ready((g(x + 1, y), g(y, x)))
    assert compiled == []


@each()
def test_equal_rules_make_equal_functions(route):
    f = route.make()
    assert f == f
    plain = type(f)(f.function, f.options)
    rules = f.definition.rules
    plain.definition = dataclasses.replace(plain.definition, rules=rules)
    assert plain == f and hash(plain) == hash(f)
    plain.definition = dataclasses.replace(plain.definition, rules=())
    assert (plain == f) == (rules == ())


def test_tangents_may_be_python_numbers():
    for derivative in ("central", None):
        sine = cb.external(np.sin, result="broadcast", derivative=derivative)
        if derivative is None:
            sine.def_host_jvp(lambda primals, tangents: np.cos(primals[0]) * tangents[0])
        _, tangent = jax.jvp(sine, (1.0,), (1.0,))
        np.testing.assert_allclose(tangent, np.cos(1.0), rtol=1e-3)
        check_grads(sine, (1.0,), order=1, rtol=1e-2, atol=1e-2)


def test_cotangents_of_broadcast_arguments_are_summed():
    product = cb.external(np.multiply, result="broadcast")
    product.def_host_vjp(lambda primals, outputs, ct: (ct * primals[1], ct * primals[0]))
    a, b = jnp.arange(6.0).reshape(2, 3), jnp.arange(3.0)

    def total(function):
        return lambda a, b, c: (function(a, b) + function(b, c)).sum()

    for transform in (lambda f: f, jax.jit, lambda f: jax.vmap(f, (0, None, None))):
        actual = transform(jax.grad(total(product), (0, 1, 2)))(a, b, 3.0)
        expected = transform(jax.grad(total(jnp.multiply), (0, 1, 2)))(a, b, 3.0)
        for one, other in zip(actual, expected, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other)


@pytest.mark.sampled(8)
@each(lambda route: route.reverse)
def test_gradients_around_a_shard_map(route):
    """Without jit."""
    f, (x, weights) = route.make(), example(shape=(4, 3))
    mesh, split = Mesh(np.array(devices(4)), ("i",)), PartitionSpec("i")

    def gradient(f):
        mapped = jax.shard_map(jax.vmap(f), mesh=mesh, in_specs=split, out_specs=split)
        return jax.grad(loss(mapped), (0, 1))(x, weights)

    expected = jax.grad(loss(jax.vmap(route.reference)), (0, 1))(x, weights)
    assert_close(gradient(f), expected, 20 * route.tolerance[0])


RULES = {
    "jvp": lambda f: f.defjvp(lambda p, t: (f(*p), (jnp.cos(p[0]) * t[0], None))),
    "vjp": lambda f: f.defvjp(lambda x: (f(x), x), lambda x, ct: (jnp.cos(x) * ct[0],)),
    "host_vjp": lambda f: f.def_host_vjp(lambda p, outputs, ct: (np.cos(p[0]) * ct[0],)),
}


@pytest.mark.parametrize("rule", RULES)
def test_integer_results_in_shard_map(rule):
    """Their tangents vary over the devices as they do."""
    struct = jax.ShapeDtypeStruct
    f = cb.external(
        lambda x: (np.sin(x), np.sign(x).astype(np.int32)),
        result=lambda x: (x, struct(x.shape, np.int32)),
    )
    RULES[rule](f)
    mesh, split = Mesh(np.array(devices(4)), ("i",)), PartitionSpec("i")
    shard = jax.shard_map(lambda x: f(x)[0] * f(x)[1], mesh=mesh, in_specs=split, out_specs=split)
    x = np.linspace(-1, 2, 8)
    expected = np.cos(x) * np.sign(x)
    for gradient in (
        jax.grad(lambda x: shard(x).sum()),
        jax.jit(jax.grad(lambda x: shard(x).sum())),
    ):
        np.testing.assert_allclose(gradient(x), expected, rtol=1e-12)


@pytest.mark.parametrize("derivative", ["central", "forward", "complex_step"])
def test_numerical_derivatives_of_empty_arrays(derivative):
    f = cb.external(lambda x: 2 * x, result=cb.like(0), derivative=derivative)
    empty = np.zeros((0, 3))
    assert jax.grad(lambda x: f(x).sum())(empty).shape == (0, 3)
    assert jax.jvp(f, (empty,), (empty,))[1].shape == (0, 3)


@each()
@pytest.mark.parametrize(
    "setting",
    [
        partial(jax.numpy_rank_promotion, "raise"),
        partial(jax.numpy_dtype_promotion, "strict"),
        jax.checking_leaks,
        partial(jax.debug_nans, True),
    ],
    ids=["rank", "dtype", "leaks", "nans"],
)
def test_under_strict_settings(route, setting):
    f, (x, weights) = route.make(), example(shape=(3,))
    with setting():
        for order in range(1, route.orders + 1):
            modes = [route.modes[0]] * order
            jax.jit(jax.vmap(derivative(modes, f)))(x[None], weights[None])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [3, 80])
def test_complex_steps_from_half_precision(dtype, size):
    f = cb.external(lambda x: (x * x).astype(x.dtype), result=cb.like(0), derivative="complex_step")
    x = jnp.linspace(0.5, 2, size).astype(dtype)
    gradient = jax.jit(jax.grad(lambda x: f(x).sum()))(x)
    value, tangent = jax.jvp(f, (x,), (x,))
    assert gradient.dtype == value.dtype == tangent.dtype == dtype
    np.testing.assert_allclose(gradient.astype(float), 2 * x.astype(float), rtol=1e-2)
