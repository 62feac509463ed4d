"""arrays= and device=: host functions that take the arrays of other libraries. Here by DLPack and NumPy;
for PyTorch see test_torch.py."""

import sys

import contract_functions as functions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import error_of
from portable_differences import IS_COPIED, IS_PORTABLE

import callbax as cb
from callbax import _native
from callbax._host import identity, names, program_names
from callbax._host.adapters import WithArrays
from callbax._runtime import platforms

x = np.arange(6, dtype=np.float32).reshape(2, 3)

xlas_own_memory = pytest.mark.skipif(
    IS_COPIED, reason="the memory that the host sees is a copy there"
)


@pytest.fixture
def numpy_sees_it():
    if jax.default_backend() != "cpu":
        pytest.skip("NumPy cannot look at a GPU's memory")


seen_by_numpy = pytest.mark.usefixtures("numpy_sees_it")


def from_dlpack(result=None, device=True, **options):
    """An external function that gets DeviceArrays, and whose host function gets NumPy's views of them."""

    def wrap(function):
        def on_views(*arrays, **named):
            views = [np.from_dlpack(array) for array in arrays]
            return function(*views, **{name: np.from_dlpack(a) for name, a in named.items()})

        result_ = cb.like(0) if result is None else result
        return cb.external(on_views, result=result_, arrays="dlpack", device=device, **options)

    return wrap


@seen_by_numpy
@pytest.mark.parametrize("device", [False, True])
def test_arguments_are_objects_of_the_protocol(device):
    seen = []

    @cb.external(result=cb.like(0), arrays="dlpack", device=device)
    def doubled(a):
        seen.append((a.shape, a.dtype, a.__dlpack_device__(), a.stream))
        assert not hasattr(a, "__cuda_array_interface__")
        return 2 * np.from_dlpack(a)

    program = jax.jit(doubled)
    for _ in range(3):
        np.testing.assert_array_equal(program(x), 2 * x)
    assert set(seen) == {((2, 3), np.dtype("float32"), (1, 0), None)}


@xlas_own_memory
def test_on_the_cpus_own_memory_nothing_is_copied():
    found = []

    @from_dlpack()
    def look(a):
        found.append(a.ctypes.data)
        assert not a.flags.writeable
        return a

    program, given = jax.jit(look), jnp.arange(1000.0)
    for _ in range(3):
        np.testing.assert_array_equal(program(given), given)
    assert found[1:] == [given.unsafe_buffer_pointer()] * 2  # the first call is made with copies


@seen_by_numpy
@pytest.mark.parametrize(
    "keep", [np.from_dlpack, jnp.from_dlpack, lambda a: a, lambda a: a.__dlpack__()]
)
def test_keeping_what_was_made_of_an_argument_is_an_error(keep):
    kept = []

    @cb.external(result=cb.like(0), arrays="dlpack", device=True)
    def keeping(a):
        kept.append(keep(a))
        return np.zeros(a.shape, a.dtype)

    for _ in range(2):
        error = error_of(jax.jit(keeping), x)
        assert type(error) is cb.CallbackViewError
        assert "keeping (" in str(error) and "kept its argument 'a'" in str(error)
        assert "x.clone()" in str(error) and "omit zero_copy, device and out" in str(error)


def test_without_device_an_argument_may_be_kept_and_written_to():
    kept = []

    @from_dlpack(device=False)
    def keeping(a):
        kept.append(a)
        a += 1
        return a

    program = jax.jit(keeping)
    for i in range(3):
        np.testing.assert_array_equal(program(x + i), x + i + 1)
    np.testing.assert_array_equal(kept, [x + 1, x + 2, x + 3])


@seen_by_numpy
def test_results_are_written_in_place():
    @cb.external(result=cb.like(0), arrays="dlpack", device=True, out=True)
    def negative(a, out):
        np.negative(np.from_dlpack(a), out=np.from_dlpack(out))
        return out

    program = jax.jit(negative)
    for _ in range(3):
        np.testing.assert_array_equal(program(x), -x)
    wrong = cb.external(
        lambda a, out: np.from_dlpack(a), result=cb.like(0), arrays="dlpack", out=True
    )
    assert "it returned another object" in str(error_of(jax.jit(wrong), x))


