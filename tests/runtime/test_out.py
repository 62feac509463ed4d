"""Functions that write their results into the arrays they are given."""

import functools
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import error_of, finish, names_in
from jax import lax

import callbax as cb
from callbax._host.call import HostFunction

SCALAR = jax.ShapeDtypeStruct((), jnp.float32)
DTYPES = (
    "bool int8 uint16 int32 int64 float16 bfloat16 float32 float64 complex64 complex128".split()
)
PACKED = ["int2", "int4", "uint4", "float4_e2m1fn"]
EACH_CALL = pytest.mark.parametrize(
    "call",
    [cb.pure_callback, cb.io_callback, functools.partial(cb.io_callback, ordered=True)],
    ids=["pure", "io", "ordered"],
)


def in_place(function, **options):
    return HostFunction(function, out=True, **options)


def fill(x, *, out):
    """Writes x and returns nothing."""
    out[...] = x


@pytest.mark.sampled(4)
@pytest.mark.parametrize("views", [False, True], ids=["copies", "views"])
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", DTYPES + PACKED)
def test_every_dtype_and_shape(name, shape, views):
    with jax.enable_x64(True):
        dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
        values = (np.arange(np.prod(shape)) % 2).reshape(shape).astype(np.float32).astype(dtype)
        program = jax.jit(lambda x: cb.io_callback(in_place(fill, views=views), x, x))
        for _ in range(3):
            result = finish(program, values)
            assert result.dtype == dtype
            np.testing.assert_array_equal(result, values)


@EACH_CALL
@pytest.mark.parametrize("views", [False, True], ids=["copies", "views"])
def test_numpy_functions(call, views):
    x = jnp.arange(4.0)
    program = jax.jit(lambda x: call(in_place(np.add, views=views), x, x, x))
    for _ in range(3):
        assert finish(program, x).tolist() == [0, 2, 4, 6]
    total = jax.jit(lambda x: call(in_place(np.sum, views=views), SCALAR, x))
    for _ in range(3):
        assert finish(total, x) == 6
    product = jax.jit(lambda x: call(in_place(np.matmul, views=views), x, x, x))
    matrix = jnp.arange(9.0).reshape(3, 3)
    for _ in range(3):
        np.testing.assert_array_equal(finish(product, matrix), matrix @ matrix)


def test_the_array_is_the_result_after_the_first_call():
    addresses = []

    def callback(x, out):
        addresses.append(out.ctypes.data)
        out[...] = x

    x = jnp.arange(1000.0)
    program = jax.jit(lambda x: cb.pure_callback(in_place(callback), x, x))
    results = [finish(program, x).unsafe_buffer_pointer() for _ in range(3)]
    assert addresses[1:] == results[1:]
    assert addresses[0] != results[0]


def test_trees_of_results_and_of_arguments():
    def callback(tree, *, scale, out):
        np.multiply(tree["a"], scale, out=out["product"])
        out["rest"][0][...] = tree["a"].sum()
        out["rest"][1][...] = scale > 1
        return out

    x = jnp.arange(3.0)
    spec = {"product": x, "rest": (SCALAR, jax.ShapeDtypeStruct((), bool)), "none": None}
    for views in (False, True):
        function = in_place(callback, views=views)
        program = jax.jit(
            lambda x, s, f=function: cb.pure_callback(f, spec, {"a": x, "b": None}, scale=s)
        )
        for _ in range(3):
            result = finish(program, x, 2.0)
            assert result["product"].tolist() == [0, 2, 4]
            assert result["rest"][0] == 3 and result["rest"][1]
            assert result["none"] is None


def test_booleans_written_as_other_bytes_arrive_as_booleans():
    def callback(out):
        out.view(np.uint8)[...] = [0, 1, 2, 255]

    program = jax.jit(
        lambda: cb.pure_callback(in_place(callback), jax.ShapeDtypeStruct((4,), bool))
    )
    for _ in range(3):
        result = finish(program)
        assert int(result.sum()) == 3
        assert result.astype(int).tolist() == [0, 1, 1, 1]


WRONG = {
    "another array": lambda x, out: x + 1,
    "a view of it": lambda x, out: out[:],
    "a number": lambda x, out: 1.0,
    "a list of it": lambda x, out: [out],
}


@pytest.mark.parametrize("function", WRONG.values(), ids=WRONG)
def test_returning_anything_else_is_an_error(function):
    x = jnp.ones(3)
    program = jax.jit(lambda x: cb.pure_callback(in_place(function), x, x))
    for _ in range(3):
        error = error_of(program, x)
        assert type(error) is cb.CallbackResultError
        assert "out=True" in str(error) and "return None or `out` itself" in str(error)
        assert f"({__file__}:" in str(error)


def test_returning_another_tree_is_an_error():
    def callback(x, out):
        return [out[0], x]

    x = jnp.ones(3)
    error = error_of(lambda: cb.pure_callback(in_place(callback), (x, x), x))
    assert type(error) is cb.CallbackResultError
    assert "of type list" in str(error)


