"""Result inference: every form of `result=`, `signature=` and `dtype=`."""

import collections
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import callbax as cb

FLOATS = [jnp.float32, jnp.float64]


@pytest.fixture(params=[False, True], ids=["x32", "x64"], autouse=True)
def x64(request):
    with jax.enable_x64(request.param):
        yield request.param


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


x = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_struct():
    total = cb.external(np.sum, result=struct())
    assert jax.jit(total)(x) == 15


def test_a_pytree_of_structs():
    @cb.external(result={"sum": struct(), "rows": (struct(3), struct(3))})
    def parts(a):
        return {"sum": a.sum(), "rows": tuple(a)}

    actual = jax.jit(parts)(x)
    assert actual["sum"] == 15
    np.testing.assert_array_equal(actual["rows"][1], x[1])


def test_a_function_of_the_abstract_arguments():
    seen = []

    def spec(kind, a, *, scale):
        seen.append((kind, a.shape, scale.dtype))
        return struct(*a.shape[::-1], dtype=a.dtype)

    @cb.external(result=spec)
    def transposed(kind, a, *, scale):
        assert kind == "scaled"
        return a.T * scale

    two = np.float32(2)
    actual = jax.jit(transposed, static_argnums=0)("scaled", x, scale=two)
    np.testing.assert_array_equal(actual, x.T * 2)
    assert seen[0] == ("scaled", (2, 3), jnp.float32)


@pytest.mark.parametrize(
    "dtypes", [("f4", "f4"), ("f8", "f4"), ("i4", "f4"), ("i4", "i4"), ("c8", "f4")]
)
def test_broadcast_has_numpys_shape_and_the_promoted_inexact_dtype(dtypes):
    add = cb.external(np.add, result="broadcast")
    a, b = np.ones((2, 1), dtypes[0]), np.ones((3,), dtypes[1])
    actual = jax.jit(add)(a, b)
    expected = jnp.add(jnp.add(a, b), jnp.zeros((), jnp.result_type(a, b)))
    assert actual.shape == (2, 3)
    promoted = jnp.result_type(a, b)
    inexact = promoted if jnp.issubdtype(promoted, jnp.inexact) else jnp.result_type(float)
    assert actual.dtype == inexact
    np.testing.assert_array_equal(actual, expected.astype(inexact))


def test_broadcast_narrows_what_numpy_promotes_further():
    # SciPy computes (int64, float32) in float64; a Python number does not widen in JAX.
    jv = cb.external(scipy.special.jv, result="broadcast")
    z = np.linspace(0, 5, 7, dtype=np.float32)
    assert jv(1, z).dtype == jnp.float32
    np.testing.assert_allclose(jv(1, z), scipy.special.jv(1, z), rtol=1e-6)


def test_broadcast_with_a_dtype():
    less = cb.external(np.less, result="broadcast", dtype=bool)
    np.testing.assert_array_equal(less(x, 3), x < 3)


def test_broadcast_batches_align_whatever_the_ranks():
    # expand_dims alone would line up the batch of a scalar with the columns of a matrix.
    add = cb.external(np.add, result="broadcast")
    square = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    lanes = np.array([10, 20, 30], np.float32)
    actual = jax.vmap(add, (0, None))(lanes, square)
    np.testing.assert_array_equal(actual, lanes[:, None, None] + square)


def test_like_takes_an_argument_whole():
    flip = cb.external(lambda scale, tree: jax.tree.map(np.negative, tree), result=cb.like(1))
    tree = {"a": np.ones(2, np.float32), "b": np.ones((), np.int32)}
    assert jax.tree.map(lambda a: a.dtype, flip(3.0, tree)) == jax.tree.map(lambda a: a.dtype, tree)

    named = cb.external(lambda a, *, b: b + 1, result=cb.like("b"))
    assert named(x, b=np.float32(1)) == 2


def test_infer_tries_once_for_each_abstract_value():
    calls = []

    @cb.external(result=cb.infer)
    def spectrum(a):
        calls.append(a.shape)
        return {"size": a.size, "values": np.sort(a)}

    step = jax.jit(spectrum)
    jax.block_until_ready(step(x))
    assert calls == [(2, 3)] * 2  # the trial, and the call
    np.testing.assert_array_equal(spectrum(x)["values"], x)
    assert calls == [(2, 3)] * 3
    spectrum(2 * x)
    assert calls == [(2, 3)] * 4
    assert spectrum(x[0])["size"] == 3
    assert calls[4:] == [(3,), (3,)]


