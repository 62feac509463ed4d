"""arrays="torch" and derivative="torch": host functions of PyTorch's tensors."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import error_of
from jax.test_util import check_grads
from portable_differences import IS_COPIED

import callbax as cb

torch = pytest.importorskip("torch")
# Torch calls what it deprecates itself, when it first differentiates forwards.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
torch.set_num_threads(1)

on_device = pytest.mark.parametrize("device", [False, True])
x = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
b = np.float32([1, -2, 0.5])


def of_tensors(function, **options):
    return cb.external(function, **{"result": cb.like(0), "arrays": "torch", **options})


@on_device
@pytest.mark.parametrize(
    "dtype",
    ["float32", "float16", "bfloat16", "float8_e4m3fn", "int8", "uint16", "bool", "complex64"],
)
def test_tensors_of_each_dtype_in_and_out(dtype, device):
    @of_tensors
    def same(a):
        assert isinstance(a, torch.Tensor) and a.dtype == getattr(torch, dtype)
        assert tuple(a.shape) == (2, 3)
        return a.T.T

    program = jax.jit(same)
    for _ in range(3):
        actual = program(x.astype(jnp.dtype(dtype)))
        np.testing.assert_array_equal(actual, x.astype(jnp.dtype(dtype)))
        assert actual.dtype == dtype


@pytest.mark.skipif(IS_COPIED, reason="XLA's memory is not the host's there")
def test_tensors_are_over_xlas_memory():
    found = []

    def look(a, out):
        found.append((a.data_ptr(), out.data_ptr()))
        torch.mul(a, 2, out=out)

    program = jax.jit(of_tensors(look, device=True, out=True))
    given = jnp.arange(1000.0)
    results = [program(given) for _ in range(3)]
    places = [(given.unsafe_buffer_pointer(), r.unsafe_buffer_pointer()) for r in results]
    assert found[1:] == places[1:]  # the first call is made with copies
    np.testing.assert_array_equal(results[2], 2 * given)


def test_a_tensor_that_is_kept_is_an_error_on_the_device_only():
    kept = []

    def keeping(a):
        kept.append(a[:1])
        return 2 * a

    np.testing.assert_array_equal(jax.jit(of_tensors(keeping))(x), 2 * x)
    np.testing.assert_array_equal(kept[0], x[:1])
    error = error_of(jax.jit(of_tensors(keeping, device=True)), x)
    assert type(error) is cb.CallbackViewError and "x.clone()" in str(error)


@on_device
def test_results_that_numpy_does_not_take_from_torch(device):
    weight = torch.nn.Parameter(torch.full((3,), 2.0))
    scaled = of_tensors(lambda a: a * weight.to(a.device), device=device)
    np.testing.assert_array_equal(jax.jit(scaled)(x), 2 * x)
    conjugate = of_tensors(lambda z: torch.conj(z), device=device)
    np.testing.assert_array_equal(jax.jit(conjugate)(x * 1j), x * -1j)


@on_device
@pytest.mark.parametrize("layout", ["sparse", "sparse_csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_tensors_that_are_not_dense_are_refused(layout, device):
    sparse = of_tensors(lambda a: getattr(a, f"to_{layout}")(), device=device)
    error = error_of(jax.jit(sparse), x)
    assert type(error) is cb.CallbackResultError
    assert f"layout torch.{layout}" in str(error) and ".to_dense()" in str(error)


@on_device
def test_views_of_tensors_are_results(device):
    for function in (lambda a: a.T.clone().T, lambda a: a[:1].expand(2, 3), lambda a: a.flip(0)):
        result = jax.jit(of_tensors(function, device=device))(x)
        np.testing.assert_array_equal(result, function(torch.tensor(x)).numpy())


@on_device
@pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.func.jvp itself
def test_derivatives_are_pytorchs(method, device):
    def function(a, b):
        return (torch.sin(a) * b[..., None, :]).sum(-1)

    f = cb.external(
        function,
        signature="(n,k),(k)->(n)",
        arrays="torch",
        device=device,
        derivative="torch",
        vmap_method=method,
    )

    def truth(a, b):
        return jnp.sin(a) @ b

    xs = jnp.stack([x, 2 * x, -x])
    derivatives = [
        lambda f: jax.grad(lambda a, b: (f(a, b) ** 2).sum(), (0, 1))(x, b),
        lambda f: jax.vmap(jax.grad(lambda a, b: f(a, b).sum(), (0, 1)), (0, None))(xs, b),
        lambda f: jax.grad(lambda b: jax.vmap(f, (0, None))(xs, b).sum())(b),
        lambda f: jax.jvp(f, (x, b), (x, 2 * b)),
        lambda f: jax.jacfwd(f)(x, b),
    ]
    for derivative in derivatives:
        for _ in range(2):
            expected, actual = derivative(truth), jax.jit(lambda d=derivative: d(f))()
            jax.tree.map(
                lambda e, a: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4),
                expected,
                actual,
            )
    check_grads(f, (x, b), 1, modes=["rev"], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "function, truth",
    [
        (lambda z: z * z * (2 + 1j), lambda z: z * z * (2 + 1j)),
        (lambda z: torch.exp(z).real, lambda z: jnp.exp(z).real),
        (lambda z: torch.conj(z) * z, lambda z: jnp.conj(z) * z),
    ],
)
def test_complex_cotangents_are_jaxs(function, truth):
    z = np.complex64([1 + 2j, 0.5 - 1j])
    result = jax.eval_shape(truth, z)
    f = cb.external(function, result=result, arrays="torch", derivative="torch")
    (expected,), (actual,) = (jax.vjp(g, z)[1](result.dtype.type([1, 2])) for g in (truth, f))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@on_device
def test_derivatives_of_trees_and_elementwise_functions(device):
    def function(tree, *, n):
        return {"y": tree["a"] * tree["n"] * n, "n": tree["n"]}

    f = cb.external(
        function,
        result=lambda tree, n: {"y": tree["a"], "n": tree["n"]},
        arrays="torch",
        device=device,
        derivative="torch",
    )
    tree = {"a": x, "n": np.int32(3)}
    gradient = jax.grad(lambda tree: f(tree, n=np.float32(2))["y"].sum(), allow_int=True)(tree)
    np.testing.assert_array_equal(gradient["a"], np.full_like(x, 6))

    product = cb.external(
        torch.mul, result="broadcast", arrays="torch", device=device, derivative="torch"
    )
    of_row = jax.grad(lambda row: product(x, row).sum())(b)
    np.testing.assert_array_equal(of_row, x.sum(0))
    if device and jax.default_backend() != "cpu":
        return  # call_where picks its lanes on the host
    masked = jax.vmap(jax.grad(lambda a: product.call_where(a[0] > 2, a, b).sum()))(x)
    np.testing.assert_array_equal(masked, [[0, 0, 0], b])


def test_pytorchs_derivative_is_of_first_order_and_the_only_one():
    square = of_tensors(torch.square, derivative="torch", name="test.square")
    with pytest.raises(ValueError, match=r"is PyTorch's .* of first order"):
        jax.hessian(lambda a: square(a).sum())(x)
    with pytest.raises(ValueError, match="has derivative='torch' already"):
        square.defjvp(lambda primals, tangents: (primals, tangents))


def test_what_pytorch_cannot_differentiate_is_its_own_error():
    through_numpy = of_tensors(lambda a: torch.tensor(a.numpy()), derivative="torch")
    np.testing.assert_array_equal(through_numpy(x), x)
    error = error_of(jax.grad(lambda a: through_numpy(a).sum()), x)
    assert isinstance(error, RuntimeError)


def cube(a):
    return a**3


def test_an_exported_derivative_is_named_by_its_function():
    f = of_tensors(cube, derivative="torch")
    program = jax.jit(jax.grad(lambda a: f(a).sum()))
    exported = jax.export.export(program, disabled_checks=cb.EXPORT_CHECKS)(x)
    assert "torch vjp" in exported.mlir_module() and "cube" in exported.mlir_module()
    cb.allow(cube)
    loaded = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(loaded.call(x), 3 * x**2, rtol=1e-5)
