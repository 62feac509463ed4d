"""Floating-point errors and exceptions of compiled loops: as the user has set them, never lost."""

import threading
import warnings

import jax
import jax.numpy as jnp
import numba
import numpy as np
import pytest
import scipy.special

import callbax as cb

log = cb.ufunc(np.log)
gammaln = cb.ufunc(scipy.special.gammaln)
SIZES = pytest.mark.parametrize("size", [None, 1, 200_000], ids=["scalar", "one", "many"])


def zeros(size):
    return jnp.zeros(() if size is None else size)


def raised(call):
    """The exception that a call's program failed with."""
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(call())
    return cb.original_exception(caught.value)


@SIZES
def test_the_default_state_is_silent(size):
    assert np.all(np.asarray(log(zeros(size))) == -np.inf)
    assert np.all(np.isnan(np.asarray(log(zeros(size) - 1))))
    assert np.all(np.asarray(gammaln(zeros(size))) == np.inf)


@SIZES
def test_numpys_raise(size):
    with np.errstate(all="raise"):
        error = raised(lambda: log(zeros(size)))
        assert type(error) is FloatingPointError
        assert str(error) == "divide by zero encountered in log"
        assert "invalid value" in str(raised(lambda: log(zeros(size) - 1)))
        assert np.all(np.asarray(log(zeros(size) + 1)) == 0)
    log(zeros(size)).block_until_ready()


@SIZES
@pytest.mark.parametrize("mode", ["warn", "print", "log", "call"])
def test_numpys_warn_and_the_others_that_warn_instead(size, mode, capsys):
    heard = []
    with np.errstate(all=mode, call=heard.append):
        with pytest.warns(RuntimeWarning, match="divide by zero encountered in log"):
            log(zeros(size)).block_until_ready()
    assert not heard
    assert not capsys.readouterr().out


def test_each_error_has_its_own_mode():
    exp = cb.ufunc(np.exp)
    with np.errstate(all="ignore", over="raise"):
        assert "overflow" in str(raised(lambda: exp(1000.0)))
        assert exp(-1000.0) == 0
        assert log(0.0) == -np.inf
    with np.errstate(all="ignore", under="raise"):
        assert "underflow" in str(raised(lambda: exp(-1000.0)))


@SIZES
def test_scipys_raise(size):
    with scipy.special.errstate(all="raise"):
        error = raised(lambda: gammaln(zeros(size) - 1))
        assert type(error) is scipy.special.SpecialFunctionError
        assert "singularity" in str(error)
        assert np.all(np.asarray(gammaln(zeros(size) + 1)) == 0)
        assert log(0.0) == -np.inf
    assert scipy.special.geterr()["singular"] == "ignore"
    assert np.all(np.asarray(gammaln(zeros(size) - 1)) == np.inf)


@SIZES
def test_scipys_warnings(size):
    with scipy.special.errstate(singular="warn"):
        with pytest.warns(scipy.special.SpecialFunctionWarning, match="singularity"):
            gammaln(zeros(size) - 1).block_until_ready()


def test_the_state_is_that_of_the_trace():
    silent = jax.jit(lambda x: log(x))
    silent(0.0)
    with np.errstate(all="raise"):
        assert silent(0.0) == -np.inf
        loud = jax.jit(lambda x: jax.lax.map(log, x))
        raised(lambda: loud(jnp.zeros(3)))
    raised(lambda: loud(jnp.zeros(3)))

    @jax.jit
    def inside(x):
        with np.errstate(divide="raise"):
            return log(x)

    raised(lambda: inside(0.0))


def test_the_state_holds_on_xlas_threads():
    """A program that is not cheap runs on a thread of the pool."""
    with scipy.special.errstate(all="raise"), np.errstate(all="raise"):
        heavy = jax.jit(lambda a: gammaln(0 * (a @ a).sum()))
        for _ in range(5):
            error = raised(lambda: heavy(jnp.ones((300, 300))))
            assert type(error) is scipy.special.SpecialFunctionError


def test_states_of_threads_are_their_own():
    failures = []

    def work(loud):
        for _ in range(20):
            with np.errstate(divide="raise" if loud else "ignore"):
                try:
                    log(jnp.zeros(3)).block_until_ready()
                    failed = False
                except jax.errors.JaxRuntimeError:
                    failed = True
            if failed != loud:
                failures.append(loud)

    threads = [threading.Thread(target=work, args=(loud,)) for loud in (True, False, True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@SIZES
def test_exceptions_of_numba_surface(size):
    def reciprocal(x):
        if x == 0:
            raise ValueError("no reciprocal")
        return 1 / x

    f = cb.ufunc(numba.vectorize(["float32(float32)", "float64(float64)"])(reciprocal))
    x = zeros(size) + 1
    assert np.all(np.asarray(f(x)) == 1)
    x = x.at[-1].set(0) if x.shape else x - 1
    for _ in range(3):
        error = raised(lambda: jax.jit(lambda x: f(x))(x))
        assert repr(error) == "ValueError('no reciprocal')"
    assert np.all(np.asarray(f(zeros(size) + 2)) == 0.5)


def test_warnings_inside_of_a_loop_that_are_errors_are_errors():
    """SciPy itself warns that it truncates; NumPy turns that into a SystemError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        error = raised(lambda: cb.ufunc(scipy.special.expn)(1.5, 1.0))
    assert isinstance(error, RuntimeWarning)


def test_an_exception_of_numpys_power_surfaces_on_every_thread():
    power = cb.ufunc(np.power)

    def later(matrix, exponents):
        return power((matrix @ matrix)[:5, 0].astype(int), exponents)

    for _ in range(3):  # on XLA's threads, which did not have a Python state the first time
        message = str(raised(lambda: jax.jit(later)(jnp.ones((700, 700)), -jnp.ones(5, int))))
        assert "negative integer powers are not allowed" in message
    size = 1_000_000
    for place in (0, size // 2, size - 1):
        exponents = jnp.ones(size, int).at[place].set(-1)
        assert isinstance(raised(lambda e=exponents: power(jnp.full(size, 3), e)), ValueError)
    np.testing.assert_array_equal(power(jnp.arange(4), 2), [0, 1, 4, 9])