@pytest.mark.parametrize("arrays", ["numpy", "jax"])
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_a_trial_may_use_jax(transform, arrays):
    @cb.external(result=cb.infer, arrays=arrays)
    def total(a):
        return float(jax.jit(jnp.sum)(jnp.sin(a)))

    np.testing.assert_allclose(
        transform(total)(x), transform(lambda a: jnp.sum(jnp.sin(a)))(x), rtol=1e-6
    )


def test_none_is_no_result():
    seen = []
    note = cb.external(seen.append, result=None, effects="io")
    assert jax.jit(note)(x) is None
    cb.effects_barrier()
    assert len(seen) == 1


def test_a_signature_gives_shapes_and_dtypes():
    @cb.external(signature="(n,n)->(n),(n,n)", dtype=(jnp.complex64, jnp.complex64))
    def eig(a):
        return tuple(part.astype(np.complex64) for part in np.linalg.eig(a))

    a = np.diag(np.float32([1, 2, 3]))
    values, vectors = jax.jit(eig)(a)
    np.testing.assert_array_equal(values, [1, 2, 3])
    assert vectors.dtype == jnp.complex64


def test_a_signature_and_a_result_must_agree():
    grow = cb.external(
        lambda a: np.concatenate([a, a]),
        signature="(n)->(m)",
        result=lambda a: struct(2 * a.shape[0]),
    )
    assert grow(np.ones((4, 3), np.float32)).shape == (4, 6)
    wrong = cb.external(np.sort, signature="(n)->(n)", result=struct(7))
    with pytest.raises(
        ValueError, match=r"result 0 the shape \(7,\), but the signature \(n\)->\(n\)"
    ):
        wrong(np.ones(3, np.float32))


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({}, TypeError, "needs result="),
        (
            {"result": "like"},
            ValueError,
            "result='like' is not a struct or a .*, 'broadcast', callbax",
        ),
        ({"result": (3,)}, TypeError, r"result= .* a shape and a dtype.* has 3 of type int in it"),
        ({"result": np.float32}, TypeError, "a shape and a dtype.* has <class 'numpy.float32'>"),
        ({"result": None}, ValueError, "nothing would ever run it"),
        ({"result": cb.infer, "effects": "io"}, ValueError, "calls it once more"),
        ({"result": cb.infer, "out": True}, ValueError, "calls it once more"),
        ({"signature": "(n)->(m)"}, ValueError, "result dimensions m, which no argument has"),
        ({"signature": "(n)"}, ValueError, "not a gufunc signature"),
        ({"signature": "(n)->(n)", "dtype": ("f4", "f4")}, ValueError, "2 dtypes for 1 result"),
        ({"result": cb.like(0), "dtype": "f4"}, TypeError, "here result= says the dtype"),
        ({"signature": "(n)->(n)", "result": cb.like(0), "dtype": "f4"}, TypeError, "not both"),
        (
            {"result": cb.like(0), "effects": "some"},
            ValueError,
            "effects='some' is not one of 'none'",
        ),
        (
            {"result": cb.like(0), "vmap_method": "loop"},
            ValueError,
            "vmap_method='loop' is not one of",
        ),
        (
            {"result": cb.like(0), "derivative": "exact"},
            ValueError,
            "derivative='exact' is not one of",
        ),
        (
            {"result": cb.like(0), "derivative": "central", "effects": "io"},
            ValueError,
            "has effects='io', so it has no derivative",
        ),
    ],
)
def test_contradictory_options_are_refused_when_the_function_is_made(keywords, kind, message):
    def sorted_copy(a):
        return np.sort(a)

    with pytest.raises(kind, match=message) as info:
        cb.external(sorted_copy, **keywords)
    if "signature" not in str(info.value).split()[0]:
        assert "sorted_copy" in str(info.value)


def test_contradictions_in_a_call_are_errors_at_trace_time():
    like_second = cb.external(np.sort, result=cb.like(1))
    with pytest.raises(
        TypeError,
        match=r"has the result like\(1\), but the arguments of this call are 0\. Positional",
    ):
        jax.eval_shape(like_second, x)
    with pytest.raises(ValueError, match="dimension 1 is 3 in .*, but 2 in"):
        jax.eval_shape(cb.external(np.add, result="broadcast"), np.ones(3), np.ones(2))
    with pytest.raises(TypeError, match="like takes the index"):
        cb.like(1.5)
    static = cb.external(lambda kind, a: a, result=cb.like(0))
    with pytest.raises(TypeError, match="that argument is static"):
        static("name", x)


def test_a_trial_call_that_fails_says_so():
    @cb.external(result=cb.infer)
    def picky(a):
        raise ArithmeticError("zero is no good")

    with pytest.raises(
        ValueError, match="called once on zeros .* ArithmeticError: zero is no good"
    ):
        picky(x)