class Exports:
    """Anything that exports an array by DLPack, and is no array for NumPy."""

    def __init__(self, array, versions=True):
        self.array, self.versions = array, versions

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        if options and not self.versions:
            raise TypeError("unexpected keyword arguments")
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("versions", [False, True])
@pytest.mark.parametrize(
    "dtype", ["float32", "int8", "bool", "complex64", "bfloat16", "float8_e4m3fn"]
)
def test_what_exports_itself_is_a_result(dtype, versions):
    value = np.array([[0, 1, 2], [3, 4, 5]]).astype(jnp.dtype(dtype))

    @cb.external(result=jax.ShapeDtypeStruct((2, 3), dtype), arrays="dlpack")
    def made(a):
        return Exports(_native.DeviceArray(value), versions)

    actual = jax.jit(made)(x)
    np.testing.assert_array_equal(actual, value)
    assert actual.dtype == dtype


def test_a_result_may_have_any_strides_and_be_empty():
    flipped = cb.external(
        lambda a: Exports(x.T[::-1]), result=jax.ShapeDtypeStruct((3, 2), "f"), arrays="dlpack"
    )
    np.testing.assert_array_equal(flipped(x), x.T[::-1])
    nothing = cb.external(
        lambda a: (Exports(np.zeros((0, 2), "f")), 3.0),
        result=(jax.ShapeDtypeStruct((0, 2), "f"), jax.ShapeDtypeStruct((), "f")),
        arrays="dlpack",
    )
    assert nothing(x)[0].shape == (0, 2) and nothing(x)[1] == 3


@seen_by_numpy
def test_pytrees_and_keyword_arguments():
    @cb.external(result=lambda tree, scale: {"y": tree["a"]}, arrays="dlpack", device=True)
    def combined(tree, *, scale):
        a, b = (np.from_dlpack(leaf) for leaf in (tree["a"], tree["b"]))
        return {"y": (a + b) * np.from_dlpack(scale)}

    program = jax.jit(lambda a: combined({"a": a, "b": a}, scale=np.float32(2)))
    for _ in range(3):
        np.testing.assert_array_equal(program(x)["y"], 4 * x)


@seen_by_numpy
@pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all"])
@pytest.mark.parametrize("device", [False, True])
def test_batches(method, device):
    @from_dlpack(device=device, vmap_method=method)
    def add(a, b):
        return a + b

    program = jax.jit(jax.vmap(add, (0, None if method == "sequential" else 0)))
    b = x[0] if method == "sequential" else x
    for _ in range(3):
        np.testing.assert_array_equal(program(x, b), x + b)


@seen_by_numpy
def test_live_lanes_only():
    root = from_dlpack()(np.sqrt)
    program = jax.jit(jax.vmap(lambda a: root.call_where(a[0] > 0, a, otherwise=-1)))
    for _ in range(3):
        np.testing.assert_array_equal(program(x), [[-1] * 3, np.sqrt(x[1])])


def test_a_numerical_derivative():
    cube = from_dlpack(device=False, derivative="central")(lambda a: a**3)
    np.testing.assert_allclose(jax.grad(lambda a: cube(a).sum())(x), 3 * x**2, atol=1e-2)
    step = from_dlpack(device=False, derivative="complex_step")(lambda a: a**3)
    np.testing.assert_allclose(jax.grad(lambda a: step(a).sum())(x), 3 * x**2, atol=1e-4)


