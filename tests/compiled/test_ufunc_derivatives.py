"""Rules of cb.ufunc under JAX's transformations, and what is said where there is none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.special.cython_special
from jax.extend.core import jaxpr_as_fun

import callbax as cb

jv = cb.ufunc(scipy.special.jv, derivatives=[None, lambda v, z: (jv(v - 1, z) - jv(v + 1, z)) / 2])
HYPOT_RULES = [lambda x, y: x / hypot(x, y), lambda x, y: y / hypot(x, y)]
hypot = cb.ufunc(np.hypot, derivatives=HYPOT_RULES)
Z = np.linspace(0.5, 4, 6)


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def jvp(v, z, order):
    return scipy.special.jvp(v, z, order)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["plain", "jit", "remat"]
)
@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd, jax.jacrev], ids=lambda f: f.__name__)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_orders_compose(mode, order, wrap):
    derivative = lambda z: jv(1, z)  # noqa: E731
    for _ in range(order):
        derivative = mode(wrap(derivative))
    np.testing.assert_allclose(jax.vmap(derivative)(Z), jvp(1, Z, order), rtol=1e-12)


def test_hessian_of_two_arguments():
    hessian = jax.jit(jax.hessian(lambda p: hypot(p[0], p[1])))(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(hessian, np.array([[16, -12], [-12, 9]]) / 125, rtol=1e-12)


SHAPES = [
    ((), ()),
    ((3,), ()),
    ((), (2, 3)),
    ((3,), (2, 1)),
    ((1,), (1,)),
    ((2, 3), (2, 3)),
    ((0,), ()),
]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize(
    "derivatives", [HYPOT_RULES, ["central", "central"]], ids=["rule", "central"]
)
def test_cotangents_are_summed_over_broadcast_axes(shapes, derivatives):
    random = np.random.default_rng(0)
    x, y = (random.uniform(1, 2, s) for s in shapes)
    f = cb.ufunc(np.hypot, derivatives=derivatives)
    ours, theirs = (
        jax.grad(lambda x, y, f=f: jnp.sin(f(x, y)).sum(), (0, 1))(x, y) for f in (f, jnp.hypot)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8)


def test_an_argument_without_a_rule_may_be_there():
    """As long as its tangent is zero: a constant, a traced value, in loops, batched, mapped."""
    at = jax.jit(lambda v, z: jax.grad(jv, 1)(v, z))
    np.testing.assert_allclose(at(1.0, 2.0), jvp(1, 2, 1))
    orders = jnp.arange(3.0)
    batched = jax.vmap(jax.grad(jv, 1), (0, None))(orders, 2.0)
    np.testing.assert_allclose(batched, jvp(np.arange(3), 2, 1))
    outside = jax.grad(lambda z: jax.vmap(jv, (0, None))(orders, z).sum())(2.0)
    np.testing.assert_allclose(outside, jvp(np.arange(3), 2, 1).sum())

    def loop(z):
        def step(carry, order):
            constant, total = carry
            return (constant, total + jv(order, z) + jv(constant, z)), None

        return jax.lax.scan(step, (jnp.float64(1), 0.0), orders)[0][1]

    expected = jvp(np.arange(3), 2, 1).sum() + 3 * jvp(1, 2, 1)
    np.testing.assert_allclose(jax.grad(loop)(2.0), expected)
    np.testing.assert_allclose(jax.jit(jax.grad(jax.checkpoint(loop)))(2.0), expected)
    choose = lambda z: jax.lax.cond(z > 0, lambda: jv(1.0, z), lambda: z)  # noqa: E731
    np.testing.assert_allclose(jax.grad(choose)(2.0), jvp(1, 2, 1))


def test_integer_arguments_have_no_tangent():
    np.testing.assert_allclose(jax.grad(jv, 1)(1, 2.0), jvp(1, 2, 1))
    _, tangent = jax.jvp(jv, (1, 2.0), (np.zeros((), jax.dtypes.float0), 1.0))
    np.testing.assert_allclose(tangent, jvp(1, 2, 1))
    ldexp = cb.ufunc(np.ldexp, derivatives=[lambda x, i: ldexp(jnp.ones_like(x), i), None])
    assert jax.grad(ldexp)(1.5, 3) == 8


def test_rules_that_take_the_tangent_and_the_answer():
    exp = cb.ufunc(np.exp, derivatives=[lambda t, answer, x: t * answer])
    assert jax.grad(jax.grad(exp))(0.0) == 1
    pow_ = cb.ufunc(np.float_power)
    assert pow_.defjvps(lambda t, ans, x, n: t * n * ans / x, None) is None
    np.testing.assert_allclose(jax.grad(jax.grad(pow_))(2.0, 3), 12)


@pytest.mark.parametrize(
    "rule",
    [
        lambda *args: 2 * args[0],
        lambda x, y, scale=2: scale * x,
        functools.partial(lambda scale, x, y: scale * x, 2),
    ],
    ids=["*args", "default", "partial"],
)
def test_rules_are_told_apart_by_their_parameters(rule):
    assert jax.grad(cb.ufunc(np.multiply, derivatives=[rule, None]))(3.0, 5.0) == 6


def test_a_ufunc_may_be_a_rule():
    sin = cb.ufunc(np.sin, derivatives=[cb.ufunc(np.cos)])
    assert jax.grad(sin)(0.0) == 1


def test_a_rule_may_be_constant():
    add = cb.ufunc(np.add, derivatives=[lambda x, y: 1.0, lambda x, y: jnp.ones(())])
    gradient = jax.grad(lambda x, y: add(x, y).sum(), (0, 1))(1.0, jnp.ones(4))
    np.testing.assert_array_equal(gradient[0], 4)
    np.testing.assert_array_equal(gradient[1], np.ones(4))


def test_several_results():
    rules = [lambda z: (airy(z)[1], z * airy(z)[0], airy(z)[3], z * airy(z)[2])]
    airy = cb.ufunc(scipy.special.airy, derivatives=rules)
    jacobian = jax.vmap(jax.jacrev(jax.jacfwd(lambda z: jnp.stack(airy(z)))))(Z)
    ai, aip, bi, bip = scipy.special.airy(Z)
    expected = np.stack([Z * ai, ai + Z * aip, Z * bi, bi + Z * bip], 1)
    np.testing.assert_allclose(jacobian, expected, rtol=1e-12)


def test_results_that_are_integers_have_no_tangent():
    frexp = cb.ufunc(np.frexp, derivatives=[lambda x: (jnp.exp2(-frexp(x)[1]), None)])
    assert jax.grad(lambda x: frexp(x)[0])(3.0) == 0.25
    primals, tangents = jax.jvp(frexp, (3.0,), (1.0,))
    assert tangents[1].dtype == jax.dtypes.float0


def test_holomorphic_functions():
    z = 1 + 0.5j
    gradient = jax.grad(lambda z: jv(1.0, z), holomorphic=True)(z)
    np.testing.assert_allclose(gradient, jvp(1, z, 1), rtol=1e-12)


def test_a_complex_derivative_of_a_real_result_is_refused():
    absolute = cb.ufunc(np.absolute, derivatives=[lambda z: z / jnp.abs(z)])
    with pytest.raises(TypeError, match="derivative of absolute for argument 0 is complex"):
        jax.grad(absolute)(1 + 1j)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_central_differences(dtype):
    f = cb.ufunc(jv, derivative="central")
    z = jnp.asarray(2.0, dtype)
    order, argument = jax.grad(f, (0, 1))(jnp.asarray(1.0, dtype), z)
    assert order.dtype == argument.dtype == z.dtype
    np.testing.assert_allclose(
        float(order), -0.05618, rtol={"float64": 1e-4, "float32": 1e-3}.get(dtype, 1e-2)
    )
    np.testing.assert_allclose(
        float(argument), jvp(1, 2, 1), rtol=1e-5 if dtype == "float32" else 1e-2
    )


def test_central_differences_have_derivatives():
    f = cb.ufunc(np.sin, derivative="central")
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.grad(f)))(Z), -np.sin(Z), rtol=1e-4)
    np.testing.assert_allclose(jax.jacrev(lambda z: f(z))(Z), np.diag(np.cos(Z)), atol=1e-9)
    with jax.enable_x64(False):
        assert jax.grad(f)(1.0).dtype == np.float32


def test_central_differences_leave_rules_alone():
    f = cb.ufunc(jv, derivative="central")
    assert f.derivatives == ("central", jv.derivatives[1])
    g = cb.ufunc(jv, derivatives=[lambda v, z: 0 * z, None])
    assert g.derivatives[1] is jv.derivatives[1]
    assert jv.derivatives[0] is None


class NoClosedForm:
    reason = "nobody knows one"


def test_a_missing_rule_says_what_to_do():
    message = (
        r"jv has no derivative with respect to argument 0 .* callbax.ufunc.jv, derivatives="
        r".lambda .args: \.\.\., None.. .*derivative=.central.*stop_gradient"
    )
    with pytest.raises(NotImplementedError, match=message):
        jax.grad(jv)(1.0, 2.0)
    with pytest.raises(NotImplementedError, match="argument 0: nobody knows one. Give"):
        jax.jit(jax.grad(cb.ufunc(scipy.special.jv, derivatives=[NoClosedForm(), None])))(1.0, 2.0)
    assert jax.grad(lambda v: jv(jax.lax.stop_gradient(v), v))(1.0) != 0


def test_a_missing_rule_of_a_c_function_names_what_has_made_it():
    beta = cb.native(scipy.special.cython_special.__pyx_capi__["betaln"])
    with pytest.raises(NotImplementedError, match=r"callbax.native\(.*callbax.native\("):
        jax.grad(beta)(1.0, 2.0)


STRUCT = jax.ShapeDtypeStruct((), np.float64)
WITHOUT_DERIVATIVE = {
    "jax": lambda x: jax.pure_callback(np.sin, STRUCT, x),
    "pure": lambda x: cb.pure_callback(np.sin, STRUCT, x),
    "io": lambda x: cb.io_callback(np.sin, STRUCT, x, ordered=True),
    "call": lambda x: cb.host_callback.call(np.sin, x, result_shape=STRUCT),
    "external": cb.external(np.sin, result=STRUCT),
    "effects": cb.external(np.sin, result=STRUCT, effects="io"),
    "ufunc": cb.ufunc(np.sin),
    "special": lambda x: cb.scipy.special.jv(x, 1.0),
    "twice": lambda x: jax.grad(cb.scipy.special.gammainc)(x, 1.0),
    "native": cb.native(scipy.special.cython_special.__pyx_capi__["i0"]),
}


@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
def test_a_missing_derivative_is_the_error_that_it_is_in_jax_whatever_lacks_it(name):
    with pytest.raises(ValueError, match="derivative|do not support JVP|does not support JVP"):
        jax.grad(WITHOUT_DERIVATIVE[name])(1.0)


def test_a_missing_derivative_of_a_compiled_function_is_not_implemented_either():
    with pytest.raises(cb.MissingDerivativeError) as raised:
        jax.grad(WITHOUT_DERIVATIVE["ufunc"])(1.0)
    assert isinstance(raised.value, NotImplementedError)


def test_wrong_rules_say_what_is_wrong():
    with pytest.raises(ValueError, match="jv takes 2 argument.s., so it needs 2 .* but got 1"):
        cb.ufunc(scipy.special.jv, derivatives=[None])
    with pytest.raises(ValueError, match="takes 3 arguments; it must take the function's 2, or 4"):
        cb.ufunc(scipy.special.jv, derivatives=[lambda a, b, c: a, None])
    with pytest.raises(TypeError, match="for argument 1 must be a function.*but is 'forward'"):
        cb.ufunc(scipy.special.jv, derivatives=[None, "forward"])
    forgets = cb.ufunc(np.square, derivatives=[lambda x: None])
    with pytest.raises(TypeError, match="square for argument 0 must return 1 value.*returned None"):
        jax.grad(forgets)(1.0)
    modf = cb.ufunc(np.modf, derivatives=[lambda x: x])
    with pytest.raises(TypeError, match="modf for argument 0 must return 2 value"):
        jax.grad(lambda x: modf(x)[0])(1.0)


def test_new_rules_do_not_change_what_has_been_traced():
    f = cb.ufunc(np.square, derivatives=[lambda x: 2 * x])
    traced = jax.make_jaxpr(lambda x: f(x))(1.0)
    f.defjvps(lambda x: 3 * x)
    evaluate = jaxpr_as_fun(traced)
    assert jax.grad(lambda x: evaluate(x)[0])(1.0) == 2
    assert jax.grad(f)(1.0) == 3