@pytest.mark.parametrize(
    ("returned", "phrase"),
    [
        (lambda a: a[:1], "Incorrect output shape for return value #0"),
        (lambda a: a.astype(np.complex64), "Incorrect output dtype for return value #0"),
        (lambda a: (a, a), "Mismatched number of outputs from callback. Expected: 1, Actual: 2"),
    ],
)
def test_a_wrong_result_at_run_time_names_the_function(returned, phrase):
    def badly_named(a):
        return returned(a)

    with pytest.raises(jax.errors.JaxRuntimeError) as info:
        jax.block_until_ready(cb.external(badly_named, result=cb.like(0))(x))
    assert phrase in str(info.value) and "badly_named (" in str(info.value)
    assert "callbax.external: the callback" in str(info.value)
    assert "result_shape_dtypes" not in str(info.value)
    assert isinstance(cb.original_exception(info.value), cb.CallbackResultError)


def test_an_error_in_the_description_of_the_result_says_where_it_is():
    f = cb.external(np.sort, result=lambda: x)
    with pytest.raises(TypeError, match="takes 0 positional arguments") as info:
        f(x)
    assert "in the function that is result= of sort" in "".join(info.value.__notes__)
    assert "a jax.ShapeDtypeStruct in the place of each array" in "".join(info.value.__notes__)


def test_a_positional_argument_is_like_its_number():
    with pytest.raises(TypeError, match=r"like\('a'\).* numbered from 0"):
        cb.external(np.sort, result=cb.like("a"))(x)


def test_a_result_without_its_batch_is_told_how_batches_come():
    ones = cb.external(
        lambda a: np.ones(3, np.float32), signature="(n)->(3)", vmap_method="broadcast_all"
    )
    message = r"Expected: \(2, 3\), Actual: \(3,\).*With vmap_method='broadcast_all' it gets"
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(ones(x))


def pair(x):
    return x, 2 * x


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("wrong", "result"),
    [
        (pair, {"position": x, "velocity": x}),
        (lambda x: {"b": x, "a": x}, (x, x)),
        (lambda x: {"b": x, "a": x}, {"a": x, "c": x}),
        (lambda x: collections.OrderedDict(b=x, a=x), {"a": x, "b": x}),
        (lambda x: ((x, x), x), (x, (x, x))),
        (lambda x: {"velocity": x}, {"position": x}),
        (lambda x: [{"velocity": x}], {"position": x}),
    ],
)
@pytest.mark.parametrize("method", ["sequential", "threads", "expand_dims"])
def test_results_of_another_structure_are_refused(wrong, result, method):
    """Their arrays would be taken for others."""
    f = cb.external(wrong, result=result, vmap_method=method)
    for call in (f, jax.vmap(f, axis_size=2), partial(f.call_where, True)):
        with pytest.raises(
            jax.errors.JaxRuntimeError, match=r"Mismatched structure.*Expected: .*\*"
        ):
            jax.block_until_ready(call(np.stack([x, x]) if call is not f else x))


def test_a_single_array_may_be_in_any_container():
    named = {"a": x}
    pairs = [(x, named), (named, x), ([x], x), (x, (x,)), ([x], named), ([named], named)]
    for returned, result in pairs:
        f = cb.external(lambda _, returned=returned: returned, result=result)
        assert jax.tree.structure(f(x)) == jax.tree.structure(result)


def test_sequences_of_any_kind_are_results():
    point = collections.namedtuple("point", "x y")
    for function in (pair, lambda x: [x, 2 * x], lambda x: point(x, 2 * x)):
        for result in ((x, x), [x, x], point(x, x)):
            f = cb.external(function, result=result)
            np.testing.assert_array_equal(np.stack(f(x)), [x, 2 * x])


def test_one_function_may_have_results_of_several_structures():
    f = cb.external(nested, result=lambda x: {"a": x, "b": x} if x.ndim else {"b": x, "c": x})
    actual = jax.jit(lambda x: (f(x), f(x[0, 0])))(x)
    assert [sorted(part) for part in actual] == [["a", "b"], ["b", "c"]]
    plain = cb.pure_callback(nested, (x, x), x)
    np.testing.assert_array_equal(np.stack(plain), [x, 2 * x])


def nested(x):
    names = ("a", "b") if x.ndim else ("b", "c")
    return dict(zip(names, pair(x), strict=True))


@pytest.mark.parametrize("wrong", ["text", np.array([None]), np.zeros(2, "M8[s]")])
def test_a_trial_that_returns_no_numbers(wrong):
    f = cb.external(lambda x: wrong, result=cb.infer)
    with pytest.raises(
        TypeError, match=r"(?s)result=callbax.infer, but .* neither an array of num"
    ):
        f(x)