@pytest.mark.parametrize("quiet", [0, 1, 3])
@pytest.mark.parametrize(
    "keep", [lambda a: a, lambda a: a[1:], memoryview], ids="a slice mem".split()
)
def test_keeping_the_array_is_an_error(keep, quiet):
    kept = []

    def callback(x, out):
        nonlocal quiet
        out[...] = x
        if quiet == 0:
            kept.append(keep(out))
        else:
            quiet -= 1

    x = jnp.arange(5.0)
    program = jax.jit(lambda x: cb.pure_callback(in_place(callback), x, x))
    for _ in range(quiet):
        finish(program, x)
    error = error_of(program, x)
    assert type(error) is cb.CallbackViewError
    assert "kept its array for the result, out after" in str(error)
    if isinstance(kept[0], np.ndarray) and kept[0].size == 5:
        del program
        jax.clear_caches()
        assert kept[0].tolist() == [0, 1, 2, 3, 4]


def test_the_message_names_the_leaf_of_a_tree():
    kept = []

    def callback(x, out):
        kept.append(out["b"][1])

    x = jnp.ones(2)
    spec = {"a": x, "b": [x, x]}
    error = error_of(lambda: cb.pure_callback(in_place(callback), spec, x))
    assert "kept its array for the result, out['b'][1] after" in str(error)


def test_arrays_of_packed_results_may_be_kept():
    kept = []

    def callback(x, out):
        out[...] = x
        kept.append(out)

    x = jnp.array([1, -2, 3], jnp.int4)
    program = jax.jit(lambda x: cb.pure_callback(in_place(callback), x, x))
    for _ in range(3):
        assert finish(program, x).tolist() == [1, -2, 3]
    assert [array.tolist() for array in kept] == [[1, -2, 3]] * 3


@pytest.mark.parametrize("dtype", ["float32", "int4", "bool"])
@pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all"])
def test_batches(method, dtype):
    def callback(x, y, *, out):
        out[...] = x + y

    x = jnp.array([[0, 1, 0], [1, 0, 1]], dtype)
    y = jnp.array([0, 0, 1], dtype)
    program = jax.jit(
        jax.vmap(
            lambda x, y: cb.pure_callback(
                in_place(callback), jax.ShapeDtypeStruct((3,), dtype), x, y, vmap_method=method
            ),
            in_axes=(0, None),
        )
    )
    for _ in range(3):
        np.testing.assert_array_equal(finish(program, x, y), x + y)


def test_loops():
    program = jax.jit(
        lambda: lax.scan(
            lambda c, _: (cb.pure_callback(in_place(np.add, views=True), SCALAR, c, 1.0), c),
            jnp.float32(0),
            length=50,
        )
    )
    final, carries = program()
    assert final == 50 and carries.tolist() == list(range(50))


def test_a_callbacks_own_exception_surfaces():
    def callback(x, out):
        part = out[1:]
        raise KeyError("own", part.shape)

    x = jnp.ones(3)
    program = jax.jit(lambda x: cb.pure_callback(in_place(callback), x, x))
    assert type(error_of(program, x)) is KeyError


def test_wrong_uses_are_errors_when_the_call_is_traced():
    with pytest.raises(ValueError, match=r"fill \(.*test_out.py:\d+\) has out=True, but no result"):
        cb.io_callback(in_place(fill), None, 1.0)
    with pytest.raises(ValueError, match="its argument 'out' from the runtime"):
        cb.pure_callback(in_place(fill), SCALAR, 1.0, out=1.0)


def test_a_function_with_out_takes_it():
    with pytest.raises(
        TypeError, match=r"<lambda> \(.*test_out.py:\d+\) has out=True.* takes \(x\)"
    ):
        cb.external(lambda x: x, result="broadcast", out=True)
    written = cb.external(lambda x, **k: np.copyto(k["out"], x), result="broadcast", out=True)
    assert written(3.0) == 3


def test_host_functions_compare_by_content_and_call_their_function():
    assert in_place(np.add) == in_place(np.add) and hash(in_place(np.add)) == hash(in_place(np.add))
    assert in_place(np.add) != HostFunction(np.add) != HostFunction(np.subtract)
    assert HostFunction(np.add)(1, 2) == 3
    assert "add" in repr(in_place(np.add))
    unhashable = [HostFunction(types.SimpleNamespace()) for _ in range(2)]
    assert unhashable[0] != unhashable[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_equal_functions_are_traced_once():
    traced = []

    def program(x):
        traced.append(x)
        return cb.pure_callback(in_place(np.square), x, x)

    jitted = jax.jit(program)
    for _ in range(3):
        jitted(jnp.ones(3))
    assert len(traced) == 1
    with jax.log_compiles(False):
        text = [jax.jit(lambda x: program(x)).lower(jnp.ones(3)).as_text() for _ in range(2)]
    assert text[0] == text[1]
    assert [name["function"] for name in names_in(text[0])] == ["numpy:square"]
    assert "out = true" in text[0]
