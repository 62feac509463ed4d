"""The values are SciPy's, bit for bit: every ufunc, in every loop that JAX has the dtypes for."""

import functools
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import callbax as cb
from callbax.scipy.special._functions import FAILS_IN_SINGLE, public_names

# SciPy's loops by its letters, with x64 on. Long double has no counterpart in JAX.
LOOPS = [
    (name, loop)
    for name in public_names()
    for loop in getattr(scipy.special, name).types
    if "g" not in loop
]
EACH_LOOP = pytest.mark.parametrize(("name", "loop"), LOOPS, ids=lambda value: str(value))
QUICKLY_COMPILED = {"xla_backend_optimization_level": 0}

pytestmark = [
    # A warning in a callback would be an error there; that is tested elsewhere.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.sampled(40),
]

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.5, 7.0, np.inf, -np.inf, np.nan]
ROWS, COLUMNS = 4, 6

# For infinite parameters SciPy itself crashes in these, or asks for all the memory: they get small
# numbers.
FRAGILE = ("mathieu_", "pbdv", "pbvv")


def draw(random, letter, shape):
    """Random and special numbers of a dtype."""
    if letter in "lq":
        return random.integers(-2, 9, shape)
    real = np.where(
        random.uniform(size=shape) < 0.4, random.choice(SPECIAL, shape), random.normal(0, 3, shape)
    )
    # Probabilities and the like.
    real = np.where(random.uniform(size=shape) < 0.3, random.uniform(size=shape), real)
    if letter in "fd":
        return real.astype(letter)
    return (real + 1j * draw(random, "d", shape)).astype(letter)


def arguments(name, letters):
    """One array for each letter; the first is a column that broadcasts against the others."""
    random = np.random.default_rng(zlib.crc32(f"{name}{letters}".encode()))
    shapes = [(ROWS, 1 if len(letters) > 1 else COLUMNS), (ROWS, COLUMNS)]
    if name.startswith(FRAGILE):
        return [random.integers(1, 9, shapes[i > 0]).astype(t) for i, t in enumerate(letters)]
    return [draw(random, letter, shapes[i > 0]) for i, letter in enumerate(letters)]


def scipys(name, args):
    """SciPy's own results, as a list; by the loop for double precision if the other one fails."""
    if name.startswith(FAILS_IN_SINGLE) and args[0].dtype == np.float32:
        return [r.astype(np.float32) for r in scipys(name, [arg.astype(float) for arg in args])]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        result = getattr(scipy.special, name)(*args)
    return list(result) if isinstance(result, tuple) else [result]


def assert_bitwise(ours, theirs):
    """The same bits, except those of NaN, which mean nothing."""
    for left, right in zip(jax.tree.leaves(ours), theirs, strict=True):
        left = np.asarray(left)
        assert (left.shape, left.dtype) == (right.shape, right.dtype)
        real = left.real.dtype
        left, right = (np.where(np.isnan(x), np.nan, x) for x in (left, right))
        left, right = (np.stack([x.real, x.imag]).astype(real) for x in (left, right))
        np.testing.assert_array_equal(left, right)
        np.testing.assert_array_equal(np.signbit(left), np.signbit(right))


@EACH_LOOP
def test_values_under_jit_vmap_and_scan(name, loop):
    function = getattr(cb.scipy.special, name)
    args = arguments(name, loop.partition("->")[0])
    with jax.enable_x64(True):

        @functools.partial(jax.jit, compiler_options=QUICKLY_COMPILED)
        def program(*args):
            rows = [jnp.broadcast_to(arg, (ROWS, COLUMNS)) for arg in args]
            _, scanned = jax.lax.scan(lambda carry, row: (carry, function(*row)), 0, rows)
            return function(*args), jax.vmap(function)(*args), scanned

        for result in program(*args):
            assert_bitwise(result, scipys(name, args))


@pytest.mark.parametrize("name", ["jv", "erf", "eval_legendre", "sici", "wofz", "gdtr", "gammaln"])
def test_values_in_single_precision(name):
    """With x64 off, the loop for float32 is taken."""
    loop = next(t for t in getattr(scipy.special, name).types if set(t) <= set("fF->"))
    args = arguments(name, loop.partition("->")[0])
    assert_bitwise(getattr(cb.scipy.special, name)(*args), scipys(name, args))


def test_single_precision_where_scipys_own_loop_fails():
    """Which does not return at all for some: the arguments are those of a NumPy float."""
    value, _ = cb.scipy.special.mathieu_cem(2.0, 1.5, 30.0)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, scipy.special.mathieu_cem(2.0, 1.5, 30.0)[0], rtol=1e-6)
    value = jax.jit(cb.scipy.special.pro_cv)(1.0, 2.0, 3.8)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, scipy.special.pro_cv(1.0, 2.0, 3.8), rtol=1e-6)


def test_values_of_scalars_lists_and_empty_arrays():
    gamma = cb.scipy.special.gamma
    assert float(gamma(5)) == 24.0
    assert gamma(np.zeros((0, 3), np.float32)).shape == (0, 3)
    sine, cosine = cb.scipy.special.sici(jnp.ones((2,)))
    assert sine.shape == cosine.shape == (2,)
