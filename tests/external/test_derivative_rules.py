"""What rules see, what they may return, how often the host is called, and what errors say."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from external.derivative_routes import ROUTES, full, host_jvp, host_vjp
from jax.test_util import check_grads

import callbax as cb


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


class Counted:
    """A host function that counts its calls."""

    def __init__(self, function):
        self.function = function
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.function(*args, **kwargs)

    def taken(self):
        """How often it was called since the last time this was asked."""
        calls, self.calls = self.calls, 0
        return calls


def vector(size=3):
    return jnp.linspace(0.3, 1.7, size)


def struct(shape=(), dtype="float64"):
    return jax.ShapeDtypeStruct(shape, dtype)


# -- how often the host is called ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["central", "forward", "complex_step"])
def test_value_and_numerical_derivative_take_one_call(kind):
    host = Counted(lambda x: np.sin(x).sum(-1))
    f = cb.external(host, result=struct(), derivative=kind, vmap_method="broadcast_all")
    for transform in (jax.value_and_grad(f), lambda x: jax.jvp(f, (x,), (x,))):
        jax.block_until_ready(jax.jit(transform)(vector(10)))
        assert host.taken() == 1


@pytest.mark.parametrize(
    ("kind", "points"), [("central", 21), ("forward", 11), ("complex_step", 11)]
)
def test_points_are_lanes_of_the_functions_own_batching(kind, points):
    host = Counted(lambda x: np.sin(x).sum())
    f = cb.external(host, result=struct(), derivative=kind)
    jax.block_until_ready(jax.jit(jax.value_and_grad(f))(vector(10)))
    assert host.taken() == points


def test_an_elementwise_function_moves_whole_arguments():
    shapes = []

    def host(x, y):
        shapes.append((x.shape, y.shape))
        return np.sin(x) * y

    f = cb.external(host, result="broadcast", derivative="central")
    gradient = jax.jit(jax.grad(lambda x, y: f(x, y).sum(), (0, 1)))(vector(100), vector(1))
    jax.block_until_ready(gradient)
    assert shapes == [((5, 100), (5, 1))]


def test_many_arguments_move_along_the_tangent_in_forward_mode():
    host = Counted(lambda x: np.sin(x).sum())
    f = cb.external(host, result=struct(), derivative="central")
    jax.block_until_ready(jax.jit(lambda x: jax.jvp(f, (x,), (x,)))(vector(200)))
    assert host.taken() == 1 + 3
    actual = jax.jvp(f, (vector(200),), (jnp.ones(200),))[1]
    np.testing.assert_allclose(actual, np.cos(vector(200)).sum(), rtol=1e-8)


def test_only_differentiated_arguments_are_moved():
    host = Counted(full)
    f = cb.external(host, result=cb.like(0), derivative="forward")
    jax.block_until_ready(jax.jit(jax.jacrev(f, 1))(vector(), vector()))
    assert host.taken() == 1 + 3


def counted_rules(*names, **options):
    f = cb.external(full, result=cb.like(0), **options)
    counted = {"jvp": Counted(host_jvp), "vjp": Counted(host_vjp)}
    if "jvp" in names:
        f.def_host_jvp(counted["jvp"])
    if "vjp" in names:
        f.def_host_vjp(counted["vjp"])
    return f, lambda: (counted["jvp"].taken(), counted["vjp"].taken())


def test_each_host_rule_serves_its_mode_with_one_call():
    f, taken = counted_rules("jvp", "vjp")
    x = vector()
    jax.block_until_ready(jax.jvp(f, (x, x), (x, x)))
    assert taken() == (1, 0)
    jax.block_until_ready(jax.vjp(f, x, x)[1](x))
    assert taken() == (0, 1)


@pytest.mark.parametrize(("rule", "mode"), [("jvp", "reverse"), ("vjp", "forward")])
def test_probing_is_one_batched_call(rule, mode):
    f, taken = counted_rules(rule, vmap_method="expand_dims")
    x = vector()
    if mode == "forward":
        jax.block_until_ready(jax.jvp(f, (x, x), (x, x)))
    else:
        jax.block_until_ready(jax.vjp(f, x, x)[1](x))
    assert sorted(taken()) == [0, 1]


def test_probing_is_lane_by_lane_where_the_function_is():
    f, taken = counted_rules("jvp")
    jax.block_until_ready(jax.grad(lambda x: f(x, vector()).sum())(vector()))
    assert taken() == (3, 0)  # the coordinates of x; y is not differentiated


def test_adjoint_of_a_large_vector_is_one_call():
    size = 10**6
    rule = Counted(lambda primals, outputs, cotangents: (2 * primals[0] * cotangents,))
    host = Counted(np.square)
    f = cb.external(host, result=cb.like(0))
    f.def_host_vjp(rule)
    x = jnp.ones(size)
    gradient = jax.jit(jax.grad(lambda x: f(x).sum()))(x)
    np.testing.assert_array_equal(gradient, 2 * np.ones(size))
    assert rule.taken() == 1 and host.taken() <= 1


@pytest.mark.parametrize("name", ["def_host_jvp", "def_host_vjp"])
def test_probing_much_warns(name):
    f = cb.external(np.square, result=cb.like(0), vmap_method="expand_dims")
    rule = {
        "def_host_jvp": lambda primals, tangents: 2 * primals[0] * tangents[0],
        "def_host_vjp": lambda primals, outputs, ct: (2 * primals[0] * ct,),
    }[name]
    getattr(f, name)(rule)
    x = jnp.ones(1001)
    other = {"def_host_jvp": "def_host_vjp", "def_host_vjp": "def_host_jvp"}[name]
    with pytest.warns(
        UserWarning, match=rf"square has {name} only.*1001 basis vec.*define {other}"
    ):
        if name == "def_host_jvp":
            jax.grad(lambda x: f(x).sum())(x)
        else:
            jax.jvp(f, (x,), (x,))


def test_many_points_warn():
    f = cb.external(np.sum, result=struct(), derivative="forward")
    with pytest.warns(UserWarning, match=r"sum evaluates it at 1002 points.*def_host_vjp"):
        jax.grad(f)(jnp.ones(1001))


# -- what rules see --------------------------------------------------------------------------------


def scaled(params, x, power, mode, *, shift, kind="a"):
    """Pytrees, an integer, a static argument, keyword-only ones."""
    assert (mode, kind) == ("square", "b")
    return {"value": params["scale"] * x**power + shift, "count": np.int32(power)}


def make_scaled():
    return cb.external(
        scaled,
        result=lambda params, x, *rest, **_: {"value": x, "count": struct((), "int32")},
    )


def scaled_host_jvp(primals, tangents, *, shift, kind):
    params, x, power, mode = primals
    of_params, dx, of_power, of_mode = tangents
    assert of_power is None and of_mode is None and mode == "square" and kind == "b"
    assert isinstance(x, np.ndarray) and shift.shape == ()
    slope = power * x ** (power - 1)
    tangent = of_params["scale"] * x**power + params["scale"] * slope * dx
    return {"value": tangent, "count": None}


def scaled_host_vjp(primals, outputs, cotangents, *, shift, kind):
    params, x, power, mode = primals
    assert cotangents["count"] is None and outputs["count"] == power and kind == "b"
    ct = cotangents["value"]
    of_scale = np.sum(ct * x**power)
    return {"scale": of_scale}, ct * params["scale"] * power * x ** (power - 1), None, None


def scaled_jvp(primals, tangents, *, shift, kind):
    params, x, power, mode = primals
    of_params, dx, of_power, of_mode = tangents
    assert of_power.dtype == jax.dtypes.float0 and of_mode is None and mode == "square"
    out = SCALED["defjvp"](params, x, power, mode, shift=shift, kind=kind)
    slope = power * x ** (power - 1)
    tangent = of_params["scale"] * x**power + params["scale"] * slope * dx
    return out, {"value": tangent, "count": None}


def scaled_forward(params, x, power, mode, *, shift, kind):
    out = SCALED["defvjp"](params, x, power, mode, shift=shift, kind=kind)
    return out, (params, x, power, mode)  # a static residual too


def scaled_backward(residuals, cotangents):
    params, x, power, mode = residuals
    assert mode == "square" and cotangents["count"].dtype == jax.dtypes.float0
    ct = cotangents["value"]
    of_x = ct * params["scale"] * power * x ** (power - 1)
    return {"scale": jnp.sum(ct * x**power)}, of_x, None, None


def _scaled_jvps(f):
    def nothing(*_, **__):
        raise AssertionError("the rule of an argument that is not differentiated")

    f.defjvps(
        lambda t, answer, params, x, power, mode, **_: {
            "value": t["scale"] * x**power,
            "count": None,
        },
        lambda t, answer, params, x, power, mode, **_: {
            "value": t * params["scale"] * power * x ** (power - 1),
            "count": None,
        },
        nothing,
        nothing,
    )


SCALED = {
    name: make_scaled()
    for name in ("defjvp", "defjvps", "defvjp", "host jvp", "host vjp", "numerical")
}
SCALED["defjvp"].defjvp(scaled_jvp)
_scaled_jvps(SCALED["defjvps"])
SCALED["defvjp"].defvjp(scaled_forward, scaled_backward)
SCALED["host jvp"].def_host_jvp(scaled_host_jvp)
SCALED["host vjp"].def_host_vjp(scaled_host_vjp)
SCALED["numerical"] = cb.external(
    scaled, result=SCALED["numerical"].options.result.function, derivative="central"
)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("f", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_rules_see_trees_statics_integers_and_keywords(f, transform):
    @transform
    def gradient(params, x):
        def value(params, x):
            out = f(params, x, mode="square", power=2, shift=1.0, kind="b")  # moves to positions
            return (out["value"] * jnp.arange(3)).sum() + out["count"]

        return jax.value_and_grad(value, (0, 1))(params, x)

    params, x = {"scale": jnp.float64(3)}, vector()
    weights = np.arange(3)
    value, (of_params, of_x) = gradient(params, x)
    np.testing.assert_allclose(value, (weights * (3 * x**2 + 1)).sum() + 2)
    np.testing.assert_allclose(of_params["scale"], (weights * x**2).sum(), rtol=1e-8)
    np.testing.assert_allclose(of_x, weights * 6 * x, rtol=1e-8)


@pytest.mark.parametrize("f", SCALED.values(), ids=SCALED)
def test_integer_results_have_no_tangent(f):
    if f is SCALED["defvjp"]:
        pytest.skip("reverse mode only")
    call = lambda x: f({"scale": 2.0}, x, 2, "square", shift=0.0, kind="b")  # noqa: E731
    _, tangents = jax.jvp(call, (vector(),), (jnp.ones(3),))
    assert tangents["count"].dtype == jax.dtypes.float0
    np.testing.assert_allclose(tangents["value"], 4 * vector(), rtol=1e-8)


@pytest.mark.parametrize("f", SCALED.values(), ids=SCALED)
def test_a_differentiated_keyword_argument_is_an_error(f):
    def value(shift):
        return f({"scale": 2.0}, vector(), 2, "square", shift=shift, kind="b")["value"].sum()

    with pytest.raises(TypeError, match=r"scaled \(.*its keyword argument shift.*stop_gradient"):
        jax.grad(value)(1.0)
    np.testing.assert_allclose(jax.grad(lambda s: value(jax.lax.stop_gradient(s)))(1.0), 0)


@pytest.mark.parametrize("derivative", [None, "central", "host"])
def test_functions_of_integer_results_need_no_rule(derivative):
    options = {} if derivative == "host" else {"derivative": derivative}
    f = cb.external(np.argmax, result=struct((), "int64"), **options)
    if derivative == "host":
        f.def_host_jvp(lambda primals, tangents: None)
    value, tangent = jax.jvp(f, (vector(),), (vector(),))
    assert value == 2 and tangent.dtype == jax.dtypes.float0
    gradient = jax.jit(jax.grad(lambda x: x[f(x)]))(vector())
    np.testing.assert_array_equal(gradient, [0, 0, 1])
    with pytest.raises(TypeError, match="grad requires real-valued outputs"):
        jax.grad(f)(vector())


def test_none_stands_for_zeros():
    f = cb.external(lambda x, y: (x * y, y + 0), result=lambda x, y: (x, y))
    f.def_host_vjp(lambda primals, outputs, ct: (ct[0] * primals[1], None))
    x = vector()
    of_x, of_y = jax.vjp(f, x, x)[1]((x, x))
    np.testing.assert_allclose(of_x, x * x)
    np.testing.assert_array_equal(of_y, 0)
    f.def_host_jvp(lambda primals, tangents: (primals[1] * tangents[0], None))
    np.testing.assert_array_equal(jax.jvp(f, (x, x), (x, x))[1][1], 0)


@pytest.mark.parametrize("method", ["expand_dims", "broadcast_all"])
def test_host_rules_need_not_repeat_what_a_batch_shares(method):
    """x has the batch, y not: the cotangent of x, y ct, does not depend on the lane."""
    f = cb.external(lambda x, y: x * y, result=cb.like(0), vmap_method=method)
    f.def_host_vjp(lambda primals, outputs, ct: (primals[1] * ct, primals[0] * ct))
    y = vector()
    gradient = jax.vmap(jax.grad(lambda x, y: f(x, y).sum()), (0, None))(jnp.ones((4, 3)), y)
    np.testing.assert_allclose(gradient, np.broadcast_to(y, (4, 3)))


# -- complex numbers -------------------------------------------------------------------------------

COMPLEX = {
    "z²": (np.square, jnp.square, "complex128"),
    "|z|²": (lambda z: (z * z.conj()).real, lambda z: (z * z.conj()).real, "float64"),
    "conj z": (np.conj, jnp.conj, "complex128"),
}


def _complex_rules(name):
    def jvp(primals, tangents):
        (z,), (t,) = primals, tangents
        return {"z²": 2 * z * t, "|z|²": 2 * (z.conj() * t).real, "conj z": t.conj()}[name]

    def vjp(primals, outputs, ct):
        z = primals[0]
        return ({"z²": 2 * z * ct, "|z|²": 2 * z.conj() * ct, "conj z": np.conj(ct)}[name],)

    return {"host jvp": ("def_host_jvp", jvp), "host vjp": ("def_host_vjp", vjp)}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("route", ["host jvp", "host vjp", "central"])
def test_functions_of_complex_numbers_that_need_not_be_holomorphic(name, route):
    host, reference, dtype = COMPLEX[name]
    derivative = "central" if route == "central" else None
    f = cb.external(host, result=lambda z: struct(z.shape, dtype), derivative=derivative)
    if route != "central":
        method, rule = _complex_rules(name)[route]
        getattr(f, method)(rule)
    z, t = jnp.array([1 + 2j, -0.5j, 3]), jnp.array([2 - 1j, 1 + 1j, 0.3j])
    np.testing.assert_allclose(
        jax.jvp(f, (z,), (t,))[1], jax.jvp(reference, (z,), (t,))[1], rtol=1e-8, atol=1e-8
    )
    ct = jnp.asarray([1 + 1j, 2, -1j]).astype(dtype) if dtype[0] == "c" else jnp.ones(3)
    actual, expected = (jax.vjp(g, z)[1](ct) for g in (f, reference))
    np.testing.assert_allclose(actual, expected, rtol=1e-8, atol=1e-8)


def test_complex_results_of_real_arguments():
    f = cb.external(
        lambda x: np.exp(1j * x),
        result=lambda x: struct(x.shape, "complex128"),
        derivative="central",
    )
    check_grads(f, (vector(),), 1, atol=1e-6, rtol=1e-6)


# -- linear functions ------------------------------------------------------------------------------

SPD = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]])
WIDE = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, 1.0]])


def weighted():
    """weight A x, linear in x."""
    f = cb.external(lambda weight, x: weight * (WIDE @ x), signature="(),(3)->(2)")
    f.def_transpose(lambda weight, ct: weight * (WIDE.T @ ct), argnums=1)
    return f


def test_linear_transpose_and_its_transpose():
    f = weighted()
    apply = lambda x: f(2.0, x)  # noqa: E731
    transpose = jax.linear_transpose(apply, vector())
    np.testing.assert_allclose(transpose(jnp.ones(2))[0], 2 * WIDE.T @ np.ones(2))
    again = jax.linear_transpose(lambda ct: transpose(ct)[0], jnp.ones(2))
    np.testing.assert_allclose(again(vector())[0], 2 * WIDE @ vector())
    np.testing.assert_allclose(jax.jit(jax.jacrev(apply))(vector()), 2 * WIDE)
    check_grads(apply, (vector(),), 3)


def test_functions_that_are_each_others_transposes():
    a = cb.external(lambda x: WIDE @ x, signature="(3)->(2)")
    b = cb.external(lambda y: WIDE.T @ y, signature="(2)->(3)")
    assert a.def_transpose(b) is b
    b.def_transpose(a)
    np.testing.assert_allclose(jax.jacrev(a)(vector()), WIDE)
    np.testing.assert_allclose(jax.jit(jax.jacrev(b))(jnp.ones(2)), WIDE.T)
    check_grads(a, (vector(),), 2)
    assert a == a and a != cb.external(a.function, signature="(3)->(2)")


def test_conjugate_gradients_through_an_operator():
    calls = Counted(lambda x: SPD @ x)
    operator = cb.external(calls, signature="(3)->(3)")
    operator.def_transpose(lambda ct: SPD.T @ ct)

    def solve(b):
        return jax.scipy.sparse.linalg.cg(operator, b, tol=1e-12)[0]

    inverse = np.linalg.inv(SPD)
    b = vector()
    np.testing.assert_allclose(jax.jit(solve)(b), inverse @ b, rtol=1e-8)
    np.testing.assert_allclose(jax.jit(jax.jacrev(solve))(b), inverse, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(solve))(b), inverse, rtol=1e-7, atol=1e-9)
    solved = jax.jit(jax.vmap(solve))(jnp.eye(3))
    np.testing.assert_allclose(solved, inverse, rtol=1e-7, atol=1e-9)
    assert calls.taken() > 0


def test_trees_of_linear_arguments_and_results():
    def host(tree, scale):
        return {"sum": (tree["a"] + tree["b"]) * scale, "difference": tree["a"] - tree["b"]}

    f = cb.external(host, result=lambda tree, scale: {"sum": tree["a"], "difference": tree["a"]})

    @f.def_transpose(argnums=0)
    def transpose(scale, ct):
        added = ct["sum"] * scale
        return {"a": added + ct["difference"], "b": added - ct["difference"]}

    tree = {"a": vector(), "b": 2 * vector()}
    check_grads(lambda tree: f(tree, 3), (tree,), 2)


def test_a_linear_function_says_what_it_is_not_linear_in():
    f = weighted()
    with pytest.raises(ValueError, match=r"respect to weight, but def_transpose.*linear in x"):
        jax.grad(lambda weight: f(weight, vector()).sum())(2.0)


# -- numerical derivatives -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "moved"), [(1e-2, [0.02, 0.01]), ((1e-1, 1e-3), [0.2, 0.05]), ((0, 0.5), [0.5, 0.5])]
)
def test_steps_are_relative_and_absolute(step, moved):
    seen = []

    def host(x):
        seen.append(np.array(x))
        return x.sum()

    f = cb.external(host, result=struct(), derivative="forward", step=step)
    x = np.array([2.0, 0.5])
    jax.block_until_ready(jax.grad(f)(x))
    np.testing.assert_allclose([seen[1][0] - 2, seen[2][1] - 0.5], moved)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("kind", ["central", "forward", "complex_step"])
@pytest.mark.parametrize("magnitude", [1e-6, 1.0, 1e6])
def test_steps_follow_the_magnitude(kind, magnitude):
    f = cb.external(np.sin, result="broadcast", derivative=kind)
    x = jnp.array([magnitude, 1.0])
    tolerance = {"central": 1e-8, "forward": 1e-6, "complex_step": 1e-12}[kind]
    scale = max(1, magnitude)
    actual = jax.grad(lambda x: (f(x / scale) * scale).sum())(x)
    np.testing.assert_allclose(actual, np.cos(x / scale), rtol=10 * tolerance)


def test_half_precision_uses_the_step_of_half_precision():
    f = cb.external(np.square, result=cb.like(0), derivative="central")
    actual = jax.grad(lambda x: f(x).astype("float32"))(jnp.bfloat16(1.5))
    np.testing.assert_allclose(float(actual), 3, rtol=0.05)


def test_a_coarse_result_sets_the_step():
    f = cb.external(
        lambda x: np.float32(np.sin(x)), result=struct((), "float32"), derivative="central"
    )
    np.testing.assert_allclose(jax.grad(f)(1.0), np.cos(1), rtol=1e-3)


def test_complex_step_notices_what_drops_the_imaginary_part():
    f = cb.external(lambda x: np.abs(x) ** 2, result=cb.like(0), derivative="complex_step")
    with pytest.raises(jax.errors.JaxRuntimeError, match="drops the imaginary part.*'central'"):
        jax.block_until_ready(jax.grad(f)(1.0))


def test_complex_step_of_complex_arguments_is_an_error():
    f = cb.external(np.sin, result=cb.like(0), derivative="complex_step")
    with pytest.raises(TypeError, match="sin has derivative='complex_step'.*complex128.*'central'"):
        jax.grad(f, holomorphic=True)(1j)


def test_third_numerical_derivatives_are_an_error():
    f = cb.external(np.sin, result="broadcast", derivative="central")
    np.testing.assert_allclose(jax.grad(jax.grad(f))(1.0), -np.sin(1), rtol=1e-6)
    with pytest.raises(ValueError, match="derivative='central', which goes to the second order"):
        jax.grad(jax.grad(jax.grad(f)))(1.0)


def test_second_numerical_derivatives_of_many_arguments_are_an_error():
    f = cb.external(np.sum, result=struct(), derivative="central")
    with pytest.raises(ValueError, match="in more than 64 numbers is of first order"):
        jax.jvp(jax.grad(f), (jnp.ones(65),), (jnp.ones(65),))


# -- with masks, signatures and other options ------------------------------------------------------


@pytest.mark.sampled(10)
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_dead_lanes_have_no_derivative_and_are_not_called(route):
    f = route.make(vmap_method="expand_dims")
    live = jnp.array([True, False, True])
    x = jnp.stack([vector(), jnp.full(3, jnp.nan), 2 * vector()])

    def gradient(call):
        def value(live, x, y):
            return call(live, x, y).sum()

        return jax.jit(jax.vmap(jax.grad(value, (1, 2)), (0, 0, None)))(live, x, vector())

    def reference(live, x, y):
        x = jnp.where(live, x, 0)
        return jnp.where(live, route.reference(x, y), 0)

    expected = gradient(reference)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=20 * route.tolerance[0], atol=1e-3),
        gradient(f.call_where),
        expected,
    )


def test_batch_dimensions_of_a_signature_are_not_differentiated_across():
    host = Counted(lambda a, b: np.linalg.solve(a, b))
    f = cb.external(host, signature="(n,n),(n)->(n)", derivative="central")
    a, b = jnp.stack([SPD, 2 * SPD]), jnp.stack([vector(), vector()])
    gradient = jax.grad(lambda b: f(a, b).sum())(b)
    assert host.taken() == 2 * 7
    expected = jax.grad(lambda b: jnp.linalg.solve(a, b[..., None]).sum())(b)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7)


@pytest.mark.sampled(10)
@pytest.mark.parametrize("options", [{"zero_copy": True}, {"arrays": "jax"}])
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_other_options_leave_derivatives_alone(route, options):
    if options.get("arrays") == "jax" and "complex" in route.name:
        pytest.skip("jax Arrays are computed with in JAX's precision of the worker's configuration")
    f = route.make(**options)
    actual, expected = (
        jax.jit(jax.grad(lambda x: g(x, vector()).sum()))(vector()) for g in (f, route.reference)
    )
    np.testing.assert_allclose(actual, expected, rtol=20 * route.tolerance[0])


def test_out_and_the_complex_step():
    def host(x, *, out=None):
        np.sin(x, out=out)

    f = cb.external(host, result=cb.like(0), out=True, derivative="complex_step")
    np.testing.assert_allclose(jax.grad(lambda x: f(x).sum())(vector()), np.cos(vector()))


# -- definitions, and errors in them ---------------------------------------------------------------


def plain(**options):
    return cb.external(full, **{"result": cb.like(0), **options})


DEFINITIONS = {
    "defjvp": lambda f: f.defjvp(lambda primals, tangents: None),
    "defjvps": lambda f: f.defjvps(None, None),
    "defvjp": lambda f: f.defvjp(lambda *args: None, lambda *args: None),
    "host_jvp": lambda f: f.def_host_jvp(host_jvp),
    "host_vjp": lambda f: f.def_host_vjp(host_vjp),
    "transpose": lambda f: f.def_transpose(lambda ct: ct),
}
TOGETHER = [{"defjvp", "defjvps"}, {"host_jvp", "host_vjp"}]


@pytest.mark.parametrize("first", DEFINITIONS)
@pytest.mark.parametrize("second", DEFINITIONS)
def test_one_kind_of_rule_excludes_the_others(first, second):
    f = plain()
    DEFINITIONS[first](f)
    if first == second or {first, second} in TOGETHER:
        DEFINITIONS[second](f)
        assert second in repr(f)
    else:
        with pytest.raises(ValueError, match=rf"full \(.*has the derivative {first} already"):
            DEFINITIONS[second](f)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_effects_and_numerical_derivatives_exclude_rules(name):
    with pytest.raises(ValueError, match=r"full \(.*effects='io', so it has no derivative"):
        DEFINITIONS[name](plain(effects="io"))
    with pytest.raises(ValueError, match=r"full \(.*has derivative='central' already"):
        DEFINITIONS[name](plain(derivative="central"))


def test_definitions_are_decorators():
    f = plain()
    assert f.defjvp(host_jvp) is host_jvp
    f = plain()
    assert f.def_host_jvp(host_jvp) is host_jvp
    assert f.def_host_vjp(host_vjp) is host_vjp
    f = plain()
    assert f.def_transpose(argnums=(0, 1))(host_vjp) is host_vjp


@pytest.mark.parametrize(
    "name", ["defjvp", "defjvps", "def_host_jvp", "def_host_vjp", "def_transpose"]
)
def test_rules_must_be_callable(name):
    with pytest.raises(TypeError, match=rf"External.{name} must be callable"):
        getattr(plain(), name)(3)


ARITIES = {
    "defjvp": (lambda f: f.defjvp(lambda p: p), r"takes \(p\), .*\(primals, tangents\)"),
    "defjvps": (
        lambda f: f.defjvps(lambda x, y: x, None),
        r"takes \(x, y\), .*\(tangent, answer, \*primals\)",
    ),
    "defvjp": (
        lambda f: f.defvjp(lambda x, y: (x, x), lambda ct: (ct, ct)),
        r"takes \(ct\), .*\(residuals, cotangents\)",
    ),
    "def_host_jvp": (
        lambda f: f.def_host_jvp(lambda p, out, t: t),
        r"takes \(p, out, t\), .*\(primals, tangents\)",
    ),
    "def_host_vjp": (
        lambda f: f.def_host_vjp(lambda p, ct: ct),
        r"takes \(p, ct\), .*\(primals, outputs, cotangents\)",
    ),
    "def_host_vjp with an object": (
        lambda f: f.def_host_vjp(lambda p, out, ct: ct, residuals=True),
        r"takes \(p, out, ct\), .*\(primals, outputs, cotangents, object\)",
    ),
}


@pytest.mark.parametrize("name", ARITIES)
def test_rules_are_callable_with_what_they_get(name):
    define, message = ARITIES[name]
    with pytest.raises(TypeError, match=rf"{name.split()[0]} rule <lambda>.* of full .*{message}"):
        define(plain())


def test_rules_may_take_more_than_they_get():
    f = cb.external(lambda x, y=1.0, *, kind="a": x, result=cb.like(0))
    f.defjvps(lambda t, answer, x, y=1.0, *, kind="a": t)
    f.defjvps(lambda t, answer, x, kind: t, None)
    f.defjvps(lambda *args, **names: args[0])
    with pytest.raises(ValueError, match=r"was given 3 rules, .* the function takes 2"):
        f.defjvps(None, None, None)
    cb.external(lambda *args: args[0], result=cb.like(0)).defjvps(None, None, lambda t, *_: t)
    written = cb.external(lambda x, out: np.copyto(out, x), result=cb.like(0), out=True)
    written.defjvps(lambda t, answer, x: t)
    assert jax.grad(lambda x: written(x).sum())(vector()).shape == (3,)


@pytest.mark.parametrize(
    ("step", "error"), [("a", TypeError), ((1, 2, 3), TypeError), (0, ValueError), (-1, ValueError)]
)
def test_steps_are_checked(step, error):
    with pytest.raises(error, match=rf"full \(.*step={re.escape(repr(step))} must be"):
        plain(derivative="central", step=step)


def test_a_step_needs_a_derivative():
    with pytest.raises(ValueError, match="step= goes with a numerical derivative="):
        plain(step=1e-3)


def gradient_error(f):
    jax.block_until_ready(jax.grad(lambda x, y: f(x, y).sum(), (0, 1))(vector(), vector()))


WRONG_RETURNS = {
    "no pair": (lambda f: f.defjvp(lambda p, t: 1.0), r"defjvp rule .*must return a pair"),
    "tangent tree": (
        lambda f: f.defjvp(lambda p, t: (p[0], (t[0], t[1]))),
        r"defjvp rule .* of full .*returned, for the result, the structure.*expected",
    ),
    "tangent shape": (
        lambda f: f.defjvp(lambda p, t: (p[0], t[0].sum())),
        r"defjvp rule .* of full .*returned float64\[\] where float64\[3\] is expected",
    ),
    "result dtype": (
        lambda f: f.defjvp(lambda p, t: (p[0].astype("float32"), t[0])),
        r"defjvp rule .* for the result, returned float32\[3\] where float64\[3\]",
    ),
    "too few rules": (lambda f: f.defjvps(lambda t, a, x, y: t), r"argument 1.*given 1 rule"),
    "no residuals": (
        lambda f: f.defvjp(lambda x, y: x, lambda r, ct: (ct, ct)),
        r"defvjp forward rule .* must return a pair",
    ),
    "one cotangent": (
        lambda f: f.defvjp(lambda x, y: (x, None), lambda r, ct: (ct,)),
        r"defvjp backward rule .* must return a tuple of 2 cotangents.*returned 1",
    ),
    "cotangent shape": (
        lambda f: f.defvjp(lambda x, y: (x, None), lambda r, ct: (ct, ct.sum())),
        r"defvjp backward rule .* returned float64\[\] where float64\[3\]",
    ),
}


@pytest.mark.parametrize(("define", "message"), WRONG_RETURNS.values(), ids=WRONG_RETURNS)
def test_jax_rules_that_return_something_else(define, message):
    f = plain()
    define(f)
    with pytest.raises(TypeError, match=message):
        gradient_error(f)


WRONG_ON_HOST = {
    "cotangents": (
        lambda f: f.def_host_vjp(lambda p, o, ct: ct),
        r"host vjp rule .* of full .*must return a tuple of 2 cotangents.*returned ndarray",
    ),
    "cotangent tree": (
        lambda f: f.def_host_vjp(lambda p, o, ct: (ct, (ct, ct))),
        r"host vjp rule .*for argument 1, the structure",
    ),
    "cotangent shape": (
        lambda f: f.def_host_vjp(lambda p, o, ct: (ct, ct.sum())),
        r"host vjp rule .* shape \(\) where the derivative has shape \(3,\)",
    ),
    "complex": (
        lambda f: f.def_host_vjp(lambda p, o, ct: (ct, 1j * ct)),
        r"host vjp rule .*complex array where the derivative is real",
    ),
    "tangent tree": (
        lambda f: f.def_host_jvp(lambda p, t: t),
        r"host jvp rule .*for the result, the structure",
    ),
    "tangent shape": (
        lambda f: f.def_host_jvp(lambda p, t: t[0][:2]),
        r"host jvp rule .* shape \(2,\) where the derivative has shape \(3,\)",
    ),
    "transpose": (
        lambda f: f.def_transpose(lambda ct: ct[:0]),
        r"transpose rule .* must return what the function is linear in: 2 argument",
    ),
}


@pytest.mark.parametrize(("define", "message"), WRONG_ON_HOST.values(), ids=WRONG_ON_HOST)
def test_host_rules_that_return_something_else(define, message):
    f = plain()
    define(f)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        gradient_error(f)


def test_a_host_rules_own_exception_surfaces():
    f = plain()

    @f.def_host_vjp
    def fails(primals, outputs, cotangents):
        raise RuntimeError("no adjoint today")

    with pytest.raises(jax.errors.JaxRuntimeError, match="no adjoint today"):
        gradient_error(f)
    assert np.isfinite(f(vector(), vector())).all()


def test_functions_that_cannot_be_linear():
    f = cb.external(np.sign, result=struct((), "int32"))
    f.def_transpose(lambda ct: ct)
    with pytest.raises(TypeError, match=r"sign has a result of dtype int32, so it is not linear"):
        f(1.0)
    f = cb.external(np.square, result=struct())
    f.def_transpose(lambda ct: ct)
    with pytest.raises(TypeError, match="without a floating-point or complex array"):
        f(1)
    f.def_transpose(lambda ct: ct, argnums=1)
    with pytest.raises(TypeError, match=r"names argument 1, but the call has 1 positional"):
        f(1.0)
    with pytest.raises(ValueError, match=r"argnums=\(-1,\) must be the position"):
        f.def_transpose(lambda ct: ct, argnums=-1)


def test_an_external_transpose_of_the_wrong_shape():
    f = cb.external(lambda x: WIDE @ x, signature="(3)->(2)")
    f.def_transpose(cb.external(lambda ct: ct, result=cb.like(0)))
    with pytest.raises(TypeError, match=r"transpose rule .*returned float64\[2\].*\[3\]"):
        jax.grad(lambda x: f(x).sum())(vector())


def test_without_a_rule_the_error_says_which_to_add():
    with pytest.raises(ValueError, match=r"full \(.*defjvp, defjvps or defvjp.*def_host_jvp"):
        gradient_error(plain())


@pytest.mark.sampled(10)
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_a_rule_for_vmap_is_for_the_function_itself(route):
    f = route.make()

    @f.def_vmap
    def whole(axis_size, in_batched, x, y):
        assert not np.iscomplexobj(x)
        axes = tuple(0 if batched else None for batched in in_batched)
        return jax.vmap(route.reference, axes)(x, y), True

    assert_gradient(route, f)


# -- lanes on threads and in other processes -------------------------------------------------------


def gradient_over_lanes(f):
    x = jnp.stack([vector(), 2 * vector()])
    return jax.jit(jax.vmap(jax.grad(lambda x, y: f(x, y).sum(), (0, 1)), (0, None)))(x, vector())


def assert_gradient(route, f):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=20 * route.tolerance[0]),
        gradient_over_lanes(f),
        gradient_over_lanes(route.reference),
    )


@pytest.mark.sampled(10)
@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_derivatives_use_threads_and_executors_as_the_function_does(route):
    assert_gradient(route, route.make(vmap_method="threads"))
    with ThreadPoolExecutor(2) as executor:
        assert_gradient(route, route.make(executor=executor))


@pytest.mark.full  # it takes seconds
def test_rules_can_be_sent_to_other_processes():
    names = ("host jvp", "host vjp", "transpose", "complex_step")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        for route in ROUTES:
            if route.name in names:
                assert_gradient(route, route.make(executor=executor))