@seen_by_numpy
def test_an_object_for_the_derivative_is_left_as_it_is():
    @cb.external(result=cb.like(0), arrays="dlpack")
    def square(a):
        return Exports(np.from_dlpack(a) ** 2), a

    @square.def_host_vjp(residuals=True)
    def square_vjp(primals, output, cotangent, kept):
        assert type(kept) is _native.DeviceArray
        return (2 * np.from_dlpack(kept) * cotangent,)

    value, gradient = jax.value_and_grad(lambda a: square(a).sum())(x)
    assert value == (x**2).sum()
    np.testing.assert_array_equal(gradient, 2 * x)


def test_another_process_finds_the_function_by_its_name():
    calls = cb.external(functions.takes_dlpack, result=cb.like(0), arrays="dlpack", device=True)
    text = jax.jit(calls).lower(x, x).as_text()
    if not IS_PORTABLE:
        assert r"contract_functions:takes_dlpack" in text and "dlpack" in text
    call = cb._external.host.HostCall.of(
        calls.definition.host_function,
        cb._host.structure.Structure(jax.tree.structure(((0, 0), {}))),
    )
    name = identity.stable_name(call)
    cb.allow("contract_functions:takes_dlpack")
    found = names.resolve(program_names.write(name)).target
    assert found.function == call.function == WithArrays(call.function.function, "dlpack", True)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"arrays": "pandas"}, "arrays='pandas' is not one of"),
        ({"device": True}, "device=True, but arrays='numpy' are on the host"),
        ({"arrays": "jax", "device": True}, "device=True, but arrays='jax' are on the host"),
        ({"arrays": "dlpack", "zero_copy": True}, "zero_copy=True, which is for NumPy arrays"),
        ({"arrays": "cupy"}, "arrays='cupy', whose arrays are in a GPU's memory; add device=True"),
        (
            {"arrays": "dlpack", "device": True, "vmap_method": "threads"},
            "one thread and one stream",
        ),
        ({"arrays": "dlpack", "device": True, "executor": object()}, "one thread and one stream"),
        ({"arrays": "dlpack", "derivative": "torch"}, "derivative='torch', .*say arrays='torch'"),
        ({"arrays": "torch", "derivative": "torch", "out": True}, "without out=True"),
        ({"arrays": "torch", "derivative": "torch", "step": 1e-3}, "step= goes with a numerical"),
        (
            {"arrays": "cuda_array_interface", "device": True, "result": cb.infer},
            "calls it on the host, but arrays='cuda_array_interface' are in a GPU's memory",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cb.external(np.sin, **{"result": cb.like(0), **options})


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_a_library_that_is_missing_is_named_with_how_to_install_it(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"arrays='{library}', but {library} is not installed: pip install .*{library}"
    with pytest.raises(ImportError, match=message):
        cb.external(np.sin, result=cb.like(0), arrays=library, device=True)


@seen_by_numpy
def test_arrays_of_gpus_are_refused_on_cpu():
    on_gpu = cb.external(np.sin, result=cb.like(0), arrays="cuda_array_interface", device=True)
    with pytest.raises(ValueError, match=r"in the memory of an NVIDIA GPU, but .* is for cpu"):
        jax.jit(on_gpu).lower(x)


@pytest.mark.parametrize(
    "platform, message",
    [
        ("tpu", "for CPU and NVIDIA GPUs, but this program is for tpu"),
        ("cuda", "own runtime must call"),
    ],
)
def test_platforms_without_such_calls_are_refused(platform, message, monkeypatch):
    monkeypatch.setattr(platforms, "_setting", "portable")
    doubled = from_dlpack()(lambda a: 2 * a)
    with pytest.raises(ValueError, match=message):
        jax.jit(doubled).trace(x).lower(lowering_platforms=(platform,))


def test_what_dlpack_cannot_say_is_refused():
    array = _native.DeviceArray(x)
    for options in ({"copy": True}, {"dl_device": (2, 0)}):
        with pytest.raises(BufferError):
            array.__dlpack__(**options)
    with pytest.raises(BufferError, match="DLPack has no type for int4"):
        _native.DeviceArray(np.zeros(2, jnp.int4)).__dlpack__()
